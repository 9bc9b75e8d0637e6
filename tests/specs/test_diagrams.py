"""The pictures of docs/diagrams are what their sources say: told without a browser."""

import html
import importlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from chassis.events import EventHandler
from chassis.rpc import RpcProxy
from dev.cli import SERVICES
from dev.diagrams import render
from dev.diagrams.render import (
    DIAGRAMS,
    PNG_PIXELS,
    orphans,
    picture_of,
    sources,
    stale,
    stamp_of,
    stamped,
)

MOST_WIDE = 1100  # px: in a page of 830 px letters of 14 px are shown with 10.5
SVG = "{http://www.w3.org/2000/svg}"
ARROW = r"(?:<<)?--?(?:>>|>|x|\))"
SEQUENCE = [  # each line of a sequence diagram is one of these; what is in a group is a label
    r"autonumber|end|rect .*|(?:activate|deactivate|destroy) \w+",
    r"(?:create )?(?:participant|actor) (?:\w+ as )?(.+)",
    rf"\w+ ?{ARROW} ?[+-]?\w+ ?: ?(.+)",
    r"[Nn]ote (?:over|left of|right of) [\w, ]+: ?(.+)",
    r"(?:alt|else|opt|loop|par|and|critical|option|break) (.+)|else|par",
    r"title:? (.+)",
]
ORDER = """\
sequenceDiagram
    participant gw as the gateway
    gw->>+orders: place<br/>an order %% said twice
    alt money enough
    end
"""
FLOWCHART = """\
flowchart TB
    subgraph s["All"]
    a["`**one**<br/>two`"] -- "asks" --> b(["three"])
    class a x
"""
UNREADABLE = [
    "pie\n a",
    "sequenceDiagram\n hello",
    "flowchart LR\n a[one]",
    "flowchart LR\n a -->|asks| b",
    "flowchart LR\n a -- asks --> b",
]


def lines_of(source: str) -> list[str]:
    """The lines of a diagram, its kind first; no comments, no front matter."""
    text = re.sub(r"\A---\n.*?\n---\n", "", source, flags=re.DOTALL)
    return [
        line for each in text.splitlines() if (line := each.partition("%%")[0].strip())
    ]


def labels(source: str) -> list[str]:
    """All that a picture of this source must say."""
    kind, *lines = lines_of(source)
    if kind == "sequenceDiagram":
        return [label for line in lines if (label := in_sequence(line))]
    assert kind.startswith("flowchart "), (
        f"labels of a {kind} can't be checked here: teach it"
    )
    return [label for line in lines for label in in_flowchart(line)]


def in_sequence(line: str) -> str | None:
    for pattern in SEQUENCE:
        if found := re.fullmatch(pattern, line):
            return found[1] if found.re.groups else None
    raise AssertionError(
        f"not a line of a sequence diagram that can be checked: {line}"
    )


def in_flowchart(line: str) -> list[str]:
    if re.match(r"(classDef|class|style|linkStyle|direction) ", line):
        return []
    bare = re.sub('"[^"]*"', "", line)
    assert not re.search(r"[\[({|]\s*\w|(?<!-)--\s+\w|(?<!=)==\s+\w|-\.\s+\w", bare), (
        f"a label needs quotes: {line}"
    )
    return re.findall('"([^"]+)"', line)


def letters(text: str) -> str:
    """A text as it can be compared: however its lines were broken, without Mermaid's marks."""
    text = re.sub(r"<br ?/?>|\*\*|`", "", text)
    return "".join(html.unescape(re.sub(r"#(\w+;)", r"&\1", text)).split())


def said_by(svg: str) -> str:
    return letters(
        "".join(
            "".join(text.itertext())
            for text in ElementTree.fromstring(svg).iter(f"{SVG}text")
        )
    )


def size_of(svg: Path) -> tuple[float, float]:
    root = ElementTree.fromstring(svg.read_bytes())
    return float(root.attrib["width"]), float(root.attrib["height"])


def drawn(begin: str, end: str) -> set[tuple[str, str, str]]:
    """The arrows of one kind between services in the picture of the containers: from, label, to."""
    text = (DIAGRAMS / "architecture-containers.mmd").read_text()
    found = re.findall(
        rf'^ +(\w+) {re.escape(begin)} "(.+)" {re.escape(end)} (\w+)$',
        text,
        flags=re.MULTILINE,
    )
    return {
        (source, label, target) for source, label, target in found if source in SERVICES
    }


def declared(kind: type) -> list[tuple[str, Any]]:
    """What the services declare of one kind, each with the service's name."""
    classes = {
        name: importlib.import_module(f"{name}.service").Service for name in SERVICES
    }
    return [
        (name, each)
        for name, service in classes.items()
        for value in vars(service).values()
        for each in (value, *getattr(value, "nameko_entrypoints", ()))
        if isinstance(each, kind)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A picture of each format that is up to date, in a folder of its own."""
    for suffix in ("mmd", "svg", "png"):
        shutil.copy(sources()[0].with_suffix(f".{suffix}"), tmp_path / f"one.{suffix}")
    assert not stale(tmp_path)
    return tmp_path


each_source = pytest.mark.parametrize(
    "source", sources(), ids=lambda source: source.stem
)


def test_there_are_pictures() -> None:
    assert sources()


def test_all_pictures_are_up_to_date() -> None:
    assert not stale(), "make docs"


def test_no_picture_lacks_its_source() -> None:
    assert not orphans(), "make docs"


def test_the_containers_call_each_other_as_the_services_do() -> None:
    calls = {(source, target) for source, _, target in drawn("--", "-->")}
    assert calls == {(name, proxy.service) for name, proxy in declared(RpcProxy)}


def test_the_containers_hear_the_events_that_the_services_hear() -> None:
    events = {
        (s, event, t)
        for s, label, t in drawn("-.", ".->")
        for event in label.split(",<br/>")
    }
    assert events == {
        (e.source_service, e.event_type, name) for name, e in declared(EventHandler)
    }


@each_source
def test_a_picture_says_all_that_its_source_says(source: Path) -> None:
    wanted, said = (
        labels(source.read_text()),
        said_by(picture_of(source, "svg").read_text()),
    )
    assert wanted
    assert [label for label in wanted if letters(label) not in said] == []


@each_source
def test_a_picture_shows_in_any_page(source: Path) -> None:
    svg = picture_of(source, "svg").read_text()
    assert "background-color: white" in svg
    assert not re.search(
        r"<foreignObject|<script|<image|@import|url\((?!#)|href=\"(?!#)", svg
    )


@each_source
def test_a_picture_can_be_read_in_a_page_of_usual_width(source: Path) -> None:
    width, _ = size_of(picture_of(source, "svg"))
    assert width <= MOST_WIDE


@each_source
def test_the_png_is_the_same_picture(source: Path) -> None:
    header = picture_of(source, "png").read_bytes()[16:24]
    pixels = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")
    expected = [PNG_PIXELS * length for length in size_of(picture_of(source, "svg"))]
    assert pixels == pytest.approx(expected, abs=2 * PNG_PIXELS)


@pytest.mark.parametrize("suffix", render.FORMATS)
def test_a_digest_is_read_as_it_was_written(folder: Path, suffix: str) -> None:
    picture = folder / f"one.{suffix}"
    content = picture.read_bytes()
    plain = (
        content.partition(b"\n")[2]
        if suffix == "svg"
        else content[:33] + content[33 + 12 + 79 :]
    )
    picture.write_bytes(plain)
    assert stamp_of(picture) is None
    picture.write_bytes(stamped(plain, suffix, "a" * 64))
    assert stamp_of(picture) == "a" * 64


def test_a_changed_source_is_stale(folder: Path) -> None:
    source = folder / "one.mmd"
    source.write_text(source.read_text() + "\n")
    assert stale(folder) == [source]


@pytest.mark.parametrize("name", ["CONFIG", "LOCK"])
def test_another_look_or_tool_makes_all_stale(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    changed = folder / "changed.json"
    changed.write_bytes(getattr(render, name).read_bytes() + b"\n")
    monkeypatch.setattr(render, name, changed)
    assert stale(folder) == [folder / "one.mmd"]


@pytest.mark.parametrize("suffix", render.FORMATS)
def test_a_missing_picture_is_stale_and_one_alone_an_orphan(
    folder: Path, suffix: str
) -> None:
    (folder / f"one.{suffix}").rename(folder / f"two.{suffix}")
    assert stale(folder) == [folder / "one.mmd"]
    assert orphans(folder) == [folder / f"two.{suffix}"]


def test_labels_are_found() -> None:
    assert labels(ORDER) == ["the gateway", "place<br/>an order", "money enough"]
    assert labels(FLOWCHART) == ["All", "`**one**<br/>two`", "asks", "three"]
    assert letters("`**one**<br/>two #quot;x#quot;`") == 'onetwo"x"'


@pytest.mark.parametrize("source", UNREADABLE)
def test_what_it_does_not_understand_is_not_passed_over(source: str) -> None:
    with pytest.raises(AssertionError):
        labels(source)

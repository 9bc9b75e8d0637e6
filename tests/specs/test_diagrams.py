"""The pictures in docs/diagrams agree with their sources. The tests need no browser."""

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

# In pixels. A page of 830 pixels shows letters of 14 pixels with 10.5.
MAX_WIDTH = 1100
SVG = "{http://www.w3.org/2000/svg}"
ARROW = r"(?:<<)?--?(?:>>|>|x|\))"
# The possible lines of a sequence diagram. The group of a pattern is a label.
SEQUENCE = [
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
    """Return the lines of a diagram, without comments and front matter.

    The first line is its kind.
    """
    text = re.sub(r"\A---\n.*?\n---\n", "", source, flags=re.DOTALL)
    lines = [each.partition("%%")[0].strip() for each in text.splitlines()]
    return [line for line in lines if line]


def labels(source: str) -> list[str]:
    """Return the labels that a picture of this source must contain."""
    kind, *lines = lines_of(source)
    if kind == "sequenceDiagram":
        return [label for line in lines if (label := in_sequence(line))]
    assert kind.startswith("flowchart "), f"this test cannot read labels of a {kind}"
    return [label for line in lines for label in in_flowchart(line)]


def in_sequence(line: str) -> str | None:
    for pattern in SEQUENCE:
        if found := re.fullmatch(pattern, line):
            return found[1] if found.re.groups else None
    raise AssertionError(f"this test cannot read a line of a sequence diagram: {line}")


def in_flowchart(line: str) -> list[str]:
    if re.match(r"(classDef|class|style|linkStyle|direction) ", line):
        return []
    bare = re.sub('"[^"]*"', "", line)
    unquoted = re.search(r"[\[({|]\s*\w|(?<!-)--\s+\w|(?<!=)==\s+\w|-\.\s+\w", bare)
    assert not unquoted, f"a label needs quotes: {line}"
    return re.findall('"([^"]+)"', line)


def letters(text: str) -> str:
    """Return a text for comparison, without white space and Mermaid's markup."""
    text = re.sub(r"<br ?/?>|\*\*|`", "", text)
    return "".join(html.unescape(re.sub(r"#(\w+;)", r"&\1", text)).split())


def text_of(svg: str) -> str:
    """Return the letters of all texts in a picture."""
    texts = ElementTree.fromstring(svg).iter(f"{SVG}text")
    return letters("".join("".join(text.itertext()) for text in texts))


def size_of(svg: Path) -> tuple[float, float]:
    root = ElementTree.fromstring(svg.read_bytes())
    return float(root.attrib["width"]), float(root.attrib["height"])


def drawn(begin: str, end: str) -> set[tuple[str, str, str]]:
    """Return the arrows of one kind between services in the diagram of containers.

    Each is its source, label and target.
    """
    text = (DIAGRAMS / "architecture-containers.mmd").read_text()
    arrow = rf'^ +(\w+) {re.escape(begin)} "(.+)" {re.escape(end)} (\w+)$'
    found = re.findall(arrow, text, flags=re.MULTILINE)
    return {each for each in found if each[0] in SERVICES}


def declared(kind: type) -> list[tuple[str, Any]]:
    """Return the extensions of one kind that services declare, with the service's name."""
    found = []
    for name in SERVICES:
        service = importlib.import_module(f"{name}.service").Service
        for value in vars(service).values():
            extensions = (value, *getattr(value, "nameko_entrypoints", ()))
            found += [(name, each) for each in extensions if isinstance(each, kind)]
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with a diagram and its current picture in each format."""
    for suffix in ("mmd", "svg", "png"):
        shutil.copy(sources()[0].with_suffix(f".{suffix}"), tmp_path / f"one.{suffix}")
    assert not stale(tmp_path)
    return tmp_path


each_source = pytest.mark.parametrize(
    "source", sources(), ids=lambda source: source.stem
)


def test_there_are_diagrams() -> None:
    assert sources()


def test_all_pictures_are_up_to_date() -> None:
    assert not stale(), "make docs"


def test_every_picture_has_its_source() -> None:
    assert not orphans(), "make docs"


def test_the_containers_have_the_calls_of_the_services() -> None:
    calls = {(source, target) for source, _, target in drawn("--", "-->")}
    assert calls == {(name, proxy.service) for name, proxy in declared(RpcProxy)}


def test_the_containers_have_the_events_of_the_services() -> None:
    events = {
        (source, event, target)
        for source, label, target in drawn("-.", ".->")
        for event in label.split(",<br/>")
    }
    assert events == {
        (handler.source_service, handler.event_type, name)
        for name, handler in declared(EventHandler)
    }


@each_source
def test_a_picture_contains_all_labels_of_its_source(source: Path) -> None:
    expected = labels(source.read_text())
    text = text_of(picture_of(source, "svg").read_text())
    assert expected
    assert [label for label in expected if letters(label) not in text] == []


EXTERNAL = re.compile(r"<foreignObject|<script|<image|@import|url\((?!#)|href=\"(?!#)")


@each_source
def test_a_picture_needs_no_other_file(source: Path) -> None:
    svg = picture_of(source, "svg").read_text()
    assert "background-color: white" in svg
    assert not EXTERNAL.search(svg)


@each_source
def test_a_picture_is_readable_at_the_usual_width_of_a_page(source: Path) -> None:
    width, _ = size_of(picture_of(source, "svg"))
    assert width <= MAX_WIDTH


@each_source
def test_the_png_is_the_same_picture(source: Path) -> None:
    header = picture_of(source, "png").read_bytes()[16:24]
    pixels = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")
    expected = [PNG_PIXELS * length for length in size_of(picture_of(source, "svg"))]
    assert pixels == pytest.approx(expected, abs=2 * PNG_PIXELS)


@pytest.mark.parametrize("suffix", render.FORMATS)
def test_a_stamp_is_read_as_it_was_written(folder: Path, suffix: str) -> None:
    picture = folder / f"one.{suffix}"
    content = picture.read_bytes()
    if suffix == "svg":
        # The stamp is the first line.
        plain = content.partition(b"\n")[2]
    else:
        # The stamp is a chunk behind the header: 79 bytes of text with 12 of its own.
        plain = content[:33] + content[33 + 12 + 79 :]
    picture.write_bytes(plain)
    assert stamp_of(picture) is None
    picture.write_bytes(stamped(plain, suffix, "a" * 64))
    assert stamp_of(picture) == "a" * 64


def test_a_changed_source_is_stale(folder: Path) -> None:
    source = folder / "one.mmd"
    source.write_text(source.read_text() + "\n")
    assert stale(folder) == [source]


@pytest.mark.parametrize("name", ["CONFIG", "LOCK"])
def test_another_configuration_or_tool_makes_all_stale(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    changed = folder / "changed.json"
    changed.write_bytes(getattr(render, name).read_bytes() + b"\n")
    monkeypatch.setattr(render, name, changed)
    assert stale(folder) == [folder / "one.mmd"]


@pytest.mark.parametrize("suffix", render.FORMATS)
def test_a_missing_picture_is_stale_and_a_spare_one_an_orphan(
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
def test_an_unreadable_diagram_is_an_error(source: str) -> None:
    with pytest.raises(AssertionError):
        labels(source)

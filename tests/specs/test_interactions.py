"""docs/interactions: the pictures and APIs of four styles agree with each other."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.markdown import ROOT, links

DOCS = ROOT / "docs"
PAGES = DOCS / "interactions"
DIAGRAMS = DOCS / "diagrams"
STYLES = ("http", "notifications", "collaboration", "adequate")
STORIES = ("create-user", "order-paid", "order-rejected", "order-down")
PARTS = ("client", "gateway", "users", "orders", "billing", "broker", "notifications")
IDL = sorted(PAGES.glob("*/*.yaml"))
# collaboration.md names the messages that are not drawn: money_withdrawn to the gateway, and
# letter_written, which is published and consumed.
NOT_DRAWN = {"collaboration-order-paid": 3}

# Source, kind, target, label.
Arrow = tuple[str, str, str, str]

each_style = pytest.mark.parametrize("style", STYLES)
each_picture = pytest.mark.parametrize(
    "name", [f"{style}-{story}" for style in STYLES for story in STORIES]
)


def arrows(name: str) -> Iterator[tuple[Arrow, list[str]]]:
    """Yield the arrows of a diagram, each with its enclosing boxes."""
    boxes: list[str] = []
    for line in map(str.strip, source_of(name).splitlines()):
        word = line.partition(" ")[0]
        if word in ("alt", "opt", "loop"):
            boxes.append(word)
        elif word == "else":
            boxes[-1] = word
        elif word == "end":
            boxes.pop()
        elif found := re.fullmatch(r"(\w+?)(-->>|->>|-x|-\))(\w+): (.+)", line):
            label = found[4].replace("<br/>", "")
            yield (found[1], found[2], found[3], label), list(boxes)


def source_of(name: str) -> str:
    return (DIAGRAMS / f"{name}.mmd").read_text()


def messages(name: str) -> int:
    """Return the number of messages in a diagram if all steps succeed.

    In the built system, a message between services is sent twice: to the broker and from it.
    """
    unusual = {"else", "opt", "loop"}
    usual = [arrow for arrow, boxes in arrows(name) if unusual.isdisjoint(boxes)]
    services = set(PARTS) - {"client", "broker"}
    count = len(usual) + NOT_DRAWN.get(name, 0)
    if name.startswith("adequate"):
        count += len([each for each in usual if {each[0], each[2]} <= services])
    return count


@cache
def documents(style: str, kind: str) -> list[Any]:
    """Return the API of a style that its page links to: openapi or asyncapi."""
    names = [link for link in links(PAGES / f"{style}.md") if link.endswith(".yaml")]
    files = [PAGES / name for name in names]
    found = [file for file in files if file.name.startswith(kind)]
    return [yaml.safe_load(file.read_text()) for file in found]


def routes(style: str) -> set[str]:
    """Return the routes, for example `GET /orders/{}`, without names of parameters."""
    found = set()
    for document in documents(style, "openapi"):
        for path, verbs in document["paths"].items():
            found |= {f"{verb.upper()} {unnamed(path)}" for verb in verbs}
    return found


def unnamed(path: str) -> str:
    return re.sub(r"\{\w+\}", "{}", path)


def events(style: str, action: str) -> set[str]:
    """Return the addresses of the events that the services of a style send or receive."""
    found = set()
    for document in documents(style, "asyncapi"):
        for operation in document["operations"].values():
            if operation["action"] == action:
                channel = operation["channel"]["$ref"].rpartition("/")[2]
                found.add(document["channels"][channel]["address"])
    return found


def row(page: Path, *start: str) -> list[str]:
    """Return the other cells of the table row that starts with these cells."""
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if cells[: len(start)] == list(start):
            return cells[len(start) :]
    raise AssertionError(f"{page.name} has no row {start}")


def pictures_in(page: Path) -> list[str]:
    return [link for link in links(page) if "diagrams" in link]


@each_style
def test_a_page_shows_each_story_with_its_source(style: str) -> None:
    expected: list[str] = []
    for story in STORIES:
        path = f"../diagrams/{style}-{story}"
        expected += [f"{path}.svg", f"{path}.mmd"]
    assert pictures_in(PAGES / f"{style}.md") == expected


def test_the_first_page_shows_the_parts_of_each_style() -> None:
    expected: list[str] = []
    for style in STYLES:
        path = f"../diagrams/{style}-parts"
        expected += [f"{path}.svg", f"{path}.mmd"]
    assert sorted(pictures_in(PAGES / "README.md")) == sorted(expected)


def test_each_diagram_of_a_style_is_a_story_or_its_parts() -> None:
    for style in STYLES:
        found = {path.stem for path in DIAGRAMS.glob(f"{style}-*.mmd")}
        assert found == {f"{style}-{story}" for story in (*STORIES, "parts")}


def test_each_file_is_linked_from_its_page_and_each_page_from_the_first() -> None:
    for file in IDL:
        style = file.parent.name
        assert f"{style}/{file.name}" in links(PAGES / f"{style}.md")
    assert {f"{style}.md" for style in STYLES} <= set(links(PAGES / "README.md"))


@each_picture
def test_the_parts_have_the_same_order_in_all_diagrams(name: str) -> None:
    parts = re.findall(r"participant (.+)", source_of(name))
    positions = [PARTS.index(part) for part in parts]
    assert positions == sorted(set(positions))
    ends = {end for arrow, _ in arrows(name) for end in (arrow[0], arrow[2])}
    assert ends == set(parts)


REQUEST = re.compile(r"[A-Z]+ /[\w/{}-]*?(?=Idemp|Pref|$)")


@each_picture
def test_the_requests_and_events_of_a_diagram_are_in_the_api(name: str) -> None:
    style = name.partition("-")[0]
    labels = [
        (kind, label.removeprefix("relay: ")) for (_, kind, _, label), _ in arrows(name)
    ]
    matches = [REQUEST.match(label) for _, label in labels]
    requests = [match[0] for match in matches if match]
    assert requests
    assert {unnamed(request) for request in requests} <= routes(style)
    published = {label for kind, label in labels if kind == "-)"}
    if style == "adequate":
        contracts = (DOCS / "contracts" / "events").glob("*.json")
        assert published <= {path.stem.rpartition(".")[2] for path in contracts}
    else:
        assert published <= events(style, "send")


@pytest.mark.parametrize("story", STORIES)
def test_the_built_systems_diagrams_have_its_methods(story: str) -> None:
    called = set()
    for (_, _, target, label), _ in arrows(f"adequate-{story}"):
        if verb := re.match(r"RPC (\w+)", label):
            called.add(f"{target}.{verb[1]}")
    assert called
    assert called <= {path.stem for path in (DOCS / "contracts" / "rpc").glob("*.json")}


@pytest.mark.parametrize("style", ["notifications", "collaboration"])
def test_each_event_is_sent_and_received(style: str) -> None:
    assert events(style, "send") == events(style, "receive") != set()


def test_a_name_has_the_same_meaning_in_all_files() -> None:
    seen: dict[tuple[str, str], Any] = {}
    for file in IDL:
        for kind, named in yaml.safe_load(file.read_text())["components"].items():
            for name, meaning in named.items():
                known = seen.setdefault((kind, name), meaning)
                assert known == meaning, f"{file}: {name}"


@pytest.mark.parametrize(
    ("title", "story"),
    [
        ("**creating a user**: messages", "create-user"),
        ("**an order**: messages, letter included", "order-paid"),
    ],
)
def test_the_page_counts_the_messages_of_the_diagrams(title: str, story: str) -> None:
    counts = [int(cell.partition(",")[0]) for cell in row(PAGES / "README.md", title)]
    assert counts == [messages(f"{style}-{story}") for style in STYLES]


@pytest.mark.parametrize(
    ("clients", "title"),
    [("1", "measured, a single order"), ("128", "measured, 128 clients")],
)
def test_the_page_has_the_measured_figures(clients: str, title: str) -> None:
    rate, median, p99, letters, *_ = row(DOCS / "performance.md", "orders", clients)
    page = PAGES / "README.md"
    cell = row(page, title)[-1]
    assert f"median {median} ms, p99 {p99} ms" in cell
    if clients == "1":
        assert f"within {letters} s" in " ".join(page.read_text().split())
    else:
        assert cell.startswith(f"{rate} a second")

"""docs/interactions: four styles, each with its pictures and its API, which tell the same story."""

import re
from collections.abc import Iterator
from functools import cache
from itertools import chain, pairwise
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
# What collaboration.md says is not drawn: money_withdrawn to the gateway; letter_written, told and heard.
NOT_DRAWN = {"collaboration-order-paid": 3}

Arrow = tuple[str, str, str, str]  # from, kind, to, label

each_style = pytest.mark.parametrize("style", STYLES)
each_picture = pytest.mark.parametrize(
    "name", [f"{style}-{story}" for style in STYLES for story in STORIES]
)


def arrows(name: str) -> Iterator[tuple[Arrow, list[str]]]:
    """The arrows of a picture, each with the boxes that it stands in."""
    boxes: list[str] = []
    for line in map(str.strip, (DIAGRAMS / f"{name}.mmd").read_text().splitlines()):
        word = line.partition(" ")[0]
        if word in ("alt", "opt", "loop"):
            boxes.append(word)
        elif word == "else":
            boxes[-1] = word
        elif word == "end":
            boxes.pop()
        elif found := re.fullmatch(r"(\w+?)(-->>|->>|-x|-\))(\w+): (.+)", line):
            yield (
                (found[1], found[2], found[3], found[4].replace("<br/>", "")),
                list(boxes),
            )


def messages(name: str) -> int:
    """How many messages a picture comes to where all goes well; what services say to each other in the
    built system goes over the wire twice: to the broker, and on."""
    good = [
        arrow
        for arrow, boxes in arrows(name)
        if not {"else", "opt", "loop"} & set(boxes)
    ]
    services = set(PARTS) - {"client", "broker"}
    twice = [
        a for a in good if name.startswith("adequate") and {a[0], a[2]} <= services
    ]
    return len(good) + len(twice) + NOT_DRAWN.get(name, 0)


@cache
def documents(style: str, kind: str) -> list[Any]:
    """What the page of a style links to as its API: openapi or asyncapi."""
    files = [
        PAGES / link for link in links(PAGES / f"{style}.md") if link.endswith(".yaml")
    ]
    return [
        yaml.safe_load(file.read_text()) for file in files if file.name.startswith(kind)
    ]


def routes(style: str) -> set[str]:
    """`POST /orders` and so on; whatever a parameter is called."""
    paths = chain.from_iterable(
        document["paths"].items() for document in documents(style, "openapi")
    )
    return {
        f"{verb.upper()} {unnamed(path)}" for path, verbs in paths for verb in verbs
    }


def unnamed(path: str) -> str:
    return re.sub(r"\{\w+\}", "{}", path)


def events(style: str, action: str) -> set[str]:
    """The addresses of what the services of a style send or receive."""
    found = set()
    for document in documents(style, "asyncapi"):
        for operation in document["operations"].values():
            if operation["action"] == action:
                channel = operation["channel"]["$ref"].rpartition("/")[2]
                found.add(document["channels"][channel]["address"])
    return found


def row(page: Path, *start: str) -> list[str]:
    """The cells behind those that a row of a table starts with."""
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if cells[: len(start)] == list(start):
            return cells[len(start) :]
    raise AssertionError(f"{page.name} has no row {start}")


@each_style
def test_a_page_shows_each_story_with_its_source(style: str) -> None:
    told = [link for link in links(PAGES / f"{style}.md") if "diagrams" in link]
    assert told == [
        f"../diagrams/{style}-{story}.{kind}"
        for story in STORIES
        for kind in ("svg", "mmd")
    ]


def test_the_first_page_shows_who_speaks_to_whom() -> None:
    told = [link for link in links(PAGES / "README.md") if "diagrams" in link]
    assert sorted(told) == sorted(
        f"../diagrams/{style}-parts.{kind}"
        for style in STYLES
        for kind in ("svg", "mmd")
    )


def test_each_picture_of_a_style_is_one_of_these() -> None:
    found = {path.stem for style in STYLES for path in DIAGRAMS.glob(f"{style}-*.mmd")}
    assert found == {
        f"{style}-{story}" for style in STYLES for story in (*STORIES, "parts")
    }


def test_each_file_is_linked_from_its_page_and_each_page_from_the_first() -> None:
    for file in IDL:
        assert f"{file.parent.name}/{file.name}" in links(
            PAGES / f"{file.parent.name}.md"
        )
    assert {f"{style}.md" for style in STYLES} <= set(links(PAGES / "README.md"))


@each_picture
def test_the_parts_stand_in_the_same_order_in_all_pictures(name: str) -> None:
    parts = re.findall(r"participant (.+)", (DIAGRAMS / f"{name}.mmd").read_text())
    assert all(
        PARTS.index(left) < PARTS.index(right) for left, right in pairwise(parts)
    )
    assert {
        end for (source, _, target, _), _ in arrows(name) for end in (source, target)
    } == set(parts)


@each_picture
def test_what_a_picture_says_is_in_the_api(name: str) -> None:
    style = name.partition("-")[0]
    labels = [
        (kind, label.removeprefix("relay: ")) for (_, kind, _, label), _ in arrows(name)
    ]
    asked = [
        found[0]
        for _, label in labels
        if (found := re.match(r"[A-Z]+ /[\w/{}-]*?(?=Idemp|Pref|$)", label))
    ]
    assert asked
    assert {unnamed(route) for route in asked} <= routes(style)
    told = {label for kind, label in labels if kind == "-)"}
    written = {
        path.stem.rpartition(".")[2]
        for path in (DOCS / "contracts" / "events").glob("*.json")
    }
    assert told <= (written if style == "adequate" else events(style, "send"))


@pytest.mark.parametrize("story", STORIES)
def test_the_calls_of_the_built_system_are_its_own(story: str) -> None:
    drawn = [
        (target, re.match(r"RPC (\w+)", label))
        for (_, _, target, label), _ in arrows(f"adequate-{story}")
    ]
    called = {f"{target}.{verb[1]}" for target, verb in drawn if verb}
    assert called
    assert called <= {path.stem for path in (DOCS / "contracts" / "rpc").glob("*.json")}


@pytest.mark.parametrize("style", ["notifications", "collaboration"])
def test_each_event_is_sent_by_one_and_heard_by_another(style: str) -> None:
    assert events(style, "send") == events(style, "receive") != set()


def test_the_same_name_means_the_same_in_all_files() -> None:
    seen: dict[tuple[str, str], Any] = {}
    for file in IDL:
        for kind, named in yaml.safe_load(file.read_text())["components"].items():
            for name, meaning in named.items():
                assert seen.setdefault((kind, name), meaning) == meaning, (
                    f"{file}: {name}"
                )


@pytest.mark.parametrize(
    ("title", "story"),
    [
        ("**creating a user**: messages", "create-user"),
        ("**an order**: messages, letter included", "order-paid"),
    ],
)
def test_the_messages_are_those_of_the_pictures(title: str, story: str) -> None:
    told = [int(cell.partition(",")[0]) for cell in row(PAGES / "README.md", title)]
    assert told == [messages(f"{style}-{story}") for style in STYLES]


@pytest.mark.parametrize(
    ("clients", "title"),
    [("1", "measured, a lone order"), ("128", "measured, 128 clients")],
)
def test_the_figures_are_the_measured_ones(clients: str, title: str) -> None:
    rate, median, p99, letters, *_ = row(DOCS / "performance.md", "orders", clients)
    told = row(PAGES / "README.md", title)[-1]
    assert f"median {median} ms, p99 {p99} ms" in told
    if clients == "1":
        assert f"within {letters} s" in " ".join(
            (PAGES / "README.md").read_text().split()
        )
    else:
        assert told.startswith(f"{rate} a second")

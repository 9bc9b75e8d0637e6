"""What stands in the Markdown files of this repository: blocks of code, links, headings."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
HISTORY = ROOT / "CHANGELOG.md"  # names things that are gone
TOLD = [
    *sorted({*ROOT.glob("*.md")} - {HISTORY}),
    *sorted((ROOT / "docs").rglob("*.md")),
]
LINKING = [*TOLD, HISTORY, *sorted((ROOT / "charts").rglob("*.md"))]

FENCE = re.compile(r" *```([\w-]*)$")
COMMENT = re.compile(r"\s+# .*$")
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?)$", re.MULTILINE)
PATH = re.compile(r"`([\w./-]+)`:$")


@dataclass(frozen=True)
class Block:
    """A block of code. `language` is what a fence tells of it, "" of an indented one: a terminal.
    `path` is the file that the line above it names (`docs/x.md`:)."""

    file: Path
    line: int
    language: str
    text: str
    path: str = ""

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}"


def blocks(file: Path) -> list[Block]:
    """All blocks of a file, in their order."""
    return list(_blocks(file, file.read_text()))


def blocks_in(language: str) -> list[Block]:
    """The blocks in a language, of all files that tell something."""
    return [
        block for file in TOLD for block in blocks(file) if block.language == language
    ]


def _blocks(file: Path, text: str) -> Iterator[Block]:
    lines = text.splitlines()
    at, named = 0, ""
    while at < len(lines):
        line, start = lines[at], at + 1
        if fence := FENCE.match(line):
            end = next(n for n in range(start, len(lines)) if lines[n].strip() == "```")
            indent = len(line) - len(line.lstrip())
            body = [each[indent:] for each in lines[start:end]]
            yield Block(file, start, fence[1], "\n".join(body) + "\n", named)
            at = end + 1
        elif line.startswith("    ") and not lines[at - 1].strip():
            while at < len(lines) and (
                lines[at].startswith("    ") or not lines[at].strip()
            ):
                at += 1
            body = [each[4:] for each in lines[start - 1 : at]]
            yield Block(file, start, "", "\n".join(body).rstrip() + "\n")
        else:
            if line.strip():
                path = PATH.search(line)
                named = path[1] if path else ""
            at += 1


def without_blocks(text: str) -> str:
    """The prose alone: what stands in fences is no heading and no link."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def links(file: Path) -> list[str]:
    """Where the links and pictures of a file lead, but for those to the outside."""
    found = LINK.findall(re.sub(r"`[^`\n]*`", "", without_blocks(file.read_text())))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(file: Path) -> set[str]:
    """The names by which the headings of a file are linked to, as GitHub makes them."""
    headings = HEADING.findall(without_blocks(file.read_text()))
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


def commands(block: Block) -> list[str]:
    """The commands of a terminal, without comments.

    A session has them after `$ `, and what they print beside them. A command that goes on in further
    lines is one.
    """
    text = block.text.replace("\\\n", " ")
    lines = [COMMENT.sub("", line) for line in text.splitlines() if line.strip()]
    if any(line.startswith(("$ ", ">>> ")) for line in lines):
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line for line in lines if not line.startswith("#")]

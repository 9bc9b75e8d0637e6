"""Reads code blocks, links and headings of the Markdown files in this repository."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
# It names things that no longer exist.
HISTORY = ROOT / "CHANGELOG.md"
DOCUMENTS = [
    *sorted({*ROOT.glob("*.md")} - {HISTORY}),
    *sorted((ROOT / "docs").rglob("*.md")),
]
LINKING = [*DOCUMENTS, HISTORY, *sorted((ROOT / "charts").rglob("*.md"))]

FENCE = re.compile(r" *```([\w-]*)$")
COMMENT = re.compile(r"\s+# .*$")
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?)$", re.MULTILINE)
PATH = re.compile(r"`([\w./-]+)`:$")


@dataclass(frozen=True)
class Block:
    """A block of code.

    `language` is the word behind the fence. An indented block is a terminal, and has "". `path` is
    the file in the line above the block (`docs/x.md`:).
    """

    file: Path
    line: int
    language: str
    text: str
    path: str = ""

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}"


def blocks(file: Path) -> list[Block]:
    """Return all blocks of a file, in their order."""
    return list(_blocks(file, file.read_text()))


def blocks_in(language: str) -> list[Block]:
    """Return the blocks in a language, of all documents."""
    found = [block for file in DOCUMENTS for block in blocks(file)]
    return [block for block in found if block.language == language]


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
            rest = (n for n in range(at, len(lines)) if not _is_indented(lines[n]))
            at = next(rest, len(lines))
            body = [each[4:] for each in lines[start - 1 : at]]
            yield Block(file, start, "", "\n".join(body).rstrip() + "\n")
        else:
            if line.strip():
                path = PATH.search(line)
                named = path[1] if path else ""
            at += 1


def _is_indented(line: str) -> bool:
    return line.startswith("    ") or not line.strip()


def without_blocks(text: str) -> str:
    """Return the text without fenced blocks, which contain no headings and links."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def links(file: Path) -> list[str]:
    """Return the targets of the links and pictures of a file, except for URLs."""
    found = LINK.findall(re.sub(r"`[^`\n]*`", "", without_blocks(file.read_text())))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(file: Path) -> set[str]:
    """Return the anchors of the headings of a file, as GitHub makes them."""
    headings = HEADING.findall(without_blocks(file.read_text()))
    words = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {each.replace(" ", "-") for each in words}


def commands(block: Block) -> list[str]:
    """Return the commands of a terminal, without comments.

    In a session, commands follow `$ ` and other lines are output. A command that continues in
    further lines is one command.
    """
    text = block.text.replace("\\\n", " ")
    lines = [COMMENT.sub("", line) for line in text.splitlines() if line.strip()]
    if any(line.startswith(("$ ", ">>> ")) for line in lines):
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line for line in lines if not line.startswith("#")]

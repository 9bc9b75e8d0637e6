"""Finds forbidden idioms in comments, docstrings, messages, test names and documents.

`python -m dev.language [PATH...]` prints `file:line: idiom: excerpt` for each finding in the
files and folders, or in the whole checkout, and exits with 1 if there is one. The idioms are
in dev/idioms.toml, each with its plain replacement. Text in backticks is code and is not
searched. tests/test_language.py runs the search in `make test`.
"""

import argparse
import ast
import bisect
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from dev.broker import CHECKOUT

IDIOMS = CHECKOUT / "dev/idioms.toml"
CONTEXT = 45  # characters of an excerpt on each side of the idiom

# Files without text of this project, and those that list idioms.
EXCLUDED = (
    "dev/idioms.toml",
    "docs/README.ru.md",  # Russian
    "docs/CODE_OF_CONDUCT.md",  # another project's text
    "gateway/static/docs/*",  # Swagger UI
    "notifications/letters/ru/*",  # Russian
    "tests/test_language.py",  # idioms as examples
)
# Documents that a later change rewrites. A new document is covered without being named here.
LATER = (
    "docs/interactions/*.yaml",
    "docs/README.md",
    "docs/adding-a-service.md",
    "docs/architecture.md",
    "docs/batching.md",
    "docs/contracts/README.md",
    "docs/diagrams/README.md",
    "docs/how-long-will-it-last.md",
    "docs/images.md",
    "docs/interactions/README.md",
    "docs/interactions/adequate.md",
    "docs/interactions/collaboration.md",
    "docs/interactions/http.md",
    "docs/interactions/notifications.md",
    "docs/licences.md",
    "docs/making-it-yours.md",
    "docs/operations.md",
    "docs/performance.md",
    "docs/permissions.md",
    "docs/releasing.md",
    "docs/reliability.md",
    *(f"docs/adr/{number:04}-*.md" for number in range(1, 36)),
    "docs/adr/README.md",
)
# Files that are read as a whole: comments, help lines and messages.
PLAIN_SUFFIXES = {
    ".lua",
    ".md",
    ".mjs",
    ".sh",
    ".sql",
    ".toml",
    ".tpl",
    ".txt",
    ".yaml",
    ".yml",
}
PLAIN_NAMES = {"Dockerfile", "Makefile", "run", ".editorconfig", ".gitattributes"}
GENERATED = ("docs/openapi.yaml", "docs/asyncapi.yaml", "*.lock")

_MARKER = re.compile(r"^\s*(?:#+:?|//|--(?!-)|\*/|/\*+|\{\{-?\s*/\*)?\s?")
_NEW_SENTENCE = re.compile(r"^\s*(?:[-*|]|\d+\.|#|$|@|[\w.-]+:\s|```)")
_CODE = re.compile(r"``[^`]*``|`[^`]*`")
_LITERAL = re.compile(
    r'\]\([^)\s]*\)|\bhttps?://\S+|[\w./-]+\.(?:md|py|yaml|toml|sh)\b|"[\w.-]+"'
)
_SNAKE_CASE = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+")


@dataclass(frozen=True, kw_only=True)
class Idiom:
    """A forbidden pattern, its plain replacement, and sentences to test the pattern with."""

    name: str
    pattern: re.Pattern[str]
    instead: str
    bad: tuple[str, ...]
    good: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """A finding that stays, with the reason. `text` is a part of the excerpt with the idiom."""

    path: str
    idiom: str
    text: str
    reason: str

    def covers(self, finding: "Finding") -> bool:
        """Return whether this entry allows the finding."""
        return (
            self.idiom == finding.idiom.name
            and fnmatchcase(finding.path, self.path)
            and finding.is_within(self.text)
        )


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An idiom in a file."""

    path: str
    line: int
    idiom: Idiom
    excerpt: str
    position: int  # of the idiom in the excerpt

    def is_within(self, text: str) -> bool:
        """Return whether the idiom is part of this text of the excerpt."""
        start = self.excerpt.find(text)
        return start >= 0 and start <= self.position < start + len(text)

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}: {self.idiom.name}"
        return f"{where}: {self.excerpt}  [{self.idiom.instead}]"


class Text:
    """Prose from a file: sentences on one line each, with the source line of each position."""

    def __init__(self, source: str, first_line: int = 1) -> None:
        lines = source.splitlines()
        parts: list[str] = []
        self._starts: list[int] = []
        self._lines: list[int] = []
        length = 0
        for number, line in enumerate(lines, first_line):
            content = _MARKER.sub("", line)
            begins = not content.strip() or bool(_NEW_SENTENCE.match(content))
            separator = "" if not parts else "\n" if begins else " "
            content = separator + " ".join(content.split())
            self._starts.append(length)
            self._lines.append(number)
            parts.append(content)
            length += len(content)
        self.original = "".join(parts)
        self.searched = without_code(self.original)

    def line_of(self, position: int) -> int:
        """Return the number of the source line that has the position."""
        return self._lines[bisect.bisect_right(self._starts, position) - 1]


def without_code(text: str) -> str:
    """Blank out code in backticks, paths, addresses and quoted words. Positions stay the same."""
    for pattern in (_CODE, _LITERAL):
        text = pattern.sub(lambda found: "`" * len(found[0]), text)
    return text


@cache
def idioms() -> tuple[Idiom, ...]:
    """Return the forbidden idioms."""
    return tuple(
        Idiom(
            name=entry["name"],
            pattern=re.compile(entry["pattern"], re.IGNORECASE),
            instead=entry["instead"],
            bad=tuple(entry["bad"]),
            good=tuple(entry["good"]),
        )
        for entry in _configuration()["idiom"]
    )


@cache
def allowed() -> tuple[Allowed, ...]:
    """Return the findings that stay."""
    entries = _configuration().get("allowed", [])
    return tuple(Allowed(**entry) for entry in entries)


@cache
def _configuration() -> dict[str, list[dict[str, str]]]:
    return tomllib.loads(IDIOMS.read_text(encoding="utf-8"))


def search_text(text: Text, path: str) -> Iterator[Finding]:
    """Yield the idioms in one text, allowed ones too, one for each position."""
    starts: set[int] = set()
    for idiom in idioms():
        for found in idiom.pattern.finditer(text.searched):
            start, end = found.span()
            if start in starts:
                continue
            starts.add(start)
            before = text.original[max(start - CONTEXT, 0) : start]
            after = text.original[start : end + CONTEXT]
            before, after = (part.replace("\n", " / ") for part in (before, after))
            yield Finding(
                path=path,
                line=text.line_of(start),
                idiom=idiom,
                excerpt=(before + after).rstrip(),
                position=len(before),
            )


def has_idiom(text: str) -> bool:
    """Return whether a text, such as a docstring, has at least one idiom."""
    return any(search_text(Text(text), ""))


def python_texts(source: str) -> Iterator[Text]:
    """Yield the comments, the texts with a space or an underscore, and the names of tests."""
    yield from _comments(source)
    for node in _nodes(ast.parse(source)):
        match node:
            case ast.Constant(value=str(value)):
                yield from _prose(value, node.lineno)
            case ast.JoinedStr():
                parts = [
                    part.value if isinstance(part, ast.Constant) else "{}"
                    for part in node.values
                ]
                yield from _prose("".join(map(str, parts)), node.lineno)
            case ast.FunctionDef(name=name) if name.startswith("test_"):
                words = name.removeprefix("test_").replace("_", " ")
                yield Text(words, node.lineno)


def _nodes(root: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes, without the pieces of text in f-strings."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.JoinedStr):
            children = [
                child for child in children if not isinstance(child, ast.Constant)
            ]
        waiting += children


def _prose(value: str, line: int) -> Iterator[Text]:
    if _SNAKE_CASE.fullmatch(value):
        yield Text(value.replace("_", " "), line)
    elif " " in value:
        yield Text(value, line)


def _comments(source: str) -> Iterator[Text]:
    """Yield comments. Those on consecutive lines of their own are one text."""
    block: list[str] = []
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        is_alone = token.line.lstrip().startswith("#")
        if block and not (is_alone and line == last + 1):
            yield Text("\n".join(block), last - len(block) + 1)
            block = []
        block.append(token.string)
        last = line
    if block:
        yield Text("\n".join(block), last - len(block) + 1)


def is_searched(path: str) -> bool:
    """Return whether the file at this path, relative to the checkout, has text to search."""
    if any(fnmatchcase(path, glob) for glob in (*EXCLUDED, *LATER, *GENERATED)):
        return False
    name = Path(path)
    return (
        name.suffix == ".py"
        or name.suffix in PLAIN_SUFFIXES
        or name.name in PLAIN_NAMES
    )


def search_file(path: str) -> Iterator[Finding]:
    """Yield the idioms in a file of the checkout, allowed ones too."""
    source = (CHECKOUT / path).read_text(encoding="utf-8")
    texts = python_texts(source) if path.endswith(".py") else [Text(source)]
    for text in texts:
        yield from search_text(text, path)


def checkout_files() -> list[str]:
    """Return the searched files of the checkout: those in git, and new ones not ignored by it."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    output = subprocess.check_output(command, cwd=CHECKOUT, text=True)
    paths = sorted(set(output.splitlines()))
    return [path for path in paths if is_searched(path) and (CHECKOUT / path).is_file()]


def search(paths: Iterable[str]) -> list[Finding]:
    """Return the findings in these files that are not allowed, in order of path and line."""
    findings = [
        finding
        for path in paths
        for finding in search_file(path)
        if not any(entry.covers(finding) for entry in allowed())
    ]
    return sorted(findings, key=lambda finding: (finding.path, finding.line))


def selected(files: Iterable[str], paths: Sequence[str]) -> list[str]:
    """Return the files that are one of these paths or below one. No path selects all."""
    wanted = [str(Path(path).resolve().relative_to(CHECKOUT)) for path in paths]
    if not wanted or "." in wanted:
        return list(files)
    return [
        file
        for file in files
        if any(file == path or file.startswith(f"{path}/") for path in wanted)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings. Return 1 if there is one."""
    parser = argparse.ArgumentParser(prog="python -m dev.language")
    parser.add_argument("paths", nargs="*", metavar="PATH", help="default: all files")
    options = parser.parse_args(arguments)
    findings = search(selected(checkout_files(), options.paths))
    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

"""Measures how dense and how plain the code is: `python -m dev.style_report [--git REV ...]`.

It prints one Markdown table, with a row for each package and revision. The last revision is the
working tree. The measures are those of a review beside nameko-examples, starlette, procrastinate
and other model codebases, so the results can be compared with its figures:

| codebase | median function | characters a line | tokens a code line |
| --- | --: | --: | --: |
| nameko-examples | 5 | 30.1 | 6.7 |
| starlette | 5 | 34.5 | 7.3 |
| procrastinate | 8 | 31.0 | 6.1 |
| h11 | 7 | 36.0 | 6.4 |
"""

import argparse
import ast
import io
import statistics
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dev.broker import CHECKOUT
from dev.language import has_idiom
from dev.size import EXCLUDED

PRODUCT = ("users", "billing", "orders", "notifications", "gateway", "chassis")
# Earlier revisions have bench/ and chaos/ at the top.
TOOLS = ("audit", "replay", "dev", "bench", "chaos", "tests/chaos")
WORKING_TREE = "now"
MAX_COLUMNS = 99  # a longer line counts as long
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass(kw_only=True)
class Counts:
    """The counts of some Python files. `lines` are those that are not blank."""

    files: int = 0
    lines: list[str] = field(default_factory=list)
    function_lengths: list[int] = field(default_factory=list)  # docstrings included
    documented_functions: int = 0
    comments: int = 0
    code_lines: int = 0  # lines with tokens outside docstrings and comments
    tokens: int = 0  # of these lines
    statements: int = 0  # docstrings included
    comprehensions: int = 0
    any_types: int = 0
    identifiers: set[str] = field(default_factory=set)  # defined ones
    docstrings: list[str] = field(default_factory=list)

    def add(self, source: str) -> None:
        """Add the counts of one file."""
        self.files += 1
        self.lines += [line for line in source.splitlines() if line.strip()]
        docstring_lines: set[int] = set()
        for node in ast.walk(ast.parse(source)):
            self._add_node(node)
            if isinstance(node, Documented) and (text := ast.get_docstring(node)):
                self.docstrings.append(text)
                first, last = node.body[0].lineno, node.body[0].end_lineno or 0
                docstring_lines.update(range(first, last + 1))
        self._add_tokens(source, docstring_lines)

    def _add_node(self, node: ast.AST) -> None:
        self.statements += isinstance(node, ast.stmt)
        self.comprehensions += isinstance(node, Comprehension)
        if isinstance(node, Function):
            self.function_lengths.append((node.end_lineno or 0) - node.lineno + 1)
            self.documented_functions += ast.get_docstring(node) is not None
        if name := defined_name(node):
            self.identifiers.add(name)

    def _add_tokens(self, source: str, docstring_lines: set[int]) -> None:
        code_lines: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            self.comments += token.type == tokenize.COMMENT
            self.any_types += token.type == tokenize.NAME and token.string == "Any"
            if token.type in NO_CODE or token.start[0] in docstring_lines:
                continue
            self.tokens += 1
            code_lines.update(range(token.start[0], token.end[0] + 1))
        self.code_lines += len(code_lines)


@dataclass(frozen=True, kw_only=True)
class Row:
    """The measurements of one package or of the whole product in one revision."""

    package: str
    revision: str
    counts: Counts
    semicolons: float | None = None  # of the README, for each 1,000 words
    test_ratio: float | None = None  # lines of tests for each line of the product


def defined_name(node: ast.AST) -> str | None:
    """Return the identifier that a node defines: a function, class, argument or variable."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return name
        case ast.ClassDef(name=name) | ast.arg(arg=name):
            return name
        case ast.Name(id=name, ctx=ast.Store()):
            return name
        case ast.Attribute(attr=name, ctx=ast.Store()):
            return name
    return None


def package_files(folder: Path) -> Iterator[Path]:
    """Yield the Python files below a folder, without tests, migrations and static files."""
    for path in sorted(folder.rglob("*.py")):
        is_excluded = EXCLUDED.intersection(path.relative_to(folder).parts)
        if not is_excluded and not has_tests(path):
            yield path


def has_tests(path: Path) -> bool:
    """Return whether the file has tests or fixtures, by its name."""
    return path.name.startswith("test_") or path.name == "conftest.py"


def count(paths: Iterable[Path]) -> Counts:
    """Return the counts of these files."""
    counts = Counts()
    for path in paths:
        counts.add(path.read_text(encoding="utf-8"))
    return counts


def count_test_lines(root: Path) -> int:
    """Return the number of lines in Python tests that are not blank."""
    return sum(
        sum(1 for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
        for path in root.rglob("*.py")
        if is_test(path.relative_to(root))
    )


def is_test(path: Path) -> bool:
    """Return whether the file at a relative path belongs to the tests."""
    is_hidden = any(
        part.startswith(".") or part == "node_modules" for part in path.parts
    )
    is_tool = path.is_relative_to("tests/chaos") and not has_tests(path)
    return not is_hidden and not is_tool and ("tests" in path.parts or has_tests(path))


def semicolons_per_1000_words(text: str) -> float:
    """Return the number of semicolons in a text for each 1,000 words."""
    return 1000 * ratio(text.count(";"), len(text.split()))


def ratio(part: float, whole: float) -> float:
    """Return part / whole, and 0 if the whole is empty."""
    return part / whole if whole else 0.0


def percentile_95(values: Sequence[int]) -> int:
    """Return the value that 95 % of the values do not exceed, and 0 without values."""
    ordered = sorted(values)
    return ordered[int(0.95 * (len(ordered) - 1))] if ordered else 0


def measure(root: Path, revision: str) -> list[Row]:
    """Return a row for each package of a checkout, one for the product and one for the tools."""
    rows = [
        Row(
            package=package,
            revision=revision,
            counts=count(package_files(root / package)),
        )
        for package in PRODUCT
    ]
    product = count(
        path for package in PRODUCT for path in package_files(root / package)
    )
    readme = (root / "README.md").read_text(encoding="utf-8")
    rows.append(
        Row(
            package="product",
            revision=revision,
            counts=product,
            semicolons=semicolons_per_1000_words(readme),
            test_ratio=ratio(count_test_lines(root), len(product.lines)),
        )
    )
    tools = count(path for tool in TOOLS for path in package_files(root / tool))
    rows.append(Row(package="tools", revision=revision, counts=tools))
    return rows


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Yield a temporary folder with the files of a git revision. Raise CalledProcessError."""
    command = ["git", "archive", "--format=tar", revision]
    archive = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=True)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(folder, filter="data")
        yield Path(folder)


def percent(part: float, whole: float, digits: int = 0) -> str:
    """Format a part of a whole as a percentage."""
    return f"{100 * ratio(part, whole):.{digits}f} %"


def optional(value: float | None) -> str:
    """Format a value that only the product's row has."""
    return "" if value is None else f"{value:.2f}"


COLUMNS: dict[str, Callable[[Row], str]] = {
    "package": lambda row: row.package,
    "revision": lambda row: row.revision,
    "files": lambda row: f"{row.counts.files}",
    "lines": lambda row: f"{len(row.counts.lines):,}",
    "statements": lambda row: f"{row.counts.statements:,}",
    "functions": lambda row: f"{len(row.counts.function_lengths)}",
    "median": lambda row: f"{statistics.median(row.counts.function_lengths or [0]):g}",
    "p95": lambda row: f"{percentile_95(row.counts.function_lengths)}",
    "longest": lambda row: f"{max(row.counts.function_lengths, default=0)}",
    "with docstring": lambda row: percent(
        row.counts.documented_functions, len(row.counts.function_lengths)
    ),
    "comments/line": lambda row: percent(row.counts.comments, len(row.counts.lines), 1),
    "characters/line": lambda row: f"{mean_characters(row.counts):.1f}",
    f"lines > {MAX_COLUMNS}": lambda row: percent(
        sum(len(line) > MAX_COLUMNS for line in row.counts.lines),
        len(row.counts.lines),
        1,
    ),
    "tokens/code line": lambda row: (
        f"{ratio(row.counts.tokens, row.counts.code_lines):.1f}"
    ),
    "tokens/statement": lambda row: (
        f"{ratio(row.counts.tokens, row.counts.statements):.1f}"
    ),
    "comprehensions/100 statements": lambda row: (
        f"{100 * ratio(row.counts.comprehensions, row.counts.statements):.1f}"
    ),
    "Any/1,000 lines": lambda row: (
        f"{1000 * ratio(row.counts.any_types, len(row.counts.lines)):.0f}"
    ),
    "identifiers": lambda row: f"{len(row.counts.identifiers):,}",
    "docstrings with idiom": lambda row: percent(
        sum(map(has_idiom, row.counts.docstrings)), len(row.counts.docstrings)
    ),
    "README ;/1,000 words": lambda row: optional(row.semicolons),
    "tests : code": lambda row: optional(row.test_ratio),
}


def mean_characters(counts: Counts) -> float:
    """Return the mean number of characters a line, without the indentation."""
    characters = sum(len(line.strip()) for line in counts.lines)
    return ratio(characters, len(counts.lines))


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table. The rows of one package are together, in order of revision."""
    packages = list(dict.fromkeys(row.package for row in rows))
    ordered = sorted(rows, key=lambda row: packages.index(row.package))
    alignment = ["---", "---", *["--:"] * (len(COLUMNS) - 2)]
    cells = [list(COLUMNS), alignment]
    cells += [[column(row) for column in COLUMNS.values()] for row in ordered]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table. Return 1 for a revision that git does not know."""
    parser = argparse.ArgumentParser(prog="python -m dev.style_report")
    parser.add_argument(
        "--git",
        action="append",
        default=[],
        metavar="REV",
        help="measure this revision too; may be given several times",
    )
    rows: list[Row] = []
    for revision in parser.parse_args(arguments).git:
        try:
            with checked_out(revision) as folder:
                rows += measure(folder, revision)
        except subprocess.CalledProcessError as error:
            print(f"error: {error.stderr.decode().strip()}", file=sys.stderr)
            return 1
    rows += measure(CHECKOUT, WORKING_TREE)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

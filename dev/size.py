"""Count the statements of product code: `size.py FOLDER...`, which `make size` calls.

A statement is an `ast.stmt` node of Python. Docstrings do not count. Unlike a count of lines, the
count does not fall when lines grow longer. The program also prints the lines that are not blank.
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT = 4100  # statements of the six packages together, see ADR 40
PACKAGES = 6
MORE = 250  # for each further package: the size of an average service
EXCLUDED = {"tests", "migrations", "static"}  # folders
SUFFIXES = {".py", ".txt"}  # the templates of letters are text
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Size:
    """The size of some code: statements, and lines that are not blank."""

    statements: int
    lines: int


def count_statements(source: str) -> int:
    """Return the number of statements in Python source, without docstrings."""
    nodes = list(ast.walk(ast.parse(source)))
    statements = [node for node in nodes if isinstance(node, ast.stmt)]
    docstrings = [
        node for node in nodes if isinstance(node, DOCUMENTED) and has_docstring(node)
    ]
    return len(statements) - len(docstrings)


def has_docstring(node: DOCUMENTED) -> bool:
    """Return whether the first statement of a module, class or function is its docstring."""
    return ast.get_docstring(node, clean=False) is not None


def size_of(folder: Path) -> Size:
    """Measure the product code below a folder."""
    sizes = [_size_of_file(path) for path in product_files(folder)]
    return total(sizes)


def product_files(folder: Path) -> Iterator[Path]:
    """Yield the Python files and letter templates below a folder, without the excluded folders."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.suffix in SUFFIXES and not EXCLUDED.intersection(parts):
            yield path


def total(sizes: Iterable[Size]) -> Size:
    """Add sizes."""
    counts = [(size.statements, size.lines) for size in sizes]
    statements = sum(statements for statements, _ in counts)
    return Size(statements=statements, lines=sum(lines for _, lines in counts))


def _size_of_file(path: Path) -> Size:
    text = path.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip()]
    statements = count_statements(text) if path.suffix == ".py" else 0
    return Size(statements=statements, lines=len(lines))


def main(folders: Sequence[str]) -> int:
    """Print the size of each folder and the total. Return 1 if the total is above the limit."""
    if missing := [folder for folder in folders if not Path(folder).is_dir()]:
        sys.exit(f"error: no such folder: {', '.join(missing)}")
    sizes = {folder: size_of(Path(folder)) for folder in folders}
    print("statements  lines")
    for folder, size in sizes.items():
        print(f"{size.statements:10,}  {size.lines:5,}  {folder}")
    limit = LIMIT + MORE * max(len(folders) - PACKAGES, 0)
    together = total(sizes.values())
    print(
        f"{together.statements:10,}  {together.lines:5,}  total, of {limit:,} allowed"
    )
    return 1 if together.statements > limit else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

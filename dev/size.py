"""Counts the statements of product code: `size.py FOLDER...`, which `make size` calls.

A statement is an `ast.stmt` node of Python. Docstrings do not count. Unlike a count of lines, the
count does not fall when lines grow longer. The lines that are not blank are printed beside it.
"""

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT = 4000  # statements of the six packages together
PACKAGES = 6
MORE = 250  # for each package beyond them, as much as an average service has
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
    """Whether the first statement of a module, class or function is its docstring."""
    return ast.get_docstring(node, clean=False) is not None


def size_of(folder: Path) -> Size:
    """Measure the product code below a folder."""
    sizes = [_size_of_file(path) for path in product_files(folder)]
    return Size(
        sum(size.statements for size in sizes), sum(size.lines for size in sizes)
    )


def product_files(folder: Path) -> Iterator[Path]:
    """Yield the Python files and letter templates below a folder, without the excluded folders."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in SUFFIXES and not EXCLUDED.intersection(
            path.relative_to(folder).parts
        ):
            yield path


def _size_of_file(path: Path) -> Size:
    text = path.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip()]
    return Size(count_statements(text) if path.suffix == ".py" else 0, len(lines))


def main(folders: Sequence[str]) -> int:
    """Print the size of each folder and the total. Return 1 if the total is above the limit."""
    if missing := [folder for folder in folders if not Path(folder).is_dir()]:
        sys.exit(f"error: no such folder: {', '.join(missing)}")
    sizes = {folder: size_of(Path(folder)) for folder in folders}
    print("statements  lines")
    for folder, size in sizes.items():
        print(f"{size.statements:10,}  {size.lines:5,}  {folder}")
    statements = sum(size.statements for size in sizes.values())
    lines = sum(size.lines for size in sizes.values())
    limit = LIMIT + MORE * max(len(folders) - PACKAGES, 0)
    print(
        f"{statements:10,}  {lines:5,}  together; at most {limit:,} statements are allowed"
    )
    return 1 if statements > limit else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

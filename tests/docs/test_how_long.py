"""docs/how-long-will-it-last.md names the current versions and modules."""

import ast
import re
from collections import defaultdict
from collections.abc import Mapping, Set
from functools import cache
from pathlib import Path

from dev.size import product_files
from tests.docs.markdown import ROOT

TEXT = (ROOT / "docs" / "how-long-will-it-last.md").read_text()
PACKAGES = ("users", "billing", "orders", "notifications", "gateway", "chassis")
LIBRARIES = {"eventlet", "nameko", "nameko_sqlalchemy", "kombu", "amqp"}
LOCKED = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)
VERSION = re.compile(r"^\| ([\w-]+) \| (\d\S*) \| ", re.MULTILINE)
IMPORTED = re.compile(r"^\| (\w+) \| (`[a-z]+/.*) \|$", re.MULTILINE)
MODULE = re.compile(r"`([a-z]+/[\w/]+\.py)`")


@cache
def product_modules() -> tuple[Path, ...]:
    files = [path for name in PACKAGES for path in product_files(ROOT / name)]
    return tuple(path for path in files if path.suffix == ".py")


def imported(path: Path) -> set[str]:
    """Return the top-level packages that a module imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


@cache
def importers() -> Mapping[str, Set[str]]:
    """Return the product modules that import each of LIBRARIES."""
    modules = defaultdict(set)
    for path in product_modules():
        for library in LIBRARIES & imported(path):
            modules[library].add(str(path.relative_to(ROOT)))
    return modules


def test_it_names_the_locked_versions() -> None:
    locked = dict(LOCKED.findall((ROOT / "requirements" / "product.lock").read_text()))
    named = dict(VERSION.findall(TEXT))
    assert len(named) >= len(LIBRARIES)
    assert named == {name: locked.get(name) for name in named}


def test_it_names_the_modules_that_import_each_library() -> None:
    rows = IMPORTED.findall(TEXT)
    named = {library: set(MODULE.findall(modules)) for library, modules in rows}
    assert named == importers()


def test_it_counts_the_modules() -> None:
    depending = set().union(*importers().values())
    chassis = {name for name in depending if name.startswith("chassis/")}
    assert f"\n{len(depending)} of {len(product_modules())} product modules" in TEXT
    assert f" {len(chassis)} of the {len(depending)} are the chassis." in TEXT

"""The size of product code, counted in statements."""

import subprocess
import sys
from pathlib import Path

import pytest

from dev import size

SOURCE = '''"""A module's docstring."""

import os; import sys
"not a docstring"

class Thing:
    """A class's docstring."""

    name = "thing"

    def run(self):
        """A method's docstring."""
        return [
            each
            for each in self.name
        ]

async def walk():
    """A function may consist of a docstring."""

if os.name: print(sys)
'''


def test_statements_are_counted_without_docstrings() -> None:
    """Two imports, a string, a class, a value, a method, a return, a function, an if, a call."""
    assert size.count_statements(SOURCE) == 10


def test_long_lines_do_not_lower_the_count() -> None:
    assert size.count_statements("a = 1; b = 2; c = 3") == 3
    assert size.count_statements("a = 1\nb = 2\nc = 3\n") == 3


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A service with two statements of product code, and others in excluded folders."""
    files = {
        "service.py": '"""Its docstring."""\n\na = 1\n\nb = 2\n',
        "templates/paid.txt": "Hello,\n\nit is paid.\n",
        "templates/paid.html": "not product code\n",
        "tests/unit/test_it.py": "c = 3\n",
        "migrations/0001_first.py": "d = 4\n",
        "static/tool.py": "e = 5\n",
    }
    for name, text in files.items():
        path = tmp_path / "tests" / "shop" / name  # a folder above it may have any name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "tests" / "shop"


def test_tests_migrations_and_static_files_are_not_counted(package: Path) -> None:
    assert size.size_of(package) == size.Size(statements=2, lines=5)


@pytest.mark.parametrize(("more", "code"), [(-2, 0), (-1, 1)])
def test_the_exit_code_is_1_above_the_limit(
    package: Path, more: int, code: int
) -> None:
    (package / "domain.py").write_text("pass\n" * (size.LIMIT + more))
    command = [sys.executable, size.__file__, str(package)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert f"{size.LIMIT + more + 2:,}" in done.stdout.splitlines()[-1]


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no such folder"):
        size.main([str(tmp_path / "user")])


def test_a_seventh_package_raises_the_limit(tmp_path: Path) -> None:
    folders = [tmp_path / f"package{number}" for number in range(size.PACKAGES + 1)]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "domain.py").write_text("pass\n" * (size.LIMIT + size.MORE))
    names = [str(folder) for folder in folders]
    assert size.main(names) == 0
    assert size.main(names[:-1]) == 1

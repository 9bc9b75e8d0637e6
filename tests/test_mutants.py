"""The list of mutants fits the code, also between two runs of `make mutants`."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants import CHECKOUT, MUTANTS, Mutant

ALL = [pytest.param(mutant, id=mutant.name) for mutant in MUTANTS]


def test_no_two_mutants_have_one_name() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", ALL)
def test_a_mutant_changes_the_code(mutant: Mutant, tmp_path: Path) -> None:
    originals = {
        change.file: (CHECKOUT / change.file).read_text() for change in mutant.changes
    }
    for file, text in originals.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    for change in mutant.changes:
        change.apply(tmp_path)
    for file, text in originals.items():
        mutated = (tmp_path / file).read_text()
        if file.endswith(".py"):
            assert ast.unparse(ast.parse(mutated)) != ast.unparse(ast.parse(text))
            assert undefined_names(tmp_path / file) == ""
        else:
            assert mutated != text


def undefined_names(file: Path) -> str:
    """Return ruff's findings. A mutant with an undefined name breaks down and tests no promise."""
    ruff = Path(sys.executable).with_name("ruff")
    command = [ruff, "check", "--isolated", "--quiet", "--select", "F821", file]
    return subprocess.run(command, capture_output=True, text=True).stdout


@pytest.mark.parametrize("mutant", ALL)
def test_the_tests_of_a_mutant_exist(mutant: Mutant) -> None:
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert re.search(rf"^def {name}\(", (CHECKOUT / file).read_text(), re.MULTILINE)

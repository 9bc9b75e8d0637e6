"""The list of mutants fits the code: it can't rot unnoticed between two runs of `make mutants`."""

import re

import pytest

from tests.mutants import CHECKOUT, MUTANTS, Mutant

ALL = [pytest.param(mutant, id=mutant.name) for mutant in MUTANTS]


def test_no_two_mutants_have_one_name() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", ALL)
def test_what_a_mutant_changes_stands_in_the_code_exactly_once(
    mutant: Mutant, tmp_path
) -> None:
    for file in {change.file for change in mutant.changes}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text((CHECKOUT / file).read_text())
    for change in mutant.changes:
        change.apply(tmp_path)


@pytest.mark.parametrize("mutant", ALL)
def test_the_tests_that_should_notice_a_mutant_are_there(mutant: Mutant) -> None:
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert re.search(rf"^def {name}\(", (CHECKOUT / file).read_text(), re.MULTILINE)

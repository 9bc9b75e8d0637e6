"""The tables, and that docs/performance.md has those of the reference results."""

import re
from typing import Any

import pytest

from dev.bench import figures, report
from dev.bench.__main__ import PARTS, parse
from dev.bench.load import Measure
from dev.bench.report import (
    DOCUMENT,
    MARKED,
    TABLES,
    filled,
    markdown,
    number,
    plain,
    references,
)

TABLE = [("ratio", "figure"), ("a", "1"), ("longer", "12.5")]
FIGURES = [
    (0.356, "0.36"),
    (12.42, "12.42"),
    (117.2, "117"),
    (0, "0"),
    (-0.0019, "0.00"),
    (None, ""),
]


def test_a_table_for_a_terminal_is_aligned() -> None:
    assert plain(TABLE) == "ratio   figure\na            1\nlonger    12.5"


def test_a_table_for_the_documents_is_markdown() -> None:
    assert (
        markdown(TABLE)
        == "| ratio | figure |\n| --- | --: |\n| a | 1 |\n| longer | 12.5 |\n"
    )


@pytest.mark.parametrize(("value", "told"), FIGURES)
def test_a_figure_has_three_digits_about(value: float | None, told: str) -> None:
    assert number(value) == told


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_tables_and_a_file_of_its_own(part: str) -> None:
    assert parse([part]).part == part
    assert (
        len(
            {
                report.result_file(name, keep=keep)
                for name in PARTS
                for keep in (True, False)
            }
        )
        == 8
    )
    assert part in TABLES


@pytest.mark.parametrize("part", PARTS)
def test_a_result_is_printed_with_each_target_and_every_fault(
    part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result: dict[str, Any] = references()[part] | {"faults": ["two orders are lost"]}
    report.show(part, result)
    printed = capsys.readouterr().out
    assert "WRONG: two orders are lost" in printed
    assert printed.count(" met\n") + printed.count(" missed\n") == len(
        result["targets"]
    )


def test_the_documents_tables_are_those_of_the_reference_results() -> None:
    text = DOCUMENT.read_text()
    assert filled(text, references()) == text, (
        "python -m dev.bench.report brings them up to date"
    )


def test_the_references_targets_are_those_of_its_own_rounds() -> None:
    result = references()["rounds"]
    judged = figures.targets(
        [[Measure(**m) for m in measures] for measures in result["rounds"]]
    )
    assert result["targets"][: len(judged)] == judged


def test_the_document_shows_all_there_is() -> None:
    shown = {name for _, name, _ in MARKED.findall(DOCUMENT.read_text())}
    tables = {
        name for part, result in references().items() for name in TABLES[part](result)
    }
    assert shown == tables | {"targets"} | {f"{part}-measured" for part in PARTS}


def test_a_marker_gets_its_table_and_all_else_stays() -> None:
    text = "before\n<!-- bench: targets -->\nold\n<!-- end -->\nafter\n"
    result = references()["growth"]
    new = filled(text, {"growth": result})
    assert re.fullmatch(
        r"before\n<!-- bench: targets -->\n(\|.*\|\n){4}<!-- end -->\nafter\n", new
    )
    assert filled(new, {"growth": result}) == new

"""The tables, and those of the reference results in docs/performance.md."""

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
    as_markdown,
    as_text,
    fill_document,
    format_number,
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
    assert as_text(TABLE) == "ratio   figure\na            1\nlonger    12.5"


def test_a_table_for_the_documents_is_markdown() -> None:
    assert (
        as_markdown(TABLE)
        == "| ratio | figure |\n| --- | --: |\n| a | 1 |\n| longer | 12.5 |\n"
    )


@pytest.mark.parametrize(("value", "text"), FIGURES)
def test_a_figure_has_about_three_digits(value: float | None, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_its_own_tables_and_files(part: str) -> None:
    assert parse([part]).part == part
    files = {
        report.result_file(name, keep=keep) for name in PARTS for keep in (True, False)
    }
    assert len(files) == 8
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


def test_the_document_has_the_tables_of_the_reference_results() -> None:
    text = DOCUMENT.read_text()
    assert fill_document(text, references()) == text, (
        "python -m dev.bench.report brings them up to date"
    )


def test_the_targets_of_the_reference_are_those_of_its_rounds() -> None:
    result = references()["rounds"]
    judged = figures.targets(
        [[Measure(**m) for m in measures] for measures in result["rounds"]]
    )
    assert result["targets"][: len(judged)] == judged


def test_the_document_has_all_tables() -> None:
    shown = {name for _, name, _ in MARKED.findall(DOCUMENT.read_text())}
    tables = {
        name for part, result in references().items() for name in TABLES[part](result)
    }
    assert shown == tables | {"targets"} | {f"{part}-measured" for part in PARTS}


def test_only_the_text_between_markers_is_replaced() -> None:
    text = "before\n<!-- bench: targets -->\nold\n<!-- end -->\nafter\n"
    result = references()["growth"]
    new = fill_document(text, {"growth": result})
    assert re.fullmatch(
        r"before\n<!-- bench: targets -->\n(\|.*\|\n){4}<!-- end -->\nafter\n", new
    )
    assert fill_document(new, {"growth": result}) == new

"""The counting of the style report."""

import subprocess
from pathlib import Path

import pytest

from dev import style_report
from dev.style_report import Counts

SOURCE = '''"""A module's docstring,

of three lines."""

from typing import Any

# a comment on a line of its own

class Thing:
    """The broker is away."""

    def run(self, value: Any) -> list[int]:  # a comment behind code
        """A method's docstring."""
        self.last = [each for each in value]
        return self.last


def walk() -> int:
    total = 1
    return total
'''


@pytest.fixture
def counts() -> Counts:
    """Return the counts of SOURCE."""
    found = Counts()
    found.add(SOURCE)
    return found


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a small checkout in git, with one commit."""
    for package in style_report.PRODUCT:
        (tmp_path / package / "tests").mkdir(parents=True)
        (tmp_path / package / "code.py").write_text(SOURCE)
        (tmp_path / package / "tests/test_code.py").write_text("x = 1\n\ny = 2\n")
    (tmp_path / "README.md").write_text("One; two three four.\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "First"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    return tmp_path


def row(counts: Counts) -> style_report.Row:
    """Return a row with these counts alone."""
    return style_report.Row(package="a", revision="b", counts=counts)


def cell(column: str, counts: Counts) -> str:
    """Return the text in a column of the table."""
    return style_report.COLUMNS[column](row(counts))


def test_lines_that_are_not_blank_are_counted(counts: Counts) -> None:
    assert len(counts.lines) == 13
    assert counts.files == 1


def test_a_function_is_as_long_as_its_lines(counts: Counts) -> None:
    assert sorted(counts.function_lengths) == [3, 4]
    assert counts.documented_functions == 1


def test_comments_are_counted_wherever_they_are(counts: Counts) -> None:
    assert counts.comments == 2


def test_tokens_of_docstrings_and_comments_do_not_count() -> None:
    found = Counts()
    found.add('"""Doc."""\n# comment\n\nx = [1, 2]  # comment\n')

    assert (found.tokens, found.code_lines) == (7, 1)


def test_a_line_that_continues_counts() -> None:
    found = Counts()
    found.add("x = [\n    1,\n]\n")

    assert (found.tokens, found.code_lines) == (6, 3)


def test_docstrings_are_statements_here(counts: Counts) -> None:
    """The module has 4, the class 2, the method 3 and the function 2."""
    assert counts.statements == 11


def test_identifiers_are_those_defined(counts: Counts) -> None:
    expected = {"Thing", "run", "self", "value", "last", "each", "walk", "total"}

    assert counts.identifiers == expected


def test_any_counts_where_it_is_imported_too(counts: Counts) -> None:
    assert counts.any_types == 2


def test_comprehensions_are_counted(counts: Counts) -> None:
    assert counts.comprehensions == 1
    assert cell("comprehensions/100 statements", counts) == "9.1"


def test_docstrings_with_an_idiom(counts: Counts) -> None:
    assert len(counts.docstrings) == 3
    assert cell("docstrings with idiom", counts) == "33 %"


def test_characters_are_counted_without_indentation() -> None:
    found = Counts()
    found.add("if x:\n        yy = 1\n")

    assert cell("characters/line", found) == "5.5"


@pytest.mark.parametrize(("length", "share"), [(99, "0.0 %"), (100, "100.0 %")])
def test_a_line_is_long_from_100_columns_on(length: int, share: str) -> None:
    found = Counts()
    found.add("#" * length + "\n")

    assert cell("lines > 99", found) == share


def test_percentile() -> None:
    assert style_report.percentile_95(range(1, 101)) == 95
    assert style_report.percentile_95([]) == 0


def test_semicolons() -> None:
    assert style_report.semicolons_per_1000_words("One; two three four.") == 250


def test_nothing_is_divided_by_zero() -> None:
    assert all(
        column(row(Counts())) is not None for column in style_report.COLUMNS.values()
    )


def test_tests_and_migrations_belong_to_no_package(tmp_path: Path) -> None:
    for name in ("a.py", "tests/b.py", "migrations/c.py", "sub/d.py", "e.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")

    names = [path.name for path in style_report.package_files(tmp_path)]

    assert names == ["a.py", "d.py"]


@pytest.mark.parametrize(
    "path",
    [
        "tests/test_a.py",
        "users/tests/unit/b.py",
        "conftest.py",
        "tests/chaos/test_d.py",
    ],
)
def test_files_of_tests(path: str) -> None:
    assert style_report.is_test(Path(path))


@pytest.mark.parametrize(
    "path", ["users/a.py", ".venv/tests/test_c.py", "tests/chaos/arena.py"]
)
def test_other_files(path: str) -> None:
    assert not style_report.is_test(Path(path))


def test_revisions_are_beside_each_other(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(style_report, "CHECKOUT", checkout)
    (checkout / "users/more.py").write_text("x = 1\n")

    assert style_report.main(["--git", "HEAD"]) == 0

    lines = capsys.readouterr().out.splitlines()
    cells = [[text.strip() for text in line.split("|")[1:-1]] for line in lines]
    assert [line[:3] for line in cells[2:4]] == [
        ["users", "HEAD", "1"],
        ["users", "now", "2"],
    ]
    product = {line[1]: line for line in cells if line[0] == "product"}
    assert product["HEAD"][-2:] == ["250.00", f"{12 / 78:.2f}"]
    assert len(cells) == 2 + 2 * (len(style_report.PRODUCT) + 2)


def test_an_unknown_revision_ends_with_one_line(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(style_report, "CHECKOUT", checkout)

    assert style_report.main(["--git", "no-such-revision"]) == 1

    assert capsys.readouterr().err.startswith("error: ")

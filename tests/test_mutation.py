"""Each kind of change does what it says, and refuses a place that is missing or ambiguous."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mutation import (
    Change,
    Drop,
    DropDefinition,
    DropKey,
    NotFound,
    Prepend,
    Replace,
    ReplaceInFile,
    ReplaceText,
    Return,
    SetArgument,
    SetCondition,
    SetValue,
)

CODE = '''
LIMIT: int = 5
FIRST, SECOND = 1, 2
PARTS = {"a": 1, "b": 2}
SELECT = """
    SELECT id
    FROM orders
    WHERE status = 'pending'  -- not settled
    FOR UPDATE
"""

class Service:
    def handle(self, batch):
        """Handle a batch."""
        if self.is_open and batch:
            self.done = [each for each in batch if each.is_valid]
        send(batch, mandatory=True, timeout=(
            5  # seconds
        ))
        self.ack(batch)
        self.ack([])
        return f"handled {len(batch)} of {LIMIT}"
'''
HANDLE = "part:Service.handle"

Mutate = Callable[[Change], str]


@pytest.fixture
def mutate(tmp_path: Path) -> Mutate:
    """Apply a change to CODE. Return the code without its layout."""

    def apply(change: Change) -> str:
        (tmp_path / "part.py").write_text(CODE)
        change.apply(tmp_path)
        return (tmp_path / "part.py").read_text()

    return apply


@pytest.mark.parametrize(
    ("change", "old", "new"),
    [
        (Replace(HANDLE, "len( batch )", "0"), "{len(batch)}", "{0}"),
        (Replace(HANDLE, "self.ack([])"), "self.ack([])", "pass"),
        (Replace(HANDLE, "self.ack([])", "return"), "self.ack([])", "return"),
        (Drop(HANDLE, "self.ack", mentions="batch"), "self.ack(batch)", "pass"),
        (Drop(HANDLE, "send"), "send(batch, mandatory=True, timeout=5)", "pass"),
        (
            Drop(HANDLE, "self.done"),
            "self.done = [each for each in batch if each.is_valid]",
            "pass",
        ),
        (
            Prepend(HANDLE, "batch = []"),
            '"""Handle a batch."""',
            '"""Handle a batch."""\n        batch = []',
        ),
        (SetCondition(HANDLE, "self.is_open"), "self.is_open and batch", "False"),
        (SetCondition(HANDLE, "each", "True"), "if each.is_valid", "if True"),
        (SetArgument(HANDLE, "send", "mandatory", None), "mandatory=True, ", ""),
        (SetArgument(HANDLE, "send", "timeout", "6"), "timeout=5", "timeout=6"),
        (SetArgument(HANDLE, "send", "now", "1"), "timeout=5", "timeout=5, now=1"),
        (SetValue("part:LIMIT", "6"), "= 5\n", "= 6\n"),
        (SetValue("part:SECOND", "3"), "(1, 2)", "(1, 3)"),
        (DropKey("part:PARTS", "'a'"), "'a': 1, ", ""),
        (
            ReplaceText("part:SELECT", "FROM orders WHERE"),
            r"FROM orders\n    WHERE",
            "",
        ),
        (ReplaceText(HANDLE, "of", "by {self}"), "of {LIMIT}", "by {self} {LIMIT}"),
    ],
    ids=lambda value: f"{value}"[:60] if isinstance(value, Change) else "",
)
def test_a_change_changes_its_place_alone(
    mutate: Mutate, change: Change, old: str, new: str
) -> None:
    code = ast.unparse(ast.parse(CODE))
    assert code.count(old) == 1
    assert mutate(change) == code.replace(old, new)


def test_a_function_only_returns(mutate: Mutate) -> None:
    assert mutate(Return(HANDLE, "7")).endswith(
        "def handle(self, batch):\n        return 7"
    )


def test_a_dropped_method_leaves_its_class(mutate: Mutate) -> None:
    assert mutate(DropDefinition(HANDLE)).endswith("class Service:\n    pass")


@pytest.mark.parametrize(
    "change",
    [
        SetValue("part:MISSING", "1"),
        Return("part:Service.missing", "1"),
        SetValue(HANDLE, "1"),
        Replace(HANDLE, "missing", "1"),
        Replace(HANDLE, "batch", "[]"),
        Drop(HANDLE, "self.ack"),
        SetCondition(HANDLE),
        SetArgument(HANDLE, "send", "missing", None),
        DropKey("part:PARTS", "'c'"),
        ReplaceText("part:SELECT", "LIMIT"),
        ReplaceText(HANDLE, "Handle a batch"),
    ],
    ids=str,
)
def test_a_missing_or_ambiguous_place_is_refused(
    mutate: Mutate, change: Change
) -> None:
    with pytest.raises(NotFound):
        mutate(change)


def test_text_that_is_found_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: 1\nb: 1\n")
    with pytest.raises(NotFound):
        ReplaceInFile("config.yaml", "1", "2").apply(tmp_path)
    ReplaceInFile("config.yaml", "b: 1", "b: 2").apply(tmp_path)
    assert (tmp_path / "config.yaml").read_text() == "a: 1\nb: 2\n"

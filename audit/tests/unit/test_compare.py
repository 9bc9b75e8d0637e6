"""Comparing expected rows with actual rows, in short streams of arbitrary keys and texts."""

from collections import defaultdict
from itertools import count, islice

from hypothesis import given, strategies as st

from audit.checks import compare

ROWS = st.lists(
    st.tuples(st.sampled_from("abcde"), st.sampled_from(["x", "y"]), st.booleans())
).map(lambda rows: sorted(rows, key=lambda row: row[0]))


def keys(expected, actual) -> list[str]:
    return [line.partition(":")[0] for line in compare(expected, actual)]


def by_key(rows) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = defaultdict(list)
    for key, text, _ in rows:
        texts[key].append(text)
    return texts


@given(ROWS, ROWS)
def test_streams_give_the_same_keys_as_whole_tables(expected, actual) -> None:
    expected_texts, actual_texts = by_key(expected), by_key(actual)
    overdue = {key for key, _, is_overdue in [*expected, *actual] if is_overdue}
    different = [
        key
        for key in sorted(expected_texts.keys() | actual_texts.keys())
        if expected_texts[key] != actual_texts[key]
        and (key in overdue or (expected_texts[key] and actual_texts[key]))
    ]
    assert keys(expected, actual) == different


@given(ROWS)
def test_a_table_does_not_differ_from_itself(rows) -> None:
    assert keys(rows, rows) == []


def test_a_row_may_lack_its_counterpart_until_it_is_overdue() -> None:
    young, other = [("a", "x", False)], [("a", "y", False)]
    assert keys(young, []) == keys([], young) == []
    assert keys(young, other) == ["a"]
    assert keys([("a", "x", True)], []) == ["a"]


def test_a_pending_order_may_have_any_withdrawal() -> None:
    assert keys([("a", None, False)], [("a", "x", True)]) == []


def test_two_equal_rows_differ_from_one() -> None:
    once = [("a", "x", False)]
    assert list(compare(once, once * 2)) == ["a: expected ['x'], found ['x', 'x']"]


def test_it_reads_only_up_to_the_next_difference() -> None:
    expected = ((f"{n:09}", "x", True) for n in count())
    actual = ((f"{n:09}", "x" if n % 1000 else "y", True) for n in count())
    assert [line[:9] for line in islice(compare(expected, actual), 3)] == [
        "000000000",
        "000001000",
        "000002000",
    ]


def test_a_difference_is_one_line_even_if_its_key_has_two() -> None:
    [line] = compare([("a\nb", "x", True)], [])
    assert line == "'a\\nb': expected ['x'], found []"

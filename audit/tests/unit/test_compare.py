"""Merging what is due with what is found; streams are short here, and orders and texts arbitrary."""

from collections import defaultdict
from itertools import count, islice

from hypothesis import given
from hypothesis import strategies as st

from audit.checks import compare

ROWS = st.lists(
    st.tuples(st.sampled_from("abcde"), st.sampled_from(["x", "y"]), st.booleans())
).map(lambda rows: sorted(rows, key=lambda row: row[0]))


def keys(due, found) -> list[str]:
    return [line.partition(":")[0] for line in compare(due, found)]


def by_key(rows) -> dict[str, list[str]]:
    said: dict[str, list[str]] = defaultdict(list)
    for key, text, _ in rows:
        said[key].append(text)
    return said


@given(ROWS, ROWS)
def test_the_keys_told_are_those_that_a_look_at_all_rows_at_once_finds(
    due, found
) -> None:
    dues, founds = by_key(due), by_key(found)
    late = {key for key, _, is_late_alone in [*due, *found] if is_late_alone}
    expected = [
        key
        for key in sorted(dues.keys() | founds.keys())
        if dues[key] != founds[key] and (key in late or (dues[key] and founds[key]))
    ]
    assert keys(due, found) == expected


@given(ROWS)
def test_a_table_does_not_differ_from_itself(rows) -> None:
    assert keys(rows, rows) == []


def test_what_may_be_on_its_way_is_no_difference_until_it_is_there_and_says_something_else() -> (
    None
):
    young, other = [("a", "x", False)], [("a", "y", False)]
    assert keys(young, []) == keys([], young) == []
    assert keys(young, other) == ["a"]
    assert keys([("a", "x", True)], []) == ["a"]


def test_of_an_order_that_has_not_ended_any_withdrawal_is_right() -> None:
    assert keys([("a", None, False)], [("a", "x", True)]) == []


def test_what_stands_twice_is_not_what_stands_once() -> None:
    once = [("a", "x", False)]
    assert list(compare(once, once * 2)) == ["a: due is ['x'], found is ['x', 'x']"]


def test_no_more_is_read_than_is_needed_for_the_next_difference() -> None:
    due = ((f"{n:09}", "x", True) for n in count())
    found = ((f"{n:09}", "x" if n % 1000 else "y", True) for n in count())
    assert [line[:9] for line in islice(compare(due, found), 3)] == [
        "000000000",
        "000001000",
        "000002000",
    ]


def test_a_difference_is_one_line_whatever_its_key_holds() -> None:
    [line] = compare([("a\nb", "x", True)], [])
    assert line == "'a\\nb': due is ['x'], found is []"

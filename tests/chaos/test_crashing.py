"""The launcher that makes processes die, and the points where they do."""

import functools
import importlib
import inspect

import pytest

from dev.cli import SERVICES
from tests.chaos.crashing import wrap
from tests.chaos.points import POINTS, rounds


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_every_point_names_an_existing_function(point) -> None:
    """It is named where it is defined: elsewhere, wrapping its name would change no call."""
    module, _, path = point.function.partition(":")
    function = functools.reduce(
        getattr, path.split("."), importlib.import_module(module)
    )
    assert inspect.isfunction(function)
    function = inspect.unwrap(function)
    assert f"{function.__module__}:{function.__qualname__}" == point.function
    assert point.service in SERVICES


def test_in_a_round_each_copy_dies_at_one_point_at_most_and_no_point_is_left_out() -> (
    None
):
    played = [pair for pairs in rounds() for pair in pairs]
    assert sorted(point.name for _, point in played) == sorted(
        point.name for point in POINTS
    )
    for pairs in rounds():
        names = [name for name, _ in pairs]
        assert len(set(names)) == len(names)


def test_a_call_that_found_nothing_to_do_does_not_count() -> None:
    passed = []
    wrapped = wrap(lambda result: result, "after", "", lambda: passed.append(1))
    assert [wrapped(result) for result in (0, False, None, 3, [])] == [
        0,
        False,
        None,
        3,
        [],
    ]
    assert len(passed) == 3


def test_only_calls_that_show_the_text_count() -> None:
    passed = []
    wrapped = wrap(
        lambda *names: len(names), "before", "withdraw", lambda: passed.append(1)
    )
    assert (wrapped("billing.withdraw_many"), wrapped("billing.account_many")) == (1, 1)
    assert len(passed) == 1

"""The launcher that makes a process crash, and the points of crashes."""

import functools
import importlib
import inspect

import pytest

from dev.cli import SERVICES
from tests.chaos.crashing import wrap
from tests.chaos.points import POINTS, rounds


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_every_point_names_an_existing_function(point) -> None:
    """Its name must be that of its definition: wrapping another name would change no call."""
    module, _, path = point.function.partition(":")
    function = functools.reduce(
        getattr, path.split("."), importlib.import_module(module)
    )
    assert inspect.isfunction(function)
    function = inspect.unwrap(function)
    assert f"{function.__module__}:{function.__qualname__}" == point.function
    assert point.service in SERVICES


def test_rounds_have_all_points_and_one_per_copy() -> None:
    played = [point.name for pairs in rounds() for _, point in pairs]
    assert sorted(played) == sorted(point.name for point in POINTS)
    for pairs in rounds():
        names = [name for name, _ in pairs]
        assert len(set(names)) == len(names)


def test_a_call_with_nothing_to_do_does_not_count() -> None:
    counted = []
    wrapped = wrap(lambda result: result, "after", "", lambda: counted.append(1))
    results = [0, False, None, 3, []]
    assert [wrapped(result) for result in results] == results
    assert len(counted) == 3


def test_only_calls_with_the_text_count() -> None:
    counted = []

    def number_of(*names: str) -> int:
        return len(names)

    wrapped = wrap(number_of, "before", "withdraw", lambda: counted.append(1))
    assert (wrapped("billing.withdraw_many"), wrapped("billing.account_many")) == (1, 1)
    assert len(counted) == 1

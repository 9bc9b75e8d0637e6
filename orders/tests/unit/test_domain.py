"""The rules of orders."""

from datetime import timedelta

import pytest
from hypothesis import given, strategies as st

from chassis.errors import DeadlineExceeded, InternalError, Unavailable
from orders import domain
from orders.domain import Settlement, is_overdue, retry_delay_s, settlement_of

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from(["done", "refused"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
)


statuses = anything | st.sampled_from(
    ["done", "refused", "Done", "done ", "conflict", "pending"]
)
outcomes = anything | st.fixed_dictionaries(
    {}, optional={"status": statuses, "reason": anything}
)


def test_a_done_withdrawal_pays_the_order() -> None:
    assert settlement_of("o", {"status": "done", "reason": None}) == Settlement(
        "o", "paid"
    )


def test_a_refused_withdrawal_rejects_the_order_with_its_reason() -> None:
    refused = {"status": "refused", "reason": "insufficient-funds"}
    assert settlement_of("o", refused) == Settlement(
        "o", "rejected", "insufficient-funds"
    )


@pytest.mark.parametrize(
    "outcome",
    [
        DeadlineExceeded("no reply"),
        Unavailable("unavailable"),
        InternalError("failed"),
        {"status": "conflict"},
        {"status": "unavailable"},
        {"status": "invalid", "errors": {}},
        {"status": ["done"]},
        [{"status": "done"}],
        "done",
        True,
        None,
    ],
)
def test_no_other_outcome_settles_an_order(outcome) -> None:
    assert settlement_of("o", outcome) is None


@given(outcomes)
def test_only_an_operation_of_billing_settles_an_order(outcome) -> None:
    settlement = settlement_of("o", outcome)
    if settlement is None:
        return
    assert (settlement.order_id, settlement.status) == (
        "o",
        {"done": "paid", "refused": "rejected"}[outcome["status"]],
    )
    assert settlement.reason == (
        outcome["reason"] if settlement.status == "rejected" else None
    )
    assert bool(settlement.reason) == (settlement.status == "rejected")


@given(anything)
def test_each_operation_settles_an_order(other) -> None:
    assert settlement_of("o", {"status": "done", "reason": other}) == Settlement(
        "o", "paid"
    )
    refused = {"status": "refused", "reason": "insufficient-funds", "id": other}
    assert settlement_of("o", refused) == Settlement(
        "o", "rejected", "insufficient-funds"
    )


@pytest.mark.parametrize("reason", [None, "", 7, ["insufficient-funds"]])
def test_a_refusal_without_a_reason_settles_no_order(reason) -> None:
    """A rejected order needs a reason. The database would refuse the whole batch."""
    assert settlement_of("o", {"status": "refused", "reason": reason}) is None
    assert settlement_of("o", {"status": "refused"}) is None


@given(outcomes)
def test_an_outcome_that_settles_an_order_is_not_a_rejected_request(outcome) -> None:
    assert not (settlement_of("o", outcome) and domain.is_defective_request(outcome))


@given(st.integers(1, 10**9), st.floats(0, 1))
def test_a_retry_delay_is_between_one_and_fifteen_seconds(attempts, jitter) -> None:
    assert 1 <= retry_delay_s(attempts, jitter) <= domain.MAX_RETRY_DELAY_S == 15


@given(st.floats(0, 1))
def test_retry_delays_grow_with_the_attempts(jitter) -> None:
    delays = [retry_delay_s(attempts, jitter) for attempts in range(1, 20)]
    assert delays == sorted(delays)


def test_an_order_is_overdue_after_ten_minutes() -> None:
    assert not is_overdue(timedelta(minutes=10))
    assert is_overdue(timedelta(minutes=10, seconds=1))
    assert timedelta(seconds=3) < domain.FIRST_RETRY_AFTER < domain.CANCEL_AFTER

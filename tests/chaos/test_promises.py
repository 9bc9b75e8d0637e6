"""What docs/reliability.md promises, each under its real fault. The rest of the rows: no ref meets
another in tests/system/test_idempotency.py."""

from dev.cli import SERVICES
from tests.chaos.points import POINTS


def test_nothing_acknowledged_is_lost_when_processes_are_killed(prove) -> None:
    result = prove("kills")
    assert result.orders >= 300
    assert result.faults == 3 * len(SERVICES)


def test_nothing_acknowledged_is_lost_wherever_a_process_dies(prove) -> None:
    result = prove("points")
    assert result.notes == {point.name: 2 for point in POINTS}


def test_duplicates_change_nothing(prove) -> None:
    assert prove("duplicates").orders >= 100


def test_an_account_that_can_pay_400_of_1600_orders_pays_400(prove) -> None:
    prove("overdraft")


def test_one_idempotency_key_has_one_effect(prove) -> None:
    prove("keys")


def test_a_refused_withdrawal_is_refused_each_of_ten_times_it_comes_again(
    prove,
) -> None:
    assert prove("refusal").faults == 10


def test_a_broker_that_restarts_dies_or_hangs_up_loses_nothing(prove) -> None:
    prove("broker")


def test_a_blocked_broker_is_told_in_time_and_all_comes_right_behind_it(prove) -> None:
    prove("blocked")


def test_a_database_that_restarts_dies_or_hangs_up_loses_nothing_and_is_back_soon(
    prove,
) -> None:
    prove("database")


def test_a_process_that_stands_still_holds_up_its_own_work_only(prove) -> None:
    prove("frozen")


def test_a_rolling_restart_fails_no_request_and_does_no_work_twice(prove) -> None:
    assert prove("rolling").faults == 2 * len(SERVICES)  # both copies of each


def test_orders_wait_for_billing_while_it_is_down_and_all_else_goes_on(prove) -> None:
    prove("billing_down")


def test_events_that_wait_for_a_retry_survive_a_broker_that_is_killed_again_and_again(
    prove,
) -> None:
    result = prove("retries")
    assert result.notes["events that wait"] >= 600
    assert result.faults == 4


def test_connections_that_are_there_and_do_not_work_hold_up_nothing_for_long(
    prove,
) -> None:
    prove("halfdead")


def test_a_database_that_cannot_write_is_noticed_and_used_again_when_it_can(
    prove,
) -> None:
    prove("readonly")

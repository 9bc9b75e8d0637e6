"""Prove the promises of docs/reliability.md under real faults, in the small size.

Refs of clients and of orders never conflict: see tests/system/test_idempotency.py.
"""

from dev.cli import SERVICES
from tests.chaos.points import POINTS
from tests.chaos.servers import MIN_WAITING


def test_killed_processes_lose_nothing_acknowledged(prove) -> None:
    result = prove("kills")
    assert result.orders >= 300
    assert result.faults == 3 * len(SERVICES)


def test_a_crash_at_any_point_loses_nothing_acknowledged(prove) -> None:
    result = prove("points")
    assert result.notes == {point.name: 2 for point in POINTS}


def test_duplicates_change_nothing(prove) -> None:
    assert prove("duplicates").orders >= 100


def test_an_account_that_can_pay_400_of_1600_orders_pays_400(prove) -> None:
    prove("overdraft")


def test_one_idempotency_key_has_one_effect(prove) -> None:
    prove("keys")


def test_a_redelivered_refused_withdrawal_stays_refused(prove) -> None:
    assert prove("refusal").faults == 10


def test_a_restarted_or_killed_broker_loses_nothing(prove) -> None:
    prove("broker")


def test_a_blocked_broker_is_reported_and_the_shop_recovers(prove) -> None:
    prove("blocked")


def test_a_restarted_or_killed_database_loses_nothing(prove) -> None:
    prove("database")


def test_a_suspended_process_delays_only_its_own_work(prove) -> None:
    prove("frozen")


def test_a_rolling_restart_fails_no_request_and_does_no_work_twice(prove) -> None:
    assert prove("rolling").faults == 2 * len(SERVICES)  # both copies of each


def test_without_billing_only_orders_wait(prove) -> None:
    assert prove("billing_down").notes["waiting clients"] >= MIN_WAITING


def test_waiting_events_survive_repeated_kills_of_the_broker(prove) -> None:
    result = prove("retries")
    assert result.notes["events that wait"] >= 600
    assert result.faults == 4


def test_connections_that_do_not_work_cause_only_short_delays(prove) -> None:
    prove("halfdead")


def test_a_database_that_cannot_write_is_reported_and_used_later(prove) -> None:
    prove("readonly")

"""Each kind of difference, made by SQL in consistent data, is reported by its checks alone."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from amqp.exceptions import NotFound

from audit import snapshots
from audit.__main__ import QUEUES, audit
from audit.tests.interface.sample_data import insert_shoppers, order, user
from chassis.broker import connect
from chassis.migrate import declare_queues, event_handlers
from conftest import eventually

STRANGER = "ffffffff-0000-7000-8000-000000000000"  # also the id of a new order
PAID, OTHER, REJECTED = order(1, 1), order(2, 2), order(1, 10)


def operation(ref: str, user_id: str, seq: int, values: str) -> str:
    """Return SQL. `values` are kind, amount, status, reason and balance after it."""
    return (
        f"INSERT INTO operations SELECT gen_random_uuid(), '{ref}', '{user_id}', {seq}, {values},"
        " now() - interval '61 s';"
    )


def new_order(id_: str, ended: str, at: str, user_id: str = user(1)) -> str:
    """Return SQL. `ended` has the status and the reason."""
    ended_at = "NULL" if "pending" in ended else at
    values = f"'{id_}', '{user_id}', '{id_}', 7, {ended}"
    return f"INSERT INTO orders SELECT {values}, '-', 0, now(), {at}, {ended_at};"


def letter(id_: str, kind: str = "happiness", n: int = 1) -> str:
    values = f"'{kind}', '{id_}', '{user(n)}', '{n}@example.org'"
    return f"INSERT INTO letters SELECT gen_random_uuid(), {values}, '-', '-', 'stored', now();"


def event(kind: str, id_: str, sent: str = "now()", at: str = "now()") -> str:
    payload = f"jsonb_build_object('order_id', '{id_}')"
    return f"INSERT INTO outbox SELECT gen_random_uuid(), '{kind}', {payload}, '-', {at}, {sent};"


def sign_up(at: str) -> str:
    values = f"'{STRANGER}', 'x', 'x', 'x@x.org', 'x@x.org', 'ru', '-', {at}"
    return f"INSERT INTO users SELECT {values};"


RECIPIENT = f"INSERT INTO recipients VALUES ('{STRANGER}', 'x', 'x@x.org', 'ru');"
ACCOUNT = f"INSERT INTO accounts VALUES ('{STRANGER}');"
OLD, YOUNG = "now() - interval '61 s'", "now() - interval '50 s'"
REJECTED_UNKNOWN = "'rejected', 'unknown-user'"
REFUSED = "'withdrawal', 7, 'refused', 'unknown-user', 0"

# The tables that a test empties before it restores a constraint.
TABLES = {
    "billing": ["operations", "accounts"],
    "orders": ["orders"],
    "notifications": ["letters"],
}
# The SQL by service, and the number of lines by check that report it.
DIFFERENCES = {
    "a balance that is a cent too high": (
        {
            "billing": "UPDATE accounts SET balance_minor = balance_minor + 1"
            f" WHERE user_id = '{user(1)}'"
        },
        {"accounts": 1, "money": 1},
    ),
    "a cent moved from one balance to another": (
        {
            "billing": "UPDATE accounts SET balance_minor = balance_minor"
            f" + CASE user_id WHEN '{user(1)}' THEN 1 WHEN '{user(2)}' THEN -1 ELSE 0 END"
        },
        {"accounts": 2},
    ),
    "a last number that is not the last": (
        {
            "billing": f"UPDATE accounts SET last_seq = last_seq - 1 WHERE user_id = '{user(3)}'"
        },
        {"accounts": 1},
    ),
    "an operation that leaves another balance than it should": (
        {
            "billing": "UPDATE operations SET balance_after_minor = balance_after_minor + 1"
            f" WHERE ref = 'order:{PAID}'"
        },
        {"accounts": 1},
    ),
    "a deleted deposit": (
        {"billing": "DELETE FROM operations WHERE ref = 'shell:1'"},
        {"accounts": 1, "money": 1},
    ),
    "numbers with a gap": (
        {
            "billing": f"UPDATE operations SET seq = 12 WHERE ref = 'order:{REJECTED}';"
            f" UPDATE accounts SET last_seq = 12 WHERE user_id = '{user(1)}'"
        },
        {"accounts": 1},
    ),
    "an account that was below zero for a time": (
        {
            "billing": f"INSERT INTO accounts VALUES ('{STRANGER}', 5, 2);"
            + operation("shell:a", STRANGER, 1, "'withdrawal', 5, 'done', NULL, -5")
            + operation("shell:b", STRANGER, 2, "'deposit', 10, 'done', NULL, 5")
        },
        {"accounts": 1},
    ),
    "money that moved without a number": (
        {"billing": operation("shell:a", STRANGER, 0, "'deposit', 5, 'done', NULL, 5")},
        {"accounts": 1, "money": 1},
    ),
    "a refusal without a number for a known user": (
        {
            "billing": operation(
                "shell:a",
                user(1),
                0,
                "'withdrawal', 5, 'refused', 'insufficient-funds', 0",
            )
        },
        {"accounts": 1},
    ),
    "operations without an account": (
        {"billing": f"DELETE FROM accounts WHERE user_id = '{user(2)}'"},
        {"accounts": 1, "money": 1, "users": 1},
    ),
    "an account without a user": (
        {"billing": f"INSERT INTO accounts VALUES ('{STRANGER}', 0, 0, {OLD})"},
        {"users": 1},
    ),
    "a user without an account": (
        {"users": sign_up(OLD), "notifications": RECIPIENT},
        {"users": 1},
    ),
    "a user without a recipient": (
        {"users": sign_up(OLD), "billing": ACCOUNT},
        {"recipients": 1},
    ),
    "a recipient without a user": ({"notifications": RECIPIENT}, {"recipients": 1}),
    "a recipient with another language": (
        {
            "notifications": f"UPDATE recipients SET locale = 'ru' WHERE user_id = '{user(1)}'"
        },
        {"recipients": 1},
    ),
    "a recipient with another address": (
        {
            "notifications": f"UPDATE recipients SET email = 'x@x.org' WHERE user_id = '{user(1)}'"
        },
        {"recipients": 1, "letters": 10},
    ),
    "an ended order without a withdrawal": (
        {"orders": new_order(STRANGER, REJECTED_UNKNOWN, "now()")},
        {"ledger": 1},
    ),
    "a paid order whose withdrawal was deleted": (
        {"billing": f"DELETE FROM operations WHERE ref = 'order:{PAID}'"},
        {"ledger": 1, "accounts": 1, "money": 1},
    ),
    "an order with another price than its withdrawal": (
        {"orders": f"UPDATE orders SET price_minor = 8 WHERE id = '{PAID}'"},
        {"ledger": 1},
    ),
    "an order of another user than its withdrawal": (
        {
            "orders": f"UPDATE orders SET key = '-', user_id = '{user(2)}' WHERE id = '{PAID}'"
        },
        {"ledger": 1, "letters": 1},
    ),
    "an order rejected for another reason than its withdrawal": (
        {"orders": f"UPDATE orders SET reason = 'cancelled' WHERE id = '{REJECTED}'"},
        {"ledger": 1},
    ),
    "a paid order whose withdrawal was refused": (
        {
            "orders": f"UPDATE orders SET status = 'paid', reason = NULL WHERE id = '{REJECTED}'"
        },
        {"ledger": 1, "letters": 1, "events": 1},
    ),
    "a rejected order whose withdrawal was done": (
        {
            "orders": "UPDATE orders SET status = 'rejected', reason = 'cancelled'"
            f" WHERE id = '{PAID}'"
        },
        {"ledger": 1, "letters": 1, "events": 1},
    ),
    "a deleted order": (
        {"orders": f"DELETE FROM orders WHERE id = '{PAID}'"},
        {"ledger": 1, "letters": 1, "events": 1},
    ),
    "a withdrawal for a missing order": (
        {"billing": operation(f"order:{STRANGER}", STRANGER, 0, REFUSED)},
        {"ledger": 1},
    ),
    "a withdrawal whose ref is not an order id": (
        {"billing": operation("order:x", STRANGER, 0, REFUSED)},
        {"ledger": 1},
    ),
    "a deposit with an order's ref": (
        {
            "billing": operation(
                f"order:{STRANGER}", STRANGER, 1, "'deposit', 7, 'done', NULL, 7"
            )
            + f"INSERT INTO accounts VALUES ('{STRANGER}', 7, 1)",
            "orders": new_order(STRANGER, "'paid', NULL", "now()"),
        },
        {"ledger": 1},
    ),
    "an order pending for too long": (
        {"orders": new_order(STRANGER, "'pending', NULL", OLD)},
        {"pending": 1},
    ),
    "an ended order without a letter": (
        {
            "notifications": f"DELETE FROM letters WHERE order_id IN ('{PAID}', '{REJECTED}')"
        },
        {"letters": 2},
    ),
    "a letter that takes too long": (
        {
            "orders": new_order(
                STRANGER, "'rejected', 'cancelled'", "now() - interval '91 s'"
            ),
            "billing": operation(
                f"order:{STRANGER}",
                user(1),
                12,
                "'withdrawal', 7, 'refused', 'cancelled', 999937",
            )
            + f"UPDATE accounts SET last_seq = 12 WHERE user_id = '{user(1)}'",
        },
        {"letters": 1},
    ),
    "a letter of grief for a paid order": (
        {
            "notifications": f"UPDATE letters SET kind = 'grief' WHERE order_id = '{PAID}'"
        },
        {"letters": 1},
    ),
    "a letter to another user": (
        {
            "notifications": f"UPDATE letters SET user_id = '{user(2)}', email = '2@example.org'"
            f" WHERE order_id = '{PAID}'"
        },
        {"letters": 1},
    ),
    "a letter to another address": (
        {
            "notifications": f"UPDATE letters SET email = '2@example.org' WHERE order_id = '{PAID}'"
        },
        {"letters": 1},
    ),
    "two letters with each other's users": (
        {
            "notifications": f"DELETE FROM letters WHERE order_id IN ('{PAID}', '{OTHER}');"
            + letter(PAID, n=2)
            + letter(OTHER, n=1)
        },
        {"letters": 2},
    ),
    "a letter for a missing order": (
        {"notifications": letter(STRANGER)},
        {"letters": 1},
    ),
    "a letter for a pending order": (
        {
            "orders": new_order(STRANGER, "'pending', NULL", "now()"),
            "notifications": letter(STRANGER),
        },
        {"letters": 1},
    ),
    "a letter for the order of an unknown user": (
        {
            "orders": new_order(STRANGER, REJECTED_UNKNOWN, "now()", STRANGER),
            "billing": operation(f"order:{STRANGER}", STRANGER, 0, REFUSED),
            "notifications": letter(STRANGER, "grief"),
        },
        {"letters": 1},
    ),
    "an order with two events": (
        {"orders": event("order_paid", PAID)},
        {"events": 1},
    ),
    "an order with two different events": (
        {"orders": event("order_rejected", PAID)},
        {"events": 1},
    ),
    "an event of a pending order": (
        {
            "orders": new_order(STRANGER, "'pending', NULL", "now()")
            + event("order_paid", STRANGER)
        },
        {"events": 1},
    ),
    "an event of orders that is not published": (
        {
            "orders": f"UPDATE outbox SET sent_at = NULL, created_at = {OLD}"
            " WHERE type = 'order_rejected'"
        },
        {"outbox": 3},
    ),
    "an event of users that is not published": (
        {"users": event("user_created", STRANGER, "NULL", OLD)},
        {"outbox": 1},
    ),
}
# Differences only if the suite has settled.
IN_FLIGHT = {
    "a new user": (
        {"users": sign_up(YOUNG) + event("user_created", STRANGER, "NULL", YOUNG)},
        {"users": 1, "recipients": 1, "outbox": 1},
    ),
    "an account newer than the snapshot of its user": (
        {"billing": ACCOUNT},
        {"users": 1},
    ),
    "a pending order": (
        {"orders": new_order(STRANGER, "'pending', NULL", YOUNG)},
        {"pending": 1},
    ),
    "a pending order whose withdrawal is done": (
        {
            "orders": new_order(STRANGER, "'pending', NULL", YOUNG, STRANGER),
            "billing": f"INSERT INTO accounts VALUES ('{STRANGER}', 0, 2);"
            + operation("shell:a", STRANGER, 1, "'deposit', 7, 'done', NULL, 7")
            + operation(
                f"order:{STRANGER}", STRANGER, 2, "'withdrawal', 7, 'done', NULL, 0"
            ),
        },
        {"pending": 1, "users": 1},
    ),
    "a withdrawal newer than the snapshot of its order": (
        {
            "billing": operation(f"order:{STRANGER}", STRANGER, 0, REFUSED).replace(
                "61 s", "50 s"
            )
        },
        {"ledger": 1},
    ),
    "an ended order without a letter": (
        {
            "orders": new_order(
                STRANGER, "'rejected', 'cancelled'", "now() - interval '80 s'", STRANGER
            )
            + event("order_rejected", STRANGER, "NULL", YOUNG),
            "billing": f"INSERT INTO accounts VALUES ('{STRANGER}', 0, 1);"
            + operation(
                f"order:{STRANGER}",
                STRANGER,
                1,
                "'withdrawal', 7, 'refused', 'cancelled', 0",
            ),
        },
        {"letters": 1, "outbox": 1, "users": 1},
    ),
}
CONSISTENT = {
    "complete data": {},
    "an order of an unknown user, without a letter": {
        "orders": new_order(STRANGER, REJECTED_UNKNOWN, OLD, STRANGER),
        "billing": operation(f"order:{STRANGER}", STRANGER, 0, REFUSED),
    },
    "events that were cleaned up": {"orders": "DELETE FROM outbox"},
    "a message that is not about an order": {
        "notifications": "INSERT INTO letters SELECT"
        " gen_random_uuid(), 'message', NULL, NULL, 'x@x.org', '-', '-', 'stored', now()"
    },
    "empty tables": {
        "users": "DELETE FROM users",
        "billing": "DELETE FROM operations; DELETE FROM accounts",
        "orders": "DELETE FROM orders; DELETE FROM outbox",
        "notifications": "DELETE FROM letters; DELETE FROM recipients",
    },
}
# Differences that a constraint prevents: the SQL that drops it, makes them and restores it.
LOST_CONSTRAINTS = {
    "refs": (
        "billing",
        "ALTER TABLE operations DROP CONSTRAINT operations_ref_key",
        operation(
            "shell:1", user(1), 12, "'deposit', 5, 'refused', 'balance-limit', 999937"
        )
        + f"UPDATE accounts SET last_seq = 12 WHERE user_id = '{user(1)}'",
        "ALTER TABLE operations ADD UNIQUE (ref)",
        {"refs": 1},
    ),
    "keys": (
        "orders",
        "DROP INDEX orders_by_key",
        f"UPDATE orders SET key = '1' WHERE id = '{order(1, 2)}'",
        "CREATE UNIQUE INDEX orders_by_key ON orders (user_id, key)",
        {"keys": 1},
    ),
    "accounts": (
        "billing",
        "ALTER TABLE accounts DROP CONSTRAINT accounts_pkey",
        f"INSERT INTO accounts VALUES ('{user(1)}')",
        "ALTER TABLE accounts ADD PRIMARY KEY (user_id)",
        {"users": 1},
    ),
    "letters": (
        "notifications",
        "ALTER TABLE letters DROP CONSTRAINT letters_order_id_key",
        letter(PAID),
        "ALTER TABLE letters ADD UNIQUE (order_id)",
        {"letters": 1},
    ),
}


@pytest.fixture(autouse=True)
def _shoppers(clean, sql) -> Iterator[None]:
    """Insert three shoppers with ten orders each. Ended orders can be changed."""
    sql("orders", "ALTER TABLE orders DISABLE TRIGGER ended_orders_stay")
    insert_shoppers(sql, shoppers=3, orders=10)
    yield
    sql("orders", "ALTER TABLE orders ENABLE TRIGGER ended_orders_stay")


def execute(sql, statements: dict[str, str]) -> None:
    for service, statement in statements.items():
        sql(service, statement)


def lines_by_check(config, settled: bool = False) -> Counter:
    """Return the number of lines by the name of their check. Each difference has one."""
    result = audit(config, settled)
    assert result["differences"] == len(result["first"])
    return Counter(line.partition(":")[0] for line in result["first"])


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_only_the_checks_of_a_difference_report_it(config, sql, difference) -> None:
    statements, names = DIFFERENCES[difference]
    execute(sql, statements)
    assert lines_by_check(config) == names


@pytest.mark.parametrize("row", IN_FLIGHT)
def test_a_row_in_flight_is_a_difference_only_if_settled(config, sql, row) -> None:
    statements, names = IN_FLIGHT[row]
    execute(sql, statements)
    assert lines_by_check(config) == {}
    assert lines_by_check(config, settled=True) == names


@pytest.mark.parametrize("data", CONSISTENT)
def test_consistent_data_has_no_differences(config, sql, data) -> None:
    execute(sql, CONSISTENT[data])
    assert lines_by_check(config, settled=True) == {}


@pytest.mark.parametrize("name", LOST_CONSTRAINTS)
def test_rows_that_only_a_lost_constraint_allows_are_differences(
    config, sql, name
) -> None:
    service, drop, statement, restore, names = LOST_CONSTRAINTS[name]
    sql(service, drop)
    try:
        sql(service, statement)
        assert lines_by_check(config) == names
    finally:
        for table in TABLES[service]:
            sql(service, f"DELETE FROM {table}")
        sql(service, restore)


class InterruptedConnection:
    """A connection that calls a function just before its snapshot is taken."""

    def __init__(self, connection: Any, before_snapshot: Callable[[], None]) -> None:
        self._connection = connection
        self._before_snapshot = before_snapshot
        self.close = connection.close

    def cursor(self, *name: str) -> Any:
        if not name:
            self._before_snapshot()
        return self._connection.cursor(*name)


def test_changes_between_the_snapshots_are_not_differences(
    config, sql, monkeypatch
) -> None:
    """Before each snapshot a new shopper signs up, orders and gets letters."""
    numbers = count(100)
    connect_to = snapshots.connect
    monkeypatch.setattr(
        snapshots,
        "connect",
        lambda *of, **session: InterruptedConnection(
            connect_to(*of, **session),
            lambda: insert_shoppers(sql, 1, 10, first=next(numbers), ago="0 s"),
        ),
    )
    assert lines_by_check(config) == {}
    assert next(numbers) == 104
    assert sql("orders", "SELECT count(*) FROM orders") == [(70,)]


def test_it_reads_the_queues_of_all_event_handlers(config) -> None:
    services = ("users", "billing", "orders", "notifications")
    handlers = [
        handler for service in services for handler in event_handlers(config, service)
    ]
    assert sorted(QUEUES) == sorted(handler.queue.name for handler in handlers)


@pytest.fixture
def channel(config) -> Iterator[Any]:
    """Yield a channel of the broker. All event queues are purged afterwards."""
    with connect(config) as connection:
        channel = connection.default_channel
        yield channel
        for queue in QUEUES:
            for name in (queue, f"{queue}.dead"):
                channel.queue_purge(name)


def publish(channel, queue: str) -> None:
    channel.basic_publish(channel.prepare_message(b"{}"), routing_key=queue)


@pytest.mark.parametrize("queue", QUEUES)
def test_dead_letters_are_reported_and_waiting_events_if_settled(
    config, channel, queue
) -> None:
    publish(channel, queue)
    eventually(lambda: lines_by_check(config, settled=True) == {"waiting": 1})
    assert lines_by_check(config) == {}
    publish(channel, f"{queue}.dead")
    eventually(lambda: lines_by_check(config) == {"dead-lettered": 1})


@pytest.mark.parametrize("end", ["", ".dead"])
def test_a_missing_queue_is_an_error(config, channel, end) -> None:
    channel.queue_delete(QUEUES[0] + end)
    try:
        with pytest.raises(NotFound):
            audit(config, settled=True)
    finally:
        declare_queues(config, "billing")

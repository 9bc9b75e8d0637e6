"""Each kind of difference is planted by SQL into a story where all is well, and is told by its name."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from amqp.exceptions import NotFound

from audit import snapshots
from audit.__main__ import QUEUES, audit
from audit.tests.interface.story import order, tell, user
from chassis.amqp import connect
from chassis.migrate import declare_queues, event_handlers
from conftest import eventually

NOBODY = "ffffffff-0000-7000-8000-000000000000"
PAID, OTHER, REJECTED = order(1, 1), order(2, 2), order(1, 10)


def operation(ref: str, user_id: str, seq: int, values: str) -> str:
    """SQL: `values` are kind, amount, status, reason, balance after."""
    return (
        f"INSERT INTO operations SELECT gen_random_uuid(), '{ref}', '{user_id}', {seq}, {values},"
        " now() - interval '61 s';"
    )


def new_order(id_: str, ended: str, at: str, user_id: str = user(1)) -> str:
    """SQL: `ended` are status and reason."""
    ended_at = "NULL" if "pending" in ended else at
    facts = f"'{id_}', '{user_id}', '{id_}', 7, {ended}"
    return f"INSERT INTO orders SELECT {facts}, '-', 0, now(), {at}, {ended_at};"


def letter(id_: str, kind: str = "happiness", n: int = 1) -> str:
    facts = f"'{kind}', '{id_}', '{user(n)}', '{n}@example.org'"
    return f"INSERT INTO letters SELECT gen_random_uuid(), {facts}, '-', '-', 'stored', now();"


def event(kind: str, id_: str, sent: str = "now()", at: str = "now()") -> str:
    payload = f"jsonb_build_object('order_id', '{id_}')"
    return f"INSERT INTO outbox SELECT gen_random_uuid(), '{kind}', {payload}, '-', {at}, {sent};"


def sign_up(at: str) -> str:
    return f"INSERT INTO users SELECT '{NOBODY}', 'x', 'x', 'x@x.org', 'x@x.org', 'ru', '-', {at};"


KEPT = f"INSERT INTO recipients VALUES ('{NOBODY}', 'x', 'x@x.org', 'ru');"
OPENED = f"INSERT INTO accounts VALUES ('{NOBODY}');"
OLD, YOUNG = "now() - interval '61 s'", "now() - interval '50 s'"
UNKNOWN = "'rejected', 'unknown-user'"
REFUSED = "'withdrawal', 7, 'refused', 'unknown-user', 0"

# What is planted, by service, and the names of the checks that tell, with how many lines each.
PLANTED = {
    "a balance that is a cent too high": (
        {
            "billing": f"UPDATE accounts SET balance_minor = balance_minor + 1 WHERE user_id = '{user(1)}'"
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
    "a deposit that is gone": (
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
    "an account that was below zero for a while": (
        {
            "billing": f"INSERT INTO accounts VALUES ('{NOBODY}', 5, 2);"
            + operation("shell:a", NOBODY, 1, "'withdrawal', 5, 'done', NULL, -5")
            + operation("shell:b", NOBODY, 2, "'deposit', 10, 'done', NULL, 5")
        },
        {"accounts": 1},
    ),
    "money that moved without a number": (
        {"billing": operation("shell:a", NOBODY, 0, "'deposit', 5, 'done', NULL, 5")},
        {"accounts": 1, "money": 1},
    ),
    "a refusal without a number of somebody known": (
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
        {"billing": f"INSERT INTO accounts VALUES ('{NOBODY}', 0, 0, {OLD})"},
        {"users": 1},
    ),
    "a user without an account": (
        {"users": sign_up(OLD), "notifications": KEPT},
        {"users": 1},
    ),
    "a user who is not kept as a recipient": (
        {"users": sign_up(OLD), "billing": OPENED},
        {"recipients": 1},
    ),
    "a recipient who is no user": ({"notifications": KEPT}, {"recipients": 1}),
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
        {"orders": new_order(NOBODY, UNKNOWN, "now()")},
        {"ledger": 1},
    ),
    "a paid order whose withdrawal is gone": (
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
            "orders": f"UPDATE orders SET status = 'rejected', reason = 'cancelled' WHERE id = '{PAID}'"
        },
        {"ledger": 1, "letters": 1, "events": 1},
    ),
    "an ended order that is gone": (
        {"orders": f"DELETE FROM orders WHERE id = '{PAID}'"},
        {"ledger": 1, "letters": 1, "events": 1},
    ),
    "a withdrawal for an order that there is not": (
        {"billing": operation(f"order:{NOBODY}", NOBODY, 0, REFUSED)},
        {"ledger": 1},
    ),
    "a withdrawal for what can be no order": (
        {"billing": operation("order:x", NOBODY, 0, REFUSED)},
        {"ledger": 1},
    ),
    "a deposit in an order's name": (
        {
            "billing": operation(
                f"order:{NOBODY}", NOBODY, 1, "'deposit', 7, 'done', NULL, 7"
            )
            + f"INSERT INTO accounts VALUES ('{NOBODY}', 7, 1)",
            "orders": new_order(NOBODY, "'paid', NULL", "now()"),
        },
        {"ledger": 1},
    ),
    "an order pending for too long": (
        {"orders": new_order(NOBODY, "'pending', NULL", OLD)},
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
                NOBODY, "'rejected', 'cancelled'", "now() - interval '91 s'"
            ),
            "billing": operation(
                f"order:{NOBODY}",
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
    "letters that changed places": (
        {
            "notifications": f"DELETE FROM letters WHERE order_id IN ('{PAID}', '{OTHER}');"
            + letter(PAID, n=2)
            + letter(OTHER, n=1)
        },
        {"letters": 2},
    ),
    "a letter for an order that there is not": (
        {"notifications": letter(NOBODY)},
        {"letters": 1},
    ),
    "a letter for an order that is pending": (
        {
            "orders": new_order(NOBODY, "'pending', NULL", "now()"),
            "notifications": letter(NOBODY),
        },
        {"letters": 1},
    ),
    "a letter for the order of a user nobody knows": (
        {
            "orders": new_order(NOBODY, UNKNOWN, "now()", NOBODY),
            "billing": operation(f"order:{NOBODY}", NOBODY, 0, REFUSED),
            "notifications": letter(NOBODY, "grief"),
        },
        {"letters": 1},
    ),
    "an order whose end is told twice": (
        {"orders": event("order_paid", PAID)},
        {"events": 1},
    ),
    "an order whose end is told in two ways": (
        {"orders": event("order_rejected", PAID)},
        {"events": 1},
    ),
    "an event of an order that is pending": (
        {
            "orders": new_order(NOBODY, "'pending', NULL", "now()")
            + event("order_paid", NOBODY)
        },
        {"events": 1},
    ),
    "an event of orders that waits for too long": (
        {
            "orders": f"UPDATE outbox SET sent_at = NULL, created_at = {OLD} WHERE type = 'order_rejected'"
        },
        {"outbox": 3},
    ),
    "an event of users that waits for too long": (
        {"users": event("user_created", NOBODY, "NULL", OLD)},
        {"outbox": 1},
    ),
}
# No differences yet, if the suite is at work; but they are if it has settled.
UNDER_WAY = {
    "a new user": (
        {"users": sign_up(YOUNG) + event("user_created", NOBODY, "NULL", YOUNG)},
        {"users": 1, "recipients": 1, "outbox": 1},
    ),
    "an account newer than the snapshot of its user": (
        {"billing": OPENED},
        {"users": 1},
    ),
    "an order that is pending": (
        {"orders": new_order(NOBODY, "'pending', NULL", YOUNG)},
        {"pending": 1},
    ),
    "an order that is pending, and its withdrawal is done": (
        {
            "orders": new_order(NOBODY, "'pending', NULL", YOUNG, NOBODY),
            "billing": f"INSERT INTO accounts VALUES ('{NOBODY}', 0, 2);"
            + operation("shell:a", NOBODY, 1, "'deposit', 7, 'done', NULL, 7")
            + operation(
                f"order:{NOBODY}", NOBODY, 2, "'withdrawal', 7, 'done', NULL, 0"
            ),
        },
        {"pending": 1, "users": 1},
    ),
    "a withdrawal newer than the snapshot of its order": (
        {
            "billing": operation(f"order:{NOBODY}", NOBODY, 0, REFUSED).replace(
                "61 s", "50 s"
            )
        },
        {"ledger": 1},
    ),
    "an ended order whose letter is not written yet": (
        {
            "orders": new_order(
                NOBODY, "'rejected', 'cancelled'", "now() - interval '80 s'", NOBODY
            )
            + event("order_rejected", NOBODY, "NULL", YOUNG),
            "billing": f"INSERT INTO accounts VALUES ('{NOBODY}', 0, 1);"
            + operation(
                f"order:{NOBODY}",
                NOBODY,
                1,
                "'withdrawal', 7, 'refused', 'cancelled', 0",
            ),
        },
        {"letters": 1, "outbox": 1, "users": 1},
    ),
}
RIGHT = {
    "a story that is all told": {},
    "an order of a user nobody knows, who gets no letter": {
        "orders": new_order(NOBODY, UNKNOWN, OLD, NOBODY),
        "billing": operation(f"order:{NOBODY}", NOBODY, 0, REFUSED),
    },
    "events that were cleaned up": {"orders": "DELETE FROM outbox"},
    "a message to somebody": {
        "notifications": "INSERT INTO letters SELECT gen_random_uuid(), 'message', NULL, NULL, 'x@x.org',"
        " '-', '-', 'stored', now()"
    },
    "nothing at all": {
        "users": "DELETE FROM users",
        "billing": "DELETE FROM operations; DELETE FROM accounts",
        "orders": "DELETE FROM orders; DELETE FROM outbox",
        "notifications": "DELETE FROM letters; DELETE FROM recipients",
    },
}
# Constraints of the database that make what is planted impossible, until they are lost.
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
def _story(clean, sql) -> Iterator[None]:
    """Three shoppers with ten orders each; ended orders can be changed."""
    sql("orders", "ALTER TABLE orders DISABLE TRIGGER ended_orders_stay")
    tell(sql, shoppers=3, orders=10)
    yield
    sql("orders", "ALTER TABLE orders ENABLE TRIGGER ended_orders_stay")


def plant(sql, statements: dict[str, str]) -> None:
    for service, statement in statements.items():
        sql(service, statement)


def told(config, settled: bool = False) -> Counter:
    """How many lines there are by the name of their check; each difference has one."""
    result = audit(config, settled)
    assert result["differences"] == len(result["first"])
    return Counter(line.partition(":")[0] for line in result["first"])


@pytest.mark.parametrize("what", PLANTED)
def test_what_differs_is_told_by_its_name_and_nothing_else_is(
    config, sql, what
) -> None:
    statements, names = PLANTED[what]
    plant(sql, statements)
    assert told(config) == names


@pytest.mark.parametrize("what", UNDER_WAY)
def test_what_is_under_way_differs_only_once_the_suite_has_settled(
    config, sql, what
) -> None:
    statements, names = UNDER_WAY[what]
    plant(sql, statements)
    assert told(config) == {}
    assert told(config, settled=True) == names


@pytest.mark.parametrize("what", RIGHT)
def test_what_is_right_is_no_difference(config, sql, what) -> None:
    plant(sql, RIGHT[what])
    assert told(config, settled=True) == {}


@pytest.mark.parametrize("what", LOST_CONSTRAINTS)
def test_what_a_lost_constraint_lets_in_is_told(config, sql, what) -> None:
    service, lose, statement, mend, names = LOST_CONSTRAINTS[what]
    sql(service, lose)
    try:
        sql(service, statement)
        assert told(config) == names
    finally:
        tables = {
            "billing": "operations",
            "orders": "orders",
            "notifications": "letters",
        }
        sql(service, f"DELETE FROM {tables[service]}")
        if service == "billing":
            sql(service, "DELETE FROM accounts")
        sql(service, mend)


class Eventful:
    """A connection; something happens just before its snapshot is taken."""

    def __init__(self, connection: Any, happen: Callable[[], None]) -> None:
        self._connection = connection
        self._happen = happen
        self.close = connection.close

    def cursor(self, *name: str) -> Any:
        if not name:
            self._happen()
        return self._connection.cursor(*name)


def test_what_happens_between_the_snapshots_is_no_difference(
    config, sql, monkeypatch
) -> None:
    """A new shopper comes, orders and gets letters before each of them."""
    numbers = count(100)
    connect_to = snapshots.connect
    monkeypatch.setattr(
        snapshots,
        "connect",
        lambda *of, **session: Eventful(
            connect_to(*of, **session),
            lambda: tell(sql, 1, 10, first=next(numbers), ago="0 s"),
        ),
    )
    assert told(config) == {}
    assert next(numbers) == 104
    assert sql("orders", "SELECT count(*) FROM orders") == [(70,)]


def test_the_queues_looked_at_are_those_of_all_event_handlers(config) -> None:
    services = ("users", "billing", "orders", "notifications")
    handlers = [
        handler for service in services for handler in event_handlers(config, service)
    ]
    assert sorted(QUEUES) == sorted(handler.queue.name for handler in handlers)


@pytest.fixture
def channel(config) -> Iterator[Any]:
    """A channel of the broker; all event queues are empty again in the end."""
    with connect(config) as connection:
        channel = connection.default_channel
        yield channel
        for queue in QUEUES:
            for name in (queue, f"{queue}.dead"):
                channel.queue_purge(name)


def publish(channel, queue: str) -> None:
    channel.basic_publish(channel.prepare_message(b"{}"), routing_key=queue)


@pytest.mark.parametrize("queue", QUEUES)
def test_dead_letters_are_told_and_waiting_events_once_settled(
    config, channel, queue
) -> None:
    publish(channel, queue)
    eventually(lambda: told(config, settled=True) == {"waiting": 1})
    assert told(config) == {}
    publish(channel, f"{queue}.dead")
    eventually(lambda: told(config) == {"parked": 1})


@pytest.mark.parametrize("end", ["", ".dead"])
def test_a_queue_of_this_version_may_not_be_missing(config, channel, end) -> None:
    channel.queue_delete(QUEUES[0] + end)
    try:
        with pytest.raises(NotFound):
            audit(config, settled=True)
    finally:
        declare_queues(config, "billing")

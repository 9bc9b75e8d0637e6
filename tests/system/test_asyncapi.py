"""Each message of docs/asyncapi.yaml is sent here at least once.

conftest.py compares the messages of all tests with the document.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import amqp
import pytest
import uuid_utils
from nameko.exceptions import IncorrectSignature

from chassis.broker import connect
from chassis.events import ATTEMPTS, ERROR, FAILURES, moves_exchange
from chassis.retries import MAX_FAILURES, MAX_SAME_FAILURES
from conftest import eventually
from dev.broker import MIGRATIONS
from tests.system.shopper import PASSWORD

WRITTEN_BY_HANDLERS = {
    "billing": ["accounts"],
    "notifications": ["recipients", "letters"],
}
REFUSE = """
CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE check_violation; END';
CREATE TRIGGER refused BEFORE INSERT ON {table}
    FOR EACH ROW EXECUTE FUNCTION refuse();
"""


def new_id() -> str:
    return str(uuid_utils.uuid7())


def test_every_documented_message_is_seen(
    suite, suite_config, traffic, new_shopper, rpc, sql
) -> None:
    shopper = new_shopper()
    use_every_route(shopper)
    call_as_an_operator(rpc, shopper)
    cancel_an_order(suite, rpc, sql, shopper)
    queues = traffic.bus.queues_of_events()
    let_handlers_lose_a_grant(suite, suite_config, queues, sql, new_shopper)
    let_different_events_fail_alike(suite_config, traffic, queues, sql, new_shopper)
    let_events_fail_on_their_own(suite, suite_config, queues, sql, new_shopper)
    assert traffic.differences() == []
    assert traffic.bus.unseen == []


def use_every_route(shopper) -> None:
    """Make the calls of the gateway and of the services that it calls, and a refusal."""
    login = {"username": shopper.wanted["username"], "password": PASSWORD}
    assert shopper.post("/tokens", json=login).status_code == 201
    assert shopper.post("/users", json=shopper.wanted).status_code == 409
    assert shopper.get("/users/me").json()["id"] == shopper.id
    shopper.deposit("10.00")
    shopper.withdraw("1.00")
    order = shopper.ended_order("4.00")
    assert shopper.get(f"/orders/{order['id']}").json() == order
    assert shopper.get(f"/orders/{order['id']}/story").json()["order"] == order
    assert shopper.ended_order("6.00")["status"] == "rejected"
    assert shopper.balance == "5.00"
    assert len(shopper.all("/account/operations")) == 4
    assert len(shopper.all("/orders")) == len(shopper.letters(2))
    message = {"subject": "a", "body": "b"}
    assert shopper.post("/notifications", json=message).status_code == 201


def call_as_an_operator(rpc, shopper) -> None:
    """Make the calls of an operator, mistakes too."""
    till = {"user_id": shopper.id, "ref": f"till-{shopper.id}"}
    order = {"user_id": shopper.id, "amount_minor": 100}
    assert rpc.billing.open_account(user_id=shopper.id)["status"] == "open"
    assert rpc.billing.account(user_id=shopper.id)["balance_minor"] == 500
    assert rpc.billing.account(user_id=new_id())["status"] == "unknown-user"
    assert rpc.billing.deposit(**till, amount_minor=100)["status"] == "done"
    assert rpc.billing.deposit(**till, amount_minor=200) == {"status": "conflict"}
    assert rpc.billing.withdraw(**order, order_id=new_id())["status"] == "done"
    assert rpc.billing.cancel(**order, order_id=new_id())["reason"] == "cancelled"
    assert rpc.billing.audit()["status"] == "balanced"
    assert rpc.orders.place(user_id=shopper.id, price_minor=-1)["status"] == "invalid"
    letter = rpc.notifications.send(user_id=new_id(), subject="a", body="b")
    assert letter["status"] == "unknown-user"
    assert rpc.orders.get_many(order_ids=[new_id()]) == [None]
    for get in (
        rpc.orders.get_history,
        rpc.billing.get_withdrawal,
        rpc.notifications.get_letter,
    ):
        assert get(user_id=shopper.id, order_id=new_id()) is None
        assert get(user_id=shopper.id, order_id="42")["status"] == "invalid"
    with pytest.raises(IncorrectSignature):
        rpc.users.get()


def cancel_an_order(suite, rpc, sql, shopper) -> None:
    """Cancel an order that billing did not answer in time. Ask billing while users is down."""
    suite.stop("billing")
    order = shopper.order("1.00").json()
    waited = shopper.get(f"/orders/{order['id']}", headers={"Prefer": "wait=2"})
    assert order["status"] == waited.json()["status"] == "pending"
    older = "UPDATE orders SET created_at = created_at - interval '11 minutes' WHERE id = %s"
    sql("orders", older, [order["id"]])
    suite.stop("users")
    suite.start("billing")
    try:
        assert rpc.billing.account(user_id=new_id()) == {"status": "unavailable"}
        place = f"/orders/{order['id']}"
        eventually(lambda: shopper.get(place).json()["reason"] == "cancelled")
    finally:
        suite.start("users")


def let_handlers_lose_a_grant(suite, config, queues, sql, new_shopper) -> None:
    """Revoke a grant: all handlers pause, and no event is dead-lettered."""
    payer = known_payer(sql, new_shopper)
    revoke = "REVOKE INSERT ON {table} FROM {role}"
    grant = "GRANT INSERT ON {table} TO {role}"
    with everywhere(sql, revoke, grant):
        newcomer = new_shopper()
        orders = [payer.ended_order(price)["id"] for price in ("1.00", "100.00")]
        databases = {f"{service} database" for service in WRITTEN_BY_HANDLERS}
        failing = databases | {handler(queue) for queue in queues}
        eventually(lambda: failed_checks(suite) == failing)
        one_each = [1] * len(queues)
        eventually(lambda: [count(config, queue) for queue in queues] == one_each)
    assert_effects(sql, payer, orders, [newcomer])
    eventually(lambda: all(map(suite.is_ready, WRITTEN_BY_HANDLERS)))
    assert not any(count(config, f"{queue}.dead") for queue in queues)


def let_different_events_fail_alike(config, traffic, queues, sql, new_shopper) -> None:
    """Refuse every row: the handlers pause, and requeue each event that they try."""
    payer = known_payer(sql, new_shopper)
    with new_rows_refused(sql):
        newcomers = [new_shopper() for _ in range(MAX_SAME_FAILURES)]
        orders = [
            payer.ended_order(price)["id"]
            for price in ("1.00", "100.00") * MAX_SAME_FAILURES
        ]
        eventually(lambda: requeued(traffic) == set(queues))
    assert_effects(sql, payer, orders, newcomers)
    assert not any(count(config, f"{queue}.dead") for queue in queues)


def let_events_fail_on_their_own(suite, config, queues, sql, new_shopper) -> None:
    """Let one event fail for the last time, and redrive it after the cause is removed.

    All attempts would take 36 seconds, so the event is only marked with the first four.
    """
    payer = known_payer(sql, new_shopper)
    suite.stop("notifications")
    orders = [payer.ended_order(price)["id"] for price in ("1.00", "100.00")]
    suite.stop("billing")
    newcomer = new_shopper()
    for queue in queues:
        eventually(lambda queue=queue: mark_as_failed(config, queue))
    with new_rows_refused(sql):
        suite.start("billing", "notifications")
        eventually(lambda: all(count(config, f"{queue}.dead") for queue in queues))
    command = [sys.executable, "-W", "ignore", "-m", "chassis.dead", "redrive"]
    printed = subprocess.check_output(
        command, env=suite.environment_of(MIGRATIONS), text=True
    )
    assert set(printed.splitlines()) == {f"{queue}: 1 redriven" for queue in queues}
    assert_effects(sql, payer, orders, [newcomer])


def known_payer(sql, new_shopper) -> Any:
    """Return a shopper with money, whose address notifications has stored."""
    payer = new_shopper()
    payer.deposit("10.00")
    known = "SELECT 1 FROM recipients WHERE user_id = %s"
    eventually(lambda: sql("notifications", known, [payer.id]))
    return payer


def assert_effects(sql, payer, orders, newcomers) -> None:
    """Assert one letter for each order, and an account and a recipient for each user."""
    assert {letter["order_id"] for letter in payer.letters(len(orders))} == set(orders)
    for service, table in (("billing", "accounts"), ("notifications", "recipients")):
        for newcomer in newcomers:
            found = f"SELECT 1 FROM {table} WHERE user_id = %s"
            eventually(lambda of=(service, found, [newcomer.id]): sql(*of))


@contextmanager
def everywhere(sql, statement: str, undo: str) -> Iterator[None]:
    """Execute `statement` for each table that a handler writes, and `undo` at the end."""
    places = [
        (role, table)
        for role, tables in WRITTEN_BY_HANDLERS.items()
        for table in tables
    ]
    try:
        for role, table in places:
            sql(role, statement.format(role=role, table=table))
        yield
    finally:
        for role, table in places:
            sql(role, undo.format(role=role, table=table))


def new_rows_refused(sql) -> AbstractContextManager[None]:
    """Let every INSERT of a handler fail as if it violated a constraint."""
    return everywhere(sql, REFUSE, "DROP FUNCTION IF EXISTS refuse CASCADE")


def handler(queue: str) -> str:
    """Return a handler's name in /readyz, such as billing handle_user_created."""
    return queue.partition("--")[2].replace(".", " ")


def failed_checks(suite) -> set[str]:
    """Return the checks of billing and notifications that /readyz reports as failed."""
    responses = [suite.health(service, "/readyz") for service in WRITTEN_BY_HANDLERS]
    assert {(response.status_code, response.ok) for response in responses} <= {
        (200, True),
        (503, False),
    }
    checks = [
        check for response in responses for check in response.json()["checks"].items()
    ]
    return {name for name, result in checks if result == "away"}


def requeued(traffic) -> set[str]:
    """Return the queues to whose end a handler has moved an event."""
    return {
        message.key
        for message in traffic.messages()
        if (message.exchange or "").startswith("evt-moves--")
        and message.headers.get(FAILURES, MAX_FAILURES) < MAX_FAILURES
    }


def mark_as_failed(config: dict[str, Any], queue: str) -> bool:
    """Mark the event in the queue as if all its attempts except one had failed."""
    with connect(config) as connection:
        channel = connection.default_channel
        event = channel.basic_get(queue, no_ack=True)
        if event:
            failed = MAX_FAILURES - 1
            counts = {ATTEMPTS: failed, FAILURES: failed, ERROR: "refused"}
            headers = {**event.headers, **counts}
            properties = {**event.properties, "application_headers": headers}
            copy = amqp.Message(event.body, **properties)
            service = queue.partition("--")[2].partition(".")[0]
            channel.basic_publish(copy, moves_exchange(service).name, queue)
        return bool(event)


def count(config: dict[str, Any], queue: str) -> int:
    """Return how many messages are in a queue."""
    with connect(config) as connection:
        declared = connection.default_channel.queue_declare(queue, passive=True)
        return int(declared.message_count)


@pytest.mark.parametrize(
    ("kind", "more"), [("queue", "exclusive"), ("exchange", "type")]
)
def test_queues_and_exchanges_are_as_documented(
    suite, shopper, traffic, servers, kind, more
) -> None:
    columns = ("name", "durable", "auto_delete", more)
    there = json.loads(
        servers.rabbitmqctl("-q", f"list_{kind}s", "--formatter", "json", *columns)
    )
    for documented in traffic.bus.bound(kind):
        pattern = re.sub("<[a-z]+>", ".+", re.escape(documented["name"]))
        found = [line for line in there if re.fullmatch(pattern, line["name"])]
        wanted = {
            "durable": documented["durable"],
            "auto_delete": documented["autoDelete"],
            more: documented[more],
        }
        assert found, pattern
        assert [
            line for line in found if line != {**wanted, "name": line["name"]}
        ] == []

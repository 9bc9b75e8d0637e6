"""All that docs/asyncapi.yaml has is brought about here once; conftest.py holds all tests' messages to it."""

import json
import re
import subprocess
import sys
from typing import Any

import amqp
import pytest
import uuid_utils
from nameko.exceptions import IncorrectSignature

from chassis.amqp import connect
from chassis.events import FAILURES, MAX_ATTEMPTS
from conftest import eventually
from tests.system.shopper import PASSWORD

WRITTEN_BY_HANDLERS = {"billing": "accounts", "notifications": "recipients, letters"}


def new_id() -> str:
    return str(uuid_utils.uuid7())


def test_all_that_is_documented_is_seen(suite, suite_config, traffic, new_shopper, rpc, sql) -> None:
    shopper = new_shopper()
    use_the_whole_api(shopper)
    call_what_the_suite_does_not(rpc, shopper)
    have_an_order_cancelled(suite, rpc, sql, shopper)
    let_events_fail(suite, suite_config, traffic, sql, new_shopper)
    assert traffic.differences() == []
    assert traffic.bus.unseen == []


def use_the_whole_api(shopper) -> None:
    """What the gateway asks, what these ask in turn, and a refusal."""
    login = {"username": shopper.wanted["username"], "password": PASSWORD}
    assert shopper.post("/tokens", json=login).status_code == 201
    assert shopper.post("/users", json=shopper.wanted).status_code == 409
    assert shopper.get("/users/me").json()["id"] == shopper.id
    shopper.deposit("10.00")
    shopper.withdraw("1.00")
    order = shopper.ended_order("4.00")
    assert shopper.get(f"/orders/{order['id']}").json() == order
    assert shopper.ended_order("6.00")["status"] == "rejected"
    assert shopper.balance == "5.00"
    assert len(shopper.all("/account/operations")) == 4
    assert len(shopper.all("/orders")) == len(shopper.letters(2))
    assert shopper.post("/notifications", json={"subject": "a", "body": "b"}).status_code == 201


def call_what_the_suite_does_not(rpc, shopper) -> None:
    """What an operator calls by hand, and his mistakes."""
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
    assert rpc.notifications.send(user_id=new_id(), subject="a", body="b")["status"] == "unknown-user"
    with pytest.raises(IncorrectSignature):
        rpc.users.get()


def have_an_order_cancelled(suite, rpc, sql, shopper) -> None:
    """An order that billing did not answer in time; and what billing can't decide without users."""
    suite.stop("billing")
    order = shopper.order("1.00").json()
    assert order["status"] == "pending"
    older = "UPDATE orders SET created_at = created_at - interval '11 minutes' WHERE id = %s"
    sql("orders", older, [order["id"]])
    suite.stop("users")
    suite.start("billing")
    try:
        assert rpc.billing.account(user_id=new_id()) == {"status": "unavailable"}
        eventually(lambda: shopper.get(f"/orders/{order['id']}").json()["reason"] == "cancelled")
    finally:
        suite.start("users")


def let_events_fail(suite, config, traffic, sql, new_shopper) -> None:
    """Each handler fails for a while: its events are retried, parked, redriven, and have their effect."""
    payer = new_shopper()
    payer.deposit("10.00")
    queues = traffic.bus.queues_of_events()
    for service, tables in WRITTEN_BY_HANDLERS.items():
        sql(service, f"REVOKE INSERT ON {tables} FROM {service}")
    try:
        newcomer = new_shopper()
        orders = [payer.ended_order(price)["id"] for price in ("1.00", "100.00")]
        for queue in queues:
            try_for_the_last_time(config, queue)
        eventually(lambda: all(count(config, f"{queue}.dead") for queue in queues))
    finally:
        for service, tables in WRITTEN_BY_HANDLERS.items():
            sql(service, f"GRANT INSERT ON {tables} TO {service}")
    command = [sys.executable, "-W", "ignore", "-m", "chassis.dead", "redrive"]
    told = subprocess.check_output(command, env=suite.environment, text=True)
    assert set(told.splitlines()) == {f"{queue}: 1 redriven" for queue in queues}
    assert {letter["order_id"] for letter in payer.letters(2)} == set(orders)
    eventually(lambda: sql("billing", "SELECT 1 FROM accounts WHERE user_id = %s", [newcomer.id]))
    eventually(lambda: sql("notifications", "SELECT 1 FROM recipients WHERE user_id = %s", [newcomer.id]))


def try_for_the_last_time(config: dict[str, Any], queue: str) -> None:
    """Not 36 s later but at once: an event that failed twice is put aside as one that failed four times."""
    with connect(config) as connection:
        channel = connection.default_channel
        failed = eventually(lambda: channel.basic_get(f"{queue}.retry.1", no_ack=True))
        headers = {**failed.headers, FAILURES: MAX_ATTEMPTS - 1}
        properties = {**failed.properties, "application_headers": headers}
        channel.basic_publish(amqp.Message(failed.body, **properties), "", f"{queue}.retry.0")


def count(config: dict[str, Any], queue: str) -> int:
    """How many messages wait in a queue."""
    with connect(config) as connection:
        messages: int = connection.default_channel.queue_declare(queue, passive=True).message_count
        return messages


@pytest.mark.parametrize(("kind", "more"), [("queue", "exclusive"), ("exchange", "type")])
def test_queues_and_exchanges_are_as_documented(suite, shopper, traffic, servers, kind, more) -> None:
    columns = ("name", "durable", "auto_delete", more)
    there = json.loads(servers.rabbitmqctl("-q", f"list_{kind}s", "--formatter", "json", *columns))
    for documented in traffic.bus.bound(kind):
        pattern = re.sub("<[a-z]+>", ".+", re.escape(documented["name"]))
        found = [line for line in there if re.fullmatch(pattern, line["name"])]
        wanted = {
            "durable": documented["durable"],
            "auto_delete": documented["autoDelete"],
            more: documented[more],
        }
        assert found, pattern
        assert [line for line in found if line != {**wanted, "name": line["name"]}] == []

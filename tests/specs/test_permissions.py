"""docs/permissions.md is what the code says, and each cell about the bus is so on a real broker.

The permissions are those of charts/shop/files/bus.yaml, on a virtual host of their own. No service
runs.
"""

import json
import secrets
from collections.abc import Iterator
from itertools import product
from typing import Any

import amqp
import kombu
import pytest

from dev import bus
from dev.broker import BUS, definitions
from dev.servers import Servers
from dev.specs import permissions

VHOST = "permissions"
BY_SERVICE = [f"rpc-{service}" for service in bus.SERVICES]
EVENTS_QUEUE = "an-audience"


class Broker:
    """A virtual host with the users of bus.yaml, and a queue behind each exchange."""

    def __init__(self, servers: Servers) -> None:
        self._port = servers.ports["rabbitmq"]
        self._passwords = {user: secrets.token_hex(16) for user in permissions.USERS}
        self._opened: dict[str, kombu.Connection] = {}
        file = servers.state / "rabbitmq" / "permissions.json"
        file.write_text(json.dumps(self._definitions()))
        servers.rabbitmqctl("import_definitions", str(file))
        servers.rabbitmqctl(
            "set_permissions", "--vhost", VHOST, "shop", ".*", ".*", ".*"
        )
        self._opened["shop"] = kombu.Connection(f"{servers.env()['AMQP_URI']}{VHOST}")
        self._channel = self._opened["shop"].channel()
        for service in bus.SERVICES:
            self._bind(f"rpc-{service}", "nameko-rpc", f"{service}.*")
        for exchange in {
            f"{event.partition('.')[0]}.events" for event in permissions.events()
        }:
            self._bind(EVENTS_QUEUE, exchange, "#")

    def publishes(self, user: str, exchange: str, key: str) -> bool:
        """Whether the broker confirms a message of this user: then alone it is in a queue."""
        channel = self.channel(user)
        channel.confirm_select()
        try:
            channel.basic_publish(amqp.Message(b"{}"), exchange, key, mandatory=True)
            channel.wait([amqp.spec.Basic.Ack, amqp.spec.Channel.Close])
            confirmed = True
        except amqp.AccessRefused:
            confirmed = False
        assert self._arrived() == [key] * confirmed
        return confirmed

    def receives(self, user: str, exchange: str, key: str) -> bool:
        """Whether this user may bind a queue of its own to these events."""
        queue = self._own_queue(user)
        self._channel.queue_declare(queue, durable=True, auto_delete=False)
        try:
            self.channel(user).queue_bind(queue, exchange, key)
        except amqp.AccessRefused:
            return False
        self._channel.queue_unbind(queue, exchange, key)
        return True

    def channel(self, user: str) -> Any:
        """A channel for one attempt: a refusal closes it."""
        if user not in self._opened:
            login = f"{VHOST}-{user}:{self._passwords[user]}"
            self._opened[user] = kombu.Connection(
                f"amqp://{login}@127.0.0.1:{self._port}/{VHOST}"
            )
        return self._opened[user].channel()

    def close(self) -> None:
        for connection in self._opened.values():
            connection.release()

    def _own_queue(self, user: str) -> str:
        """A queue that this user may bind, where it may bind any."""
        special = {"gateway": "rpc.reply-gateway-1", "migrations": "evt-a-b--c.d"}
        return special.get(
            user, f"{bus.SHELL_REPLIES}1" if user == "operator" else f"rpc-{user}"
        )

    def _arrived(self) -> list[str]:
        """The routing keys of all that is in the queues, which it takes out."""
        found = []
        for queue in (*BY_SERVICE, EVENTS_QUEUE):
            while message := self._channel.basic_get(queue, no_ack=True):
                found.append(message.delivery_info["routing_key"])
        return found

    def _bind(self, queue: str, exchange: str, key: str) -> None:
        self._channel.queue_declare(queue, durable=True, auto_delete=False)
        self._channel.queue_bind(queue, exchange, key)

    def _definitions(self) -> dict[str, Any]:
        """bus.yaml as RabbitMQ imports it, with names that no other virtual host has."""
        found = definitions(self._passwords, BUS, vhost=VHOST)
        for kind, key in (
            ("users", "name"),
            ("permissions", "user"),
            ("topic_permissions", "user"),
        ):
            for each in found[kind]:
                each[key] = f"{VHOST}-{each[key]}"
        return found


@pytest.fixture(scope="module")
def broker(servers: Servers) -> Iterator[Broker]:
    opened = Broker(servers)
    yield opened
    opened.close()


def test_the_document_is_up_to_date() -> None:
    assert permissions.FILE.read_text() == permissions.written(), "run `make specs`"


def test_the_broker_knows_the_users_of_the_tables() -> None:
    assert list(permissions.USERS) == list(bus.bus()["users"])


@pytest.mark.parametrize("user", permissions.USERS)
def test_the_broker_confirms_the_calls_of_the_table_and_refuses_all_others(
    broker, user
) -> None:
    methods = bus.methods()
    confirmed = {
        method for method in methods if broker.publishes(user, "nameko-rpc", method)
    }
    assert confirmed == {
        method for method in methods if permissions.may_call(user, method)
    }


@pytest.mark.parametrize("user", permissions.USERS)
def test_events_are_published_and_received_by_whom_the_table_names_alone(
    broker, user
) -> None:
    for event in permissions.events():
        exchange, key = f"{event.partition('.')[0]}.events", event.partition(".")[2]
        assert broker.publishes(user, exchange, key) == permissions.may_publish(
            user, event
        ), event
        assert broker.receives(user, exchange, key) == permissions.may_receive(
            user, event
        ), event


def test_only_migrations_publish_to_queues_by_their_names(broker) -> None:
    attempts = product(permissions.USERS, (*BY_SERVICE, EVENTS_QUEUE))
    assert {user for user, queue in attempts if broker.publishes(user, "", queue)} == {
        "migrations"
    }

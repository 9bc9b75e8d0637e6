"""docs/permissions.md agrees with the code, and its cells about the bus with a real broker.

The permissions are those of charts/shop/files/bus.yaml, in a new virtual host. No service runs.
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
        everything = (".*", ".*", ".*")
        servers.rabbitmqctl("set_permissions", "--vhost", VHOST, "shop", *everything)
        self._opened["shop"] = kombu.Connection(f"{servers.env()['AMQP_URI']}{VHOST}")
        self._channel = self._opened["shop"].channel()
        for service in bus.SERVICES:
            self._bind(f"rpc-{service}", "nameko-rpc", f"{service}.*")
        for exchange in {exchange_and_key(each)[0] for each in permissions.events()}:
            self._bind(EVENTS_QUEUE, exchange, "#")

    def publishes(self, user: str, exchange: str, key: str) -> bool:
        """Return whether the broker confirms a message of this user.

        It checks that a confirmed message is in a queue, and a refused one is not.
        """
        channel = self.channel(user)
        channel.confirm_select()
        try:
            channel.basic_publish(amqp.Message(b"{}"), exchange, key, mandatory=True)
            channel.wait([amqp.spec.Basic.Ack, amqp.spec.Channel.Close])
        except amqp.AccessRefused:
            assert self._remove_all() == []
            return False
        assert self._remove_all() == [key]
        return True

    def receives(self, user: str, exchange: str, key: str) -> bool:
        """Return whether this user may bind its own queue to these events."""
        queue = self._own_queue(user)
        self._channel.queue_declare(queue, durable=True, auto_delete=False)
        try:
            self.channel(user).queue_bind(queue, exchange, key)
        except amqp.AccessRefused:
            return False
        self._channel.queue_unbind(queue, exchange, key)
        return True

    def channel(self, user: str) -> Any:
        """Open a channel for one attempt, because a refusal closes it."""
        if user not in self._opened:
            login = f"{VHOST}-{user}:{self._passwords[user]}"
            uri = f"amqp://{login}@127.0.0.1:{self._port}/{VHOST}"
            self._opened[user] = kombu.Connection(uri)
        return self._opened[user].channel()

    def close(self) -> None:
        for connection in self._opened.values():
            connection.release()

    def _own_queue(self, user: str) -> str:
        """Return the name of a queue that this user may bind, if it may bind any."""
        special = {
            "gateway": "rpc.reply-gateway-1",
            "migrations": "evt-a-b--c.d",
            "operator": f"{bus.SHELL_REPLIES}1",
        }
        return special.get(user, f"rpc-{user}")

    def _remove_all(self) -> list[str]:
        """Remove all messages from the queues and return their routing keys."""
        found = []
        for queue in (*BY_SERVICE, EVENTS_QUEUE):
            while message := self._channel.basic_get(queue, no_ack=True):
                found.append(message.delivery_info["routing_key"])
        return found

    def _bind(self, queue: str, exchange: str, key: str) -> None:
        self._channel.queue_declare(queue, durable=True, auto_delete=False)
        self._channel.queue_bind(queue, exchange, key)

    def _definitions(self) -> dict[str, Any]:
        """Return bus.yaml as definitions of RabbitMQ, with unique names of users."""
        found = definitions(self._passwords, BUS, vhost=VHOST)
        names = {"users": "name", "permissions": "user", "topic_permissions": "user"}
        for kind, key in names.items():
            for each in found[kind]:
                each[key] = f"{VHOST}-{each[key]}"
        return found


def exchange_and_key(event: str) -> tuple[str, str]:
    """Return the exchange and routing key of an event, for example of `orders.order_paid`."""
    service, _, key = event.partition(".")
    return f"{service}.events", key


@pytest.fixture(scope="module")
def broker(servers: Servers) -> Iterator[Broker]:
    opened = Broker(servers)
    yield opened
    opened.close()


def test_the_document_is_up_to_date() -> None:
    assert permissions.FILE.read_text() == permissions.written(), "run `make specs`"


def test_the_tables_name_the_users_of_the_broker() -> None:
    assert list(permissions.USERS) == list(bus.bus()["users"])


@pytest.mark.parametrize("user", permissions.USERS)
def test_the_broker_accepts_only_the_calls_in_the_table(
    broker: Broker, user: str
) -> None:
    for method in bus.methods():
        is_permitted = permissions.may_call(user, method)
        assert broker.publishes(user, "nameko-rpc", method) == is_permitted, method


@pytest.mark.parametrize("user", permissions.USERS)
def test_only_users_in_the_table_publish_and_receive_events(
    broker: Broker, user: str
) -> None:
    for event in permissions.events():
        exchange, key = exchange_and_key(event)
        may_publish = permissions.may_publish(user, event)
        may_receive = permissions.may_receive(user, event)
        assert broker.publishes(user, exchange, key) == may_publish, event
        assert broker.receives(user, exchange, key) == may_receive, event


def test_only_migrations_publish_to_queues_by_name(broker: Broker) -> None:
    attempts = product(permissions.USERS, (*BY_SERVICE, EVENTS_QUEUE))
    permitted = {user for user, queue in attempts if broker.publishes(user, "", queue)}
    assert permitted == {"migrations"}

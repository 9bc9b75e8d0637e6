"""Listens to all that crosses the broker: its firehose, which copies each message that is published."""

import re
from collections.abc import Iterator
from typing import Any

import kombu
import yaml

from chassis.amqp import connect
from dev.servers import Servers
from dev.specs.asyncapi import YAML
from tests.specs.messages import Bus, Message

QUEUE = "tests-tap"
# See chassis/queue_limits.py and chassis/broker_user.py.
OF_CHECKS = re.compile(
    r"\.check-[0-9a-f]{8}(\.dead)?\Z|\Apermission-check\.[0-9a-f]{16}\Z"
)
FIREHOSE = kombu.Exchange("amq.rabbitmq.trace", "topic", passive=True)


class Traffic:
    """What is published from `with` on, and what is delivered to the handlers of events."""

    def __init__(self, servers: Servers, config: dict[str, Any]) -> None:
        self._servers = servers
        self._config = config
        self._messages: list[Message] = []
        self.bus = Bus(yaml.safe_load(YAML.read_text()))

    def __enter__(self) -> "Traffic":
        keys = [
            "publish.#",
            *(f"deliver.{queue}" for queue in self.bus.queues_of_events()),
        ]
        bindings = [kombu.binding(FIREHOSE, routing_key=key) for key in keys]
        with connect(self._config) as connection:
            for queue in self.bus.bound("queue"):
                if queue["name"].startswith("evt-"):  # what other tests have left
                    connection.default_channel.queue_purge(queue["name"])
            kombu.Queue(QUEUE, bindings=bindings, durable=False)(
                connection.default_channel
            ).declare()
        self._servers.rabbitmqctl("trace_on")
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.rabbitmqctl("trace_off")
        with connect(self._config) as connection:
            connection.default_channel.queue_delete(QUEUE)

    def messages(self) -> list[Message]:
        """All messages so far, but those by which queues and permissions are tried."""
        self._messages += [
            each for each in self._drain() if not OF_CHECKS.search(each.key)
        ]
        return self._messages

    def differences(self) -> list[str]:
        """What of all messages so far is not as documented."""
        return self.bus.differences(self.messages())

    def _drain(self) -> Iterator[Message]:
        """What has come since the last time."""
        with connect(self._config) as connection:
            while copy := connection.default_channel.basic_get(QUEUE, no_ack=True):
                yield _message(copy)


def _message(copy: Any) -> Message:
    """The message that a copy is of."""
    told = copy.headers
    way, _, name = copy.delivery_info["routing_key"].partition(".")
    return Message(
        exchange=told["exchange_name"] if way == "publish" else None,
        key=told["routing_keys"][0] if way == "publish" else name,
        queues=told.get("routed_queues", []),
        properties=told["properties"],
        body=bytes(copy.body or b""),  # of an empty one the library makes a text
    )

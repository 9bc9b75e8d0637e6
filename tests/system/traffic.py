"""Receives a copy of each published message from the broker's firehose."""

import re
from collections.abc import Iterator
from typing import Any

import kombu
import yaml

from chassis.broker import connect
from dev.servers import Servers
from dev.specs.asyncapi import YAML
from tests.specs.messages import Bus, Message

QUEUE = "tests-tap"
# See chassis/broker_checks.py.
CHECKS = re.compile(
    r"\.check-[0-9a-f]{8}(\.dead)?\Z|\Apermission-check\.[0-9a-f]{16}\Z"
)
FIREHOSE = kombu.Exchange("amq.rabbitmq.trace", "topic", passive=True)


class Traffic:
    """All messages that are published, or delivered to event handlers, while it is open."""

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
                if queue["name"].startswith("evt-"):  # may have events of other tests
                    connection.default_channel.queue_purge(queue["name"])
            queue = kombu.Queue(QUEUE, bindings=bindings, durable=False)
            queue(connection.default_channel).declare()
        self._servers.rabbitmqctl("trace_on")
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.rabbitmqctl("trace_off")
        with connect(self._config) as connection:
            connection.default_channel.queue_delete(QUEUE)

    def messages(self) -> list[Message]:
        """Return all messages so far, except those of the checks of queues and permissions."""
        self._messages += [
            each for each in self._drain() if not CHECKS.search(each.key)
        ]
        return self._messages

    def differences(self) -> list[str]:
        """Return how the messages so far differ from the document."""
        return self.bus.differences(self.messages())

    def _drain(self) -> Iterator[Message]:
        """Yield the messages since the last call."""
        with connect(self._config) as connection:
            while copy := connection.default_channel.basic_get(QUEUE, no_ack=True):
                yield _message(copy)


def _message(copy: Any) -> Message:
    """Return the message that the firehose has copied."""
    headers = copy.headers
    action, _, name = copy.delivery_info["routing_key"].partition(".")
    is_published = action == "publish"
    return Message(
        exchange=headers["exchange_name"] if is_published else None,
        key=headers["routing_keys"][0] if is_published else name,
        queues=headers.get("routed_queues", []),
        properties=headers["properties"],
        body=bytes(copy.body or b""),  # the library makes a str of an empty body
    )

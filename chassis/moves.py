"""Moves messages from one queue to another and loses none: a confirmed copy, then the ack."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import amqp
from kombu import Exchange

from chassis.broker import can_encode_headers, connect

COPIED_PROPERTIES = ("content_type", "content_encoding", "message_id")


def moves_exchange(service: str) -> Exchange:
    """The exchange by which a service moves events: to its own queues only, by their names.

    The default exchange reaches every queue, and the broker's permissions cannot narrow that down.
    """
    return Exchange(f"evt-moves--{service}.direct", type="direct")


@contextmanager
def open_channel(config: dict[str, Any]) -> Iterator[Any]:
    """A channel on a connection of its own. Raises one of chassis.broker.CONNECTION_ERRORS."""
    connection = connect(config).transport.establish_connection()
    try:
        channel = connection.channel()
        channel.auto_decode = False  # a body is its bytes, whatever its encoding claims
        yield channel
        connection.close()
    finally:
        connection.collect()  # at once: a broker that is blocked would not answer to a close


def count(channel: Any, queue: str) -> int:
    """How many messages are ready in the queue. Raises NotFound where there is no such queue."""
    return int(channel.queue_declare(queue, passive=True).message_count)


def headers_of(message: Any, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The message's headers for a copy of it, but for these and those by which the broker routes.

    Whoever published the message would choose the queues of the copy by CC and BCC, with the rights
    of the service that makes it.
    """
    given = message.headers or {}
    kept = {name: given[name] for name in given.keys() - {"CC", "BCC", *without}}
    return kept if can_encode_headers(kept) else {}


def properties_of(message: Any) -> dict[str, Any]:
    """The message's properties for a copy of it.

    All others are left out: the broker would refuse another user's `user_id`, and drop the copy
    when its `expiration` is over.
    """
    return {
        name: message.properties[name]
        for name in COPIED_PROPERTIES
        if name in message.properties
    }


def copy_of(message: Any, without: tuple[str, ...] = ()) -> amqp.Message:
    """The message again, persistent, but for these headers."""
    return amqp.Message(
        message.body or b"",
        application_headers=headers_of(message, without),
        delivery_mode=2,
        **properties_of(message),
    )


def move(
    channel: Any,
    source: str,
    target: str,
    exchange: str,
    timeout_s: float,
    copy: Callable[[Any], amqp.Message] = copy_of,
) -> int:
    """Move the messages that are in `source` now to `target`, by the exchange of its service; how many.

    Each is acked when the broker has its copy: a crash in between doubles it. Raises one of
    chassis.broker.CONNECTION_ERRORS, also where `target` is missing.
    """
    moved = 0
    for _ in range(count(channel, source)):
        if message := channel.basic_get(source):
            channel.basic_publish_confirm(
                copy(message),
                exchange,
                target,
                mandatory=True,
                timeout=timeout_s,
                confirm_timeout=timeout_s,
            )
            channel.basic_ack(message.delivery_tag)
            moved += 1
    return moved

"""Moves messages to another queue, without loss: a confirmed copy, then the ack."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import amqp
from kombu import Exchange

from chassis.broker import can_encode_headers, connect

COPIED_PROPERTIES = ("content_type", "content_encoding", "message_id")
# By these headers the broker routes a message to more queues.
ROUTING_HEADERS = {"CC", "BCC"}


def moves_exchange(service: str) -> Exchange:
    """Return the exchange by which a service moves events to its own queues.

    The default exchange reaches every queue, and the broker's permissions cannot restrict that.
    """
    return Exchange(f"evt-moves--{service}.direct", type="direct")


@contextmanager
def open_channel(config: dict[str, Any]) -> Iterator[Any]:
    """Open a channel on a new connection. Raises one of chassis.broker.CONNECTION_ERRORS."""
    connection = connect(config).transport.establish_connection()
    try:
        channel = connection.channel()
        # Bodies stay bytes, whatever their encoding.
        channel.auto_decode = False
        yield channel
        connection.close()
    finally:
        # Without a wait: a blocked broker would not reply to a close.
        connection.collect()


def count(channel: Any, queue: str) -> int:
    """Return the number of messages that are ready in a queue. Raises NotFound."""
    return int(channel.queue_declare(queue, passive=True).message_count)


def headers_of(message: Any, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the headers for a copy of a message, except `without` and ROUTING_HEADERS.

    By CC and BCC, the publisher of a message could send its copy to any queue, with the
    permissions of the service that copies it.
    """
    headers = message.headers or {}
    copied = {
        name: headers[name] for name in headers.keys() - ROUTING_HEADERS - set(without)
    }
    return copied if can_encode_headers(copied) else {}


def properties_of(message: Any) -> dict[str, Any]:
    """Return the properties for a copy of a message.

    The others are omitted. The broker would refuse the `user_id` of another user, and discard the
    copy after its `expiration`.
    """
    return {
        name: value
        for name, value in message.properties.items()
        if name in COPIED_PROPERTIES
    }


def copy_of(message: Any, without: tuple[str, ...] = ()) -> amqp.Message:
    """Return a persistent copy of a message, except the headers `without`."""
    return amqp.Message(
        message.body or b"",
        application_headers=headers_of(message, without),
        delivery_mode=2,
        **properties_of(message),
    )


def move(
    channel: Any,
    *,
    source: str,
    target: str,
    exchange: str,
    timeout_s: float,
    without: tuple[str, ...] = (),
) -> int:
    """Move the messages that are now in `source` to `target`. Return their number.

    The copies do not have the headers `without`. Each message is acked after the broker has
    confirmed its copy. A crash in between duplicates it. Raises one of
    chassis.broker.CONNECTION_ERRORS, also if `target` is missing.
    """
    moved = 0
    for _ in range(count(channel, source)):
        if message := channel.basic_get(source):
            channel.basic_publish_confirm(
                copy_of(message, without),
                exchange,
                target,
                mandatory=True,
                timeout=timeout_s,
                confirm_timeout=timeout_s,
            )
            channel.basic_ack(message.delivery_tag)
            moved += 1
    return moved

"""The broker: connecting, declaring, and a connection to publish on.

`chassis.publishers` has the two ways to publish, `chassis.consumer` receives.
"""

import json
import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import amqp
import eventlet
import kombu
from amqp import serialization, spec

from chassis import patches
from chassis.settings import AMQP_URI, WHOLE_SECONDS, read

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 3
CLOSE_TIMEOUT_S = 1
# With all other properties, headers must fit into a frame of 128 KiB.
MAX_HEADER_BYTES = 120_000
JSON_PROPERTIES = {"content_type": "application/json", "content_encoding": "utf-8"}
PUBLISHING_BLOCKED = "the broker has blocked publishing"
CONNECTION_ERRORS = (amqp.AMQPError, OSError, kombu.exceptions.OperationalError)
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)

patches.apply_all()


class UnsendableError(ValueError):
    """A name or property of a message does not fit into AMQP, such as one of 256 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingMessage:
    """A message to publish. `body` is JSON by `encode_json`, unless `properties` differ."""

    exchange: str
    routing_key: str
    body: bytes
    headers: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)


def encode_json(data: Any) -> bytes:
    """Return `data` as JSON. Raises TypeError or ValueError unless it is plain data."""
    return _ENCODER.encode(data).encode()


def can_encode_headers(headers: dict[str, Any]) -> bool:
    """Whether a message can be published with these headers and a few more.

    py-amqp can read headers that it cannot write.
    """
    try:
        return len(serialization.dumps("F", [headers])) < MAX_HEADER_BYTES
    except Exception:  # py-amqp raises errors of many types
        return False


def broker_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of `config` for Nameko, with AMQP_URI and HEARTBEAT validated.

    AMQP_URI may come from the file that AMQP_URI_FILE names. Raises ConfigurationError.
    """
    return config | {
        "AMQP_URI": read(config, "AMQP_URI", AMQP_URI),
        "AMQP_URI_FILE": "",
        "HEARTBEAT": read(config, "HEARTBEAT", WHOLE_SECONDS),
    }


def connect(config: dict[str, Any]) -> kombu.Connection:
    """Return a connection to the broker, which connects at first use.

    An attempt times out after CONNECT_TIMEOUT_S.
    """
    return kombu.Connection(
        config["AMQP_URI"],
        heartbeat=config["HEARTBEAT"],
        connect_timeout=CONNECT_TIMEOUT_S,
        transport_options={"max_retries": 1},
    )


@contextmanager
def open_channel(config: dict[str, Any]) -> Iterator[Any]:
    """Open a channel on a new connection. Raises one of CONNECTION_ERRORS."""
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


def declare_queue(queue: kombu.Queue, channel: Any) -> None:
    """Declare a queue, its exchange and its binding."""
    declare_exchange(queue.exchange, channel)
    queue.queue_declare(channel=channel)
    queue.queue_bind(channel=channel)


def declare_exchange(exchange: kombu.Exchange, channel: Any) -> None:
    """Declare an exchange if it does not exist.

    A service's own user on the broker has no right to declare an exchange that others use. There
    the migrations or the broker's definitions have declared it.
    The channel must not have consumers: an exchange that does not exist closes the channel, and
    py-amqp opens it again.
    """
    try:
        exchange.declare(channel=channel, passive=True)
    except amqp.NotFound:
        exchange.declare(channel=channel)


def basic_publish(
    channel: Any,
    exchange: str,
    routing_key: str,
    content: amqp.Message,
    *,
    mandatory: bool,
) -> None:
    """Publish a message. py-amqp's own method would read from the connection first."""
    channel.send_method(
        spec.Basic.Publish,
        format="Bssbb",
        args=(0, exchange, routing_key, mandatory, False),
        content=content,
    )


class PublisherConnection:
    """A connection with one channel to publish on, and a greenthread that reads from it.

    A closed connection, a heartbeat and a returned message are noticed at once, not at the next
    publish. `prepare(channel)` runs before the greenthread starts: it may wait for the broker's
    answers, and two greenthreads cannot read from one connection.

    `is_blocked`: the broker, short of memory or disk, accepts no messages.
    """

    # Messages that need a confirm: the broker numbers its confirms.
    published = 0

    def __init__(
        self, config: dict[str, Any], prepare: Callable[[Any], object]
    ) -> None:
        self.closed = False
        self.is_blocked = False
        self.on_closed: Callable[[], object] = lambda: None
        # py-amqp's connection: kombu's would silently reconnect, without our channel.
        self._connection = connect(config).transport.establish_connection()
        self._connection.on_blocked = self._on_blocked
        self._connection.on_unblocked = self._on_unblocked
        try:
            self.channel = self._connection.channel()
            prepare(self.channel)
        except BaseException:  # including a timeout of the caller
            self._connection.collect()
            raise
        self._reader = eventlet.spawn(self._read)

    def publish_all(
        self, messages: Sequence[OutgoingMessage], *, persistent: bool
    ) -> None:
        """Publish messages with one write to the socket."""
        with self._connection.transport.in_one_write():
            for message in messages:
                self.publish(message, persistent=persistent)

    def publish(self, message: OutgoingMessage, *, persistent: bool) -> None:
        """Write one message to the socket. Raises one of CONNECTION_ERRORS, or UnsendableError."""
        if self.closed:
            raise ConnectionError("the broker closed the connection")
        content = amqp.Message(
            message.body,
            application_headers=message.headers,
            **{
                **JSON_PROPERTIES,
                "delivery_mode": 2 if persistent else 1,
                **message.properties,
            },
        )
        try:
            basic_publish(
                self.channel,
                message.exchange,
                message.routing_key,
                content,
                mandatory=True,
            )
        except (struct.error, TypeError, ValueError) as exc:
            # py-amqp raises these before it has written anything.
            raise UnsendableError(str(exc)) from exc

    def _on_blocked(self, reason: str) -> None:
        log.warning("broker_blocked", extra={"reason": reason})
        self.is_blocked = True

    def _on_unblocked(self) -> None:
        log.info("broker_unblocked")
        self.is_blocked = False

    def _read(self) -> None:
        try:
            while True:
                with suppress(TimeoutError):
                    self._connection.blocking_read(timeout=1)
                # May wait for a stalled write, which fails within MAX_SILENCE_S.
                self._connection.heartbeat_tick()
        except Exception as exc:
            log.warning("broker_connection_lost", extra={"error": str(exc)})
            self.closed = True
            self._connection.collect()
            self.on_closed()

    def close(self) -> None:
        """Close the connection. All messages written before reach the broker."""
        if not self.closed:
            self.closed = True
            self._reader.kill()
            with (
                eventlet.Timeout(CLOSE_TIMEOUT_S, exception=False),
                suppress(*CONNECTION_ERRORS),
            ):
                self._connection.close()
            self._connection.collect()

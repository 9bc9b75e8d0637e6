"""The two ways to publish, each on a connection of its own.

`TransientPublisher` is for RPC requests and replies, which may be lost: a call has a deadline, and
a retry the same key. It is unconfirmed and never blocks its caller. `ConfirmedPublisher` is for
events: persistent, mandatory, in batches with one wait for the confirms.

Nameko's own publisher shares one set of transport options between both modes. After one unconfirmed
publish, it would no longer wait for confirms.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any

import eventlet
import kombu
from nameko.extensions import SharedExtension

from chassis.broker import (
    CONNECT_TIMEOUT_S,
    CONNECTION_ERRORS,
    PUBLISHING_BLOCKED,
    OutgoingMessage,
    PublisherConnection,
    UnsendableError,
)
from chassis.errors import Unavailable
from chassis.lifecycle import Lifecycle
from chassis.settings import SECONDS, read

log = logging.getLogger(__name__)

RECONNECT_S = 0.5


class _Publisher(SharedExtension):
    """Owns a connection to the broker. Subclasses replace it when it is lost."""

    _connection: PublisherConnection | None = None

    @property
    def is_blocked(self) -> bool:
        """Whether the broker blocks publishing.

        RabbitMQ reports it to a connection that has published.
        """
        return bool(
            self._connection
            and not self._connection.closed
            and self._connection.is_blocked
        )

    def kill(self) -> None:
        if self._connection:
            self._connection.close()


@dataclass(slots=True, eq=False)
class QueuedMessage:
    """A message in the queue of a TransientPublisher; None once it is written or withdrawn."""

    message: OutgoingMessage | None
    deadline: float = 0.0  # monotonic
    on_unsent: Callable[[str], object] | None = None

    def withdraw(self) -> bool:
        """Withdraw the message. Return False if it was already written or withdrawn."""
        is_withdrawn, self.message = self.message is not None, None
        return is_withdrawn

    def publish(self, connection: PublisherConnection) -> None:
        """Write the message, unless it was withdrawn or its deadline has passed."""
        if monotonic() < self.deadline and (message := self.message):
            # First, so that it cannot be withdrawn during the write.
            self.message = None
            try:
                connection.publish(message, persistent=False)
            except CONNECTION_ERRORS:
                # The broker discards an incomplete message.
                self.message = message
                raise


class TransientPublisher(_Publisher):
    """Publishes transient, unconfirmed messages from one greenthread. Callers only queue them.

    A timeout of a caller therefore never interrupts the write of a frame. While the broker is
    unavailable or blocks publishing, messages with `on_unsent` are withdrawn, and it is called.
    Others wait until their `expiration`. A lost connection is replaced at once, so that the next
    message is published or withdrawn without a wait.
    """

    def __init__(self) -> None:
        self._queue = eventlet.queue.LightQueue()
        # Of the last attempt to reach the broker; empty after a success.
        self._error = ""
        self._is_stopping = False
        # Called with the correlation id of each request that no queue received.
        self.on_returned: Callable[[str], object] = lambda correlation_id: None

    def start(self) -> None:
        self._thread = self.container.spawn_managed_thread(
            self._run, identifier="transient publisher"
        )

    @property
    def unavailable_reason(self) -> str:
        """The reason why nothing can be published now, or ""."""
        return PUBLISHING_BLOCKED if self.is_blocked else self._error

    def publish(
        self,
        message: OutgoingMessage,
        on_unsent: Callable[[str], object] | None = None,
    ) -> QueuedMessage:
        """Queue a message; `properties["expiration"]` (milliseconds, a string) limits its wait.

        `on_unsent(reason)` is called when the message is withdrawn.
        """
        ttl_s = int(message.properties.get("expiration", 60_000)) / 1000
        queued = QueuedMessage(message, monotonic() + ttl_s, on_unsent)
        self._queue.put(queued)
        return queued

    def stop(self) -> None:
        """Publish all that is queued, unless the broker is unavailable, and close."""
        self._is_stopping = True
        self._queue.put(None)
        self._thread.wait()

    def _run(self) -> None:
        while queued := self._queue.get():
            if not self._publish(queued):
                break
        self.kill()

    def _publish(self, queued: QueuedMessage) -> bool:
        """Publish a message, or wait for the broker. False if the service stops meanwhile."""
        while True:
            try:
                connection = self._connected()
                if not connection.is_blocked:
                    queued.publish(connection)
                    return True
            except UnsendableError as exc:
                log.error("message_unsendable", extra={"error": str(exc)})
                return True
            except CONNECTION_ERRORS as exc:
                if not self._error:
                    log.warning("broker_unavailable", extra={"error": str(exc)})
                self._error = f"the broker is unavailable: {exc}"
                self.kill()
            self._withdraw_all(queued)
            if self._is_stopping:
                return False
            eventlet.sleep(RECONNECT_S)

    def _connected(self) -> PublisherConnection:
        if self._connection is None or self._connection.closed:
            # Not an OSError: the transport would then try the broker's next address.
            with eventlet.Timeout(
                CONNECT_TIMEOUT_S,
                kombu.exceptions.OperationalError("no answer in time"),
            ):
                self._connection = PublisherConnection(
                    self.container.config,
                    lambda channel: channel.events["basic_return"].add(self._on_return),
                )
            # An empty message has _run reconnect.
            self._connection.on_closed = partial(self._queue.put, QueuedMessage(None))
            self._error = ""
        return self._connection

    def _withdraw_all(self, first: QueuedMessage) -> None:
        for queued in (first, *self._queue.queue):
            if queued and queued.on_unsent and queued.withdraw():
                queued.on_unsent(self.unavailable_reason)

    def _on_return(
        self, exc: Exception, exchange: str, routing_key: str, message: Any
    ) -> None:
        log.warning("message_returned", extra={"routing_key": routing_key})
        # A reply has no `reply_to`, and its caller chose the correlation id.
        if "reply_to" in message.properties:
            self.on_returned(message.properties["correlation_id"])


class PendingConfirms:
    """The confirms that a batch of messages, each with a `message_id`, waits for.

    `first_tag` is the delivery tag of the first message. For an unroutable message the broker
    sends its return before its confirm.
    """

    def __init__(
        self,
        connection: PublisherConnection,
        first_tag: int,
        messages: Sequence[OutgoingMessage],
    ) -> None:
        self._ids = [message.properties["message_id"] for message in messages]
        self._returned: set[str] = set()
        self._unconfirmed = set(range(first_tag, first_tag + len(messages)))
        self._done = eventlet.Event()
        connection.channel.events.update(
            basic_ack={self._on_ack},
            basic_nack={partial(self._fail, "it refused a message")},
            basic_return={self._on_return},
        )
        connection.on_closed = partial(self._fail, "it closed the connection")

    def wait(self) -> list[bool]:
        """Wait for all confirms. Return, for each message, whether a queue received it."""
        if self._unconfirmed:
            self._done.wait()
        return [message_id not in self._returned for message_id in self._ids]

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self._unconfirmed -= (
            {each for each in self._unconfirmed if each <= tag} if multiple else {tag}
        )
        if not self._unconfirmed and not self._done.ready():
            self._done.send()

    def _on_return(
        self, exc: Exception, exchange: str, routing_key: str, message: Any
    ) -> None:
        self._returned.add(message.properties["message_id"])

    def _fail(self, reason: str, *_: Any) -> None:
        if not self._done.ready():
            self._done.send_exception(Unavailable(reason))


class ConfirmedPublisher(Lifecycle, _Publisher):
    """Publishes persistent messages and waits until the broker confirms them."""

    def __init__(self) -> None:
        self._lock = eventlet.Semaphore()

    def check(self) -> None:
        self._timeout_s = read(self.container.config, "CONFIRM_TIMEOUT_S", SECONDS)

    def publish(self, messages: Sequence[OutgoingMessage]) -> list[bool]:
        """Publish messages. Return, for each, whether a queue received it.

        Raises Unavailable unless the broker confirms all within CONFIRM_TIMEOUT_S, which includes
        the wait for other batches. It may have received any of them then, and all must be
        published again. Raises UnsendableError, and publishes nothing, if a message is unsendable.
        """
        with self._locked_connection() as connection:
            confirms = PendingConfirms(connection, connection.published + 1, messages)
            connection.publish_all(messages, persistent=True)
            # An unsendable message raises before this, and nothing of its batch is written.
            connection.published += len(messages)
            return confirms.wait()

    def check_available(self) -> None:
        """Raise Unavailable if the broker cannot be reached or blocks publishing.

        For a check before expensive work.
        """
        with self._locked_connection():
            pass

    @contextmanager
    def _locked_connection(self) -> Iterator[PublisherConnection]:
        with (
            eventlet.Timeout(
                self._timeout_s, Unavailable("the broker did not answer in time")
            ) as timeout,
            self._lock,
        ):
            if self.is_blocked:
                raise Unavailable(PUBLISHING_BLOCKED)
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = PublisherConnection(
                        self.container.config,
                        lambda channel: channel.confirm_select(),
                    )
                yield self._connection
            except (*CONNECTION_ERRORS, Unavailable) as exc:
                timeout.cancel()
                # The last frame may be incomplete.
                self.stop()
                raise Unavailable(f"the broker is unavailable: {exc}") from exc

    stop = _Publisher.kill

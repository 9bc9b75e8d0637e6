"""Publishing to the broker, in the two ways the suite needs, each on a connection of its own.

`Sender` is for what a deadline and a key make safe to lose (RPC requests and replies): transient,
unconfirmed, never blocking its caller. `ConfirmedPublisher` is for events: persistent, mandatory,
a batch with one wait for its confirms. Nameko's own publisher shares one set of transport options
between both modes and would silently lose its confirms, so neither uses it.
"""

import json
import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

import amqp
import eventlet
import kombu
from amqp import serialization, spec
from eventlet.queue import LightQueue
from kombu.serialization import register
from nameko.extensions import SharedExtension

from chassis import transport  # noqa: F401 - kombu's transport from now on
from chassis.errors import Unavailable
from chassis.settings import AMQP_URI, SECONDS, WHOLE_SECONDS, read

log = logging.getLogger(__name__)

RECONNECT_S = 0.5
CONNECT_TIMEOUT_S = 3
CLOSE_TIMEOUT_S = 1
LONGEST_HEADERS = (
    120_000  # bytes; with all other properties they must fit into a frame of 128 KiB
)
JSON = {"content_type": "application/json", "content_encoding": "utf-8"}
ENCODINGS = ("utf-8", "utf-16", "ascii", "us-ascii", "latin-1", "binary")
MAX_BODY = 2 * 1024 * 1024  # characters; twice the largest page of letters
BLOCKED = "the broker takes no messages"
CONNECTION_ERRORS = (amqp.AMQPError, OSError, kombu.exceptions.OperationalError)


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def _decode(body: str) -> Any:
    """JSON as data; ValueError for a body that could take a service's whole memory."""
    if len(body) > MAX_BODY:
        raise ValueError(f"a body has more than {MAX_BODY} characters")
    return json.loads(body)


# kombu's own decoder makes whatever {"__type__": ...} asks for, and takes twice as long.
register("json", None, _decode, content_type="application/json")

_DECODERS = serialization.PROPERTY_CLASSES  # by class
_read_properties: Callable[..., tuple[dict[str, Any], int]] = _DECODERS[
    spec.Basic.CLASS_ID
]


def _read_properties_safely(data: Any, offset: int) -> tuple[dict[str, Any], int]:
    """Headers that can't be read would end each consumer that meets them: the message has none then."""
    try:
        properties, end = _read_properties(data, offset)
    except Exception:  # whatever the library raises then
        return {}, len(data)
    # kombu would unpack a body to any size: by this header, and by codecs such as bz2.
    properties.get("application_headers", {}).pop("compression", None)
    if properties.get("content_encoding") not in ENCODINGS:
        properties.pop("content_encoding", None)
    return properties, end


_DECODERS[spec.Basic.CLASS_ID] = _read_properties_safely
# For the same reason a name or property that is not UTF-8 is text all the same, and no longer than it was.
serialization.pstr_t = lambda given: (
    given if isinstance(given, str) else given.decode("utf-8", "ignore")
)


class UnsendableError(ValueError):
    """A message whose names or properties AMQP can't hold (more than 255 bytes, say)."""


@dataclass(frozen=True, slots=True)
class Message:
    """What to publish: `body` is JSON, as `encode` makes it, unless `properties` say otherwise."""

    exchange: str
    routing_key: str
    body: bytes
    headers: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)


def can_carry(headers: dict[str, Any]) -> bool:
    """Whether a message can have these headers, and a few more: not all that can be read can be written."""
    try:
        return len(serialization.dumps("F", [headers])) < LONGEST_HEADERS
    except Exception:  # whatever the library raises then
        return False


def encode(data: Any) -> bytes:
    """`data` as JSON. Raises TypeError or ValueError for what is not plain data."""
    return _ENCODER.encode(data).encode()


def connect(config: dict[str, Any]) -> kombu.Connection:
    """A connection to the broker of `config`; made at first use. Times out in CONNECT_TIMEOUT_S."""
    return kombu.Connection(
        config["AMQP_URI"],
        heartbeat=config["HEARTBEAT"],
        connect_timeout=CONNECT_TIMEOUT_S,
        transport_options={"max_retries": 1},
    )


def declare(queue: kombu.Queue, channel: Any) -> None:
    """Declare a queue, bind it, and make its exchange if that is missing."""
    declare_exchange(queue.exchange, channel)
    queue.queue_declare(channel=channel)
    queue.queue_bind(channel=channel)


def declare_exchange(exchange: kombu.Exchange, channel: Any) -> None:
    """Make an exchange if it is missing.

    The channel must have no consumers yet: a missing exchange closes it, and py-amqp opens it again.
    Where each service has its own user on the broker, none may declare or delete an exchange that
    others use. Migrations or the broker's definitions have made it there.
    """
    try:
        exchange.declare(channel=channel, passive=True)
    except amqp.NotFound:
        exchange.declare(channel=channel)


def write(
    channel: Any,
    exchange: str,
    routing_key: str,
    content: amqp.Message,
    *,
    mandatory: bool,
) -> None:
    """Publish a message. channel.basic_publish() would read the connection first."""
    channel.send_method(
        spec.Basic.Publish,
        format="Bssbb",
        args=(0, exchange, routing_key, mandatory, False),
        content=content,
    )


class Link:
    """One connection with one channel, and a greenthread that reads it.

    So a closed connection, a heartbeat or a returned message is seen at once, not at the next publish.
    `prepare(channel)` runs before the reading starts: there stands what waits for an answer, because two
    greenthreads can't read one connection. `is_blocked`: the broker, short of memory or disk, takes nothing.
    """

    def __init__(
        self, config: dict[str, Any], prepare: Callable[[Any], object]
    ) -> None:
        self.closed = False
        self.is_blocked = False
        self.when_closed: Callable[[], object] = lambda: None
        # py-amqp's own connection: kombu's would silently connect again, without our channel.
        self._connection = connect(config).transport.establish_connection()
        self._connection.on_blocked = self._on_blocked
        self._connection.on_unblocked = self._on_unblocked
        try:
            self.channel = self._connection.channel()
            prepare(self.channel)
        except BaseException:  # a time-out of our caller's, too
            self._connection.collect()
            raise
        self._reader = eventlet.spawn(self._read)

    def publish_all(self, messages: Sequence[Message], *, persistent: bool) -> None:
        """Write messages to the socket at once."""
        with self._connection.transport.in_one_write():
            for message in messages:
                self.publish(message, persistent=persistent)

    def publish(self, message: Message, *, persistent: bool) -> None:
        """Write one message to the socket. Raises what CONNECTION_ERRORS names, or UnsendableError."""
        if self.closed:
            raise ConnectionError("the broker closed the connection")
        content = amqp.Message(
            message.body,
            application_headers=message.headers,
            **{**JSON, "delivery_mode": 2 if persistent else 1, **message.properties},
        )
        try:
            write(
                self.channel,
                message.exchange,
                message.routing_key,
                content,
                mandatory=True,
            )
        except (
            struct.error,
            TypeError,
            ValueError,
        ) as exc:  # before anything was written
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
                # It may wait behind a write that hangs, which ends after MAX_SILENCE_S at most.
                self._connection.heartbeat_tick()
        except Exception as exc:  # whatever it was: a link that nobody reads is dead
            log.warning("broker_connection_lost", extra={"error": str(exc)})
            self.closed = True
            self._connection.collect()
            self.when_closed()

    def close(self) -> None:
        """End the connection; what was written before reaches the broker."""
        if self.closed:
            return
        self.closed = True
        self._reader.kill()
        with (
            eventlet.Timeout(CLOSE_TIMEOUT_S, exception=False),
            suppress(*CONNECTION_ERRORS),
        ):
            self._connection.close()
        self._connection.collect()


@dataclass(slots=True, eq=False)
class Queued:
    """A message in the Sender's queue; `message` is None once it is written or withdrawn."""

    message: Message | None
    deadline: float = 0.0
    when_unsent: Callable[[str], object] | None = None

    def take(self) -> Message | None:
        """Return the message to whoever writes or withdraws it first; None to all others."""
        message, self.message = self.message, None
        return message

    def publish(self, link: Link) -> None:
        """Write it to the socket, unless it was withdrawn or its deadline has passed."""
        if monotonic() < self.deadline and (message := self.take()):
            try:
                link.publish(message, persistent=False)
            except CONNECTION_ERRORS:  # the broker discards an incomplete message
                self.message = message
                raise


class _LinkOwner(SharedExtension):
    """Owns a link to the broker. Subclasses replace it when it is lost."""

    _link: Link | None = None

    @property
    def is_blocked(self) -> bool:
        """Whether the broker takes no messages now; known once one was sent during its alarm."""
        return (
            self._link is not None and not self._link.closed and self._link.is_blocked
        )

    def kill(self) -> None:
        if self._link:
            self._link.close()


class Sender(_LinkOwner):
    """Sends transient, unconfirmed messages from one greenthread; callers only queue them.

    So a caller whose time runs out never cuts a frame in two. While the broker is unavailable or
    takes no messages, those with `when_unsent` are withdrawn, and it is called. Others wait until
    their `expiration` has passed. A lost connection is replaced at once: the next message finds a
    new one, or is withdrawn without a wait.
    """

    def __init__(self) -> None:
        self._queue = LightQueue()
        self._error = ""  # of the last attempt to reach the broker
        self._is_stopping = False
        self.when_returned: list[
            Callable[[str], object]
        ] = []  # called with a correlation id: nobody took it

    def start(self) -> None:
        self._thread = self.container.spawn_managed_thread(
            self._run, identifier="rpc sender"
        )

    @property
    def refusal(self) -> str:
        """The reason why no message can be sent now; empty where one can."""
        return BLOCKED if self.is_blocked else self._error

    def send(
        self, message: Message, when_unsent: Callable[[str], object] | None = None
    ) -> Queued:
        """Queue `message`; `properties["expiration"]` (milliseconds, a string) bounds the wait.

        `when_unsent(reason)` is called after the message was withdrawn for lack of a broker.
        """
        ttl_s = int(message.properties.get("expiration", 60_000)) / 1000
        queued = Queued(message, monotonic() + ttl_s, when_unsent)
        self._queue.put(queued)
        return queued

    def stop(self) -> None:
        self._is_stopping = True
        self._queue.put(None)  # behind all that is still to be sent
        self._thread.wait()

    def _run(self) -> None:
        while queued := self._queue.get():
            if not self._send(queued):
                break  # a service that stops does not wait for its broker
        self.kill()

    def _send(self, queued: Queued) -> bool:
        """True when the broker takes messages and this one is done; False at a stop before."""
        while True:
            try:
                link = self._connected()
                if not link.is_blocked:
                    queued.publish(link)
                    return True
            except (
                UnsendableError
            ) as exc:  # nobody's fault but its sender's: the others go on
                log.error("message_unsendable", extra={"error": str(exc)})
                return True
            except CONNECTION_ERRORS as exc:
                if not self._error:
                    log.warning("broker_unavailable", extra={"error": str(exc)})
                self._error = f"the broker is unavailable: {exc}"
                self.kill()
            self._withdraw_calls(queued)
            if self._is_stopping:
                return False
            eventlet.sleep(RECONNECT_S)

    def _connected(self) -> Link:
        if self._link is None or self._link.closed:
            with eventlet.Timeout(
                CONNECT_TIMEOUT_S,
                # An OSError would end the attempt at one of the broker's addresses only.
                kombu.exceptions.OperationalError("no answer in time"),
            ):
                self._link = Link(
                    self.container.config,
                    lambda channel: channel.events["basic_return"].add(self._returned),
                )
            self._link.when_closed = partial(
                self._queue.put, Queued(None)
            )  # _run connects
            self._error = ""
        return self._link

    def _withdraw_calls(self, first: Queued) -> None:
        for queued in (first, *self._queue.queue):
            if queued and queued.when_unsent and queued.take():
                queued.when_unsent(self.refusal)

    def _returned(
        self, exc: Exception, exchange: str, routing_key: str, message: Any
    ) -> None:
        log.warning("message_returned", extra={"routing_key": routing_key})
        for callback in self.when_returned:
            callback(message.properties.get("correlation_id"))


class ConfirmedPublisher(_LinkOwner):
    """Publishes persistent messages and waits until the broker has them."""

    def __init__(self) -> None:
        self._lock = eventlet.Semaphore()
        self._published = 0

    def check(self) -> None:
        self._timeout_s = read(self.container.config, "CONFIRM_TIMEOUT_S", SECONDS)

    def publish(self, messages: Sequence[Message]) -> list[bool]:
        """Publish all, wait once; for each whether a queue took it (False: none is bound).

        Raises Unavailable where the broker does not confirm all within CONFIRM_TIMEOUT_S: any of them may
        have been taken or not, and they must be published again.
        """
        with self._turn() as link:
            batch = _Batch(link, self._published + 1, messages)
            self._published += len(messages)
            link.publish_all(messages, persistent=True)
            return batch.wait()

    def connect(self) -> None:
        """For who has much to do before it can publish: raises Unavailable where that would be in vain."""
        with self._turn():
            pass

    @contextmanager
    def _turn(self) -> Iterator[Link]:
        with self._lock:
            if self.is_blocked:
                raise Unavailable(BLOCKED)
            try:
                with eventlet.Timeout(
                    self._timeout_s, Unavailable("the broker confirms nothing")
                ):
                    yield self._connected()
            except UnsendableError:
                self.stop()  # the tags of the batch are out of step
                raise
            except (*CONNECTION_ERRORS, Unavailable) as exc:
                self.stop()  # a frame may have been cut off in the middle
                raise Unavailable(f"the broker is away: {exc}") from exc

    def _connected(self) -> Link:
        if self._link is None or self._link.closed:
            self._link = Link(
                self.container.config, lambda channel: channel.confirm_select()
            )
            self._published = 0
        return self._link

    stop = _LinkOwner.kill


class _Batch:
    """The confirms of one batch of messages, each with a `message_id`.

    The broker sends a message's return before its confirm.
    """

    def __init__(self, link: Link, first_tag: int, messages: Sequence[Message]) -> None:
        self._ids = [message.properties["message_id"] for message in messages]
        self._returned: set[str] = set()
        self._unconfirmed = set(range(first_tag, first_tag + len(messages)))
        self._done = eventlet.Event()
        link.channel.events["basic_ack"] = {self._on_ack}
        link.channel.events["basic_nack"] = {
            partial(self._fail, "it refused a message")
        }
        link.channel.events["basic_return"] = {self._on_return}
        link.when_closed = partial(self._fail, "it closed the connection")

    def wait(self) -> list[bool]:
        if self._unconfirmed:
            self._done.wait()
        return [message_id not in self._returned for message_id in self._ids]

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self._unconfirmed -= (
            {t for t in self._unconfirmed if t <= tag} if multiple else {tag}
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


def broker_settings(config: dict[str, Any]) -> dict[str, Any]:
    """A copy of `config` for Nameko, with AMQP_URI (also from its file) and HEARTBEAT as read.

    Raises ConfigurationError where a setting of the broker is missing or wrong.
    """
    return config | {
        "AMQP_URI": read(config, "AMQP_URI", AMQP_URI),
        "AMQP_URI_FILE": "",
        "HEARTBEAT": read(config, "HEARTBEAT", WHOLE_SECONDS),
    }

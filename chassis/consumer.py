"""The one consumer connection of a service."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from os import dup
from socket import SHUT_RDWR, socket
from typing import Any

import eventlet
from nameko.messaging import QueueConsumer as NamekoQueueConsumer

from chassis import health
from chassis.broker import CONNECTION_ERRORS, connect, declare_queue

LOOK_S = 0.2
RECONNECT_S = 1


class ConsumerProvider:
    """A provider with a consumer on a channel of its own, whose prefetch changes.

    While `prefetch` is 0 it has none. `QueueConsumer.apply_prefetch` puts a new value into effect.
    """

    prefetch: int

    def consumer(self, channel: Any, accept: Any) -> Any:
        """Return a new consumer. QueueConsumer calls it for each connection and after a pause.

        `channel` belongs to the connection, `accept` lists the content types.
        """
        raise NotImplementedError


class QueueConsumer(NamekoQueueConsumer):
    """Nameko's, with eight differences.

    It stays until the last worker is done: Nameko's closes the connection as soon as nothing more is
    consumed, so a service that stops could not ack what it still works on, and it would be done twice.
    Each wait for the broker has a limit, and a lost connection is replaced with all its consumers.
    A provider may bring a consumer (`provider.consumer(channel, accept)`) with its own channel, and
    change its `prefetch` while it consumes. With 0 it pauses.
    It tries to reach an unavailable broker every RECONNECT_S, and may be stopped meanwhile.
    It looks around every LOOK_S: whether it must stop, and whether a heartbeat is due.
    An ack that meets a broken connection does not end the process: the broker delivers again.
    And a message that can't be read reaches its provider all the same, as None: kombu would log it whole,
    with the passwords in it, and leave its sender without an answer.
    """

    _workers_are_done = False
    _channel: Any = None

    def __init__(self) -> None:
        super().__init__()
        self._pending_changes: list[tuple[Any, eventlet.Event]] = []

    def stop(self) -> None:
        """Called when the workers are done."""
        self._workers_are_done = True
        super().stop()

    def setup(self) -> None:
        super().setup()
        health.add_check(self.container.service_name, "consumer", self._check_connected)

    def _check_connected(self) -> None:
        """For /readyz: raises where requests, replies and events are not received."""
        _open_connection(self._channel)

    def kill(self) -> None:
        """Cut the connection first: a broker that does not answer must not delay the end."""
        if self._channel:
            _cut_off(self._channel)
        super().kill()

    def get_consumers(self, consumer_cls: Any, channel: Any) -> Any:
        self._channel = channel
        self._consumers.clear()
        for provider in self._providers:
            if consumer := self._consumer_of(provider, consumer_cls, channel):
                self._consumers[provider] = consumer
        return list(
            self._consumers.values()
        )  # a pausing provider changes the dictionary meanwhile

    def _consumer_of(self, provider: Any, consumer_cls: Any, channel: Any) -> Any:
        if isinstance(provider, ConsumerProvider):
            if not provider.prefetch:
                return None
            return provider.consumer(channel, self.accept)
        handle = partial(self.handle_message, provider)
        declare_queue(provider.queue, channel)
        consumer = consumer_cls(
            queues=[provider.queue],
            auto_declare=False,
            callbacks=[handle],
            on_decode_error=lambda message, exc: handle(None, message),
            accept=self.accept,
        )
        consumer.qos(prefetch_count=self.prefetch_count)
        return consumer

    def consume(self, *args: Any, **options: Any) -> Iterator[None]:
        """Receive messages. kombu's own method would reconnect without the consumers."""
        with self.consumer_context(**options) as (_, channel, _):
            try:
                while not self.should_stop:
                    self.on_iteration()
                    with suppress(TimeoutError):
                        _open_connection(channel).drain_events(timeout=LOOK_S)
                    _open_connection(channel).heartbeat_tick()
                    yield
            except (
                CONNECTION_ERRORS
            ):  # otherwise each cancel and close would wait for an answer
                _cut_off(channel)
                raise

    @contextmanager
    def establish_connection(self) -> Iterator[Any]:
        with connect(
            self.container.config
        ) as connection:  # within a limit; Nameko's own has none
            connection.ensure_connection(
                self.on_connection_error,
                interval_start=RECONNECT_S,
                interval_step=0,
                callback=self._on_wait,
                reraise_as_library_errors=False,
            )
            yield connection

    def apply_prefetch(self, provider: Any) -> None:
        """Consume with `provider.prefetch` from now on; returns when that is so.

        With 0 its own channel is closed: its unacked messages return to the queue. Without a
        connection there is nothing to do: the next one begins with this prefetch.
        """
        done = eventlet.Event()
        self._pending_changes.append((provider, done))
        done.wait()

    def is_consuming(self, provider: Any) -> bool:
        """Whether the provider has a consumer on an open channel."""
        consumer = self._consumers.get(provider)
        return bool(consumer and consumer.channel.connection)

    def on_iteration(self) -> None:
        self._end_pending(
            self._apply_prefetch
        )  # first: it may bring a consumer to a provider that leaves
        self._release_leaving()
        if not self._consumers and self._workers_are_done:
            self.should_stop = True

    def _on_wait(self) -> None:
        """While the broker is away: a service may stop all the same."""
        self._release_leaving()
        self._end_pending(lambda provider: None)
        if self.should_stop or (not self._providers and self._workers_are_done):
            self.should_stop = True
            raise ConnectionError("stopped while the broker was away")

    def _release_leaving(self) -> None:
        """Consume no more for those who asked to leave, and tell them."""
        leaving = dict(self._pending_remove_providers)
        self._pending_remove_providers.clear()
        for provider, left in leaving.items():
            if consumer := self._consumers.pop(provider, None):
                try:
                    consumer.cancel()
                except (
                    CONNECTION_ERRORS
                ):  # the others must not wait for this broker as well
                    _cut_off(consumer.channel)
            left.send()

    def _end_pending(self, change: Callable[[Any], None]) -> None:
        """Runs in the consumer's own greenthread: no other may read its connection."""
        while self._pending_changes:
            provider, done = self._pending_changes.pop(0)
            try:
                change(provider)
            finally:
                done.send()

    def _apply_prefetch(self, provider: Any) -> None:
        consumer = self._consumers.pop(provider, None)
        if consumer:
            consumer.cancel()  # first: py-amqp warns of each message that meets a closing channel
        if not provider.prefetch and consumer:
            consumer.channel.close()
        elif provider.prefetch and provider in self._providers:
            consumer = consumer or provider.consumer(self._channel, self.accept)
            consumer.qos(prefetch_count=provider.prefetch)
            consumer.consume()
            self._consumers[provider] = consumer

    def ack_message(self, message: Any) -> None:
        self._end(message, message.ack)

    def ack_up_to(self, message: Any) -> None:
        """Ack the message and all earlier ones of its channel, by a single frame."""
        self._end(message, partial(message.ack, multiple=True))

    def ack_each(self, messages: Sequence[Any]) -> None:
        """Ack messages of one channel, each by a frame but in one write."""
        if messages:
            self._end(messages[0], partial(_ack_each, messages))

    def requeue_message(self, message: Any) -> None:
        self._end(message, message.requeue)

    def _end(self, message: Any, end: Callable[[], None]) -> None:
        if message.channel.connection:  # else it is lost, and the broker delivers again
            try:
                end()
            except (
                CONNECTION_ERRORS
            ):  # nothing may follow: an ack of many would end this one, too
                _cut_off(message.channel)


def _open_connection(channel: Any) -> Any:
    if not (channel and channel.connection and channel.connection.connected):
        raise ConnectionResetError("the broker connection is lost")
    return channel.connection


def _cut_off(channel: Any) -> None:
    """Shut down the channel's socket, so that all waits for it fail at once.

    A duplicate reaches TCP alone: an SSLSocket's own shutdown ends TLS too, and its reader raises
    ValueError.
    """
    if connection := channel.connection:
        with (
            suppress(OSError),
            socket(fileno=dup(connection.transport.sock.fileno())) as tcp,
        ):
            tcp.shutdown(SHUT_RDWR)


def _ack_each(messages: Sequence[Any]) -> None:
    with messages[0].channel.connection.transport.in_one_write():
        for message in messages:
            message.ack()

"""The one consumer connection of a service."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from os import dup
from socket import SHUT_RDWR, socket
from typing import Any

import eventlet
from nameko.messaging import QueueConsumer as NamekoQueueConsumer

from chassis import health
from chassis.broker import CONNECTION_ERRORS, connect, declare_queue

# Between two checks for a stop or a heartbeat that is due.
POLL_S = 0.2
RECONNECT_S = 1


class ConsumerProvider:
    """A provider with a channel of its own, and a consumer whose prefetch changes.

    `QueueConsumer.apply_prefetch` puts a new value of `prefetch` into effect.
    """

    prefetch: int  # 0 means no consumer

    def consumer(self, channel: Any, accept: Any) -> Any:
        """Return a new consumer. QueueConsumer calls it for each connection and after a pause.

        `channel` belongs to the connection, `accept` lists the content types.
        """


class QueueConsumer(NamekoQueueConsumer):
    """Nameko's queue consumer, with these differences:

    - It closes the connection when the last worker is done. Nameko's closes it as soon as nothing
      is consumed. A service that stops could not ack the messages of its workers then, and the
      broker would deliver them again.
    - Each wait for the broker has a limit.
    - A lost connection is replaced together with its consumers.
    - An unavailable broker is tried again every RECONNECT_S, and the service can stop meanwhile.
    - A ConsumerProvider has a channel of its own, and changes its prefetch while it consumes.
    - An ack on a broken connection does not end the process. The broker delivers again.
    - Its provider receives an unreadable message too, with None as the body. kombu would log all
      of it, passwords included, and the caller would get no reply.
    """

    _workers_are_done = False
    _channel: Any = None

    def stop(self) -> None:
        """Stop. Nameko calls it when the workers are done."""
        self._workers_are_done = True
        super().stop()

    def setup(self) -> None:
        super().setup()
        self._pending_changes: list[tuple[Any, eventlet.Event]] = []
        # Raises if requests, replies and events cannot be received.
        health.add_check(
            self.container.service_name,
            "consumer",
            lambda: _open_connection(self._channel),
        )

    def kill(self) -> None:
        """Cut the connection first: a broker that does not answer must not delay the stop."""
        if self._channel:
            _cut_off(self._channel)
        super().kill()

    def get_consumers(self, consumer_cls: Any, channel: Any) -> Any:
        self._channel = channel
        self._consumers.clear()
        for provider in self._providers:
            if consumer := self._consumer_of(provider, consumer_cls, channel):
                self._consumers[provider] = consumer
        # A copy: a provider that pauses changes the dictionary meanwhile.
        return list(self._consumers.values())

    def _consumer_of(self, provider: Any, consumer_cls: Any, channel: Any) -> Any:
        if isinstance(provider, ConsumerProvider):
            return (
                provider.consumer(channel, self.accept) if provider.prefetch else None
            )
        handle = partial(self.handle_message, provider)
        declare_queue(provider.queue, channel)
        return consumer_cls(
            queues=[provider.queue],
            auto_declare=False,
            callbacks=[handle],
            on_decode_error=lambda message, exc: handle(None, message),
            accept=self.accept,
            prefetch_count=self.prefetch_count,
        )

    def consume(self, *args: Any, **options: Any) -> Iterator[None]:
        """Receive messages. kombu's own method would reconnect without the consumers."""
        with self.consumer_context(**options) as (_, channel, _):
            try:
                while not self.should_stop:
                    self.on_iteration()
                    with suppress(TimeoutError):
                        _open_connection(channel).drain_events(timeout=POLL_S)
                    _open_connection(channel).heartbeat_tick()
                    yield
            except CONNECTION_ERRORS:
                # Otherwise each cancel and close would wait for the broker.
                _cut_off(channel)
                raise

    @contextmanager
    def establish_connection(self) -> Iterator[Any]:
        # Nameko's own method waits without limit.
        with connect(self.container.config) as connection:
            connection.ensure_connection(
                self.on_connection_error,
                interval_start=RECONNECT_S,
                interval_step=0,
                callback=self._on_retry,
                reraise_as_library_errors=False,
            )
            yield connection

    def apply_prefetch(self, provider: Any) -> None:
        """Consume with `provider.prefetch`. Returns when it is in effect.

        With 0 the provider's channel is closed, and its unacked messages return to the queue.
        Without a connection nothing happens: the next one begins with this prefetch.
        """
        done = eventlet.Event()
        self._pending_changes.append((provider, done))
        done.wait()

    def is_consuming(self, provider: Any) -> bool:
        """Whether the provider has a consumer on an open channel."""
        consumer = self._consumers.get(provider)
        return bool(consumer and consumer.channel.connection)

    def on_iteration(self) -> None:
        # First, because it may give a consumer to a provider that leaves.
        self._run_pending(self._apply_prefetch)
        self._release_leaving()
        if not self._consumers and self._workers_are_done:
            self.should_stop = True

    def _on_retry(self) -> None:
        """Let the service stop while the broker is unavailable."""
        self._release_leaving()
        self._run_pending(lambda provider: None)
        if self.should_stop or (not self._providers and self._workers_are_done):
            self.should_stop = True
            raise ConnectionError("stopped while the broker was unavailable")

    def _release_leaving(self) -> None:
        """Cancel the consumers of providers that unregister, and confirm it to them."""
        while self._pending_remove_providers:
            provider, left = self._pending_remove_providers.popitem()
            if consumer := self._consumers.pop(provider, None):
                try:
                    consumer.cancel()
                except CONNECTION_ERRORS:
                    # The others must not wait for this broker as well.
                    _cut_off(consumer.channel)
            left.send()

    def _run_pending(self, change: Callable[[Any], None]) -> None:
        """Apply pending changes. Only the consumer's own greenthread may read its connection."""
        while self._pending_changes:
            provider, done = self._pending_changes.pop(0)
            try:
                change(provider)
            finally:
                done.send()

    def _apply_prefetch(self, provider: Any) -> None:
        consumer = self._consumers.pop(provider, None)
        if consumer:
            # Before the channel closes: py-amqp warns of each message for a closing channel.
            consumer.cancel()
        if not provider.prefetch and consumer:
            consumer.channel.close()
        elif provider.prefetch and provider in self._providers:
            consumer = consumer or provider.consumer(self._channel, self.accept)
            consumer.qos(prefetch_count=provider.prefetch)
            consumer.consume()
            self._consumers[provider] = consumer

    def ack_message(self, message: Any) -> None:
        self._acknowledge(message, message.ack)

    def ack_up_to(self, message: Any) -> None:
        """Ack a message and all earlier ones of its channel, with one frame."""
        self._acknowledge(message, partial(message.ack, multiple=True))

    def requeue_message(self, message: Any) -> None:
        self._acknowledge(message, message.requeue)

    def _acknowledge(self, message: Any, send: Callable[[], None]) -> None:
        # On a lost channel there is nothing to acknowledge: the broker delivers again.
        if message.channel.connection:
            try:
                send()
            except CONNECTION_ERRORS:
                # Nothing may follow: a later ack_up_to would include this message.
                _cut_off(message.channel)


def _open_connection(channel: Any) -> Any:
    """Return the connection of the channel. Raises ConnectionResetError if it is lost."""
    if not (channel and channel.connection and channel.connection.connected):
        raise ConnectionResetError("the broker connection is lost")
    return channel.connection


def _cut_off(channel: Any) -> None:
    """Shut down the channel's socket, so that all waits for it fail at once.

    A duplicate of the socket shuts down TCP alone. An SSLSocket's own method would end TLS too,
    and its reader would raise ValueError.
    """
    if connection := channel.connection:
        with (
            suppress(OSError),
            socket(fileno=dup(connection.transport.sock.fileno())) as tcp,
        ):
            tcp.shutdown(SHUT_RDWR)

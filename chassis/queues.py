"""The one consumer connection of a service."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from nameko.messaging import QueueConsumer as NamekoQueueConsumer

from chassis.amqp import CONNECTION_ERRORS

LOOK_S = 0.2
RECONNECT_S = 1


class QueueConsumer(NamekoQueueConsumer):
    """Nameko's, with six differences.

    It stays until the last worker is done: Nameko's closes the connection as soon as nothing more
    is consumed, so a service that stops could not ack what it still works on, and it is done twice.
    It lets each provider declare what it needs beside its queue (`provider.declare(channel)`).
    A body that can't be decoded goes to `provider.handle_undecodable`, where there is one.
    It tries to reach a broker that is away every RECONNECT_S, and may be stopped meanwhile.
    It looks around every LOOK_S: whether it shall stop, and whether a heartbeat is due.
    And an ack that meets a broken connection does not end the process: the broker delivers again.
    """

    _workers_are_done = False

    def stop(self) -> None:
        """Called when the workers are done."""
        self._workers_are_done = True
        super().stop()

    def get_consumers(self, consumer_cls: Any, channel: Any) -> Any:
        for provider in self._providers:
            if declare := getattr(provider, "declare", None):
                declare(channel)
        consumers = super().get_consumers(consumer_cls, channel)
        for provider, consumer in self._consumers.items():
            if handle := getattr(provider, "handle_undecodable", None):  # kombu's own way is to ack it
                consumer.on_decode_error = handle
        return consumers

    def consume(self, *args: Any, **options: Any) -> Any:
        return super().consume(*args, safety_interval=LOOK_S, **options)

    @contextmanager
    def establish_connection(self) -> Iterator[Any]:
        with self.create_connection() as connection:
            connection.ensure_connection(
                self.on_connection_error,
                interval_start=RECONNECT_S,
                interval_step=0,
                callback=self._on_wait,
                reraise_as_library_errors=False,
            )
            yield connection

    def on_iteration(self) -> None:
        self._release_leaving()
        if not self._consumers and self._workers_are_done:
            self.should_stop = True

    def _on_wait(self) -> None:
        """While the broker is away: a service may stop all the same."""
        self._release_leaving()
        if self.should_stop or (not self._providers and self._workers_are_done):
            self.should_stop = True
            raise ConnectionError("stopped while the broker was away")

    def _release_leaving(self) -> None:
        """Consume no more for those who asked to leave, and tell them."""
        leaving = dict(self._pending_remove_providers)
        self._pending_remove_providers.clear()
        for provider, left in leaving.items():
            if consumer := self._consumers.pop(provider, None):
                with suppress(*CONNECTION_ERRORS):
                    consumer.cancel()
            left.send()

    def ack_message(self, message: Any) -> None:
        with suppress(*CONNECTION_ERRORS):
            super().ack_message(message)

    def requeue_message(self, message: Any) -> None:
        with suppress(*CONNECTION_ERRORS):
            super().requeue_message(message)

"""The one consumer connection of a service."""

from contextlib import suppress
from typing import Any

from nameko.messaging import QueueConsumer as NamekoQueueConsumer

from chassis.amqp import CONNECTION_ERRORS

LOOK_S = 0.2


class QueueConsumer(NamekoQueueConsumer):
    """Nameko's, with four differences.

    It stays until the last worker is done: Nameko's closes the connection as soon as nothing more
    is consumed, so a service that stops could not ack what it still works on, and it is done twice.
    It lets each provider declare what it needs beside its queue (`provider.declare(channel)`).
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
        return super().get_consumers(consumer_cls, channel)

    def consume(self, *args: Any, **options: Any) -> Any:
        return super().consume(*args, safety_interval=LOOK_S, **options)

    def on_iteration(self) -> None:
        self._cancel_consumers_if_requested()
        if not self._consumers and self._workers_are_done:
            self.should_stop = True

    def ack_message(self, message: Any) -> None:
        with suppress(*CONNECTION_ERRORS):
            super().ack_message(message)

    def requeue_message(self, message: Any) -> None:
        with suppress(*CONNECTION_ERRORS):
            super().requeue_message(message)

"""The one consumer connection of a service."""

from typing import Any

from nameko.messaging import QueueConsumer as NamekoQueueConsumer


class QueueConsumer(NamekoQueueConsumer):
    """Nameko's, with two differences.

    It stays until the last worker is done: Nameko's closes the connection as soon as nothing more
    is consumed, so a service that stops could not ack what it still works on, and it is done twice.
    And it lets each provider declare what it needs beside its queue (`provider.declare(channel)`).
    """

    def get_consumers(self, consumer_cls: Any, channel: Any) -> Any:
        for provider in self._providers:
            if declare := getattr(provider, "declare", None):
                declare(channel)
        return super().get_consumers(consumer_cls, channel)

    def on_iteration(self) -> None:
        self._cancel_consumers_if_requested()
        if not self._consumers and not self.container._worker_threads:
            self.should_stop = True

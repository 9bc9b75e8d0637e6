"""The broker's confirms of a batch of messages."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import eventlet

from chassis.broker import OutgoingMessage, PublisherConnection
from chassis.errors import Unavailable


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

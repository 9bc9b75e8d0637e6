"""Messages of the bus, copied as they pass and delivered again: what a broker may always do."""

import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import eventlet
import kombu
from kombu import Exchange, Queue

COPY = "x-chaos-copy"  # the header that tells our copies from what is copied
EXCHANGES = {
    "nameko-rpc": ("billing.deposit_many", "billing.withdraw_many", "billing.cancel_many",
                   "orders.place_many", "users.create"),
    "orders.events": ("order_paid", "order_rejected"),
    "users.events": ("user_created",),
}  # fmt: skip
LOOK_S = 0.02
MOMENT_S = 0.2


@dataclass(frozen=True)
class Caught:
    """A message as it passed."""

    exchange: str
    routing_key: str
    body: bytes
    headers: dict[str, Any]
    properties: dict[str, Any]

    def publish(self, producer: Any, **changed: Any) -> None:
        producer.publish(
            self.body,
            exchange=self.exchange,
            routing_key=self.routing_key,
            headers={**self.headers, COPY: 1},
            **{**self.properties, **changed},
        )


class Tap:
    """A queue of our own that sees each event, and each RPC that the shop promises to do once however
    often it comes: sign-ups, orders, and what moves money or forbids it. notifications.send is none of
    them, it has no key."""

    def __init__(self, uri: str) -> None:
        self.caught: list[Caught] = []
        self._connection = kombu.Connection(uri)
        self._channel = self._connection.channel()
        self.producer = kombu.Producer(self._channel, auto_declare=False)
        queue = Queue("", exclusive=True, channel=self._channel)
        queue.declare()
        for exchange, keys in EXCHANGES.items():
            for key in keys:
                queue.bind_to(Exchange(exchange), key)
        self._consumer = kombu.Consumer(
            self._channel,
            [queue],
            on_message=self._catch,
            no_ack=True,
            auto_declare=False,
        )
        self._consumer.consume()

    def look(self) -> None:
        """Take what has passed until now, for a moment at most."""
        until = time.monotonic() + MOMENT_S
        with suppress(TimeoutError):
            while time.monotonic() < until:
                self._connection.drain_events(timeout=LOOK_S)

    def answers(self, hear: Callable[[Any], object]) -> str:
        """The `reply_to` of requests whose answers' bodies `hear` gets."""
        key = str(uuid.uuid4())
        queue = Queue("", exclusive=True, channel=self._channel)
        queue.declare()
        queue.bind_to(Exchange("nameko-rpc"), key)
        consumer = kombu.Consumer(
            self._channel, [queue], no_ack=True, auto_declare=False
        )
        consumer.register_callback(lambda body, message: hear(body))
        consumer.consume()
        return key

    def close(self) -> None:
        self._connection.close()

    def _catch(self, message: Any) -> None:
        if COPY in message.headers:
            return
        given = message.properties
        properties = {
            name: given[name] for name in given if name != "application_headers"
        }
        if "expiration" in properties:
            properties["expiration"] = (
                int(properties["expiration"]) / 1000
            )  # kombu's are seconds
        properties.setdefault("content_type", message.content_type)
        properties.setdefault("content_encoding", message.content_encoding)
        info = message.delivery_info
        body = (
            message.body if isinstance(message.body, bytes) else message.body.encode()
        )
        self.caught.append(
            Caught(
                info["exchange"],
                info["routing_key"],
                body,
                dict(message.headers),
                properties,
            )
        )


class Repeater:
    """Delivers what passes up to four times more, out of order, some of it late."""

    def __init__(self, tap: Tap, chance: random.Random, late_s: float) -> None:
        self.copies: Counter[str] = Counter()
        self._tap = tap
        self._chance = chance
        self._late_s = late_s
        self._due: list[tuple[float, Caught]] = []

    def run(self, going: list[bool]) -> None:
        """Until `going` is empty and the last copy is delivered."""
        while going or self._due:
            self._tap.look()
            for message in self._tap.caught:
                self._plan(message)
            self._tap.caught.clear()
            self._deliver()

    def _plan(self, message: Caught) -> None:
        for _ in range(self._chance.randint(0, 4)):
            is_late = self._chance.random() < 0.1
            wait_s = self._late_s if is_late else self._chance.uniform(0, 0.5)
            self._due.append((time.monotonic() + wait_s, message))

    def _deliver(self) -> None:
        now = time.monotonic()
        due = [message for moment, message in self._due if moment <= now]
        self._due = [waiting for waiting in self._due if waiting[0] > now]
        for message in self._chance.sample(due, len(due)):
            message.publish(self._tap.producer)
            self.copies[message.routing_key] += 1


@contextmanager
def tap(uri: str) -> Iterator[Tap]:
    opened = Tap(uri)
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def repeated(uri: str, chance: random.Random, late_s: float) -> Iterator[Repeater]:
    """What EXCHANGES names is delivered up to four times more inside; behind it, the last copy is out."""
    with tap(uri) as opened:
        repeater, going = Repeater(opened, chance, late_s), [True]
        thread = eventlet.spawn(repeater.run, going)
        try:
            yield repeater
            going.clear()
            thread.wait()
        finally:
            thread.kill()  # where an interruption comes first; two can't read one connection

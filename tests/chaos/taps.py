"""Capture messages of the bus and redeliver them, as a broker may at any time."""

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

COPY = "x-chaos-copy"  # a header that marks redelivered messages
# Routing keys by exchange: all events, and the RPCs that the shop promises to execute once.
# notifications.send is not among them, because it has no key.
EXCHANGES = {
    "nameko-rpc": (
        "billing.deposit_many",
        "billing.withdraw_many",
        "billing.cancel_many",
        "orders.place_many",
        "users.create",
    ),
    "orders.events": ("order_paid", "order_rejected"),
    "users.events": ("user_created",),
}
POLL_S = 0.02
DRAIN_S = 0.2


@dataclass(frozen=True, kw_only=True)
class CapturedMessage:
    """A message as published."""

    exchange: str
    routing_key: str
    body: bytes
    headers: dict[str, Any]
    properties: dict[str, Any]

    def publish(self, producer: Any, **changed: Any) -> None:
        properties = {**self.properties, **changed}
        producer.publish(
            self.body,
            exchange=self.exchange,
            routing_key=self.routing_key,
            headers={**self.headers, COPY: 1},
            **properties,
        )


class Tap:
    """A queue that receives a copy of each message in EXCHANGES."""

    def __init__(self, uri: str) -> None:
        self.captured: list[CapturedMessage] = []
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
            on_message=self._capture,
            no_ack=True,
            auto_declare=False,
        )
        self._consumer.consume()

    def drain(self) -> None:
        """Capture the messages that have arrived. It takes DRAIN_S at most."""
        deadline = time.monotonic() + DRAIN_S
        with suppress(TimeoutError):
            while time.monotonic() < deadline:
                self._connection.drain_events(timeout=POLL_S)

    def reply_queue(self, on_reply: Callable[[Any], object]) -> str:
        """Return a `reply_to` for requests. `on_reply` receives the bodies of the replies."""
        key = str(uuid.uuid4())
        queue = Queue("", exclusive=True, channel=self._channel)
        queue.declare()
        queue.bind_to(Exchange("nameko-rpc"), key)
        consumer = kombu.Consumer(
            self._channel, [queue], no_ack=True, auto_declare=False
        )
        consumer.register_callback(lambda body, message: on_reply(body))
        consumer.consume()
        return key

    def close(self) -> None:
        self._connection.close()

    def _capture(self, message: Any) -> None:
        if COPY in message.headers:
            return
        properties = dict(message.properties)
        properties.pop("application_headers", None)
        if "expiration" in properties:  # kombu publishes it in seconds
            properties["expiration"] = int(properties["expiration"]) / 1000
        properties.setdefault("content_type", message.content_type)
        properties.setdefault("content_encoding", message.content_encoding)
        body = message.body
        captured = CapturedMessage(
            exchange=message.delivery_info["exchange"],
            routing_key=message.delivery_info["routing_key"],
            body=body if isinstance(body, bytes) else body.encode(),
            headers=dict(message.headers),
            properties=properties,
        )
        self.captured.append(captured)


class Redeliverer:
    """Redeliver each message up to four times, out of order and partly late."""

    def __init__(self, tap: Tap, rng: random.Random, late_s: float) -> None:
        self.copies: Counter[str] = Counter()
        self._tap = tap
        self._rng = rng
        self._late_s = late_s
        self._due: list[tuple[float, CapturedMessage]] = []

    def run(self, running: list[bool]) -> None:
        """Redeliver until `running` is empty and the last copy is published."""
        while running or self._due:
            self._tap.drain()
            for message in self._tap.captured:
                self._plan(message)
            self._tap.captured.clear()
            self._deliver()

    def _plan(self, message: CapturedMessage) -> None:
        for _ in range(self._rng.randint(0, 4)):
            is_late = self._rng.random() < 0.1
            wait_s = self._late_s if is_late else self._rng.uniform(0, 0.5)
            self._due.append((time.monotonic() + wait_s, message))

    def _deliver(self) -> None:
        now = time.monotonic()
        due = [message for moment, message in self._due if moment <= now]
        self._due = [waiting for waiting in self._due if waiting[0] > now]
        for message in self._rng.sample(due, len(due)):
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
def redelivered(uri: str, rng: random.Random, late_s: float) -> Iterator[Redeliverer]:
    """Redeliver messages inside. At the end, wait until the last copy is published."""
    with tap(uri) as opened:
        redeliverer, running = Redeliverer(opened, rng, late_s), [True]
        thread = eventlet.spawn(redeliverer.run, running)
        try:
            yield redeliverer
            running.clear()
            thread.wait()
        finally:
            thread.kill()  # after an interruption it must not read the connection

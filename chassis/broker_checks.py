"""Checks of the broker by attempts: AMQP can read neither permissions nor policies.

`check_broker_user` tries actions that the process must not do. An import of definitions that stops
half-way leaves users without topic permissions: everything works, and a stolen account can call
every method.

`check_queue_limits` tries whether queues keep their messages. A policy, an operator policy or a
default of the broker may delete a queue or drop its messages without an error. So each queue gets
a scratch queue whose name has the same start and end, and matches the same policies.
docs/operations.md#queue-limits lists the limits that this check misses.
"""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from itertools import product
from typing import Any

import amqp
from nameko.exceptions import ConfigurationError

from chassis.amqp_transport import MAX_SILENCE_S
from chassis.broker import (
    CONNECTION_ERRORS,
    PUBLISHING_BLOCKED,
    basic_publish,
    open_channel,
)
from chassis.errors import first_line

WAIT_S = 3
MESSAGES = 1000
LARGE = bytes(2**20)
# Returns of each kind. A quorum queue of RabbitMQ 4 drops a message after 20 by default.
RETURNS = 25
# The broker deletes the scratch queues of a killed check after this time.
EXPIRES_S = 60


def check_broker_user(config: dict[str, Any], service: str) -> None:
    """Raise ConfigurationError, with the rights in one line, if the broker's user has too many.

    Raises one of CONNECTION_ERRORS if the broker is unavailable. The broker logs each refusal.

    Each attempt uses a random name, which no queue and no exchange has. If the broker permits it, a
    queue that is bound to all routing keys receives an empty message.

    During its memory or disk alarm the broker answers no attempt to publish. The rights to publish
    count as restricted then, because consumers must start.
    """
    name = f"permission-check.{secrets.token_hex(8)}"
    excessive = []
    with suppress(amqp.ResourceError), open_channel(config) as channel:
        channel.connection.on_blocked = _end_attempts
        publish = partial(
            basic_publish,
            channel,
            routing_key=name,
            content=amqp.Message(),
            mandatory=False,
        )
        attempts = {
            "configure": partial(channel.queue_delete, name),
            "read": partial(channel.basic_get, name),
            "write": partial(publish, name),
            "routing keys of nameko-rpc": partial(publish, "nameko-rpc"),
            f"routing keys of {service}.events": partial(publish, f"{service}.events"),
        }
        for right, attempt in attempts.items():
            # A refusal closes the channel, and py-amqp opens it again.
            with suppress(amqp.AccessRefused):
                # The broker checks the right before it looks for the name.
                with suppress(amqp.NotFound):
                    attempt()
                    # Waits for the broker, which answers no publish.
                    channel.basic_qos(0, 1, a_global=False)
                excessive.append(right)
    if excessive:
        raise ConfigurationError(
            f"the broker permits its user too much ({', '.join(excessive)}): "
            "import definitions.json (docs/operations.md#permissions-on-the-broker)"
        )


def _end_attempts(reason: str) -> None:
    raise amqp.ResourceError(PUBLISHING_BLOCKED)


def check_queue_limits(config: dict[str, Any], queues: Sequence[str]) -> None:
    """Check that the broker keeps the messages of these queues. Takes little more than WAIT_S.

    The queues themselves are neither read nor changed. Raises ConfigurationError, whose one line
    has a queue, its loss and the remedy, or one of CONNECTION_ERRORS.
    """
    if not queues:
        return
    scratch = {_scratch_name(queue): queue for queue in queues}
    try:
        # Without heartbeats: none would be sent while the check waits.
        with open_channel({**config, "HEARTBEAT": 0}) as channel:
            _check(channel, scratch)
    except amqp.ChannelError as exc:
        raise _refusal(f"refuses the check of its queues: {first_line(exc)}") from exc
    except TimeoutError as exc:
        raise TimeoutError(
            f"no reply within {MAX_SILENCE_S:g} s; is there a memory or disk alarm?"
        ) from exc
    finally:
        # On another connection: during a memory alarm the broker ignores one that has published.
        with suppress(*CONNECTION_ERRORS), open_channel(config) as channel:
            for name in scratch:
                channel.queue_delete(name)


def _scratch_name(queue: str) -> str:
    stem = queue.removesuffix(".dead")
    return f"{stem}.check-{secrets.token_hex(4)}{queue.removeprefix(stem)}"


def _check(channel: Any, scratch: dict[str, str]) -> None:
    """Run all trials. `scratch` maps the names of the scratch queues to the queues' own."""
    for name in scratch:
        # As stock Nameko declares queues of events.
        channel.queue_declare(
            name,
            durable=True,
            auto_delete=False,
            arguments={"x-expires": EXPIRES_S * 1000},
        )
    for run, loss, remedy in TRIALS:
        lost = run(channel, list(scratch))
        if queues := [queue for name, queue in scratch.items() if name in lost]:
            others = f" and {len(queues) - 1} more" if len(queues) > 1 else ""
            raise _refusal(f"{loss.format(queues[0] + others)}: {remedy}")


def _refusal(text: str) -> ConfigurationError:
    return ConfigurationError(f"the broker {text} (docs/operations.md#queue-limits)")


def _wait(channel: Any, queues: Sequence[str]) -> list[str]:
    """Leave a message in each queue for WAIT_S. Return the queues that no longer exist."""
    _publish(channel, queues, [b""])
    time.sleep(WAIT_S)
    return [queue for queue in queues if not _exists(channel, queue)]


def _exists(channel: Any, queue: str) -> bool:
    try:
        channel.queue_declare(queue, passive=True)
    except amqp.NotFound:
        # py-amqp opens the channel again.
        return False
    return True


def _fill(channel: Any, queues: Sequence[str], bodies: Sequence[bytes]) -> set[str]:
    """Publish the bodies to each queue, and count the messages.

    One more follows, because a quorum queue refuses messages only after its limit is reached.
    """
    _publish(channel, queues, bodies)
    _publish(channel, queues, [b""])
    return _purge(channel, queues, len(bodies) + 1)


def _return_often(channel: Any, queues: Sequence[str]) -> list[str]:
    """Return a message RETURNS times by rejection, and as often by closing the channel."""
    _publish(channel, queues, [b""])
    for _ in range(RETURNS):
        if lost := _return_twice(channel, queues):
            return lost
    return []


def _return_twice(channel: Any, queues: Sequence[str]) -> list[str]:
    """Reject each queue's message once, and close the channel after its next delivery.

    Returns the queues that did not deliver their message twice.
    """
    deliveries: Counter[str] = Counter()
    own_channel = channel.connection.channel()

    def receive(message: Any) -> None:
        queue = message.delivery_info["consumer_tag"]
        deliveries[queue] += 1
        if deliveries[queue] == 1:
            own_channel.basic_reject(message.delivery_tag, requeue=True)

    for queue in queues:
        own_channel.basic_consume(
            queue, consumer_tag=queue, callback=receive, nowait=True
        )
    deadline = time.monotonic() + MAX_SILENCE_S
    while time.monotonic() < deadline and any(
        deliveries[queue] < 2 for queue in queues
    ):
        with suppress(TimeoutError):
            channel.connection.drain_events(timeout=1)
    own_channel.close()
    return [queue for queue in queues if deliveries[queue] < 2]


def _purge(channel: Any, queues: Sequence[str], expected: int = 1) -> set[str]:
    """Empty the queues. Return those that had fewer messages than expected."""
    # The count of a purge is exact. A quorum queue may declare an outdated one.
    return {queue for queue in queues if channel.queue_purge(queue) < expected}


def _publish(channel: Any, queues: Sequence[str], bodies: Sequence[bytes]) -> None:
    """Publish the bodies to each queue in one transaction, which needs only one reply.

    The commit fails if a queue refuses a message, or a message is too large. The other messages
    are in their queues nevertheless, and the caller counts them.
    """
    own_channel = channel.connection.channel()
    own_channel.tx_select()
    with channel.connection.transport.in_one_write():
        for queue, body in product(queues, bodies):
            basic_publish(
                own_channel,
                "",
                queue,
                amqp.Message(body, delivery_mode=2),
                mandatory=False,
            )
    with suppress(amqp.PreconditionFailed):
        own_channel.tx_commit()


# Each trial: a function that returns the queues that lost a message, the loss with {} for the name
# of a queue, and the remedy. The order matters: no trial reaches a limit that a later one reports.
Trial = tuple[Callable[[Any, Sequence[str]], Collection[str]], str, str]
TRIALS: Sequence[Trial] = (
    (
        _wait,
        f"deletes {{}} after less than {WAIT_S} s without a consumer",
        'remove "expires" from its policy',
    ),
    (
        # Of the message that `_wait` left.
        _purge,
        f"drops messages after less than {WAIT_S} s from {{}}",
        'remove "message-ttl" from its policy',
    ),
    (
        # Empty ones, within any limit of bytes.
        partial(_fill, bodies=[b""] * MESSAGES),
        f"keeps fewer than {MESSAGES} messages in {{}}",
        'remove "max-length" from its policy',
    ),
    (
        partial(_fill, bodies=[LARGE]),
        f"keeps no message of {len(LARGE)} bytes in {{}}",
        'remove "max-length-bytes" from its policy, or set max_message_size to 16777216 or more',
    ),
    (
        _return_often,
        f"drops messages after at most {2 * RETURNS} returns from {{}}",
        'set "delivery-limit": 1000000000 in its policy',
    ),
)

"""Tries on scratch queues whether the broker keeps waiting messages. AMQP cannot read policies.

The type and the limits of a queue are the broker's: a policy, an operator policy or a default may
delete a queue or drop its messages without a word. Each queue gets a scratch queue whose name
starts and ends alike, so that the same policies match. docs/operations.md says what this cannot find.
"""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import amqp
from nameko.exceptions import ConfigurationError

from chassis.amqp_transport import MAX_SILENCE_S
from chassis.broker import CONNECTION_ERRORS, basic_publish
from chassis.errors import first_line
from chassis.moves import open_channel

WAIT_S = 3
MESSAGES = 1000
LARGE = bytes(2**20)
RETURNS = (
    25  # of each kind; a quorum queue of RabbitMQ 4 drops a message after 20 by default
)
EXPIRES_S = (
    60  # the broker deletes the scratch queues of a killed check after this time
)
TIMEOUT_S = (
    MAX_SILENCE_S  # for the commit of a trial, or for one delivery from each queue
)

Queues = Sequence[str]


@dataclass(frozen=True)
class Trial:
    """One limit: `run` returns the queues that lost a message by it."""

    run: Callable[[Any, Queues], Collection[str]]
    loss: str
    remedy: str


def check_queue_limits(config: dict[str, Any], queues: Queues) -> None:
    """Check that the broker keeps the messages of these queues, in WAIT_S and a little more.

    Raises ConfigurationError, whose one line names a queue, its loss and the remedy, or one of
    CONNECTION_ERRORS. The queues themselves are neither read nor changed.
    """
    if not queues:
        return
    scratch = {_scratch_name(queue): queue for queue in queues}
    try:
        # Without heartbeats: nothing would send them while the check waits.
        with open_channel({**config, "HEARTBEAT": 0}) as channel:
            _check(channel, scratch)
    except amqp.ChannelError as exc:
        raise _refusal(f"refuses the check of its queues: {first_line(exc)}") from exc
    except TimeoutError as exc:
        raise TimeoutError(
            f"no answer within {TIMEOUT_S:g} s; has it a memory or disk alarm?",
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
    """Run all trials; `scratch` has the queues by the names of their scratch queues."""
    for name in scratch:  # as stock Nameko declares the queues of events
        channel.queue_declare(
            name,
            durable=True,
            auto_delete=False,
            arguments={"x-expires": EXPIRES_S * 1000},
        )
    for trial in TRIALS:
        lost = trial.run(channel, list(scratch))
        if queues := [queue for name, queue in scratch.items() if name in lost]:
            others = f" and {len(queues) - 1} more" if len(queues) > 1 else ""
            raise _refusal(f"{trial.loss.format(queues[0] + others)}: {trial.remedy}")


def _refusal(text: str) -> ConfigurationError:
    return ConfigurationError(f"the broker {text} (docs/operations.md#queue-limits)")


def _let_wait(channel: Any, queues: Queues) -> list[str]:
    """Leave a message in each queue for WAIT_S. Returns the queues that are deleted by then."""
    _publish(channel, queues, [b""])
    time.sleep(WAIT_S)
    return [queue for queue in queues if not _exists(channel, queue)]


def _exists(channel: Any, queue: str) -> bool:
    try:
        channel.queue_declare(queue, passive=True)
    except amqp.NotFound:  # the channel lives on: py-amqp opens it again
        return False
    return True


def _fill(channel: Any, queues: Queues) -> set[str]:
    """Publish MESSAGES to each queue and count them. They are empty: no limit of bytes is met.

    One more follows, because a quorum queue refuses only what comes after its limit is met.
    """
    _publish(channel, queues, [b""] * MESSAGES)
    _publish(channel, queues, [b""])
    return _purge(channel, queues, MESSAGES + 1)


def _send_large(channel: Any, queues: Queues) -> set[str]:
    """Publish LARGE to each queue and fetch it back. One more message follows, as in _fill."""
    _publish(channel, queues, [LARGE])
    _publish(channel, queues, [b""])
    fetched = {queue: channel.basic_get(queue, no_ack=True) for queue in queues}
    return _purge(channel, queues, 1) | {
        queue
        for queue, message in fetched.items()
        if not message or message.body != LARGE
    }


def _return_often(channel: Any, queues: Queues) -> list[str]:
    """Return a message RETURNS times by rejection, and as often by the death of its consumer."""
    _publish(channel, queues, [b""])
    for _ in range(RETURNS):
        if lost := _return_twice(channel, queues):
            return lost
    return []


def _return_twice(channel: Any, queues: Queues) -> list[str]:
    """Reject each queue's message once, then close the channel that holds it.

    Returns the queues that did not deliver it twice.
    """
    deliveries: Counter[str] = Counter()
    own = channel.connection.channel()

    def receive(message: Any) -> None:
        queue = message.delivery_info["consumer_tag"]
        deliveries[queue] += 1
        if deliveries[queue] == 1:
            own.basic_reject(message.delivery_tag, requeue=True)

    for queue in queues:
        own.basic_consume(queue, consumer_tag=queue, callback=receive, nowait=True)
    deadline = time.monotonic() + TIMEOUT_S
    while (
        any(deliveries[queue] < 2 for queue in queues) and time.monotonic() < deadline
    ):
        with suppress(TimeoutError):
            channel.connection.drain_events(timeout=1)
    own.close()
    return [queue for queue in queues if deliveries[queue] < 2]


def _purge(channel: Any, queues: Queues, expected: int) -> set[str]:
    """Empty the queues. Returns those that had fewer messages than expected."""
    # The number that a purge returns is exact; that of a quorum queue's declaration may be late.
    return {queue for queue in queues if channel.queue_purge(queue) < expected}


def _publish(channel: Any, queues: Queues, bodies: Sequence[bytes]) -> None:
    """Publish the bodies to each queue, in a transaction: one answer for all of them.

    A queue that refuses a message, or a message that is too large, fails the commit. The other
    messages are in their queues all the same: the caller counts them.
    """
    own = channel.connection.channel()
    own.tx_select()
    with channel.connection.transport.in_one_write():
        for queue, body in product(queues, bodies):
            basic_publish(
                own, "", queue, amqp.Message(body, delivery_mode=2), mandatory=False
            )
    with suppress(amqp.PreconditionFailed):
        own.tx_commit()


# The order matters: no trial meets a limit that a later one names.
TRIALS = (
    Trial(
        _let_wait,
        f"deletes {{}} after less than {WAIT_S} s without a consumer",
        'remove "expires" from its policy',
    ),
    Trial(
        partial(_purge, expected=1),  # of the message that _let_wait left
        f"drops messages after less than {WAIT_S} s from {{}}",
        'remove "message-ttl" from its policy',
    ),
    Trial(
        _fill,
        f"keeps fewer than {MESSAGES} messages in {{}}",
        'remove "max-length" from its policy',
    ),
    Trial(
        _send_large,
        f"keeps no message of {len(LARGE)} bytes in {{}}",
        'remove "max-length-bytes" from its policy, or set max_message_size to 16777216 or more',
    ),
    Trial(
        _return_often,
        f"drops messages after at most {2 * RETURNS} returns from {{}}",
        'set "delivery-limit": 1000000000 in its policy',
    ),
)

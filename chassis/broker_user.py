"""Tries whether the broker lets this process do more than its own tasks.

AMQP cannot read permissions. An import of definitions that stops half-way leaves users without topic
permissions: everything works, and a stolen account may call every method. Each attempt uses a random
name, which no queue and no exchange has. If the broker permits it, a queue that is bound to all routing
keys gets its empty message.
"""

import secrets
from contextlib import suppress
from functools import partial
from typing import Any

import amqp
from nameko.exceptions import ConfigurationError

from chassis.broker import PUBLISHING_BLOCKED, basic_publish
from chassis.moves import open_channel


def check_broker_user(config: dict[str, Any], service: str) -> None:
    """Try a name that no user may configure, read or write, and a routing key that none may use.

    Raises ConfigurationError, whose one line names the rights that are too wide, or one of
    CONNECTION_ERRORS. The broker logs each refusal. During its memory or disk alarm it answers no
    attempt to publish. The rights to publish count as restricted then, because consumers must start.
    """
    name = f"permission-check.{secrets.token_hex(8)}"
    wide = []
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
            with suppress(
                amqp.AccessRefused
            ):  # the channel lives on: py-amqp opens it again
                with suppress(
                    amqp.NotFound
                ):  # the broker has checked the permission before
                    attempt()
                    channel.basic_qos(
                        0, 1, a_global=False
                    )  # for an answer: a publish has none
                wide.append(right)
    if wide:
        raise ConfigurationError(
            f"the broker permits its user too much ({', '.join(wide)}): "
            "import definitions.json (docs/operations.md#permissions-on-the-broker)"
        )


def _end_attempts(reason: str) -> None:
    raise amqp.ResourceError(PUBLISHING_BLOCKED)

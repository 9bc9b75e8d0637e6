"""Checks that the broker restricts this process to its own tasks, by trying forbidden actions.

AMQP cannot read permissions. An import of definitions that stops half-way leaves users without
topic permissions: everything works, and a stolen account can call every method.

Each attempt uses a random name, which no queue and no exchange has. If the broker permits it, a
queue that is bound to all routing keys receives an empty message.
"""

import secrets
from contextlib import suppress
from functools import partial
from typing import Any

import amqp
from nameko.exceptions import ConfigurationError

from chassis.broker import PUBLISHING_BLOCKED, basic_publish, open_channel


def check_broker_user(config: dict[str, Any], service: str) -> None:
    """Raise ConfigurationError, with the rights in one line, if the broker's user has too many.

    Raises one of CONNECTION_ERRORS if the broker is unavailable. The broker logs each refusal.

    During its memory or disk alarm it answers no attempt to publish. The rights to publish count
    as restricted then, because consumers must start.
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

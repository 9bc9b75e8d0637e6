"""Runs `nameko shell` with calls that have a deadline: `make shell` uses it.

A call of the stock `nameko shell` waits without limit, and its request waits in the queue of a
service that does not run. Ctrl-C ends the wait, but the request stays: the service executes it when
it starts. Here every call ends within RPC_TIMEOUT_S, and its request expires after the same time,
as the requests of the services do (chassis/rpc.py).

A request is sent in a transaction. A broker that is frozen or in an alarm of memory or disk leaves
what it receives unread, and publishes it later even if the sender has closed the connection. That
cannot happen here, because the commit is sent only after the broker has read the request.

usage: python -m dev.shell --config config.yaml [--interface plain]
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import nameko.cli.main
import nameko.cli.shell
import nameko.rpc
from amqp.exceptions import AccessRefused, AMQPError
from kombu import Producer
from kombu.exceptions import OperationalError
from nameko.amqp.publish import UndeliverableMessage
from nameko.exceptions import ConfigurationError
from nameko.standalone import rpc as standalone

from chassis.broker import broker_settings
from chassis.deadlines import TIMEOUT
from chassis.settings import SECONDS, read

CONNECTION_ERRORS = (AMQPError, OSError, OperationalError)


class OutcomeUnknown(Exception):
    """A call got no reply. Its request may have been executed, or be executed until it expires."""


class NotPermitted(Exception):
    """The broker refuses the call: an operator may call the methods that there are, and no other."""


class TimeUp(Exception):
    """A time limit has passed. No OSError: the libraries would reconnect and go on."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the main thread after so many seconds, whatever it waits for."""

    def stop(*_: object) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class ReplyListener(standalone.SingleThreadedReplyListener):
    """Receives replies on a connection that is replaced after a failure."""

    def channel(self) -> Any:
        """Return a new channel for a request. Connects again if the connection was lost."""
        connection = self.queue_consumer.connection
        with suppress(*CONNECTION_ERRORS):
            if connection.connected:
                return connection.channel()
        self.setup()
        return self.queue_consumer.connection.channel()

    def disconnect(self) -> None:
        """Close the connection without a handshake: the broker may not answer."""
        self.queue_consumer.connection.collect()
        self._reply_events.clear()


class Publisher:
    """Publishes one request in a transaction."""

    def __init__(self, channel: Any, **options: Any) -> None:
        self.channel = channel
        self.options = options

    def publish(
        self, payload: Any, *, extra_headers: dict[str, Any], **options: Any
    ) -> None:
        """Publish `payload`, and close the channel.

        Raises UndeliverableMessage if no queue is bound for it.
        """
        returned: list[Any] = []
        self.channel.tx_select()
        producer = Producer(
            self.channel, on_return=lambda *message: returned.append(message)
        )
        producer.publish(payload, headers=extra_headers, **self.options, **options)
        self.channel.basic_qos(
            0, 0, False
        )  # its reply shows that the broker has read the request
        self.channel.tx_commit()
        self.channel.close()
        if returned:
            raise UndeliverableMessage


class MethodProxy(nameko.rpc.MethodProxy):
    """A method of a service: `n.rpc.orders.place`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method and return its result.

        Raises OutcomeUnknown without a reply in time, NotPermitted, KeyboardInterrupt, or the fault of
        the reply.
        """
        failure: BaseException
        try:
            with time_limit(self.timeout_s):
                return super().__call__(*args, **kwargs)
        except TimeUp:
            failure = OutcomeUnknown(
                self._text(f"no reply within {self.timeout_s:g} s")
            )
        except KeyboardInterrupt:
            failure = KeyboardInterrupt(self._text("interrupted"))
        except AccessRefused:
            failure = NotPermitted(
                f"{self._name}: no service has this method, or it is not for you"
            )
        except CONNECTION_ERRORS as error:
            failure = OutcomeUnknown(
                self._text(f"connection to the broker lost ({error})")
            )
        self.reply_listener.disconnect()
        raise failure

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        channel = self.reply_listener.channel()
        options = {
            "serializer": self.serializer,
            "expiration": self.timeout_s,
        }  # in seconds
        self.publisher = Publisher(channel, **options)
        return super()._call(*args, **kwargs)

    @property
    def timeout_s(self) -> float:
        """How long a call may take, and its request may wait."""
        return self.worker_ctx.data[TIMEOUT]

    @property
    def _name(self) -> str:
        return f"{self.service_name}.{self.method_name}"

    def _text(self, event: str) -> str:
        return (
            f"{self._name}: {event}. The outcome is unknown. "
            "It is safe to repeat the call with the same key or ref."
        )


class ServiceProxy(nameko.rpc.ServiceProxy):
    """A service: `n.rpc.orders`."""

    def __getattr__(self, name: str) -> MethodProxy:
        return MethodProxy(
            self.worker_ctx, self.service_name, name, self.reply_listener
        )


class ClusterProxy(standalone.ClusterProxy):
    """All services: `n.rpc`."""

    def __getattr__(self, name: str) -> ServiceProxy:
        return ServiceProxy(self._worker_ctx, name, self._reply_listener)


class ClusterRpcProxy(standalone.ClusterRpcProxy):
    """Nameko's client, with the deadline of the configuration."""

    def __init__(self, config: dict[str, Any]) -> None:
        try:
            config.update(broker_settings(config))  # n.dispatch_event reads them too
            timeout_s = read(config, "RPC_TIMEOUT_S", SECONDS)
        except ConfigurationError as error:
            sys.exit(f"config.yaml: {error}")  # nameko would print it and exit with 0
        super().__init__(config, {TIMEOUT: timeout_s}, timeout_s, ReplyListener)
        self._proxy = ClusterProxy(self._worker_ctx, self._reply_listener)


def main() -> None:
    """Run nameko's own command with this client in the place of nameko's."""
    nameko.cli.shell.ClusterRpcProxy = ClusterRpcProxy
    sys.argv.insert(1, "shell")
    nameko.cli.main.main()


if __name__ == "__main__":
    main()

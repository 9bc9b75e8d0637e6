"""Run `nameko shell` with calls that have a deadline: `make shell` uses it.

A call of the stock `nameko shell` waits without limit, and its request waits in the queue of a
stopped service. Ctrl-C ends the wait but does not remove the request, and the service executes it
when it starts. Here every call ends within RPC_TIMEOUT_S, and its request expires after the same
time, as the requests of the services do (chassis/rpc.py).

A request is sent in a transaction. A broker that is suspended, or blocks for a memory or disk
alarm, does not read requests. It would publish them later, even if the sender has closed the
connection. The transaction prevents that: the commit is sent after the broker has read the
request.

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
    """No reply came. The request may have been executed, or may be executed until it expires."""


class NotPermitted(Exception):
    """The broker refused the call. An operator may call all existing methods."""


class TimeLimitExceeded(Exception):
    """A time limit has passed. It is not an OSError: the libraries would reconnect and retry."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeLimitExceeded in the main thread after this time."""

    def stop(*_: object) -> None:
        raise TimeLimitExceeded

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
        """Return a new channel for a request. Reconnect if the connection was lost."""
        connection = self.queue_consumer.connection
        with suppress(*CONNECTION_ERRORS):
            if connection.connected:
                return connection.channel()
        self.setup()
        return self.queue_consumer.connection.channel()

    def disconnect(self) -> None:
        """Close the connection without a handshake, to which the broker may not respond."""
        self.queue_consumer.connection.collect()
        self._reply_events.clear()


class Publisher:
    """Publish one request in a transaction."""

    def __init__(self, channel: Any, **options: Any) -> None:
        self.channel = channel
        self.options = options

    def publish(
        self, payload: Any, *, extra_headers: dict[str, Any], **options: Any
    ) -> None:
        """Publish `payload` and close the channel.

        Raises UndeliverableMessage if no queue is bound for the request.
        """
        returned: list[Any] = []
        self.channel.tx_select()
        producer = Producer(
            self.channel, on_return=lambda *message: returned.append(message)
        )
        producer.publish(payload, headers=extra_headers, **self.options, **options)
        # The broker's response to basic.qos shows that it has read the request.
        self.channel.basic_qos(0, 0, False)
        self.channel.tx_commit()
        self.channel.close()
        if returned:
            raise UndeliverableMessage


class MethodProxy(nameko.rpc.MethodProxy):
    """A method of a service: `n.rpc.orders.place`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method and return its result.

        Raises OutcomeUnknown if no reply comes in time, NotPermitted, KeyboardInterrupt, or the
        fault in the reply.
        """
        failure: BaseException
        try:
            with time_limit(self.timeout_s):
                return super().__call__(*args, **kwargs)
        except TimeLimitExceeded:
            reason = f"no reply within {self.timeout_s:g} s"
            failure = OutcomeUnknown(self._message(reason))
        except KeyboardInterrupt:
            failure = KeyboardInterrupt(self._message("interrupted"))
        except AccessRefused:
            reason = "no service has this method, or an operator may not call it"
            failure = NotPermitted(f"{self._name}: {reason}")
        except CONNECTION_ERRORS as error:
            reason = f"connection to the broker lost ({error})"
            failure = OutcomeUnknown(self._message(reason))
        self.reply_listener.disconnect()
        raise failure

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        channel = self.reply_listener.channel()
        self.publisher = Publisher(
            channel, serializer=self.serializer, expiration=self.timeout_s
        )
        return super()._call(*args, **kwargs)

    @property
    def timeout_s(self) -> float:
        """Return the time limit of a call, after which its request expires."""
        return self.worker_ctx.data[TIMEOUT]

    @property
    def _name(self) -> str:
        return f"{self.service_name}.{self.method_name}"

    def _message(self, reason: str) -> str:
        return (
            f"{self._name}: {reason}. The outcome is unknown. "
            "It is safe to retry with the same key or ref."
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
            config.update(broker_settings(config))  # n.dispatch_event needs them too
            timeout_s = read(config, "RPC_TIMEOUT_S", SECONDS)
        except ConfigurationError as error:
            sys.exit(f"config.yaml: {error}")  # nameko would print it and exit with 0
        super().__init__(config, {TIMEOUT: timeout_s}, timeout_s, ReplyListener)
        self._proxy = ClusterProxy(self._worker_ctx, self._reply_listener)


def main() -> None:
    """Run nameko's command with this client instead of nameko's."""
    nameko.cli.shell.ClusterRpcProxy = ClusterRpcProxy
    sys.argv.insert(1, "shell")
    nameko.cli.main.main()


if __name__ == "__main__":
    main()

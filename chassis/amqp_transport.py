"""py-amqp's transport with buffered reads, one write for a batch, and limits for each wait.

py-amqp itself reads the socket three times for each frame, and writes each message separately.
`chassis.patches` makes kombu use `Connection`.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from amqp.transport import SSLTransport, TCPTransport, to_host_port
from eventlet.semaphore import Semaphore
from kombu.transport import pyamqp

from chassis.lookups import resolve

READ_BYTES = 16 * 1024
# The longest wait for the broker; py-amqp's own has no limit. A stalled write fails within 2 s:
# py-amqp sets TCP_USER_TIMEOUT to 1 s, and a write shares the timeout of the socket.
MAX_SILENCE_S = 10.0


class _BufferedTransport:
    """Overrides methods of py-amqp's transports; inherit it before one of them."""

    sock: Any
    _unwritten: bytearray | None = None

    def _connect(self, host: str, port: int, timeout: float) -> None:
        """Connect to the first address that answers.

        `resolve` finds the addresses, because py-amqp would use eventlet's resolver and its cache.
        They share the time, so that some is left for the last one.
        """
        *others, last = resolve(host)
        for address in others:
            with suppress(OSError):
                super()._connect(address, port, timeout / (1 + len(others)))  # type: ignore[misc]
                return
        super()._connect(last, port, timeout)  # type: ignore[misc]

    def _setup_transport(self) -> None:
        super()._setup_transport()  # type: ignore[misc]
        self.sock.settimeout(MAX_SILENCE_S)
        # py-amqp locks the writes of frames. A heartbeat must not interrupt `in_one_write` either.
        self._write_lock = Semaphore()
        receive = self._quick_recv  # type: ignore[has-type]
        self._quick_recv = lambda size: receive(max(size, READ_BYTES))

    def write(self, frames: Any) -> None:
        if self._unwritten is not None:
            self._unwritten += frames
        else:
            with self._write_lock:
                super().write(frames)  # type: ignore[misc]

    @contextmanager
    def in_one_write(self) -> Iterator[None]:
        """Collect all writes of the `with` block and send them at its end.

        An exception discards them.
        """
        frames = self._unwritten = bytearray()
        try:
            yield
        finally:
            self._unwritten = None
        self.write(frames)


class PlainTransport(_BufferedTransport, TCPTransport):
    """For `amqp`."""


class TlsTransport(_BufferedTransport, SSLTransport):
    """For `amqps`."""

    def _shutdown_transport(self) -> None:
        """Skip the end of TLS, which waits for the peer. AMQP's Close ends a connection."""


class Connection(pyamqp.Connection):
    """kombu's connection with these transports."""

    def Transport(
        self, host: str, connect_timeout: Any, ssl: Any, *timeouts: Any, **options: Any
    ) -> Any:
        """Return a transport. It has its own limits instead of py-amqp's `timeouts`."""
        if not ssl:
            return PlainTransport(host, connect_timeout, **options)
        # Without `server_hostname` a certificate for any name would be accepted.
        server = {"server_hostname": to_host_port(host)[0]}
        return TlsTransport(host, connect_timeout, ssl=server, **options)

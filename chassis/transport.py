"""py-amqp's socket, in large pieces: it reads what has arrived at once, and writes a batch at once.

py-amqp itself asks the socket three times for each frame, and writes each message by itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from amqp.transport import SSLTransport, TCPTransport, to_host_port
from eventlet.semaphore import Semaphore
from kombu.transport import pyamqp

from chassis.lookups import resolve

AT_ONCE = 16 * 1024  # bytes
# The longest wait for an answer; py-amqp's own has no limit. A stalled write fails sooner, within 2 s:
# py-amqp sets TCP_USER_TIMEOUT to 1 s, and a read sets the timeout of the socket, which a write shares.
MAX_SILENCE_S = 10.0


class _InLargePieces:
    """Goes before one of py-amqp's transports."""

    sock: Any
    _held: bytearray | None = None

    def _connect(self, host: str, port: int, timeout: float) -> None:
        """Look the name up by `resolve`; py-amqp would use eventlet's resolver and its cache.

        The addresses share the time, so that those which do not answer leave some to the last.
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
        self._writing = (
            Semaphore()
        )  # a heartbeat must not come into the middle of a long write
        receive = self._quick_recv  # type: ignore[has-type]
        self._quick_recv = lambda n: receive(max(n, AT_ONCE))

    def write(self, frames: Any) -> None:
        if self._held is not None:
            self._held += frames
            return
        frames = bytes(
            frames
        )  # py-amqp uses its buffer again, for who writes meanwhile
        with self._writing:
            super().write(frames)  # type: ignore[misc]

    @contextmanager
    def in_one_write(self) -> Iterator[None]:
        """What is written inside goes to the socket at the end; nothing where an exception ends it."""
        self._held = bytearray()
        try:
            yield
            held = self._held
        finally:
            self._held = None
        self.write(held)


class _Plain(_InLargePieces, TCPTransport):
    """For `amqp`."""


class _Encrypted(_InLargePieces, SSLTransport):
    """For `amqps`."""

    def _shutdown_transport(self) -> None:
        """Does not wait for the peer to end TLS: AMQP's Close ends a connection, or it is lost."""


class _Connection(pyamqp.Connection):
    def Transport(
        self, host: str, connect_timeout: Any, ssl: Any, *timeouts: Any, **options: Any
    ) -> Any:
        options |= zip(("read_timeout", "write_timeout"), timeouts, strict=True)
        options["connect_timeout"] = connect_timeout
        checked = {
            "server_hostname": to_host_port(host)[0]
        }  # else a certificate for any name would do
        return (
            _Encrypted(host, ssl=checked, **options) if ssl else _Plain(host, **options)
        )


pyamqp.Transport.Connection = (
    _Connection  # whatever kombu connects in this process, encrypted or not
)

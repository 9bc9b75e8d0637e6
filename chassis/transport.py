"""py-amqp's socket, in large pieces: it reads what has arrived at once, and writes a batch at once.

py-amqp itself asks the socket three times for each frame, and writes each message by itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amqp.transport import SSLTransport, TCPTransport
from kombu.transport import pyamqp

AT_ONCE = 16 * 1024  # bytes


class _InLargePieces:
    """Goes before one of py-amqp's transports."""

    sock: Any
    _held: bytearray | None = None

    def _setup_transport(self) -> None:
        super()._setup_transport()  # type: ignore[misc]
        receive = self._quick_recv  # type: ignore[has-type]
        self._quick_recv = lambda n: receive(max(n, AT_ONCE))

    def write(self, frames: Any) -> None:
        if self._held is None:
            super().write(frames)  # type: ignore[misc]
        else:
            self._held += frames  # a copy: py-amqp uses its buffer again

    @contextmanager
    def in_one_write(self) -> Iterator[None]:
        """What is written inside goes to the socket at the end; nothing where an exception ends it."""
        self._held = bytearray()
        try:
            yield
            held = self._held
        finally:
            self._held = None
        super().write(held)  # type: ignore[misc]


class _Plain(_InLargePieces, TCPTransport):
    pass


class _Encrypted(_InLargePieces, SSLTransport):
    pass


class _Connection(pyamqp.Connection):
    def Transport(self, host: str, connect_timeout: Any, ssl: Any, *timeouts: Any, **options: Any) -> Any:
        options |= zip(("read_timeout", "write_timeout"), timeouts, strict=True)
        options["connect_timeout"] = connect_timeout
        return _Encrypted(host, ssl=ssl, **options) if ssl else _Plain(host, **options)


pyamqp.Transport.Connection = _Connection  # whatever kombu connects in this process, encrypted or not

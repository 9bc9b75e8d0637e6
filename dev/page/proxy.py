"""Passes a request on to the gateway, and its response back, byte for byte.

Bodies, chunks, `100 Continue` and headers are not read here, so they cannot change. The gateway
limits their size and time. Only one header is replaced: the connection ends with the response.
"""

import selectors
import socket
from collections.abc import Sequence
from contextlib import suppress

from gateway import problems

# The gateway responds within 30 s to a request with the longest `Prefer: wait`. A frozen one
# continues after 10 s.
RESPONSE_TIMEOUT_S = 45.0
CONNECT_TIMEOUT_S = 5.0
PIECE = 64 * 1024
# The headers about this connection (RFC 9110, section 7.6.1).
OWN_HEADERS = ("connection", "keep-alive", "proxy-connection")


def forward(
    client: socket.socket,
    port: int,
    lines: Sequence[str],
    rest: bytes,
    timeout_s: float,
) -> None:
    """Pass on the head and the bytes after it, then copy bytes both ways until the response ends.

    `timeout_s` limits each wait for the next bytes. Raises Problem if no byte of a response
    arrives. Returns early if the client closes the connection.
    """
    try:
        gateway = socket.create_connection(("127.0.0.1", port), CONNECT_TIMEOUT_S)
    except OSError:
        raise problems.unavailable(problems.NOTHING_DONE) from None
    with gateway:
        gateway.settimeout(timeout_s)
        _send(gateway, _head(lines) + rest)
        _copy(client, gateway, timeout_s)


def _head(lines: Sequence[str]) -> bytes:
    """Return the head of a request that ends its connection, in the client's spelling."""
    kept = [line for line in lines if line.partition(":")[0].lower() not in OWN_HEADERS]
    return "\r\n".join([*kept, "Connection: close", "", ""]).encode("latin-1")


def _copy(client: socket.socket, gateway: socket.socket, timeout_s: float) -> None:
    is_answered = False
    with selectors.DefaultSelector() as selector:
        selector.register(gateway, selectors.EVENT_READ)
        selector.register(client, selectors.EVENT_READ)
        while ready := [key.fileobj for key, _ in selector.select(timeout_s)]:
            if gateway in ready:
                piece = _receive(gateway)
                if not piece:
                    break
                client.sendall(piece)
                is_answered = True
            elif piece := client.recv(PIECE):
                _send(gateway, piece)
            else:
                return
    if not is_answered:
        raise problems.unavailable()


def _receive(gateway: socket.socket) -> bytes:
    """Return the next bytes, empty at the end of the response, or if the gateway was killed."""
    try:
        return gateway.recv(PIECE)
    except OSError:
        return b""


def _send(gateway: socket.socket, piece: bytes) -> None:
    """Send bytes of a request. If the gateway reads no more of it, a response may still arrive."""
    with suppress(OSError):
        gateway.sendall(piece)

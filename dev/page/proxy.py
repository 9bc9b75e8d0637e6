"""Passes a request on to the gateway, and its response back, byte for byte.

Bodies, chunks and `100 Continue` are not read here, so they cannot change. The gateway limits their
size and time. The headers about the connection are removed, and `Connection: close` is added.
"""

import selectors
import socket
from collections.abc import Sequence
from contextlib import suppress

from gateway import problems
from gateway.http.parser import HttpRequest

# The gateway responds within 35 s to a request with the longest `Prefer: wait`: up to 5 s for the
# first read, then 30 s.
RESPONSE_TIMEOUT_S = 45.0
CONNECT_TIMEOUT_S = 5.0
PIECE = 64 * 1024
# The headers about this connection, with those that Connection names (RFC 9110, section 7.6.1).
OWN_HEADERS = ("connection", "keep-alive", "proxy-connection")


def forward(
    client: socket.socket,
    port: int,
    head: HttpRequest,
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
        raise problems.unavailable() from None
    with gateway:
        gateway.settimeout(timeout_s)
        _send(gateway, _head(lines, head.connection_options) + rest)
        _copy(client, gateway, timeout_s)


def _head(lines: Sequence[str], options: Sequence[str]) -> bytes:
    """Return the head of a request that ends its connection, in the client's spelling."""
    own = {*OWN_HEADERS, *options}
    kept = [line for line in lines if line.partition(":")[0].lower() not in own]
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
        raise problems.outcome_unknown()


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

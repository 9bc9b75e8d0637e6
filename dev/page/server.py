"""Accepts connections on 127.0.0.1, and serves one request on each of them."""

import socket
import threading
import time
from contextlib import suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

from dev.page import proxy
from dev.page.site import Site
from gateway import problems
from gateway.http import parser
from gateway.http.responses import Response

HOST = "127.0.0.1"
# A browser opens at most six at a time.
MAX_CONNECTIONS = 64
HEAD_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 60.0
# For the client to read the response before the connection is closed.
LINGER_S = 2.0
PIECE = 64 * 1024


class Server(ThreadingTCPServer):
    """The development server. It passes all requests that are not for the site to the gateway."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        port: int,
        site: Site,
        gateway_port: int,
        response_timeout_s: float = proxy.RESPONSE_TIMEOUT_S,
    ) -> None:
        super().__init__((HOST, port), Connection)
        self.site = site
        self.gateway_port = gateway_port
        self.response_timeout_s = response_timeout_s
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own, or reject one too many."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        request.setblocking(False)
        with suppress(OSError):
            _write(
                request, problems.unavailable(problems.TOO_MANY_CONNECTIONS).response()
            )
            request.recv(PIECE)  # an unread request would reset the connection
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()


class Connection(BaseRequestHandler):
    """A connection with one request and its response."""

    server: Server
    request: socket.socket

    def handle(self) -> None:
        with suppress(OSError):  # the client is slow, or has closed the connection
            response = self._serve()
            if response:
                self.request.settimeout(WRITE_TIMEOUT_S)
                _write(self.request, response, has_body=self._has_body)
            self._linger()

    def _serve(self) -> Response | None:
        """Return the response to the request, or None if there is none, or the gateway sent it."""
        self._has_body = True
        head = parser.HttpRequest()
        try:
            if not (block := self._read_head()):
                return None
            lines, rest = block
            head.parse(*lines)
            self._has_body = head.method != "HEAD"
            response = self.server.site.respond(head)
            if response is None:
                self.request.settimeout(WRITE_TIMEOUT_S)
                server = self.server
                proxy.forward(
                    self.request,
                    server.gateway_port,
                    head,
                    lines,
                    rest,
                    server.response_timeout_s,
                )
        except problems.Problem as problem:
            return problem.response()
        return response

    def _read_head(self) -> tuple[list[str], bytes] | None:
        """Return the lines of the head and the bytes after it, or None if it does not arrive."""
        deadline = time.monotonic() + HEAD_TIMEOUT_S
        received = b""
        while not (block := parser.parse_header_block(received)):
            piece = self._receive(deadline)
            if not piece:
                return None
            received += piece
        return block

    def _receive(self, deadline: float) -> bytes:
        """Return the next bytes, empty at the end. Raises TimeoutError at the deadline."""
        self.request.settimeout(max(deadline - time.monotonic(), 0.001))
        return self.request.recv(PIECE)

    def _linger(self) -> None:
        """Let the client read the response.

        If the connection were closed while bytes of the request are unread, the kernel would
        reset it, and the response could be lost (RFC 9112, section 9.6).
        """
        self.request.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + LINGER_S
        while self._receive(deadline):
            pass


def _write(
    connection: socket.socket, response: Response, *, has_body: bool = True
) -> None:
    for piece in response.encode(has_body=has_body):
        connection.sendall(piece)

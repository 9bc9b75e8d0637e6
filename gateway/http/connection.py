"""Serves one client connection: requests are read, handled and answered one after the other."""

import logging
import socket
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

from eventlet import Timeout, hubs, sleep

from chassis.logs import REQUEST_ID, bind_request_id
from gateway import dispatcher, problems
from gateway.http import body, parser, responses

log = logging.getLogger(__name__)

# For all writes of a response.
RESPONSE_TIMEOUT_S = 60.0
# For the head of a request, and for its body.
REQUEST_TIMEOUT_S = 10.0
LINGER_S = 2.0
# Phases of a connection. In the first three it may be closed to make room for another one.
IDLE, ARRIVING, RESPONDING, IN_PROGRESS, CLOSING = range(5)


class ClientConnection:
    """A connection from the address `client`. It may idle for `idle_s` before each request."""

    def __init__(
        self, sock: Any, client: str, dispatcher: dispatcher.Dispatcher, idle_s: float
    ) -> None:
        self.client = client
        self.phase = IDLE
        self.last_request_at = monotonic()
        # After the next response.
        self.must_close = False
        self._sock = sock
        self._dispatcher = dispatcher
        self._idle_s = idle_s
        # Bytes that have not been parsed.
        self._received = b""

    def serve(self) -> None:
        """Serve requests until either side closes the connection."""
        try:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Bytes of a response that the kernel buffers before the client reads them.
            self._sock.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 128 * 1024
            )
            # For one write of a response.
            self._sock.settimeout(15.0)
            while (request := self._read_request()) and self._respond(request):
                # Other connections must run between pipelined requests.
                if self._received:
                    sleep(0)
        except OSError as exc:
            log.debug("connection_lost", extra={"error": str(exc)})
        finally:
            self._sock.close()

    def has_idled(self, seconds: float = 0) -> bool:
        """Whether no byte of the next request has arrived for this time."""
        return (
            self.phase == IDLE
            and monotonic() >= self._deadline - self._idle_s + seconds
        )

    def finish(self) -> None:
        """Read no further request, and close the connection after the current one.

        A request that has just arrived gets its response. A response that the client does not
        read is cut off.
        """
        # The client may have closed the connection already.
        with suppress(OSError):
            self._sock.shutdown(
                socket.SHUT_RDWR if self.phase == RESPONDING else socket.SHUT_RD
            )
        self.must_close = True
        self.phase = CLOSING

    def _read_request(self) -> parser.HttpRequest | None:
        """Return the next request without its body; None at the end of the stream."""
        request = parser.HttpRequest()
        try:
            if not (lines := self._read_head()):
                return None
            request.parse(*lines)
        except problems.Problem as problem:
            request.error = problem
        except TimeoutError:
            if self.phase != ARRIVING:
                raise
            request.error = problems.Problem(
                408,
                "request-timeout",
                "The headers did not arrive in time. Send the request again.",
            )
        return request

    def _read_head(self) -> list[str]:
        """Return the lines before the next body; an empty list at the end of the stream."""
        self.phase = IDLE
        self._deadline = monotonic() + self._idle_s
        while not self._received or not (
            block := parser.parse_header_block(self._received)
        ):
            # RFC 9112, section 2.2: empty lines before a request do not belong to it.
            if self.phase != ARRIVING and self._received.strip(b"\r\n"):
                self.phase = ARRIVING
                self._deadline = monotonic() + REQUEST_TIMEOUT_S
            if not self._receive():
                return []
        self.phase = ARRIVING
        lines, self._received = block
        return lines

    def _respond(self, request: parser.HttpRequest) -> bool:
        """Handle a request and write its response; return whether the connection is kept."""
        self.last_request_at = monotonic()
        request_id = bind_request_id({REQUEST_ID: request.headers.get("x-request-id")})
        response = self._handle(request)
        response.headers["X-Request-Id"] = request_id
        log.info(
            "request_handled",
            extra={
                "method": request.method,
                "path": request.path,
                "status": response.status,
                "ms": round((monotonic() - self.last_request_at) * 1000, 1),
            },
        )
        self.phase = RESPONDING
        # An unread body would be parsed as the next request.
        keep_alive = (
            request.keep_alive
            and request.body_length == 0
            and not self.must_close
            and not self._dispatcher.is_draining
        )
        with Timeout(RESPONSE_TIMEOUT_S, TimeoutError):
            for piece in response.encode(
                keep_alive=keep_alive, has_body=request.method != "HEAD"
            ):
                self._sock.sendall(piece)
        if not keep_alive:
            self._linger()
        return keep_alive

    def _handle(self, request: parser.HttpRequest) -> responses.Response:
        """Return the response to a request. A rejected one closes the connection.

        A body is read only if the dispatcher accepts the request by its head.
        """
        try:
            handler = self._dispatcher.dispatch(request, self.client)
            if isinstance(handler, responses.Response):
                return handler
            content = self._read_body(request)
            self.phase = IN_PROGRESS
            return handler(content)
        except Exception as exc:
            # The rest of the body may still arrive.
            self.must_close = True
            return problems.from_exception(exc).response()

    def _read_body(self, request: parser.HttpRequest) -> bytes:
        """Return the whole body. Raises Problem if it is malformed, late or incomplete."""
        split = (
            body.ChunkedBody().split
            if request.body_length is None
            else partial(body.split_sized, request.body_length)
        )
        self._deadline = monotonic() + REQUEST_TIMEOUT_S
        found = split(self._received)
        try:
            if found is None and request.expect_continue:
                self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            while found is None and self._receive():
                found = split(self._received)
        except TimeoutError:
            raise problems.Problem(
                408,
                "body-timeout",
                "The body did not arrive in time. Send the request again.",
            ) from None
        except OSError:
            # The client has gone, and will not read the response.
            pass
        if found is None:
            raise (
                problems.unavailable()
                if self.must_close
                else problems.malformed("The body ends too early.")
            )
        request.body_length = 0
        content, self._received = found
        return content

    def _receive(self) -> bool:
        """Wait for more bytes; return False at the end of the stream.

        Raises TimeoutError at the deadline, also if bytes arrive slowly until then.
        """
        hubs.trampoline(
            self._sock,
            read=True,
            timeout=self._deadline - monotonic(),
            timeout_exc=TimeoutError,
        )
        received: bytes = self._sock.recv(64 * 1024)
        self._received += received
        return bool(received)

    def _linger(self) -> None:
        """Let the client read the response.

        If the connection were closed while the client still sends, the kernel would reset it,
        and the response could be lost (RFC 9112, section 9.6).
        """
        self._sock.shutdown(socket.SHUT_WR)
        self._deadline = monotonic() + LINGER_S
        while self._receive():
            self._received = b""

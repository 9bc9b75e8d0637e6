"""One HTTP/1.1 connection: bytes in, requests one after the other, answers in their order."""

import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

from eventlet import Timeout, sleep
from eventlet.hubs import trampoline

from gateway import problems, reading
from gateway.bodies import Chunked, split_sized
from gateway.responses import Response

log = logging.getLogger(__name__)

WRITE_TIMEOUT_S = 15.0
ANSWER_TIMEOUT_S = 60.0  # for all writes of an answer
REQUEST_TIMEOUT_S = 10.0  # for all headers of a request, and for its body
LINGER_S = 2.0
MAX_UNSENT = (
    128 * 1024
)  # bytes of an answer that the kernel copies before its client takes them
# Phases of a connection. Up to ANSWERING it may be closed to make room for another one, in this order.
IDLE, ARRIVING, ANSWERING, IN_PROGRESS, CLOSING = range(5)


class Connection:
    """A connection from the address `client`, which may idle for `idle_s` before each request."""

    def __init__(
        self,
        sock: Any,
        client: str,
        idle_s: float,
        respond: Callable[[reading.HttpRequest, "Connection"], Response],
    ) -> None:
        self.sock = sock
        self.client = client
        self._idle_s = idle_s
        self.phase = IDLE  # until something of the next request comes
        self.is_last = False  # close after this answer
        self._respond = respond
        self._wait_for(idle_s)
        self._received = b""  # and not yet read

    def serve(self) -> None:
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT
            )
            self.sock.settimeout(WRITE_TIMEOUT_S)
            while request := self._read_request():
                self._answer(request)
                if self.is_last:
                    self._linger()
                    break
                if (
                    self._received
                ):  # pipelined requests: let other connections run between
                    sleep(0)
        except OSError as exc:  # the client is gone, or late
            log.debug("connection_lost", extra={"error": str(exc)})
        finally:
            self.sock.close()

    def idles_for(self, seconds: float = 0) -> bool:
        """Whether nothing of the next request has come for so long."""
        return (
            self.phase == IDLE
            and monotonic() >= self._deadline - self._idle_s + seconds
        )

    def finish(self) -> None:
        """Close the connection. A request that has just arrived is answered; an answer that its client
        does not read is cut."""
        with suppress(OSError):  # the client has closed it already
            self.sock.shutdown(
                socket.SHUT_RDWR if self.phase == ANSWERING else socket.SHUT_RD
            )
        self.is_last = True
        self.phase = CLOSING

    def _read_request(self) -> reading.HttpRequest | None:
        request = reading.HttpRequest()
        try:
            if not (lines := self._read_head()):
                return None
            request.parse(*lines)
        except problems.Problem as problem:
            request.refusal = problem
        except TimeoutError:
            if self.phase != ARRIVING:
                raise
            request.refusal = problems.Problem(
                408, "request-timeout", "The request did not arrive in time"
            )
        return request

    def _read_head(self) -> list[str]:
        """The lines before the next request's body; none where no more come."""
        self.phase = (
            ARRIVING if self._received.strip(b"\r\n") else IDLE
        )  # an empty line is no request yet
        self._wait_for(self._idle_s if self.phase == IDLE else REQUEST_TIMEOUT_S)
        while not self._received or not (split := reading.split_head(self._received)):
            if not self._receive():
                return []
            if self.phase != ARRIVING and self._received.strip(b"\r\n"):
                self.phase = ARRIVING
                self._wait_for(REQUEST_TIMEOUT_S)
        lines, self._received = split
        return lines

    def _answer(self, request: reading.HttpRequest) -> None:
        answer = self._respond(request, self)
        self.phase = ANSWERING
        # What is left of a body would be read as the next request.
        self.is_last |= request.unread != 0 or not request.keeps
        with Timeout(ANSWER_TIMEOUT_S, TimeoutError):
            for piece in answer.pieces(
                closes=self.is_last, has_body=request.method != "HEAD"
            ):
                self.sock.sendall(piece)

    def read_body(self, request: reading.HttpRequest) -> bytes:
        """The whole body; raises a Problem where it does not come."""
        self._wait_for(REQUEST_TIMEOUT_S)
        split = (
            Chunked().split
            if request.unread is None
            else partial(split_sized, request.unread)
        )
        body = split(self._received)
        try:
            if body is None and request.expects:
                self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            while body is None and self._receive():
                body = split(self._received)
        except TimeoutError:
            raise problems.Problem(
                408, "body-timeout", "The body did not arrive in time"
            ) from None
        except OSError:  # the client is gone: nobody reads the answer
            pass
        if body is None and self.is_last:  # we ended the reading: see `finish`
            raise problems.unavailable(problems.NOTHING_DONE)
        if body is None:
            raise problems.malformed("The body ends too early.")
        request.unread = 0
        content, self._received = body
        return content

    def _receive(self) -> bool:
        """Wait for more bytes; False where no more come. Raises TimeoutError, however slowly they drip."""
        trampoline(
            self.sock,
            read=True,
            timeout=self._deadline - monotonic(),
            timeout_exc=TimeoutError,
        )
        piece: bytes = self.sock.recv(64 * 1024)
        self._received += piece
        return bool(piece)

    def _wait_for(self, seconds: float) -> None:
        self._deadline = monotonic() + seconds

    def _linger(self) -> None:
        """Let the client read the answer.

        Closing while it still sends would reset the connection and take the answer with it (RFC 9112,
        section 9.6).
        """
        self.sock.shutdown(socket.SHUT_WR)
        self._wait_for(LINGER_S)
        while self._receive():
            self._received = b""

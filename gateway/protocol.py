"""HTTP/1.1 on eventlet's server, read strictly: what is wrong with a request becomes a problem."""

import logging
import socket
from http import HTTPStatus
from typing import Any

import eventlet
from eventlet.wsgi import HeaderLineTooLong, HeadersTooLarge
from nameko.web.server import HttpOnlyProtocol

from gateway import reading
from gateway.problems import Problem

log = logging.getLogger(__name__)

IDLE_TIMEOUT_S = 15.0  # for the next request on a connection, and for each read and write
HEADERS_TIMEOUT_S = 10.0  # for all headers of a request
LINGER_S = 2.0
CONNECTION = "gateway.connection"  # where the WSGI environment holds the Protocol


def last_answer(problem: Problem) -> bytes:
    """The bytes of an answer before which no request was parsed, and after which the connection closes."""
    response = problem.response()
    head = f"HTTP/1.1 {response.status}\r\n{response.headers}".removesuffix("\r\n")
    return f"{head}Connection: close\r\n\r\n".encode() + response.get_data()


class BadLineError(Exception):
    """A header line holds a CR or a NUL, which others take for the line's end or refuse (RFC 9112)."""


class _HeaderLines:
    """The lines of a request's headers, each refused that another server could cut in two."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readline(self, limit: int = -1) -> bytes:
        line: bytes = self._stream.readline(limit)
        if b"\r" in line.removesuffix(b"\r\n") or b"\0" in line:
            raise BadLineError
        return line


class Protocol(HttpOnlyProtocol):
    """One connection.

    `refusal` is what is wrong with the framing of the request at hand; the application answers it.
    """

    reject_bad_requests = False  # eventlet would refuse some framing itself, with a bare text
    refusal: Problem | None
    _refused = False

    def refuse_more(self) -> None:
        """Close the connection after this answer: what follows may be the rest of a body."""
        self.close_connection = True
        self._refused = True

    def parse_request(self) -> bool:
        self.rfile: Any = _HeaderLines(self.rfile)  # until the headers are read: eventlet sees to that
        try:
            with eventlet.Timeout(HEADERS_TIMEOUT_S, TimeoutError("the headers are late")):
                if not super().parse_request():
                    return False
        except BadLineError:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return False
        except (HeaderLineTooLong, HeadersTooLarge):
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return False
        self.refusal = reading.wrong_framing(self.headers)
        if self.refusal:  # nobody shall read a body whose end is in doubt
            del self.headers["Content-Length"]
            del self.headers["Transfer-Encoding"]
        return True

    def get_environ(self) -> dict[str, Any]:
        return {**super().get_environ(), CONNECTION: self}

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what could not even be parsed; never with the words of the client."""
        self.refuse_more()
        log.info("request", extra={"status": code})
        self.wfile.write(last_answer(Problem(code, "malformed-request", HTTPStatus(code).phrase)))

    def finish(self) -> None:
        if self._refused:
            self._linger()
        super().finish()

    def _read_request_line(self) -> bytes | str:
        with eventlet.Timeout(IDLE_TIMEOUT_S, TimeoutError("no request")):
            line: bytes | str = super()._read_request_line()
        if len(line) < self.server.url_length_limit:
            return line
        self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)
        return ""

    def _linger(self) -> None:
        """Let the client read the answer: closing while it still sends would reset the connection
        and take the answer with it (RFC 9112, section 9.6)."""
        try:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)
            with eventlet.Timeout(LINGER_S, exception=False):
                while self.connection.recv(64 * 1024):
                    pass
        except OSError as exc:  # it is gone already
            log.debug("connection lost", extra={"error": str(exc)})

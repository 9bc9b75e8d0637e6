"""Writes responses: a status, headers and a body become bytes."""

from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from time import time

# The names in RFC 9110, section 15. Before Python 3.13 three of its names are older.
REASON_PHRASES = {status.value: status.phrase for status in HTTPStatus} | {
    413: "Content Too Large",
    414: "URI Too Long",
    422: "Unprocessable Content",
}
# A response's own headers take precedence.
DEFAULT_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
# In bytes. A body up to this size is written in one piece with its head.
MAX_COPIED = 16 * 1024


@dataclass(slots=True)
class Response:
    """A response. Names and values of headers must contain no line breaks."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    def encode(
        self, *, keep_alive: bool = False, has_body: bool = True
    ) -> list[bytes | memoryview]:
        """Return the pieces to write, in order. A response to HEAD has no body.

        A small response is one piece, and so one packet. A large body is never copied, because
        many clients may read it slowly.
        """
        headers = {
            **DEFAULT_HEADERS,
            **self.headers,
            "Connection": "keep-alive" if keep_alive else "close",
        }
        head = "".join(
            [
                _encode_start(self.status, int(time())),
                *[f"{name}: {value}\r\n" for name, value in headers.items()],
                f"Content-Length: {len(self.body)}\r\n\r\n",
            ]
        ).encode("latin-1")
        body = self.body if has_body else b""
        return [head + body] if len(body) <= MAX_COPIED else [head, memoryview(body)]


@lru_cache(32)
def _encode_start(status: int, second: int) -> str:
    """Return the status line and the Date header (RFC 9112, section 4; RFC 9110, section 6.6.1)."""
    return (
        f"HTTP/1.1 {status} {REASON_PHRASES[status]}\r\n"
        f"Date: {formatdate(second, usegmt=True)}\r\n"
    )

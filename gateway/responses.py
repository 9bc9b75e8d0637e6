"""What goes back to a client, and its bytes on the wire."""

from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from time import time

GENERAL = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}  # unless headers say otherwise
MAX_COPIED = 16 * 1024  # bytes of a body that is written together with its head


@dataclass(slots=True)
class Response:
    """A status, a body, and headers whose names and values are safe on a line of their own."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    def pieces(
        self, *, closes: bool = True, has_body: bool = True
    ) -> list[bytes | memoryview]:
        """What to write, one after the other; the connection `closes` after it, or is kept.

        A small answer is one piece, and so one packet. A large body is never copied: many clients
        may read it slowly.
        """
        headers = {
            **GENERAL,
            **self.headers,
            "Connection": "close" if closes else "keep-alive",
        }
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        text = f"{_start(self.status, int(time()))}{''.join(lines)}Content-Length: {len(self.body)}\r\n\r\n"
        head, body = text.encode("latin-1"), self.body if has_body else b""
        return [head + body] if len(body) <= MAX_COPIED else [head, memoryview(body)]


@lru_cache(32)
def _start(status: int, second: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nDate: {formatdate(second, usegmt=True)}\r\n"

"""What goes back to a client, and its bytes on the wire."""

from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from time import time


@dataclass(slots=True)
class Response:
    """A status, a body, and headers whose names and values are safe on a line of their own."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    def wire(self, *, closes: bool = True, has_body: bool = True) -> bytes:
        """Head and body in one piece; the connection `closes` after it, or is kept."""
        headers = {**self.headers, "Connection": "close" if closes else "keep-alive"}
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        head = f"{_start(self.status, int(time()))}{''.join(lines)}Content-Length: {len(self.body)}\r\n\r\n"
        return head.encode("latin-1") + self.body * has_body


@lru_cache(32)
def _start(status: int, second: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nDate: {formatdate(second, usegmt=True)}\r\n"

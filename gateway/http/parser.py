"""Parses the head of a request: request line, headers and the framing of the body.

Each rule names its section of RFC 9110 (semantics) or RFC 9112 (HTTP/1.1). Where they leave a
choice, the parser rejects the request: two servers in a chain must not read it differently.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from gateway import problems

# In bytes. RFC 9112, section 3, asks for request lines of at least 8,000.
# RFC 9110, section 9.2.1: these change nothing.
SAFE_METHODS = ("GET", "HEAD")
MAX_LINE = 8 * 1024
MAX_HEAD = 16 * 1024
MAX_BODY = 64 * 1024
# The request line and 100 headers.
MAX_LINES = 101
# Headers that are not lists: a second one is an error (RFC 9110, section 5.3).
SINGLE_HEADERS = (
    "authorization",
    "content-length",
    "content-type",
    "host",
    "idempotency-key",
    "transfer-encoding",
)
# RFC 9110, sections 5.1 and 5.6.2: a name is a token.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# RFC 9112, section 3: one space between the parts. A method is case-sensitive (section 3.1). One
# with lower-case letters is rejected, because the router ignores the case.
_REQUEST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Z-]+) ([!-~]+) HTTP/([0-9])\.([0-9])")
# RFC 9110, section 7.2: a host and a port. User information is an error (section 4.2.4). Any
# other character ends the host for some parsers.
_HOST_CHARACTER = r"[0-9A-Za-z_.~!$&'()*+;=%:\[\]-]"
_HOST = re.compile(f"{_HOST_CHARACTER}*")
# RFC 9112, section 3.2.2: the start of the absolute form, which clients send to proxies.
_ORIGIN = re.compile(f"(?i:https?)://{_HOST_CHARACTER}+")
# RFC 9110, section 5.5: tab is the only control character in a line.
_ALLOWED_BYTES = b"\t\r\n" + bytes([*range(0x20, 0x7F), *range(0x80, 0x100)])


@dataclass(slots=True)
class HttpRequest:
    """A request without its body. `error` is the reason to reject it."""

    method: str = ""
    path: str = ""
    query: str = ""
    # By name in lower case.
    headers: dict[str, str] = field(default_factory=dict)
    # In bytes, until the body has been read. None for a chunked body.
    body_length: int | None = 0
    expect_continue: bool = False
    keep_alive: bool = False
    error: problems.Problem | None = None

    def parse(self, request_line: str, *header_lines: str) -> None:
        """Set the fields. Raises Problem for malformed or ambiguously framed requests."""
        is_http_1_1 = self._parse_request_line(request_line) == "1"
        for line in header_lines:
            _add_header(self.headers, line)
        # RFC 9112, section 3.2: HTTP/1.1 requires a Host.
        host = self.headers.get("host", None if is_http_1_1 else "")
        if host is None or not _HOST.fullmatch(host):
            raise problems.malformed("The Host header is missing or invalid.")
        self.body_length = _body_length(self.headers, is_http_1_1)
        # RFC 9110, section 10.1.1: HTTP/1.0 has no 100 Continue.
        self.expect_continue = (
            is_http_1_1 and self.headers.get("expect", "").lower() == "100-continue"
        )
        # RFC 9112, section 9.3: HTTP/1.1 keeps a connection, HTTP/1.0 must ask for it.
        options = self.connection_options
        self.keep_alive = "close" not in options and (
            is_http_1_1 or "keep-alive" in options
        )

    @property
    def connection_options(self) -> list[str]:
        """The options of the Connection header in lower case (RFC 9110, section 7.6.1)."""
        value = self.headers.get("connection", "").lower()
        return [option.strip() for option in value.split(",")]

    def _parse_request_line(self, line: str) -> str:
        """Set method, path and query; return the minor version (RFC 9112, section 3)."""
        if not (parts := _REQUEST_LINE.fullmatch(line)):
            raise problems.malformed("The request line is malformed.")
        self.method, target, major, minor = parts.groups()
        target, _, self.query = target.partition("?")
        if origin := _ORIGIN.match(target):
            target = target[origin.end() :] or "/"
        self.path = unquote_to_bytes(target).decode(errors="replace")
        # RFC 9112, section 2.3.
        if major != "1" or minor not in "01":
            raise problems.Problem(505, "malformed-request", "Send version 1.0 or 1.1.")
        # RFC 9112, section 3.2: only the origin form is left. The authority form belongs to
        # CONNECT, the asterisk form to OPTIONS. The router would remove one of two slashes.
        if (
            self.method == "CONNECT"
            or not target.startswith("/")
            or self.path.startswith("//")
        ):
            raise problems.malformed("The request target must be a path.")
        return minor


def parse_header_block(received: bytes) -> tuple[list[str], bytes] | None:
    """Return the lines before the first empty line and the bytes after it; None if it is missing.

    An empty line before them is ignored (RFC 9112, section 2.2). Raises Problem as soon as the
    bytes cannot become a valid head.
    """
    head, end, rest = received.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    text = (head if end else head.removesuffix(b"\r")).decode("latin-1")
    lines = text.split("\r\n")
    # RFC 9112, section 2.2: for some parsers a bare CR or LF ends a line.
    if (
        text.count("\r") != len(lines) - 1
        or text.count("\n") != len(lines) - 1
        or head.translate(None, _ALLOWED_BYTES)
    ):
        raise problems.malformed("The head contains a forbidden control character.")
    # RFC 9112, section 3.
    if len(lines[0]) >= MAX_LINE:
        raise problems.Problem(
            414,
            "malformed-request",
            f"Send a request line of less than {MAX_LINE} bytes.",
        )
    # RFC 9110, section 5.4, and RFC 6585, section 5.
    if (
        len(text) > MAX_HEAD
        or len(lines) > MAX_LINES
        or (len(text) >= MAX_LINE and max(map(len, lines)) >= MAX_LINE)
    ):
        raise problems.Problem(
            431,
            "malformed-request",
            f"Send at most {MAX_LINES - 1} headers of less than {MAX_LINE} bytes each"
            f" and {MAX_HEAD} bytes together.",
        )
    return (lines, rest) if end else None


def _add_header(headers: dict[str, str], line: str) -> None:
    """Add a header line (RFC 9112, section 5.1). The values of one name are joined.

    Raises Problem for a line without a name, with whitespace before the colon or folded
    (RFC 9112, section 5.2), and for a second one of SINGLE_HEADERS.
    """
    written_name, colon, value = line.partition(":")
    name = _header_name(written_name)
    if not name or not colon:
        raise problems.malformed("A header is malformed.")
    # llhttp rejects a tab around a coding.
    value = value.strip(" " if name == "transfer-encoding" else " \t")
    if name in headers:
        if name in SINGLE_HEADERS:
            raise problems.malformed(f"Duplicate header or forbidden trailer: {name}.")
        # RFC 9110, section 5.3.
        value = f"{headers[name]}, {value}"
    headers[name] = value


# Clients send the same few names again and again.
@lru_cache(1000)
def _header_name(written: str) -> str:
    """Return a header's name in lower case, or an empty text if it is not a token."""
    return written.lower() if _HEADER_NAME.fullmatch(written) else ""


def check_trailers(lines: Iterable[str]) -> None:
    """Raise Problem for a malformed trailer, or one of SINGLE_HEADERS (RFC 9110, section 6.5.1)."""
    trailers = dict.fromkeys(SINGLE_HEADERS, "")
    for line in lines:
        _add_header(trailers, line)


def _body_length(headers: Mapping[str, str], is_http_1_1: bool) -> int | None:
    """Return the length of the body (RFC 9112, section 6.3). None if it is chunked.

    Raises Problem for framing that servers read differently: a Content-Length beside a
    Transfer-Encoding (section 6.3), another coding than chunked, or any in HTTP/1.0
    (section 6.1).
    """
    length = headers.get("content-length", "0")
    coding = headers.get("transfer-encoding")
    # RFC 9110, section 8.6.
    if not (length.isascii() and length.isdigit()):
        raise problems.malformed("Content-Length must be a decimal number.")
    if coding is None:
        # Python refuses to convert 4,300 digits or more.
        if len(length) > 20 or int(length) > MAX_BODY:
            raise problems.Problem(413, "too-large", f"Send at most {MAX_BODY} bytes.")
        return int(length)
    if coding.lower() != "chunked" or "content-length" in headers or not is_http_1_1:
        raise problems.malformed(
            "Transfer-Encoding must be chunked, without Content-Length or HTTP/1.0."
        )
    return None

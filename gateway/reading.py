"""Reads requests strictly, before a worker is taken: each function raises a Problem for what is wrong."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

import uuid_utils
from marshmallow import Schema, ValidationError

from gateway import problems, strict_json
from gateway.tokens import Tokens

LONGEST_LINE = 8 * 1024  # bytes, as all of these
LONGEST_HEAD = 16 * 1024
MAX_BODY = 64 * 1024
MOST_LINES = 101  # a request's first one, and its headers
LONGEST_LENGTH = 20  # digits of a Content-Length; Python refuses integers of 4,300
LONGEST_KEY = 255
MAX_FIELDS = 20  # of a body or a query; no route has as many
SINGLE = (
    "authorization",
    "content-length",
    "content-type",
    "host",
    "idempotency-key",
    "transfer-encoding",
)
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Nobody has a method in lower case, nor a path like `//orders`; routing would take both for others.
_FIRST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Z-]+) ([!-~]+) HTTP/([0-9])\.([0-9])")
_IN_HOST = (
    r"[0-9A-Za-z_.~!$&'()*+;=%:\[\]-]"  # no user, and none that others read as two
)
_HOST = re.compile(f"{_IN_HOST}*")
_ORIGIN = re.compile(
    f"(?i:https?)://{_IN_HOST}+"
)  # before the path, where a client talks as if to a proxy
# What a head may hold: no control character but these (RFC 9110, section 5.5).
_ALLOWED = b"\t\r\n" + bytes([*range(0x20, 0x7F), *range(0x80, 0x100)])


@dataclass(slots=True)
class HttpRequest:
    """A request as it comes, without its body; `refusal` is what is wrong with it."""

    method: str = ""
    path: str = ""
    query: str = ""
    headers: dict[str, str] = field(
        default_factory=dict
    )  # by their names in lower case
    unread: int | None = 0  # bytes of its body; None if it is chunked
    expects: bool = False  # to be told when to send the body
    keeps: bool = False  # the connection
    refusal: problems.Problem | None = None

    def parse(self, first: str, *lines: str) -> None:
        """Read the lines before the body; raises for what is no request, or could be cut in two ways."""
        if not (words := _FIRST_LINE.fullmatch(first)):
            raise _no_request(HTTPStatus.BAD_REQUEST)
        self.method, target, major, minor = words.groups()
        path, _, self.query = target.partition("?")
        path = _ORIGIN.sub("", path, 1) or "/" if _ORIGIN.match(path) else path
        self.path = unquote_to_bytes(path.encode("latin-1")).decode(errors="replace")
        if major != "1" or minor not in "01":
            raise _no_request(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
        # CONNECT has an authority in the place of a path (RFC 9112, section 3.2.3).
        if (
            not path.startswith("/")
            or self.path.startswith("//")
            or self.method == "CONNECT"
        ):
            raise problems.malformed("The target is no path.")
        for line in lines:
            _add_header(self.headers, line)
        if not _HOST.fullmatch(self.headers.get("host", "" if minor == "0" else "?")):
            raise problems.malformed("The header host is missing or wrong.")
        self.unread = _body_length(self.headers, minor)
        self.expects = (
            minor != "0" and self.headers.get("expect", "").lower() == "100-continue"
        )
        wanted = [
            token.strip()
            for token in self.headers.get("connection", "").lower().split(",")
        ]
        self.keeps = "close" not in wanted and (minor != "0" or "keep-alive" in wanted)


@dataclass(frozen=True, slots=True)
class Request:
    """What a handler gets: everything is checked already."""

    user_id: str  # who is asking; empty where a route is open to all
    body: dict[str, Any]
    query: dict[str, Any]
    key: str  # the idempotency key; made here where the client gave none
    path: Mapping[str, Any]
    accept_language: str


def split_head(received: bytes) -> tuple[list[str], bytes] | None:
    """The lines before the first empty one, and what follows it; None while it has not come. One empty line
    before them is nothing (RFC 9112, as all of this). Raises for what can't become right: too much, a CR or
    LF that others cut a line at, or another control character."""
    head, end, rest = received.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    text = (head if end else head.removesuffix(b"\r")).decode("latin-1")
    lines = text.split("\r\n")
    if not text.count("\r") == text.count("\n") == len(lines) - 1 or head.translate(
        None, _ALLOWED
    ):
        raise _no_request(HTTPStatus.BAD_REQUEST)
    if len(lines[0]) >= LONGEST_LINE:
        raise _no_request(HTTPStatus.REQUEST_URI_TOO_LONG)
    if (
        len(text) > LONGEST_HEAD
        or len(lines) > MOST_LINES
        or max(map(len, lines)) >= LONGEST_LINE
    ):
        raise _no_request(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    return (lines, rest) if end else None


def _no_request(status: HTTPStatus) -> problems.Problem:
    return problems.Problem(status, "malformed-request", status.phrase)


def _add_header(headers: dict[str, str], line: str) -> None:
    written, colon, value = line.partition(":")
    name = _name(written)
    value = value.strip(
        " " if name == "transfer-encoding" else " \t"
    )  # llhttp refuses a tab there
    if not (name and colon):  # what follows it would be lost
        raise problems.malformed("A header can't be read.")
    if name in headers:
        if name in SINGLE:
            raise problems.malformed(
                f"The header {name} stands twice, or in a trailer."
            )
        value = f"{headers[name]}, {value}"
    headers[name] = value


@lru_cache(1000)  # clients send the same few again and again
def _name(written: str) -> str:
    return written.lower() if _NAME.fullmatch(written) else ""


def check_trailers(lines: Iterable[str]) -> None:
    """Raise Problem for a malformed trailer, or for one of SINGLE (RFC 9110, section 6.5.1)."""
    trailers = dict.fromkeys(SINGLE, "")
    for line in lines:
        _add_header(trailers, line)


def _body_length(headers: Mapping[str, str], minor: str) -> int | None:
    """The length of the body, None if it is chunked.

    Raises Problem for framing that servers read in different ways: a Content-Length beside a
    transfer coding (RFC 9112, section 6.3), another coding, or any in HTTP/1.0 (section 6.1).
    """
    length, coding = (
        headers.get("content-length", "0"),
        headers.get("transfer-encoding"),
    )
    if not (length.isascii() and length.isdigit()):
        raise problems.malformed("Content-Length is not a number.")
    if coding is None:
        if len(length) > LONGEST_LENGTH or int(length) > MAX_BODY:
            raise too_large()
        return int(length)
    if "content-length" in headers or coding.lower() != "chunked" or minor == "0":
        raise problems.malformed("Transfer-Encoding must be chunked, and alone.")
    return None


def too_large(detail: str = f"At most {MAX_BODY} bytes.") -> problems.Problem:
    return problems.Problem(413, "too-large", "The body is too large", detail=detail)


def client_address(peer: str, headers: Mapping[str, str], proxies: int) -> str:
    """The address of a client whose connection comes from `peer`.

    Each of so many `proxies` in front appends to X-Forwarded-For the address that connects to it. What
    stands before these entries is what the client claims. Without a valid entry it is the peer's address.
    """
    addresses = [*headers.get("x-forwarded-for", "").split(","), peer][-1 - proxies :]
    return normalize(
        addresses[0].strip() if len(addresses) > proxies else peer
    ) or normalize(peer)


@lru_cache(1000)
def normalize(text: str) -> str:
    """An address in its one spelling; empty where it is none.

    For IPv6 it is the /56 network: a customer usually has a whole one (RIPE-690).
    """
    try:
        address = ip_address(text)
    except ValueError:
        return ""
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or IPv6Address(int(address) >> 72 << 72)
    return str(address)


def authenticate(request: HttpRequest, tokens: Tokens) -> str:
    """The id of the user whose token the request carries."""
    user_id = tokens.user_id(request.headers.get("authorization"))
    if user_id is None:
        raise problems.unauthorized("Send a valid token: Authorization: Bearer ...")
    return user_id


def read_body(
    request: HttpRequest, schema: Schema | None, read: Callable[[HttpRequest], bytes]
) -> dict[str, Any]:
    """The JSON object in the body, as `schema` loads it; without a schema there must be no body.

    `read` waits for the body.
    """
    if schema is None:
        # A chunked body may be empty. A client that waits for 100 Continue has one to send.
        if request.unread or (
            request.unread is None and (request.expects or read(request))
        ):
            raise problems.malformed("No body is expected here.")
        return {}
    media_type = request.headers.get("content-type", "").partition(";")[0]
    if media_type.strip().lower() != "application/json" or request.headers.get(
        "content-encoding"
    ):
        raise problems.Problem(
            415, "unsupported-media-type", "Send application/json, not encoded"
        )
    if request.unread == 0 and "content-length" not in request.headers:
        raise problems.Problem(
            411, "length-required", "Send the body with a Content-Length, or in chunks"
        )
    try:
        data = strict_json.parse(read(request))
    except strict_json.NotStrictJson as exc:
        raise problems.malformed(f"The body can't be read. {exc}") from exc
    if not isinstance(data, dict):
        raise problems.malformed("The body must be a JSON object.")
    return load(schema, data)


def read_query(query: str, schema: Schema) -> dict[str, Any]:
    """The parameters of the URL, each at most once, as `schema` loads them."""
    if query.count("&") >= MAX_FIELDS:
        raise problems.malformed("Too many parameters.")
    pairs = parse_qsl(query, keep_blank_values=True)
    counts = Counter(name for name, _ in pairs)
    if repeated := [name for name in counts if counts[name] > 1]:
        raise problems.invalid({name: ["Given more than once."] for name in repeated})
    return load(schema, dict(pairs))


def load(schema: Schema, data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` as `schema` loads it."""
    if len(data) > MAX_FIELDS:  # each unknown one would cost an error
        raise problems.malformed("Too many fields.")
    try:
        loaded: dict[str, Any] = schema.load(data)
    except ValidationError as exc:
        raise problems.invalid(exc.messages_dict) from exc
    return loaded


def idempotency_key(request: HttpRequest) -> str:
    """The Idempotency-Key of a request, or a new one where it has none.

    It has 1 to 255 visible ASCII characters, bare or as a quoted string (IETF
    draft-ietf-httpapi-idempotency-key-header).
    """
    given = request.headers.get("idempotency-key")
    if given is None:
        return f"gateway-{uuid_utils.uuid7()}"
    key = given[1:-1] if len(given) > 1 and given[0] == given[-1] == '"' else given
    if not 1 <= len(key) <= LONGEST_KEY or not all("!" <= c <= "~" for c in key):
        raise problems.invalid(
            {
                "Idempotency-Key": [
                    f"Must have 1 to {LONGEST_KEY} visible ASCII characters."
                ]
            }
        )
    return key

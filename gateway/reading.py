"""Reads a request strictly, before a worker is taken: framing, body, parameters, headers.

Each function raises a Problem that says what is wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any

import eventlet
import uuid_utils
from marshmallow import Schema, ValidationError
from werkzeug.wrappers import Request as HttpRequest

from gateway import problems, strict_json
from gateway.problems import Problem
from gateway.tokens import Tokens

MAX_BODY = 64 * 1024  # bytes
BODY_TIMEOUT_S = 10.0
LONGEST_LENGTH = 20  # digits of a Content-Length; Python refuses integers of 4,300
LONGEST_KEY = 255
SINGLE = ("authorization", "content-length", "content-type", "host", "idempotency-key", "transfer-encoding")


@dataclass(frozen=True, slots=True)
class Request:
    """What a handler gets: everything is checked already."""

    user_id: str  # who is asking; empty where a route is open to all
    body: dict[str, Any]
    query: dict[str, Any]
    key: str  # the idempotency key; made here where the client gave none
    path: Mapping[str, Any]


def wrong_framing(headers: Message) -> Problem | None:
    """What in the headers two servers could read, or cut the body by, in two ways (RFC 9112,
    section 6); None where nothing is."""
    if headers.defects:  # a line that is no header: what follows it would be lost
        return problems.malformed("A header can't be read.")
    names = [name.lower() for name in headers]
    for name in SINGLE:
        if names.count(name) > 1:
            return problems.malformed(f"The header {name} stands twice.")
    length = headers.get("Content-Length", "0")
    if not (length.isascii() and length.isdigit()):
        return problems.malformed("Content-Length is not a number.")
    if "transfer-encoding" in names:
        if "content-length" in names:
            return problems.malformed("Content-Length stands beside Transfer-Encoding.")
        return Problem(411, "length-required", "Send the body with a Content-Length")
    if len(length) > LONGEST_LENGTH or int(length) > MAX_BODY:
        return Problem(413, "too-large", "The body is too large", f"At most {MAX_BODY} bytes.")
    return None


def authenticate(request: HttpRequest, tokens: Tokens) -> str:
    """The id of the user whose token the request carries."""
    user_id = tokens.user_id(request.headers.get("Authorization"))
    if user_id is None:
        raise problems.unauthorized("Send a valid token: Authorization: Bearer ...")
    return user_id


def read_body(request: HttpRequest, schema: Schema | None) -> dict[str, Any]:
    """The JSON object in the body, as `schema` loads it; without a schema there must be no body."""
    if schema is None:
        if request.method != "POST" and request.content_length:
            raise problems.malformed("No body is expected here.")
        return {}
    if request.mimetype != "application/json" or request.headers.get("Content-Encoding"):
        raise Problem(415, "unsupported-media-type", "Send application/json, not encoded")
    if request.content_length is None:
        raise Problem(411, "length-required", "Send the body with a Content-Length")
    try:
        data = strict_json.parse(_read(request, request.content_length))
    except strict_json.NotStrictJson as exc:
        raise problems.malformed(f"The body can't be read. {exc}") from exc
    if not isinstance(data, dict):
        raise problems.malformed("The body must be a JSON object.")
    return load(schema, data)


def _read(request: HttpRequest, length: int) -> bytes:
    late = Problem(408, "body-timeout", "The body did not arrive in time")
    try:
        with eventlet.Timeout(BODY_TIMEOUT_S, late):
            body: bytes = request.environ["wsgi.input"].read(length)
    except OSError:  # the client is gone: nobody reads the answer
        body = b""
    if len(body) < length:
        raise problems.malformed("The body is shorter than its Content-Length.")
    return body


def read_query(request: HttpRequest, schema: Schema) -> dict[str, Any]:
    """The parameters of the URL, each at most once, as `schema` loads them."""
    repeated = {name for name, values in request.args.lists() if len(values) > 1}
    if repeated:
        raise problems.invalid({name: ["Given more than once."] for name in repeated})
    return load(schema, request.args.to_dict())


def load(schema: Schema, data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` as `schema` loads it."""
    try:
        loaded: dict[str, Any] = schema.load(data)
    except ValidationError as exc:
        raise problems.invalid(exc.messages_dict) from exc
    return loaded


def idempotency_key(request: HttpRequest) -> str:
    """The Idempotency-Key (IETF draft-ietf-httpapi-idempotency-key-header): 1 to 255 visible ASCII
    characters, bare or as a quoted string. One is made where there is none."""
    given = request.headers.get("Idempotency-Key")
    if given is None:
        return f"gateway-{uuid_utils.uuid7()}"
    key = given[1:-1] if len(given) > 1 and given[0] == given[-1] == '"' else given
    if not 1 <= len(key) <= LONGEST_KEY or not all("!" <= c <= "~" for c in key):
        message = f"Must have 1 to {LONGEST_KEY} visible ASCII characters."
        raise problems.invalid({"Idempotency-Key": [message]})
    return key

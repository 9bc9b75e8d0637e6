"""Finds the route, the user and the client of a request by its head, before its body is read."""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from ipaddress import IPv6Address, ip_address
from typing import Any

from marshmallow import Schema, fields, validate
from werkzeug.exceptions import MethodNotAllowed

from chassis import health
from chassis.settings import ISO_4217_CODE, SWITCH, read
from gateway import documents, money, problems, tokens
from gateway.http import parser, responses


class Dispatcher:
    """Accepts or rejects requests by their heads.

    Settings: TRUSTED_PROXIES, WEB_SERVER_HEALTH, CURRENCY.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._proxies = read(
            config,
            "TRUSTED_PROXIES",
            fields.Integer(strict=True, validate=validate.Range(0, 10)),
        )
        self._open_paths = {
            *documents.FILES,
            "/healthz",
            *(health.PATHS if read(config, "WEB_SERVER_HEALTH", SWITCH) else ()),
        }
        # At a stop each response closes its connection.
        self.is_draining = False
        self._match: Any = None
        money.currency = read(config, "CURRENCY", ISO_4217_CODE)

    def start(self, url_map: Any, provider: tokens.Tokens) -> None:
        """Accept requests for routes from now on. Until then they get 503."""
        self._tokens = provider
        self._match = lru_cache(1000)(url_map.bind("").match)

    def dispatch(
        self, request: parser.HttpRequest, peer: str
    ) -> responses.Response | Callable[[bytes], responses.Response]:
        """Return the response of an open path, or a function from body to response.

        Raises Problem, or werkzeug's HTTPException for an unknown path or method.
        """
        if request.error:
            raise request.error
        if request.path in self._open_paths:
            return _serve_open_path(request)
        if not self._match:
            raise problems.unavailable()
        route, path = self._match(request.path, request.method)
        user_id = (
            ""
            if route.public
            else self._tokens.user_id(request.headers.get("authorization"))
        )
        if user_id is None:
            raise problems.unauthorized("Send a valid token: Authorization: Bearer ...")
        check_body_headers(request, route.body)
        return partial(
            route.handle,
            head=request,
            path=path,
            user_id=user_id,
            client=client_address(peer, request.headers, self._proxies),
        )


def _serve_open_path(request: parser.HttpRequest) -> responses.Response:
    """Return a document or a health response. No service is called."""
    if request.method not in parser.SAFE_METHODS:
        raise MethodNotAllowed(parser.SAFE_METHODS)
    if request.path in documents.FILES:
        return documents.respond(
            request.path, request.headers.get("accept-encoding", "")
        )
    response = health.respond(request.path)
    return responses.Response(
        response.status_code,
        response.get_data(),
        {"Content-Type": str(response.content_type)},
    )


def check_body_headers(request: parser.HttpRequest, schema: Schema | None) -> None:
    """Raise Problem if a body must not be read: unexpected, not JSON, or without a length."""
    media_type = request.headers.get("content-type", "").partition(";")[0]
    if schema is None:
        # A chunked body may be empty. A client that waits for 100 Continue has one to send.
        if request.body_length or (
            request.body_length is None and request.expect_continue
        ):
            raise problems.malformed("This route accepts no body.")
    elif media_type.strip().lower() != "application/json" or request.headers.get(
        "content-encoding"
    ):
        raise problems.Problem(
            415,
            "unsupported-media-type",
            "Send application/json without a Content-Encoding.",
        )
    elif request.body_length == 0 and "content-length" not in request.headers:
        raise problems.Problem(
            411,
            "length-required",
            "Send the body with a Content-Length, or in chunks.",
        )


def client_address(peer: str, headers: Mapping[str, str], proxies: int) -> str:
    """Return the address of the client whose connection comes from `peer`.

    Each trusted proxy appends to X-Forwarded-For the address that connects to it, and `proxies`
    is their number. The client itself can write only the entries before theirs. If there is no
    valid entry, the client is `peer`.
    """
    addresses = [*headers.get("x-forwarded-for", "").split(","), peer][-1 - proxies :]
    return normalize(
        addresses[0].strip() if len(addresses) > proxies else peer
    ) or normalize(peer)


@lru_cache(1000)
def normalize(text: str) -> str:
    """Return the canonical spelling of an address; an empty text for anything else.

    An IPv6 address becomes its /56 network: a customer usually has a whole one (RIPE-690).
    """
    try:
        address = ip_address(text)
    except ValueError:
        return ""
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or IPv6Address(int(address) >> 72 << 72)
    return str(address)

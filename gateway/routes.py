"""Declares routes, validates the content of their requests and runs their handlers in workers."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import uuid_utils
from eventlet import Event
from marshmallow import Schema, ValidationError
from nameko.extensions import DependencyProvider
from nameko.web.handlers import HttpRequestHandler

from chassis.logs import CLIENT, REQUEST_ID, current_request_id
from gateway import problems, strict_json
from gateway.http import parser, responses
from gateway.http.server import WebServer
from gateway.waits import WaitingRequests

# Of the workers, for the requests of one client.
MAX_CLIENT_SHARE = 0.25
# Of a body or a query. No route has as many.
MAX_FIELDS = 20
_KEY = re.compile("[!-~]{1,255}")
NO_PARAMETERS = Schema()
encode_json = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRequest:
    """A validated request, as its handler receives it."""

    # Empty on a public route.
    user_id: str
    body: dict[str, Any]
    query: dict[str, Any]
    # The Idempotency-Key, or a new key if the client sent none.
    key: str
    # The variables in the path.
    path: Mapping[str, Any]
    accept_language: str


class Route(HttpRequestHandler):
    """One route: `@route("POST", "/orders", body=NewOrder())`.

    The handler receives an ApiRequest. It returns (status, data) or (status, data, headers), or
    raises Problem. A `public` route needs no token. A route that `supports_wait` returns an order
    without headers, and accepts `Prefer: wait`.
    """

    server = WebServer()
    # The log line `request_handled` reports its requests.
    quiet = True

    def __init__(
        self,
        *rule: str,
        body: Schema | None = None,
        query: Schema = NO_PARAMETERS,
        public: bool = False,
        supports_wait: bool = False,
        **options: Any,
    ) -> None:
        self.body = body
        self.query = query
        self.defaults = query.load({})
        self.public = public
        self.supports_wait = supports_wait
        super().__init__(*rule, expected_exceptions=problems.Problem, **options)

    def handle(
        self,
        body: bytes,
        *,
        head: parser.HttpRequest,
        path: Mapping[str, Any],
        user_id: str,
        client: str,
    ) -> responses.Response:
        """Return the response of the handler, or its problem.

        Raises Problem for invalid content, before the handler runs.
        """
        request = ApiRequest(
            user_id=user_id,
            body=load_body(self.body, body),
            query=load_query(self.query, head.query) if head.query else self.defaults,
            key=idempotency_key(head.headers.get("idempotency-key")),
            path=path,
            accept_language=head.headers.get("accept-language", ""),
        )
        try:
            status, data, *more = self._run_handler(request, client)
            if self.supports_wait:
                data, *more = self.server.waiting.apply(
                    head.headers.get("prefer", ""), data
                )
            return responses.Response(
                status,
                encode_json(data).encode(),
                {"Content-Type": "application/json", **(more[0] if more else {})},
            )
        except Exception as exc:
            is_safe = head.method in parser.SAFE_METHODS
            return problems.from_exception(exc, is_safe=is_safe).response()

    def _run_handler(self, request: ApiRequest, client: str) -> Any:
        """Run the handler in a worker, and return its result.

        Raises Problem if the client has too many requests in progress.
        """
        in_progress = self.server.clients_in_progress
        in_progress.append(client)
        try:
            if in_progress.count(client) > max(
                self.container.max_workers * MAX_CLIENT_SHARE, 1
            ):
                raise problems.unavailable(
                    "Too many of your requests are in progress. Nothing was done."
                )
            result = Event()
            self.container.spawn_worker(
                self,
                (request,),
                {},
                context_data={REQUEST_ID: current_request_id(), CLIENT: client},
                handle_result=partial(self.handle_result, result),
            )
            return result.wait()
        finally:
            in_progress.remove(client)


route = Route.decorator


class Waiting(DependencyProvider):
    """Injects the requests that wait for orders."""

    server = WebServer()

    def get_dependency(self, worker_ctx: Any) -> WaitingRequests:
        return self.server.waiting


def load_body(schema: Schema | None, body: bytes) -> dict[str, Any]:
    """Load a JSON object by a schema. Without a schema the body must be empty."""
    if schema is None:
        if body:
            raise problems.malformed("This route accepts no body.")
        return {}
    if not isinstance(data := strict_json.parse(body), dict):
        raise problems.malformed("The body must be a JSON object.")
    return load(schema, data)


def load_query(schema: Schema, query: str) -> dict[str, Any]:
    """Load the parameters of a URL by a schema. Each may occur once."""
    if query.count("&") >= MAX_FIELDS:
        raise problems.malformed(f"Send at most {MAX_FIELDS} parameters.")
    pairs = parse_qsl(query, keep_blank_values=True)
    names = [name for name, _ in pairs]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise problems.invalid({name: ["Given more than once."] for name in repeated})
    return load(schema, dict(pairs))


def load(schema: Schema, data: Mapping[str, Any]) -> dict[str, Any]:
    """Load fields by a schema. Raises Problem with an error for each invalid field."""
    # Each unknown field costs an error.
    if len(data) > MAX_FIELDS:
        raise problems.malformed(f"Send at most {MAX_FIELDS} fields.")
    try:
        return schema.load(data)
    except ValidationError as exc:
        raise problems.invalid(exc.messages_dict) from exc


def idempotency_key(header: str | None) -> str:
    """Return the key of an Idempotency-Key header, or a new key without a header.

    It has 1 to 255 visible ASCII characters, bare or as a quoted string
    (draft-ietf-httpapi-idempotency-key-header).
    """
    if header is None:
        return f"gateway-{uuid_utils.uuid7()}"
    key = header[1:-1] if len(header) > 1 and header[0] == header[-1] == '"' else header
    if not _KEY.fullmatch(key):
        raise problems.invalid(
            {"Idempotency-Key": ["Must have 1 to 255 visible ASCII characters."]}
        )
    return key

"""Write the OpenAPI document of the HTTP API.

docs/openapi.yaml is for readers, and the gateway serves gateway/static/openapi.json.

Paths, summaries, queries and request bodies are read from the gateway's routes. A response has the
fields of a `ResponseFields`, and its example is a sample of docs/contracts. This module adds what
the code does not contain: the types of response fields, and the responses of each route.

usage: python -m dev.specs.openapi
"""

import inspect
import json
import re
import tomllib
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema, fields, missing

from billing import domain
from chassis.errors import DeadlineExceeded
from chassis.schemas import UUID_PATTERN, storable
from chassis.settings import ISO_4217_DIGITS
from dev.failure import Failure
from gateway import documents, money, problems, schemas, story
from gateway.http import parser
from gateway.problems import Problem
from gateway.routes import Route
from gateway.service import Service
from notifications.schemas import SUBJECT
from users.domain import LOCALES
from users.schemas import LOCALE, USERNAME

ROOT = Path(__file__).parents[2]
YAML = ROOT / "docs" / "openapi.yaml"
JSON = documents.STATIC / "openapi.json"
SAMPLES = ROOT / "docs" / "contracts" / "rpc"

Piece = dict[str, Any]  # of the document

DESCRIPTION = """\
Money, orders and letters of a shop. Amounts are decimal strings. The bearer token identifies the
user.

A request body has either a Content-Length or chunks, and at most 64 KiB. All chunk lines together
have at most 16 KiB. Trailers are ignored.

All amounts are in one currency, which GET /account returns. They have as many decimals as ISO 4217
defines for it: `1.50` EUR, `150` JPY, `1.500` KWD. Examples are in EUR.

Errors are `application/problem+json` (RFC 9457) with a stable `type`. Invalid fields are listed in
`errors`. If a path does not support a method, the response is 405 with `Allow`. Each GET is also a
HEAD. After 503 or 504, `outcome` is `none` if this request did nothing, else `unknown`. Retry with
the same `Idempotency-Key`.
"""


TOKENS = "The `access_token` of POST /users or POST /tokens."


def text(**rules: Any) -> Piece:
    return {"type": "string", **rules}


def one_of(*values: str) -> Piece:
    return text(enum=list(values))


def nullable(piece: Piece) -> Piece:
    values = {"enum": [*piece["enum"], None]} if "enum" in piece else {}
    return {**piece, "type": [piece["type"], "null"], **values}


def ref(kind: str, name: str) -> Piece:
    return {"$ref": f"#/components/{kind}/{name}"}


def pattern(python: Any) -> str:
    r"""Convert a Python pattern to JSON Schema: ^ and $ instead of \A and \Z."""
    return str(python).replace(r"\A", "^").replace(r"\Z", "$")


# Types of response fields

ID = text(format="uuid", pattern=pattern(UUID_PATTERN))
TIME = text(
    format="date-time",
    pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$",
)
EMAIL = text(format="idn-email", maxLength=254)
AMOUNT = ref("schemas", "Amount")
KIND = one_of(*get_args(domain.Kind))
REASONS = get_args(domain.Reason)
REASON = nullable(one_of(*REASONS))
ERRORS: Piece = {
    "type": "object",
    "additionalProperties": {"type": "array", "items": text()},
}  # by field
USER = {
    "id": ID,
    "username": text(maxLength=64, pattern=pattern(USERNAME.regex.pattern)),
    "email": EMAIL,
    "locale": one_of(*LOCALES),
}
TOKEN = {
    "access_token": text(),
    "token_type": text(const="Bearer"),
    "expires_in": {"type": "integer", "description": "Seconds."},
}

# By the component's name: the ResponseFields, types of the fields, and the sample for the example.
COMPONENTS: dict[str, tuple[schemas.ResponseFields, Piece, str]] = {
    "User": (schemas.USER, USER, "users.get"),
    "Account": (
        schemas.ACCOUNT,
        {"user_id": ID, "currency": text(pattern="^[A-Z]{3}$"), "balance": AMOUNT},
        "billing.account",
    ),
    "Operation": (
        schemas.OPERATION,
        {
            "id": ID,
            "kind": KIND,
            "status": one_of("done", "refused"),
            "reason": REASON,
            "order_id": nullable(ID),
            "created_at": TIME,
            "amount": AMOUNT,
            "balance_after": AMOUNT,
        },
        "billing.deposit",
    ),
    "Order": (
        schemas.ORDER,
        {
            "id": ID,
            "status": one_of("pending", "paid", "rejected"),
            "reason": REASON,
            "created_at": TIME,
            "ended_at": nullable(TIME),
            "price": AMOUNT,
        },
        "orders.place",
    ),
    "Letter": (
        schemas.LETTER,
        {
            "id": ID,
            "kind": one_of("happiness", "grief", "message"),
            "order_id": nullable(ID),
            "subject": text(),
            "body": text(),
            "created_at": TIME,
            "state": one_of("stored"),
            "to": EMAIL,
        },
        "notifications.send",
    ),
}
# The steps of a story in their order, by event: the service, the states besides `done`, and the
# details of a step that is done.
STEPS: dict[str, tuple[str, tuple[str, ...], Piece]] = {
    "order_placed": ("orders", (), {}),
    "withdrawal_recorded": (
        "billing",
        ("pending", "unknown"),
        {"operation": ref("schemas", "Operation")},
    ),
    "order_settled": ("orders", ("pending",), {}),
    "event_published": ("orders", ("pending", "unknown"), {}),
    "letter_written": (
        "notifications",
        ("pending", "unknown"),
        {"letter": ref("schemas", "Letter")},
    ),
}
PAGES = {"Statement": "Operation", "Orders": "Order", "Letters": "Letter"}

# Rules that apispec does not find in marshmallow's fields, by schema and field.
CURSOR = "^[A-Za-z0-9_-]+={0,2}$"
FIELD_RULES: dict[tuple[str, str | None], Piece] = {
    ("SignUp", "username"): {"pattern": pattern(USERNAME.regex.pattern)},
    ("SignUp", "email"): {
        "format": "idn-email",
        "description": "Stored in its normalized form. All forms of a domain are equal.",
    },
    ("SignUp", "locale"): {
        "pattern": pattern(LOCALE.regex.pattern),
        "description": "A language tag in the format of browsers or POSIX. Its language is "
        "stored, or `en` if letters do not support it. `Accept-Language` is used if the tag is "
        "missing.",
    },
    ("NewMessage", "subject"): {"pattern": pattern(SUBJECT.regex.pattern)},
    ("Page", "limit"): {
        "type": "integer",
        "minimum": 1,
        "maximum": 100,
        "description": "The maximum number of items.",
    },
    ("Page", "after"): text(
        pattern=CURSOR, description="`next_cursor` of the previous page."
    ),
}
BODIES: dict[str, Piece] = {
    "SignUp": {
        "username": "ann",
        "email": "ann@example.com",
        "password": "correct horse battery",
    },
    "Login": {"username": "ann", "password": "correct horse battery"},
    "NewMovement": {"amount": "100.00"},
    "NewOrder": {"price": "99.90"},
    "NewMessage": {"subject": "A note", "body": "To myself."},
}


@dataclass(frozen=True, kw_only=True)
class ProblemSpec:
    """A problem of the API: its status, its types, a description, and perhaps an example."""

    status: int
    types: tuple[str, ...]
    description: str
    example: Problem | None = None


# By the component's name.
PROBLEMS = {
    "BadRequest": ProblemSpec(
        status=400,
        types=("malformed-request",),
        description="The request is malformed.",
        example=problems.malformed("The reason."),
    ),
    "Unauthorized": ProblemSpec(
        status=401,
        types=("unauthorized",),
        description="The token is missing or invalid.",
        example=problems.unauthorized("Send a valid token."),
    ),
    "NotFound": ProblemSpec(
        status=404,
        types=("not-found",),
        description="The resource does not exist or belongs to another user.",
        example=problems.not_found(),
    ),
    "RequestTimeout": ProblemSpec(
        status=408,
        types=("request-timeout", "body-timeout"),
        description="The request did not arrive in time.",
    ),
    "UserConflict": ProblemSpec(
        status=409,
        types=("taken",),
        description="The username or the address is in use.",
    ),
    "OperationRefused": ProblemSpec(
        status=409,
        types=REASONS,
        description="Refused. A retry with the same key gets the same response.",
    ),
    "LengthRequired": ProblemSpec(
        status=411,
        types=("length-required",),
        description="The body has neither a Content-Length nor chunks.",
    ),
    "ContentTooLarge": ProblemSpec(
        status=413,
        types=("too-large",),
        description=f"More than {parser.MAX_BODY} bytes, or too many chunks.",
    ),
    "UriTooLong": ProblemSpec(
        status=414,
        types=("malformed-request",),
        description="The first line is too long.",
    ),
    "UnsupportedMediaType": ProblemSpec(
        status=415,
        types=("unsupported-media-type",),
        description="The body is not application/json, or it is encoded.",
    ),
    "UnprocessableContent": ProblemSpec(
        status=422,
        types=("validation", "idempotency-key-reused"),
        description="Fields are invalid, or the key was used for a different request.",
        example=problems.invalid({"price": ["Must be more than 0."]}),
    ),
    "HeaderFieldsTooLarge": ProblemSpec(
        status=431,
        types=("malformed-request",),
        description="The headers are too large.",
    ),
    "InternalServerError": ProblemSpec(
        status=500,
        types=("internal-error",),
        description="An internal error.",
    ),
    "ServiceUnavailable": ProblemSpec(
        status=503,
        types=("unavailable",),
        description="A required service is unavailable.",
        example=problems.outcome_unknown(),
    ),
    "GatewayTimeout": ProblemSpec(
        status=504,
        types=("deadline-exceeded",),
        description="A required service did not respond in time.",
        example=problems.from_exception(DeadlineExceeded()),
    ),
    "HttpVersionNotSupported": ProblemSpec(
        status=505,
        types=("malformed-request",),
        description="The version of HTTP is not supported.",
    ),
}
EVERYWHERE = (
    "BadRequest",
    "RequestTimeout",
    "LengthRequired",
    "ContentTooLarge",
    "UriTooLong",
    "HeaderFieldsTooLarge",
    "InternalServerError",
    "ServiceUnavailable",
    "HttpVersionNotSupported",
)
FROM_SERVICES = (
    "UnprocessableContent",
    "GatewayTimeout",
)  # of routes that call a service

# By handler: the schema of each status, and problems of this route only.
RESPONSES: dict[str, tuple[dict[int, str], tuple[str, ...]]] = {
    "sign_up": ({201: "SignedUp"}, ("UserConflict",)),
    "log_in": ({201: "Token"}, ("Unauthorized",)),
    "profile": ({200: "User"}, ()),
    "account": ({200: "Account"}, ()),
    "statement": ({200: "Statement"}, ()),
    "deposit": ({201: "Operation"}, ("OperationRefused",)),
    "withdraw": ({201: "Operation"}, ("OperationRefused",)),
    "place_order": ({201: "Order", 202: "Order"}, ()),
    "list_orders": ({200: "Orders"}, ()),
    "get_order": ({200: "Order"}, ("NotFound",)),
    "get_story": ({200: "Story"}, ("NotFound",)),
    "send_message": ({201: "Letter"}, ()),
    "list_notifications": ({200: "Letters"}, ()),
}
SUCCESS = {200: "Success.", 201: "Created.", 202: "Accepted. The outcome is open."}
PROBLEM_HEADERS = {
    401: ("WWW-Authenticate",),
    503: ("Retry-After",),
    504: ("Retry-After",),
}
HAVE_LOCATION = ("sign_up", "place_order")  # handlers whose response has a Location
LINKS = {
    "place_order": {
        name: {
            "operationId": operation_id,
            "parameters": {"order_id": "$response.body#/id"},
        }
        for name, operation_id in (("order", "get_order"), ("story", "get_story"))
    }
}

REQUEST_ID: Piece = {
    "description": "It is in each log line about this request.",
    "schema": text(pattern="^[!-~]{1,128}$"),
}
HEADERS: dict[str, Piece] = {
    "X-Request-Id": {**REQUEST_ID, "required": True},
    "Retry-After": {
        "description": "Seconds.",
        "required": True,
        "schema": text(pattern="^[0-9]+$"),
    },
    "Location": {
        "description": "The path of the new resource.",
        "required": True,
        "schema": text(pattern="^/"),
    },
    "WWW-Authenticate": {"required": True, "schema": text(const="Bearer")},
    "Preference-Applied": {
        "description": "The preference that was applied. It is missing if the request had no valid "
        "one, or if too many requests wait.",
        "schema": text(pattern=r"^wait=([1-9]|[12][0-9]|30)$", examples=["wait=30"]),
    },
}
PARAMETERS: dict[str, Piece] = {
    "Idempotency-Key": {
        "in": "header",
        "name": "Idempotency-Key",
        "description": "Identifies the request. The same key and body return the same operation "
        "or order in its current state. The same key with another body gets 422. Plain, or a "
        "quoted string.",
        "schema": text(pattern="^[!-~]{1,255}$", examples=["order-1"]),
    },
    "Accept-Language": {
        "in": "header",
        "name": "Accept-Language",
        "description": "Sets the user's locale if the body has none.",
        "schema": text(examples=["ru-RU, en;q=0.5"]),
    },
    # Without a pattern, because an invalid preference is ignored.
    "Prefer": {
        "in": "header",
        "name": "Prefer",
        "description": "`wait=30` delays the response until the order has settled, for at most 30 "
        "seconds. If it has not settled by then, the response has the pending order. An invalid "
        "preference is ignored (RFC 7240).",
        "schema": text(examples=["wait=30", "respond-async, wait=10"]),
    },
    "X-Request-Id": {
        "in": "header",
        "name": "X-Request-Id",
        "description": "1 to 128 visible ASCII characters. Otherwise the gateway generates an id.",
        "schema": text(),
    },
}


def document() -> Piece:
    """Return the whole document."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    marshmallow = MarshmallowPlugin()
    spec = APISpec(
        title=project["name"],
        version=project["version"],
        openapi_version="3.1.0",
        plugins=[marshmallow],
        info={"description": DESCRIPTION},
        servers=[{"url": "/"}],
        security=[{"bearer": []}],
    )
    converter: Any = marshmallow.converter
    converter.add_attribute_function(lambda _, field, **__: field_rules(field))
    bearer = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    spec.components.security_scheme("bearer", {**bearer, "description": TOKENS})
    for name, piece in response_schemas().items():
        spec.components.schema(name, piece)
    for name in PROBLEMS:
        spec.components.response(name, problem_response(name))
    for name, piece in HEADERS.items():
        spec.components.header(name, piece)
    for name, piece in PARAMETERS.items():
        spec.components.parameter(name, piece["in"], piece)
    for handler, route in routes():
        path = re.sub(r"<(\w+)>", r"{\1}", route.url)
        spec.path(
            path, operations={route.method.lower(): operation(handler, route, path)}
        )
    for path, piece in open_paths().items():
        spec.path(path, operations={"get": piece})
    whole: Piece = {"openapi": None, **spec.to_dict()}  # the version comes first
    for name, example in BODIES.items():
        whole["components"]["schemas"][name]["examples"] = [example]
    return whole


def routes() -> list[tuple[Callable[..., Any], Route]]:
    """Return the handlers of the gateway with their routes, in the order of the source."""
    found = [
        (handler, route)
        for handler in vars(Service).values()
        for route in getattr(handler, "nameko_entrypoints", ())
        if isinstance(route, Route)
    ]
    names = {handler.__name__ for handler, _ in found}
    check_equal("RESPONSES and the routes", names, RESPONSES.keys())
    return found


def check_equal(what: str, names: Set[str], others: Set[str]) -> None:
    """Raise Failure if two sets of names differ."""
    if differing := names ^ others:
        listed = ", ".join(sorted(differing))
        raise Failure(f"dev/specs/openapi.py: {what} differ: {listed}")


def operation(handler: Any, route: Route, path: str) -> Piece:
    """Return the operation of a route."""
    successes, own_problems = RESPONSES[handler.__name__]
    names = [*EVERYWHERE, *FROM_SERVICES, *own_problems]
    tag = path.split("/")[1]
    piece = operation_head(handler.__name__, tag, inspect.getdoc(handler) or "")
    piece["parameters"] = parameters(handler, route, path)
    if route.body:
        names.append("UnsupportedMediaType")
        content = {"application/json": {"schema": route.body}}
        piece["requestBody"] = {"required": True, "content": content}
    if route.public:
        piece["security"] = []
    else:
        names.append("Unauthorized")
    responses = {
        status: success_response(
            status, name, handler.__name__, waits=route.supports_wait
        )
        for status, name in successes.items()
    }
    return {**piece, "responses": with_problems(responses, names)}


def parameters(handler: Any, route: Route, path: str) -> list[Any]:
    """Return the parameters of a route: headers, fields of the query, parts of the path."""
    found: list[Any] = ["X-Request-Id"]
    if "key" in handler.__code__.co_names:  # it reads `request.key`
        found.append("Idempotency-Key")
    if "accept_language" in handler.__code__.co_names:
        found.append("Accept-Language")
    if route.supports_wait:
        found.append("Prefer")
    # Without apispec, which fails if a field has a default but cannot be dumped.
    for field in route.query.fields.values():
        schema = field_rules(field)
        if field.load_default is not missing:
            schema = {**schema, "default": field.load_default}
        name = field.data_key or field.name
        found.append({"in": "query", "name": name, "schema": schema})
    for name in re.findall(r"{(\w+)}", path):
        found.append({"in": "path", "name": name, "required": True, "schema": ID})
    return found


def operation_head(name: str, tag: str, docstring: str) -> Piece:
    """Return id, tag and summary of an operation, and its description if it has one."""
    summary, _, rest = docstring.partition(": ")
    head = {"operationId": name, "tags": [tag], "summary": summary.rstrip(".")}
    return {**head, "description": docstring} if rest else head


def success_response(status: int, name: str, handler: str, *, waits: bool) -> Piece:
    """Return the response of a handler with this status and this schema."""
    headers = ["Location"] if handler in HAVE_LOCATION else []
    if waits:
        headers.append("Preference-Applied")
    content = {"application/json": ref("schemas", name)}
    piece = response(SUCCESS[status], content, *headers)
    if handler in LINKS:
        piece["links"] = LINKS[handler]
    return piece


def response(description: str, contents: dict[str, Piece], *headers: str) -> Piece:
    return {
        "description": description,
        "headers": {name: ref("headers", name) for name in ("X-Request-Id", *headers)},
        "content": {
            media_type: {"schema": schema} for media_type, schema in contents.items()
        },
    }


def problem_response(name: str) -> Piece:
    """Return the response of one of PROBLEMS."""
    problem = PROBLEMS[name]
    kinds = {
        "type": {"enum": [problems.TYPE.format(kind) for kind in problem.types]},
        "status": {"const": problem.status},
    }
    headers = PROBLEM_HEADERS.get(problem.status, ())
    schema = {**ref("schemas", "Problem"), "properties": kinds}
    content = {"application/problem+json": schema}
    piece = response(problem.description, content, *headers)
    if problem.status == 503:  # without the header if there are too many connections
        piece["headers"]["X-Request-Id"] = REQUEST_ID
    if problem.example:
        piece["content"]["application/problem+json"]["example"] = problem.example.body
    return piece


def with_problems(
    responses: dict[int, Piece], names: list[str] | tuple[str, ...]
) -> dict[str, Piece]:
    """Return the responses with these of PROBLEMS, by status in ascending order."""
    problem_refs = {PROBLEMS[name].status: ref("responses", name) for name in names}
    by_status = responses | problem_refs
    return {str(status): by_status[status] for status in sorted(by_status)}


def response_schemas() -> dict[str, Piece]:
    """Return the schemas of responses: of each ResponseFields, of pages, tokens and problems."""
    found = {
        "Amount": text(
            pattern=r"^[0-9]{1,13}(\.[0-9]{2,4})?$",
            description="With all decimals of the currency.",
            examples=["99.90"],
        )
    }
    for name, (response_fields, types, sample) in COMPONENTS.items():
        shown = response_fields.fields
        check_equal(f"{name} and its ResponseFields", types.keys(), shown.keys())
        schema = closed_object({field: types[field] for field in shown})
        found[name] = {**schema, "examples": [response_fields.dump(reply_of(sample))]}
    found["Story"] = story_schema()
    cursor = nullable(text(pattern=CURSOR))
    for name, item in PAGES.items():
        items = {"type": "array", "maxItems": 100, "items": ref("schemas", item)}
        found[name] = closed_object({"items": items, "next_cursor": cursor})
    found["Token"] = closed_object(TOKEN)
    found["SignedUp"] = closed_object(USER | TOKEN)
    members = {
        "detail": text(),
        "errors": ERRORS,
        "operation": ref("schemas", "Operation"),
        "outcome": one_of(*problems.OUTCOMES)
        | {
            "description": "The effect of this request. An earlier one with the same key may have"
            " had its own."
        },
    }
    needed = {
        "type": text(format="uri"),
        "title": text(),
        "status": {"type": "integer"},
    }
    found["Problem"] = closed_object(needed, **members)
    return found


def reply_of(sample: str) -> Any:
    """Return the reply in the sample of an RPC method."""
    return json.loads((SAMPLES / f"{sample}.json").read_text())["reply"]


def story_schema() -> Piece:
    """Return the schema of a story, with the story of the samples as its example."""
    schema = closed_object(
        {
            "order": ref("schemas", "Order"),
            "steps": {
                "type": "array",
                "prefixItems": [step_schema(event) for event in STEPS],
                "minItems": len(STEPS),
                "maxItems": len(STEPS),
            },
            "attempts": closed_object(
                {
                    "count": {"type": "integer", "minimum": 0},
                    "last_at": nullable(TIME),
                }
            )
            | {"description": "Retries of the withdrawal while the order was pending."},
            "clocks": text(description="How to read the times."),
        }
    )
    example = story.compose(
        history=reply_of("orders.get_history"),
        operation=reply_of("billing.get_withdrawal"),
        letter=reply_of("notifications.get_letter"),
    )
    return {**schema, "examples": [example]}


def step_schema(event: str) -> Piece:
    """Return the schema of a step. The first one is always done, and has a duration."""
    service, other_states, details = STEPS[event]
    names = {"event": text(const=event), "service": text(const=service)}
    duration: Piece = {
        "type": "number",
        "minimum": 0,
        "description": "Milliseconds since the previous step. Missing if that one is not done.",
    }
    done = {**names, "state": text(const="done"), "at": TIME, **details}
    if not other_states:
        return closed_object({**done, "since_previous_ms": duration})
    not_done = {**names, "state": one_of(*other_states)}
    return {
        "oneOf": [
            closed_object(done, since_previous_ms=duration),
            closed_object(not_done),
        ]
    }


def closed_object(needed: Piece, **optional: Piece) -> Piece:
    """Return the schema of an object with these fields and no others."""
    properties = {**needed, **optional}
    return {
        "type": "object",
        "properties": properties,
        "required": [*needed],
        "additionalProperties": False,
    }


def field_rules(field: fields.Field[Any]) -> Piece:
    """Return rules of a field that apispec does not find."""
    if isinstance(field, money.Money):
        return amount_rules()
    rules: Piece = {}
    if storable in field.validators:
        rules["pattern"] = r"^[^\x00]*$"
    if isinstance(field.parent, Schema):
        rules |= FIELD_RULES.get((type(field.parent).__name__, field.name), {})
    return rules


def amount_rules() -> Piece:
    """Return the rules of an amount in a request: a decimal string or a number."""
    min_decimals = min(ISO_4217_DIGITS.values())
    number = {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": float(money.MAX_AMOUNT_MINOR / 10**min_decimals),
        "description": f"At most {money.MAX_AMOUNT_MINOR} of the currency's minor units.",
    }
    return {
        "description": "More than 0, with at most the decimals of the currency.",
        "oneOf": [text(pattern=rf"^{money._DECIMAL.pattern}$"), number],
    }


def open_paths() -> dict[str, Piece]:
    """Return the paths that need no token and no service: health and documents."""
    return {
        "/healthz": open_path(
            "healthz",
            "Whether the process is alive",
            {"application/json": closed_object({"status": text(const="ok")})},
        ),
        "/readyz": readiness_path(
            "readyz", "Whether broker and services are reachable"
        ),
        "/startedz": readiness_path(
            "startedz",
            "Whether it has started and is not stopping, for a gateway's readiness probe",
        ),
        "/metrics": {
            **open_path(
                "metrics",
                "Metrics in the format of Prometheus",
                {"text/plain": text()},
                "NotFound",
            ),
            **ON_HEALTH_PORT,
        },
        "/openapi.json": open_path(
            "openapi",
            "This document",
            {"application/json": {"type": "object", "required": ["openapi"]}},
        ),
        "/docs": open_path(
            "docs", "This document as an interactive page", {"text/html": text()}
        ),
        "/docs/{file}": files_path("docs_file", "/docs/", "Files of Swagger UI"),
        "/": open_path("page", "A page to try the shop", {"text/html": text()}),
        "/page/{file}": files_path("page_file", "/page/", "Files of the page"),
    }


ON_HEALTH_PORT = {
    "description": "On the health port. Here it is 404 unless GATEWAY_HEALTH_PUBLIC is true."
}


def readiness_path(name: str, summary: str) -> Piece:
    """Return a path with the state of checks: 200 or 503."""
    checks = {"type": "object", "additionalProperties": one_of("ok", "away")}
    state = closed_object({"status": one_of("ready", "not ready"), "checks": checks})
    content = {"application/json": state}
    piece = open_path(name, summary, content, "NotFound") | ON_HEALTH_PORT
    not_ready = response("Not ready.", content)
    not_ready["content"] |= problem_response("ServiceUnavailable")["content"]
    not_ready["headers"] = {"X-Request-Id": REQUEST_ID}
    piece["responses"]["503"] = not_ready
    return piece


def files_path(name: str, prefix: str, summary: str) -> Piece:
    """Return the path of the served files whose paths have the prefix."""
    media_types = {
        path.removeprefix(prefix): media_type
        for path, (media_type, _) in documents.FILES.items()
        if path.startswith(prefix)
    }
    contents = {media_type: text() for media_type in media_types.values()}
    names = one_of(*sorted(media_types))
    parameter = {"in": "path", "name": "file", "required": True, "schema": names}
    piece = open_path(name, summary, contents, "NotFound")
    return {**piece, "parameters": [parameter]}


def open_path(name: str, summary: str, contents: dict[str, Piece], *own: str) -> Piece:
    """Return a path without security, with `own` problems besides those of every path."""
    tag = "documents" if name.startswith(("docs", "openapi", "page")) else "health"
    responses = {200: response(SUCCESS[200], contents)}
    return {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        "security": [],
        "responses": with_problems(responses, [*EVERYWHERE, *own]),
    }


class PlainDumper(yaml.SafeDumper):
    """Write YAML without anchors and with multi-line strings as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = "|" if "\n" in data else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


PlainDumper.add_representer(str, PlainDumper.represent_str)


def rendered() -> dict[Path, str]:
    """Return the content of both files."""
    whole = document()
    readable = yaml.dump(
        whole, Dumper=PlainDumper, sort_keys=False, allow_unicode=True, width=110
    )
    compact = json.dumps(whole, separators=(",", ":"), ensure_ascii=False)
    return {
        YAML: f"# Written by `make specs` (dev/specs/openapi.py).\n{readable}",
        JSON: f"{compact}\n",
    }


if __name__ == "__main__":
    for path, content in rendered().items():
        path.write_text(content)

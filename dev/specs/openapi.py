"""Writes the API's OpenAPI document.

docs/openapi.yaml is to be read, gateway/static/openapi.json to be served.
Paths, docstrings, queries and bodies are read off the gateway's routes; an answer has the fields of its ResponseFields,
and its example is a sample of docs/contracts as they show it. What stands here is what no code says:
the types of what the services answer, and which route answers with what.

usage: python -m dev.specs.openapi
"""

import inspect
import json
import re
import tomllib
from collections.abc import Callable
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
from gateway import documents, money, problems, schemas
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
Money, orders and letters of a shop. Amounts are decimal strings; who is asking comes from the bearer token
alone.

A request body has a Content-Length or is chunked, never both, and at most 64 KiB. Chunk lines have at most
16 KiB together. Trailers are dropped.

All amounts are in one currency, which GET /account names, with the digits after the point that ISO 4217 gives
it: `1.50` EUR, `150` JPY, `1.500` KWD. Examples are in EUR.

Errors are `application/problem+json` (RFC 9457) with a stable `type`, and `errors` by field where fields are
wrong. A method that a path does not have is answered 405 with `Allow`; what can be read with GET, with HEAD
too. 503 and 504 leave open whether it was done, unless the `detail` says that nothing was done:
repeat the request under the same `Idempotency-Key`.
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
    r"""A whole text's expression as JSON Schema writes it, without \A and \Z."""
    return str(python).replace(r"\A", "^").replace(r"\Z", "$")


# What the services answer, by the fields the API shows

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

# A component's name: the ResponseFields, the types of its fields, and the sample that becomes the example.
VIEWS: dict[str, tuple[schemas.ResponseFields, Piece, str]] = {
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
PAGES = {"Statement": "Operation", "Orders": "Order", "Letters": "Letter"}

# What marshmallow does not say of a field: (schema, field).
CURSOR = "^[A-Za-z0-9_-]+={0,2}$"
MORE: dict[tuple[str, str | None], Piece] = {
    ("SignUp", "username"): {"pattern": pattern(USERNAME.regex.pattern)},
    ("SignUp", "email"): {
        "format": "idn-email",
        "description": "Stored in its normalized form. Two forms of one domain are one address.",
    },
    ("SignUp", "locale"): {
        "pattern": pattern(LOCALE.regex.pattern),
        "description": "A language tag, as browsers or POSIX write it. Its language is stored, or `en` if "
        "there are no letters in it. Without a tag `Accept-Language` decides.",
    },
    ("NewMessage", "subject"): {"pattern": pattern(SUBJECT.regex.pattern)},
    ("Page", "limit"): {
        "type": "integer",
        "minimum": 1,
        "maximum": 100,
        "description": "At most.",
    },
    ("Page", "after"): text(
        pattern=CURSOR, description="`next_cursor` of the page before."
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

# Refusals, by their component's name: status, types, description, and a real one where one is made easily.
REFUSALS: dict[str, tuple[int, tuple[str, ...], str, Problem | None]] = {
    "Malformed": (400, ("malformed-request",), "The request can't be read.", problems.malformed("Why.")),
    "Unauthorized": (401, ("unauthorized",), "No valid token.", problems.unauthorized("Send a valid token.")),
    "NotFound": (404, ("not-found",), "There is nothing here, or nothing of yours.", problems.not_found()),
    "Late": (408, ("request-timeout", "body-timeout"), "The request did not arrive in time.", None),
    "Taken": (409, ("taken",), "The username or the address is taken.", None),
    "Refused": (409, REASONS, "Refused, and stored so: the same key gets this answer again.", None),
    "LengthRequired": (411, ("length-required",), "The body has neither a Content-Length nor chunks.", None),
    "TooLarge": (413, ("too-large",), f"More than {parser.MAX_BODY} bytes, or too many chunks.", None),
    "TargetTooLong": (414, ("malformed-request",), "The first line is too long.", None),
    "NotJson": (415, ("unsupported-media-type",), "The body is not application/json, or encoded.", None),
    "Invalid": (
        422,
        ("validation", "idempotency-key-reused"),
        "Fields are wrong, or the key stands for another request.",
        problems.invalid({"price": ["Must be more than 0."]}),
    ),
    "HeadersTooLarge": (431, ("malformed-request",), "The headers are too large.", None),
    "InternalError": (500, ("internal-error",), "Something broke on our side.", None),
    "Unavailable": (503, ("unavailable",), "A part that it needs is away.", problems.unavailable()),
    "DeadlineExceeded": (
        504, ("deadline-exceeded",), "It took too long.", problems.from_exception(DeadlineExceeded()),
    ),
    "NotThisVersion": (505, ("malformed-request",), "Another version of HTTP.", None),
}  # fmt: skip
ANYWHERE = (
    *(
        "Malformed",
        "Late",
        "LengthRequired",
        "TooLarge",
        "TargetTooLong",
        "HeadersTooLarge",
    ),
    *("InternalError", "Unavailable", "NotThisVersion"),
)
ASKING = ("Invalid", "DeadlineExceeded")  # what calls a service

# What each handler answers, by status, and its own refusals.
ANSWERS: dict[str, tuple[dict[int, str], tuple[str, ...]]] = {
    "sign_up": ({201: "SignedUp"}, ("Taken",)),
    "log_in": ({201: "Token"}, ("Unauthorized",)),
    "profile": ({200: "User"}, ()),
    "account": ({200: "Account"}, ()),
    "statement": ({200: "Statement"}, ()),
    "deposit": ({201: "Operation"}, ("Refused",)),
    "withdraw": ({201: "Operation"}, ("Refused",)),
    "place_order": ({201: "Order", 202: "Order"}, ()),
    "list_orders": ({200: "Orders"}, ()),
    "get_order": ({200: "Order"}, ("NotFound",)),
    "send_message": ({201: "Letter"}, ()),
    "list_notifications": ({200: "Letters"}, ()),
}
MEANING = {200: "As asked.", 201: "Done.", 202: "Taken; the outcome is open."}
LOCATED = ("sign_up", "place_order")  # whose answers have a Location
FOLLOWED = {
    "place_order": {
        "order": {
            "operationId": "get_order",
            "parameters": {"order_id": "$response.body#/id"},
        }
    }
}

REQUEST_ID: Piece = {
    "description": "Stands in every line of the logs about this request.",
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
        "description": "The path of what was made.",
        "required": True,
        "schema": text(pattern="^/"),
    },
    "WWW-Authenticate": {"required": True, "schema": text(const="Bearer")},
}
PARAMETERS: dict[str, Piece] = {
    "Idempotency-Key": {
        "in": "header",
        "name": "Idempotency-Key",
        "description": "Names the request: the same key and body get the same operation or order as it now "
        "stands, another body gets 422. Bare, or as a quoted string.",
        "schema": text(pattern="^[!-~]{1,255}$", examples=["order-1"]),
    },
    "Accept-Language": {
        "in": "header",
        "name": "Accept-Language",
        "description": "Decides the user's locale where the body has none.",
        "schema": text(examples=["ru-RU, en;q=0.5"]),
    },
    "X-Request-Id": {
        "in": "header",
        "name": "X-Request-Id",
        "description": "1 to 128 visible ASCII characters; otherwise one is made.",
        "schema": text(),
    },
}


def document() -> Piece:
    """The whole."""
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
    marshmallow.converter.add_attribute_function(lambda _, field, **__: of_field(field))  # type: ignore[union-attr]
    spec.components.security_scheme(
        "bearer",
        {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": TOKENS,
        },
    )
    for name, piece in schemas_of_answers().items():
        spec.components.schema(name, piece)
    for name in REFUSALS:
        spec.components.response(name, refusal(name))
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
    whole: Piece = {"openapi": None, **spec.to_dict()}  # first of all
    for name, example in BODIES.items():
        whole["components"]["schemas"][name]["examples"] = [example]
    return whole


def routes() -> list[tuple[Callable[..., Any], Route]]:
    """The handlers of the service with their routes, in the order of the source."""
    handlers = [
        handler
        for handler in vars(Service).values()
        if hasattr(handler, "nameko_entrypoints")
    ]
    found = [
        (handler, route) for handler in handlers for route in handler.nameko_entrypoints
    ]
    if unknown := {handler.__name__ for handler, _ in found} ^ ANSWERS.keys():
        raise Failure(
            f"dev/specs/openapi.py: ANSWERS and the routes differ: {', '.join(sorted(unknown))}"
        )
    return found


def operation(handler: Any, route: Route, path: str) -> Piece:
    """One route."""
    answers, own = ANSWERS[handler.__name__]
    refusals = [*ANYWHERE, *ASKING, *own]
    parameters: list[Any] = ["X-Request-Id"]
    if "key" in handler.__code__.co_names:  # it reads `request.key`
        parameters.append("Idempotency-Key")
    if "accept_language" in handler.__code__.co_names:
        parameters.append("Accept-Language")
    # By hand: apispec fails where a field has a default and no way to dump it.
    for field in route.query.fields.values():
        default = (
            {"default": field.load_default} if field.load_default is not missing else {}
        )
        name = field.data_key or field.name
        parameters.append(
            {"in": "query", "name": name, "schema": {**of_field(field), **default}}
        )
    for name in re.findall(r"{(\w+)}", path):
        parameters.append({"in": "path", "name": name, "required": True, "schema": ID})
    piece = described(
        handler.__name__, path.split("/")[1], inspect.getdoc(handler) or ""
    )
    piece["parameters"] = parameters
    if route.body:
        refusals.append("NotJson")
        piece["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": route.body}},
        }
    if route.public:
        piece["security"] = []
    else:
        refusals.append("Unauthorized")
    responses = {
        status: answer(status, name, handler.__name__)
        for status, name in answers.items()
    }
    return {**piece, "responses": with_refusals(responses, refusals)}


def described(name: str, tag: str, docstring: str) -> Piece:
    summary, _, rest = docstring.partition(": ")
    more = {"description": docstring} if rest else {}
    return {"operationId": name, "tags": [tag], "summary": summary.rstrip("."), **more}


def answer(status: int, name: str, handler: str) -> Piece:
    located = ("Location",) if handler in LOCATED else ()
    links = {"links": FOLLOWED[handler]} if handler in FOLLOWED else {}
    return {
        **response(
            MEANING[status], {"application/json": ref("schemas", name)}, *located
        ),
        **links,
    }


def response(description: str, contents: dict[str, Piece], *headers: str) -> Piece:
    return {
        "description": description,
        "headers": {name: ref("headers", name) for name in ("X-Request-Id", *headers)},
        "content": {
            media_type: {"schema": schema} for media_type, schema in contents.items()
        },
    }


def refusal(name: str) -> Piece:
    """The response of one of REFUSALS."""
    status, types, description, real = REFUSALS[name]
    kinds = {
        "type": {"enum": [problems.TYPE.format(kind) for kind in types]},
        "status": {"const": status},
    }
    headers = {
        401: ["WWW-Authenticate"],
        503: ["Retry-After"],
        504: ["Retry-After"],
    }.get(status, [])
    schema = {**ref("schemas", "Problem"), "properties": kinds}
    piece = response(description, {"application/problem+json": schema}, *headers)
    if status == 503:  # one connection too many is answered before the request is read
        piece["headers"]["X-Request-Id"] = REQUEST_ID
    if real:
        piece["content"]["application/problem+json"]["example"] = real.body
    return piece


def with_refusals(
    responses: dict[int, Piece], names: list[str] | tuple[str, ...]
) -> dict[str, Piece]:
    by_status = responses | {
        REFUSALS[name][0]: ref("responses", name) for name in names
    }
    return {str(status): by_status[status] for status in sorted(by_status)}


def schemas_of_answers() -> dict[str, Piece]:
    """The components that are no request's: of each ResponseFields, of pages, tokens and problems."""
    found = {
        "Amount": text(
            pattern=r"^[0-9]{1,13}(\.[0-9]{2,4})?$",
            description="With all digits after the point that the currency has.",
            examples=["99.90"],
        )
    }
    for name, (view, types, sample) in VIEWS.items():
        if unknown := types.keys() ^ view.fields.keys():
            raise Failure(
                f"dev/specs/openapi.py: {name} differs from its ResponseFields: {', '.join(sorted(unknown))}"
            )
        inside = json.loads((SAMPLES / f"{sample}.json").read_text())["answer"]
        found[name] = {
            **closed({field: types[field] for field in view.fields}),
            "examples": [view.dump(inside)],
        }
    for name, item in PAGES.items():
        items = {"type": "array", "maxItems": 100, "items": ref("schemas", item)}
        found[name] = closed(
            {"items": items, "next_cursor": nullable(text(pattern=CURSOR))}
        )
    found["Token"] = closed(TOKEN)
    found["SignedUp"] = closed(USER | TOKEN)
    members = {
        "detail": text(),
        "errors": ERRORS,
        "operation": ref("schemas", "Operation"),
    }
    needed = {
        "type": text(format="uri"),
        "title": text(),
        "status": {"type": "integer"},
    }
    found["Problem"] = closed(needed, **members)
    return found


def closed(needed: Piece, **optional: Piece) -> Piece:
    """An object of these fields and no others."""
    properties = {**needed, **optional}
    return {
        "type": "object",
        "properties": properties,
        "required": [*needed],
        "additionalProperties": False,
    }


def of_field(field: fields.Field[Any]) -> Piece:
    """What apispec can't tell of a field by itself."""
    if isinstance(field, money.Money):
        least = min(ISO_4217_DIGITS.values())
        return {
            "description": "More than 0, with at most the digits after the point that the currency has.",
            "oneOf": [
                text(pattern=rf"^{money._DECIMAL.pattern}$"),
                {
                    "type": "number",
                    "exclusiveMinimum": 0,
                    "maximum": float(money.MAX_AMOUNT_MINOR / 10**least),
                    "description": f"At most {money.MAX_AMOUNT_MINOR} of the currency's minor units.",
                },
            ],
        }
    no_nul = {"pattern": r"^[^\x00]*$"} if storable in field.validators else {}
    parent = field.parent
    return no_nul | (
        MORE.get((type(parent).__name__, field.name), {})
        if isinstance(parent, Schema)
        else {}
    )


def open_paths() -> dict[str, Piece]:
    """What is answered without a service: health, and the documents."""
    ok = closed({"status": text(const="ok")})
    ready = closed(
        {
            "status": one_of("ready", "not ready"),
            "checks": {"type": "object", "additionalProperties": one_of("ok", "away")},
        }
    )
    whole = {"type": "object", "required": ["openapi"]}
    files = {
        path.removeprefix("/docs/"): told
        for path, told in documents.FILES.items()
        if "/docs/" in path
    }
    shown = {media_type: text() for media_type, _ in files.values()}
    file = {
        "in": "path",
        "name": "file",
        "required": True,
        "schema": one_of(*sorted(files)),
    }
    where = {
        "description": "On the health port; here only where GATEWAY_HEALTH_PUBLIC is true, otherwise 404."
    }
    summary = "Whether broker and services are reached"
    readyz = (
        open_path("readyz", summary, {"application/json": ready}, "NotFound") | where
    )
    summary = (
        "Whether it has started and is not stopping: for a gateway's readiness probe"
    )
    startedz = (
        open_path("startedz", summary, {"application/json": ready}, "NotFound") | where
    )
    summary = "Metrics, as Prometheus reads them"
    metrics = open_path("metrics", summary, {"text/plain": text()}, "NotFound") | where
    for path in (readyz, startedz):
        unready = path["responses"]["503"] = response(
            "Not ready.", {"application/json": ready}
        )
        unready["content"] |= refusal("Unavailable")["content"]
        unready["headers"] = {"X-Request-Id": REQUEST_ID}
    return {
        "/healthz": open_path(
            "healthz", "Whether the process is alive", {"application/json": ok}
        ),
        "/readyz": readyz,
        "/startedz": startedz,
        "/metrics": metrics,
        "/openapi.json": open_path(
            "openapi", "This document", {"application/json": whole}
        ),
        "/docs": open_path(
            "docs", "This document, to read and to try out", {"text/html": text()}
        ),
        "/docs/{file}": {
            **open_path("docs_file", "What the page is made of", shown, "NotFound"),
            "parameters": [file],
        },
    }


def open_path(name: str, summary: str, contents: dict[str, Piece], *own: str) -> Piece:
    tag = "documents" if name.startswith(("docs", "openapi")) else "health"
    responses = with_refusals(
        {200: response(MEANING[200], contents)}, [*ANYWHERE, *own]
    )
    return {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        "security": [],
        "responses": responses,
    }


class Plain(yaml.SafeDumper):
    """Without anchors: what stands twice is written twice. With lines as lines."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar(
            "tag:yaml.org,2002:str", data, style="|" if "\n" in data else None
        )


Plain.add_representer(str, Plain.represent_str)


def written() -> dict[Path, str]:
    """What the two files must hold."""
    whole = document()
    readable = yaml.dump(
        whole, Dumper=Plain, sort_keys=False, allow_unicode=True, width=110
    )
    compact = json.dumps(whole, separators=(",", ":"), ensure_ascii=False)
    return {
        YAML: f"# Made by `make specs` of dev/specs/openapi.py.\n{readable}",
        JSON: f"{compact}\n",
    }


if __name__ == "__main__":
    for path, content in written().items():
        path.write_text(content)

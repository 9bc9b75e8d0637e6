"""Writes the bus's AsyncAPI document, docs/asyncapi.yaml.

Methods, handlers, queues and who asks whom are read off the service classes, arguments off the schemas that
check them, examples are the samples of docs/contracts. What stands here is what no code says: which schema a
list's items have, and what is answered and told.

usage: python -m dev.specs.asyncapi
"""

import ast
import importlib
import inspect
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema, fields
from nameko import exceptions
from nameko.exceptions import BadRequest, serialize

import billing.schemas
import notifications.schemas
import orders.schemas
import users.schemas
from chassis import errors
from chassis.broker import JSON_PROPERTIES
from chassis.events import ATTEMPTS, ERROR, FAILURES, EventHandler
from chassis.migrate import event_handlers
from chassis.moves import moves_exchange
from chassis.retries import MAX_ATTEMPTS, MAX_HELD, MAX_HELD_S, RETRY_DELAYS_S
from chassis.rpc import REPLY_EXPIRES_MS, Rpc, RpcProxy
from chassis.schemas import email_address, storable
from dev.cli import SERVICES
from dev.failure import Failure
from dev.specs import openapi
from dev.specs.openapi import (
    EMAIL,
    ERRORS,
    KIND,
    PAGES,
    REASON,
    REASONS,
    ROOT,
    USER,
    Piece,
    Plain,
    closed,
    nullable,
    one_of,
    pattern,
    ref,
    text,
)

YAML = ROOT / "docs" / "asyncapi.yaml"
SAMPLES = ROOT / "docs" / "contracts"
ONE_LINE = 100  # characters, of what may stand on one line of the document
RPC_EXCHANGE = "nameko-rpc"
DELAYS = ", ".join(map(str, RETRY_DELAYS_S))

DESCRIPTION = f"""\
All that crosses the broker between the services: RPC and events, in Nameko's own format and names, so that
`nameko shell` and any other Nameko service take part. Arguments go by keyword. Where each service has
its own user on the broker, it may publish the requests that it sends here, each by its exact key; any
event on its own exchange; any UUID as a reply key. The operator's user may call every method
(permissions.md).

A request must be published to {RPC_EXCHANGE} itself, with a UUID in `reply_to`. It is refused, logged and
not answered where another exchange passed it on or the broker dead-lettered it.

Under `headers` stand AMQP's headers (`nameko.*`, `x-*`) and, by their AMQP names, the properties that a
message has besides content type, encoding and delivery mode: `correlation_id`, `reply_to`, `expiration`
(milliseconds), `message_id`, `priority`.

A request that is not as described here is refused: a call with a fault, wrong values with `invalid`, for that
item alone where there are many, and an id or a password that can't be anybody's with null. Amounts are
integers in minor units (cents, where the currency has them): an account's `exponent` says how many of their
digits stand after the point.

The consumer of an event that failed holds it, and tries it again after {DELAYS} seconds, without a
message. It publishes the event to the end of the same queue when it holds {MAX_HELD} others, when it has held
this one for {MAX_HELD_S} seconds, and while different events fail alike. After {MAX_ATTEMPTS} failures on its
own content an event goes to `<queue>.dead`. Such copies go over an exchange of the consumer's own, with the
queue's name as routing key.
"""

# What is answered and told

SCALARS = {"Id": openapi.ID, "Time": openapi.TIME}
ID, TIME = (ref("schemas", name) for name in SCALARS)
MAYBE_ID, MAYBE_TIME = nullable(openapi.ID), nullable(openapi.TIME)
COUNT: Piece = {"type": "integer", "minimum": 0}
MINOR: Piece = {"type": "integer", "minimum": 1, "description": "In minor units."}
BALANCE = {**COUNT, "description": "In minor units."}
NULL: Piece = {"type": "null"}


def status(value: str, **more: Piece) -> Piece:
    return closed({"status": text(const=value), **more})


# Components that are the `...Out` of a service: its schema, and the types of its fields.
DUMPED: dict[str, tuple[type[Schema], Piece]] = {
    "User": (users.schemas.PublicUser, {**USER, "id": ID}),
    "Operation": (
        billing.schemas.OperationOut,
        {
            "id": ID,
            "ref": text(pattern="^(order|key|shell):"),
            "user_id": ID,
            "seq": {
                **COUNT,
                "description": "Its number in the account; 0 where there is no account.",
            },
            "kind": KIND,
            "amount_minor": MINOR,
            "status": one_of("done", "refused"),
            "reason": REASON,
            "order_id": MAYBE_ID,
            "balance_after_minor": BALANCE,
            "created_at": TIME,
        },
    ),
    "Order": (
        orders.schemas.OrderOut,
        {
            "id": ID,
            "user_id": ID,
            "price_minor": MINOR,
            "status": one_of("pending", "paid", "rejected"),
            "reason": REASON,
            "created_at": TIME,
            "ended_at": MAYBE_TIME,
        },
    ),
    "Letter": (
        notifications.schemas.LetterOut,
        {
            "id": ID,
            "kind": one_of("happiness", "grief", "message"),
            "order_id": MAYBE_ID,
            "user_id": MAYBE_ID,
            "email": EMAIL,
            "subject": text(),
            "body": text(),
            "state": one_of("stored"),
            "created_at": TIME,
        },
    ),
}
OUTCOMES: dict[str, Piece] = {
    "UserCreated": status("created", user=ref("schemas", "User")),
    "UserTaken": status("taken", errors=ERRORS),
    "Account": status(
        "open",
        user_id=ID,
        balance_minor=BALANCE,
        currency=text(pattern="^[A-Z]{3}$"),
        exponent={"type": "integer", "minimum": 0, "maximum": 4},
    ),
    "Audit": closed(
        {
            "status": one_of("balanced", "differs"),
            "accounts": COUNT,
            "operations": COUNT,
            "balance_minor": BALANCE,
            "differences": {"type": "array", "maxItems": 100, "items": text()},
        }
    ),
    "Invalid": status("invalid", errors=ERRORS)
    | {"description": "Which fields are wrong, and why."},
    "Conflict": status("conflict")
    | {"description": "The ref or key stands for something else."},
    "Unavailable": status("unavailable")
    | {"description": "It can't be decided now; nothing changed."},
    "UnknownUser": status("unknown-user"),
}
MOVED = ("Operation", "Conflict", "Unavailable", "Invalid")
ANSWERS: dict[str, tuple[str | None, ...]] = {
    "users.create": ("UserCreated", "UserTaken", "Invalid"),
    "users.get": ("User", None),
    "users.authenticate": ("User", None),
    "billing.deposit": MOVED,
    "billing.withdraw": MOVED,
    "billing.cancel": MOVED,
    "billing.open_account": ("Account", "Invalid"),
    "billing.account": ("Account", "UnknownUser", "Unavailable", "Invalid"),
    "billing.statement": ("Statement", "Invalid"),
    "billing.audit": ("Audit",),
    "orders.place": ("Order", "Conflict", "Invalid"),
    "orders.get": ("Order", None),
    "orders.list": ("Orders", "Invalid"),
    "notifications.send": ("Letter", "UnknownUser", "Invalid"),
    "notifications.list": ("Letters", "Invalid"),
}

# Arguments of methods that are not `@validated`: a schema for those of one item, or what their signature names.
ARGUMENTS: dict[str, type[Schema] | Piece] = {
    "users.get_many": {"user_ids": {"type": "array", "items": ID}},
    "users.get": {"user_id": ID},
    "users.authenticate": users.schemas.Credentials,
    "billing.deposit": billing.schemas.Movement,
    "billing.withdraw": billing.schemas.Withdrawal,
    "billing.cancel": billing.schemas.OrderWithdrawal,
    "billing.account": billing.schemas.AccountQuery,
    "billing.audit": {},
    "orders.place": orders.schemas.NewOrder,
    "orders.get": {"order_id": ID, "user_id": MAYBE_ID},
}
MADE_IF_MISSING = {"orders.place": {"key", "request_id"}}  # by the method for one item
EXACTLY_ONE: dict[type[Schema], tuple[str, ...]] = {  # what is checked across fields
    billing.schemas.Movement: billing.schemas.Movement.names,
    billing.schemas.Withdrawal: billing.schemas.Withdrawal.names,
    notifications.schemas.NewMessage: ("user_id", "email"),
    notifications.schemas.LetterQuery: ("user_id", "email"),
}

ORDER_ENDED = {"order_id": ID, "user_id": ID, "price_minor": MINOR}
EVENTS: dict[str, Piece] = {
    "users.user_created": {
        "user_id": ID,
        **{name: USER[name] for name in USER if name != "id"},
    },
    "orders.order_paid": ORDER_ENDED,
    "orders.order_rejected": {**ORDER_ENDED, "reason": one_of(*REASONS)},
}
EVENT = {
    "event_id": ID,
    "version": {"type": "integer", "const": 1},
    "occurred_at": TIME,
}

# Headers and properties

REQUEST_ID = {
    "nameko.request_id": text(description="Stands in every line of the logs about it.")
}
CLIENT = {
    "nameko.client": text(
        description="The address of the client; empty where it is not known."
    )
}
TIMEOUT = {
    "type": "number",
    "exclusiveMinimum": 0,
    "description": "Seconds that the caller waits.",
}
EXPIRES = text(
    pattern="^[0-9]+$", description="Milliseconds; when its caller has stopped waiting."
)
CALL = {
    "correlation_id": text(description="The caller's choice; the answer has it too.")
}
ASKED = {
    **CALL,
    "reply_to": {
        **openapi.ID,
        "description": "The routing key of the caller's reply queue.",
    },
}
REQUEUED = {  # nothing is counted against an event while different ones fail alike
    ATTEMPTS: {**COUNT, "description": "All attempts."},
    FAILURES: {
        **COUNT,
        "maximum": MAX_ATTEMPTS - 1,
        "description": "Attempts that failed on the event's own content.",
    },
    ERROR: text(maxLength=1000, description="The last error."),
}
DEAD = {
    ATTEMPTS: {**REQUEUED[ATTEMPTS], "minimum": 1},
    FAILURES: {
        "type": "integer",
        "minimum": MAX_ATTEMPTS,
        "description": "As above; at once so many where it can't be decoded.",
    },
    ERROR: text(minLength=1, maxLength=1000, description="The last error."),
}
DEATH = {  # RabbitMQ's own: of an event that has been in a retry queue of an earlier version
    "x-death": {"type": "array", "items": {"type": "object"}},
    **{f"x-first-death-{part}": text() for part in ("exchange", "queue", "reason")},
}
HEADERS: dict[str, Piece] = {
    "RequestHeaders": closed(
        ASKED,
        **REQUEST_ID,
        **CLIENT,
        **{"nameko.timeout_s": TIMEOUT, "expiration": EXPIRES},
        **{
            "nameko.call_id_stack": {
                "type": "array",
                "items": text(),
                "description": "Nameko's own callers'.",
            }
        },
        priority={
            "type": "integer",
            "const": 0,
            "description": "Nameko's own callers'.",
        },
    ),
    "AnswerHeaders": closed({**CALL, "expiration": text(const=REPLY_EXPIRES_MS)}),
    "EventHeaders": closed({"message_id": ID, **REQUEST_ID}),
    "RequeuedHeaders": closed({"message_id": ID, **REQUEST_ID, **REQUEUED}, **DEATH),
    "DeadLetterHeaders": closed({"message_id": ID, **REQUEST_ID, **DEAD}, **DEATH),
    "RedrivenHeaders": closed({"message_id": ID, **REQUEST_ID}, **DEATH),
}
CORRELATED = {"correlationId": ref("correlationIds", "call")}
BINDINGS: Piece = {
    "operationBindings": {
        "transient": {
            "amqp": {"deliveryMode": 1, "mandatory": True, "bindingVersion": "0.3.0"}
        },
        "persistent": {
            "amqp": {"deliveryMode": 2, "mandatory": True, "bindingVersion": "0.3.0"}
        },
        "acked": {"amqp": {"ack": True, "bindingVersion": "0.3.0"}},
    },
    "messageBindings": {
        "json": {
            "amqp": {
                "contentEncoding": JSON_PROPERTIES["content_encoding"],
                "bindingVersion": "0.3.0",
            }
        }
    },
}


def channel_bindings() -> Piece:
    """One for each exchange."""
    kinds = {RPC_EXCHANGE: "topic"}
    kinds |= {f"{name.partition('.')[0]}.events": "topic" for name in EVENTS}
    kinds |= {
        moves_exchange(name).name: "direct" for name in SERVICES if handlers(name)
    }
    return {
        name: {
            "amqp": {
                "is": "routingKey",
                "exchange": {
                    "name": name,
                    "type": kind,
                    "durable": True,
                    "autoDelete": False,
                },
                "bindingVersion": "0.3.0",
            }
        }
        for name, kind in kinds.items()
    }


def document() -> Piece:
    """The whole."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    whole: Piece = {
        "asyncapi": "3.1.0",
        "info": {
            "title": project["name"],
            "version": project["version"],
            "description": DESCRIPTION,
        },
        "defaultContentType": JSON_PROPERTIES["content_type"],
        "servers": {
            "broker": {
                "host": "127.0.0.1:7672",
                "protocol": "amqp",
                "protocolVersion": "0.9.1",
            }
        },
        "channels": {"replies": replies()},
        "operations": {},
        "components": {
            "schemas": {
                **SCALARS,
                **schemas_of_arguments(),
                **schemas_of_answers(),
                **HEADERS,
            },
            "messages": {"fault": fault()},
            "replies": {},
            "correlationIds": {"call": {"location": "$message.header#/correlation_id"}},
            "channelBindings": channel_bindings(),
            **BINDINGS,
        },
    }
    for service in SERVICES:
        add_methods(whole, service)
        add_events(whole, service)
    for service in SERVICES:
        add_calls(whole, service)
        add_handlers(whole, service)
    check_names(whole)
    return whole


# RPC


def add_methods(whole: Piece, service: str) -> None:
    """What a service answers: a routing key for each method, one queue for all, and what comes back."""
    components, channels = whole["components"], whole["channels"]
    queue = f"rpc-{service}"
    for name, method in methods(service).items():
        full = f"{service}.{name}"
        request, answered = f"{full}.request", f"{full}.answer"
        components["messages"] |= {
            request: request_of(full, method),
            answered: answer_of(full),
        }
        channels[full] = routed(RPC_EXCHANGE, full, request)
        channels.setdefault(queue, queued(queue))["messages"] |= messages(request)
        channels["replies"]["messages"] |= messages(answered)
        components["replies"][full] = {
            "address": {"location": "$message.header#/reply_to"},
            "channel": {"$ref": "#/channels/replies"},
            "messages": [
                of_channel("replies", answered),
                of_channel("replies", "fault"),
            ],
        }
        whole["operations"][full] = {
            **operation("receive", queue, request, first_sentence(method), "acked"),
            "reply": ref("replies", full),
        }


def request_of(full: str, method: Callable[..., Any]) -> Piece:
    payload = {
        "args": {"type": "array", "maxItems": 0},
        "kwargs": arguments(full, method),
    }
    example = {"args": [], "kwargs": {"$ref": f"contracts/rpc/{full}.json#/request"}}
    return message(
        first_sentence(method), "RequestHeaders", closed(payload), example, CORRELATED
    )


def answer_of(full: str) -> Piece:
    payload = {"result": result(full), "error": NULL}
    example = {"result": {"$ref": f"contracts/rpc/{full}.json#/answer"}, "error": None}
    return message(
        f"What `{full}` answers.", "AnswerHeaders", closed(payload), example, CORRELATED
    )


def add_calls(whole: Piece, service: str) -> None:
    """Whom a service asks."""
    for full in calls(service_class(service)):
        if full not in whole["channels"]:
            raise Failure(
                f"dev/specs/asyncapi.py: {service} calls {full}, which is not there"
            )
        whole["operations"][f"{service}.asks.{full}"] = {
            **operation(
                "send", full, f"{full}.request", f"{service} asks.", "transient"
            ),
            "reply": ref("replies", full),
        }


def replies() -> Piece:
    """The queue of a caller. Its address is not known before: null."""
    description = (
        f"One for each process that calls, bound to {RPC_EXCHANGE} with the UUID that `reply_to` names. "
        "In the suite's own its first 8 digits are a digest of the caller's name."
    )
    queue = queued("rpc.reply-<caller>-<id>")
    return {
        **queue,
        "address": None,
        "description": description,
        "messages": messages("fault"),
    }


def fault() -> Piece:
    """What broke, as Nameko sends an exception."""
    faults: list[type[Exception]] = [
        errors.DeadlineExceeded,
        errors.Unavailable,
        errors.InternalError,
    ]
    mistakes = [
        kind
        for kind in vars(exceptions).values()
        if inspect.isclass(kind) and issubclass(kind, BadRequest)
    ]
    paths = [f"{kind.__module__}.{kind.__name__}" for kind in (*faults, *mistakes)]
    told = {
        "exc_type": text(),
        "exc_path": one_of(*paths),
        "exc_args": {"type": "array"},
        "value": text(),
    }
    shown = serialize(errors.Unavailable("a dependency of billing is unavailable"))
    return message(
        "A call that failed: nothing is known of what was done, or the request can't be right.",
        "AnswerHeaders",
        closed({"result": NULL, "error": closed(told)}),
        {"result": None, "error": shown},
        CORRELATED,
    )


def arguments(full: str, method: Callable[..., Any]) -> Piece:
    """The keyword arguments of a method."""
    if (
        full.endswith("_many")
        and full.removesuffix("_many") in ANSWERS
        and full not in ARGUMENTS
    ):
        schema = of_one(full.removesuffix("_many"))
        return closed(
            {"items": {"type": "array", "items": ref("schemas", schema.__name__)}}
        )
    if full in MADE_IF_MISSING:
        whole = of_schema(of_one(full))
        return {
            **whole,
            "required": [
                n for n in whole["required"] if n not in MADE_IF_MISSING[full]
            ],
        }
    given = ARGUMENTS.get(full)
    if isinstance(given, dict):
        return of_signature(full, method, given)
    checked = checking(method)
    schema = type(checked) if checked else of_one(full)
    return ref("schemas", schema.__name__)


def of_one(full: str) -> type[Schema]:
    schema = ARGUMENTS.get(full)
    if schema is None or isinstance(schema, dict):
        raise Failure(f"dev/specs/asyncapi.py: ARGUMENTS has no schema for {full}")
    return schema


def of_signature(full: str, method: Callable[..., Any], types: Piece) -> Piece:
    parameters = [
        p for name, p in inspect.signature(method).parameters.items() if name != "self"
    ]
    if [p.name for p in parameters] != [*types]:
        raise Failure(
            f"dev/specs/asyncapi.py: {full} has other arguments than ARGUMENTS says"
        )
    required = [p.name for p in parameters if p.default is p.empty]
    return closed(types) | {"required": required}


def result(full: str) -> Piece:
    """The result of a method; of one for a list, a list of them."""
    one = full.removesuffix("_many")
    if one not in ANSWERS:
        raise Failure(f"dev/specs/asyncapi.py: ANSWERS has nothing for {full}")
    outcomes = [ref("schemas", name) if name else NULL for name in ANSWERS[one]]
    outcome = {"oneOf": outcomes} if len(outcomes) > 1 else outcomes[0]
    return {"type": "array", "items": outcome} if full != one else outcome


# Events


def add_events(whole: Piece, service: str) -> None:
    """What a service tells."""
    for full, facts in EVENTS.items():
        if full.startswith(f"{service}."):
            event = full.partition(".")[2]
            payload, example = (
                ref("schemas", full),
                {"$ref": f"contracts/events/{full}.json"},
            )
            whole["components"]["schemas"][full] = closed({**EVENT, **facts})
            forms = {
                "": ("EventHeaders", "as it is told"),
                ".requeued": ("RequeuedHeaders", "at the end of its queue again"),
                ".dead": ("DeadLetterHeaders", "which failed on its own content"),
                ".redriven": ("RedrivenHeaders", "to be tried anew"),
            }
            for form, (headers, what) in forms.items():
                told = message(f"{event}, {what}.", headers, payload, example)
                whole["components"]["messages"][f"{full}{form}"] = told
            whole["channels"][full] = routed(f"{service}.events", event, full)
            whole["operations"][f"{service}.tells.{event}"] = operation(
                "send", full, full, f"{service} tells, from its outbox.", "persistent"
            )


def add_handlers(whole: Piece, service: str) -> None:
    """The events of a service's handlers, and the ways of one that fails."""
    for handler in handlers(service):
        full = f"{handler.source_service}.{handler.event_type}"
        if full not in EVENTS:
            raise Failure(f"dev/specs/asyncapi.py: EVENTS has nothing for {full}")
        queue = handler.queue.name
        name = f"{service}.{handler.method_name}"
        dead = handler.dead_letter_queue
        requeued, dead_letter, redriven = (
            f"{full}.{form}" for form in ("requeued", "dead", "redriven")
        )
        moves = moves_exchange(service).name
        moved, moved_to_dead = f"{queue}.moves", f"{dead}.moves"
        whole["channels"] |= {
            queue: queued(queue, full, requeued, redriven),
            dead: queued(dead, dead_letter),
            moved: routed(moves, queue, requeued, redriven),
            moved_to_dead: routed(moves, dead, dead_letter),
        }
        summary = first_sentence(getattr(service_class(service), handler.method_name))
        whole["operations"] |= {
            name: {
                **operation("receive", queue, full, summary, "acked"),
                "messages": [of_channel(queue, full), of_channel(queue, redriven)],
            },
            f"{name}.again": operation(
                "receive", queue, requeued, "Once requeued.", "acked"
            ),
            f"{name}.requeue": operation(
                "send", moved, requeued, "It failed and can't be held.", "persistent"
            ),
            f"{name}.dead_letter": operation(
                "send",
                moved_to_dead,
                dead_letter,
                f"It failed {MAX_ATTEMPTS} times.",
                "persistent",
            ),
            f"{name}.redrive": operation(
                "send", moved, redriven, "`make redrive` moves it back.", "persistent"
            ),
        }


# Pieces


def message(
    summary: str, headers: str, payload: Piece, example: Any, more: Piece | None = None
) -> Piece:
    return {
        "summary": summary,
        "headers": ref("schemas", headers),
        **(more or {}),
        "payload": payload,
        "bindings": ref("messageBindings", "json"),
        "examples": [{"payload": example}],
    }


def messages(*names: str) -> Piece:
    return {name: ref("messages", name) for name in names}


def of_channel(channel: str, name: str) -> Piece:
    return {"$ref": f"#/channels/{channel}/messages/{name}"}


def routed(exchange: str, key: str, *names: str) -> Piece:
    return {
        "address": key,
        "messages": messages(*names),
        "bindings": ref("channelBindings", exchange),
    }


def queued(name: str, *names: str) -> Piece:
    queue = {"name": name, "durable": True, "exclusive": False, "autoDelete": False}
    bindings = {"amqp": {"is": "queue", "queue": queue, "bindingVersion": "0.3.0"}}
    return {"address": name, "messages": messages(*names), "bindings": bindings}


def operation(
    action: str, channel: str, name: str, summary: str, binding: str
) -> Piece:
    return {
        "action": action,
        "summary": summary,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [of_channel(channel, name)],
        "bindings": ref("operationBindings", binding),
    }


def first_sentence(method: Callable[..., Any]) -> str:
    """Of its docstring; a list of arguments after a colon is told by the schema."""
    line = " ".join((inspect.getdoc(method) or "").partition("\n\n")[0].split())
    sentence = line.partition("; ")[0].partition(". ")[0]
    return (
        sentence if sentence.startswith("{") else sentence.partition(": ")[0]
    ).rstrip(".") + "."


# Schemas


def schemas_of_arguments() -> Piece:
    """The components that check what is asked."""
    named = [schema for schema in ARGUMENTS.values() if not isinstance(schema, dict)]
    for service in SERVICES:
        named += [
            type(schema)
            for method in methods(service).values()
            if (schema := checking(method))
        ]
    return {schema.__name__: of_schema(schema) for schema in named}


def schemas_of_answers() -> Piece:
    """The components that are told."""
    found: Piece = {}
    for name, (schema, types) in DUMPED.items():
        if types.keys() != schema().fields.keys():
            raise Failure(
                f"dev/specs/asyncapi.py: {name} has other fields than {schema.__name__}"
            )
        found[name] = closed(types)
    for name, item in PAGES.items():
        items = {"type": "array", "maxItems": 100, "items": ref("schemas", item)}
        found[name] = closed(
            {"items": items, "next": nullable(text(description="The next `after`."))}
        )
    return {**found, **OUTCOMES}


def of_schema(schema: type[Schema]) -> Piece:
    """A marshmallow schema as JSON Schema."""
    plugin = MarshmallowPlugin()
    APISpec("", "", "3.1.0", plugins=[plugin])
    converter: Any = plugin.converter
    converter.add_attribute_function(of_field)
    found: Piece = converter.schema2jsonschema(schema())
    for name, piece in found["properties"].items():
        if piece == {"type": "string", "pattern": openapi.ID["pattern"]}:
            found["properties"][name] = ID
    if schema in EXACTLY_ONE:
        found["oneOf"] = [{"required": [name]} for name in EXACTLY_ONE[schema]]
    doc = inspect.getdoc(schema) or ""
    return {"description": " ".join(doc.split()), **found}


def of_field(_: Any, field: fields.Field[Any], ret: Piece, **__: Any) -> Piece:
    """Addresses, and patterns as JSON Schema writes them, without the NUL that can't be stored."""
    if email_address in field.validators:
        return EMAIL
    whole = pattern(ret["pattern"]) if "pattern" in ret else ""
    if storable in field.validators:
        whole = whole or r"^[^\x00]*$"
    return {"pattern": whole} if whole else {}


# What the code says


def service_class(service: str) -> Any:
    return importlib.import_module(f"{service}.service").Service


def methods(service: str) -> dict[str, Callable[..., Any]]:
    """The RPC methods of a service, in the order of its source."""
    found = vars(service_class(service)).items()
    return {name: method for name, method in found if has_entrypoint(method, Rpc)}


def checking(method: Callable[..., Any]) -> Schema | None:
    """The schema that `@validated` checks the arguments of a method by."""
    schema: Schema | None = inspect.getclosurevars(method).nonlocals.get("schema")
    return schema


def handlers(service: str) -> list[EventHandler]:
    """What a service hears, in the order of its source."""
    listens = any(
        has_entrypoint(method, EventHandler)
        for method in vars(service_class(service)).values()
    )
    found = event_handlers({"AMQP_URI": "amqp://"}, service) if listens else []
    order = [*vars(service_class(service))]
    return sorted(found, key=lambda handler: order.index(handler.method_name))


def has_entrypoint(method: Any, kind: type) -> bool:
    return any(
        isinstance(entrypoint, kind)
        for entrypoint in getattr(method, "nameko_entrypoints", ())
    )


def calls(service: type) -> list[str]:
    """The methods of others that a service calls: `self.<proxy>.<verb>` in its source."""
    return list(dict.fromkeys(_calls(service)))


def _calls(service: type) -> Iterator[str]:
    proxies = {
        name: proxy
        for name, proxy in vars(service).items()
        if isinstance(proxy, RpcProxy)
    }
    for node in ast.walk(ast.parse(inspect.getsource(service))):
        match node:
            case ast.Attribute(
                value=ast.Attribute(value=ast.Name(id="self"), attr=name), attr=verb
            ) if name in proxies:
                many = "_many" if verb in proxies[name].batched else ""
                yield f"{proxies[name].service}.{verb}{many}"


def check_names(whole: Piece) -> None:
    """That what is said here is of methods there are, and that each of these and each event has a sample."""
    names = whole["components"]["replies"].keys()
    samples = {f"{path.parent.name}/{path.stem}" for path in SAMPLES.glob("*/*.json")}
    wrong = {
        "dev/specs/asyncapi.py: ANSWERS": ANSWERS.keys()
        ^ {name.removesuffix("_many") for name in names},
        "dev/specs/asyncapi.py: ARGUMENTS": (ARGUMENTS.keys() | MADE_IF_MISSING.keys())
        - names,
        "docs/contracts": samples
        ^ {*(f"rpc/{name}" for name in names), *(f"events/{name}" for name in EVENTS)},
    }
    for place, found in wrong.items():
        if found:
            raise Failure(
                f"{place}: missing, or of what is not there: {', '.join(sorted(found))}"
            )


class Compact(Plain):
    """Without anchors, and what is short on one line."""

    def represent_mapping(
        self, tag: Any, mapping: Any, flow_style: Any = None
    ) -> yaml.MappingNode:
        node = super().represent_mapping(tag, mapping, flow_style)
        node.flow_style = 0 < _length(node) <= ONE_LINE
        return node

    def represent_sequence(
        self, tag: Any, sequence: Any, flow_style: Any = None
    ) -> yaml.SequenceNode:
        node = super().represent_sequence(tag, sequence, flow_style)
        node.flow_style = 0 < _length(node) <= ONE_LINE
        return node


Compact.add_representer(dict, Compact.represent_dict)
Compact.add_representer(list, Compact.represent_list)


def _length(node: yaml.Node) -> int:
    """How many characters it takes on one line; 0 where it must not stand on one."""
    if isinstance(node, yaml.ScalarNode):
        return 0 if node.style == "|" else len(node.value) + 4
    parts = [
        part
        for pair in node.value
        for part in (pair if isinstance(pair, tuple) else (pair,))
    ]
    lengths = [_length(part) for part in parts]
    return sum(lengths) + 2 if all(lengths) else 0


def written() -> str:
    """What the file must hold."""
    readable = yaml.dump(
        document(), Dumper=Compact, sort_keys=False, allow_unicode=True, width=110
    )
    return f"# Made by `make specs` of dev/specs/asyncapi.py.\n{readable}"


if __name__ == "__main__":
    YAML.write_text(written())

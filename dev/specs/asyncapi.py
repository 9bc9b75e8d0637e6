"""Write the AsyncAPI document of the bus, docs/asyncapi.yaml.

Methods, handlers, queues and calls are read from the service classes, and arguments from the
schemas that validate them. Examples are the samples of docs/contracts. This module adds what the
code does not contain: the schemas of items in lists, of replies and of events.

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
from chassis.events import ATTEMPTS, ERROR, FAILURES, EventHandler, moves_exchange
from chassis.migrate import event_handlers
from chassis.retries import MAX_FAILURES, MAX_HELD, MAX_HELD_S, RETRY_DELAYS_S
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
    PlainDumper,
    closed_object,
    nullable,
    one_of,
    pattern,
    ref,
    text,
)

YAML = ROOT / "docs" / "asyncapi.yaml"
SAMPLES = ROOT / "docs" / "contracts"
MAX_FLOW_LENGTH = 100  # characters of a YAML collection that is written on one line
RPC_EXCHANGE = "nameko-rpc"
DELAYS = ", ".join(map(str, RETRY_DELAYS_S))

DESCRIPTION = f"""\
All messages between the services: RPC and events, in Nameko's own format and with its names. So
`nameko shell` and any other Nameko service can take part. Arguments are keyword arguments.

If each service has its own user of the broker, it may publish the requests that it sends here, each
by its exact key, any event on its own exchange, and any UUID as a reply key. The operator may call
every method (permissions.md).

A request must be published to {RPC_EXCHANGE} itself, with a UUID in `reply_to`. It is refused and
logged, without a reply, if another exchange forwarded it or the broker dead-lettered it.

`headers` are AMQP's headers (`nameko.*`, `x-*`) and the properties of a message by their AMQP
names, without content type, encoding and delivery mode: `correlation_id`, `reply_to`, `expiration`
(milliseconds), `message_id`, `priority`.

A request that is not as described here is refused. A malformed call gets a fault. Invalid values
get `invalid`, in a batch for these items only. An id or a password that cannot exist gets null.

Amounts are integers in minor units, for example cents. The `exponent` of an account is the number
of their decimals.

The consumer of a failed event holds it and retries it after {DELAYS} seconds, without a message. It
publishes the event to the end of the same queue if it holds {MAX_HELD} others, if it has held this
event for {MAX_HELD_S} seconds, or while different events fail in the same way. After {MAX_FAILURES}
failures because of its own content an event goes to `<queue>.dead`. Such copies use an exchange of
the consumer, with the queue's name as routing key.
"""

# Replies and events

SCALARS = {"Id": openapi.ID, "Time": openapi.TIME}
ID, TIME = (ref("schemas", name) for name in SCALARS)
MAYBE_ID, MAYBE_TIME = nullable(openapi.ID), nullable(openapi.TIME)
COUNT: Piece = {"type": "integer", "minimum": 0}
MINOR: Piece = {"type": "integer", "minimum": 1, "description": "In minor units."}
BALANCE = {**COUNT, "description": "In minor units."}
NULL: Piece = {"type": "null"}


def status(value: str, **more: Piece) -> Piece:
    return closed_object({"status": text(const=value), **more})


ORDER = {
    "id": ID,
    "user_id": ID,
    "price_minor": MINOR,
    "status": one_of("pending", "paid", "rejected"),
    "reason": REASON,
    "created_at": TIME,
    "ended_at": MAYBE_TIME,
}
# Components that are the `...Out` schema of a service: the schema, and the types of its fields.
DUMPED_SCHEMAS: dict[str, tuple[type[Schema], Piece]] = {
    "User": (users.schemas.PublicUser, {**USER, "id": ID}),
    "Operation": (
        billing.schemas.OperationOut,
        {
            "id": ID,
            "ref": text(pattern="^(order|key|shell):"),
            "user_id": ID,
            "seq": {
                **COUNT,
                "description": "Its number in the account, or 0 if there is no account.",
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
    "Order": (orders.schemas.OrderOut, ORDER),
    "OrderHistory": (
        orders.schemas.HistoryOut,
        {
            **ORDER,
            "attempts": {**COUNT, "description": "Retries by the sweeper."},
            "last_attempt_at": MAYBE_TIME,
            "published_at": {
                **MAYBE_TIME,
                "description": "null before the publication, and if it is unknown.",
            },
            "is_publication_unknown": {"type": "boolean"},
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
    "Audit": closed_object(
        {
            "status": one_of("balanced", "differs"),
            "accounts": COUNT,
            "operations": COUNT,
            "balance_minor": BALANCE,
            "differences": {"type": "array", "maxItems": 100, "items": text()},
        }
    ),
    "Invalid": status("invalid", errors=ERRORS)
    | {"description": "Invalid fields and reasons."},
    "Conflict": status("conflict")
    | {"description": "The ref or key was used for a different request."},
    "Unavailable": status("unavailable")
    | {"description": "A dependency is unavailable. Nothing was changed."},
    "UnknownUser": status("unknown-user"),
}
POSTING_OUTCOMES = ("Operation", "Conflict", "Unavailable", "Invalid")
REPLIES: dict[str, tuple[str | None, ...]] = {
    "users.create": ("UserCreated", "UserTaken", "Invalid"),
    "users.get": ("User", None),
    "users.authenticate": ("User", None),
    "billing.deposit": POSTING_OUTCOMES,
    "billing.withdraw": POSTING_OUTCOMES,
    "billing.cancel": POSTING_OUTCOMES,
    "billing.open_account": ("Account", "Invalid"),
    "billing.account": ("Account", "UnknownUser", "Unavailable", "Invalid"),
    "billing.statement": ("Statement", "Invalid"),
    "billing.get_withdrawal": ("Operation", None, "Invalid"),
    "billing.audit": ("Audit",),
    "orders.place": ("Order", "Conflict", "Invalid"),
    "orders.get": ("Order", None),
    "orders.get_history": ("OrderHistory", None, "Invalid"),
    "orders.list": ("Orders", "Invalid"),
    "notifications.send": ("Letter", "UnknownUser", "Invalid"),
    "notifications.get_letter": ("Letter", None, "Invalid"),
    "notifications.list": ("Letters", "Invalid"),
}

# Arguments of methods that are not `@validated`: a schema of one item, or types by parameter.
ARGUMENTS: dict[str, type[Schema] | Piece] = {
    "users.get_many": {"user_ids": {"type": "array", "items": ID}},
    "users.get": {"user_id": ID},
    "users.authenticate": users.schemas.Credentials,
    "billing.deposit": billing.schemas.Deposit,
    "billing.withdraw": billing.schemas.Withdrawal,
    "billing.cancel": billing.schemas.Cancellation,
    "billing.account": billing.schemas.UserRequest,
    "billing.audit": {},
    "orders.place": orders.schemas.NewOrder,
    "orders.get": {"order_id": ID, "user_id": MAYBE_ID},
    "orders.get_many": {"order_ids": {"type": "array", "items": ID}},
}
# Only the method for one item has defaults for these.
OPTIONAL_ARGUMENTS = {"orders.place": {"key", "request_id"}}
# Fields of which a request must have exactly one.
EXACTLY_ONE: dict[type[Schema], tuple[str, ...]] = {
    billing.schemas.Deposit: billing.schemas.Deposit.identifiers,
    billing.schemas.Withdrawal: billing.schemas.Withdrawal.identifiers,
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
EVENT_FIELDS = {
    "event_id": ID,
    "version": {"type": "integer", "const": 1},
    "occurred_at": TIME,
}

# Headers and properties

REQUEST_ID = {
    "nameko.request_id": text(description="It is in each log line about the request.")
}
CLIENT = {
    "nameko.client": text(
        description="The address of the client, or empty if it is unknown."
    )
}
TIMEOUT = {
    "type": "number",
    "exclusiveMinimum": 0,
    "description": "The caller's timeout in seconds.",
}
EXPIRATION = text(
    pattern="^[0-9]+$",
    description="Milliseconds until the request expires. The caller has stopped waiting then.",
)
CORRELATION_ID = {
    "correlation_id": text(description="Chosen by the caller. The reply has the same.")
}
REQUEST_PROPERTIES = {
    **CORRELATION_ID,
    "reply_to": {
        **openapi.ID,
        "description": "The routing key of the caller's reply queue.",
    },
}
# While different events fail in the same way, no failure is counted.
RETRY_HEADERS = {
    ATTEMPTS: {**COUNT, "description": "All attempts."},
    FAILURES: {
        **COUNT,
        "maximum": MAX_FAILURES - 1,
        "description": "Attempts that failed because of the event's own content.",
    },
    ERROR: text(maxLength=1000, description="The last error."),
}
DEAD_LETTER_HEADERS = {
    ATTEMPTS: {**RETRY_HEADERS[ATTEMPTS], "minimum": 1},
    FAILURES: {
        "type": "integer",
        "minimum": MAX_FAILURES,
        "description": "As above. An event that cannot be decoded has the maximum at once.",
    },
    ERROR: text(minLength=1, maxLength=1000, description="The last error."),
}
# RabbitMQ adds these to an event that has been in a retry queue of an earlier version.
X_DEATH = {
    "x-death": {"type": "array", "items": {"type": "object"}},
    **{f"x-first-death-{part}": text() for part in ("exchange", "queue", "reason")},
}
HEADERS: dict[str, Piece] = {
    "RequestHeaders": closed_object(
        REQUEST_PROPERTIES,
        **REQUEST_ID,
        **CLIENT,
        **{"nameko.timeout_s": TIMEOUT, "expiration": EXPIRATION},
        **{
            "nameko.call_id_stack": {
                "type": "array",
                "items": text(),
                "description": "Set by Nameko's own clients.",
            }
        },
        priority={
            "type": "integer",
            "const": 0,
            "description": "Set by Nameko's own clients.",
        },
    ),
    "ReplyHeaders": closed_object(
        {**CORRELATION_ID, "expiration": text(const=REPLY_EXPIRES_MS)}
    ),
    "EventHeaders": closed_object({"message_id": ID, **REQUEST_ID}),
    "RequeuedHeaders": closed_object(
        {"message_id": ID, **REQUEST_ID, **RETRY_HEADERS}, **X_DEATH
    ),
    "DeadLetterHeaders": closed_object(
        {"message_id": ID, **REQUEST_ID, **DEAD_LETTER_HEADERS}, **X_DEATH
    ),
    "RedrivenHeaders": closed_object({"message_id": ID, **REQUEST_ID}, **X_DEATH),
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
    """Return a channel binding for each exchange."""
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
    """Return the whole document."""
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
                **argument_schemas(),
                **reply_schemas(),
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
    """Add a service's RPC methods: a routing key for each, one queue for all, and replies."""
    components, channels = whole["components"], whole["channels"]
    queue = f"rpc-{service}"
    for name, method in methods(service).items():
        full = f"{service}.{name}"
        request, reply = f"{full}.request", f"{full}.reply"
        components["messages"] |= {
            request: request_of(full, method),
            reply: reply_of(full),
        }
        channels[full] = routed(RPC_EXCHANGE, full, request)
        channels.setdefault(queue, queued(queue))["messages"] |= messages(request)
        channels["replies"]["messages"] |= messages(reply)
        components["replies"][full] = {
            "address": {"location": "$message.header#/reply_to"},
            "channel": {"$ref": "#/channels/replies"},
            "messages": [
                channel_message("replies", reply),
                channel_message("replies", "fault"),
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
        first_sentence(method),
        "RequestHeaders",
        closed_object(payload),
        example,
        CORRELATED,
    )


def reply_of(full: str) -> Piece:
    payload = {"result": result(full), "error": NULL}
    example = {"result": {"$ref": f"contracts/rpc/{full}.json#/reply"}, "error": None}
    return message(
        f"The reply of `{full}`.",
        "ReplyHeaders",
        closed_object(payload),
        example,
        CORRELATED,
    )


def add_calls(whole: Piece, service: str) -> None:
    """Add the calls of a service to methods of others."""
    for full in calls(service_class(service)):
        if full not in whole["channels"]:
            raise Failure(
                f"dev/specs/asyncapi.py: {service} calls {full}, which does not exist"
            )
        summary = f"{service} calls {full}."
        sending = operation("send", full, f"{full}.request", summary, "transient")
        name = f"{service}.calls.{full}"
        whole["operations"][name] = {**sending, "reply": ref("replies", full)}


def replies() -> Piece:
    """Return the channel of a caller's reply queue. Its address is not known in advance: null."""
    description = (
        f"Each calling process has one, bound to {RPC_EXCHANGE} with the UUID in `reply_to`. "
        "For services of the suite, the first 8 digits are a digest of the caller's name."
    )
    queue = queued("rpc.reply-<caller>-<id>")
    return {
        **queue,
        "address": None,
        "description": description,
        "messages": messages("fault"),
    }


def fault() -> Piece:
    """Return the message of an exception, in Nameko's format."""
    faults: list[type[object]] = [
        errors.DeadlineExceeded,
        errors.Unavailable,
        errors.InternalError,
    ]
    faults += [
        kind
        for kind in vars(exceptions).values()
        if inspect.isclass(kind) and issubclass(kind, BadRequest)
    ]
    paths = [f"{kind.__module__}.{kind.__name__}" for kind in faults]
    error = {
        "exc_type": text(),
        "exc_path": one_of(*paths),
        "exc_args": {"type": "array"},
        "value": text(),
    }
    example = serialize(errors.Unavailable("a dependency of billing is unavailable"))
    return message(
        "A call that failed. Its outcome is unknown, or the request was malformed.",
        "ReplyHeaders",
        closed_object({"result": NULL, "error": closed_object(error)}),
        {"result": None, "error": example},
        CORRELATED,
    )


def arguments(full: str, method: Callable[..., Any]) -> Piece:
    """Return the schema of a method's keyword arguments."""
    one = full.removesuffix("_many")
    if full != one and one in REPLIES and full not in ARGUMENTS:
        item = ref("schemas", item_schema(one).__name__)
        return closed_object({"items": {"type": "array", "items": item}})
    if full in OPTIONAL_ARGUMENTS:
        schema = json_schema(item_schema(full))
        optional = OPTIONAL_ARGUMENTS[full]
        required = [name for name in schema["required"] if name not in optional]
        return {**schema, "required": required}
    given = ARGUMENTS.get(full)
    if isinstance(given, dict):
        return signature_schema(full, method, given)
    validating = argument_schema(method)
    kind = type(validating) if validating else item_schema(full)
    return ref("schemas", kind.__name__)


def item_schema(full: str) -> type[Schema]:
    """Return the schema in ARGUMENTS of a method for one item."""
    schema = ARGUMENTS.get(full)
    if schema is None or isinstance(schema, dict):
        raise Failure(f"dev/specs/asyncapi.py: ARGUMENTS has no schema for {full}")
    return schema


def signature_schema(full: str, method: Callable[..., Any], types: Piece) -> Piece:
    """Return the schema of a method's parameters, with these types."""
    _self, *parameters = inspect.signature(method).parameters.values()
    if [p.name for p in parameters] != [*types]:
        raise Failure(
            f"dev/specs/asyncapi.py: {full} has other parameters than in ARGUMENTS"
        )
    required = [p.name for p in parameters if p.default is p.empty]
    return closed_object(types) | {"required": required}


def result(full: str) -> Piece:
    """Return the schema of a method's result. A method for many items returns a list."""
    one = full.removesuffix("_many")
    if one not in REPLIES:
        raise Failure(f"dev/specs/asyncapi.py: REPLIES lacks {full}")
    outcomes = [ref("schemas", name) if name else NULL for name in REPLIES[one]]
    outcome = {"oneOf": outcomes} if len(outcomes) > 1 else outcomes[0]
    return {"type": "array", "items": outcome} if full != one else outcome


# Events


# By the suffix of the message's name: its headers, and a description.
EVENT_FORMS = {
    "": ("EventHeaders", "as published"),
    ".requeued": ("RequeuedHeaders", "requeued after a failure"),
    ".dead": ("DeadLetterHeaders", "dead-lettered after failures of its own"),
    ".redriven": ("RedrivenHeaders", "redriven for another attempt"),
}


def add_events(whole: Piece, service: str) -> None:
    """Add the events that a service publishes."""
    for full, own_fields in EVENTS.items():
        if not full.startswith(f"{service}."):
            continue
        event = full.partition(".")[2]
        components = whole["components"]
        components["schemas"][full] = closed_object({**EVENT_FIELDS, **own_fields})
        payload = ref("schemas", full)
        example = {"$ref": f"contracts/events/{full}.json"}
        for form, (headers, description) in EVENT_FORMS.items():
            summary = f"{event}, {description}."
            form_message = message(summary, headers, payload, example)
            components["messages"][f"{full}{form}"] = form_message
        whole["channels"][full] = routed(f"{service}.events", event, full)
        summary = f"{service} publishes it from its outbox."
        sending = operation("send", full, full, summary, "persistent")
        whole["operations"][f"{service}.publishes.{event}"] = sending


def add_handlers(whole: Piece, service: str) -> None:
    """Add the events that a service consumes, and the paths of failed ones."""
    for handler in handlers(service):
        full = f"{handler.source_service}.{handler.event_type}"
        if full not in EVENTS:
            raise Failure(f"dev/specs/asyncapi.py: EVENTS lacks {full}")
        queue = handler.queue.name
        name = f"{service}.{handler.method_name}"
        dead = handler.dead_letter_queue
        requeued, dead_letter = f"{full}.requeued", f"{full}.dead"
        redriven = f"{full}.redriven"
        moves = moves_exchange(service).name
        to_queue, to_dead = f"{queue}.moves", f"{dead}.moves"
        whole["channels"] |= {
            queue: queued(queue, full, requeued, redriven),
            dead: queued(dead, dead_letter),
            to_queue: routed(moves, queue, requeued, redriven),
            to_dead: routed(moves, dead, dead_letter),
        }
        summary = first_sentence(getattr(service_class(service), handler.method_name))
        whole["operations"] |= {
            name: {
                **operation("receive", queue, full, summary, "acked"),
                "messages": [
                    channel_message(queue, full),
                    channel_message(queue, redriven),
                ],
            },
            f"{name}.requeued": operation(
                "receive", queue, requeued, "After it was requeued.", "acked"
            ),
            f"{name}.requeue": operation(
                "send",
                to_queue,
                requeued,
                "It failed and the consumer cannot hold it.",
                "persistent",
            ),
            f"{name}.dead_letter": operation(
                "send",
                to_dead,
                dead_letter,
                f"It failed {MAX_FAILURES} times.",
                "persistent",
            ),
            f"{name}.redrive": operation(
                "send",
                to_queue,
                redriven,
                "`make redrive` returns it to its queue.",
                "persistent",
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


def channel_message(channel: str, name: str) -> Piece:
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
        "messages": [channel_message(channel, name)],
        "bindings": ref("operationBindings", binding),
    }


def first_sentence(method: Callable[..., Any]) -> str:
    """Return the first sentence of a docstring, without a list of arguments after a colon."""
    line = " ".join((inspect.getdoc(method) or "").partition("\n\n")[0].split())
    sentence = line.partition("; ")[0].partition(". ")[0]
    if not sentence.startswith("{"):
        sentence = sentence.partition(": ")[0]
    return sentence.rstrip(".") + "."


# Schemas


def argument_schemas() -> Piece:
    """Return the schemas of requests."""
    named = [schema for schema in ARGUMENTS.values() if not isinstance(schema, dict)]
    for service in SERVICES:
        named += [
            type(schema)
            for method in methods(service).values()
            if (schema := argument_schema(method))
        ]
    return {schema.__name__: json_schema(schema) for schema in named}


def reply_schemas() -> Piece:
    """Return the schemas of replies."""
    found: Piece = {}
    for name, (schema, types) in DUMPED_SCHEMAS.items():
        if types.keys() != schema().fields.keys():
            raise Failure(
                f"dev/specs/asyncapi.py: {name} has other fields than {schema.__name__}"
            )
        found[name] = closed_object(types)
    for name, item in PAGES.items():
        items = {"type": "array", "maxItems": 100, "items": ref("schemas", item)}
        found[name] = closed_object(
            {"items": items, "next": nullable(text(description="The next `after`."))}
        )
    return {**found, **OUTCOMES}


def json_schema(schema: type[Schema]) -> Piece:
    """Convert a marshmallow schema to JSON Schema."""
    plugin = MarshmallowPlugin()
    APISpec("", "", "3.1.0", plugins=[plugin])
    converter: Any = plugin.converter
    converter.add_attribute_function(field_rules)
    found: Piece = converter.schema2jsonschema(schema())
    for name, piece in found["properties"].items():
        if piece == {"type": "string", "pattern": openapi.ID["pattern"]}:
            found["properties"][name] = ID
    if schema in EXACTLY_ONE:
        found["oneOf"] = [{"required": [name]} for name in EXACTLY_ONE[schema]]
    doc = inspect.getdoc(schema) or ""
    return {"description": " ".join(doc.split()), **found}


def field_rules(_: Any, field: fields.Field[Any], ret: Piece, **__: Any) -> Piece:
    """Return rules of a field that apispec does not find: addresses and patterns."""
    if email_address in field.validators:
        return EMAIL
    if "pattern" in ret:
        return {"pattern": pattern(ret["pattern"])}
    if storable in field.validators:  # PostgreSQL cannot store NUL
        return {"pattern": r"^[^\x00]*$"}
    return {}


# Facts from the code


def service_class(service: str) -> Any:
    return importlib.import_module(f"{service}.service").Service


def methods(service: str) -> dict[str, Callable[..., Any]]:
    """Return the RPC methods of a service, in the order of its source."""
    found = vars(service_class(service)).items()
    return {name: method for name, method in found if has_entrypoint(method, Rpc)}


def argument_schema(method: Callable[..., Any]) -> Schema | None:
    """Return the schema in the `@validated` of a method, or None."""
    schema: Schema | None = inspect.getclosurevars(method).nonlocals.get("schema")
    return schema


def handlers(service: str) -> list[EventHandler]:
    """Return the event handlers of a service, in the order of its source."""
    members = vars(service_class(service))
    if not any(has_entrypoint(member, EventHandler) for member in members.values()):
        return []
    found = event_handlers({"AMQP_URI": "amqp://"}, service)
    order = [*members]
    return sorted(found, key=lambda handler: order.index(handler.method_name))


def has_entrypoint(method: Any, kind: type) -> bool:
    return any(
        isinstance(entrypoint, kind)
        for entrypoint in getattr(method, "nameko_entrypoints", ())
    )


def calls(service: type) -> list[str]:
    """Return the methods that a service calls: `self.<proxy>.<verb>` in its source."""
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
    """Raise Failure for unknown methods in this module, and for missing or unknown samples."""
    names = whole["components"]["replies"].keys()
    samples = {f"{path.parent.name}/{path.stem}" for path in SAMPLES.glob("*/*.json")}
    single = {name.removesuffix("_many") for name in names}
    with_arguments = ARGUMENTS.keys() | OPTIONAL_ARGUMENTS.keys()
    wanted = {f"rpc/{name}" for name in names} | {f"events/{name}" for name in EVENTS}
    wrong = {
        "dev/specs/asyncapi.py: REPLIES": REPLIES.keys() ^ single,
        "dev/specs/asyncapi.py: ARGUMENTS": with_arguments - names,
        "docs/contracts": samples ^ wanted,
    }
    for place, found in wrong.items():
        if found:
            listed = ", ".join(sorted(found))
            raise Failure(f"{place}: missing, or without a method or event: {listed}")


class CompactDumper(PlainDumper):
    """Write YAML without anchors and with short collections on one line."""

    def represent_mapping(
        self, tag: Any, mapping: Any, flow_style: Any = None
    ) -> yaml.MappingNode:
        node = super().represent_mapping(tag, mapping, flow_style)
        node.flow_style = 0 < _length(node) <= MAX_FLOW_LENGTH
        return node

    def represent_sequence(
        self, tag: Any, sequence: Any, flow_style: Any = None
    ) -> yaml.SequenceNode:
        node = super().represent_sequence(tag, sequence, flow_style)
        node.flow_style = 0 < _length(node) <= MAX_FLOW_LENGTH
        return node


CompactDumper.add_representer(dict, CompactDumper.represent_dict)
CompactDumper.add_representer(list, CompactDumper.represent_list)


def _length(node: yaml.Node) -> int:
    """Return the length of a node on one line, or 0 if it has a block of lines."""
    if isinstance(node, yaml.ScalarNode):
        return 0 if node.style == "|" else len(node.value) + 4
    parts = node.value
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    lengths = [_length(part) for part in parts]
    return sum(lengths) + 2 if all(lengths) else 0


def rendered() -> str:
    """Return the content of the file."""
    readable = yaml.dump(
        document(), Dumper=CompactDumper, sort_keys=False, allow_unicode=True, width=110
    )
    return f"# Written by `make specs` (dev/specs/asyncapi.py).\n{readable}"


if __name__ == "__main__":
    YAML.write_text(rendered())

"""docs/asyncapi.yaml: valid, what code and samples say; and the check of live messages can fail."""

import inspect
import json
import re
import subprocess
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from marshmallow import Schema

from billing.service import Service as Billing
from chassis.events import event_handler
from chassis.rpc import rpc
from dev.specs import asyncapi
from orders.schemas import OrderOut
from orders.service import Service as Orders
from tests.specs.messages import Bus, Message

DOCUMENT = yaml.safe_load(asyncapi.YAML.read_text())
DOCUMENTS = sorted(asyncapi.ROOT.glob("docs/**/asyncapi*.yaml"))
MESSAGES = DOCUMENT["components"]["messages"]
SCHEMAS = DOCUMENT["components"]["schemas"]
LATEST = "asyncapi-latest-version"  # it says that 3.0 is not the newest

Piece = dict[str, Any]


def validate(*paths: Path) -> dict[str, list[Piece]]:
    """What AsyncAPI's own parser finds wrong in documents."""
    command = ["node", "dev/specs/validate.mjs", *map(str, paths)]
    found: dict[str, list[Piece]] = json.loads(
        subprocess.check_output(command, cwd=asyncapi.ROOT)
    )
    return {
        path: [what for what in all_ if what["code"] != LATEST]
        for path, all_ in found.items()
    }


@cache
def all_found() -> dict[str, list[Piece]]:
    return validate(*DOCUMENTS)  # the parser takes a while to start


@pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_document_is_valid_asyncapi(path: Path) -> None:
    assert all_found()[str(path)] == []


def test_an_invalid_document_is_told(tmp_path: Path) -> None:
    for name, change in {"error": "action", "warning": "operations"}.items():
        wrong = deepcopy(DOCUMENT)
        if name == "error":
            wrong["operations"]["orders.place"][change] = "answer"
        else:
            wrong["operations"]["orders.place"]["messages"] = [
                {"$ref": "#/components/messages/fault"}
            ]
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(wrong))
    found = validate(tmp_path / "error.yaml", tmp_path / "warning.yaml")
    assert all(found.values())


def test_the_document_is_what_the_code_says() -> None:
    assert asyncapi.YAML.read_text() == asyncapi.rendered(), "run `make specs`"


@rpc
def refund(self: Any) -> None:
    """A method that is not documented."""


@event_handler("orders", "order_shipped")
def handle_order_shipped(self: Any, events: list[Any]) -> None:
    """An event that is not documented."""


MISSED: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "a method": (
        lambda patch: patch.setattr(Billing, "refund", refund, raising=False),
        "billing.refund",
    ),
    "an event": (
        lambda patch: patch.setattr(
            Billing, "handle_it", handle_order_shipped, raising=False
        ),
        "orders.order_shipped",
    ),
    "a field of an answer": (
        lambda patch: patch.setitem(
            OrderOut._declared_fields, "note", OrderOut._declared_fields["id"]
        ),
        "Order has other fields",
    ),
    "an argument": (
        lambda patch: patch.setattr(
            Orders, "get", rpc(lambda self, order_id, user_id=None, note="": None)
        ),
        "orders.get has other parameters",
    ),
    "a method that is gone": (
        lambda patch: patch.setitem(asyncapi.REPLIES, "billing.refund", ("Operation",)),
        "billing.refund",
    ),
    "an event without a sample": (
        lambda patch: patch.setitem(asyncapi.EVENTS, "orders.order_shipped", {}),
        "orders.order_shipped",
    ),
    "a sample": (
        lambda patch: patch.setattr(asyncapi, "SAMPLES", Path("nowhere")),
        "orders.order_paid",
    ),
}


@pytest.mark.parametrize("case", MISSED)
def test_what_the_document_would_miss_is_told(
    monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    change, told = MISSED[case]
    change(monkeypatch)
    with pytest.raises(asyncapi.Failure, match=told):
        asyncapi.document()


def every(piece: Any, wanted: Callable[[Any], bool]) -> list[Any]:
    """All parts of a document, at any depth, that are wanted."""
    inner = (
        piece.values()
        if isinstance(piece, dict)
        else piece
        if isinstance(piece, list)
        else []
    )
    return [part for value in inner for part in every(value, wanted)] + (
        [piece] if wanted(piece) else []
    )


def test_every_object_is_closed_and_every_field_has_a_type() -> None:
    payloads = [message["payload"] for message in MESSAGES.values()]
    objects = every(
        [SCHEMAS, payloads],
        lambda part: isinstance(part, dict) and part.get("type") == "object",
    )
    assert len(objects) > len(SCHEMAS)
    for piece in objects:
        assert (
            piece == {"type": "object"} or "additionalProperties" in piece
        )  # RabbitMQ's own x-death
        for field in piece.get("properties", {}).values():
            assert {"type", "$ref", "oneOf", "const"} & field.keys()


def test_every_component_is_used() -> None:
    references = {
        piece["$ref"]
        for piece in every(
            DOCUMENT, lambda part: isinstance(part, dict) and "$ref" in part
        )
    }
    parts = {
        f"#/components/{kind}/{name}"
        for kind, all_ in DOCUMENT["components"].items()
        for name in all_
    }
    assert parts - references == set()


# Samples


def filled(piece: Any) -> Any:
    """An example with its sample in it."""
    if isinstance(piece, dict) and "$ref" in piece:
        file, _, pointer = piece["$ref"].partition("#/")
        sample = json.loads((asyncapi.YAML.parent / file).read_text())
        return sample[pointer] if pointer else sample
    return (
        {name: filled(part) for name, part in piece.items()}
        if isinstance(piece, dict)
        else piece
    )


def example(name: str) -> Any:
    """The payload of a message, as its sample says."""
    return filled(MESSAGES[name]["examples"][0]["payload"])


def is_valid(piece: Piece, value: Any) -> bool:
    root = Draft7Validator(DOCUMENT, format_checker=Draft7Validator.FORMAT_CHECKER)
    return bool(root.evolve(schema=piece).is_valid(value))


@pytest.mark.parametrize("name", MESSAGES)
def test_every_sample_is_as_documented(name: str) -> None:
    assert is_valid(MESSAGES[name]["payload"], example(name))


ITEMS = {
    name: (schema, example(f"{name}.request")["kwargs"])
    for name, schema in asyncapi.ARGUMENTS.items()
    if not isinstance(schema, dict)
}
CHECKED: dict[str, tuple[Schema, Piece]] = {
    **{
        name: (schema(), {"request_id": "1", **sample})
        for name, (schema, sample) in ITEMS.items()
    },
    **{
        f"{service}.{name}": (schema, example(f"{service}.{name}.request")["kwargs"])
        for service in asyncapi.SERVICES
        for name, method in asyncapi.methods(service).items()
        if (schema := asyncapi.argument_schema(method))
    },
}
VALUES = (None, True, 0, -1, 1.5, 10**19, "", "x", "a\nb", "\x00", "x" * 300, [], {})


@pytest.mark.parametrize("name", CHECKED)
def test_the_document_accepts_what_the_service_does(name: str) -> None:
    schema, sample = CHECKED[name]
    sample = {field: value for field, value in sample.items() if field in schema.fields}
    piece = SCHEMAS[type(schema).__name__]
    tried = [sample, {**sample, "more": 1}]
    for field in schema.fields:
        tried.append(
            {other: value for other, value in sample.items() if other != field}
        )
        tried += [{**sample, field: value} for value in VALUES]
    outcomes = {
        json.dumps(arguments): is_valid(piece, arguments) for arguments in tried
    }
    assert outcomes == {
        json.dumps(arguments): not schema.validate(arguments) for arguments in tried
    }
    assert set(outcomes.values()) == {True, False}


@pytest.mark.parametrize("name", ITEMS)
def test_arguments_are_checked_by_the_schema_that_is_documented(name: str) -> None:
    schema = ITEMS[name][0].__name__
    source = inspect.getsource(
        inspect.getmodule(asyncapi.service_class(name.partition(".")[0]))
    )
    assert re.search(rf"\b{schema}\(\)", source)


# That a difference is seen

FULL = "billing.withdraw_many"
QUEUE = "evt-orders-order_paid--notifications.handle_order_paid"
MOVES = "evt-moves--notifications.direct"
ID = "01993b8e-5a70-7c31-9f4e-0b6f4f6a2c11"
PROPERTIES = {"content_type": "application/json", "content_encoding": "utf-8"}
REQUEUED = {
    "nameko.request_id": "1",
    "x-attempts": 1,
    "x-failures": 0,
    "x-error": "Unavailable()",
}
DEAD = {**REQUEUED, "x-attempts": 5, "x-failures": 5}
DEATH = {"x-death": [{"count": 1}], "x-first-death-queue": f"{QUEUE}.retry.0"}
REDRIVEN = {"nameko.request_id": "1", **DEATH}


def request(
    payload: Any = None,
    exchange: str = "nameko-rpc",
    key: str = FULL,
    **properties: Any,
) -> Message:
    headers = {"nameko.request_id": "1", "nameko.timeout_s": 2.5}
    given = {
        "correlation_id": "1",
        "reply_to": ID,
        "delivery_mode": 1,
        "headers": headers,
        **properties,
    }
    body = json.dumps(payload or example(f"{FULL}.request")).encode()
    return Message(exchange, key, ["rpc-billing"], PROPERTIES | given, body)


def answer(payload: Any = None, caller: str = "orders", **properties: Any) -> Message:
    given = {
        "correlation_id": "1",
        "delivery_mode": 1,
        "expiration": "60000",
        **properties,
    }
    body = json.dumps(payload or example(f"{FULL}.reply")).encode()
    return Message(
        "nameko-rpc", ID, [f"rpc.reply-{caller}-{ID}"], PROPERTIES | given, body
    )


def event(
    exchange: str | None = "orders.events",
    key: str = "order_paid",
    queues: tuple[str, ...] = (QUEUE,),
    headers: Piece | None = None,
    mode: int = 2,
    **facts: Any,
) -> Message:
    given = {
        "message_id": ID,
        "delivery_mode": mode,
        "headers": headers or {"nameko.request_id": "1"},
    }
    body = json.dumps({**example("orders.order_paid"), **facts}).encode()
    return Message(exchange, key, queues, PROPERTIES | given, body)


def item(**changes: Any) -> Piece:
    """A request whose first item differs."""
    [first, *others] = example(f"{FULL}.request")["kwargs"]["items"]
    items = [
        {
            name: value
            for name, value in {**first, **changes}.items()
            if value is not None
        },
        *others,
    ]
    return {"args": [], "kwargs": {"items": items}}


def outcome(**changes: Any) -> Piece:
    """An answer whose first outcome differs."""
    [first, *others] = example(f"{FULL}.reply")["result"]
    return {"result": [{**first, **changes}, *others], "error": None}


def refusal(*positions: int) -> Piece:
    """An answer that refuses some of the items."""
    outcomes = example(f"{FULL}.reply")["result"]
    wrong = {"status": "invalid", "errors": {"amount_minor": ["Why."]}}
    return {
        "result": [wrong if i in positions else o for i, o in enumerate(outcomes)],
        "error": None,
    }


def fault(**changes: Any) -> Piece:
    told = example("fault")
    return {**told, "error": {**told["error"], **changes}}


OUTCOMES = {"Operation", "Conflict", "Unavailable"}  # of the sample
ANSWERED = {FULL, f"orders.calls.{FULL}", *OUTCOMES}
RIGHT: dict[str, tuple[list[Message], set[str]]] = {
    "a request with its answer": ([request(), answer()], ANSWERED),
    "one that was delivered twice": ([request(), answer(), answer()], ANSWERED),
    "one that nobody answered": ([request()], set()),
    "an operator's": (
        [request(delivery_mode=2, priority=0), answer(caller="standalone_rpc_proxy")],
        {FULL, *OUTCOMES},
    ),
    "a wrong one that is refused": (
        [request(item(amount_minor=-1)), answer(refusal(0))],
        {*ANSWERED, "Invalid"},
    ),
    "a fault": ([request(), answer(fault())], {FULL, f"orders.calls.{FULL}", "fault"}),
    "a wrong one that is a fault": (
        [
            request({"args": [], "kwargs": {}}),
            answer(fault(exc_path="nameko.exceptions.IncorrectSignature")),
        ],
        {FULL, f"orders.calls.{FULL}", "fault"},
    ),
    "an event": ([event()], {"orders.publishes.order_paid"}),
    "one that is delivered": (
        [event(None, QUEUE, ())],
        {"notifications.handle_order_paid"},
    ),
    "one that is requeued": (
        [event(MOVES, QUEUE, (QUEUE,), REQUEUED)],
        {"notifications.handle_order_paid.requeue"},
    ),
    "one that is requeued while different events fail alike": (
        [event(MOVES, QUEUE, (QUEUE,), {**REQUEUED, "x-attempts": 0, "x-error": ""})],
        {"notifications.handle_order_paid.requeue"},
    ),
    "one that is moved from a retry queue of an earlier version": (
        [event(MOVES, QUEUE, (QUEUE,), REQUEUED | DEATH)],
        {"notifications.handle_order_paid.requeue"},
    ),
    "one that comes back": (
        [event(None, QUEUE, (), REQUEUED)],
        {"notifications.handle_order_paid.requeued"},
    ),
    "one that is dead-lettered": (
        [event(MOVES, f"{QUEUE}.dead", (f"{QUEUE}.dead",), DEAD)],
        {"notifications.handle_order_paid.dead_letter"},
    ),
    "one that is redriven": (
        [event(MOVES, QUEUE, (QUEUE,)), event(None, QUEUE, ())],
        {"notifications.handle_order_paid.redrive", "notifications.handle_order_paid"},
    ),
    "one that is redriven and was in a retry queue of an earlier version": (
        [event(MOVES, QUEUE, (QUEUE,), REDRIVEN), event(None, QUEUE, (), REDRIVEN)],
        {"notifications.handle_order_paid.redrive", "notifications.handle_order_paid"},
    ),
}
WRONG: dict[str, list[Message]] = {
    "an item's field more": [request(item(note="")), answer()],
    "an item's field less": [request(item(amount_minor=None)), answer()],
    "another item refused": [request(item(amount_minor=-1)), answer(refusal(1))],
    "a wrong request that is lost": [request(item(amount_minor=-1))],
    "a wrong request and another fault": [
        request(item(amount_minor=-1)),
        answer(fault()),
    ],
    "an argument by position": [request({"args": [[]], "kwargs": {}}), answer()],
    "an outcome's field more": [request(), answer(outcome(note=""))],
    "an outcome's field of another type": [
        request(),
        answer(outcome(amount_minor="99.90")),
    ],
    "an unknown outcome": [request(), answer(outcome(status="lost"))],
    "an unknown fault": [request(), answer(fault(exc_path="builtins.ValueError"))],
    "a fault with a result": [request(), answer({**fault(), "result": []})],
    "an answer that is none": [request(), answer("done")],
    "fewer outcomes, for a wrong item": [
        request(item(amount_minor=-1)),
        answer({"result": [], "error": None}),
    ],
    "an answer nobody asked for": [answer()],
    "an answer to another place": [
        request(),
        answer(),
        Message("nameko-rpc", "x", [], {}, b"{}"),
    ],
    "a caller who does not": [request(), answer(caller="users")],
    "an unknown method": [request(key="billing.refund"), answer()],
    "an unknown exchange": [request(exchange="rpc"), answer()],
    "a request in another queue": [request(key="billing.withdraw"), answer()],
    "a request that is kept": [request(delivery_mode=2), answer()],
    "a header more": [request(headers={"x-user": "1"}), answer()],
    "a property more": [request(priority=1), answer()],
    "a property less": [request(), answer(expiration="5")],
    "another media type": [request(content_type="text/plain"), answer()],
    "another encoding": [request(), answer(content_encoding="gzip")],
    "no JSON": [
        Message("orders.events", "order_paid", [QUEUE], event().properties, b"paid")
    ],
    "an event's field more": [event(note="")],
    "an event's field of another type": [event(price_minor="99.90")],
    "an unknown event": [event(key="order_shipped")],
    "an event of another service": [event("billing.events")],
    "an event that a listener misses": [event(queues=())],
    "an event that may get lost": [event(mode=1)],
    "an event with the headers of a failed one": [event(headers=REQUEUED)],
    "an event with the headers of a redriven one": [event(headers=REDRIVEN)],
    "a requeued event that may get lost": [
        event(MOVES, QUEUE, (QUEUE,), REQUEUED, mode=1)
    ],
    "a requeued event with a header more": [
        event(MOVES, QUEUE, (QUEUE,), {**REQUEUED, "x-user": "1"})
    ],
    "an exhausted event that is requeued": [event(MOVES, QUEUE, (QUEUE,), DEAD)],
    "an event requeued into nothing": [event(MOVES, QUEUE, (), REQUEUED)],
    "an event in a retry queue": [
        event("", f"{QUEUE}.retry.0", (f"{QUEUE}.retry.0",), REQUEUED)
    ],
    "a dead letter without its headers": [
        event(MOVES, f"{QUEUE}.dead", (f"{QUEUE}.dead",))
    ],
    "a dead letter with attempts left": [
        event(MOVES, f"{QUEUE}.dead", (f"{QUEUE}.dead",), REQUEUED)
    ],
    "an event dead-lettered into nothing": [event(MOVES, f"{QUEUE}.dead", (), DEAD)],
    "one that is requeued by the default exchange": [
        event("", QUEUE, (QUEUE,), REQUEUED)
    ],
    "an unknown queue": [event("", "events", ("events",))],
    "an event requeued by another service": [
        event("evt-moves--billing.direct", QUEUE, (QUEUE,), REQUEUED)
    ],
    "a request whose reply_to is no UUID": [request(reply_to="x")],
}


@pytest.mark.parametrize("case", RIGHT)
def test_messages_as_documented_pass(case: str) -> None:
    messages, seen = RIGHT[case]
    bus = Bus(DOCUMENT)
    assert bus.differences(messages) == []
    assert bus.seen == seen
    assert seen.isdisjoint(bus.unseen)
    assert {"orders.calls.billing.cancel_many", "UserTaken"} <= set(bus.unseen)


@pytest.mark.parametrize("case", WRONG)
def test_a_message_that_differs_is_told(case: str) -> None:
    assert Bus(DOCUMENT).differences(WRONG[case])


@pytest.mark.parametrize(
    ("place", "messages"),
    [
        (f"channels {FULL}", [request(), answer()]),
        ("components schemas Operation properties reason", [request(), answer()]),
        (f"operations orders.calls.{FULL}", [request(), answer()]),
        ("channels orders.order_paid", [event()]),
        ("components schemas orders.order_paid properties price_minor", [event()]),
        ("components schemas EventHeaders properties nameko.request_id", [event()]),
    ],
)
def test_what_a_document_loses_is_told(place: str, messages: list[Message]) -> None:
    less = deepcopy(DOCUMENT)
    *path, name = place.split()
    piece = less
    for part in path:
        piece = piece[part]
    del piece[name]
    assert Bus(less).differences(messages)

"""docs/asyncapi.yaml is valid and agrees with the code and the samples.

The check of live messages notices each difference.
"""

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
from tests.specs.conformance import maps_in
from tests.specs.messages import Bus, Message

DOCUMENT = yaml.safe_load(asyncapi.YAML.read_text())
DOCUMENTS = sorted(asyncapi.ROOT.glob("docs/**/asyncapi*.yaml"))
MESSAGES = DOCUMENT["components"]["messages"]
SCHEMAS = DOCUMENT["components"]["schemas"]
# The rule that reports that 3.0 is not the newest version.
LATEST = "asyncapi-latest-version"

Piece = dict[str, Any]


def validate(*paths: Path) -> dict[str, list[Piece]]:
    """Return the errors in documents, by AsyncAPI's own parser."""
    command = ["node", "dev/specs/validate.mjs", *map(str, paths)]
    output = subprocess.check_output(command, cwd=asyncapi.ROOT)
    found: dict[str, list[Piece]] = json.loads(output)
    return {
        path: [each for each in errors if each["code"] != LATEST]
        for path, errors in found.items()
    }


@cache
def all_errors() -> dict[str, list[Piece]]:
    """Return the errors in all documents. The parser starts slowly, so it runs once."""
    return validate(*DOCUMENTS)


@pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_document_is_valid_asyncapi(path: Path) -> None:
    assert all_errors()[str(path)] == []


@pytest.mark.parametrize(
    "change",
    [{"action": "answer"}, {"messages": [{"$ref": "#/components/messages/fault"}]}],
    ids=["error", "warning"],
)
def test_an_invalid_document_is_noticed(tmp_path: Path, change: Piece) -> None:
    wrong = deepcopy(DOCUMENT)
    wrong["operations"]["orders.place"] |= change
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.safe_dump(wrong))
    assert all(validate(file).values())


def test_the_document_is_generated_from_the_code() -> None:
    assert asyncapi.YAML.read_text() == asyncapi.rendered(), "run `make specs`"


@rpc
def refund(self: Any) -> None:
    """A method that is not documented."""


@event_handler("orders", "order_shipped")
def handle_order_shipped(self: Any, events: list[Any]) -> None:
    """An event that is not documented."""


# Changes of the code that the generator must notice: the change and a part of the message.
CODE_CHANGES: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
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
    "a field of a reply": (
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
    "a removed method": (
        lambda patch: patch.setitem(asyncapi.REPLIES, "billing.refund", ("Operation",)),
        "billing.refund",
    ),
    "an event without a sample": (
        lambda patch: patch.setitem(asyncapi.EVENTS, "orders.order_shipped", {}),
        "orders.order_shipped",
    ),
    "no samples": (
        lambda patch: patch.setattr(asyncapi, "SAMPLES", Path("nowhere")),
        "orders.order_paid",
    ),
}


@pytest.mark.parametrize("case", CODE_CHANGES)
def test_a_part_of_the_code_without_documentation_is_noticed(
    monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    change, message = CODE_CHANGES[case]
    change(monkeypatch)
    with pytest.raises(asyncapi.Failure, match=message):
        asyncapi.document()


def test_every_object_is_closed_and_every_field_has_a_type() -> None:
    payloads = [message["payload"] for message in MESSAGES.values()]
    maps = maps_in([SCHEMAS, payloads])
    objects = [each for each in maps if each.get("type") == "object"]
    assert len(objects) > len(SCHEMAS)
    for piece in objects:
        # The open object is RabbitMQ's own x-death.
        assert piece == {"type": "object"} or "additionalProperties" in piece
        for field in piece.get("properties", {}).values():
            assert {"type", "$ref", "oneOf", "const"} & field.keys()


def test_every_component_is_used() -> None:
    references = {each["$ref"] for each in maps_in(DOCUMENT) if "$ref" in each}
    parts = {
        f"#/components/{kind}/{name}"
        for kind, all_ in DOCUMENT["components"].items()
        for name in all_
    }
    assert parts - references == set()


# Samples


def filled(piece: Any) -> Any:
    """Return an example with references replaced by samples."""
    if not isinstance(piece, dict):
        return piece
    if "$ref" in piece:
        file, _, pointer = piece["$ref"].partition("#/")
        sample = json.loads((asyncapi.YAML.parent / file).read_text())
        return sample[pointer] if pointer else sample
    return {name: filled(part) for name, part in piece.items()}


def example(name: str) -> Any:
    """Return the payload of a message from its sample."""
    return filled(MESSAGES[name]["examples"][0]["payload"])


def is_valid(piece: Piece, value: Any) -> bool:
    root = Draft7Validator(DOCUMENT, format_checker=Draft7Validator.FORMAT_CHECKER)
    return bool(root.evolve(schema=piece).is_valid(value))


@pytest.mark.parametrize("name", MESSAGES)
def test_every_sample_is_valid(name: str) -> None:
    assert is_valid(MESSAGES[name]["payload"], example(name))


ITEMS = {
    name: (schema, example(f"{name}.request")["kwargs"])
    for name, schema in asyncapi.ARGUMENTS.items()
    if not isinstance(schema, dict)
}
VALIDATED: dict[str, tuple[Schema, Piece]] = {
    name: (schema(), {"request_id": "1", **sample})
    for name, (schema, sample) in ITEMS.items()
}
for service in asyncapi.SERVICES:
    for verb, method in asyncapi.methods(service).items():
        if schema := asyncapi.argument_schema(method):
            name = f"{service}.{verb}"
            VALIDATED[name] = (schema, example(f"{name}.request")["kwargs"])
VALUES = (None, True, 0, -1, 1.5, 10**19, "", "x", "a\nb", "\x00", "x" * 300, [], {})


@pytest.mark.parametrize("name", VALIDATED)
def test_the_document_accepts_the_same_arguments_as_the_service(name: str) -> None:
    schema, sample = VALIDATED[name]
    sample = {field: value for field, value in sample.items() if field in schema.fields}
    piece = SCHEMAS[type(schema).__name__]
    attempts = [sample, {**sample, "more": 1}]
    for field in schema.fields:
        without = {other: value for other, value in sample.items() if other != field}
        attempts += [without, *({**sample, field: value} for value in VALUES)]
    by_document = {json.dumps(each): is_valid(piece, each) for each in attempts}
    by_service = {json.dumps(each): not schema.validate(each) for each in attempts}
    assert by_document == by_service
    assert set(by_document.values()) == {True, False}


@pytest.mark.parametrize("name", ITEMS)
def test_services_validate_by_the_documented_schema(name: str) -> None:
    schema = ITEMS[name][0].__name__
    service = asyncapi.service_class(name.partition(".")[0])
    source = inspect.getsource(inspect.getmodule(service))
    assert re.search(rf"\b{schema}\(\)", source)


# Live messages: each difference is noticed.

METHOD = "billing.withdraw_many"
QUEUE = "evt-orders-order_paid--notifications.handle_order_paid"
DEAD_QUEUE = f"{QUEUE}.dead"
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
    key: str = METHOD,
    **properties: Any,
) -> Message:
    given = {
        **PROPERTIES,
        "correlation_id": "1",
        "reply_to": ID,
        "delivery_mode": 1,
        "headers": {"nameko.request_id": "1", "nameko.timeout_s": 2.5},
        **properties,
    }
    body = json.dumps(payload or example(f"{METHOD}.request")).encode()
    return Message(exchange, key, ["rpc-billing"], given, body)


def reply(payload: Any = None, caller: str = "orders", **properties: Any) -> Message:
    given = {
        **PROPERTIES,
        "correlation_id": "1",
        "delivery_mode": 1,
        "expiration": "60000",
        **properties,
    }
    body = json.dumps(payload or example(f"{METHOD}.reply")).encode()
    return Message("nameko-rpc", ID, [f"rpc.reply-{caller}-{ID}"], given, body)


def event(
    exchange: str | None = "orders.events",
    key: str = "order_paid",
    queues: tuple[str, ...] = (QUEUE,),
    headers: Piece | None = None,
    mode: int = 2,
    **fields: Any,
) -> Message:
    given = {
        **PROPERTIES,
        "message_id": ID,
        "delivery_mode": mode,
        "headers": headers or {"nameko.request_id": "1"},
    }
    body = json.dumps({**example("orders.order_paid"), **fields}).encode()
    return Message(exchange, key, queues, given, body)


def requeued(headers: Piece | None = None, **changes: Any) -> Message:
    """Return an event that is moved into its own queue."""
    return event(MOVES, QUEUE, **{"queues": (QUEUE,), "headers": headers, **changes})


def dead_lettered(headers: Piece | None = None, **changes: Any) -> Message:
    """Return an event that is moved into its queue of dead letters."""
    queues = (DEAD_QUEUE,)
    return event(MOVES, DEAD_QUEUE, **{"queues": queues, "headers": headers, **changes})


def delivered(headers: Piece | None = None) -> Message:
    """Return an event that is delivered to its handler."""
    return event(None, QUEUE, (), headers)


def item(**changes: Any) -> Piece:
    """Return a request with changes in its first item. None removes a field."""
    [first, *others] = example(f"{METHOD}.request")["kwargs"]["items"]
    fields = {**first, **changes}.items()
    changed = {name: value for name, value in fields if value is not None}
    return {"args": [], "kwargs": {"items": [changed, *others]}}


def outcome(**changes: Any) -> Piece:
    """Return a reply with changes in its first outcome."""
    [first, *others] = example(f"{METHOD}.reply")["result"]
    return {"result": [{**first, **changes}, *others], "error": None}


def refusal(position: int) -> Piece:
    """Return a reply that refuses one of the items."""
    outcomes = example(f"{METHOD}.reply")["result"]
    outcomes[position] = {"status": "invalid", "errors": {"amount_minor": ["Why."]}}
    return {"result": outcomes, "error": None}


def fault(**changes: Any) -> Piece:
    sample = example("fault")
    return {**sample, "error": {**sample["error"], **changes}}


# The outcomes in the sample.
OUTCOMES = {"Operation", "Conflict", "Unavailable"}
CALLED = {METHOD, f"orders.calls.{METHOD}"}
REPLIED = {*CALLED, *OUTCOMES}
HANDLER = "notifications.handle_order_paid"
# Messages, and the parts of the document that they show.
VALID: dict[str, tuple[list[Message], set[str]]] = {
    "a request and its reply": ([request(), reply()], REPLIED),
    "a redelivered request": ([request(), reply(), reply()], REPLIED),
    "a request without a reply": ([request()], set()),
    "a request of an operator": (
        [request(delivery_mode=2, priority=0), reply(caller="standalone_rpc_proxy")],
        {METHOD, *OUTCOMES},
    ),
    "a refused wrong request": (
        [request(item(amount_minor=-1)), reply(refusal(0))],
        {*REPLIED, "Invalid"},
    ),
    "a fault": ([request(), reply(fault())], {*CALLED, "fault"}),
    "a fault for a wrong request": (
        [
            request({"args": [], "kwargs": {}}),
            reply(fault(exc_path="nameko.exceptions.IncorrectSignature")),
        ],
        {*CALLED, "fault"},
    ),
    "an event": ([event()], {"orders.publishes.order_paid"}),
    "a delivered event": ([delivered()], {HANDLER}),
    "a requeued event": ([requeued(REQUEUED)], {f"{HANDLER}.requeue"}),
    "an event requeued while several events fail": (
        [requeued({**REQUEUED, "x-attempts": 0, "x-error": ""})],
        {f"{HANDLER}.requeue"},
    ),
    "an event moved from a retry queue of an earlier version": (
        [requeued(REQUEUED | DEATH)],
        {f"{HANDLER}.requeue"},
    ),
    "a requeued event that is delivered": (
        [delivered(REQUEUED)],
        {f"{HANDLER}.requeued"},
    ),
    "a dead-lettered event": ([dead_lettered(DEAD)], {f"{HANDLER}.dead_letter"}),
    "a redriven event": ([requeued(), delivered()], {f"{HANDLER}.redrive", HANDLER}),
    "a redriven event from a retry queue of an earlier version": (
        [requeued(REDRIVEN), delivered(REDRIVEN)],
        {f"{HANDLER}.redrive", HANDLER},
    ),
}
WRONG: dict[str, list[Message]] = {
    "an unknown field of an item": [request(item(note="")), reply()],
    "a missing field of an item": [request(item(amount_minor=None)), reply()],
    "another item refused": [request(item(amount_minor=-1)), reply(refusal(1))],
    "a lost wrong request": [request(item(amount_minor=-1))],
    "a wrong request and another fault": [
        request(item(amount_minor=-1)),
        reply(fault()),
    ],
    "an argument by position": [request({"args": [[]], "kwargs": {}}), reply()],
    "an unknown field of an outcome": [request(), reply(outcome(note=""))],
    "a field of an outcome with another type": [
        request(),
        reply(outcome(amount_minor="99.90")),
    ],
    "an unknown outcome": [request(), reply(outcome(status="lost"))],
    "an unknown fault": [request(), reply(fault(exc_path="builtins.ValueError"))],
    "a fault with a result": [request(), reply({**fault(), "result": []})],
    "a malformed reply": [request(), reply("done")],
    "fewer outcomes, for a wrong item": [
        request(item(amount_minor=-1)),
        reply({"result": [], "error": None}),
    ],
    "a reply without a request": [reply()],
    "a reply to another key": [
        request(),
        reply(),
        Message("nameko-rpc", "x", [], {}, b"{}"),
    ],
    "an undocumented caller": [request(), reply(caller="users")],
    "an unknown method": [request(key="billing.refund"), reply()],
    "an unknown exchange": [request(exchange="rpc"), reply()],
    "a request in another queue": [request(key="billing.withdraw"), reply()],
    "a persistent request": [request(delivery_mode=2), reply()],
    "an unknown header": [request(headers={"x-user": "1"}), reply()],
    "an unknown property": [request(priority=1), reply()],
    "another expiration": [request(), reply(expiration="5")],
    "another media type": [request(content_type="text/plain"), reply()],
    "another encoding": [request(), reply(content_encoding="gzip")],
    "no JSON": [
        Message("orders.events", "order_paid", [QUEUE], event().properties, b"paid")
    ],
    "an unknown field of an event": [event(note="")],
    "a field of an event with another type": [event(price_minor="99.90")],
    "an unknown event": [event(key="order_shipped")],
    "an event of another service": [event("billing.events")],
    "an event that does not reach a consumer": [event(queues=())],
    "a transient event": [event(mode=1)],
    "an event with the headers of a failed one": [event(headers=REQUEUED)],
    "an event with the headers of a redriven one": [event(headers=REDRIVEN)],
    "a transient requeued event": [requeued(REQUEUED, mode=1)],
    "a requeued event with an unknown header": [requeued({**REQUEUED, "x-user": "1"})],
    "a requeued event without attempts left": [requeued(DEAD)],
    "an event requeued into no queue": [requeued(REQUEUED, queues=())],
    "an event in a retry queue": [
        event("", f"{QUEUE}.retry.0", (f"{QUEUE}.retry.0",), REQUEUED)
    ],
    "a dead letter without its headers": [dead_lettered()],
    "a dead letter with attempts left": [dead_lettered(REQUEUED)],
    "an event dead-lettered into no queue": [dead_lettered(DEAD, queues=())],
    "an event requeued by the default exchange": [event("", QUEUE, (QUEUE,), REQUEUED)],
    "an unknown queue": [event("", "events", ("events",))],
    "an event requeued by another service": [
        event("evt-moves--billing.direct", QUEUE, (QUEUE,), REQUEUED)
    ],
    "a reply_to that is not a UUID": [request(reply_to="x")],
}


@pytest.mark.parametrize("case", VALID)
def test_documented_messages_pass(case: str) -> None:
    messages, seen = VALID[case]
    bus = Bus(DOCUMENT)
    assert bus.differences(messages) == []
    assert bus.seen == seen
    assert seen.isdisjoint(bus.unseen)
    assert {"orders.calls.billing.cancel_many", "UserTaken"} <= set(bus.unseen)


@pytest.mark.parametrize("case", WRONG)
def test_a_message_that_differs_is_noticed(case: str) -> None:
    assert Bus(DOCUMENT).differences(WRONG[case])


@pytest.mark.parametrize(
    ("place", "messages"),
    [
        (f"channels {METHOD}", [request(), reply()]),
        ("components schemas Operation properties reason", [request(), reply()]),
        (f"operations orders.calls.{METHOD}", [request(), reply()]),
        ("channels orders.order_paid", [event()]),
        ("components schemas orders.order_paid properties price_minor", [event()]),
        ("components schemas EventHeaders properties nameko.request_id", [event()]),
    ],
)
def test_a_part_missing_from_the_document_is_noticed(
    place: str, messages: list[Message]
) -> None:
    less = deepcopy(DOCUMENT)
    *path, name = place.split()
    piece = less
    for part in path:
        piece = piece[part]
    del piece[name]
    assert Bus(less).differences(messages)

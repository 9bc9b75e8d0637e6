"""Compares messages on the bus with docs/asyncapi.yaml.

It checks destination, sender, properties, headers and body. A part that is not documented fails.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft7Validator
from jsonschema.exceptions import best_match

from tests.specs.conformance import resolved

Piece = dict[str, Any]

RPC = "nameko-rpc"
# Properties that the document does not describe among the headers.
SEPARATE = {"content_type", "content_encoding", "delivery_mode", "headers"}
# The path of faults that mean a wrong request.
WRONG_REQUEST = "nameko.exceptions."


@dataclass(frozen=True, slots=True)
class Message:
    """A message that was published or delivered.

    A published message has an exchange, and the queues that received it. A delivered message has
    no exchange, and its queue as the key.
    """

    exchange: str | None
    key: str
    queues: Sequence[str]
    properties: Piece
    body: bytes

    @property
    def headers(self) -> Piece:
        """Return AMQP's headers, and properties by their names."""
        properties = self.properties.items()
        described = {name: value for name, value in properties if name not in SEPARATE}
        return {**described, **self.properties.get("headers", {})}

    @property
    def call(self) -> tuple[Any, Any]:
        """Return the correlation id, and the routing key of the reply.

        A request and its replies have the same.
        """
        reply_key = self.properties.get("reply_to", self.key)
        return self.properties.get("correlation_id"), reply_key

    def __str__(self) -> str:
        return f"{self.exchange or 'queue'} {self.key}"


class Bus:
    """Compares messages with an AsyncAPI document, and records the parts that were seen."""

    def __init__(self, document: Piece) -> None:
        self.document = document
        self.seen: set[str] = set()
        self._root = Draft7Validator(
            document, format_checker=Draft7Validator.FORMAT_CHECKER
        )
        operations = document["operations"]
        self._services = {operation.partition(".")[0] for operation in operations}
        self._validators: dict[str, Any] = {}
        self._addresses: dict[tuple[str | None, str], str] = {}
        for name, channel in document["channels"].items():
            binding = self._at(channel["bindings"])["amqp"]
            has_key = binding["is"] == "routingKey"
            exchange = binding["exchange"]["name"] if has_key else ""
            if channel["address"]:
                self._addresses[exchange, channel["address"]] = name

    @property
    def unseen(self) -> list[str]:
        """Return the documented operations and outcomes that were not seen."""
        outcomes: set[str] = set()
        for reply in self.document["components"]["replies"].values():
            outcomes |= self._outcomes(self._messages(reply)[0])
        return sorted({*self.document["operations"], *outcomes, "fault"} - self.seen)

    def bound(self, kind: str) -> list[Piece]:
        """Return the documented bindings of a kind: queues or exchanges."""
        found = []
        for channel in self.document["channels"].values():
            binding = self._at(channel["bindings"])["amqp"]
            if kind in binding:
                found.append(binding[kind])
        return found

    def queues_of_events(self) -> list[str]:
        """Return the queues from which services consume events."""
        operations = self.document["operations"].values()
        receiving = [each for each in operations if each["action"] == "receive"]
        handlers = [each for each in receiving if "reply" not in each]
        return list(dict.fromkeys(map(self._address, handlers)))

    def differences(self, messages: Sequence[Message]) -> list[str]:
        """Return the differences from the document, as messages of a failing test."""
        requests = {
            message.call: message
            for message in messages
            if message.exchange == RPC and (RPC, message.key) in self._addresses
        }
        replies: dict[tuple[Any, Any], list[Message]] = defaultdict(list)
        found: list[tuple[Message, str]] = []
        for message in messages:
            if message.exchange != RPC:
                found += [(message, error) for error in self._event(message)]
            elif message.call not in requests:
                found.append((message, "not documented, and not a reply to a request"))
            elif requests[message.call].key != message.key:
                replies[message.call].append(message)
        for call, request in requests.items():
            errors = self._request(request, replies[call])
            found += [(request, error) for error in errors]
        first = {f"{message}: {error}": message for message, error in reversed(found)}
        return [
            f"{error}\n    {message.body[:300]!r}" for error, message in first.items()
        ]

    # RPC

    def _request(self, request: Message, replies: Sequence[Message]) -> list[str]:
        """Check a request and its replies.

        A redelivered request has several replies, a lost one has none.
        """
        method = request.key
        operation = self.document["operations"][method]
        [name] = self._messages(operation)
        found = self._errors(name, request, ignored=("payload",))
        if self._address(operation) not in request.queues:
            found.append(f"went to {request.queues}")
        errors = [*self._validator(name, "payload").iter_errors(_json(request.body))]
        if errors and not replies:
            found.append(f"{_main_error(errors)}, and not refused")
        for reply in replies:
            errors_of_reply = self._reply(operation, reply)
            if not errors_of_reply and not _refuses(_json(reply.body), errors):
                found.append(f"{_main_error(errors)}, and not refused")
            found += errors_of_reply + self._caller(method, request, reply)
        if replies:
            self.seen.add(method)
        return found

    def _reply(self, operation: Piece, reply: Message) -> list[str]:
        """Check a reply, and record its outcomes as seen."""
        success, fault = self._messages(self._at(operation["reply"]))
        body = _json(reply.body)
        is_fault = isinstance(body, dict) and bool(body.get("error"))
        if errors := self._errors(fault if is_fault else success, reply):
            return [f"reply: {error}" for error in errors]
        if is_fault:
            self.seen.add("fault")
            return []
        result = body["result"]
        outcomes = result if isinstance(result, list) else [result]
        for name in self._outcomes(success) - self.seen:
            if any(map(self._root.evolve(schema=_ref(name)).is_valid, outcomes)):
                self.seen.add(name)
        return []

    def _outcomes(self, reply: str) -> set[str]:
        """Return the schemas of the outcomes of a call, or of its items."""
        payload = self.document["components"]["messages"][reply]["payload"]
        result = payload["properties"]["result"]
        outcome = result.get("items", result)
        return _names(
            each for each in outcome.get("oneOf", [outcome]) if "$ref" in each
        )

    def _caller(self, method: str, request: Message, reply: Message) -> list[str]:
        """Check that the caller may call the method. The reply's queue has its name."""
        bindings = self._at(self.document["channels"]["replies"]["bindings"])
        pattern = re.escape(bindings["amqp"]["queue"]["name"])
        pattern = pattern.replace("<caller>", "(.+)")
        pattern = pattern.replace("<id>", request.properties["reply_to"])
        for queue in reply.queues:
            match = re.fullmatch(pattern, queue)
            if match is None:
                return [f"the reply went to {queue}"]
            if match[1] in self._services:
                name = f"{match[1]}.calls.{method}"
                if name not in self.document["operations"]:
                    return [f"{name} is not documented"]
                self.seen.add(name)
                return self._delivery(name, request)
        return []

    # Events

    def _event(self, message: Message) -> list[str]:
        """Check an event that is published, moved or delivered."""
        action = "receive" if message.exchange is None else "send"
        channel = self._addresses.get((message.exchange or "", message.key))
        candidates = [
            (name, operation)
            for name, operation in self.document["operations"].items()
            if operation["action"] == action
            and operation["channel"] == {"$ref": f"#/channels/{channel}"}
        ]
        found = ["not documented"]
        for name, operation in candidates:
            names = self._messages(operation)
            found = min((self._errors(each, message) for each in names), key=len)
            if action == "send":
                missing = self._consumers(message, operation) - set(message.queues)
                found += [f"did not reach {queue}" for queue in sorted(missing)]
                found += self._delivery(name, message)
            if not found:
                self.seen.add(name)
                return []
        return found

    def _consumers(self, message: Message, operation: Piece) -> set[str]:
        """Return the queues that an event must reach."""
        if (message.exchange or "").endswith(".direct"):
            return {message.key}
        published = _names(operation["messages"])
        return {
            self._address(other)
            for other in self.document["operations"].values()
            if other["action"] == "receive" and published & _names(other["messages"])
        }

    # Pieces

    def _delivery(self, operation: str, message: Message) -> list[str]:
        """Check that the message is persistent or transient as documented."""
        binding = self._at(self.document["operations"][operation]["bindings"])["amqp"]
        mode = message.properties.get("delivery_mode")
        return [] if mode == binding["deliveryMode"] else [f"delivery mode {mode}"]

    def _errors(
        self, name: str, message: Message, ignored: Iterable[str] = ()
    ) -> list[str]:
        """Return the differences of a message from the one of this name."""
        piece = self.document["components"]["messages"][name]
        encoding = self._at(piece["bindings"])["amqp"]["contentEncoding"]
        expected = {
            "content_type": self.document["defaultContentType"],
            "content_encoding": encoding,
        }
        found = [
            f"{property_} {message.properties.get(property_)}"
            for property_, value in expected.items()
            if message.properties.get(property_) != value
        ]
        values = {"headers": message.headers, "payload": _json(message.body)}
        for part in values.keys() - set(ignored):
            if errors := [*self._validator(name, part).iter_errors(values[part])]:
                found.append(f"{part}: {_main_error(errors)}")
        return found

    def _validator(self, name: str, part: str) -> Any:
        key = f"{name} {part}"
        if key not in self._validators:
            piece = self.document["components"]["messages"][name][part]
            self._validators[key] = self._root.evolve(schema=piece)
        return self._validators[key]

    def _messages(self, piece: Piece) -> list[str]:
        """Return the names of the messages of an operation or a reply."""
        return [reference["$ref"].rpartition("/")[2] for reference in piece["messages"]]

    def _address(self, operation: Piece) -> str:
        address: str = self._at(operation["channel"])["address"]
        return address

    def _at(self, piece: Piece) -> Piece:
        return resolved(self.document, piece)


def _ref(schema: str) -> Piece:
    return {"$ref": f"#/components/schemas/{schema}"}


def _names(references: Iterable[Piece]) -> set[str]:
    """Return the names in references."""
    return {reference["$ref"].rpartition("/")[2] for reference in references}


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body


def _refuses(reply: Piece, errors: Sequence[Any]) -> bool:
    """Return whether a reply refuses the wrong items of a request, or all of it."""
    if not errors:
        return True
    if reply["error"]:
        return bool(reply["error"]["exc_path"].startswith(WRONG_REQUEST))
    result = reply["result"]
    if not isinstance(result, list):
        return _is_refusal(result)
    # The path to an item is: kwargs, items, 3.
    positions = [[*error.absolute_path][2:3] for error in errors]
    refused = {at for at, outcome in enumerate(result) if _is_refusal(outcome)}
    return all(refused.issuperset(position or [None]) for position in positions)


def _is_refusal(outcome: Any) -> bool:
    return outcome is None or outcome.get("status") == "invalid"


def _main_error(errors: Iterable[Any]) -> str:
    """Return the most relevant error. If no alternative matches, use the closest one."""
    worst = best_match(errors)
    while worst.context:
        alternatives: dict[Any, list[Any]] = defaultdict(list)
        for error in worst.context:
            alternatives[error.schema_path[0]].append(error)
        worst = min(alternatives.values(), key=len)[0]
    return f"{worst.json_path}: {worst.message[:300]}"

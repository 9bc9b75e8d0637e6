"""Whether what crosses the bus is what docs/asyncapi.yaml says.

These are where it goes, who sends it, its properties, headers and body. What is not documented fails.
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
APART = {
    "content_type",
    "content_encoding",
    "delivery_mode",
    "headers",
}  # not among the described headers
MISTAKES = "nameko.exceptions."  # the faults that say so of a request


@dataclass(frozen=True, slots=True)
class Message:
    """One that was published, with the queues it went into; or, without an exchange, delivered out of one."""

    exchange: str | None
    key: str
    queues: Sequence[str]
    properties: Piece
    body: bytes

    @property
    def headers(self) -> Piece:
        """AMQP's headers, and properties by their names."""
        shown = {
            name: value for name, value in self.properties.items() if name not in APART
        }
        return {**shown, **self.properties.get("headers", {})}

    @property
    def call(self) -> tuple[Any, Any]:
        """The correlation id, and the routing key of the answer: what a request and its answer share."""
        return self.properties.get("correlation_id"), self.properties.get(
            "reply_to", self.key
        )

    def __str__(self) -> str:
        return f"{self.exchange or 'queue'} {self.key}"


class Bus:
    """Holds messages to an AsyncAPI document, and knows what of it was seen."""

    def __init__(self, document: Piece) -> None:
        self.document = document
        self.seen: set[str] = set()
        self._root = Draft7Validator(
            document, format_checker=Draft7Validator.FORMAT_CHECKER
        )
        self._services = {
            operation.partition(".")[0] for operation in document["operations"]
        }
        self._validators: dict[str, Any] = {}
        self._addresses: dict[tuple[str | None, str], str] = {}
        for name, channel in document["channels"].items():
            binding = self._at(channel["bindings"])["amqp"]
            exchange = (
                binding["exchange"]["name"] if binding["is"] == "routingKey" else ""
            )
            if channel["address"]:
                self._addresses[exchange, channel["address"]] = name

    @property
    def unseen(self) -> list[str]:
        """What is documented and was not seen: operations, and outcomes of calls."""
        outcomes: set[str] = set()
        for reply in self.document["components"]["replies"].values():
            outcomes |= self._outcomes(self._messages(reply)[0])
        return sorted({*self.document["operations"], *outcomes, "fault"} - self.seen)

    def bound(self, kind: str) -> list[Piece]:
        """What is documented of queues or exchanges."""
        found = []
        for channel in self.document["channels"].values():
            binding = self._at(channel["bindings"])["amqp"]
            if kind in binding:
                found.append(binding[kind])
        return found

    def queues_of_events(self) -> list[str]:
        """Where a service hears events."""
        operations = self.document["operations"].values()
        heard = [o for o in operations if o["action"] == "receive" and "reply" not in o]
        return list(dict.fromkeys(map(self._address, heard)))

    def differences(self, messages: Sequence[Message]) -> list[str]:
        """What is not as documented, in the words of a test that fails."""
        requests = {
            m.call: m
            for m in messages
            if m.exchange == RPC and (RPC, m.key) in self._addresses
        }
        answers: dict[tuple[Any, Any], list[Message]] = defaultdict(list)
        found: list[tuple[Message, str]] = []
        for message in messages:
            if message.exchange != RPC:
                found += [(message, wrong) for wrong in self._event(message)]
            elif message.call not in requests:
                found.append((message, "not documented, and nobody asked for it"))
            elif requests[message.call].key != message.key:
                answers[message.call].append(message)
        for call, request in requests.items():
            found += [
                (request, wrong) for wrong in self._request(request, answers[call])
            ]
        first = {f"{message}: {wrong}": message for message, wrong in reversed(found)}
        return [
            f"{wrong}\n    {message.body[:300]!r}" for wrong, message in first.items()
        ]

    # RPC

    def _request(self, request: Message, answers: Sequence[Message]) -> list[str]:
        """A request and its answers: more than one where it was delivered again, none where it was lost."""
        full = request.key
        operation = self.document["operations"][full]
        [asked] = self._messages(operation)
        wrong = self._errors(asked, request, ignored=("payload",))
        if self._address(operation) not in request.queues:
            wrong.append(f"went to {request.queues}")
        errors = [*self._validator(asked, "payload").iter_errors(_json(request.body))]
        if errors and not answers:
            wrong.append(f"{_told(errors)}, and not refused")
        for answer in answers:
            no_answer = self._answer(operation, answer)
            if not no_answer and not _refuses(_json(answer.body), errors):
                wrong.append(f"{_told(errors)}, and not refused")
            wrong += no_answer + self._caller(full, request, answer)
        if answers:
            self.seen.add(full)
        return wrong

    def _answer(self, operation: Piece, answer: Message) -> list[str]:
        right, fault = self._messages(self._at(operation["reply"]))
        told = _json(answer.body)
        is_fault = isinstance(told, dict) and bool(told.get("error"))
        if wrong := self._errors(fault if is_fault else right, answer):
            return [f"answered, {what}" for what in wrong]
        if is_fault:
            self.seen.add("fault")
        elif unseen := self._outcomes(right) - self.seen:
            results = (
                told["result"] if isinstance(told["result"], list) else [told["result"]]
            )
            for name in unseen:
                if any(map(self._root.evolve(schema=_ref(name)).is_valid, results)):
                    self.seen.add(name)
        return []

    def _outcomes(self, answer: str) -> set[str]:
        """The schemas of what a call, or an item of it, may come to."""
        result = self.document["components"]["messages"][answer]["payload"][
            "properties"
        ]["result"]
        outcome = result.get("items", result)
        return {
            piece["$ref"].rpartition("/")[2]
            for piece in outcome.get("oneOf", [outcome])
            if "$ref" in piece
        }

    def _caller(self, full: str, request: Message, answer: Message) -> list[str]:
        """Who of the suite called, told by the name of the queue that the answer went into, may do so."""
        queue = self._at(self.document["channels"]["replies"]["bindings"])["amqp"][
            "queue"
        ]["name"]
        pattern = (
            re.escape(queue)
            .replace("<caller>", "(.+)")
            .replace("<id>", request.properties["reply_to"])
        )
        for name in answer.queues:
            match = re.fullmatch(pattern, name)
            if match is None:
                return [f"the answer went to {name}"]
            if match[1] in self._services:
                name = f"{match[1]}.calls.{full}"
                if name not in self.document["operations"]:
                    return [f"{name} is not documented"]
                self.seen.add(name)
                return self._delivery(name, request)
        return []

    # Events

    def _event(self, message: Message) -> list[str]:
        """An event, on one of its ways."""
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
            found = min(
                (self._errors(told, message) for told in self._messages(operation)),
                key=len,
            )
            if action == "send":
                missing = self._hearers(message, operation) - set(message.queues)
                found += [f"did not reach {queue}" for queue in sorted(missing)]
                found += self._delivery(name, message)
            if not found:
                self.seen.add(name)
                return []
        return found

    def _hearers(self, message: Message, operation: Piece) -> set[str]:
        """The queues that an event must reach."""
        if (message.exchange or "").endswith(".direct"):
            return {message.key}
        wanted = {
            reference["$ref"].rpartition("/")[2] for reference in operation["messages"]
        }
        return {
            self._address(other)
            for other in self.document["operations"].values()
            if other["action"] == "receive"
            and wanted
            & {reference["$ref"].rpartition("/")[2] for reference in other["messages"]}
        }

    # Pieces

    def _delivery(self, operation: str, message: Message) -> list[str]:
        """Whether it is kept by the broker as the operation says."""
        binding = self._at(self.document["operations"][operation]["bindings"])["amqp"]
        mode = message.properties.get("delivery_mode")
        return [] if mode == binding["deliveryMode"] else [f"delivery mode {mode}"]

    def _errors(
        self, name: str, message: Message, ignored: Iterable[str] = ()
    ) -> list[str]:
        """What of a message is not as the document says."""
        piece = self.document["components"]["messages"][name]
        encoding = self._at(piece["bindings"])["amqp"]["contentEncoding"]
        wanted = {
            "content_type": self.document["defaultContentType"],
            "content_encoding": encoding,
        }
        found = [
            f"{property_} {message.properties.get(property_)}"
            for property_, value in wanted.items()
            if message.properties.get(property_) != value
        ]
        values = {"headers": message.headers, "payload": _json(message.body)}
        for part in values.keys() - set(ignored):
            if errors := [*self._validator(name, part).iter_errors(values[part])]:
                found.append(f"{part}: {_told(errors)}")
        return found

    def _validator(self, name: str, part: str) -> Any:
        key = f"{name} {part}"
        if key not in self._validators:
            piece = self.document["components"]["messages"][name][part]
            self._validators[key] = self._root.evolve(schema=piece)
        return self._validators[key]

    def _messages(self, piece: Piece) -> list[str]:
        """The names of the messages of an operation or a reply."""
        return [reference["$ref"].rpartition("/")[2] for reference in piece["messages"]]

    def _address(self, operation: Piece) -> str:
        address: str = self._at(operation["channel"])["address"]
        return address

    def _at(self, piece: Piece) -> Piece:
        return resolved(self.document, piece)


def _ref(schema: str) -> Piece:
    return {"$ref": f"#/components/schemas/{schema}"}


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body


def _refuses(answer: Piece, errors: Sequence[Any]) -> bool:
    """Whether an answer refuses what is wrong of a request: those items of it that are wrong, or all."""
    if not errors:
        return True
    if answer["error"]:
        return bool(answer["error"]["exc_path"].startswith(MISTAKES))
    result = answer["result"]
    if not isinstance(result, list):
        return _is_refusal(result)
    places = [
        [*error.absolute_path][2:3] for error in errors
    ]  # of kwargs, items, 3, ...
    refused = {
        position for position, outcome in enumerate(result) if _is_refusal(outcome)
    }
    return all(refused.issuperset(place or [None]) for place in places)


def _is_refusal(outcome: Any) -> bool:
    return outcome is None or outcome.get("status") == "invalid"


def _told(errors: Iterable[Any]) -> str:
    """The error that says most; where no alternative fits, of the one that comes nearest."""
    worst = best_match(errors)
    while worst.context:
        alternatives: dict[Any, list[Any]] = defaultdict(list)
        for error in worst.context:
            alternatives[error.schema_path[0]].append(error)
        worst = min(alternatives.values(), key=len)[0]
    return f"{worst.json_path}: {worst.message[:300]}"

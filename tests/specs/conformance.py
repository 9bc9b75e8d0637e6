"""Whether what crosses HTTP is what docs/openapi.yaml says.

These are status, headers and body of each answer, and the request that was granted. What is not
documented fails.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import requests
import yaml
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from dev.specs.openapi import YAML
from gateway import documents, problems

Piece = dict[str, Any]

TYPE = f"^{re.escape(problems.TYPE.format(''))}[a-z-]+$"  # of a problem

# On every answer, and not documented.
GENERAL = {
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "date",
    "x-content-type-options",
}


def _pattern(
    validator: Any, pattern: str, value: Any, schema: Piece
) -> Iterator[ValidationError]:
    """As in ECMAScript, where `$` is the very end; Python's lets one more line feed pass."""
    if isinstance(value, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


Validator = extend(Draft202012Validator, {"pattern": _pattern})


def _no_key_twice(pairs: list[tuple[str, Any]]) -> Piece:
    value = dict(pairs)
    assert len(value) == len(pairs), f"a key twice: {[name for name, _ in pairs]}"
    return value


def resolved(document: Piece, piece: Piece) -> Piece:
    """What a piece stands for, where it is a reference into its document."""
    if "$ref" not in piece:
        return piece
    found = document
    for name in piece["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


class Conformance:
    """Holds exchanges to an OpenAPI document."""

    def __init__(self, document: Piece) -> None:
        self.document = document
        self._root = Validator(
            document, format_checker=Draft202012Validator.FORMAT_CHECKER
        )

    def check(
        self,
        method: str,
        url: str,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
    ) -> Piece | None:
        """That an answer is documented; the operation, where the request names one. `headers` by any case."""
        path = unquote(urlsplit(url).path)
        operations = self._operations(path)
        operation = operations.get("get" if method == "HEAD" else method.lower())
        if operation:
            responses = operation["responses"]
            assert str(status) in responses, (
                f"{method} {path}: {status} is not documented: {body!r}"
            )
            answer = self._resolved(responses[str(status)])
        else:
            allowed = {
                *map(str.upper, operations),
                *(["HEAD"] if "get" in operations else []),
            }
            assert status != 405 or set(headers["Allow"].split(", ")) == allowed
            assert 400 <= status < 500, (
                f"{method} {path} is not documented, and answered {status}"
            )
            own = {"status": {"const": status}, "type": {"pattern": TYPE}}
            problem = {"$ref": "#/components/schemas/Problem", "properties": own}
            answer = {
                "headers": {
                    "X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}
                },
                "content": {"application/problem+json": {"schema": problem}},
            }
        self._check_values(answer["headers"], headers)
        is_file = path in documents.FILES and status == 200
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == ("max-age=600" if is_file else "no-store")
        known = [
            *answer["headers"],
            *(["Allow"] if status == 405 else []),
            *([*documents.HEADERS, "Content-Encoding"] if is_file else []),
        ]
        more = (
            {name.lower() for name in headers}
            - {name.lower() for name in known}
            - GENERAL
        )
        assert not more, f"{method} {path}: {more} are not documented for {status}"
        media_type = headers["Content-Type"].partition(";")[0]
        assert media_type in answer["content"], (
            f"{method} {path}: {media_type} is not documented for {status}"
        )
        if method != "HEAD":
            is_json = media_type.endswith("json")
            value = (
                json.loads(body, object_pairs_hook=_no_key_twice)
                if is_json
                else body.decode()
            )
            self._valid(answer["content"][media_type]["schema"], value)
        return operation

    def check_exchange(self, response: requests.Response) -> None:
        """That an answer is documented; and its request, if it was granted."""
        request = response.request
        method, url = str(request.method), str(request.url)
        operation = self.check(
            method, url, response.status_code, response.headers, response.content
        )
        if operation and response.ok:
            given = {
                "query": dict(parse_qsl(urlsplit(url).query)),
                "header": request.headers,
            }
            for kind, values in given.items():
                known = {
                    p["name"]: p
                    for p in map(self._resolved, operation.get("parameters", []))
                    if p["in"] == kind
                }
                assert kind == "header" or values.keys() <= known.keys()
                self._check_values(known, values)
            if "requestBody" in operation:
                [(media_type, content)] = operation["requestBody"]["content"].items()
                assert request.headers.get("Content-Type", "").startswith(media_type)
                self._valid(content["schema"], json.loads(request.body or b""))
            else:
                assert not request.body

    def _operations(self, path: str) -> Piece:
        """What may be done at a path, by method."""
        for template, operations in self.document["paths"].items():
            if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)), path):
                return operations
        return {}

    def _check_values(self, known: Piece, given: Mapping[str, str | bytes]) -> None:
        """Parameters or headers."""
        for name, piece in known.items():
            piece = self._resolved(piece)
            if name in given:
                value = (
                    given[name]
                    if isinstance(given[name], str)
                    else given[name].decode("latin-1")
                )
                self._valid(
                    piece["schema"],
                    int(value) if piece["schema"]["type"] == "integer" else value,
                )
            else:
                assert not piece.get("required"), f"{name} is missing"

    def _resolved(self, piece: Piece) -> Piece:
        return resolved(self.document, piece)

    def _valid(self, schema: Piece, value: Any) -> None:
        errors = [
            f"{error.json_path}: {error.message}"
            for error in self._root.evolve(schema=schema).iter_errors(value)
        ]
        assert not errors, errors


@cache
def documented() -> Conformance:
    """The document as it is committed."""
    return Conformance(yaml.safe_load(YAML.read_text()))

"""Compares HTTP exchanges with docs/openapi.yaml.

It checks status, headers and body of each response, and the request if it was successful. A part
that is not documented fails.
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

# The type URI of a problem.
TYPE = f"^{re.escape(problems.TYPE.format(''))}[a-z-]+$"

# Headers of every response, which are not documented.
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
    """Match as in ECMAScript, where `$` is the very end.

    In Python, `$` matches before a final line feed, too.
    """
    if isinstance(value, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


Validator = extend(Draft202012Validator, {"pattern": _pattern})


def _no_key_twice(pairs: list[tuple[str, Any]]) -> Piece:
    value = dict(pairs)
    assert len(value) == len(pairs), f"a key twice: {[name for name, _ in pairs]}"
    return value


def resolved(document: Piece, piece: Piece) -> Piece:
    """Return the target of a reference into the document, or the piece itself."""
    if "$ref" not in piece:
        return piece
    found = document
    for name in piece["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def maps_in(piece: Any) -> list[Piece]:
    """Return all maps in a document, at any depth."""
    if isinstance(piece, list):
        return [found for each in piece for found in maps_in(each)]
    if isinstance(piece, dict):
        return [piece, *maps_in([*piece.values()])]
    return []


class Conformance:
    """Compares exchanges with an OpenAPI document."""

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
        """Check that a response is documented.

        Return the operation, if the request names one. The case of `headers` does not matter.
        """
        path = unquote(urlsplit(url).path)
        operations = self._operations(path)
        operation = operations.get("get" if method == "HEAD" else method.lower())
        request = f"{method} {path}"
        if operation:
            responses = operation["responses"]
            undocumented = f"{request}: {status} is not documented: {body!r}"
            assert str(status) in responses, undocumented
            response = self._resolved(responses[str(status)])
        else:
            undocumented = f"{request} is not documented, and has status {status}"
            assert 400 <= status < 500, undocumented
            response = _problem(status)
        if status == 405 and not operation:
            allowed = {method.upper() for method in operations}
            if "get" in operations:
                allowed.add("HEAD")
            assert set(headers["Allow"].split(", ")) == allowed
        self._check_values(response["headers"], headers)
        is_file = path in documents.FILES and status == 200
        assert headers["X-Content-Type-Options"] == "nosniff"
        of_file = documents.respond(path, "").headers if is_file else {}
        assert headers["Cache-Control"] == of_file.get("Cache-Control", "no-store")
        known = [*response["headers"]]
        if status == 405:
            known.append("Allow")
        if is_file:
            known += [*documents.HEADERS, "Content-Encoding"]
        names = {name.lower() for name in headers}
        unknown = names - {name.lower() for name in known} - GENERAL
        assert not unknown, f"{request}: {unknown} are not documented for {status}"
        media_type = headers["Content-Type"].partition(";")[0]
        undocumented = f"{request}: {media_type} is not documented for {status}"
        assert media_type in response["content"], undocumented
        if method != "HEAD":
            value: Any = body.decode()
            if media_type.endswith("json"):
                value = json.loads(body, object_pairs_hook=_no_key_twice)
            self.check_schema(response["content"][media_type]["schema"], value)
        return operation

    def check_exchange(self, response: requests.Response) -> None:
        """Check that a response is documented, and the request if it was successful."""
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
            parameters = [*map(self._resolved, operation.get("parameters", []))]
            for kind, values in given.items():
                known = {
                    each["name"]: each for each in parameters if each["in"] == kind
                }
                assert kind == "header" or values.keys() <= known.keys()
                self._check_values(known, values)
            if "requestBody" in operation:
                [(media_type, content)] = operation["requestBody"]["content"].items()
                assert request.headers.get("Content-Type", "").startswith(media_type)
                self.check_schema(content["schema"], json.loads(request.body or b""))
            else:
                assert not request.body

    def _operations(self, path: str) -> Piece:
        """Return the operations of a path, by method."""
        for template, operations in self.document["paths"].items():
            if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)), path):
                return operations
        return {}

    def _check_values(self, known: Piece, given: Mapping[str, str | bytes]) -> None:
        """Check parameters or headers."""
        for name, piece in known.items():
            piece = self._resolved(piece)
            if name not in given:
                assert not piece.get("required"), f"{name} is missing"
                continue
            value: Any = given[name]
            if isinstance(value, bytes):
                value = value.decode("latin-1")
            if piece["schema"]["type"] == "integer":
                value = int(value)
            self.check_schema(piece["schema"], value)

    def _resolved(self, piece: Piece) -> Piece:
        return resolved(self.document, piece)

    def check_schema(self, schema: Piece, value: Any) -> None:
        """Check a value by a schema with references into the document."""
        errors = [
            f"{error.json_path}: {error.message}"
            for error in self._root.evolve(schema=schema).iter_errors(value)
        ]
        assert not errors, errors


def _problem(status: int) -> Piece:
    """Return the response to a request that names no operation: any problem."""
    own = {"status": {"const": status}, "type": {"pattern": TYPE}}
    problem = {"$ref": "#/components/schemas/Problem", "properties": own}
    request_id = {"$ref": "#/components/headers/X-Request-Id"}
    return {
        "headers": {"X-Request-Id": request_id},
        "content": {"application/problem+json": {"schema": problem}},
    }


@cache
def documented() -> Conformance:
    """Return the checks of the committed document."""
    return Conformance(yaml.safe_load(YAML.read_text()))

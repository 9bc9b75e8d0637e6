"""Whether what crosses HTTP is what docs/openapi.yaml says: status, headers and body of each answer, and the
request that was granted. What is not documented fails."""

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import requests
import yaml
from jsonschema import Draft202012Validator

from dev.specs.openapi import YAML

Piece = dict[str, Any]


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
        self._root = Draft202012Validator(document, format_checker=Draft202012Validator.FORMAT_CHECKER)

    def check(
        self, method: str, url: str, status: int, headers: Mapping[str, str], body: bytes
    ) -> Piece | None:
        """That an answer is documented; the operation, where the request names one. `headers` by any case."""
        path = unquote(urlsplit(url).path)
        operations = self._operations(path)
        operation = operations.get("get" if method == "HEAD" else method.lower())
        if operation:
            responses = operation["responses"]
            assert str(status) in responses, f"{method} {path}: {status} is not documented: {body!r}"
            answer = self._resolved(responses[str(status)])
        else:
            allowed = {*map(str.upper, operations), *(["HEAD"] if "get" in operations else [])}
            assert status != 405 or set(headers["Allow"].split(", ")) == allowed
            assert 400 <= status < 500, f"{method} {path} is not documented, and answered {status}"
            problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
            answer = {"headers": {}, "content": problem}
        self._check_values(answer["headers"], headers)
        media_type = headers["Content-Type"].partition(";")[0]
        assert media_type in answer["content"], (
            f"{method} {path}: {media_type} is not documented for {status}"
        )
        if method != "HEAD":
            value = json.loads(body) if media_type.endswith("json") else body.decode()
            self._valid(answer["content"][media_type]["schema"], value)
        return operation

    def check_exchange(self, response: requests.Response) -> None:
        """That an answer is documented; and its request, if it was granted."""
        request = response.request
        method, url = str(request.method), str(request.url)
        operation = self.check(method, url, response.status_code, response.headers, response.content)
        if operation and response.ok:
            given = {"query": dict(parse_qsl(urlsplit(url).query)), "header": request.headers}
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
                value = given[name] if isinstance(given[name], str) else given[name].decode("latin-1")
                self._valid(piece["schema"], int(value) if piece["schema"]["type"] == "integer" else value)
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

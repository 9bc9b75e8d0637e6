"""docs/openapi.yaml is valid, agrees with the code, and is served as /openapi.json.

The check of exchanges notices each difference.
"""

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from marshmallow import Schema
from openapi_spec_validator import validate

import notifications.domain
import users.domain
from dev.specs import openapi, vendored
from gateway import documents, problems, schemas
from gateway.routes import Route
from gateway.service import Service
from tests.specs.conformance import Conformance, documented, maps_in

ID = "01993b8e-5a70-7c31-9f4e-0b6f4f6a2c11"
DOCUMENT = yaml.safe_load(openapi.YAML.read_text())
JSON = {
    "Cache-Control": "no-store",
    "Content-Type": "application/json",
    "X-Content-Type-Options": "nosniff",
    "X-Request-Id": "x",
}
PROBLEM = {**JSON, "Content-Type": "application/problem+json"}


@pytest.mark.parametrize(
    "path",
    sorted(openapi.ROOT.glob("docs/**/openapi*.yaml")),
    ids=lambda path: path.stem,
)
def test_every_document_is_valid_openapi(path: Path) -> None:
    validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    "path", [openapi.YAML, openapi.JSON], ids=lambda path: path.name
)
def test_the_documents_are_generated_from_the_code(path: Path) -> None:
    assert path.read_text() == openapi.rendered()[path], "run `make specs`"


def test_gateway_users_and_letters_have_the_same_locales() -> None:
    assert schemas.LOCALES == users.domain.LOCALES
    assert set(schemas.LOCALES) == notifications.domain.LOCALES
    assert schemas.LOCALES[0] == notifications.domain.FALLBACK_LOCALE


def test_both_documents_are_equal() -> None:
    assert json.loads(documents.FILES["/openapi.json"][1]) == DOCUMENT


def test_every_route_is_documented() -> None:
    handlers = {
        name
        for name, value in vars(Service).items()
        for entrypoint in getattr(value, "nameko_entrypoints", ())
        if isinstance(entrypoint, Route)
    }
    paths = DOCUMENT["paths"].values()
    ids = [each["operationId"] for methods in paths for each in methods.values()]
    assert handlers < set(ids)
    assert len(ids) == len(set(ids))


def test_an_undocumented_route_or_field_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(openapi.RESPONSES, "profile")
    with pytest.raises(openapi.Failure, match="profile"):
        openapi.document()
    monkeypatch.undo()
    monkeypatch.setitem(schemas.USER.fields, "is_admin", "is_admin")
    with pytest.raises(openapi.Failure, match="is_admin"):
        openapi.document()


def response_body(path: str, status: str = "200") -> dict[str, Any]:
    response = DOCUMENT["paths"][path]["get"]["responses"][status]
    schema: dict[str, Any] = response["content"]["application/json"]["schema"]
    return schema


def test_every_object_is_closed_and_every_field_has_a_type() -> None:
    pieces = DOCUMENT["components"]["schemas"]
    objects = [each for each in maps_in(DOCUMENT) if each.get("type") == "object"]
    # Only Amount is not an object.
    assert len(objects) >= len(pieces) - 1
    open_objects = [
        pieces["Problem"]["properties"]["errors"],
        response_body("/readyz")["properties"]["checks"],
        response_body("/readyz", "503")["properties"]["checks"],
        response_body("/openapi.json"),
    ]
    for piece in objects:
        assert piece in open_objects or piece["additionalProperties"] is False
        for field in piece.get("properties", {}).values():
            assert {"type", "$ref", "oneOf"} & field.keys()


def test_every_example_is_valid() -> None:
    for name, piece in DOCUMENT["components"]["schemas"].items():
        for example in piece.get("examples", []):
            documented().check_schema({"$ref": f"#/components/schemas/{name}"}, example)
            if name in openapi.BODIES:
                schema: type[Schema] = getattr(schemas, name)
                schema().load(example)
    for response in DOCUMENT["components"]["responses"].values():
        for content in response["content"].values():
            if "example" in content:
                documented().check_schema(content["schema"], content["example"])


def test_the_documented_refusals_are_those_in_the_code() -> None:
    gateway = openapi.ROOT / "gateway"
    files = [*gateway.glob("*.py"), *gateway.glob("http/*.py")]
    source = "".join(path.read_text() for path in files)
    calls = re.findall(r'Problem\(\s*(\d{3}),\s*"([a-z-]+)"', source)
    in_code = {(int(status), kind) for status, kind in calls}
    in_document = {
        (problem.status, kind)
        for problem in openapi.PROBLEMS.values()
        for kind in problem.types
    }
    reasons = {(409, reason) for reason in openapi.REASONS}
    assert in_code == in_document - reasons | {(405, "method-not-allowed")}


# Exchanges: each difference is noticed.


def order(**changes: Any) -> dict[str, Any]:
    whole = dict(DOCUMENT["components"]["schemas"]["Order"]["examples"][0])
    return {**whole, **changes}


def check(
    value: Any,
    status: int = 200,
    headers: dict[str, str] = JSON,
    url: str = f"http://shop/orders/{ID}",
    method: str = "GET",
    document: dict[str, Any] = DOCUMENT,
) -> None:
    Conformance(document).check(
        method, url, status, headers, json.dumps(value).encode()
    )


NOT_FOUND = problems.not_found().body
UNAUTHORIZED = problems.unauthorized("Why.").body
ORDER_URL = f"http://shop/orders/{ID}"
UNKNOWN_URL = "http://shop/nowhere"


def test_a_documented_response_passes() -> None:
    check(order())
    check(NOT_FOUND, 404, PROBLEM)
    check(UNAUTHORIZED, 401, {**PROBLEM, "WWW-Authenticate": "Bearer"})
    check(NOT_FOUND, 404, PROBLEM, UNKNOWN_URL)


def without(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


WRONG: dict[str, tuple[Any, ...]] = {
    "an unknown field": (order(user_id=ID),),
    "a field of another type": (order(price=9990),),
    "a field of another form": (order(price="99.9"),),
    "a null": (order(status=None),),
    "an unknown value": (order(status="lost"),),
    "a missing field": (without(order(), "ended_at"),),
    "another status": (order(), 201),
    "another media type": (order(), 200, PROBLEM),
    "a missing header": (order(), 200, without(JSON, "X-Request-Id")),
    "a cacheable response": (order(), 200, {**JSON, "Cache-Control": "max-age=600"}),
    "a response without nosniff": (
        order(),
        200,
        {**JSON, "X-Content-Type-Options": ""},
    ),
    "a problem of another type": (problems.malformed("Why.").body, 404, PROBLEM),
    "a problem with another status": ({**NOT_FOUND, "status": 400}, 404, PROBLEM),
    "a problem without its header": (UNAUTHORIZED, 401, PROBLEM),
    "success at an unknown path": (order(), 200, JSON, UNKNOWN_URL),
    "a problem of an unknown type": (
        {**NOT_FOUND, "type": "about:blank"},
        404,
        PROBLEM,
        UNKNOWN_URL,
    ),
    "another status at an unknown path": (NOT_FOUND, 400, PROBLEM, UNKNOWN_URL),
    "another status for a wrong method": (
        NOT_FOUND,
        405,
        {**PROBLEM, "Allow": "GET, HEAD"},
        ORDER_URL,
        "DELETE",
    ),
    "an unknown header": (order(), 200, {**JSON, "X-Served-By": "one"}),
    "the documents' headers at another path": (
        order(),
        200,
        {**JSON, **documents.HEADERS},
    ),
    "a line feed after an amount": (order(price="99.90\n"),),
    "an unknown method": (order(), 200, JSON, ORDER_URL, "DELETE"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_undocumented_response_fails(case: str) -> None:
    with pytest.raises(AssertionError):
        check(*WRONG[case])


def test_a_duplicate_key_in_a_response_fails() -> None:
    body = json.dumps(order()).encode()
    twice = body.replace(b"{", b'{"price": "0.01", ', 1)
    documented().check("GET", ORDER_URL, 200, JSON, body)
    with pytest.raises(AssertionError, match="a key twice"):
        documented().check("GET", ORDER_URL, 200, JSON, twice)


def exchange(
    method: str, path: str, status: int, value: Any, body: dict[str, Any] | None = None
) -> requests.Response:
    """Return a response with its request, as a client has them."""
    response = requests.Response()
    request = requests.Request(method, f"http://shop{path}", json=body)
    response.request = request.prepare()
    response.status_code = status
    response.headers.update(JSON)
    if status == 201:
        response.headers["Location"] = f"/orders/{ID}"
    response._content = json.dumps(value).encode()
    return response


def test_a_documented_successful_request_passes() -> None:
    page = {"items": [], "next_cursor": None}
    documented().check_exchange(exchange("GET", "/orders?limit=1", 200, page))
    price = {"price": "99.90"}
    documented().check_exchange(exchange("POST", "/orders", 201, order(), price))


ORDERS = {"items": [order()], "next_cursor": None}
WRONG_SUCCESSES: dict[str, tuple[Any, ...]] = {
    "an unknown query parameter": ("GET", "/orders?limits=1", 200, ORDERS),
    "a query parameter out of its range": ("GET", "/orders?limit=0", 200, ORDERS),
    "an unknown field": (
        "POST",
        "/orders",
        201,
        order(),
        {"price": "99.90", "currency": "EUR"},
    ),
    "no body": ("POST", "/orders", 201, order()),
    "an undocumented body": (
        "GET",
        f"/orders/{ID}",
        200,
        order(),
        {"price": "99.90"},
    ),
}


@pytest.mark.parametrize("case", WRONG_SUCCESSES)
def test_an_undocumented_successful_request_fails(case: str) -> None:
    response = exchange(*WRONG_SUCCESSES[case])
    method, url = str(response.request.method), str(response.request.url)
    # The response alone is as documented.
    documented().check(
        method, url, response.status_code, response.headers, response.content
    )
    with pytest.raises(AssertionError):
        documented().check_exchange(response)


def test_a_part_missing_from_the_document_is_noticed() -> None:
    less = deepcopy(DOCUMENT)
    del less["components"]["schemas"]["Order"]["properties"]["ended_at"]
    with pytest.raises(AssertionError, match="ended_at"):
        check(order(), document=less)
    less = deepcopy(DOCUMENT)
    del less["paths"]["/orders/{order_id}"]
    with pytest.raises(AssertionError, match="not documented"):
        check(order(), document=less)


# Files from npm


def test_vendored_files_are_the_pinned_ones() -> None:
    pinned = {
        package.folder / file.name: file.sha256
        for package in vendored.PACKAGES
        for file in package.files
    }
    found = {path: vendored.sha256(path.read_bytes()) for path in pinned}
    assert found == pinned
    swagger_ui = set(vendored.SWAGGER_UI.folder.iterdir()) - pinned.keys()
    assert {path.name for path in swagger_ui} == {"index.html", "initializer.js"}

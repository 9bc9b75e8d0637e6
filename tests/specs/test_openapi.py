"""docs/openapi.yaml: valid, what the code says, and what /openapi.json serves; its checks can fail."""

import json
import re
from collections.abc import Callable
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
from dev.specs import openapi, swagger_ui
from gateway import documents, problems, schemas
from gateway.service import Service
from tests.specs.conformance import Conformance, documented

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
def test_the_documents_are_what_the_code_says(path: Path) -> None:
    assert path.read_text() == openapi.rendered()[path], "run `make specs`"


def test_the_gateway_offers_the_locales_that_users_stores_and_that_there_are_letters_for() -> (
    None
):
    assert schemas.LOCALES == users.domain.LOCALES
    assert set(schemas.LOCALES) == notifications.domain.LOCALES
    assert schemas.LOCALES[0] == notifications.domain.FALLBACK_LOCALE


def test_both_documents_say_the_same() -> None:
    assert json.loads(documents.FILES["/openapi.json"][1]) == DOCUMENT


def test_every_route_is_documented() -> None:
    handlers = {
        name
        for name, value in vars(Service).items()
        if hasattr(value, "nameko_entrypoints")
    }
    operations = [
        operation
        for methods in DOCUMENT["paths"].values()
        for operation in methods.values()
    ]
    ids = [operation["operationId"] for operation in operations]
    assert handlers < set(ids)
    assert len(ids) == len(set(ids))


def test_a_new_route_or_field_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(openapi.RESPONSES, "profile")
    with pytest.raises(openapi.Failure, match="profile"):
        openapi.document()
    monkeypatch.undo()
    monkeypatch.setitem(schemas.USER.fields, "is_admin", "is_admin")
    with pytest.raises(openapi.Failure, match="is_admin"):
        openapi.document()


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


def answer_body(response: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = response["content"]["application/json"]["schema"]
    return schema


def test_every_object_is_closed_and_every_field_has_a_type() -> None:
    pieces = DOCUMENT["components"]["schemas"]
    objects = every(
        DOCUMENT,
        lambda piece: isinstance(piece, dict) and piece.get("type") == "object",
    )
    assert len(objects) >= len(pieces) - 1  # all but Amount
    checks = DOCUMENT["paths"]["/readyz"]["get"]["responses"]
    open_ones = [
        pieces["Problem"]["properties"]["errors"],
        *(
            answer_body(checks[status])["properties"]["checks"]
            for status in ("200", "503")
        ),
        answer_body(DOCUMENT["paths"]["/openapi.json"]["get"]["responses"]["200"]),
    ]
    for piece in objects:
        assert piece in open_ones or piece["additionalProperties"] is False
        for field in piece.get("properties", {}).values():
            assert {"type", "$ref", "oneOf"} & field.keys()


def test_every_example_is_right() -> None:
    for name, piece in DOCUMENT["components"]["schemas"].items():
        for example in piece.get("examples", []):
            documented()._valid({"$ref": f"#/components/schemas/{name}"}, example)
            if name in openapi.BODIES:
                schema: type[Schema] = getattr(schemas, name)
                schema().load(example)
    for response in DOCUMENT["components"]["responses"].values():
        for content in response["content"].values():
            if "example" in content:
                documented()._valid(content["schema"], content["example"])


def test_every_refusal_in_the_code_is_documented_and_no_other() -> None:
    gateway = openapi.ROOT / "gateway"
    files = [*gateway.glob("*.py"), *gateway.glob("http/*.py")]
    source = "".join(path.read_text() for path in files)
    calls = re.findall(r'Problem\(\s*(\d{3}),\s*"([a-z-]+)"', source)
    raised = {(int(status), kind) for status, kind in calls}
    known = {
        (problem.status, kind)
        for problem in openapi.PROBLEMS.values()
        for kind in problem.types
    }
    assert raised == known - {(409, reason) for reason in openapi.REASONS} | {
        (405, "method-not-allowed")
    }


# That a difference is seen


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


def test_an_answer_as_documented_passes() -> None:
    check(order())
    check(problems.not_found().body, 404, PROBLEM)
    check(
        problems.unauthorized("Why.").body,
        401,
        {**PROBLEM, "WWW-Authenticate": "Bearer"},
    )
    check(problems.not_found().body, 404, PROBLEM, "http://shop/nowhere")


WRONG: dict[str, tuple[Any, ...]] = {
    "a field more": (order(user_id=ID),),
    "a field of another type": (order(price=9990),),
    "a field of another form": (order(price="99.9"),),
    "a null": (order(status=None),),
    "an unknown value": (order(status="lost"),),
    "a field less": (
        {name: value for name, value in order().items() if name != "ended_at"},
    ),
    "another status": (order(), 201),
    "another media type": (order(), 200, PROBLEM),
    "a header less": (
        order(),
        200,
        {name: JSON[name] for name in JSON if name != "X-Request-Id"},
    ),
    "an answer that caches may keep": (
        order(),
        200,
        {**JSON, "Cache-Control": "max-age=600"},
    ),
    "an answer whose type browsers may guess": (
        order(),
        200,
        {**JSON, "X-Content-Type-Options": ""},
    ),
    "a problem of another type": (problems.malformed("Why.").body, 404, PROBLEM),
    "a problem with a status of its own": (
        {**problems.not_found().body, "status": 400},
        404,
        PROBLEM,
    ),
    "a problem without its header": (problems.unauthorized("Why.").body, 401, PROBLEM),
    "an answer where nothing is": (order(), 200, JSON, "http://shop/nowhere"),
    "a problem of nobody's": (
        {**problems.not_found().body, "type": "about:blank"},
        404,
        PROBLEM,
        "http://shop/nowhere",
    ),
    "another status where nothing is": (
        problems.not_found().body,
        400,
        PROBLEM,
        "http://shop/nowhere",
    ),
    "another status by a wrong method": (
        problems.not_found().body,
        405,
        {**PROBLEM, "Allow": "GET, HEAD"},
        f"http://shop/orders/{ID}",
        "DELETE",
    ),
    "a header more": (order(), 200, {**JSON, "X-Served-By": "one"}),
    "the documents' headers elsewhere": (order(), 200, {**JSON, **documents.HEADERS}),
    "a line feed after an amount": (order(price="99.90\n"),),
    "a method more": (order(), 200, JSON, f"http://shop/orders/{ID}", "DELETE"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_answer_that_differs_fails(case: str) -> None:
    with pytest.raises(AssertionError):
        check(*WRONG[case])


def test_a_key_twice_in_an_answer_fails() -> None:
    body = json.dumps(order()).encode()
    twice = body.replace(b"{", b'{"price": "0.01", ', 1)
    url = f"http://shop/orders/{ID}"
    documented().check("GET", url, 200, JSON, body)
    with pytest.raises(AssertionError, match="a key twice"):
        documented().check("GET", url, 200, JSON, twice)


def exchange(
    method: str, path: str, status: int, answer: Any, body: dict[str, Any] | None = None
) -> requests.Response:
    """An answer with its request, as a client has them."""
    response = requests.Response()
    response.request = requests.Request(
        method, f"http://shop{path}", json=body
    ).prepare()
    response.status_code = status
    response.headers.update(
        {**JSON, "Location": f"/orders/{ID}"} if status == 201 else JSON
    )
    response._content = json.dumps(answer).encode()
    return response


def test_a_granted_request_as_documented_passes() -> None:
    documented().check_exchange(
        exchange("GET", "/orders?limit=1", 200, {"items": [], "next_cursor": None})
    )
    documented().check_exchange(
        exchange("POST", "/orders", 201, order(), {"price": "99.90"})
    )


ORDERS = {"items": [order()], "next_cursor": None}
GRANTED_WRONG: dict[str, tuple[Any, ...]] = {
    "an unknown query parameter": ("GET", "/orders?limits=1", 200, ORDERS),
    "a query parameter out of its range": ("GET", "/orders?limit=0", 200, ORDERS),
    "a field more": (
        "POST",
        "/orders",
        201,
        order(),
        {"price": "99.90", "currency": "EUR"},
    ),
    "no body": ("POST", "/orders", 201, order()),
    "a body where none is documented": (
        "GET",
        f"/orders/{ID}",
        200,
        order(),
        {"price": "99.90"},
    ),
}


@pytest.mark.parametrize("case", GRANTED_WRONG)
def test_a_granted_request_that_differs_fails(case: str) -> None:
    response = exchange(*GRANTED_WRONG[case])
    request = response.request
    answer = (response.status_code, response.headers, response.content)
    documented().check(
        str(request.method), str(request.url), *answer
    )  # the answer itself is right
    with pytest.raises(AssertionError):
        documented().check_exchange(response)


def test_what_a_document_loses_is_missed() -> None:
    less = deepcopy(DOCUMENT)
    del less["components"]["schemas"]["Order"]["properties"]["ended_at"]
    with pytest.raises(AssertionError, match="ended_at"):
        check(order(), document=less)
    less = deepcopy(DOCUMENT)
    del less["paths"]["/orders/{order_id}"]
    with pytest.raises(AssertionError, match="not documented"):
        check(order(), document=less)


# Swagger UI


def test_swagger_ui_is_what_is_pinned() -> None:
    files = {path.name: path.read_bytes() for path in swagger_ui.FOLDER.iterdir()}
    own = {"index.html", "initializer.js"}
    assert {
        name: swagger_ui.sha256(files[name]) for name in files.keys() - own
    } == swagger_ui.SHA256

"""Bad input gets a 4xx problem that names the field, changes nothing and breaks nothing."""

import json

import pytest

from tests.system.shopper import Shopper, assert_problem, new_user

WRONG_AMOUNTS = {
    "zero": "0",
    "zero as text": '"0.00"',
    "negative": "-1",
    "negative text": '"-1.00"',
    "negative zero": "-0.0",
    "huge": "1e400",
    "beyond Decimal": "1e9999999",
    "tiny": "1e-9999999",
    "thousandth": "0.001",
    "a bit over": "0.010000000000000000000000000000000000001",
    "text NaN": '"NaN"',
    "text Infinity": '"Infinity"',
    "true": "true",
    "false": "false",
    "null": "null",
    "list": "[]",
    "object": "{}",
    "list of one": '["1.00"]',
    "Decimal by type": '{"__type__": "decimal", "__value__": "NaN"}',
    "date by type": '{"__type__": "datetime", "__value__": "2026-01-01T00:00:00"}',
    "full width": '"１００"',
    "underscore": '"1_000"',
    "space before": '" 7"',
    "space after": '"7 "',
    "hexadecimal": '"0x10"',
    "comma": '"1,5"',
    "exponent": '"1e2"',
    "plus": '"+1"',
    "empty": '""',
    "letters": '"much"',
    "three decimals": '"1.234"',
    "SQL": '"1; DROP TABLE accounts"',
    "NUL": '"1\\u0000"',
    "unpaired surrogate": '"\\ud800"',
    "5,000 digits": "9" * 5000,
    "5,000 digits as text": f'"{"9" * 5000}"',
    "2^63": str(2**63),
    "one over the cap": "10000000.01",
    "one over the cap as text": '"10000000.01"',
}
PLACES = {
    "/orders": "price",
    "/account/deposits": "amount",
    "/account/withdrawals": "amount",
}
WRONG_JSON = {
    "empty": b"",
    "spaces": b"   ",
    "truncated": b'{"price": "1.00"',
    "trailing": b'{"price": "1.00"} x',
    "two": b'{"price": "1.00"}{"price": "1.00"}',
    "duplicate": b'{"price": "1.00", "price": "1.00"}',
    "duplicate, escaped": b'{"price": "1.00", "pric\\u0065": "2.00"}',
    "bare NaN": b'{"price": NaN}',
    "bare Infinity": b'{"price": -Infinity}',
    "a number": b"1",
    "a text": b'"1.00"',
    "null": b"null",
    "a list": b'[{"price": "1.00"}]',
    "nested": b"[" * 60_000,
    "nested deeply in a field": b'{"price": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "no UTF-8": b'{"price": "\xff"}',
    "surrogate in UTF-8": b'{"price": "\xed\xa0\x80"}',
    "UTF-16": '{"price": "1.00"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"price": "1.00"}',
    "raw NUL": b'{"price": "1.00\x00"}',
    "too many digits of an exponent": b'{"price": 1e99999999999999999999}',
    "leading zero": b'{"price": 01}',
    "single quotes": b"{'price': '1.00'}",
    "a form": b"price=1.00",
}
FORBIDDEN = (
    "user_id",
    "id",
    "status",
    "balance",
    "key",
    "request_id",
    "price_minor",
    "__type__",
    "",
    "Price",
)


@pytest.fixture(scope="module")
def rich(suite) -> Shopper:
    """A user with 5.00, which must not change."""
    shopper = Shopper(suite.url)
    shopper.deposit("5.00")
    return shopper


@pytest.fixture
def unchanged(rich, state):
    """Assert that a test changes nothing, and that the suite still responds."""
    before = state(rich.id)
    yield
    assert state(rich.id) == before
    assert rich.balance == "5.00"


@pytest.fixture
def no_new_user(sql):
    """Assert that a test adds no user."""
    before = sql("users", "SELECT count(*) FROM users")
    yield
    assert sql("users", "SELECT count(*) FROM users") == before


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("amount", WRONG_AMOUNTS)
def test_a_wrong_amount_is_refused_by_name(rich, amount) -> None:
    for path, field in PLACES.items():
        body = f'{{"{field}": {WRONG_AMOUNTS[amount]}}}'
        assert_problem(rich.post_raw(path, body), 422, field)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("body", WRONG_JSON)
def test_a_body_that_is_not_strict_json_is_refused(rich, body) -> None:
    assert_problem(rich.post_raw("/orders", WRONG_JSON[body]), 400)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_forbidden_field_is_refused_by_name(rich, name) -> None:
    for path, field in PLACES.items():
        assert_problem(rich.post(path, json={field: "1.00", name: rich.id}), 422, name)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("path", PLACES)
def test_a_missing_field_is_named(rich, path) -> None:
    assert_problem(rich.post(path, json={}), 422, PLACES[path])


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "key", ["", '""', "a b", "a\tb", b"\xc3\xa9", "x" * 256, f'"{"x" * 256}"'], ids=repr
)
def test_a_malformed_key_is_refused_by_name(rich, key) -> None:
    for path, field in PLACES.items():
        response = rich.post(
            path, json={field: "1.00"}, headers={"Idempotency-Key": key}
        )
        assert_problem(response, 422, "Idempotency-Key")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("key", [b"\x7f", b"a\x01b"], ids=repr)
def test_a_control_character_in_a_header_is_refused(rich, key) -> None:
    response = rich.post(
        "/orders", json={"price": "1.00"}, headers={"Idempotency-Key": key}
    )
    assert_problem(response, 400)


# Ids and pages


LIMITS = ("0", "-1", "1e9", "1000000000", "101", "NaN", "", "x", "%00")
CURSORS = ("x", "!!!", "", "%00", "LTE=", "MCAx", "eA==", "' OR 1=1", "OTk5" * 500)
WRONG_QUERIES = [
    *((f"limit={value}", "limit") for value in LIMITS),
    *((f"cursor={value}", "cursor") for value in CURSORS),
    ("limit=1&limit=1", "limit"),
    ("cursor=MTI=&cursor=MTI=", "cursor"),
    ("user_id=1", "user_id"),
]


@pytest.mark.parametrize("path", ["/orders", "/notifications", "/account/operations"])
@pytest.mark.parametrize(("query", "field"), WRONG_QUERIES)
def test_a_wrong_page_parameter_is_refused_by_name(rich, path, query, field) -> None:
    assert_problem(rich.get(f"{path}?{query}"), 422, field)


WRONG_IDS = [
    "1",
    "x",
    "None",
    "%00",
    "%ff%fe",
    "٣",
    "..%2f..%2fusers",
    "' OR 1=1 --",
    "A" * 4000,
    "0199d6a8-5b7e-7c3a-8000-00000000000",
    "0199d6a85b7e7c3a8000000000000001",
]


@pytest.mark.parametrize("order_id", WRONG_IDS)
def test_a_malformed_id_finds_nothing(rich, order_id) -> None:
    assert_problem(rich.get(f"/orders/{order_id}"), 404)


def test_an_id_in_upper_case_finds_nothing(rich, new_shopper) -> None:
    shopper = new_shopper()
    order_id = shopper.order("1.00").json()["id"]
    assert_problem(shopper.get(f"/orders/{order_id.upper()}"), 404)
    assert shopper.get(f"/orders/{order_id}").status_code == 200


UNKNOWN_PATHS = [
    "/page",
    "/nowhere",
    "/orders/",
    "/orders//x",
    "/users",
    "/orders/x/y",
    "/%2e%2e/users/me",
]


@pytest.mark.parametrize("path", UNKNOWN_PATHS)
def test_an_unknown_path_is_refused(rich, path) -> None:
    assert_problem(rich.get(path), (404, 405))


# Text


WRONG_SIGN_UPS = {
    "username": [
        *("", " ", "a b", "a\nb", "a\x00b", "x" * 65, "\u202eann", "a\u200bb", "<b>"),
        *("' OR 1=1 --", "{{7*7}}", "анна", "\ud800", None, 5, ["ann"], {"a": 1}),
    ],
    "email": [
        *("", "x", "a@b", "a b@example.org", "a@example.org\r\nBcc: b@example.org"),
        *("\x00@example.org", f"{'x' * 250}@example.org", "a@example.org ", None, 5),
        *("a@localhost", "a@shop.test", "a\u202e@example.org"),
        *("\ud800@example.org", "a@почта"),
    ],
    "password": [
        *("", "x" * 7, "x" * 129, "x" * 7 + "\x00", "\ud800" * 8, None, 12345678),
    ],
    "locale": ["", "../ru", "ru RU", f"ru{'-a' * 17}", "\ud800", None, 5],
    "id": ["0199d6a8-5b7e-7c3a-8000-000000000001"],
    "is_admin": [True],
}


@pytest.mark.usefixtures("no_new_user")
@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in WRONG_SIGN_UPS.items() for value in values],
    ids=ascii,
)
def test_a_sign_up_with_a_wrong_field_is_refused_by_name(client, field, value) -> None:
    body = json.dumps({**new_user(), field: value})
    assert_problem(client.post_raw("/users", body), 422, field)


@pytest.mark.usefixtures("no_new_user")
def test_a_password_of_1_000_000_characters_is_too_large(client) -> None:
    wanted = {**new_user(), "password": "x" * 1_000_000}
    assert_problem(client.post("/users", json=wanted), 413)


WRONG_MESSAGES = {
    "subject": [
        *("", "x" * 201, "a\r\nBcc: b@example.org", "a\nb", "a\x00", "\ud800", None, 5),
    ],
    "body": [
        "",
        "x" * 10_001,
        "a\x00b",
        "\udfff",
        None,
        5,
        ["x"],
        {"__type__": "uuid"},
    ],
    "email": ["someone@example.org"],
    "user_id": ["0199d6a8-5b7e-7c3a-8000-000000000001"],
    "to": ["x"],
}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in WRONG_MESSAGES.items() for value in values],
    ids=ascii,
)
def test_a_message_with_a_wrong_field_is_refused_by_name(rich, field, value) -> None:
    body = json.dumps({"subject": "Hi", "body": "there", field: value})
    assert_problem(rich.post_raw("/notifications", body), 422, field)


@pytest.mark.usefixtures("unchanged")
def test_a_message_of_100_000_characters_is_too_large(rich) -> None:
    message = {"subject": "Hi", "body": "x" * 100_000}
    assert_problem(rich.post("/notifications", json=message), 413)


TEXTS = [
    "'; DROP TABLE letters; --",
    "$username ${body} %s {0} {{7*7}}",
    "<script>alert(1)</script>",
    " ",
    "\u202eabc",
    "\u200b\u200d",
    "a\tb",
    "\u0301" * 100,
    "🥛" * 200,
    "\\u0000",
    '"',
    "\x1b[31m",
]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_text_is_stored_exactly(shopper, text) -> None:
    """A body may have control characters, a subject may not."""
    subject = text.replace("\t", " ").replace("\x1b", " ")
    message = {"subject": subject, "body": text}
    letter = shopper.post("/notifications", json=message).json()
    assert (letter["subject"], letter["body"]) == (subject, text)
    assert shopper.all("/notifications") == [letter]


@pytest.mark.parametrize(
    "password",
    ["x" * 8, "п" * 128, " " * 8, "' OR 1=1 --", "a\r\nb{{}}\u202e"],
    ids=ascii,
)
def test_a_password_may_have_any_characters(new_shopper, client, password) -> None:
    shopper = new_shopper(password=password)
    login = {"username": shopper.wanted["username"], "password": password}
    assert client.post("/tokens", json=login).status_code == 201
    wrong = {**login, "password": f"{password[:-1]}y"}
    assert client.post("/tokens", json=wrong).status_code == 401


@pytest.mark.parametrize(
    "request_id", ["a b", "x" * 5000, '"}{"level": "error"', "%0d%0aSet-Cookie: a"]
)
def test_a_request_id_cannot_forge_headers_or_log_lines(
    rich, suite, request_id
) -> None:
    response = rich.get("/users/me", headers={"X-Request-Id": request_id})
    assert response.status_code == 200
    assert "Set-Cookie" not in response.headers
    assert all(isinstance(line, dict) for line in suite.processes["gateway"].lines())

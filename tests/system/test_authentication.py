"""The token alone identifies the user, and a user sees only own data."""

import base64
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import eventlet
import jwt
import pytest
import requests

from tests.system.shopper import PASSWORD, Shopper, assert_problem, new_user

ROUTES = [
    ("GET", "/users/me", None),
    ("GET", "/account", None),
    ("GET", "/account/operations", None),
    ("POST", "/account/deposits", {"amount": "1.00"}),
    ("POST", "/account/withdrawals", {"amount": "1.00"}),
    ("POST", "/orders", {"price": "1.00"}),
    ("GET", "/orders", None),
    ("GET", f"/orders/{uuid.uuid4()}", None),
    ("POST", "/notifications", {"subject": "Hi", "body": "there"}),
    ("GET", "/notifications", None),
]
LISTS = ("/orders", "/notifications", "/account/operations")


@pytest.fixture(scope="module")
def owner(suite) -> Shopper:
    """A user with an item in every list."""
    shopper = Shopper(suite.url)
    shopper.deposit("5.00")
    shopper.ended_order("1.00")
    shopper.ended_order("1.00")
    shopper.letters(2)
    return shopper


@pytest.fixture
def forge(suite_config, owner):
    """Return a function that makes tokens, by default with the gateway's key."""

    def forge(
        secret: str | None = None, algorithm: str = "HS256", **claims: Any
    ) -> str:
        expires = datetime.now(UTC) + timedelta(hours=1)
        wanted = {"iss": "shop", "sub": owner.id, "exp": expires, **claims}
        key = suite_config["TOKEN_SECRET"] if secret is None else secret
        return jwt.encode(wanted, key, algorithm)

    return forge


def unsigned(claims: dict[str, Any], header: dict[str, Any]) -> str:
    """Return a token without a signature."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in (header, claims)
    ]
    return ".".join([*parts, ""])


def test_no_route_but_sign_up_and_login_is_open(client) -> None:
    for method, path, body in ROUTES:
        response = client.request(method, path, json=body)
        assert_problem(response, 401)
        assert response.headers["WWW-Authenticate"] == "Bearer"


def invalid_headers(token: str, user_id: str, forge: Any) -> list[str]:
    """Return values of Authorization that must be refused, made from a valid token."""
    head, claims, signature = token.split(".")
    expired = forge(exp=datetime.now(UTC) - timedelta(seconds=1))
    foreign = forge(secret="another key of more than 32 characters")
    wanted = {"iss": "shop", "sub": user_id, "exp": 4_000_000_000}
    algorithms = ("none", "None", "NONE", "HS256")
    return [
        *("", "Bearer", "Bearer ", "Bearer x", "Bearer a.b.c", "Bearer null"),
        *(
            f"Basic {token}",
            token,
            f"Bearer {token}x",
            f"Bearer {token}, Bearer {token}",
        ),
        *(f"Bearer {expired}", f"Bearer {foreign}", f"Bearer {user_id}"),
        *(f"Bearer {forge(sub='admin')}", f"Bearer {forge(iss='elsewhere')}"),
        *(
            f"Bearer {unsigned(wanted, {'alg': alg, 'typ': 'JWT'})}"
            for alg in algorithms
        ),
        f"Bearer {unsigned(wanted, {'alg': 'RS256', 'jku': 'http://x/'})}",
        f"Bearer {head}.{claims}.",
        f"Bearer {head}.{claims}.{signature[::-1]}",
        f"Bearer {'x' * 6000}",
    ]


def test_an_invalid_token_opens_nothing(client, owner, forge, state) -> None:
    before = state(owner.id)
    for header in invalid_headers(owner.user["access_token"], owner.id, forge):
        for method, path, body in (ROUTES[1], ROUTES[4], ROUTES[5]):
            headers = {"Authorization": header}
            response = client.request(method, path, json=body, headers=headers)
            assert_problem(response, 401)
    assert state(owner.id) == before


def test_a_token_with_the_right_key_opens(client, forge) -> None:
    response = client.get("/users/me", headers={"Authorization": f"Bearer {forge()}"})
    assert response.status_code == 200  # otherwise the refusals above prove nothing


def test_a_token_of_an_unknown_user_moves_no_money(client, forge, sql) -> None:
    unknown = str(uuid.uuid4())
    headers = {"Authorization": f"Bearer {forge(sub=unknown)}"}
    message = {"subject": "a", "body": "b"}
    assert_problem(client.get("/users/me", headers=headers), 401)
    assert_problem(client.get("/account", headers=headers), 401)
    deposit = client.post("/account/deposits", json={"amount": "1.00"}, headers=headers)
    assert_problem(deposit, (401, 409))
    assert_problem(client.post("/notifications", json=message, headers=headers), 401)
    count = "SELECT count(*) FROM accounts WHERE user_id = %s"
    assert sql("billing", count, [unknown]) == [(0,)]


def test_another_users_order_does_not_exist(owner, shopper) -> None:
    for order in owner.all("/orders"):
        response = shopper.get(f"/orders/{order['id']}")
        assert_problem(response, 404)
        unknown = shopper.get(f"/orders/{uuid.uuid4()}")
        assert response.json() == unknown.json()


def test_another_users_cursor_shows_only_own_items(owner, shopper) -> None:
    for path in LISTS:
        cursor = owner.get(path, params={"limit": 1}).json()["next_cursor"]
        for other in LISTS:
            response = shopper.get(other, params={"cursor": cursor})
            empty = {"items": [], "next_cursor": None}
            assert response.status_code == 422 or response.json() == empty


def test_another_users_id_in_a_request_is_refused(owner, shopper, state) -> None:
    before = state(owner.id)
    for method, path, body in ROUTES:
        foreign = {"user_id": owner.id}
        response = shopper.request(method, path, json=body and {**body, **foreign})
        assert response.status_code in ((200, 404) if body is None else (422,))
        response = shopper.request(method, path, json=body, params=foreign)
        assert_problem(response, (404, 422))
    assert state(owner.id) == before


def test_login_does_not_reveal_which_part_was_wrong(shopper, client) -> None:
    username = shopper.user["username"]
    responses = [
        client.post("/tokens", json={"username": name, "password": password})
        for name, password in [
            (username, "a wrong password"),
            ("nobody-has-this-name", PASSWORD),
            ("nobody-has-this-name", "a wrong password"),
            ("' OR 1=1 --", PASSWORD),
            (shopper.user["email"], PASSWORD),
        ]
    ]
    for response in responses:
        assert_problem(response, 401)
        assert response.json() == responses[0].json()
        assert set(response.headers) == set(responses[0].headers)


@pytest.mark.parametrize("same", [("username",), ("email",), ("username", "email")])
def test_a_taken_name_or_address_is_named_in_any_case(shopper, client, same) -> None:
    wanted = new_user() | {name: shopper.wanted[name].upper() for name in same}
    response = client.post("/users", json=wanted)
    assert_problem(response, 409)
    assert sorted(response.json()["errors"]) == sorted(same)


def test_of_two_sign_ups_at_once_one_wins(suite, sql) -> None:
    for _ in range(5):
        wanted = new_user()
        posts = [
            eventlet.spawn(requests.post, f"{suite.url}/users", json=wanted, timeout=60)
            for _ in range(4)
        ]
        assert sorted(post.wait().status_code for post in posts) == [201, 409, 409, 409]
        count = "SELECT count(*) FROM users WHERE username = %s"
        assert sql("users", count, [wanted["username"]]) == [(1,)]


def test_100_logins_at_once_delay_no_other_call(suite, shopper) -> None:
    login = {"username": shopper.user["username"], "password": "a wrong password"}
    logins = [
        eventlet.spawn(requests.post, f"{suite.url}/tokens", json=login, timeout=60)
        for _ in range(100)
    ]
    eventlet.sleep(0)  # the logins are sent
    assert shopper.get("/users/me").status_code == 200
    assert requests.get(f"{suite.url}/healthz", timeout=60).status_code == 200
    assert suite.health("users", "/healthz").status_code == 200
    assert not all(login.dead for login in logins)  # the calls did not wait for them
    for response in [login.wait() for login in logins]:
        assert_problem(response, (401, 503, 504))

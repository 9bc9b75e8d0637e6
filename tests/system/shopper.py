"""A user of the shop, with an HTTP client."""

import itertools
import os
import re
from typing import Any

import requests

from conftest import eventually
from tests.specs.conformance import documented

PASSWORD = "a long enough password"
TIMEOUT_S = 60
WAIT = {"Prefer": "wait=30"}
INTERNALS = re.compile(
    r"Traceback|psycopg|sqlalchemy|SELECT |INSERT |nameko|\.py\b|amqp", re.IGNORECASE
)

_numbers = itertools.count(1)


class Client(requests.Session):
    """An HTTP client of the gateway. It gets paths, and fails for an undocumented response."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.trust_env = False  # no proxy
        self.url = url

    def request(
        self, method: Any, url: Any, *args: Any, **kwargs: Any
    ) -> requests.Response:
        kwargs.setdefault("timeout", TIMEOUT_S)
        response = super().request(method, f"{self.url}{url}", *args, **kwargs)
        documented().check_exchange(response)
        return response

    def post_raw(
        self, path: str, body: bytes | str, **headers: str
    ) -> requests.Response:
        """A POST of exactly these bytes, as JSON."""
        data = body.encode() if isinstance(body, str) else body
        return self.post(
            path, data=data, headers={"Content-Type": "application/json", **headers}
        )

    def settled(
        self, order_id: str, deadline_s: float = TIMEOUT_S
    ) -> requests.Response:
        """Wait until an order has settled, with `Prefer: wait`. Return the response with it."""
        response: requests.Response = eventually(
            lambda: self._settled(order_id), deadline_s
        )
        return response

    def _settled(self, order_id: str) -> requests.Response | None:
        response = self.get(f"/orders/{order_id}", headers=WAIT)
        assert response.status_code == 200, response.text
        return response if response.json()["status"] != "pending" else None


class Shopper(Client):
    """A user with a token."""

    def __init__(self, url: str, **details: str) -> None:
        super().__init__(url)
        self.wanted = new_user() | details
        response = self.post("/users", json=self.wanted)
        assert response.status_code == 201, response.text
        self.user = response.json()
        self.id: str = self.user["id"]
        self.use(self.user["access_token"])

    def use(self, token: str) -> None:
        self.headers["Authorization"] = f"Bearer {token}"

    def deposit(self, amount: str, key: str | None = None) -> requests.Response:
        return self.post(
            "/account/deposits", json={"amount": amount}, headers=_key(key)
        )

    def withdraw(self, amount: str, key: str | None = None) -> requests.Response:
        return self.post(
            "/account/withdrawals", json={"amount": amount}, headers=_key(key)
        )

    def order(self, price: str, key: str | None = None) -> requests.Response:
        return self.post("/orders", json={"price": price}, headers=_key(key))

    def ended_order(self, price: str) -> dict[str, Any]:
        """Place an order, wait until it has ended, and return it."""
        ended: dict[str, Any] = self.settled(self.order(price).json()["id"]).json()
        return ended

    @property
    def balance(self) -> str:
        response = self.get("/account")
        assert response.status_code == 200, response.text
        return str(response.json()["balance"])

    def all(self, path: str, limit: int = 100) -> list[dict[str, Any]]:
        """Return all items of a list, read page by page."""
        items: list[dict[str, Any]] = []
        page = self.get(path, params={"limit": limit}).json()
        while True:
            assert len(page["items"]) <= limit
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            query = {"limit": limit, "cursor": page["next_cursor"]}
            page = self.get(path, params=query).json()

    def letters(self, count: int) -> list[dict[str, Any]]:
        """Wait for `count` letters, and return them, newest first. More letters fail."""

        def enough() -> list[dict[str, Any]] | None:
            letters = self.all("/notifications")
            return letters if letters and len(letters) >= count else None

        found: list[dict[str, Any]] = eventually(enough)
        assert len(found) == count
        return found


def new_user() -> dict[str, str]:
    """Return the body of a sign-up of a new user."""
    name = f"user-{os.getpid()}-{next(_numbers)}"
    return {"username": name, "email": f"{name}@example.org", "password": PASSWORD}


def assert_problem(
    response: requests.Response, status: int | tuple[int, ...], field: str | None = None
) -> None:
    """Assert that a response is a problem that names the field and reveals no internals."""
    expected = status if isinstance(status, tuple) else (status,)
    assert response.status_code in expected, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["type"].startswith("tag:")
    assert not INTERNALS.search(response.text)
    if field is not None:
        assert list(problem["errors"]) == [field]


def _key(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Idempotency-Key": key}

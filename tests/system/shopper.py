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
INSIDES = re.compile(
    r"Traceback|psycopg|sqlalchemy|SELECT |INSERT |nameko|\.py\b|amqp", re.IGNORECASE
)

_numbers = itertools.count(1)


class Client(requests.Session):
    """An HTTP client of the gateway: paths instead of URLs. What is not as documented fails."""

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


class Shopper(Client):
    """A user with a token."""

    def __init__(self, url: str, **details: str) -> None:
        super().__init__(url)
        self.wanted = new_user() | details
        answer = self.post("/users", json=self.wanted)
        assert answer.status_code == 201, answer.text
        self.user = answer.json()
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
        """An order that has ended; it may have been pending for a while."""
        order = self.order(price).json()
        return eventually(lambda: self._ended(order["id"]), TIMEOUT_S)

    def _ended(self, order_id: str) -> dict[str, Any] | None:
        order = self.get(f"/orders/{order_id}").json()
        return order if order["status"] != "pending" else None

    @property
    def balance(self) -> str:
        answer = self.get("/account")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["balance"])

    def all(self, path: str, limit: int = 100) -> list[dict[str, Any]]:
        """All items of a list, page by page."""
        items: list[dict[str, Any]] = []
        page = self.get(path, params={"limit": limit}).json()
        while True:
            assert len(page["items"]) <= limit
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            page = self.get(
                path, params={"limit": limit, "cursor": page["next_cursor"]}
            ).json()

    def letters(self, count: int) -> list[dict[str, Any]]:
        """His letters, newest first, as soon as there are `count`."""
        found = eventually(
            lambda: (all_ := self.all("/notifications")) and len(all_) >= count and all_
        )
        assert len(found) == count
        return found


def new_user() -> dict[str, str]:
    """What a sign-up needs, of a user there has never been."""
    name = f"user-{os.getpid()}-{next(_numbers)}"
    return {"username": name, "email": f"{name}@example.org", "password": PASSWORD}


def assert_problem(
    answer: requests.Response, status: int | tuple[int, ...], field: str | None = None
) -> None:
    """That `answer` refuses with a problem that names the field and shows nothing of our insides."""
    expected = status if isinstance(status, tuple) else (status,)
    assert answer.status_code in expected, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["type"].startswith("tag:")
    assert not INSIDES.search(answer.text)
    if field is not None:
        assert list(problem["errors"]) == [field]


def _key(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Idempotency-Key": key}

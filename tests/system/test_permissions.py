"""Each cell of docs/permissions.md about routes is true over HTTP, for a user's data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from dev.specs import openapi
from dev.specs.permissions import MISSING, OWN, UNAUTHORIZED, YES, cells, name_of
from gateway.routes import Route
from tests.system.processes import Suite
from tests.system.shopper import PASSWORD, Client, Shopper, new_user

ROUTES = {handler.__name__: route for handler, route in openapi.routes()}
KEY = "the-same-key"  # of all users: each has its own keys


@dataclass
class Owner:
    """A user with an item in every list, and the texts that no other user may see."""

    shopper: Shopper
    order_id: str
    marks: set[str]


# The body of a request for an owner's data.
BODIES: dict[str, Callable[[Owner], dict[str, str] | None]] = {
    "sign_up": lambda owner: new_user(),
    "log_in": lambda owner: {
        "username": owner.shopper.user["username"],
        "password": PASSWORD,
    },
    "profile": lambda owner: None,
    "account": lambda owner: None,
    "statement": lambda owner: None,
    "deposit": lambda owner: {"amount": "9.00"},
    "withdraw": lambda owner: {"amount": "1.00"},
    "place_order": lambda owner: {"price": "2.00"},
    "list_orders": lambda owner: None,
    "get_order": lambda owner: None,
    "get_story": lambda owner: None,
    "send_message": lambda owner: {"subject": "Hi", "body": "there"},
    "list_notifications": lambda owner: None,
}


def ask(client: Client, owner: Owner, handler: str) -> requests.Response:
    """Request the owner's data, with the key that the owner may have used."""
    method, path = name_of(ROUTES[handler]).split()
    headers = {"Idempotency-Key": f"{handler}-{KEY}"}
    place = path.format(order_id=owner.order_id)
    body = BODIES[handler](owner)
    return client.request(method, place, json=body, headers=headers)


def cell(response: requests.Response, owner: Owner, route: Route) -> str:
    """Return the cell that a response would have in the table."""
    if not response.ok:
        assert not marks_in(response, owner)
        return str(response.status_code)
    return YES if route.public or marks_in(response, owner) else OWN


def marks_in(response: requests.Response, owner: Owner) -> list[str]:
    """Return the owner's marks that a response contains."""
    return [mark for mark in owner.marks if mark in response.text]


@pytest.fixture(scope="module")
def owner(suite: Suite) -> Owner:
    shopper = Shopper(suite.url)
    owner = Owner(shopper, "", {shopper.id, shopper.user["email"]})
    made = [
        ask(shopper, owner, name).json()
        for name in ("deposit", "withdraw", "place_order")
    ]
    owner.order_id = made[-1]["id"]
    letters = shopper.letters(1)
    owner.marks |= {
        each["id"] for each in (*made, *letters, *shopper.all("/account/operations"))
    }
    return owner


@pytest.fixture(scope="module")
def other(suite: Suite) -> Shopper:
    """A user with enough money for the same requests."""
    shopper = Shopper(suite.url)
    shopper.deposit("9.00")
    return shopper


def test_every_route_is_tried() -> None:
    assert BODIES.keys() == ROUTES.keys()


@pytest.mark.parametrize("handler", ROUTES)
def test_a_route_permits_what_the_table_says(
    owner, other, client, state, handler
) -> None:
    route, before = ROUTES[handler], state(owner.shopper.id)
    foreign = [
        cell(ask(each, owner, handler), owner, route) for each in (other, client)
    ]
    assert state(owner.shopper.id) == before
    own = cell(ask(owner.shopper, owner, handler), owner, route)
    assert (own, *foreign) == cells(route)


def test_each_kind_of_cell_is_among_those_tried() -> None:
    found = {each for route in ROUTES.values() for each in cells(route)}
    assert found == {YES, OWN, MISSING, UNAUTHORIZED}


@pytest.mark.parametrize("path", openapi.open_paths())
def test_public_paths_reveal_nothing_of_a_user(owner, other, client, path) -> None:
    place = path.format(file="app.js" if "/page/" in path else "swagger-ui.css")
    responses: list[Any] = [each.get(place) for each in (owner.shopper, other, client)]
    assert not any(marks_in(response, owner) for response in responses)
    [status] = {response.status_code for response in responses}
    assert status == 200

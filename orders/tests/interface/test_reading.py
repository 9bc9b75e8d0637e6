"""Queries for orders, with a real broker and database."""

import uuid

import pytest
from nameko.exceptions import MalformedRequest

from chassis.outcomes import MAX_ITEMS
from tests.paging import read_all


def new_id() -> str:
    return str(uuid.uuid4())


def ids(orders: list[dict]) -> list[str]:
    return [order["id"] for order in orders]


def test_an_order_is_visible_to_its_user_only(orders, an_order) -> None:
    order = orders.place(**an_order())
    assert orders.get(order_id=order["id"]) == order
    assert orders.get(order_id=order["id"], user_id=order["user_id"]) == order
    assert orders.get(order_id=order["id"], user_id=new_id()) is None
    assert orders.get(order_id=order["id"], user_id="") is None


def test_an_unknown_order_is_not_found(orders) -> None:
    assert [orders.get(order_id=id_) for id_ in (new_id(), "", "42", None, 42)] == [
        None
    ] * 5


def test_orders_are_read_in_the_order_of_their_ids(orders, billing, an_order) -> None:
    one = orders.place(**an_order())
    billing.replies["withdraw_many"] = lambda items: [{"status": "unavailable"}]
    other = orders.place(**an_order())
    assert (one["status"], other["status"]) == ("paid", "pending")
    wanted = [other["id"], new_id(), one["id"], "42", None, [], other["id"]]
    assert orders.get_many(order_ids=wanted) == [
        *(other, None, one),
        *(None, None, None, other),
    ]
    assert orders.get_many(order_ids=[]) == []


def test_a_list_of_ids_has_a_limit(orders) -> None:
    assert orders.get_many(order_ids=["42"] * MAX_ITEMS) == [None] * MAX_ITEMS
    for order_ids in (["42"] * (MAX_ITEMS + 1), "42", None, {}):
        with pytest.raises(MalformedRequest):
            orders.get_many(order_ids=order_ids)


def test_a_list_has_every_order_of_its_user_once_newest_first(orders, an_order) -> None:
    user_id = new_id()
    placed = [
        orders.place(**an_order(user_id=user_id, key=str(n)))["id"] for n in range(5)
    ]
    orders.place(**an_order())
    for limit in (1, 2, 5, 100):
        assert ids(read_all(orders.list, limit, user_id=user_id)) == placed[::-1]
    assert orders.list(user_id=new_id()) == {"items": [], "next": None}


def test_pages_are_complete_while_orders_are_added(orders, an_order) -> None:
    user_id = new_id()
    placed = [
        orders.place(**an_order(user_id=user_id, key=str(n)))["id"] for n in range(5)
    ]

    def add() -> None:
        orders.place(user_id=user_id, price_minor=1)

    assert ids(read_all(orders.list, 2, add, user_id=user_id)) == placed[::-1]


def test_a_listed_order_equals_the_single_one(orders, an_order) -> None:
    order = orders.place(**an_order())
    assert orders.list(user_id=order["user_id"])["items"] == [order]


INVALID_PAGES = {
    "user_id": ("", "42", None, 42),
    "limit": (0, -1, 101, 10**9, "x", None, 1.5),
    "after": ("", "x", 7, new_id().upper()),
    "status": ("paid",),
}


@pytest.mark.parametrize("field", INVALID_PAGES)
def test_an_invalid_page_is_named(orders, subtests, field) -> None:
    for value in INVALID_PAGES[field]:
        with subtests.test(value=value):
            outcome = orders.list(**{"user_id": new_id(), field: value})
            assert (outcome["status"], list(outcome["errors"])) == ("invalid", [field])

"""One unavailable service does not affect the others."""

import eventlet

from conftest import eventually


def test_an_order_is_settled_after_billings_outage(suite, new_shopper) -> None:
    shopper, other = new_shopper(), new_shopper()
    for user in (shopper, other):
        user.deposit("10.00")
    suite.stop("billing")
    try:
        orders = [eventlet.spawn(user.order, "4.00") for user in (shopper, other)]
        assert_the_rest_is_unaffected(shopper)
        responses = [order.wait() for order in orders]
        assert [response.status_code for response in responses] == [202, 202]
        place = responses[0].headers["Location"]
        assert place == f"/orders/{responses[0].json()['id']}"
        assert responses[0].json()["status"] == "pending"
        assert shopper.get(place).json()["status"] == "pending"
    finally:
        suite.start("billing")
    # The order may not be settled yet.
    withdrawal = shopper.withdraw("4.00", responses[0].json()["id"])
    assert withdrawal.status_code == 201
    assert withdrawal.json()["order_id"] is None
    eventually(lambda: shopper.get(place).json()["status"] == "paid", 60)
    assert shopper.balance == "2.00"
    assert shopper.letters(2)[0]["kind"] == other.letters(1)[0]["kind"] == "happiness"


def assert_the_rest_is_unaffected(shopper) -> None:
    """Assert that all except the account is available while billing is down."""
    for path in ("/users/me", "/orders", "/notifications"):
        assert shopper.get(path).status_code == 200
    message = {"subject": "a", "body": "b"}
    assert shopper.post("/notifications", json=message).status_code == 201
    unavailable = shopper.get("/account")
    assert unavailable.status_code in (503, 504)
    assert "Retry-After" in unavailable.headers


def test_successive_orders_stay_pending_while_billing_is_down(
    suite, new_shopper
) -> None:
    shoppers = [new_shopper() for _ in range(6)]
    suite.stop("billing")
    try:
        orders = []
        for shopper in shoppers:
            orders.append(eventlet.spawn(shopper.order, "1.00"))
            eventually(lambda shopper=shopper: shopper.get("/users/me"))
        statuses = [order.wait().status_code for order in orders]
    finally:
        suite.start("billing")
    assert statuses == [202] * len(shoppers)


def test_letters_are_written_after_notifications_outage(suite, new_shopper) -> None:
    suite.stop("notifications")
    try:
        shopper = new_shopper()
        shopper.deposit("10.00")
        assert shopper.ended_order("1.00")["status"] == "paid"
    finally:
        suite.start("notifications")
    assert shopper.letters(1)[0]["kind"] == "happiness"


def test_a_stopping_gateway_finishes_its_requests(suite, shopper) -> None:
    shopper.deposit("10.00")
    responses = [eventlet.spawn(shopper.order, "1.00") for _ in range(3)]
    eventually(lambda: len(shopper.all("/orders")) == 3)
    try:
        assert suite.processes["gateway"].stop() == 0
        assert {response.wait().status_code for response in responses} <= {201, 202}
    finally:
        suite.start("gateway")
    assert len(shopper.all("/orders")) == 3

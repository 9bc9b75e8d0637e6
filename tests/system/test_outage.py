"""One service that is away does not take the rest with it."""

import eventlet

from conftest import eventually


def test_orders_placed_while_billing_is_down_are_settled_when_it_is_back(suite, new_shopper) -> None:
    shoppers = [new_shopper() for _ in range(6)]
    for shopper in shoppers:
        shopper.deposit("10.00")
    suite.stop("billing")
    try:
        # They come one after another, so that some arrive while others wait for billing in vain.
        orders = []
        for n in range(3):
            orders += [(shopper, eventlet.spawn(shopper.order, f"{n + 1}.00")) for shopper in shoppers]
            eventlet.sleep(1)
        shopper = shoppers[0]
        assert shopper.get("/users/me").status_code == 200
        assert shopper.get("/notifications").status_code == 200
        assert shopper.post("/notifications", json={"subject": "a", "body": "b"}).status_code == 201
        away = shopper.get("/account")
        assert away.status_code in (503, 504)
        assert "Retry-After" in away.headers
        answers = [(shopper, order.wait()) for shopper, order in orders]
        assert [answer.status_code for _, answer in answers] == [202] * len(answers)
        for shopper, answer in answers:
            assert answer.json()["status"] == "pending"
            assert answer.headers["Location"] == f"/orders/{answer.json()['id']}"
            assert shopper.get(answer.headers["Location"]).json()["status"] == "pending"
    finally:
        suite.start("billing")
    pending = shoppers[0].all("/orders")[0]
    assert shoppers[0].withdraw("3.00", pending["id"]).json()["order_id"] is None
    for shopper in shoppers:
        eventually(lambda shopper=shopper: all(o["status"] != "pending" for o in shopper.all("/orders")), 60)
    assert {order["status"] for shopper in shoppers for order in shopper.all("/orders")} == {"paid"}
    assert [shopper.balance for shopper in shoppers] == ["1.00"] + ["4.00"] * 5


def test_letters_that_wait_for_the_notification_service_come_when_it_is_back(suite, new_shopper) -> None:
    suite.stop("notifications")
    try:
        shopper = new_shopper()
        shopper.deposit("10.00")
        assert shopper.ended_order("1.00")["status"] == "paid"
    finally:
        suite.start("notifications")
    assert shopper.letters(1)[0]["kind"] == "happiness"


def test_a_gateway_that_stops_finishes_what_it_has(suite, shopper) -> None:
    shopper.deposit("10.00")
    answers = [eventlet.spawn(shopper.order, "1.00") for _ in range(3)]
    eventually(lambda: len(shopper.all("/orders")) == 3)
    try:
        assert suite.processes["gateway"].stop() == 0
        assert {answer.wait().status_code for answer in answers} <= {201, 202}
    finally:
        suite.start("gateway")
    assert len(shopper.all("/orders")) == 3

"""A customer signs up, deposits money, orders, gets letters and reads every list."""

import pytest

from tests.system.shopper import PASSWORD, assert_problem, new_user

WORDS = {
    "en": ("Your order is paid", "Your order could not be paid", "not enough money"),
    "ru": (
        "Ваш заказ оплачен",
        "Ваш заказ не удалось оплатить",
        "недостаточно средств",
    ),
}


@pytest.mark.parametrize("locale", WORDS)
def test_a_paid_order_brings_happiness_and_a_rejected_one_grief(
    new_shopper, locale
) -> None:
    happiness, grief, why = WORDS[locale]
    shopper = new_shopper(locale=locale)
    account = {"user_id": shopper.id, "balance": "0.00", "currency": "EUR"}
    assert shopper.get("/account").json() == account
    assert shopper.deposit("100.00").json()["balance_after"] == "100.00"

    paid = shopper.ended_order("30.10")
    assert (paid["status"], paid["price"], paid["reason"]) == ("paid", "30.10", None)
    assert shopper.balance == "69.90"
    [letter] = shopper.letters(1)
    assert (letter["kind"], letter["order_id"]) == ("happiness", paid["id"])
    assert letter["to"] == shopper.user["email"]
    assert letter["subject"] == happiness
    assert {"en": "€30.10", "ru": "30,10\xa0€"}[locale] in letter["body"]
    assert shopper.user["username"] in letter["body"]

    rejected = shopper.ended_order("69.91")
    ended = ("rejected", "insufficient-funds")
    assert (rejected["status"], rejected["reason"]) == ended
    assert shopper.balance == "69.90"
    newest, oldest = shopper.letters(2)
    assert oldest == letter
    assert (newest["kind"], newest["order_id"]) == ("grief", rejected["id"])
    assert newest["subject"] == grief
    assert why in newest["body"]


def test_a_russian_browser_gets_russian_letters(new_shopper, client) -> None:
    name = new_user()["username"]
    written = f"Иван.{name}@XN--80A1ACNY.рф"
    shopper = new_shopper(username=name, locale="ru-RU", email=written)
    email = f"Иван.{name}@почта.рф"
    assert (shopper.user["locale"], shopper.user["email"]) == ("ru", email)
    rejected = shopper.ended_order("1.00")
    [letter] = shopper.letters(1)
    assert (letter["order_id"], letter["subject"]) == (rejected["id"], WORDS["ru"][1])
    assert letter["to"] == email

    other = {**new_user(), "email": f"иван.{name}@xn--80a1acny．РФ"}
    assert_problem(client.post("/users", json=other), 409, "email")
    languages = {"Accept-Language": "xx, ru-RU;q=0.5, en;q=0.1"}
    response = client.post("/users", json=new_user(), headers=languages)
    assert (response.status_code, response.json()["locale"]) == (201, "ru")


def test_an_order_of_the_whole_balance_is_paid(shopper) -> None:
    shopper.deposit("12.34")
    assert shopper.ended_order("12.34")["status"] == "paid"
    assert shopper.balance == "0.00"
    assert shopper.ended_order("0.01")["status"] == "rejected"


def test_a_tenth_three_times_is_thirty_cents(shopper) -> None:
    for _ in range(3):
        response = shopper.post_raw("/account/deposits", '{"amount": 0.1}')
        assert response.status_code == 201
    assert shopper.balance == "0.30"
    assert shopper.ended_order("0.30")["status"] == "paid"
    assert shopper.balance == "0.00"


def test_the_largest_amount_is_accepted(shopper) -> None:
    assert shopper.deposit("10000000.00").status_code == 201
    assert shopper.ended_order("10000000.00")["status"] == "paid"


def test_money_can_be_withdrawn_down_to_zero(shopper) -> None:
    shopper.deposit("10.00")
    done = shopper.withdraw("4.00")
    assert done.status_code == 201
    assert (done.json()["kind"], done.json()["balance_after"]) == ("withdrawal", "6.00")
    refused = shopper.withdraw("6.01")
    assert_problem(refused, 409)
    assert refused.json()["type"].endswith(":insufficient-funds")
    assert shopper.balance == "6.00"
    assert shopper.withdraw("6.00").json()["balance_after"] == "0.00"


def test_the_statement_lists_each_operation_and_reason(shopper) -> None:
    shopper.deposit("10.00")
    paid = shopper.ended_order("4.00")
    rejected = shopper.ended_order("7.00")
    shopper.withdraw("1.00")
    names = ("kind", "amount", "status", "reason", "order_id", "balance_after")
    operations = shopper.all("/account/operations")
    shown = [tuple(operation[name] for name in names) for operation in operations]
    assert shown == [
        ("withdrawal", "1.00", "done", None, None, "5.00"),
        ("withdrawal", "7.00", "refused", "insufficient-funds", rejected["id"], "6.00"),
        ("withdrawal", "4.00", "done", None, paid["id"], "6.00"),
        ("deposit", "10.00", "done", None, None, "10.00"),
    ]


def test_a_message_is_stored_exactly(shopper) -> None:
    texts = {
        "subject": "Don't forget: 'milk'; DROP TABLE",
        "body": "{{7*7}} ${x} <b>\r\nмолоко \u202e\u200b🥛 ",
    }
    response = shopper.post("/notifications", json=texts)
    assert response.status_code == 201
    [letter] = shopper.all("/notifications")
    assert letter == response.json()
    assert letter["to"] == shopper.user["email"]
    assert (letter["kind"], letter["order_id"]) == ("message", None)
    assert {name: letter[name] for name in texts} == texts


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_each_list_pages_newest_first_to_its_end(new_shopper, limit) -> None:
    shopper = new_shopper()
    shopper.deposit("100.00")
    orders = [shopper.ended_order(f"{n}.00")["id"] for n in range(1, 5)]
    shopper.letters(4)
    assert [order["id"] for order in shopper.all("/orders", limit)] == orders[::-1]
    letters = shopper.all("/notifications", limit)
    assert {letter["order_id"] for letter in letters} == set(orders)
    operations = shopper.all("/account/operations", limit)
    assert [operation["order_id"] for operation in operations] == [*orders[::-1], None]
    for path in ("/orders", "/notifications", "/account/operations"):
        moments = [item["created_at"] for item in shopper.all(path, limit)]
        assert moments == sorted(moments, reverse=True)


def test_a_page_that_is_exactly_full_is_the_last(shopper) -> None:
    for _ in range(2):
        shopper.deposit("1.00")
    page = shopper.get("/account/operations?limit=2").json()
    assert len(page["items"]) == 2
    assert page["next_cursor"] is None


def test_a_new_users_lists_are_empty(shopper) -> None:
    for path in ("/orders", "/notifications", "/account/operations"):
        assert shopper.get(path).json() == {"items": [], "next_cursor": None}


def test_a_new_user_can_log_in_and_see_the_profile(shopper, client) -> None:
    seen = {name: shopper.user[name] for name in ("id", "username", "email", "locale")}
    assert shopper.get("/users/me").json() == seen
    token = client.post(
        "/tokens", json={"username": seen["username"].upper(), "password": PASSWORD}
    )
    assert token.status_code == 201
    assert token.json()["token_type"] == "Bearer"
    assert token.json()["expires_in"] == 3600
    shopper.use(token.json()["access_token"])
    assert shopper.get("/users/me").json() == seen


def test_an_order_is_found_at_its_location(shopper) -> None:
    shopper.deposit("5.00")
    response = shopper.order("5.00")
    assert (
        shopper.get(response.headers["Location"]).json()["id"] == response.json()["id"]
    )

"""Currencies without two digits after the point, and books in another currency."""

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import eventlet
import psycopg2
import pytest
from eventlet.green import subprocess
from nameko.exceptions import ConfigurationError

from audit.__main__ import audit
from audit.tests.interface.sample_data import insert_shoppers
from billing.service import Service as Billing
from chassis.container import Container
from chassis.migrate import migrate_tables
from conftest import DEADLINE_S, eventually
from gateway import money
from gateway.http.server import WebServer
from gateway.service import Service as Gateway
from notifications.service import Service as Notifications
from orders.service import Service as Orders
from tests.docs.markdown import ROOT, blocks
from tests.system.shopper import Shopper, assert_problem
from tests.system.test_postman import COLLECTION, NEWMAN
from users.service import Service as Users

OPERATIONS = blocks(ROOT / "docs" / "operations.md")
DOCUMENTED_SQL = [block.text for block in OPERATIONS if block.language == "sql"]
TO_JPY_BILLING, TO_JPY_ORDERS, TO_KWD_BILLING, TO_KWD_ORDERS = DOCUMENTED_SQL
CONVERSIONS = {  # digits, the documented SQL, a price, and the balance
    "JPY": (0, TO_JPY_BILLING, TO_JPY_ORDERS, "30", "65"),
    "KWD": (3, TO_KWD_BILLING, TO_KWD_ORDERS, "30.000", "65.000"),
}
SEE = "see Another currency in docs/operations.md"
SERVICES = (Users, Billing, Notifications, Orders, Gateway)
BOOKS = "SELECT currency, exponent FROM books"
# The books of an earlier version, or of a restored dump, do not name their currency.
RESTORED = "DELETE FROM books"
EARLIER = "DROP TABLE books; UPDATE alembic_version SET version_num = '0001'"
Sql = Callable[..., list[tuple[Any, ...]]]
Shop = Callable[..., str]


@pytest.fixture
def shop(
    run: Callable[..., Container], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shop]:
    """`shop("JPY")`: run all services in this process in a currency. Return the gateway's URL.

    The services of the last call are stopped first. `gateway` is another currency for the gateway.
    The service `without` is not started.
    """
    monkeypatch.setattr(money, "currency", money.currency)  # restored at the end
    running: list[Container] = []

    def stop() -> None:
        for stopping in [eventlet.spawn(container.stop) for container in running]:
            stopping.wait()

    def start(currency: str, *, gateway: str = "", without: type | None = None) -> str:
        stop()
        money.confirmed.clear()
        settings = {"CURRENCY": currency, "WEB_SERVER_ADDRESS": "127.0.0.1:0"}
        running[:] = [
            run(service, **settings)
            for service in SERVICES[:-1]
            if service is not without
        ]
        running.append(run(Gateway, **{**settings, "CURRENCY": gateway or currency}))
        extensions = running[-1].extensions
        [server] = [each for each in extensions if isinstance(each, WebServer)]
        return f"http://127.0.0.1:{server._sock.getsockname()[1]}"

    yield start
    stop()


@pytest.fixture
def unconverted(clean: None, sql: Sql, config: dict[str, Any]) -> Iterator[None]:
    """Databases as in an earlier version. At the end all tables exist again."""
    sql("orders", "COMMENT ON TABLE orders IS NULL")
    sql("billing", "COMMENT ON TABLE operations IS NULL")
    yield
    sql("billing", "DELETE FROM books")
    migrate_tables(config, "billing")


def refusal(config: dict[str, Any], currency: str) -> str:
    """Return the line with which billing refuses to start."""
    own = {"CURRENCY": currency, "HEALTH_ADDRESS": "127.0.0.1:0"}
    with pytest.raises(SystemExit) as ended, eventlet.Timeout(DEADLINE_S):
        Container(Billing, {**config, **own}).start()
    return str(ended.value)


def execute(sql: Sql, service: str, statements: str) -> None:
    """Execute a documented transaction as the owner of the tables."""
    try:
        sql(service, statements)
    except psycopg2.Error:
        sql(service, "ROLLBACK")
        raise


# The deposit, the prices of a paid and a rejected order, the balance, and too many digits.
STORIES = {
    "JPY": ("1000", "300", "701", "700", "100.5"),
    "KWD": ("100.005", "30.101", "69.905", "69.904", "1.0005"),
}
LETTERS = {
    "JPY": {"en": "¥300 ", "ru": "300\xa0¥."},
    "KWD": {"en": "KWD30.101 ", "ru": "30,101\xa0KWD."},
}


@pytest.mark.parametrize("currency", STORIES)
def test_the_story_has_the_digits_of_its_currency(shop, config, currency) -> None:
    deposit, price, too_much, left, wrong = STORIES[currency]
    url = shop(currency)
    for locale, written in LETTERS[currency].items():
        shopper = Shopper(url, locale=locale)
        response = shopper.deposit(deposit)
        assert response.status_code == 201
        assert response.json()["balance_after"] == deposit
        assert_problem(shopper.deposit(wrong), 422, "amount")
        assert_problem(shopper.order(wrong), 422, "price")
        paid, rejected = shopper.ended_order(price), shopper.ended_order(too_much)
        assert (paid["status"], paid["price"]) == ("paid", price)
        assert (rejected["status"], rejected["price"]) == ("rejected", too_much)
        account = shopper.get("/account").json()
        assert (account["balance"], account["currency"]) == (left, currency)
        grief, happiness = shopper.letters(2)
        assert written in happiness["body"]
        assert grief["kind"] == "grief"
    found = audit(config, settled=True)
    assert (found["differences"], found["first"]) == (0, [])
    total = Decimal(left) * len(LETTERS[currency])
    assert found["checked"]["money"] == f"{total} {currency}"


@pytest.mark.parametrize("currency", STORIES)
def test_the_collection_stops_at_an_unsupported_currency(shop, currency) -> None:
    done = subprocess.run(
        [NEWMAN, "run", COLLECTION, "--env-var", f"baseUrl={shop(currency)}"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 1
    [failure] = re.findall(r"1\.  AssertionError\s+(.*)", done.stdout)
    assert failure.startswith(f"{currency} has two decimal digits")
    assert "2.  " not in done.stdout


@pytest.mark.parametrize("currency", CONVERSIONS)
def test_older_books_are_converted_as_documented(
    shop, unconverted, sql, config, currency
) -> None:
    digits, to_currency, orders_to_currency, price, left = CONVERSIONS[currency]
    shopper = Shopper(shop("EUR"))
    shopper.deposit("100.00")
    order = shopper.ended_order("30.00")
    assert shopper.ended_order("71.00")["status"] == "rejected"
    shopper.withdraw("5.00")
    letters = shopper.letters(2)
    assert audit(config, settled=True)["differences"] == 0
    sql("billing", RESTORED)
    assert refusal(config, currency) == (
        f"billing: CURRENCY is {currency} with {digits} digits after the point,"
        f" the books are of an earlier version, with 2: {SEE}"
    )
    assert sql("billing", BOOKS) == []
    sql("billing", EARLIER)
    wanted = {**config, "CURRENCY": currency}
    with pytest.raises(
        ConfigurationError, match=f"of an earlier version, with 2: {SEE}"
    ):
        migrate_tables(wanted, "billing")

    execute(sql, "billing", to_currency)
    execute(sql, "orders", orders_to_currency)
    migrate_tables(wanted, "billing")

    found = audit(config, settled=True)
    assert (found["differences"], found["first"]) == (0, [])
    assert found["checked"]["money"] == f"{left} {currency}"
    conversions = {"billing": to_currency, "orders": orders_to_currency}
    for service, conversion in conversions.items():
        with pytest.raises(psycopg2.errors.RaiseException):
            execute(sql, service, conversion)  # a second time
    with pytest.raises(psycopg2.errors.RaiseException, match="has ended"):
        sql("orders", "UPDATE orders SET price_minor = 1")
    later = Shopper(shop(currency))
    later.use(shopper.user["access_token"])
    assert later.balance == left
    assert later.get(f"/orders/{order['id']}").json()["price"] == price
    assert later.letters(2) == letters


def test_an_amount_that_is_not_whole_is_not_converted(unconverted, sql) -> None:
    def rows() -> list[Any]:
        return [
            sql("billing", "SELECT * FROM accounts"),
            sql("orders", "SELECT * FROM orders"),
        ]

    insert_shoppers(sql, shoppers=1, orders=1)
    before = rows()
    for service, conversion in (("billing", TO_JPY_BILLING), ("orders", TO_JPY_ORDERS)):
        with pytest.raises(psycopg2.errors.RaiseException, match="is not whole"):
            execute(sql, service, conversion)
    assert rows() == before
    assert sql("billing", BOOKS) == []


def start_billing(run: Callable[..., Container], currency: str) -> None:
    run(Billing, CURRENCY=currency).stop()


def test_books_in_another_currency_refuse_to_start(clean, run, config, sql) -> None:
    start_billing(run, "EUR")
    insert_shoppers(sql, shoppers=1, orders=1)
    start_billing(run, "EUR")
    for currency, digits in (("USD", 2), ("JPY", 0)):
        assert refusal(config, currency) == (
            f"billing: CURRENCY is {currency} with {digits} digits after the point,"
            f" the books are in EUR with 2: {SEE}"
        )
    assert sql("billing", BOOKS) == [("EUR", 2)]


def test_books_with_other_digits_refuse_to_start(clean, config, sql) -> None:
    insert_shoppers(sql, shoppers=1, orders=1)
    sql("billing", "INSERT INTO books (currency, exponent) VALUES ('UYW', 2)")
    expected = "UYW with 4 digits after the point, the books are in UYW with 2: "
    assert expected in refusal(config, "UYW")


def test_empty_books_may_change_currency_by_hand(clean, run, sql) -> None:
    for currency, digits in (("EUR", 2), ("RUB", 2), ("KWD", 3)):
        start_billing(run, currency)
        assert sql("billing", BOOKS) == [(currency, digits)]
        sql("billing", "DELETE FROM books")


def test_a_second_copy_does_not_change_the_currency(clean, run, config, sql) -> None:
    run(Billing, CURRENCY="EUR")
    assert "the books are in EUR with 2" in refusal(config, "JPY")
    assert sql("billing", BOOKS) == [("EUR", 2)]


@pytest.mark.parametrize("currency", ["EUR", "KWD"])
def test_a_gateway_in_another_currency_moves_no_money(
    shop, config, sql, currency
) -> None:
    user = Shopper(shop("JPY"))
    user.deposit("1000")
    operations = sql("billing", "SELECT count(*) FROM operations")
    wrong = Shopper(shop("JPY", gateway=currency))
    wrong.use(user.user["access_token"])
    for response in (
        wrong.deposit("10"),
        wrong.order("10"),
        wrong.withdraw("10"),
        wrong.get("/account"),
    ):
        assert_problem(response, 500)
    assert sql("billing", "SELECT count(*) FROM operations") == operations
    assert sql("orders", "SELECT count(*) FROM orders") == [(0,)]


def test_orders_do_not_wait_for_billings_currency(shop, config) -> None:
    user = Shopper(shop("EUR"))
    user.deposit("10.00")
    later = Shopper(shop("EUR", without=Billing))
    later.use(user.user["access_token"])
    assert later.order("3.00").status_code == 202


def test_a_lost_grant_is_not_a_missing_schema(clean, run, config, sql, caplog) -> None:
    start_billing(run, "EUR")
    sql("billing", "REVOKE ALL ON books FROM billing")
    try:
        starting = eventlet.spawn(run, Billing)
        denied = "permission denied for table books"
        eventually(lambda: denied in str([vars(record) for record in caplog.records]))
        assert "waiting_for_schema" not in caplog.messages
    finally:
        sql("billing", "GRANT SELECT, INSERT (currency, exponent) ON books TO billing")
    starting.wait()


@pytest.mark.parametrize("currency", ["EUR", "RUB"])
def test_older_books_with_two_digits_remain_valid(clean, run, sql, currency) -> None:
    insert_shoppers(sql, shoppers=1, orders=1)
    start_billing(run, currency)
    assert sql("billing", BOOKS) == [(currency, 2)]


def test_a_dump_of_unconverted_books_is_refused(unconverted, config, sql) -> None:
    """pg_restore replaces the tables that the dump contains, and keeps `books`."""
    insert_shoppers(sql, shoppers=1, orders=1)
    sql("billing", "INSERT INTO books (currency, exponent) VALUES ('KWD', 3)")
    sql("billing", "UPDATE alembic_version SET version_num = '0001'")
    wanted = {**config, "CURRENCY": "KWD"}
    with pytest.raises(ConfigurationError, match="of an earlier version, with 2"):
        migrate_tables(wanted, "billing")
    execute(sql, "billing", TO_KWD_BILLING)
    migrate_tables(wanted, "billing")
    assert sql("billing", BOOKS) == [("KWD", 3)]


def test_new_books_are_not_converted(unconverted, sql) -> None:
    insert_shoppers(sql, shoppers=1, orders=1)
    sql("billing", "INSERT INTO books (currency, exponent) VALUES ('JPY', 0)")
    for conversion in (TO_JPY_BILLING, TO_KWD_BILLING):
        with pytest.raises(psycopg2.errors.RaiseException, match="need not be"):
            execute(sql, "billing", conversion)


def test_wrongly_labelled_books_are_converted(unconverted, run, sql) -> None:
    insert_shoppers(sql, shoppers=1, orders=1)
    start_billing(run, "EUR")
    execute(sql, "billing", TO_KWD_BILLING)
    start_billing(run, "KWD")
    assert sql("billing", BOOKS) == [("KWD", 3)]


def test_a_dump_older_than_the_table_is_migrated(clean, run, config, sql) -> None:
    start_billing(run, "EUR")
    # pg_restore does not touch other tables.
    sql("billing", "UPDATE alembic_version SET version_num = '0001'")
    migrate_tables(config, "billing")
    assert sql("billing", BOOKS) == [("EUR", 2)]


@pytest.mark.parametrize(
    "service", [Billing, Gateway, Notifications], ids=lambda service: service.name
)
@pytest.mark.parametrize("code", ["ZZZ", "usd", "XAU", "XXX", "XTS", "EURO", "E\nR"])
def test_a_service_refuses_a_code_without_amounts(config, service, code) -> None:
    with pytest.raises(SystemExit) as ended:
        Container(service, {**config, "CURRENCY": code})
    assert ended.value.code == (
        "config.yaml: CURRENCY is wrong: write a code of ISO 4217 for amounts, such as EUR"
    )

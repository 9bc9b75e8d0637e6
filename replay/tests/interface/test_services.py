"""The effects of a replay beside running services."""

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import eventlet
import pytest
from nameko.standalone.rpc import ClusterRpcProxy

from audit.__main__ import audit
from billing.service import Service as Billing
from chassis.schemas import utc
from conftest import DEADLINE_S, eventually
from notifications.service import Service as Notifications
from orders.service import Service as Orders
from tests.serving import serving
from users.service import Service as Users

BUYERS, REPLAYS = 4, 3
EVENTS = "SELECT type, request_id, payload FROM outbox ORDER BY type"


@pytest.fixture(scope="module")
def running(suite_config) -> Iterator[None]:
    with serving(suite_config, Users, Billing, Orders, Notifications):
        yield


@pytest.fixture
def shop(running, clean, rpc) -> Any:
    """Return a client of all services without the gateway: `shop.orders.place(...)`."""
    return rpc


def sign_up(shop: Any, name: str, **more: str) -> str:
    """Create a user with 100.00, and return its id."""
    fields = {
        "username": name,
        "email": f"{name}@example.org",
        "password": "correct horse",
        **more,
    }
    user_id = shop.users.create(**fields)["user"]["id"]
    shop.billing.deposit(user_id=user_id, amount_minor=100_00, ref=f"till-{name}")
    return user_id


def letters(sql: Callable[..., Any]) -> list[tuple[Any, ...]]:
    """Return the contents of all letters, in the order of their list."""
    query = """
        SELECT order_id, kind, user_id, email, subject, body, state
        FROM letters
        ORDER BY id
    """
    return sql("notifications", query)


def has_settled(config: dict[str, Any]) -> bool:
    return audit(config, settled=True)["differences"] == 0


def clean_outbox(sql: Callable[..., Any], service: str) -> None:
    """Delete all sent events, as the service does after a time. None may be unsent."""
    sql(service, "DELETE FROM outbox WHERE sent_at IS NOT NULL")
    assert sql(service, "SELECT FROM outbox") == []


@pytest.fixture
def bought(shop, config) -> None:
    """Create two users, each with a paid and a rejected order. Nothing is in flight."""
    for name, locale in (("ann", "en"), ("bob", "ru")):
        user_id = sign_up(shop, name, locale=locale)
        for price_minor in (40_00, 70_00):
            placed = shop.orders.place(
                user_id=user_id, price_minor=price_minor, request_id=f"by-{name}"
            )
            assert placed["status"] in ("paid", "rejected")
    eventually(lambda: has_settled(config))


@pytest.mark.parametrize(
    "is_cleaned", [True, False], ids=["by the tables", "by the outbox"]
)
def test_missing_letters_are_written_again_unchanged(
    bought, replay, sql, config, is_cleaned
) -> None:
    before = letters(sql)
    assert [kind for _, kind, *_ in before] == ["happiness", "grief"] * 2
    if is_cleaned:
        clean_outbox(sql, "orders")
    sql("notifications", "DELETE FROM letters")
    assert replay("--settled", "--dry-run")[0] == 1
    assert letters(sql) == []
    assert replay("--settled")[0] == 0
    eventually(lambda: has_settled(config))
    assert letters(sql) == before
    assert sql("orders", "SELECT count(*) FROM outbox") == [(4,)]
    assert replay("--settled", "--dry-run")[0] == 0


@pytest.mark.parametrize(
    "is_cleaned", [True, False], ids=["by the tables", "by the outbox"]
)
def test_a_missing_account_and_recipient_are_created_again(
    shop, replay, sql, config, is_cleaned
) -> None:
    new = {"email": "eve@example.org", "password": "correct horse"}
    user_id = shop.users.create(username="eve", locale="ru", **new)["user"]["id"]
    eventually(lambda: has_settled(config))
    if is_cleaned:
        clean_outbox(sql, "users")
    sql("billing", "DELETE FROM accounts")
    sql("notifications", "DELETE FROM recipients")
    assert replay("--settled")[0] == 0
    eventually(lambda: has_settled(config))
    assert sql("billing", "SELECT user_id, balance_minor FROM accounts") == [
        (user_id, 0)
    ]
    recipients = sql(
        "notifications", "SELECT user_id, username, email, locale FROM recipients"
    )
    assert recipients == [(user_id, "eve", "eve@example.org", "ru")]


def test_a_replayed_event_differs_from_the_original_in_its_id_only(
    bought, replay, sql, config
) -> None:
    """Its time is the row's, which the database set shortly after the service made the event."""
    before = {name: sql(name, EVENTS) for name in ("users", "orders")}
    for name in before:
        clean_outbox(sql, name)
    sql("notifications", "DELETE FROM letters")
    sql("notifications", "DELETE FROM recipients")
    replay("--settled")
    eventually(lambda: has_settled(config))
    assert {row[0] for rows in before.values() for row in rows} == {
        "user_created",
        "order_paid",
        "order_rejected",
    }
    ended = sql("orders", "SELECT id, ended_at FROM orders")
    created = sql("users", "SELECT id, created_at FROM users")
    times = {id_: utc(at) for id_, at in [*ended, *created]}
    for name, originals in before.items():
        replayed = sql(name, EVENTS)
        assert len(replayed) == len(originals)
        for (event_type, request_id, payload), copy in zip(
            in_order(originals), in_order(replayed), strict=True
        ):
            assert copy[0] == event_type
            assert copy[1] == (request_id if name == "orders" else "replay")
            assert list(copy[2]) == list(payload)
            assert copy[2] == payload | {
                name: copy[2][name] for name in ("event_id", "occurred_at")
            }
            assert copy[2]["event_id"] != payload["event_id"]
            assert copy[2]["occurred_at"] == times[subject(copy[2])]
            occurred = [
                datetime.fromisoformat(each["occurred_at"])
                for each in (payload, copy[2])
            ]
            assert abs(occurred[0] - occurred[1]) < timedelta(seconds=DEADLINE_S)


def subject(payload: dict[str, Any]) -> str:
    """Return the id of the order or user."""
    return payload.get("order_id") or payload["user_id"]


def in_order(rows: list[Any]) -> list[Any]:
    return sorted(rows, key=lambda row: subject(row[2]))


def test_replays_under_load_duplicate_no_letter(
    shop, start_replay, sql, config
) -> None:
    """Orders are placed meanwhile, and with `--settled` events in flight count as lost."""
    names = [f"buyer{n}" for n in range(BUYERS)]
    buyers = {name: sign_up(shop, name) for name in names}
    stop: list[bool] = []

    def buy(user_id: str) -> int:
        with ClusterRpcProxy(config, timeout=DEADLINE_S) as own:
            placed = 0
            while not stop:
                own.orders.place(user_id=user_id, price_minor=7)
                placed += 1
            return placed

    workers = [eventlet.spawn(buy, user_id) for user_id in buyers.values()]
    try:
        eventually(lambda: len(letters(sql)) > 50)
        sql("notifications", "DELETE FROM letters")
        printed = [start_replay("--settled").wait() for _ in range(REPLAYS)]
        careful = start_replay().wait()
    finally:
        stop.append(True)
        placed = sum(worker.wait() for worker in workers)
    assert int(re.findall(r"orders: .* (\d+) replayed", printed[0])[0]) > 50
    assert re.findall(r"(\d+) replayed", careful) == ["0", "0"]
    eventually(lambda: has_settled(config), 3 * DEADLINE_S)
    assert len(letters(sql)) == placed
    assert sql("orders", "SELECT count(*) FROM outbox") == [(placed,)]

"""Messages and lists, with a real broker and database and a fake of users."""

import json
import uuid

import pytest

from notifications import store
from tests.paging import read_all

MESSAGE = {"subject": "Hello", "body": "Line one\r\nLine two 🐎"}


def new_id() -> str:
    return str(uuid.uuid4())


def stored(sql) -> int:
    return sql("notifications", "SELECT count(*) FROM letters")[0][0]


def test_a_message_to_an_address_is_stored(notifications, users) -> None:
    letter = notifications.send(email="ann@example.com", **MESSAGE)
    assert (letter["subject"], letter["body"]) == (MESSAGE["subject"], MESSAGE["body"])
    assert (letter["kind"], letter["state"], letter["email"]) == (
        "message",
        "stored",
        "ann@example.com",
    )
    assert (letter["user_id"], letter["order_id"]) == (None, None)
    assert notifications.list(email="ann@example.com")["items"] == [letter]
    assert users.calls == []


def test_a_message_to_a_user_has_the_address_of_user_created(
    notifications, publish, users, a_user
) -> None:
    user = a_user()
    publish(("user_created", user))
    letter = notifications.send(user_id=user["user_id"], **MESSAGE)
    assert (letter["user_id"], letter["email"]) == (user["user_id"], user["email"])
    for to in ({"user_id": user["user_id"]}, {"email": user["email"]}):
        assert notifications.list(**to)["items"] == [letter]
    assert users.calls == []


def test_a_message_before_user_created_fetches_the_user(notifications, users) -> None:
    user_id = new_id()
    ann = {"id": user_id, "username": "Ann", "email": "ann@example.com", "locale": "en"}
    users.replies["get_many"] = lambda user_ids: [ann]
    assert notifications.send(user_id=user_id, **MESSAGE)["email"] == "ann@example.com"
    notifications.send(user_id=user_id, **MESSAGE)
    assert users.calls == [("get_many", {"user_ids": [user_id]})]


def test_a_message_to_an_unknown_user_is_not_stored(notifications, sql) -> None:
    assert notifications.send(user_id=new_id(), **MESSAGE) == {"status": "unknown-user"}
    assert stored(sql) == 0


def test_text_is_stored_unchanged(notifications) -> None:
    for text in (
        "'; DROP TABLE letters; --",
        "$price {0} %s",
        "\u202eright to left\u200b",
        "ä" * 200,
    ):
        letter = notifications.send(email="ann@example.com", subject=text, body=text)
        assert (letter["subject"], letter["body"]) == (text, text)


def test_a_user_with_an_address_of_earlier_rules_gets_messages(
    notifications, a_user, publish
) -> None:
    for address in ("user@localhost", f"{'a' * 65}@example.com"):
        user = a_user(email=address)
        publish(("user_created", user), ("user_created", user))
        assert (
            notifications.send(user_id=user["user_id"], **MESSAGE)["email"] == address
        )
        assert [
            letter["email"] for letter in notifications.list(email=address)["items"]
        ] == [address]


def test_an_international_address_is_stored_as_sent(
    notifications,
) -> None:
    letter = notifications.send(email="Иван@ПОЧТА.рф", **MESSAGE)
    assert letter["email"] == "Иван@ПОЧТА.рф"
    assert notifications.list(email="Иван@ПОЧТА.рф")["items"] == [letter]


INVALID = {
    "subject": [
        None,
        "",
        "x" * 201,
        "a\r\nBcc: x@y.z",
        "a\nb",
        "a\rb",
        "a\n",
        "a\x00b",
        "\ud800",
        1,
        {},
    ],
    "body": [None, "", "x" * 10_001, "a\x00b", "\udfff", 1, []],
    "email": [
        None,
        "",
        "ann",
        "ann@",
        "a@b.c\r\nBcc: x@y.z",
        "a@b.cd\n",
        "a@\ud800.com",
        "a\x00@b.cd",
        1,
    ],
    "kind": ["happiness"],
    "state": ["sent"],
}


@pytest.mark.parametrize("field", INVALID)
def test_an_invalid_value_is_named_and_not_stored(
    notifications, sql, subtests, field
) -> None:
    for value in INVALID[field]:
        with subtests.test(value=repr(value)[:40]):
            outcome = notifications.send(
                **{"email": "ann@example.com", **MESSAGE, field: value}
            )
            assert (outcome["status"], list(outcome["errors"])) == ("invalid", [field])
    assert stored(sql) == 0


@pytest.mark.parametrize("method", ["send", "list"])
def test_a_recipient_is_a_user_or_an_address(notifications, sql, method) -> None:
    message = MESSAGE if method == "send" else {}
    both = {"user_id": new_id(), "email": "ann@example.com"}
    for to in ({}, both, {"user_id": "42"}, {"user_id": None}):
        outcome = getattr(notifications, method)(**to, **message)
        assert (outcome["status"], list(outcome["errors"])) == ("invalid", ["user_id"])
    assert stored(sql) == 0


def test_a_list_has_every_letter_once_newest_first(notifications) -> None:
    def send(address: str = "ann@example.com") -> str:
        return notifications.send(email=address, **MESSAGE)["id"]

    def listed(limit: int, between=lambda: None) -> list[str]:
        return [
            letter["id"]
            for letter in read_all(
                notifications.list, limit, between, email="ann@example.com"
            )
        ]

    sent = [send() for _ in range(5)]
    send("bob@example.com")
    for limit in (1, 2, 5, 100):
        assert listed(limit) == sent[::-1]
    assert listed(2, send) == sent[::-1]  # while letters are added
    assert notifications.list(user_id=new_id()) == {"items": [], "next": None}


def test_pages_are_bounded_in_bytes_and_complete(
    notifications,
) -> None:
    """Emoji have the most bytes in UTF-8, control characters in JSON."""
    bodies = ["🐎" * 10_000, "\x01" * 10_000, "short"] * 4
    to = {"email": "ann@example.com"}
    sent = [notifications.send(subject="a", body=body, **to) for body in bodies]
    pages = []

    def list_page(**query) -> dict:
        pages.append(notifications.list(**query))
        return pages[-1]

    assert read_all(list_page, 100, **to) == sent[::-1]
    bodies = [[item["body"] for item in page["items"]] for page in pages]
    sizes = [len(json.dumps(page, ensure_ascii=False).encode()) for page in bodies]
    assert max(sizes) <= store.MAX_PAGE_BYTES == 64 * 1024
    assert len(pages) < len(sent)


def test_a_page_has_at_least_one_letter(notifications, monkeypatch) -> None:
    monkeypatch.setattr(store, "MAX_PAGE_BYTES", 1)
    sent = [
        notifications.send(email="ann@example.com", **MESSAGE)["id"] for _ in range(3)
    ]
    read = read_all(notifications.list, 100, email="ann@example.com")
    assert [letter["id"] for letter in read] == sent[::-1]
    assert len(notifications.list(email="ann@example.com")["items"]) == 1


INVALID_PAGES = {
    "limit": (0, -1, 101, 10**9, "x", None, 1.5),
    "after": ("", "x", 7, new_id().upper()),
}


@pytest.mark.parametrize("field", INVALID_PAGES)
def test_an_invalid_page_is_named(notifications, subtests, field) -> None:
    for value in INVALID_PAGES[field]:
        with subtests.test(value=value):
            outcome = notifications.list(**{"email": "ann@example.com", field: value})
            assert (outcome["status"], list(outcome["errors"])) == ("invalid", [field])


def test_a_message_with_the_same_id_is_one_letter(notifications) -> None:
    message = {
        "id": str(uuid.uuid4()),
        "email": "ann@example.com",
        "subject": "a",
        "body": "b",
    }
    first = notifications.send(**message)
    assert notifications.send(**message) == first
    assert [
        letter["id"] for letter in notifications.list(email="ann@example.com")["items"]
    ] == [first["id"]]

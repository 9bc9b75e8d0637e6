"""Letters about orders with a real broker and database; users is a fake."""

import random
import uuid
from datetime import UTC, datetime

import pytest

from chassis.schemas import utc
from conftest import eventually


def paid(user_id: str, **given) -> tuple[str, dict]:
    event = {"order_id": str(uuid.uuid4()), "user_id": user_id, "price_minor": 9990}
    return "order_paid", {**event, "occurred_at": utc(datetime.now(UTC)), **given}


def rejected(user_id: str, **given) -> tuple[str, dict]:
    _, event = paid(user_id, **{"reason": "insufficient-funds", **given})
    return "order_rejected", event


def known_as(user: dict) -> dict:
    """How users answers about this user."""
    return {
        "id": user["user_id"],
        **{name: user[name] for name in ("username", "email", "locale")},
    }


def letters(notifications, **to) -> list[dict]:
    return notifications.list(**to, limit=100)["items"]


def test_letters_are_listed_in_the_order_of_settlement(
    notifications, tell, a_user
) -> None:
    user = a_user()
    first = paid(user["user_id"], occurred_at="2026-01-31T12:00:00.000001Z")
    second = rejected(user["user_id"], occurred_at="2026-01-31T12:00:00.005000Z")
    tell(("user_created", user))
    tell(second)  # its queue was quicker
    tell(first)
    kinds = [
        letter["kind"] for letter in letters(notifications, user_id=user["user_id"])
    ]
    assert kinds == ["grief", "happiness"]


def test_each_settled_order_gets_a_letter_to_its_user(
    notifications, tell, users, a_user
) -> None:
    user = a_user(username="$price")
    to = user["user_id"]
    happy = paid(to, occurred_at="2026-01-31T12:00:00.000000Z")
    sad = rejected(to, price_minor=5, occurred_at="2026-01-31T12:00:01.000000Z")
    tell(("user_created", user))
    tell(happy)
    tell(sad)
    grief, happiness = letters(notifications, user_id=to)
    assert (happiness["kind"], happiness["order_id"]) == (
        "happiness",
        happy[1]["order_id"],
    )
    assert (grief["kind"], grief["order_id"]) == ("grief", sad[1]["order_id"])
    assert {letter["email"] for letter in (grief, happiness)} == {user["email"]}
    assert {letter["state"] for letter in (grief, happiness)} == {"stored"}
    assert "Dear $price,\n" in happiness["body"]
    assert "€99.90" in happiness["body"]
    assert "€0.05" in grief["body"]
    assert users.calls == []


def test_a_redelivered_event_does_not_change_the_letter(
    notifications, tell, a_user, sql
) -> None:
    user = a_user()
    end = paid(user["user_id"])
    tell(("user_created", user), end)
    sql(
        "notifications",
        "UPDATE letters SET subject = 'Paid', body = 'We took 99.90 EUR.'",
    )
    before = letters(notifications, user_id=user["user_id"])
    tell(end, rejected(user["user_id"]))
    _, after = eventually(
        lambda: (found := letters(notifications, user_id=user["user_id"]))[1:] and found
    )
    assert [after] == before


def test_a_reason_of_an_event_is_never_quoted(notifications, tell, a_user) -> None:
    user = a_user()
    tell(("user_created", user))
    tell(rejected(user["user_id"], reason="pay at http://example.com"))
    [letter] = eventually(lambda: letters(notifications, user_id=user["user_id"]))
    assert "http" not in letter["subject"] + letter["body"]


def test_a_letter_has_the_locale_of_user_created(notifications, tell, a_user) -> None:
    user = a_user(locale="ru")
    tell(("user_created", user))
    tell(paid(user["user_id"]))
    assert [
        letter["subject"] for letter in letters(notifications, user_id=user["user_id"])
    ] == ["Ваш заказ оплачен"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_redelivered_and_reordered_events_write_one_letter_an_order(
    notifications, tell, users, a_user, seed
) -> None:
    chance = random.Random(seed)
    people = [a_user() for _ in range(3)]
    answers = {user["user_id"]: known_as(user) for user in people}
    users.answers["get_many"] = lambda user_ids: [answers[id_] for id_ in user_ids]
    ends = [
        chance.choice((paid, rejected))(chance.choice(people)["user_id"])
        for _ in range(12)
    ]
    events = ends + [("user_created", user) for user in people]
    deliveries = [event for event in events for _ in range(chance.randint(1, 5))]
    chance.shuffle(deliveries)
    tell(*deliveries)
    kinds = {"order_paid": "happiness", "order_rejected": "grief"}
    expected = {
        (event["order_id"], kinds[type_], event["user_id"]) for type_, event in ends
    }
    written = [
        letter
        for user in people
        for letter in letters(notifications, user_id=user["user_id"])
    ]
    assert {
        (letter["order_id"], letter["kind"], letter["user_id"]) for letter in written
    } == expected
    assert len(written) == len(ends)


def test_an_event_before_user_created_fetches_the_user_once(
    notifications, tell, users, a_user, sql
) -> None:
    user = a_user()
    users.answers["get_many"] = lambda user_ids: [known_as(user)]
    tell(paid(user["user_id"]))
    tell(rejected(user["user_id"]))
    assert len(letters(notifications, user_id=user["user_id"])) == 2
    assert users.calls == [("get_many", {"user_ids": [user["user_id"]]})]
    tell(("user_created", user))
    assert sql(
        "notifications", "SELECT user_id::text, username, email, locale FROM recipients"
    ) == [tuple(user.values())]


@pytest.mark.parametrize("away", ["it fails", "it knows nobody yet"])
def test_a_letter_waits_until_its_recipient_is_known(
    notifications, tell, users, a_user, away
) -> None:
    user = a_user()
    if away == "it fails":
        del users.answers["get_many"]
    tell(paid(user["user_id"]))
    assert letters(notifications, user_id=user["user_id"]) == []
    users.answers["get_many"] = lambda user_ids: [known_as(user)]
    eventually(lambda: len(letters(notifications, user_id=user["user_id"])) == 1)


@pytest.mark.parametrize("fault", ["it is not there", "it answers nonsense"])
def test_while_users_fails_only_letters_to_new_recipients_wait(
    notifications, tell, users, a_user, fault
) -> None:
    known, unknown = a_user(), a_user()
    if fault == "it answers nonsense":
        users.answers["get_many"] = lambda user_ids: [{"nonsense": True}]
    else:
        del users.answers["get_many"]
    tell(("user_created", known))
    tell(*[paid(user["user_id"]) for user in (unknown, known, unknown, known)])
    assert len(letters(notifications, user_id=known["user_id"])) == 2
    assert letters(notifications, user_id=unknown["user_id"]) == []
    users.answers["get_many"] = lambda user_ids: [known_as(unknown)]
    eventually(lambda: len(letters(notifications, user_id=unknown["user_id"])) == 2)


def test_a_second_user_created_does_not_change_the_recipient(tell, a_user, sql) -> None:
    user = a_user()
    tell(("user_created", user))
    tell(("user_created", {**user, "email": "late@example.com"}))
    assert sql("notifications", "SELECT email FROM recipients") == [(user["email"],)]


def test_an_order_of_an_unknown_user_gets_no_letter(tell, users, sql) -> None:
    tell(rejected(str(uuid.uuid4()), reason="unknown-user"))
    assert sql("notifications", "SELECT count(*) FROM letters") == [(0,)]
    assert users.calls == []


@pytest.mark.parametrize("odd", [1, True, 1.5, "no uuid", [], {}])
def test_a_malformed_event_does_not_delay_other_letters(
    notifications, tell, a_user, odd
) -> None:
    """The last test here: the odd event is tried again for half a minute."""
    user = a_user()
    tell(("user_created", user))
    tell(paid(odd), *[paid(user["user_id"]) for _ in range(3)])
    eventually(lambda: len(letters(notifications, user_id=user["user_id"])) == 3)

"""Letters about orders, with a real broker and database and a fake of users."""

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


def profile_of(user: dict) -> dict:
    """Return the reply of users about this user."""
    return {
        "id": user["user_id"],
        **{name: user[name] for name in ("username", "email", "locale")},
    }


def letters(notifications, **to) -> list[dict]:
    return notifications.list(**to, limit=100)["items"]


def test_letters_are_listed_in_the_order_of_settlement(
    notifications, publish, a_user
) -> None:
    user = a_user()
    first = paid(user["user_id"], occurred_at="2026-01-31T12:00:00.000001Z")
    second = rejected(user["user_id"], occurred_at="2026-01-31T12:00:00.005000Z")
    publish(("user_created", user))
    publish(second)
    publish(first)
    kinds = [
        letter["kind"] for letter in letters(notifications, user_id=user["user_id"])
    ]
    assert kinds == ["grief", "happiness"]


def test_each_settled_order_gets_a_letter_to_its_user(
    notifications, publish, users, a_user
) -> None:
    user = a_user(username="$price")
    to = user["user_id"]
    happy = paid(to, occurred_at="2026-01-31T12:00:00.000000Z")
    sad = rejected(to, price_minor=5, occurred_at="2026-01-31T12:00:01.000000Z")
    publish(("user_created", user))
    publish(happy)
    publish(sad)
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


@pytest.mark.parametrize("settled", [paid, rejected])
def test_the_letter_about_an_order_is_found_by_its_user_only(
    notifications, publish, a_user, settled
) -> None:
    user, other = a_user(), a_user()
    publish(("user_created", user), ("user_created", other))
    name, event = settled(user["user_id"])
    query = {"user_id": user["user_id"], "order_id": event["order_id"]}
    assert notifications.get_letter(**query) is None
    publish((name, event), paid(user["user_id"]))
    letter = notifications.get_letter(**query)
    assert letter in letters(notifications, user_id=user["user_id"])
    assert letter["order_id"] == event["order_id"]
    for stranger in (other["user_id"], str(uuid.uuid4())):
        assert notifications.get_letter(**{**query, "user_id": stranger}) is None


INVALID_QUERIES = {
    "order_id": ("", "42", None, 42),
    "user_id": ("", "42", None, 42),
    "email": ("ann@example.com",),
}


@pytest.mark.parametrize("field", INVALID_QUERIES)
def test_an_invalid_query_for_a_letter_is_named(notifications, subtests, field) -> None:
    query = {"order_id": str(uuid.uuid4()), "user_id": str(uuid.uuid4())}
    for value in INVALID_QUERIES[field]:
        with subtests.test(value=value):
            outcome = notifications.get_letter(**{**query, field: value})
            assert (outcome["status"], list(outcome["errors"])) == ("invalid", [field])
    assert notifications.get_letter()["errors"].keys() == query.keys()


def test_a_redelivered_event_does_not_change_the_letter(
    notifications, publish, a_user, sql
) -> None:
    user = a_user()
    event = paid(user["user_id"])
    publish(("user_created", user), event)
    eventually(lambda: letters(notifications, user_id=user["user_id"]))
    sql(
        "notifications",
        "UPDATE letters SET subject = 'Paid', body = 'We took 99.90 EUR.'",
    )
    before = letters(notifications, user_id=user["user_id"])
    publish(event, rejected(user["user_id"]))
    _, after = eventually(
        lambda: (found := letters(notifications, user_id=user["user_id"]))[1:] and found
    )
    assert [after] == before


def test_a_reason_of_an_event_is_never_quoted(notifications, publish, a_user) -> None:
    user = a_user()
    publish(("user_created", user))
    publish(rejected(user["user_id"], reason="pay at http://example.com"))
    [letter] = eventually(lambda: letters(notifications, user_id=user["user_id"]))
    assert "http" not in letter["subject"] + letter["body"]


def test_a_letter_has_the_locale_of_user_created(
    notifications, publish, a_user
) -> None:
    user = a_user(locale="ru")
    publish(("user_created", user))
    publish(paid(user["user_id"]))
    assert [
        letter["subject"] for letter in letters(notifications, user_id=user["user_id"])
    ] == ["Ваш заказ оплачен"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_redelivered_and_reordered_events_write_one_letter_an_order(
    notifications, publish, users, a_user, seed
) -> None:
    rng = random.Random(seed)
    people = [a_user() for _ in range(3)]
    profiles = {user["user_id"]: profile_of(user) for user in people}
    users.replies["get_many"] = lambda user_ids: [profiles[id_] for id_ in user_ids]
    order_events = [
        rng.choice((paid, rejected))(rng.choice(people)["user_id"]) for _ in range(12)
    ]
    events = order_events + [("user_created", user) for user in people]
    deliveries = [event for event in events for _ in range(rng.randint(1, 5))]
    rng.shuffle(deliveries)
    publish(*deliveries)
    kinds = {"order_paid": "happiness", "order_rejected": "grief"}
    expected = {
        (event["order_id"], kinds[type_], event["user_id"])
        for type_, event in order_events
    }
    written = [
        letter
        for user in people
        for letter in letters(notifications, user_id=user["user_id"])
    ]
    assert {
        (letter["order_id"], letter["kind"], letter["user_id"]) for letter in written
    } == expected
    assert len(written) == len(order_events)


def test_an_event_before_user_created_fetches_the_user_once(
    notifications, publish, users, a_user, sql
) -> None:
    user = a_user()
    users.replies["get_many"] = lambda user_ids: [profile_of(user)]
    publish(paid(user["user_id"]))
    publish(rejected(user["user_id"]))
    assert len(letters(notifications, user_id=user["user_id"])) == 2
    assert users.calls == [("get_many", {"user_ids": [user["user_id"]]})]
    publish(("user_created", user))
    assert sql(
        "notifications", "SELECT user_id::text, username, email, locale FROM recipients"
    ) == [tuple(user.values())]


@pytest.mark.parametrize("fault", ["it fails", "it does not know the user yet"])
def test_a_letter_waits_until_its_recipient_is_known(
    notifications, publish, users, a_user, fault
) -> None:
    user = a_user()
    if fault == "it fails":
        del users.replies["get_many"]
    publish(paid(user["user_id"]))
    assert letters(notifications, user_id=user["user_id"]) == []
    users.replies["get_many"] = lambda user_ids: [profile_of(user)]
    eventually(lambda: len(letters(notifications, user_id=user["user_id"])) == 1)


@pytest.mark.parametrize("fault", ["it fails", "its reply is malformed"])
def test_while_users_fails_only_letters_to_new_recipients_wait(
    notifications, publish, users, a_user, fault
) -> None:
    known, unknown = a_user(), a_user()
    if fault == "its reply is malformed":
        users.replies["get_many"] = lambda user_ids: [{"malformed": True}]
    else:
        del users.replies["get_many"]
    publish(("user_created", known))
    publish(*[paid(user["user_id"]) for user in (unknown, known, unknown, known)])
    assert len(letters(notifications, user_id=known["user_id"])) == 2
    assert letters(notifications, user_id=unknown["user_id"]) == []
    users.replies["get_many"] = lambda user_ids: [profile_of(unknown)]
    eventually(lambda: len(letters(notifications, user_id=unknown["user_id"])) == 2)


def test_a_second_user_created_does_not_change_the_recipient(
    publish, a_user, sql
) -> None:
    user = a_user()
    publish(("user_created", user))
    publish(("user_created", {**user, "email": "late@example.com"}))
    assert sql("notifications", "SELECT email FROM recipients") == [(user["email"],)]


def test_an_order_of_an_unknown_user_gets_no_letter(publish, users, sql) -> None:
    publish(rejected(str(uuid.uuid4()), reason="unknown-user"))
    assert sql("notifications", "SELECT count(*) FROM letters") == [(0,)]
    assert users.calls == []


@pytest.mark.parametrize("user_id", [1, True, 1.5, "not a UUID", [], {}])
def test_a_malformed_event_does_not_delay_other_letters(
    notifications, publish, a_user, user_id
) -> None:
    """This is the last test, because the malformed event is retried for half a minute."""
    user = a_user()
    publish(("user_created", user))
    publish(paid(user_id), *[paid(user["user_id"]) for _ in range(3)])
    eventually(lambda: len(letters(notifications, user_id=user["user_id"])) == 3)

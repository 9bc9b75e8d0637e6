"""Sign-up, profiles and login, with a real broker and database."""

import uuid

import pytest
from nameko.exceptions import MalformedRequest

from chassis.errors import InternalError

ANN = {
    "username": "Ann",
    "email": "Ann@example.com",
    "password": "correct horse",
    "locale": "ru",
}
NONE, ONE = (0, 0), (1, 1)  # users and events stored


def new_id() -> str:
    return str(uuid.uuid4())


def test_a_new_user_is_stored_with_one_event(users, stored, sql) -> None:
    outcome = users.create(**ANN)
    assert outcome["status"] == "created"
    user = outcome["user"]
    assert user == {
        "id": user["id"],
        "username": "Ann",
        "email": "Ann@example.com",
        "locale": "ru",
    }
    assert users.get(user_id=user["id"]) == user
    assert stored() == ONE
    [(event,)] = sql("users", "SELECT payload FROM outbox")
    facts = {
        "user_id": user["id"],
        "username": "Ann",
        "email": "Ann@example.com",
        "locale": "ru",
    }
    assert event == {
        **facts,
        "event_id": event["event_id"],
        "version": 1,
        "occurred_at": event["occurred_at"],
    }


def test_the_password_is_stored_as_an_argon2id_hash_only(users, sql) -> None:
    users.create(**ANN)
    [(row,)] = sql("users", "SELECT row_to_json(users)::text FROM users")
    assert '"$argon2id$v=19$m=19456,t=2,p=1$' in row
    [(event,)] = sql("users", "SELECT payload::text FROM outbox")
    assert ANN["password"] not in row + event


def test_the_default_locale_is_english(users) -> None:
    ann = {name: value for name, value in ANN.items() if name != "locale"}
    assert users.create(**ann)["user"]["locale"] == "en"


@pytest.mark.parametrize("locale", ["ru-RU", "RU", "ru_RU.UTF-8"])
def test_a_locale_is_stored_and_published_as_a_language(users, sql, locale) -> None:
    ann = {**ANN, "id": new_id(), "locale": locale}
    first = users.create(**ann)
    assert first["user"]["locale"] == "ru"
    assert sql("users", "SELECT locale, payload ->> 'locale' FROM users, outbox") == [
        ("ru", "ru")
    ]
    assert (
        users.create(**{**ann, "locale": "ru"})
        == first
        == users.create(**{**ann, "locale": "xx"})
    )


def test_an_unknown_language_falls_back_to_english(users) -> None:
    assert users.create(**{**ANN, "locale": "xx-AT"})["user"]["locale"] == "en"


ASCII, UNICODE = "bob@xn--e1aybc.xn--p1ai", "bob@Тест。РФ"


@pytest.mark.parametrize(("first", "second"), [(ASCII, UNICODE), (UNICODE, ASCII)])
def test_two_forms_of_one_domain_are_one_address(users, stored, first, second) -> None:
    bob = {**ANN, "email": first, "id": new_id()}
    created = users.create(**bob)
    assert created["user"]["email"] == "bob@тест.рф"
    assert users.create(**{**bob, "email": second}) == created
    outcome = users.create(**{**ANN, "email": second.upper(), "username": "other"})
    assert (outcome["status"], list(outcome["errors"])) == ("taken", ["email"])
    assert stored() == ONE


def test_an_address_of_an_earlier_version_is_taken_in_both_forms(
    users, stored, sql
) -> None:
    ann = users.create(**ANN)["user"]
    written = "Bob@XN--E1AYBC.xn--p1ai"
    sql(
        "users",
        f"UPDATE users SET email = '{written}', email_key = '{written.casefold()}'",
    )
    for email in (written, ASCII, UNICODE):
        outcome = users.create(**{**ANN, "email": email, "username": "other"})
        assert (outcome["status"], list(outcome["errors"])) == ("taken", ["email"])
    again = users.create(**{**ANN, "id": ann["id"], "email": UNICODE})
    assert again["user"] == users.get(user_id=ann["id"]) == {**ann, "email": written}
    assert stored() == ONE


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ({"email": "other@example.com", "username": "aNN"}, {"username"}),
        ({"email": "ANN@EXAMPLE.COM", "username": "other"}, {"email"}),
        ({}, {"username", "email"}),
    ],
)
def test_a_name_or_address_in_another_case_is_taken(
    users, stored, change, taken
) -> None:
    users.create(**ANN)
    outcome = users.create(**{**ANN, **change})
    assert outcome["status"] == "taken"
    assert set(outcome["errors"]) == taken
    assert stored() == ONE


def test_a_name_and_an_address_of_two_users_are_both_taken(users) -> None:
    users.create(**ANN)
    users.create(**{**ANN, "username": "bob", "email": "bob@example.com"})
    outcome = users.create(**{**ANN, "email": "bob@example.com", "id": new_id()})
    assert set(outcome["errors"]) == {"username", "email"}


def test_a_redelivered_sign_up_has_the_first_outcome(users, stored) -> None:
    ann = {**ANN, "id": new_id()}
    first = users.create(**ann)
    assert first["user"]["id"] == ann["id"]
    assert [users.create(**ann) for _ in range(3)] == [first] * 3
    assert stored() == ONE


def test_an_id_with_another_name_or_address_is_taken(users, stored) -> None:
    ann = {**ANN, "id": new_id()}
    users.create(**ann)
    other = {**ann, "username": "other", "email": "other@example.com"}
    assert users.create(**other)["errors"].keys() == {"id"}
    assert users.create(**{**other, "email": ANN["email"]})["errors"].keys() == {
        "email"
    }
    assert stored() == ONE


def test_one_of_several_equal_sign_ups_is_created(users, stored) -> None:
    calls = [users.create.call_async(**ANN) for _ in range(6)]
    outcomes = [call.result() for call in calls]
    assert (
        sorted(outcome["status"] for outcome in outcomes) == ["created"] + ["taken"] * 5
    )
    assert {
        name for o in outcomes if o["status"] == "taken" for name in o["errors"]
    } == {"username", "email"}
    assert stored() == ONE


def test_concurrent_redeliveries_of_a_sign_up_create_one_user(users, stored) -> None:
    ann = {**ANN, "id": new_id()}
    calls = [users.create.call_async(**ann) for _ in range(6)]
    assert {call.result()["status"] for call in calls} == {"created"}
    assert stored() == ONE


INVALID = {
    "username": [
        None,
        "",
        7,
        "a" * 65,
        "a b",
        "-ann",
        "an\nn",
        "ann\n",
        "аnn",
        "a\x00b",
        "<b>",
        {"a": 1},
    ],
    "email": [
        None,
        "",
        "ann",
        "ann@",
        "a@b",
        "ann@example.com\r\nBcc: x@y.z",
        "a@b.c\n",
        "é@localhost",
    ],
    "password": [
        None,
        "",
        "1234567",
        "x" * 129,
        "x" * 1_000_000,
        12345678,
        "a\x00bcdefgh",
        "\ud800" * 8,
    ],
    "locale": [None, "", "../en", "x" * 36, 1],
    "id": ["", "42", None, new_id().upper()],
    "balance": [1],
    "password_hash": ["x"],
}


@pytest.mark.parametrize("field", INVALID)
def test_an_invalid_value_is_named_and_not_stored(
    users, stored, subtests, field
) -> None:
    for value in INVALID[field]:
        with subtests.test(value=repr(value)[:40]):
            outcome = users.create(**{**ANN, field: value})
            assert outcome["status"] == "invalid"
            assert list(outcome["errors"]) == [field]
    assert stored() == NONE


def test_missing_fields_are_named(users) -> None:
    assert set(users.create()["errors"]) == {"username", "email", "password"}


def test_a_user_and_its_event_are_stored_together(users, stored, sql) -> None:
    sql("users", "ALTER TABLE outbox ADD CONSTRAINT refuse_all CHECK (false)")
    try:
        with pytest.raises(InternalError, match="users failed"):
            users.create(**ANN)
    finally:
        sql("users", "ALTER TABLE outbox DROP CONSTRAINT refuse_all")
    assert stored() == NONE
    assert users.create(**ANN)["status"] == "created"
    assert stored() == ONE


def test_users_are_returned_in_the_order_of_their_ids(users) -> None:
    ann = users.create(**ANN)["user"]
    bob = users.create(**{**ANN, "username": "bob", "email": "bob@example.com"})["user"]
    ids = [bob["id"], new_id(), "42", None, ann["id"], bob["id"]]
    assert users.get_many(user_ids=ids) == [bob, None, None, None, ann, bob]
    assert users.get_many(user_ids=[]) == []
    assert [
        users.get(user_id=id_) for id_ in (new_id(), "", None, 42, ann["id"].upper())
    ] == [None] * 5


def test_the_case_of_the_username_does_not_matter_at_login(users) -> None:
    ann = users.create(**ANN)["user"]
    for username in ("Ann", "ann", "ANN"):
        assert users.authenticate(username=username, password=ANN["password"]) == ann


def test_a_user_with_an_address_of_earlier_rules_logs_in(users, sql) -> None:
    ann = users.create(**ANN)["user"]
    sql(
        "users", "UPDATE users SET email = '-oQ@localhost', email_key = '-oq@localhost'"
    )
    logged_in = users.authenticate(username="Ann", password=ANN["password"])
    assert (
        logged_in == {**ann, "email": "-oQ@localhost"} == users.get(user_id=ann["id"])
    )


def test_an_unreadable_hash_counts_as_a_wrong_password(users, sql) -> None:
    users.create(**ANN)
    sql("users", "UPDATE users SET password_hash = 'x'")
    assert users.authenticate(username="Ann", password=ANN["password"]) is None


def test_a_list_of_too_many_ids_is_malformed(users) -> None:
    assert users.get_many(user_ids=[new_id()] * 1000) == [None] * 1000
    for ids in ([new_id()] * 1001, "x", None):
        with pytest.raises(MalformedRequest):
            users.get_many(user_ids=ids)


WRONG_LOGINS = [
    ("Ann", "wrong horse"),
    ("Ann", "Correct horse"),
    ("Ann", "correct horse "),
    ("Ann", ""),
    ("Ann", None),
    ("Ann", "x" * 1_000_000),
    ("Ann", {"$ne": ""}),
    ("bob", "correct horse"),
    ("", "correct horse"),
    (None, "correct horse"),
    ("Ann@example.com", "correct horse"),
    ("' OR '1'='1", "correct horse"),
]


def test_a_failed_login_does_not_show_the_cause(users, subtests) -> None:
    users.create(**ANN)
    for username, password in WRONG_LOGINS:
        with subtests.test(username=username, password=repr(password)[:20]):
            assert users.authenticate(username=username, password=password) is None

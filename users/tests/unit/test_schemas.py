"""Who may sign up."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.mails import read_back
from users.schemas import Credentials, NewUser

ANN = {"username": "ann", "email": "ann@example.com", "password": "correct horse"}
QUOTED = st.from_regex(r'"([!-~]|\\"){0,20}"@example\.com', fullmatch=True)
ADDRESSES = st.emails() | QUOTED | st.from_regex(r'["!-~]{1,70}@[a-z.\[\]0-9=?-]{1,20}', fullmatch=True)


def errors(**given: str) -> dict[str, list[str]]:
    return NewUser().validate(ANN | given)


@given(username=st.text(max_size=70) | st.from_regex(r"[!-~]{1,9}", fullmatch=True), email=ADDRESSES)
@example(username="ann", email="=?utf-8?q?a?=@example.com")
@example(username="ann", email='"=?utf-8?q?a?="@example.com')
def test_a_name_and_an_address_that_are_taken_can_stand_in_an_email(username, email) -> None:
    refused = errors(username=username, email=email)
    if "email" not in refused:
        read_back("A subject", "ann", email)
    if "username" not in refused:
        read_back("A subject", username, "ann@example.com")
        assert username.isprintable()


ODD = [
    *("-oQ@example.com", "-@example.com", "a@localhost", "a@b", f"{'a' * 65}@example.com"),
    *("a@[127.0.0.1]", "a@example.com\u202e", "a\x85@example.com", "a\u2028@example.com"),
    *("=?utf-8?q?a?=@example.com", "a@b@example.com", "ı@example.com", "a@bücher.example"),
    *('"a"@example.com', '"<b>,c"@example.com', "a@.com", "a@example.", "a@-.com-"),
]


@pytest.mark.parametrize("email", ODD)
def test_an_odd_address_is_refused(email) -> None:
    assert errors(email=email).keys() == {"email"}


@pytest.mark.parametrize(
    "email", ["a@b.co", f"{'a' * 64}@example.com", "a.b+c-d@sub.example.com", "x@xn--bcher-kva.de"]
)
def test_a_usual_address_is_taken(email) -> None:
    assert not errors(email=email)


@pytest.mark.parametrize("odd", ["\x1b", "\x85", "\u200f", "\u202e", "\u2028", "\u2066", "=?", "é"])
def test_a_username_has_no_control_character_and_no_direction_mark(odd) -> None:
    assert errors(username=f"a{odd}").keys() == {"username"}


def test_a_login_is_not_held_to_the_rules_of_a_sign_up() -> None:
    assert not Credentials().validate({"username": "-ann\u200f", "password": "short"})

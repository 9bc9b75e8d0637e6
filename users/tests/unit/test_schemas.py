"""Validation of sign-ups and logins."""

import re

import pytest
from hypothesis import example, given, strategies as st

from tests.mails import read_back
from users.schemas import Credentials, NewUser

ANN = {"username": "ann", "email": "ann@example.com", "password": "correct horse"}
QUOTED = st.from_regex(r'"([!-~]|\\"){0,20}"@example\.com', fullmatch=True)
INTERNATIONAL = st.text(max_size=20).map("{}@bücher.example".format)
ADDRESSES = (
    st.emails()
    | INTERNATIONAL
    | QUOTED
    | st.from_regex(r'["!-~]{1,70}@[a-z.\[\]0-9=?-]{1,20}', fullmatch=True)
)


def errors(**given: str) -> dict[str, list[str]]:
    return NewUser().validate(ANN | given)


@given(
    username=st.text(max_size=70) | st.from_regex(r"[!-~]{1,9}", fullmatch=True),
    email=ADDRESSES,
)
@example(username="ann", email="=?utf-8?q?a?=@example.com")
@example(username="ann", email='"=?utf-8?q?a?="@example.com')
def test_valid_names_and_addresses_are_safe_in_an_email(username, email) -> None:
    refused = errors(username=username, email=email)
    if "email" not in refused:
        read_back("A subject", "ann", email)
    if "username" not in refused:
        read_back("A subject", username, "ann@example.com")
        assert username.isprintable()


UNUSUAL = [
    *(
        "-oQ@example.com",
        "-@example.com",
        "a@localhost",
        "a@b",
        f"{'a' * 65}@example.com",
    ),
    *(
        "a@shop.test",
        "a@shop.local",
        "a@xn--zzzzzz.com",
        "a@ab--c.com",
        "a@_b.com",
        "Ann <a@b.co>",
    ),
    *(
        "a@[127.0.0.1]",
        "a@example.com\u202e",
        "a\x85@example.com",
        "a\u2028@example.com",
    ),
    *(
        "=?utf-8?q?a?=@example.com",
        "=?é?=@example.com",
        "-ё@example.com",
        "a@b@example.com",
    ),
    *(
        "a\u200bb@example.com",
        "\u0301a@example.com",
        "a@b\u2024example.com",
        "a\ufffe@example.com",
    ),
    *('"a"@example.com', '"<b>,c"@example.com', "a@.com", "a@example.", "a@-.com-"),
]


@pytest.mark.parametrize("email", UNUSUAL)
def test_an_unusual_address_is_invalid(email) -> None:
    assert errors(email=email).keys() == {"email"}


USUAL = [
    *(
        "a@b.co",
        f"{'a' * 64}@example.com",
        "a.b+c-d@sub.example.com",
        "x@xn--bcher-kva.de",
    ),
    *(
        "иван@почта.рф",
        "a@bücher.example",
        "é@example.com",
        "ı@example.com",
        "用户@例子.中国",
    ),
]


@pytest.mark.parametrize("email", USUAL)
def test_a_usual_address_is_valid(email) -> None:
    assert not errors(email=email)


@pytest.mark.parametrize(
    ("email", "reason"),
    [
        (
            "a@localhost",
            "The part after the @-sign is not valid. It should have a period.",
        ),
        (
            "a\u202e@example.com",
            "The email address contains unsafe characters: RIGHT-TO-LEFT OVERRIDE.",
        ),
        (f"a@{'b' * 253}", "Longer than maximum length 254."),
        ("-a@example.com", "Must not begin with a hyphen or contain =?."),
    ],
)
def test_a_refused_address_comes_with_the_reason(email, reason) -> None:
    assert errors(email=email) == {"email": [reason]}


@given(st.text(max_size=270) | st.text(max_size=250).map("{}@example.com".format))
@example("".join(map(chr, range(0x2000, 0x20F0))) + "@example.com")
@example("a@" + "".join(map(chr, range(0x100, 0x1E0))) + ".com")
def test_a_reason_is_one_short_line_without_markup(email) -> None:
    [reason] = errors(email=email).get("email", ["none"])
    assert reason.isprintable()
    assert len(reason) <= 200
    assert not re.search("<[^']", reason)


def test_a_long_address_is_rejected_before_it_is_parsed(monkeypatch) -> None:
    monkeypatch.setattr("chassis.schemas.validate_email", None)
    assert errors(email="a." * 100_000 + "@example.com").keys() == {"email"}


TAGS = [
    "ru-RU",
    "en_US",
    "RU",
    "en-us",
    "ru_RU.UTF-8",
    "zh-Hans-CN",
    "de",
    "C",
    "en-US@posix",
    "sr_RS@latin",
]


@pytest.mark.parametrize("locale", TAGS)
def test_locales_of_browsers_and_operating_systems_are_valid(locale) -> None:
    assert not errors(locale=locale)


@pytest.mark.parametrize(
    "locale", ["", "../en", "ru RU", "ру", "en-", "1", "en\n", f"en{'-a' * 17}", "*"]
)
def test_a_text_that_is_not_a_language_tag_is_invalid(locale) -> None:
    assert errors(locale=locale).keys() == {"locale"}


@pytest.mark.parametrize(
    "unsafe", ["\x1b", "\x85", "\u200f", "\u202e", "\u2028", "\u2066", "=?", "é"]
)
def test_a_username_with_an_unsafe_character_is_invalid(unsafe) -> None:
    assert errors(username=f"a{unsafe}").keys() == {"username"}


def test_a_login_is_not_validated_by_the_rules_of_a_sign_up() -> None:
    assert not Credentials().validate({"username": "-ann\u200f", "password": "short"})

"""Validation of messages."""

import pytest
from hypothesis import example, given, strategies as st

from notifications.schemas import LetterQuery, NewMessage
from tests.mails import read_back

# Texts that a mail library may decode into another header or another line.
PIECES = [
    "=?",
    "?=",
    "?q?",
    "?B?",
    "utf-8",
    "=0D=0A",
    "Bcc: x@y.z",
    "DQo=",
    " ",
    "é",
    "🐎",
    '"',
    "<",
]
SUBJECTS = st.text(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=15).map(
    "".join
)


def errors(**given: str) -> dict[str, list[str]]:
    return NewMessage().validate(
        {"email": "ann@example.com", "subject": "a", "body": "b"} | given
    )


@given(SUBJECTS)
@example("=?utf-8?q?a=0D=0ABcc:_x?=")
def test_a_valid_subject_is_safe_in_an_email(subject) -> None:
    if not errors(subject=subject):
        read = read_back(subject, "ann", "ann@example.com")
        assert "".join(read["Subject"].split()) == "".join(subject.split())


UNSAFE = [
    *(
        "a\x0bb",
        "a\x0cb",
        "a\x1cb",
        "a\x1db",
        "a\x1eb",
        "a\x85b",
        "a\u2028b",
        "a\u2029b",
    ),
    *("a\rb", "a\nb", "\x00", "\x1b[2J", "\x7f", "\x9b2J", "\t"),
    *("=?utf-8?q?a=0D=0ABcc:_x?=", "Re: =?utf-8?B?DQo=?=", "=?x?Q??="),
]


@pytest.mark.parametrize("subject", UNSAFE)
def test_an_unsafe_subject_is_invalid(
    subject,
) -> None:
    assert errors(subject=subject).keys() == {"subject"}


@pytest.mark.parametrize(
    "subject", ["2 + 2 =?", "a = ?b? c", "שלום\u200f", "Straße 🐎", "=?"]
)
def test_a_safe_subject_is_valid(subject) -> None:
    assert not errors(subject=subject)


@pytest.mark.parametrize(
    "address", ["иван@почта.рф", "a@xn--e1aybc.xn--p1ai", "é@bücher.example"]
)
def test_an_international_address_is_valid(address) -> None:
    assert not errors(email=address)


@pytest.mark.parametrize(
    "address", ["a@localhost", "-oQ@example.com", f"{'a' * 65}@example.com"]
)
def test_letters_to_an_address_of_earlier_rules_are_listed(address) -> None:
    assert errors(email=address).keys() == {"email"}
    assert not LetterQuery().validate({"email": address})

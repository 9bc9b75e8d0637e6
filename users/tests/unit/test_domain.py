"""The rules of users."""

import unicodedata
from functools import partial

import idna
import pytest
from hypothesis import assume, example, given, strategies as st

from users.domain import address_forms, conflicts, locale_of, normalize

NAME, ADDRESS = (
    {"username": ["This username is taken."]},
    {"email": ["This address is in use."]},
)


def keys(username: str, email: str) -> dict[str, str]:
    return {"username_key": normalize(username), **address_forms(email)}


@given(st.text(st.characters(codec="ascii")))
def test_case_does_not_matter(text) -> None:
    assert normalize(text.upper()) == normalize(text.lower()) == normalize(text)


@pytest.mark.parametrize(
    ("users", "errors"),
    [
        ([keys("ANN", "other@example.com")], NAME),
        ([keys("other", "Ann@Example.com")], ADDRESS),
        (
            [keys("ann", "other@example.com"), keys("other", "ann@example.com")],
            NAME | ADDRESS,
        ),
        ([keys("anna", "ann@example.org")], {}),
        ([], {}),
    ],
)
def test_conflicting_fields_are_named(users, errors) -> None:
    assert conflicts(keys("Ann", "ann@example.com"), users) == errors


# Letters whose upper case is one letter, and that IDNA does not change.
LETTERS = st.text(
    st.sampled_from("abcxyzàéîõüабвйёяαβγאבג日本한국"), min_size=1, max_size=12
)
SPELLINGS = [
    str,
    str.upper,
    partial(unicodedata.normalize, "NFD"),
    lambda domain: domain.replace(".", "．"),
    lambda domain: idna.encode(unicodedata.normalize("NFC", domain)).decode(),
]


@given(
    LETTERS, LETTERS, st.sampled_from(["рф", "com", "中国"]), st.sampled_from(SPELLINGS)
)
@example("a", "тест", "рф", SPELLINGS[-1])
def test_spellings_of_an_international_address_are_equal(
    local, label, top, spell
) -> None:
    assume(not {unicodedata.bidirectional(c) for c in label} - {"L"})
    first = address_forms(f"{local}@{label}.{top}")
    assert (
        address_forms(f"{local.upper()}@{spell(f'{label}.{top}')}")["email_key"]
        == first["email_key"]
    )
    assert (
        address_forms(
            f"{unicodedata.normalize('NFD', local)}@{spell(f'{label}.{top}')}"
        )
        == first
    )


def test_an_ascii_address_has_the_key_of_earlier_versions() -> None:
    for email in (
        "Ann.B+c@Example.COM",
        "a@XN--E1AYBC.xn--p1ai",
        "Info@example.org",
        "o'b@a-b.example.org",
    ):
        assert address_forms(email)["email_key"] == email.casefold()


@pytest.mark.parametrize(
    ("one", "other"),
    [("a@faß.de", "a@fass.de"), ("ı@x.org", "i@x.org"), ("a@bücher.de", "a@bucher.de")],
)
def test_addresses_of_different_mailboxes_differ(one, other) -> None:
    assert address_forms(one)["email_key"] != address_forms(other)["email_key"]


def test_the_case_of_a_local_part_is_ignored_in_any_script() -> None:
    spellings = ["straße@x.org", "STRASSE@x.org", "Straße@X.org"]
    assert len({address_forms(email)["email_key"] for email in spellings}) == 1
    assert (
        address_forms("ΐ@x.org")["email_key"] == address_forms("Ϊ́@x.org")["email_key"]
    )


def test_letters_go_to_the_normalized_form() -> None:
    assert address_forms("Ann@XN--E1AYBC．xn--p1ai")["email"] == "Ann@тест.рф"


@pytest.mark.parametrize(
    ("tag", "language"),
    [
        *(
            (tag, "ru")
            for tag in (
                "ru",
                "RU",
                "ru-RU",
                "ru_RU",
                "ru_RU.UTF-8",
                "ru.UTF-8",
                "ru-Cyrl-KZ",
            )
        ),
        *((tag, "en") for tag in ("en", "EN", "en-us", "en_US", "en-US@posix")),
        *((tag, "en") for tag in ("xx", "xx-Hans-CN", "C", "POSIX", "rup-RU", "x-ru")),
    ],
)
def test_a_tag_selects_its_language_or_english(tag, language) -> None:
    assert locale_of(tag) == language

"""The locale for an Accept-Language."""

import pytest
from hypothesis import example, given, strategies as st

from gateway.schemas import LOCALES, accepted_locale

PIECES = [
    "ru",
    "en",
    "*",
    "-",
    "_",
    ";",
    "q",
    "=",
    "0",
    "1",
    ".",
    ",",
    '"',
    "\\",
    "%",
    "utf-8''",
    " ",
    "\t",
]
HEADERS = st.text(st.characters(max_codepoint=255)) | st.lists(
    st.sampled_from(PIECES)
).map("".join)

RUSSIAN = [
    *(
        "ru",
        "ru-RU",
        "RU",
        "ru_RU",
        "ru-RU,ru;q=0.9,en-US;q=0.8,en;q=0.7",
        "ru-RU, en;q=0.5",
    ),
    *(
        "xx, ru;q=0.1",
        "xx, ru;q=0.2, en;q=0.1",
        "en;q=0, *",
        "ru, en",
        "en;q=0.1,,;, ru",
    ),
    *(
        "en;q=2, ru;q=0.1",
        "en-GB;q=0, ru;q=0.5",
        "RU;Q=0.9, EN;Q=0.8",
        "*;q=0.1, ru;q=0.2",
    ),
]
ENGLISH = [
    *(
        "",
        "*",
        "en",
        "en-US,en;q=0.9,ru;q=0.8",
        "xx",
        "xx-AT, yy;q=0.5",
        "ru;q=0",
        "ru;q=0, *",
        "*;q=0",
    ),
    *(
        "en, ru",
        "ru;q=0.1, *",
        "rup",
        "ru;q=x",
        ";;;",
        '"ru',
        "ру",
        "en;q=0.5, ru;q=0.4",
    ),
]


@pytest.mark.parametrize("header", RUSSIAN)
def test_russian_is_chosen_if_preferred(header) -> None:
    assert accepted_locale(header) == "ru"


@pytest.mark.parametrize("header", ENGLISH)
def test_english_is_chosen_if_preferred_or_as_the_fallback(header) -> None:
    assert accepted_locale(header) == "en"


@given(HEADERS)
@example("ru;q=0.1," * 1000)
@example('"' * 8000)
def test_every_header_has_a_locale(header) -> None:
    assert accepted_locale(header) in LOCALES

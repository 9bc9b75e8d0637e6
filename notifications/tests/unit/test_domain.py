"""The rules of notifications: the text of a letter."""

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given, strategies as st

from chassis.settings import ISO_4217_DIGITS
from notifications.domain import LOCALES, Recipient, SettledOrder, letter_text

ORDER = "01993b8f-1c22-7d10-8a55-3d2c7c1e9b02"
REASONS = ["insufficient-funds", "cancelled"]


def write(
    *, reason=None, locale="en", username="Ann", price_minor=9990, currency="EUR"
):
    recipient = Recipient(
        user_id="user", username=username, email="ann@example.com", locale=locale
    )
    order = SettledOrder(
        order_id=ORDER,
        user_id="user",
        price_minor=price_minor,
        reason=reason,
        settled_at=datetime.now(UTC),
    )
    return letter_text(order, recipient, currency)


def test_a_paid_order_gets_a_letter_of_happiness() -> None:
    text = write()
    assert (text.kind, text.subject) == ("happiness", "Your order is paid")
    assert text.body.startswith("Dear Ann,\n")
    assert f"your order {ORDER} is paid. We took €99.90 from" in text.body


def test_a_rejected_order_gets_a_letter_of_grief_with_the_reason() -> None:
    text = write(reason="insufficient-funds")
    assert (text.kind, text.subject) == ("grief", "Your order could not be paid")
    assert f"your order {ORDER} over €99.90 could not be paid" in text.body
    assert "because there is not enough money on your account." in text.body


def test_a_letter_is_in_its_recipients_language() -> None:
    assert (write(locale="ru").kind, write(locale="ru").subject) == (
        "happiness",
        "Ваш заказ оплачен",
    )
    text = write(locale="ru", reason="cancelled")
    assert text.subject == "Ваш заказ не удалось оплатить"
    assert "оплата заняла слишком много времени и была отменена" in text.body
    assert text.body.startswith("Здравствуйте, Ann!")
    assert "на сумму 99,90\xa0€ не оплачен" in text.body


@pytest.mark.parametrize(
    "locale", ["xx", "", "EN", "../en", "en/../ru", "x" * 300, "ru\x00"]
)
@pytest.mark.parametrize("reason", [None, "cancelled"])
def test_an_unknown_locale_falls_back_to_english(locale, reason) -> None:
    assert write(locale=locale, reason=reason) == write(reason=reason)


@pytest.mark.parametrize("locale", ["en", "ru"])
@pytest.mark.parametrize("reason", [None, *REASONS])
def test_no_letter_shows_a_placeholder_or_a_code(locale, reason) -> None:
    text = write(locale=locale, reason=reason)
    assert not any(
        mark in text.subject + text.body
        for mark in ["$", "{", "insufficient-funds", "unknown-user"]
    )
    assert "\n" not in text.subject


@pytest.mark.parametrize(
    "reason", ["out-of-cheese", "pay at http://example.com", "$price", "other"]
)
def test_an_unknown_reason_is_not_quoted(reason) -> None:
    assert write(reason=reason).body == write(reason="another").body
    assert "because the payment was refused." in write(reason=reason).body
    assert "не оплачен: оплата отклонена." in write(reason=reason, locale="ru").body


@pytest.mark.parametrize(
    "username", ["$price", "${order_id}", "$$", "{0}", "%s", "\\1", "<b>", "a: b"]
)
@pytest.mark.parametrize("reason", [None, "cancelled"])
def test_an_unusual_username_is_not_changed(username, reason) -> None:
    assert write(username=username, reason=reason).body.startswith(
        f"Dear {username},\n"
    )


@given(st.integers(1, 2**63 - 1))
def test_amounts_are_exact(price_minor) -> None:
    whole, cents = divmod(price_minor, 100)
    assert f"We took €{whole:,}.{cents:02} from" in write(price_minor=price_minor).body


@pytest.mark.parametrize(
    ("currency", "english", "russian"),
    [
        ("EUR", "€12,345.67", "12\xa0345,67\xa0€"),
        ("USD", "$12,345.67", "12\xa0345,67\xa0$"),
        ("RUB", "RUB12,345.67", "12\xa0345,67\xa0₽"),
        ("JPY", "¥1,234,567", "1\xa0234\xa0567\xa0¥"),
        ("KWD", "KWD1,234.567", "1\xa0234,567\xa0KWD"),
        ("CLF", "CLF123.4567", "123,4567\xa0CLF"),
        ("UYW", "UYW123.4567", "123,4567\xa0UYW"),
        # CLDR, and so Babel, gives these two no digits.
        ("MGA", "MGA12,345.67", "12\xa0345,67\xa0MGA"),
        ("IQD", "IQD1,234.567", "1\xa0234,567\xa0IQD"),
    ],
)
def test_an_amount_has_the_format_of_the_language_and_iso_4217_digits(
    currency, english, russian
) -> None:
    for locale, written in (("en", english), ("ru", russian)):
        text = write(price_minor=1234567, locale=locale, currency=currency)
        assert written in text.body
        assert (
            written
            in write(
                price_minor=1234567, locale=locale, currency=currency, reason="x"
            ).body
        )


def test_every_currency_can_be_written_in_every_language() -> None:
    for locale in LOCALES:
        for currency, digits in ISO_4217_DIGITS.items():
            body = write(price_minor=12345, locale=locale, currency=currency).body
            number = re.search(r"\d[\d.,\xa0]*\d", body.replace(ORDER, ""))
            assert number
            assert len(re.split("[.,]", number[0])[-1] if digits else "") == digits, (
                currency,
                body,
            )

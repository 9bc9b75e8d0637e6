"""billing uses its database only in the configured currency."""

import pytest

from billing import models, store
from billing.database import BillingDatabase
from billing.domain import BooksCurrency


def check_content(
    monkeypatch: pytest.MonkeyPatch, found: BooksCurrency | None, wanted: BooksCurrency
) -> None:
    """Check a database whose books are in `found`, as billing does at its start."""
    monkeypatch.setattr(store, "initialize_books", lambda connection, currency: found)
    books = BillingDatabase(models.Base)
    books.currency = wanted
    books.check_content(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("currency", [BooksCurrency("EUR", 2), BooksCurrency("JPY", 0)])
def test_books_in_the_configured_currency_are_used(monkeypatch, currency) -> None:
    check_content(monkeypatch, currency, currency)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (BooksCurrency("EUR", 2), "the books are in EUR with 2: "),
        (BooksCurrency("JPY", 2), "the books are in JPY with 2: "),
        (None, "the books are of an earlier version, with 2: "),
    ],
)
def test_books_in_another_currency_end_the_start(monkeypatch, found, message) -> None:
    with pytest.raises(SystemExit) as ended:
        check_content(monkeypatch, found, BooksCurrency("JPY", 0))
    line = str(ended.value)
    assert line.startswith("billing: CURRENCY is JPY with 0 digits after the point, ")
    assert message in line
    assert "docs/operations.md" in line
    assert "\n" not in line

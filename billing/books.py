"""The database of billing, and the check that its books are in CURRENCY."""

from sqlalchemy import Connection

from billing import domain, store
from chassis.db import Database
from chassis.settings import ISO_4217_CODE, ISO_4217_DIGITS, read


class Books(Database):
    """Accounts and ledger. Ends the process where their amounts are not in CURRENCY."""

    def check(self) -> None:
        super().check()
        currency = read(self.container.config, "CURRENCY", ISO_4217_CODE)
        self.unit = domain.Unit(currency, ISO_4217_DIGITS[currency])

    def check_content(self, connection: Connection) -> None:
        books = store.claim_unit(connection, self.unit)
        if books != self.unit:
            raise SystemExit(domain.unit_difference(books, self.unit))

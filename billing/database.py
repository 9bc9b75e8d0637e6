"""billing's database.

The service ends if its books are in another currency than the setting CURRENCY.
"""

from sqlalchemy import Connection

from billing import domain, store
from chassis.db import Database
from chassis.settings import ISO_4217_CODE, ISO_4217_DIGITS, read


class BillingDatabase(Database):
    """Accounts and ledger. Ends the process if the books are in another currency."""

    def check(self) -> None:
        super().check()
        code = read(self.container.config, "CURRENCY", ISO_4217_CODE)
        self.currency = domain.BooksCurrency(code, ISO_4217_DIGITS[code])

    def check_content(self, connection: Connection) -> None:
        stored = store.initialize_books(connection, self.currency)
        if stored != self.currency:
            raise SystemExit(domain.currency_error(stored, self.currency))

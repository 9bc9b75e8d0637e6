"""The database of billing, which is used only if its amounts are in the currency CURRENCY."""

from sqlalchemy import Connection

from billing import domain, store
from chassis.db import Database
from chassis.settings import ISO_4217_CODE, ISO_4217_DIGITS, read


class BillingDatabase(Database):
    """Accounts and ledger. Ends the process if their amounts are in another currency."""

    def check(self) -> None:
        super().check()
        currency = read(self.container.config, "CURRENCY", ISO_4217_CODE)
        self.unit = domain.AmountUnit(currency, ISO_4217_DIGITS[currency])

    def check_content(self, connection: Connection) -> None:
        stored = store.initialize_unit(connection, self.unit)
        if stored != self.unit:
            raise SystemExit(domain.unit_error(stored, self.unit))

"""books: the currency of the amounts, and its digits after the point

Without this table, all amounts have two digits, in every currency. Operations in a currency with
other digits must be converted first (docs/operations.md). The conversion creates this table and
its row. Until then this migration fails, and no service of this version starts.
"""

import sqlalchemy as sa
from alembic import context, op
from nameko.exceptions import ConfigurationError

from chassis.migrate import grant
from chassis.settings import ISO_4217_CODE, ISO_4217_DIGITS, read

revision = "0002"
down_revision = "0001"

# The row is outdated if a dump without this table was restored beside it. After a conversion,
# `operations` has a comment, and the row is right.
OUTDATED = (
    "DELETE FROM books"
    " WHERE exponent <> 2 AND obj_description('operations'::regclass) IS NULL"
)
UNCONVERTED = """
    SELECT FROM operations WHERE NOT EXISTS (SELECT FROM books WHERE exponent <> 2) LIMIT 1
"""


def upgrade() -> None:
    op.create_table(
        "books",
        sa.Column("id", sa.SmallInteger, primary_key=True, server_default="1"),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("exponent", sa.SmallInteger, nullable=False),
        sa.CheckConstraint("id = 1", name="one_row"),
        sa.CheckConstraint("exponent BETWEEN 0 AND 4", name="exponent_known"),
        # The conversion created it, or an older dump was restored beside it.
        if_not_exists=True,
    )
    op.execute(OUTDATED)
    currency = read(context.config.attributes["config"], "CURRENCY", ISO_4217_CODE)
    digits = ISO_4217_DIGITS[currency]
    if digits != 2 and op.get_bind().execute(sa.text(UNCONVERTED)).first() is not None:
        raise ConfigurationError(
            f"CURRENCY is {currency} with {digits} digits after the point,"
            " the books of billing are of an earlier version, with 2:"
            " see Another currency in docs/operations.md"
        )
    grant("books", "SELECT, INSERT (currency, exponent)")

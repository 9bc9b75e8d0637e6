"""books: the currency of the amounts, and how many digits its minor unit has"""

import sqlalchemy as sa
from alembic import op

from chassis.migrate import grant

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "books",
        sa.Column("id", sa.SmallInteger, primary_key=True, server_default="1"),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("exponent", sa.SmallInteger, nullable=False),
        sa.CheckConstraint("id = 1", name="one_row"),
        sa.CheckConstraint("exponent BETWEEN 0 AND 4", name="exponent_known"),
        if_not_exists=True,  # restoring a dump that is older than the table leaves the table there
    )
    # UPDATE: until the first operation the currency may change.
    grant("books", "SELECT, INSERT (currency, exponent), UPDATE (currency, exponent)")

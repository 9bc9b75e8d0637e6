"""accounts and operations"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import UUID

from chassis.migrate import grant

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("user_id", UUID(as_uuid=False), primary_key=True),
        sa.Column("balance_minor", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("last_seq", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column(
            "opened_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.now(),
        ),
        sa.CheckConstraint("balance_minor >= 0", name="balance_never_negative"),
    )
    op.create_table(
        "operations",
        sa.Column("id", UUID(as_uuid=False), primary_key=True),
        sa.Column("ref", sa.Text, nullable=False, unique=True),
        sa.Column("user_id", UUID(as_uuid=False), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("amount_minor", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("balance_after_minor", sa.BigInteger, nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.now(),
        ),
        sa.CheckConstraint("kind IN ('deposit', 'withdrawal')", name="kind_known"),
        sa.CheckConstraint("status IN ('done', 'refused')", name="status_known"),
        sa.CheckConstraint(
            "(reason IS NULL) = (status = 'done')", name="refusals_have_reasons"
        ),
        sa.CheckConstraint("amount_minor > 0", name="amount_positive"),
    )
    op.create_index(
        "operations_by_account",
        "operations",
        ["user_id", "seq"],
        unique=True,
        postgresql_where=sa.text("seq > 0"),
    )
    # The ledger is append-only: the service has no right to update or delete a row.
    grant("operations", "SELECT, INSERT")
    grant("accounts", "SELECT, INSERT, UPDATE (balance_minor, last_seq)")

"""orders and the outbox"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, UUID

from chassis.migrate import grant

revision = "0001"
down_revision = None


def upgrade() -> None:
    now = sa.func.now()
    op.create_table(
        "orders",
        sa.Column("id", UUID(as_uuid=False), primary_key=True),
        sa.Column("user_id", UUID(as_uuid=False), nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("price_minor", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False, server_default="pending"),
        sa.Column("reason", sa.Text),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), nullable=False, server_default=now
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint(
            "status IN ('pending', 'paid', 'rejected')", name="status_known"
        ),
        sa.CheckConstraint(
            "(reason IS NOT NULL) = (status = 'rejected')",
            name="rejections_have_reasons",
        ),
        sa.CheckConstraint(
            "(ended_at IS NULL) = (status = 'pending')", name="ended_when_settled"
        ),
        sa.CheckConstraint("price_minor > 0", name="price_positive"),
    )
    op.create_index("orders_by_key", "orders", ["user_id", "key"], unique=True)
    op.create_index("orders_by_user", "orders", ["user_id", "id"])
    op.create_index(
        "orders_pending",
        "orders",
        ["next_attempt_at"],
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_table(
        "outbox",
        sa.Column("event_id", UUID(as_uuid=False), primary_key=True),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("payload", JSONB, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), nullable=False, server_default=now
        ),
        sa.Column("sent_at", sa.DateTime(timezone=True)),
    )
    op.create_index(
        "outbox_unsent",
        "outbox",
        ["event_id"],
        postgresql_where=sa.text("sent_at IS NULL"),
    )
    # The database refuses each change of a settled order, even if the code has a bug.
    op.execute(
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'order % has ended', OLD.id; END $$"
    )
    op.execute(
        "CREATE TRIGGER ended_orders_stay BEFORE UPDATE ON orders FOR EACH ROW"
        " WHEN (OLD.status <> 'pending') EXECUTE FUNCTION refuse_change()"
    )
    grant(
        "orders",
        "SELECT, INSERT, UPDATE (status, reason, ended_at, attempts, next_attempt_at)",
    )
    grant("outbox", "SELECT, INSERT, UPDATE, DELETE")

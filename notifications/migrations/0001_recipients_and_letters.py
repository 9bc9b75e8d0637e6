"""recipients and letters"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import UUID

from chassis.migrate import grant

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "recipients",
        sa.Column("user_id", UUID(as_uuid=False), primary_key=True),
        sa.Column("username", sa.Text, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("locale", sa.Text, nullable=False),
    )
    op.create_table(
        "letters",
        sa.Column("id", UUID(as_uuid=False), primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("order_id", UUID(as_uuid=False), unique=True),
        sa.Column("user_id", UUID(as_uuid=False)),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.now(),
        ),
        sa.CheckConstraint(
            "kind IN ('happiness', 'grief', 'message')", name="kind_known"
        ),
        sa.CheckConstraint(
            "(order_id IS NULL) = (kind = 'message')", name="orders_have_outcomes"
        ),
    )
    op.create_index("letters_by_user", "letters", ["user_id", "id"])
    op.create_index("letters_by_email", "letters", ["email", "id"])
    grant("recipients", "SELECT, INSERT")
    grant("letters", "SELECT, INSERT")

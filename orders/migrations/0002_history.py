"""history: the time of the sweeper's last attempt, and the id of an order's event

Orders of earlier versions have neither. Both columns are written by updates that change the order
anyway. No column is named `event_id`: it would be ambiguous in SETTLE of earlier versions.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import UUID

from chassis.migrate import grant

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("orders", sa.Column("last_attempt_at", sa.DateTime(timezone=True)))
    op.add_column("orders", sa.Column("settlement_event_id", UUID(as_uuid=False)))
    grant("orders", "UPDATE (last_attempt_at, settlement_event_id)")

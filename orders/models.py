"""The tables of orders. Prices are in minor units (such as cents), as bigint."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.orm import DeclarativeBase

from chassis.outbox import outbox_table


class Base(DeclarativeBase):
    """The base of all tables. nameko-sqlalchemy finds the URI of the database by its name."""


# `key` is the client's idempotency key: a user has at most one order with it.
# `attempts` and `next_attempt_at` schedule the sweeper's retries of a pending order.
# `settlement_event_id` is the event of a settled order. The outbox deletes it some time after it
# was sent. No column is named `event_id`: it would be ambiguous in SETTLE of earlier versions.
ORDERS = Table(
    "orders",
    Base.metadata,
    Column("id", UUID(as_uuid=False), primary_key=True),
    Column("user_id", UUID(as_uuid=False), nullable=False),
    Column("key", Text, nullable=False),
    Column("price_minor", BigInteger, nullable=False),
    Column("status", Text, nullable=False, server_default="pending"),
    Column("reason", Text),
    Column("request_id", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("last_attempt_at", DateTime(timezone=True)),
    Column("next_attempt_at", DateTime(timezone=True), nullable=False),
    Column(
        "created_at", DateTime(timezone=True), nullable=False, server_default=func.now()
    ),
    Column("ended_at", DateTime(timezone=True)),
    Column("settlement_event_id", UUID(as_uuid=False)),
    CheckConstraint("status IN ('pending', 'paid', 'rejected')", name="status_known"),
    CheckConstraint(
        "(reason IS NOT NULL) = (status = 'rejected')", name="rejections_have_reasons"
    ),
    CheckConstraint(
        "(ended_at IS NULL) = (status = 'pending')", name="ended_when_settled"
    ),
    CheckConstraint("price_minor > 0", name="price_positive"),
    Index("orders_by_key", "user_id", "key", unique=True),
    Index("orders_by_user", "user_id", "id"),
    Index(
        "orders_pending", "next_attempt_at", postgresql_where=text("status = 'pending'")
    ),
)
outbox_table(Base.metadata)

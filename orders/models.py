"""The tables of orders. Prices are in minor units (cents), as bigint."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, DateTime, Index, Integer, Text, func
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from chassis.outbox import OutboxMixin, unsent_index


class Base(DeclarativeBase):
    """All tables of this service; nameko-sqlalchemy finds the database by this name."""


class Order(Base):
    """An order; a user's `key` (the client's idempotency key) makes it happen at most once.

    `attempts` and `next_attempt_at` are the sweeper's: when to settle next what is still pending.
    """

    __tablename__ = "orders"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'paid', 'rejected')", name="status_known"),
        CheckConstraint("(reason IS NOT NULL) = (status = 'rejected')", name="rejections_have_reasons"),
        CheckConstraint("(ended_at IS NULL) = (status = 'pending')", name="ended_when_settled"),
        CheckConstraint("price_minor > 0", name="price_positive"),
    )

    id: Mapped[str] = mapped_column(UUID(as_uuid=False), primary_key=True)
    user_id: Mapped[str] = mapped_column(UUID(as_uuid=False))
    key: Mapped[str] = mapped_column(Text)
    price_minor: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(Text, server_default="pending")
    reason: Mapped[str | None] = mapped_column(Text)
    request_id: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    next_attempt_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Outbox(OutboxMixin, Base):
    """Events that wait for the relay."""


unsent_index(Outbox)
Index("orders_by_key", Order.user_id, Order.key, unique=True)
Index("orders_by_user", Order.user_id, Order.id)
Index("orders_pending", Order.next_attempt_at, postgresql_where=Order.status == "pending")

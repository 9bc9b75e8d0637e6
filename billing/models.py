"""The tables of billing. Money is in minor units (cents), as bigint."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, DateTime, Index, Text, func
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """All tables of this service; nameko-sqlalchemy finds the database by this name."""


class Account(Base):
    """One for each user. `balance_minor` is a cache of the ledger: the sum of its done operations."""

    __tablename__ = "accounts"
    __table_args__ = (CheckConstraint("balance_minor >= 0", name="balance_never_negative"),)

    user_id: Mapped[str] = mapped_column(UUID(as_uuid=False), primary_key=True)
    balance_minor: Mapped[int] = mapped_column(BigInteger, server_default="0")
    last_seq: Mapped[int] = mapped_column(BigInteger, server_default="0")
    opened_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class Operation(Base):
    """The ledger, append-only; the record of idempotency keys and the inbox at once, by `ref`.

    `seq` counts an account's operations from 1 in the order they took effect; 0 stands for the
    refusals of users nobody knows, who have no account.
    """

    __tablename__ = "operations"
    __table_args__ = (
        CheckConstraint("kind IN ('deposit', 'withdrawal')", name="kind_known"),
        CheckConstraint("status IN ('done', 'refused')", name="status_known"),
        CheckConstraint("(reason IS NULL) = (status = 'done')", name="refusals_have_reasons"),
        CheckConstraint("amount_minor > 0", name="amount_positive"),
    )

    id: Mapped[str] = mapped_column(UUID(as_uuid=False), primary_key=True)
    ref: Mapped[str] = mapped_column(Text, unique=True)
    user_id: Mapped[str] = mapped_column(UUID(as_uuid=False))
    seq: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(Text)
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    balance_after_minor: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


Index(
    "operations_by_account",
    Operation.user_id,
    Operation.seq,
    unique=True,
    postgresql_where=Operation.seq > 0,
)

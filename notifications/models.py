"""The tables of notifications."""

from datetime import datetime

from sqlalchemy import CheckConstraint, DateTime, Index, Text, func
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """All tables of this service; nameko-sqlalchemy finds the database by this name."""


class Recipient(Base):
    """Who gets letters: what `user_created` told about a user."""

    __tablename__ = "recipients"

    user_id: Mapped[str] = mapped_column(UUID(as_uuid=False), primary_key=True)
    username: Mapped[str] = mapped_column(Text)
    email: Mapped[str] = mapped_column(Text)
    locale: Mapped[str] = mapped_column(Text)


class Letter(Base):
    """A letter as it was sent. An order gets one letter: `order_id` is unique."""

    __tablename__ = "letters"
    __table_args__ = (
        CheckConstraint("kind IN ('happiness', 'grief', 'message')", name="kind_known"),
        CheckConstraint("(order_id IS NULL) = (kind = 'message')", name="orders_have_outcomes"),
    )

    id: Mapped[str] = mapped_column(UUID(as_uuid=False), primary_key=True)
    kind: Mapped[str] = mapped_column(Text)
    order_id: Mapped[str | None] = mapped_column(UUID(as_uuid=False), unique=True)
    user_id: Mapped[str | None] = mapped_column(UUID(as_uuid=False))
    email: Mapped[str] = mapped_column(Text)
    subject: Mapped[str] = mapped_column(Text)
    body: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


Index("letters_by_user", Letter.user_id, Letter.id)
Index("letters_by_email", Letter.email, Letter.id)

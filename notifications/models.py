"""The tables of notifications."""

from sqlalchemy import CheckConstraint, Column, DateTime, Index, Table, Text, func
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.orm import DeclarativeBase


class Base(DeclarativeBase):
    """The base of all tables. nameko-sqlalchemy finds the URI of the database by its name."""


# The users who receive letters, with the fields of `user_created`.
RECIPIENTS = Table(
    "recipients",
    Base.metadata,
    Column("user_id", UUID(as_uuid=False), primary_key=True),
    Column("username", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("locale", Text, nullable=False),
)

# Letters as they were sent. `order_id` is unique, so an order has one letter at most.
LETTERS = Table(
    "letters",
    Base.metadata,
    Column("id", UUID(as_uuid=False), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("order_id", UUID(as_uuid=False), unique=True),
    Column("user_id", UUID(as_uuid=False)),
    Column("email", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column(
        "created_at", DateTime(timezone=True), nullable=False, server_default=func.now()
    ),
    CheckConstraint("kind IN ('happiness', 'grief', 'message')", name="kind_known"),
    CheckConstraint(
        "(order_id IS NULL) = (kind = 'message')", name="orders_have_outcomes"
    ),
    Index("letters_by_user", "user_id", "id"),
    Index("letters_by_email", "email", "id"),
)

"""The tables of users."""

from sqlalchemy import Column, DateTime, Table, Text, func
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.orm import DeclarativeBase

from chassis.outbox import outbox_table


class Base(DeclarativeBase):
    """The base of all tables. nameko-sqlalchemy finds the URI of the database by its name."""


# `username_key` and `email_key` are unique forms (domain.py). `username` is stored as the client
# wrote it, and `email` in normalized form. Rows of earlier versions have `email` as written.
USERS = Table(
    "users",
    Base.metadata,
    Column("id", UUID(as_uuid=False), primary_key=True),
    Column("username", Text, nullable=False),
    Column("username_key", Text, nullable=False, unique=True),
    Column("email", Text, nullable=False),
    Column("email_key", Text, nullable=False, unique=True),
    Column("locale", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column(
        "created_at", DateTime(timezone=True), nullable=False, server_default=func.now()
    ),
)
outbox_table(Base.metadata)

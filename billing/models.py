"""The tables of billing. Money is in minor units (such as cents), as bigint."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    SmallInteger,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.orm import DeclarativeBase


class Base(DeclarativeBase):
    """The base of all tables. nameko-sqlalchemy finds the URI of the database by its name."""


# One row for each user. `balance_minor` is a cache: done deposits minus done withdrawals.
ACCOUNTS = Table(
    "accounts",
    Base.metadata,
    Column("user_id", UUID(as_uuid=False), primary_key=True),
    Column("balance_minor", BigInteger, nullable=False, server_default="0"),
    Column("last_seq", BigInteger, nullable=False, server_default="0"),
    Column(
        "opened_at", DateTime(timezone=True), nullable=False, server_default=func.now()
    ),
    CheckConstraint("balance_minor >= 0", name="balance_never_negative"),
)

# The ledger. Rows are only added. `ref` makes each request idempotent.
# `seq` numbers the operations of an account from 1. It is 0 if the user has no account. Such an
# operation is always refused.
OPERATIONS = Table(
    "operations",
    Base.metadata,
    Column("id", UUID(as_uuid=False), primary_key=True),
    Column("ref", Text, nullable=False, unique=True),
    Column("user_id", UUID(as_uuid=False), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("balance_after_minor", BigInteger, nullable=False),
    Column(
        "created_at", DateTime(timezone=True), nullable=False, server_default=func.now()
    ),
    CheckConstraint("kind IN ('deposit', 'withdrawal')", name="kind_known"),
    CheckConstraint("status IN ('done', 'refused')", name="status_known"),
    CheckConstraint(
        "(reason IS NULL) = (status = 'done')", name="refusals_have_reasons"
    ),
    CheckConstraint("amount_minor > 0", name="amount_positive"),
    Index(
        "operations_by_account",
        "user_id",
        "seq",
        unique=True,
        postgresql_where=text("seq > 0"),
    ),
)

# The currency of the books. There is one row, and it never changes.
BOOKS = Table(
    "books",
    Base.metadata,
    Column("id", SmallInteger, primary_key=True, server_default="1"),
    Column("currency", Text, nullable=False),
    Column("exponent", SmallInteger, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
    CheckConstraint("exponent BETWEEN 0 AND 4", name="exponent_known"),
)

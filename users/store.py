"""SQL of users."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, or_, select
from sqlalchemy.dialects.postgresql import insert

from users.models import USERS

PUBLIC = (USERS.c.id, USERS.c.username, USERS.c.email, USERS.c.locale)
UNIQUE = (USERS.c.id, USERS.c.username_key, USERS.c.email_key)


def insert_new(connection: Connection, user: Mapping[str, Any]) -> bool:
    """Store a user; False where its id, username or address is taken."""
    statement = (
        insert(USERS).values(**user).on_conflict_do_nothing().returning(USERS.c.id)
    )
    return connection.execute(statement).scalar() is not None


def holders(connection: Connection, user: Mapping[str, Any]) -> list[RowMapping]:
    """Who has this id, username or address."""
    statement = select(*PUBLIC, USERS.c.username_key, USERS.c.email_key).where(
        or_(*[column == user[column.key] for column in UNIQUE])
    )
    return list(connection.execute(statement).mappings())


def by_ids(connection: Connection, ids: Sequence[str]) -> dict[str, RowMapping]:
    """The users with these ids, by id."""
    rows = connection.execute(select(*PUBLIC).where(USERS.c.id.in_(ids))).mappings()
    return {row["id"]: row for row in rows}


def by_username(connection: Connection, username_key: str) -> RowMapping | None:
    """A user with the password hash."""
    statement = select(*PUBLIC, USERS.c.password_hash).where(
        USERS.c.username_key == username_key
    )
    return connection.execute(statement).mappings().first()

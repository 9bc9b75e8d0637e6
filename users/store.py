"""The SQL of users: one statement for each function."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, text

PUBLIC_COLUMNS = "id, username, email, locale"

# Insert a user, unless the id, the username or the address is taken.
INSERT_NEW = text("""
    INSERT INTO users (id, username, username_key, email, email_key, locale, password_hash)
    VALUES (:id, :username, :username_key, :email, :email_key, :locale, :password_hash)
    ON CONFLICT DO NOTHING
    RETURNING id
""")

# Read the users with this id, username or address.
SELECT_CONFLICTING = text(f"""
    SELECT {PUBLIC_COLUMNS}, username_key, email_key
    FROM users
    WHERE id = CAST(:id AS uuid) OR username_key = :username_key OR email_key = :email_key
""")

# Read the users with these ids.
SELECT_BY_IDS = text(f"""
    SELECT {PUBLIC_COLUMNS}
    FROM users
    WHERE id = ANY(CAST(:ids AS uuid[]))
""")

# Read the user with this username, and the password hash.
SELECT_BY_USERNAME = text(f"""
    SELECT {PUBLIC_COLUMNS}, password_hash
    FROM users
    WHERE username_key = :username_key
""")


def insert_new(connection: Connection, user: Mapping[str, Any]) -> bool:
    """Insert a user. Return False if the id, the username or the address is taken."""
    return connection.execute(INSERT_NEW, dict(user)).scalar() is not None


def load_conflicting(
    connection: Connection, user: Mapping[str, Any]
) -> Sequence[RowMapping]:
    """Load the users that have the id, the username or the address of `user`."""
    return connection.execute(SELECT_CONFLICTING, dict(user)).mappings().all()


def load_by_ids(connection: Connection, ids: Sequence[str]) -> dict[str, RowMapping]:
    """Load the users with these ids, by id."""
    rows = connection.execute(SELECT_BY_IDS, {"ids": ids}).mappings()
    return {row["id"]: row for row in rows}


def load_by_username(connection: Connection, username_key: str) -> RowMapping | None:
    """Load the user with this username in its unique form, with the password hash."""
    rows = connection.execute(SELECT_BY_USERNAME, {"username_key": username_key})
    return rows.mappings().first()

"""The service users: dependencies, then RPC methods."""

from collections.abc import Sequence
from typing import Any

import uuid_utils
from sqlalchemy import RowMapping

from chassis.db import Database
from chassis.outbox import Outbox
from chassis.outcomes import Outcome, check_list, validated
from chassis.rpc import rpc
from chassis.schemas import is_id
from users import domain, models, passwords, schemas, store
from users.events import user_created

USER = schemas.PublicUser()


class Service:
    """Sign-up, login and profiles."""

    name = "users"

    db = Database(models.Base)
    outbox = Outbox()

    @rpc(sensitive_arguments=("password",))
    @validated(schemas.NewUser())
    def create(self, password: str, **profile: Any) -> Outcome:
        """Create a user: `username`, `email`, `password`, `locale` (en-US, say), `id` (optional).

        Returns {"status": "created", "user": {...}}, also for a retry with the same `id`. Otherwise
        returns {"status": "taken" or "invalid", "errors": {field: [message, ...]}}.
        """
        with passwords.hashing_slot(profile["username"]):
            password_hash = passwords.hash_password(password)
        user = {
            "id": str(uuid_utils.uuid7()),
            **profile,
            "username_key": domain.normalize(profile["username"]),
            **domain.address_forms(profile["email"]),
            "locale": domain.locale_of(profile["locale"]),
            "password_hash": password_hash,
        }
        with self.db.transaction() as connection:
            if not store.insert_new(connection, user):
                return _conflict(user, store.load_conflicting(connection, user))
            self.outbox.stage(connection, [user_created(user)])
        return {"status": "created", "user": USER.dump(user)}

    @rpc
    def get_many(self, user_ids: list[str]) -> list[Outcome | None]:
        """Return the users with these ids, in order. An unknown id has None."""
        check_list(user_ids, "user_ids")
        with self.db.autocommit() as connection:
            found = store.load_by_ids(
                connection, [id_ for id_ in user_ids if is_id(id_)]
            )
        return [
            USER.dump(found[id_]) if is_id(id_) and id_ in found else None
            for id_ in user_ids
        ]

    @rpc
    def get(self, user_id: str) -> Outcome | None:
        """Return the user with this id, or None."""
        return self.get_many([user_id])[0]

    @rpc(sensitive_arguments=("password",))
    def authenticate(self, username: str, password: str) -> Outcome | None:
        """Return the user with this username and password, or None.

        The outcome does not show which of the two was wrong.
        """
        if schemas.Credentials().validate({"username": username, "password": password}):
            return None
        with passwords.hashing_slot(username):
            with self.db.autocommit() as connection:
                user = store.load_by_username(connection, domain.normalize(username))
            is_valid = passwords.verify_password(user, password)
        return USER.dump(user) if is_valid else None


def _conflict(user: dict[str, Any], others: Sequence[RowMapping]) -> Outcome:
    """Return the outcome of a sign-up whose id, username or address others have.

    If the only other one is the same user, the sign-up was redelivered. Its outcome is the first
    one's.
    """
    errors = domain.conflicts(user, others)
    [other, *more] = others
    if other["id"] == user["id"] and not more and set(errors) == {"username", "email"}:
        return {"status": "created", "user": USER.dump(other)}
    return {"status": "taken", "errors": errors or {"id": ["This id is taken."]}}

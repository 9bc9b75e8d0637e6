"""users, top to bottom: what it needs, what it answers."""

from typing import Any

import uuid_utils

from chassis.db import Database
from chassis.outbox import Outbox
from chassis.outcomes import Outcome, check_list, validated
from chassis.rpc import rpc
from chassis.schemas import is_id
from users import domain, models, passwords, store
from users.events import user_created
from users.schemas import Credentials, NewUser, PublicUser

USER = PublicUser()


class Service:
    """Sign-up, profiles and login."""

    name = "users"

    db = Database(models.Base)
    outbox = Outbox()

    @rpc(sensitive_arguments=("password",))
    @validated(NewUser())
    def create(self, password: str, **wanted: Any) -> Outcome:
        """Sign a user up: `username`, `email`, `password`, `locale` (as en-US), `id` (made if not given).

        {"status": "created", "user": {...}}, the same again for the same `id`; else
        {"status": "taken" or "invalid", "errors": {field: [...]}}."""
        with passwords.slot(wanted["username"]):
            password_hash = passwords.hash_password(password)
        user = {
            "id": str(uuid_utils.uuid7()),
            **wanted,
            "username_key": domain.fold(wanted["username"]),
            **domain.address_forms(wanted["email"]),
            "locale": domain.locale(wanted["locale"]),
            "password_hash": password_hash,
        }
        with self.db.transaction() as connection:
            if not store.insert_new(connection, user):
                return _not_inserted(user, store.holders(connection, user))
            self.outbox.stage(connection, [user_created(user)])
        return {"status": "created", "user": USER.dump(user)}

    @rpc
    def get_many(self, user_ids: list[str]) -> list[Outcome | None]:
        """The users with these ids, in their order; None for an id that nobody has."""
        check_list(user_ids, "user_ids")
        with self.db.autocommit() as connection:
            found = store.by_ids(connection, [id_ for id_ in user_ids if is_id(id_)])
        return [
            USER.dump(found[id_]) if is_id(id_) and id_ in found else None
            for id_ in user_ids
        ]

    @rpc
    def get(self, user_id: str) -> Outcome | None:
        """The user with this id, or None."""
        return self.get_many([user_id])[0]

    @rpc(sensitive_arguments=("password",))
    def authenticate(self, username: str, password: str) -> Outcome | None:
        """The user whose username and password these are, or None. Never tells which was wrong."""
        if Credentials().validate({"username": username, "password": password}):
            return None
        with passwords.slot(username):
            with self.db.autocommit() as connection:
                user = store.by_username(connection, domain.fold(username))
            return (
                USER.dump(user) if passwords.verify_password(user, password) else None
            )


def _not_inserted(row: dict[str, Any], holders: list[Any]) -> Outcome:
    """A redelivered sign-up (same id, same names) is answered as the first; else what is taken."""
    errors = domain.taken(row, holders)
    [holder, *others] = holders
    if (
        holder["id"] == row["id"]
        and not others
        and set(errors) == {"username", "email"}
    ):
        return {"status": "created", "user": USER.dump(holder)}
    return {"status": "taken", "errors": errors or {"id": ["This id is taken."]}}

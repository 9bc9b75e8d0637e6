"""The events that users emits."""

from typing import Any

from chassis.outbox import NewEvent
from users.schemas import PublicUser


def user_created(user: Any) -> NewEvent:
    """Build `user_created` from a mapping or a row with the fields of PublicUser."""
    fields = PublicUser().dump(user)
    return "user_created", {"user_id": fields.pop("id"), **fields}

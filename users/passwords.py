"""Password hashing: Argon2id, 19 MiB, two passes, one lane (OWASP Password Storage Cheat Sheet).

A caller must hold a slot to hash or verify a password. There are two slots.
"""

import logging
from contextlib import AbstractContextManager

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError, VerifyMismatchError
from eventlet import tpool
from sqlalchemy import RowMapping

from chassis.logs import current_client
from chassis.patches import return_large_blocks
from users.domain import fold
from users.fair_queue import FairQueue

log = logging.getLogger(__name__)

AT_ONCE = 2  # each takes 19 MiB and a core for 0.05 s
MAX_WAITING = 100  # 2.5 s of hashing, half of a caller's timeout

tpool.set_num_threads(AT_ONCE)
return_large_blocks()  # else each thread keeps its last 19 MiB

_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_queue = FairQueue(AT_ONCE, MAX_WAITING)
_NOBODYS = _hasher.hash("nobody has this password")


def slot(username: str) -> AbstractContextManager[None]:
    """Wait for a slot and hold it. Raises Unavailable if its place is given to another caller.

    Clients and usernames share the turns. Take it before anything else: a refusal is cheap then.
    """
    return _queue.slot(current_client(), fold(username))


def hash_password(password: str) -> str:
    """The hash, with its salt and parameters."""
    return str(
        tpool.execute(_hasher.hash, password)
    )  # in a thread: the event loop goes on


def verify_password(user: RowMapping | None, password: str) -> bool:
    """Whether `password` is that of `user`; as slow for a user who does not exist (None)."""
    try:
        tpool.execute(
            _hasher.verify, user["password_hash"] if user else _NOBODYS, password
        )
    except VerifyMismatchError:
        return False
    except (VerificationError, ValueError):  # the hash is damaged, or of another kind
        log.error("password_hash_unreadable", extra={"user_id": user and user["id"]})
        return False
    return user is not None

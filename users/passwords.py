"""Password hashing with Argon2id: 19 MiB, two passes, one lane.

These parameters are those of the OWASP Password Storage Cheat Sheet.
Hashing takes a core for 50 ms, so a caller needs one of two slots. Callers share them fairly.
"""

import logging
from contextlib import AbstractContextManager

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError, VerifyMismatchError
from eventlet import tpool
from sqlalchemy import RowMapping

from chassis.logs import current_client
from chassis.patches import return_large_blocks
from users.domain import normalize
from users.fair_queue import FairQueue

log = logging.getLogger(__name__)

MAX_CONCURRENT = 2
# Hashing for all of them takes 2.5 s, half of a caller's timeout.
MAX_WAITING = 100

tpool.set_num_threads(MAX_CONCURRENT)
# Otherwise each thread keeps the 19 MiB of its last hash.
return_large_blocks()

_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_queue = FairQueue(MAX_CONCURRENT, MAX_WAITING)
# Verified for an unknown user, so that it takes as long as for a known one.
_DUMMY_HASH = _hasher.hash("a password that no user has")


def hashing_slot(username: str) -> AbstractContextManager[None]:
    """Return a context that holds a slot. Clients and usernames share the slots fairly.

    Entering it waits for the slot, and raises Unavailable if the queue is full. Enter it before
    any other work, so that a refusal is cheap.
    """
    return _queue.slot(current_client(), normalize(username))


def hash_password(password: str) -> str:
    """Hash a password in a thread, so that the event loop is not blocked.

    The hash contains its salt and parameters.
    """
    return str(tpool.execute(_hasher.hash, password))


def verify_password(user: RowMapping | None, password: str) -> bool:
    """Return whether `password` is that of `user`. It takes as long if `user` is None."""
    password_hash = user["password_hash"] if user else _DUMMY_HASH
    try:
        tpool.execute(_hasher.verify, password_hash, password)
    except VerifyMismatchError:
        return False
    except (VerificationError, ValueError):
        # The hash is damaged, or of another algorithm.
        log.error("password_hash_unreadable", extra={"user_id": user and user["id"]})
        return False
    return user is not None

"""Password hashing: Argon2id, 19 MiB, two passes, one lane (OWASP Password Storage Cheat Sheet).

Hashing waits for a slot, in which the client (chassis.logs.current_client) and the username count.
"""

import ctypes
import logging

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError, VerifyMismatchError
from eventlet import tpool

from chassis.logs import current_client
from users.fair_queue import FairQueue

log = logging.getLogger(__name__)

M_MMAP_THRESHOLD = -3  # from <malloc.h>
AT_ONCE = 2  # each takes 19 MiB and a core for 0.05 s
MAX_WAITING = 100  # whoever comes later would wait longer than his caller does

tpool.set_num_threads(AT_ONCE)
if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # glibc; else each thread keeps its 19 MiB
    mallopt(M_MMAP_THRESHOLD, 1024 * 1024)  # larger blocks go back to the system when they are freed

_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_queue = FairQueue(AT_ONCE, MAX_WAITING)
_NOBODYS = _hasher.hash("nobody has this password")


def hash_password(password: str, username: str) -> str:
    """The hash, with its salt and parameters. Raises Unavailable where too many wait."""
    with _queue.slot(current_client(), username):  # in a thread: the event loop goes on
        return str(tpool.execute(_hasher.hash, password))


def verify_password(password_hash: str | None, password: str, username: str) -> bool:
    """Whether `password` is the one; as slow for a user who does not exist (None). Raises as above."""
    with _queue.slot(current_client(), username):
        try:
            tpool.execute(_hasher.verify, password_hash or _NOBODYS, password)
        except VerifyMismatchError:
            return False
        except (VerificationError, ValueError):  # the hash is damaged, or of another kind
            log.error("stored password hash is unreadable", extra={"username": username})
            return False
    return password_hash is not None

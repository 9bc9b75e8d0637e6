"""Password hashing: Argon2id, 19 MiB, two passes, one lane (OWASP Password Storage Cheat Sheet)."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from eventlet import tpool
from eventlet.semaphore import Semaphore

from chassis.errors import Unavailable

M_MMAP_THRESHOLD = -3  # from <malloc.h>
AT_ONCE = 2  # each takes 19 MiB and a core for 0.05 s
MOST_WAITING = 100  # whoever comes later would wait longer than his caller does

tpool.set_num_threads(AT_ONCE)
if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # glibc; else each thread keeps its 19 MiB
    mallopt(M_MMAP_THRESHOLD, 1024 * 1024)  # larger blocks go back to the system when they are freed

_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_turns = Semaphore(AT_ONCE)
_NOBODYS = _hasher.hash("nobody has this password")


@contextmanager
def _turn() -> Iterator[None]:
    """A turn at hashing. Raises Unavailable where too many wait: other calls need workers, too."""
    if _turns.balance <= -MOST_WAITING:
        raise Unavailable("too many passwords wait to be hashed")
    with _turns:
        yield


def hash_password(password: str) -> str:
    """The hash, with its salt and parameters. Raises Unavailable where too many wait."""
    with _turn():  # in a thread: the event loop goes on
        return str(tpool.execute(_hasher.hash, password))


def verify_password(password_hash: str | None, password: str) -> bool:
    """Whether `password` is the one; as slow for a user who does not exist (None). Raises as above."""
    with _turn():
        try:
            tpool.execute(_hasher.verify, password_hash or _NOBODYS, password)
        except VerifyMismatchError:
            return False
    return password_hash is not None

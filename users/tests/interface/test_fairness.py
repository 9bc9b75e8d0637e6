"""Logins during many guesses, with a real broker and database."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import monotonic
from typing import Any

import eventlet
import pytest
from argon2 import PasswordHasher

from chassis.errors import DeadlineExceeded, Unavailable
from chassis.logs import bind_client
from chassis.rpc import RpcProxy
from chassis.tests.conftest import dependency
from conftest import eventually
from users import passwords

BOB = {"username": "bob", "password": "correct horse"}
GUESSES = 200  # at a time
MAX_RATIO = 10
# A login without guesses may be quicker than this on a fast machine.
FLOOR_S = 0.2


class Gateway:
    """Calls users for several clients."""

    name = "caller"

    users = RpcProxy("users", ["authenticate", "create"])


@pytest.fixture
def call(users, run, config, caplog) -> Iterator[Callable[..., Any]]:
    """`call(address, method, ...)` calls users for the client at this address."""
    # As in config.yaml. Nameko logs a traceback for each refusal.
    caplog.set_level("CRITICAL")
    workers = {**config["WORKERS"], "caller": 4 * GUESSES}
    proxy = dependency(run(Gateway, WORKERS=workers), "users")

    def make(address: str, method: str, **arguments: Any) -> Any:
        bind_client({"client": address})
        return getattr(proxy, method)(**arguments)

    yield make
    bind_client({})


@pytest.fixture
def quick_hashes(monkeypatch) -> None:
    """Hash with a fifth of the work, so that the queue is five times as fast."""
    hasher = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1)
    monkeypatch.setattr(passwords, "_hasher", hasher)
    monkeypatch.setattr(
        passwords, "_DUMMY_HASH", hasher.hash("a password that no user has")
    )


@contextmanager
def guessing(call: Callable[..., Any]) -> Iterator[Counter[str]]:
    """Let one client guess passwords for many names at once. Yield the counts of the results."""
    results: Counter[str] = Counter()
    is_over: list[bool] = []

    def guess(number: int) -> None:
        while not is_over:
            try:
                call(
                    "192.0.2.66",
                    "authenticate",
                    username=f"name{number}",
                    password="guess",
                )
                results["wrong"] += 1
            except (Unavailable, DeadlineExceeded):
                results["refused"] += 1
                eventlet.sleep(0.5)  # clients over HTTP are slower, too

    threads = [eventlet.spawn(guess, number) for number in range(GUESSES)]
    try:
        yield results
    finally:
        is_over.append(True)
        for thread in threads:
            thread.wait()


def test_guesses_neither_block_nor_delay_another_client(call, quick_hashes) -> None:
    def login_s() -> float:
        started = monotonic()
        assert call("192.0.2.1", "authenticate", **BOB)["username"] == "bob"
        return monotonic() - started

    new_users = [{**BOB, "email": "bob@example.com"}]
    new_users.append({**BOB, "username": "cid", "email": "cid@example.com"})
    bob, cid = new_users
    assert call("192.0.2.1", "create", **bob)["status"] == "created"
    alone_s = median(login_s() for _ in range(5))
    with guessing(call) as results:
        # Then the queue is full.
        eventually(lambda: results["refused"] and results["wrong"])
        beside_s = [login_s() for _ in range(10)]
        assert call("192.0.2.1", "create", **cid)["status"] == "created"
    assert max(beside_s) <= MAX_RATIO * max(alone_s, FLOOR_S), (
        alone_s,
        beside_s,
        results,
    )

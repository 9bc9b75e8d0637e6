"""Password hashing."""

import eventlet
import pytest
from eventlet.event import Event

from chassis.errors import Unavailable
from chassis.logs import bind_client
from users import passwords
from users.passwords import MAX_CONCURRENT, MAX_WAITING, hashing_slot


def hash_password(password: str) -> str:
    with hashing_slot("ann"):
        return passwords.hash_password(password)


def verify_password(password_hash: str | None, password: str) -> bool:
    user = password_hash and {"id": "1", "password_hash": password_hash}
    with hashing_slot("ann"):
        return passwords.verify_password(user or None, password)


@pytest.fixture
def ticks():
    """A list that grows each time another greenthread runs."""
    counted = []

    def tick() -> None:
        while True:
            counted.append(1)
            eventlet.sleep(0)

    ticking = eventlet.spawn(tick)
    yield counted
    ticking.kill()


def test_a_hash_has_the_parameters_of_owasp() -> None:
    assert hash_password("correct horse").startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_equal_passwords_have_different_hashes() -> None:
    assert hash_password("correct horse") != hash_password("correct horse")


@pytest.mark.parametrize(
    "password", ["correct horse", "пароль из слов", "🐎" * 32, " spaces "]
)
def test_only_the_right_password_is_valid(password) -> None:
    hashed = hash_password(password)
    assert verify_password(hashed, password)
    assert not verify_password(hashed, password + " ")


def test_an_unknown_user_has_no_password() -> None:
    assert not verify_password(None, "a password that no user has")


def test_hashing_and_verifying_do_not_block_the_event_loop(ticks) -> None:
    hashed = hash_password("correct horse")
    while_hashing = len(ticks)
    assert while_hashing > 2
    assert verify_password(hashed, "correct horse")
    assert len(ticks) > while_hashing + 2


def test_many_are_hashed_two_at_a_time(monkeypatch) -> None:
    running = []

    def execute(function, *args):
        running.append(1)
        peak.append(len(running))
        eventlet.sleep(0)
        running.pop()
        return "hash"

    peak = []
    monkeypatch.setattr("users.passwords.tpool.execute", execute)
    assert (
        list(eventlet.GreenPool().imap(hash_password, ["password"] * 10))
        == ["hash"] * 10
    )
    assert max(peak) == 2


def test_a_full_queue_refuses_new_callers_and_serves_waiting_ones(monkeypatch) -> None:
    at_work = Event()
    monkeypatch.setattr(
        "users.passwords.tpool.execute", lambda function, *args: at_work.wait()
    )
    waiting = [
        eventlet.spawn(hash_password, "password")
        for _ in range(MAX_CONCURRENT + MAX_WAITING)
    ]
    eventlet.sleep(0)
    for hashing in (lambda: hash_password("a"), lambda: verify_password(None, "a")):
        with pytest.raises(Unavailable):
            hashing()
    at_work.send("hash")
    assert [one.wait() for one in waiting] == ["hash"] * len(waiting)
    assert hash_password("password") == "hash"


UNREADABLE = {
    "of another algorithm": "$2b$12$LJ3m4ys3Lk0TSwHvGBdZAeXWFo1Ep3xGnOJ7VbhAbZ0TPX1c7oF8S",
    "truncated": "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ",
    "with invalid parameters": "$argon2id$v=19$m=1,t=0,p=0$YWFhYWFhYWE$YWFhYWFhYWFhYQ",
    "not ASCII": "пароль",
    "not a hash": "x",
}


@pytest.mark.parametrize("stored", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_hash_matches_no_password_and_is_logged(stored, caplog) -> None:
    assert not verify_password(stored, "correct horse")
    [record] = caplog.records
    assert (record.levelname, record.user_id) == ("ERROR", "1")


def test_a_wrong_password_is_not_logged(caplog) -> None:
    assert not verify_password(hash_password("correct horse"), "wrong horse")
    assert not caplog.records


def test_spellings_of_a_username_share_its_slots() -> None:
    order = []
    first = Event()

    def log_in(username: str) -> None:
        with hashing_slot(username):
            first.wait()
            order.append(username)

    names = ["x", "x", "ann", "Ann", "aNn", "anN", "ANN", "bob"]
    threads = [eventlet.spawn(log_in, name) for name in names]
    eventlet.sleep(0)
    first.send()
    for thread in threads:
        thread.wait()
    assert order.index("bob") < order.index("aNn")


def test_clients_share_the_slots() -> None:
    order = []
    first = Event()

    def log_in(client: str, username: str) -> None:
        bind_client({"client": client})
        with hashing_slot(username):
            first.wait()
            order.append(client)

    threads = [eventlet.spawn(log_in, "guesser's", f"name-{n}") for n in range(20)]
    threads.append(eventlet.spawn(log_in, "bob's", "bob"))
    eventlet.sleep(0)
    first.send()
    for thread in threads:
        thread.wait()
    assert order.index("bob's") <= MAX_CONCURRENT + 3

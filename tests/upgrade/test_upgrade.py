"""An upgrade from the previous version under load, a rollback, and the upgrade again."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import eventlet
import pytest
import yaml

from dev.broker import BUS, CHECKOUT, PREVIOUS as PREVIOUS_PERMISSIONS
from dev.failure import Failure
from tests.chaos.arena import Arena, arena
from tests.chaos.run import Part, Run, converge, play
from tests.chaos.versions import PREVIOUS, checkout_of

SEED = int(os.environ.get("SEED", "1"))
CALLEES_FIRST = ("users", "billing", "notifications", "orders", "gateway")
CALLERS_FIRST = CALLEES_FIRST[::-1]
CONSUMERS = ("billing", "notifications")  # of events
LOCKED_S = 7.0  # longer than the first two pauses of a handler
REQUESTS = 20
STATUSES = {0, 200, 201, 202, 409, 503, 504}  # 0: the connection failed


@pytest.fixture
def previous() -> Iterator[Path]:
    """A checkout of the previous version."""
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(checkout_of(PREVIOUS))
        except Failure as failure:
            pytest.fail(str(failure), pytrace=False)
        yield folder


def test_an_upgrade_and_a_rollback_under_load_lose_nothing(previous: Path) -> None:
    with arena(previous, (PREVIOUS_PERMISSIONS,)) as played:
        story = partial(_story, previous=previous)
        part = Part(
            name="upgrade", promise="copies of two versions lose nothing", play=story
        )
        result = play(part, played, SEED)
    assert not result.broken, f"SEED={SEED}\n" + "\n".join(result.broken)


def test_the_previous_permissions_are_unchanged(previous: Path) -> None:
    its_own = previous / BUS.relative_to(CHECKOUT)
    found = yaml.safe_load(PREVIOUS_PERMISSIONS.read_text())
    expected = yaml.safe_load(its_own.read_text())
    assert found["users"] == expected["users"]


def test_a_missing_history_is_reported_in_one_line() -> None:
    line = f"the history lacks commit {'0' * 40}: git fetch --unshallow"
    with pytest.raises(Failure, match=f"^{line}$"), checkout_of("0" * 40):
        pass


def _story(run: Run, previous: Path) -> None:
    run.clients.add_users(8)
    with run.clients.background_load(per_s=10):
        _keep_events_waiting(run, "notifications")
        run.arena.suite.checkout = CHECKOUT
        run.arena.suite.migrate()
        _replace_first_copies(run, CALLEES_FIRST, CHECKOUT)
        _permit(run, "both versions", BUS, PREVIOUS_PERMISSIONS)
        _fail_events(run)
        _permit(run, "this version alone", BUS)
        _request(run)
        _replace_second_copies(run, CALLEES_FIRST, CHECKOUT)
        _crash_broker(run)
        _permit(run, "both versions", BUS, PREVIOUS_PERMISSIONS)
        _replace_first_copies(run, CALLERS_FIRST, previous)
        _permit(run, "the previous version alone", PREVIOUS_PERMISSIONS)
        _fail_events(run)
        _replace_second_copies(run, CALLERS_FIRST, previous)
    converge(run)
    _permit(run, "this version alone", BUS)
    _upgrade_at_once(run)
    _request(run)
    run.clients.finish()
    run.expect_only(STATUSES)


def _keep_events_waiting(run: Run, service: str) -> None:
    """Keep the database of a service unavailable while its copies consume events."""
    with run.arena.locked_out(service):
        run.fault(f"the database of {service} is unavailable")
        _request(run)
        run.arena.wait_until(
            lambda: _waiting_events(run.arena, service), f"events wait for {service}"
        )
        eventlet.sleep(LOCKED_S)


def _replace_first_copies(run: Run, services: Sequence[str], checkout: Path) -> None:
    for service in services:
        _switch(run, run.arena.copies(service)[0], checkout)


def _replace_second_copies(run: Run, services: Sequence[str], checkout: Path) -> None:
    for service in services:
        _switch(run, run.arena.copies(service)[1], checkout)


def _permit(run: Run, versions: str, *permissions: Path) -> None:
    """Load other permissions on the broker while everything runs."""
    run.fault(f"the broker loads the permissions of {versions}")
    run.arena.permit(*permissions)


def _fail_events(run: Run) -> None:
    """Let events fail while copies of both versions consume them."""
    for service in CONSUMERS:
        _keep_events_waiting(run, service)
        run.arena.await_ready(run.arena.copies(service))


def _switch(run: Run, name: str, checkout: Path) -> None:
    run.fault(f"{name} is replaced by a copy that runs from {checkout.name}")
    run.arena.switch(name, checkout)
    folder = Path(f"/proc/{run.arena.pid(name)}/cwd").resolve()
    run.expect(folder == checkout, f"{name} runs from {folder}, not from {checkout}")


def _crash_broker(run: Run) -> None:
    run.fault("kill -9 of the broker")
    run.arena.crash_broker()
    run.arena.await_ready()


def _upgrade_at_once(run: Run) -> None:
    """Stop all copies, and start copies of this version."""
    run.say("all copies are replaced at once")
    with run.arena.down(run.arena.services):
        run.arena.suite.checkout = CHECKOUT
        run.arena.disarm()


def _waiting_events(arena: Arena, service: str) -> int:
    """Return how many events the queues of a service have, unacknowledged ones too."""
    queues = arena.messages("evt-")
    return sum(count for name, count in queues.items() if f"--{service}." in name)


def _request(run: Run) -> None:
    """Start sign-ups and orders, whose events billing and notifications consume."""
    for _ in range(REQUESTS):
        run.clients.spawn(run.clients.sign_up)
    run.clients.wave(REQUESTS)

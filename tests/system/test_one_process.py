"""All five services in one `nameko run`, and what memory they take."""

import pytest

from conftest import eventually
from tests.system.processes import SERVICES, START_S, Process
from tests.system.shopper import Client, Shopper

MOST_MB, MOST_MB_OF_ALL = 120, 160


@pytest.fixture
def one_process(suite):
    """One process with all five services, in the place of the five."""
    suite.stop()
    own = {"HEALTH_PORT": str(suite.ports["users"]), "GATEWAY_HEALTH_PUBLIC": "true"}
    environment = {**suite.environment, **own}
    process = Process(SERVICES, environment, suite.folder / "all.log")
    try:
        process.start()
        eventually(lambda: ready(suite), START_S)
        yield process
        assert process.stop() == 0
    finally:
        if not process.ended():
            process.stop()
        suite.start()


def ready(suite) -> bool:
    """Whether both health servers say that all is reached."""
    answers = [suite.health(name, "/readyz") for name in ("gateway", "users")]
    return all(answer is not None and answer.status_code == 200 for answer in answers)


def tell_the_story(url: str) -> None:
    """Paid and rejected orders with their letters."""
    shopper = Shopper(url)
    shopper.deposit("10.00")
    assert shopper.ended_order("4.00")["status"] == "paid"
    assert shopper.ended_order("7.00")["status"] == "rejected"
    assert [letter["kind"] for letter in shopper.letters(2)] == ["grief", "happiness"]
    assert shopper.balance == "6.00"


def test_one_process_needs_little_memory(suite, one_process) -> None:
    for _ in range(10):
        tell_the_story(suite.url)
    with Client(suite.url) as client:
        checks = client.get("/readyz").json()["checks"]
    assert {f"{name} started" for name in SERVICES} <= set(checks)
    assert one_process.rss_mb() < MOST_MB_OF_ALL


def test_each_process_needs_little_memory(suite) -> None:
    for _ in range(10):
        tell_the_story(suite.url)
    sizes = {name: process.rss_mb() for name, process in suite.processes.items()}
    assert {name: mb for name, mb in sizes.items() if mb >= MOST_MB} == {}

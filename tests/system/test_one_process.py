"""All five services in one `nameko run`, and the memory of each process."""

import pytest

from conftest import eventually
from tests.system.processes import SERVICES, START_S, Process
from tests.system.shopper import Client, Shopper

MAX_MB = 120
MAX_MB_OF_ALL = 160  # of one process with all services


@pytest.fixture
def one_process(suite):
    """Replace the five processes by one with all services."""
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
    """Return whether both health servers report that all is ready."""
    responses = [suite.health(name, "/readyz") for name in ("gateway", "users")]
    return all(
        response is not None and response.status_code == 200 for response in responses
    )


def tell_the_story(url: str) -> None:
    """Place a paid and a rejected order, and read the letters."""
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
    assert one_process.rss_mb() < MAX_MB_OF_ALL


def test_each_process_needs_little_memory(suite) -> None:
    for _ in range(10):
        tell_the_story(suite.url)
    sizes = {name: process.rss_mb() for name, process in suite.processes.items()}
    assert {name: mb for name, mb in sizes.items() if mb >= MAX_MB} == {}

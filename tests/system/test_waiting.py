"""`Prefer: wait` with the real suite: during an outage of billing, and with two gateways."""

from collections.abc import Iterator
from pathlib import Path

import eventlet
import pytest
import requests

from conftest import eventually
from dev.ports import free_ports
from tests.system.processes import START_S, Process, Suite, calls_done
from tests.system.shopper import Client, Shopper

WAITING = 16  # requests, so that each of two gateways gets some


class Gateways:
    """Two gateways that share a port, beside the one of the suite."""

    def __init__(self, suite: Suite, folder: Path) -> None:
        ports = free_ports()
        self.url = f"http://127.0.0.1:{ports['gateway']}"
        self.health_ports = [ports["users"], ports["billing"]]
        self.copies = [
            Process(
                ("gateway",),
                {
                    **suite.environment_of("gateway"),
                    "GATEWAY_PORT": str(ports["gateway"]),
                    "GATEWAY_PORT_SHARED": "true",
                    "HEALTH_PORT": str(port),
                },
                folder / f"gateway-{port}.log",
            )
            for port in self.health_ports
        ]

    def start(self) -> None:
        for copy in self.copies:
            copy.start()
        eventually(lambda: all(map(self._has_started, self.health_ports)), START_S)

    def _has_started(self, port: int) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{port}/startedz", timeout=10).ok
        except requests.ConnectionError:
            return False

    def read(self) -> list[int]:
        """Return how many orders each copy has read for a request, before it waits."""
        return [calls_done(port, "get_order") for port in self.health_ports]

    def answered(self, copy: Process) -> int:
        """Return how many requests for an order a copy has answered."""
        return sum(
            line["event"] == "request_handled" and "/orders/" in line["path"]
            for line in copy.lines()
        )


@pytest.fixture
def gateways(suite: Suite, tmp_path: Path) -> Iterator[Gateways]:
    gateways = Gateways(suite, tmp_path)
    try:
        gateways.start()
        yield gateways
    finally:
        for copy in gateways.copies:
            assert copy.stop() == 0


@pytest.fixture
def buyer(shopper: Shopper) -> Shopper:
    """A user with money."""
    assert shopper.deposit("10.00").status_code == 201
    return shopper


def test_a_wait_ends_with_the_paid_order_after_billings_outage(suite, buyer) -> None:
    suite.stop("billing")
    try:
        order = buyer.order("4.00").json()
        waiting = eventlet.spawn(buyer.settled, order["id"])
        short = buyer.get(f"/orders/{order['id']}", headers={"Prefer": "wait=1"})
        assert short.json() == order
        assert short.headers["Preference-Applied"] == "wait=1"
    finally:
        suite.start("billing")
    response = waiting.wait()
    assert response.json()["status"] == "paid"
    assert response.headers["Preference-Applied"] == "wait=30"
    assert buyer.letters(1)[0]["order_id"] == order["id"]


def test_an_order_of_one_gateway_is_waited_for_at_others(
    suite, buyer, gateways
) -> None:
    """One of them stops meanwhile. Its clients ask the other one."""
    clients = [Client(gateways.url) for _ in range(WAITING)]
    suite.stop("billing")
    try:
        order_id = buyer.order("4.00").json()["id"]
        for client in clients:
            client.headers["Authorization"] = buyer.headers["Authorization"]
        waiting = [eventlet.spawn(client.settled, order_id) for client in clients]
        eventually(lambda: sum(gateways.read()) == WAITING)
        read = gateways.read()
        assert min(read) > 0
        stopped, other = gateways.copies
        assert stopped.stop() == 0
        assert gateways.answered(stopped) >= read[0]
    finally:
        suite.start("billing")
    assert {each.wait().json()["status"] for each in waiting} == {"paid"}
    assert gateways.answered(other) >= WAITING

"""Services that start before broker and databases wait for them, and log it."""

import socket
from collections.abc import Iterator

import eventlet
import pytest
import requests

from conftest import eventually
from dev.servers import Servers
from tests.system.processes import START_S, Process


class Forwarder:
    """A server that comes up late: a port that forwards to another one once it is opened."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.socket()
        # Until it listens, connections are refused.
        self._listener.bind(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[eventlet.greenthread.GreenThread] = []

    def open(self) -> None:
        self._listener.listen()
        self._threads.append(eventlet.spawn(self._accept))

    def close(self) -> None:
        for thread in self._threads:
            thread.kill()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self._target))
            for source, sink in ((client, server), (server, client)):
                self._threads.append(eventlet.spawn(self._pump, source, sink))

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other direction ended it
        finally:
            source.close()


@pytest.fixture
def late(servers: Servers, suite_config) -> Iterator[tuple[Forwarder, Forwarder]]:
    """A broker and a database that are not up yet."""
    both = Forwarder(servers.ports["rabbitmq"]), Forwarder(servers.ports["postgresql"])
    yield both
    for forwarder in both:
        forwarder.close()


@pytest.fixture(params=["users", "gateway"])
def waiting(
    request, environment, servers, late, tmp_path
) -> Iterator[tuple[Process, str]]:
    """A service that waits for them, and the URL of its health server."""
    ports = [
        (servers.ports[name], forwarder.port)
        for name, forwarder in zip(("rabbitmq", "postgresql"), late, strict=True)
    ]
    moved = {}
    for name, value in environment.items():
        for real, other in ports if name.endswith("_URI") else ():
            value = value.replace(f"127.0.0.1:{real}/", f"127.0.0.1:{other}/")
        moved[name] = value
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    moved["GATEWAY_HEALTH_PUBLIC"] = "true"
    moved["GATEWAY_PORT" if request.param == "gateway" else "HEALTH_PORT"] = str(port)
    process = Process((request.param,), moved, tmp_path / "log")
    process.start()
    url = f"http://127.0.0.1:{port}"
    eventually(lambda: status(f"{url}/healthz") == 200, START_S)
    yield process, url
    if not process.ended():
        process.stop()


def status(url: str) -> int | None:
    """Return the status of a response, or None if the connection is refused."""
    try:
        return requests.get(url, timeout=10).status_code
    except requests.ConnectionError:
        return None


def has_logged_its_wait(process: Process) -> bool:
    """Return whether the log names the server that it waits for."""
    events = ("waiting_for_database", "Error connecting to broker")
    return any(line["event"].startswith(events) for line in process.lines())


def test_a_service_waits_until_its_servers_are_up(waiting, late) -> None:
    process, url = waiting
    assert status(f"{url}/readyz") == 503
    eventually(lambda: has_logged_its_wait(process), START_S)
    assert status(f"{url}/healthz") == 200
    assert not process.ended()
    for forwarder in late:
        forwarder.open()
    eventually(lambda: status(f"{url}/readyz") == 200, START_S)
    assert process.stop() == 0


def test_a_waiting_service_ends_when_it_is_stopped(waiting) -> None:
    process, _ = waiting
    eventually(lambda: has_logged_its_wait(process), START_S)
    assert process.stop() == 0

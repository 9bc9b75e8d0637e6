"""The proxy has the faults that are set, and no others."""

import random
import socket
import time
from collections.abc import Iterator

import eventlet
import pytest

from tests.chaos.proxy import HOST, Proxy

WAIT_S = 5.0  # generous
SILENT_S = 0.3


@pytest.fixture
def server() -> Iterator[int]:
    """The port of an echo server."""
    listener = eventlet.listen((HOST, 0))
    serving = eventlet.spawn(eventlet.serve, listener, _echo)
    yield listener.getsockname()[1]
    serving.kill()
    listener.close()


def _echo(connection: socket.socket, address: object) -> None:
    while data := connection.recv(1024):
        connection.sendall(data)
    connection.close()


@pytest.fixture
def proxy(server: int) -> Iterator[Proxy]:
    opened = Proxy(server)
    yield opened
    opened.close()


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection((HOST, proxy.port), WAIT_S) as connection:
        assert echoed(connection, b"before") == b"before"
        yield connection


def echoed(
    connection: socket.socket, data: bytes, wait_s: float = WAIT_S
) -> bytes | None:
    """Send data. Return the received data, or None if none arrives in time."""
    connection.settimeout(wait_s)
    connection.sendall(data)
    try:
        return connection.recv(1024)
    except TimeoutError:
        return None


def test_bytes_and_the_end_are_forwarded_both_ways(
    proxy: Proxy, client: socket.socket
) -> None:
    assert echoed(client, b"hello") == b"hello"
    proxy.hang_up()
    assert client.recv(1024) == b""


def test_only_an_idle_connection_is_forgotten_permanently(
    proxy: Proxy, client: socket.socket
) -> None:
    with socket.create_connection((HOST, proxy.port), WAIT_S) as busy:
        with proxy.forgetting(0.2):
            for _ in range(6):
                eventlet.sleep(0.05)
                assert echoed(busy, b"on") == b"on"
        assert echoed(client, b"lost", SILENT_S) is None
        assert echoed(busy, b"on") == b"on"
    assert proxy.forgotten == 1


def test_a_forgotten_connection_ends_only_for_the_server(proxy: Proxy) -> None:
    listener = eventlet.listen((HOST, 0))
    proxy.switch(listener.getsockname()[1], hang_up=False)
    ends = []
    for _ in range(2):
        client = socket.create_connection((HOST, proxy.port), WAIT_S)
        server, _ = listener.accept()
        ends.append((client, server))
    with proxy.forgetting(0.1):
        eventlet.sleep(0.2)
    [(left, its_server), (client, left_server)] = ends
    left_server.close()
    assert echoed(client, b"lost", SILENT_S) is None
    left.close()
    its_server.settimeout(WAIT_S)
    assert its_server.recv(1024) == b""
    client.close()
    its_server.close()
    listener.close()


def test_held_bytes_arrive_at_the_end_of_the_hold(
    proxy: Proxy, client: socket.socket
) -> None:
    with proxy.holding():
        assert echoed(client, b"late", SILENT_S) is None
    client.settimeout(WAIT_S)
    assert client.recv(1024) == b"late"


def test_bytes_are_delayed_both_ways(proxy: Proxy, client: socket.socket) -> None:
    with proxy.delaying(0.05):
        started = time.monotonic()
        assert echoed(client, b"slow") == b"slow"
        assert time.monotonic() - started >= 0.1


def test_a_cut_reply_ends_after_half_of_its_bytes(
    proxy: Proxy, client: socket.socket
) -> None:
    with proxy.cutting(1.0, random.Random(1)):
        assert echoed(client, b"answer") == b"ans"
        assert client.recv(1024) == b""
    assert proxy.cut == 1


def test_after_a_switch_only_new_connections_reach_the_new_server(
    proxy: Proxy, client: socket.socket
) -> None:
    listener = eventlet.listen((HOST, 0))
    proxy.switch(listener.getsockname()[1], hang_up=False)
    with socket.create_connection((HOST, proxy.port), WAIT_S) as later:
        accepted, _ = listener.accept()
        accepted.sendall(b"the other")
        assert later.recv(1024) == b"the other"
        accepted.close()
    assert echoed(client, b"still the first") == b"still the first"
    listener.close()


def test_a_server_that_is_down_ends_the_connection(proxy: Proxy) -> None:
    closed = eventlet.listen((HOST, 0))
    port = closed.getsockname()[1]
    closed.close()
    proxy.switch(port, hang_up=True)
    with socket.create_connection((HOST, proxy.port), WAIT_S) as connection:
        assert connection.recv(1024) == b""

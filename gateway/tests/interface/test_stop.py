"""How the gateway stops: nobody is cut off."""

import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import eventlet
import pytest

from chassis.container import Container
from conftest import eventually
from gateway.http.server import DRAIN_IDLE_S, WebServer
from gateway.service import Service

DELAY_S = 1.0


@pytest.fixture
def leaving(suite_config) -> Iterator[Container]:
    """A gateway of its own, which a load balancer would need DELAY_S to leave."""
    own = {
        "HEALTH_ADDRESS": "127.0.0.1:0",
        "WEB_SERVER_ADDRESS": "127.0.0.1:0",
        "STOP_DELAY_S": DELAY_S,
    }
    container = Container(Service, {**suite_config, **own, "WEB_SERVER_HEALTH": True})
    container.start()
    yield container
    container.stop()


@pytest.fixture
def server(leaving) -> WebServer:
    [server] = [e for e in leaving.extensions if isinstance(e, WebServer)]
    return server


@pytest.fixture
def connect(server) -> Iterator[Any]:
    """New connections to that gateway."""
    opened: list[HTTPConnection] = []
    host, port = server._sock.getsockname()

    def connect() -> HTTPConnection:
        opened.append(HTTPConnection(host, port, timeout=30))
        opened[-1].connect()
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def status(connection: HTTPConnection, path: str) -> int:
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_a_stopping_gateway_is_not_ready_first_and_still_serves_who_comes(
    leaving, server, connect
) -> None:
    kept = connect()
    assert status(kept, "/startedz") == 200
    stopping = eventlet.spawn(leaving.stop)
    eventually(lambda: server._dispatcher.is_draining)
    assert status(kept, "/readyz") == 503
    assert status(connect(), "/startedz") == 503
    assert (
        kept.sock is None
    )  # it was told to close: its next request goes to another copy
    assert status(connect(), "/users/me") == 401
    stopping.wait()
    with pytest.raises(ConnectionRefusedError):
        connect()


def test_a_connection_that_waits_to_be_accepted_is_served_all_the_same(
    leaving, server, connect
) -> None:
    server._gt.kill()  # from now on nobody accepts, as in the moment before the stop
    waits = connect()
    stopping = eventlet.spawn(leaving.stop)
    eventually(lambda: server._sock.fileno() == -1)
    eventlet.sleep(DRAIN_IDLE_S / 4)  # its request is on its way
    assert status(waits, "/healthz") == 200
    stopping.wait()


def test_a_connection_that_idles_is_closed_a_little_after_the_others(
    leaving, server, connect
) -> None:
    silent = connect()
    eventually(lambda: server._connections)
    with eventlet.Timeout(DELAY_S + DRAIN_IDLE_S + 10):
        leaving.stop()
    assert silent.sock.recv(1) == b""


def test_a_request_that_is_on_its_way_at_the_stop_is_answered(
    leaving, server, connect
) -> None:
    slow = connect()
    slow.sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: sh")
    eventually(lambda: server._connections)
    stopping = eventlet.spawn(leaving.stop)
    eventually(lambda: server._sock.fileno() == -1)
    eventlet.sleep(2 * DRAIN_IDLE_S)  # longer than one that idles is kept
    slow.sock.sendall(b"op\r\n\r\n")
    answer = socket.socket.makefile(slow.sock, "rb").read()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"Connection: close" in answer
    stopping.wait()

"""A stop of the gateway cuts off no request."""

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
def gateway(suite_config) -> Iterator[Container]:
    """Start a separate gateway with a stop delay of DELAY_S."""
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
def server(gateway) -> WebServer:
    [server] = [e for e in gateway.extensions if isinstance(e, WebServer)]
    return server


@pytest.fixture
def connect(server) -> Iterator[Any]:
    """Return a function that connects to that gateway."""
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
    response = connection.getresponse()
    response.read()
    return response.status


def test_a_gateway_is_not_ready_but_serves_requests(gateway, server, connect) -> None:
    kept = connect()
    assert status(kept, "/startedz") == 200
    stopping = eventlet.spawn(gateway.stop)
    eventually(lambda: server._dispatcher.is_draining)
    assert status(kept, "/readyz") == 503
    assert status(connect(), "/startedz") == 503
    assert (
        kept.sock is None
    )  # closed by the response: the next request goes to another copy
    assert status(connect(), "/users/me") == 401
    stopping.wait()
    with pytest.raises(ConnectionRefusedError):
        connect()


def test_a_connection_in_the_accept_queue_is_served(gateway, server, connect) -> None:
    server._gt.kill()  # no connection is accepted, as in the moment before the stop
    queued = connect()
    stopping = eventlet.spawn(gateway.stop)
    eventually(lambda: server._sock.fileno() == -1)
    eventlet.sleep(DRAIN_IDLE_S / 4)  # its request is in flight
    assert status(queued, "/healthz") == 200
    stopping.wait()


def test_an_idle_connection_is_closed_last(gateway, server, connect) -> None:
    silent = connect()
    eventually(lambda: server._connections)
    with eventlet.Timeout(DELAY_S + DRAIN_IDLE_S + 10):
        gateway.stop()
    assert silent.sock.recv(1) == b""


def test_a_request_in_flight_at_the_stop_is_answered(gateway, server, connect) -> None:
    slow = connect()
    slow.sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: sh")
    eventually(lambda: server._connections)
    stopping = eventlet.spawn(gateway.stop)
    eventually(lambda: server._sock.fileno() == -1)
    eventlet.sleep(2 * DRAIN_IDLE_S)  # longer than an idle connection is kept
    slow.sock.sendall(b"op\r\n\r\n")
    response = socket.socket.makefile(slow.sock, "rb").read()
    assert response.startswith(b"HTTP/1.1 200 ")
    assert b"Connection: close" in response
    stopping.wait()

"""The development server passes requests on unchanged, and refuses those of other sites."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from dev.page import proxy, server as page_server, site as page_site
from dev.page.programs import FREEZE_S
from dev.page.server import Server
from dev.page.site import Site
from dev.supervisor import wait_for
from gateway import documents, problems
from gateway.http.parser import MAX_BODY
from gateway.waits import MAX_WAIT_S

TOKEN = "a-token-of-this-test"
GENEROUS_S = 20.0
CALLS = [
    ("GET", "/dev/processes"),
    ("POST", "/dev/processes/billing/kill"),
    ("POST", "/dev/processes/billing/freeze"),
]
WITH_TOKEN = {"X-Dev-Token": TOKEN}


class FakeGateway(BaseHTTPRequestHandler):
    """Records requests. The path says how it responds."""

    protocol_version = "HTTP/1.1"

    def respond(self) -> None:
        server: Any = self.server
        server.heads.append((self.requestline, self.headers.items()))
        _, action, *arguments = self.path.split("/")
        if action == "slow":
            time.sleep(float(arguments[0]))
        if action == "dies":
            self.connection.close()
            return
        if action != "early":
            server.bodies.append(self._body())
        content = b"x" * 300_000 if action == "large" else b'{"a": 1}'
        self.send_response(402, "A Phrase")
        for name, value in (
            ("X-Twice", "1"),
            ("x-twice", "2"),
            ("Preference-Applied", "wait=3"),
        ):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        if action == "early":  # let the client read the response, as the gateway does
            self.connection.shutdown(socket.SHUT_WR)
            while self.connection.recv(65536):
                pass
        self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = respond  # noqa: N815

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        # Byte for byte: the chunks are what the client sent.
        content = b""
        while not content.endswith(b"0\r\n\r\n"):
            content += self.rfile.read(1)
        return content

    def log_message(self, *_: object) -> None:
        pass


class FakePrograms:
    def __init__(self) -> None:
        self.faults: list[tuple[str, str]] = []

    def list(self) -> dict[str, Any]:
        return {"processes": []}

    def kill(self, name: str) -> dict[str, Any]:
        return self._inject("kill", name)

    def freeze(self, name: str) -> dict[str, Any]:
        return self._inject("freeze", name)

    def _inject(self, fault: str, name: str) -> dict[str, Any]:
        if name != "billing":
            raise problems.not_found()
        self.faults.append((fault, name))
        return {"name": name}


@contextmanager
def running(server: Any) -> Iterator[Any]:
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def gateway() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), FakeGateway)
    server.heads, server.bodies = [], []
    with running(server):
        yield server


@pytest.fixture
def programs() -> FakePrograms:
    return FakePrograms()


@pytest.fixture
def start(gateway: Any, programs: FakePrograms) -> Iterator[Callable[..., Server]]:
    """Return a function that starts a development server in front of the fake gateway."""
    started = []

    def run(**options: Any) -> Server:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        site: Any = Site(port, TOKEN, programs)  # type: ignore[arg-type]
        manager = running(
            Server(
                port, site, options.pop("gateway_port", gateway.server_port), **options
            )
        )
        started.append(manager)
        return manager.__enter__()

    yield run
    for manager in started:
        manager.__exit__(None, None, None)


@pytest.fixture
def page(start: Callable[..., Server]) -> Server:
    return start()


def port_of(server: Server) -> int:
    return int(server.server_address[1])


def send(
    server: Server,
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    body: Any = None,
    **options: Any,
) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection("127.0.0.1", port_of(server), timeout=GENEROUS_S)
    connection.request(method, path, body, headers or {}, **options)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def send_raw(server: Server, request: bytes) -> bytes:
    """Send bytes and return all bytes until the server closes the connection."""
    address = ("127.0.0.1", port_of(server))
    with socket.create_connection(address, GENEROUS_S) as connection:
        connection.sendall(request)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    return received


def assert_problem(
    response: HTTPResponse, content: bytes, status: int, name: str
) -> str:
    assert response.status == status
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = json.loads(content)
    assert problem["type"] == problems.TYPE.format(name)
    return str(problem["detail"])


# The proxy


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_method_target_and_headers_are_passed_on(page, gateway, method) -> None:
    headers = {
        "authorization": "Bearer a.b.c",
        "Idempotency-Key": '"key 1"',
        "Prefer": "wait=30",
        "X-Request-Id": "mine",
        "X-Odd": "é, ü",
    }
    FakeGateway.do_BREW = FakeGateway.respond  # type: ignore[attr-defined]
    send(page, method, "/orders/a%2Fb?x=%20&y", headers)
    [(line, received)] = gateway.heads
    assert line == f"{method} /orders/a%2Fb?x=%20&y HTTP/1.1"
    assert headers.items() <= dict(received).items()
    assert ("Host", f"127.0.0.1:{port_of(page)}") in received
    assert [value for name, value in received if name == "Connection"] == ["close"]


def test_the_response_is_passed_back(page) -> None:
    response, content = send(page, "GET", "/orders")
    assert (response.status, response.reason) == (402, "A Phrase")
    assert [item for item in response.getheaders() if item[0].lower() == "x-twice"] == [
        ("X-Twice", "1"),
        ("x-twice", "2"),
    ]
    assert response.headers["Preference-Applied"] == "wait=3"
    assert content == b'{"a": 1}'


def test_a_response_to_head_has_the_length_without_a_body(page) -> None:
    response, content = send(page, "HEAD", "/orders")
    assert (response.headers["Content-Length"], content) == ("8", b"")


def test_a_large_response_is_complete(page) -> None:
    assert len(send(page, "GET", "/large")[1]) == 300_000


@pytest.mark.parametrize("size", [0, 10, 60_000])
def test_a_body_is_passed_on(page, gateway, size) -> None:
    send(page, "POST", "/orders", body=b"y" * size)
    assert gateway.bodies == [b"y" * size]


def test_chunks_are_passed_on(page, gateway) -> None:
    send(page, "POST", "/orders", body=iter([b"ab", b"cde"]), encode_chunked=True)
    assert gateway.bodies == [b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"]


def test_a_response_before_the_end_of_the_body_is_passed_back(page) -> None:
    """The gateway refuses a body that is too long before it has read all of it."""
    chunks = iter([b"y" * 5_000] * 200)
    response, _ = send(page, "POST", "/early", body=chunks, encode_chunked=True)
    assert response.status == 402


def test_a_body_that_is_too_long_is_not_passed_on(page, gateway) -> None:
    body = b"y" * (MAX_BODY + 1)
    assert_problem(*send(page, "POST", "/orders", body=body), 413, "too-large")
    assert gateway.heads == []


def test_headers_of_the_connection_are_replaced(page, gateway) -> None:
    headers = {
        "Connection": "keep-alive, X-Hop",
        "Keep-Alive": "timeout=5",
        "X-Hop": "for this connection",
    }
    response, _ = send(page, "GET", "/orders", headers)
    [(_, received)] = gateway.heads
    names = [name.lower() for name, _ in received]
    assert names.count("connection") == 1
    assert not {"keep-alive", "x-hop"} & set(names)
    assert response.headers["Connection"] == "close"


def test_a_second_request_on_the_connection_is_not_passed_on(page, gateway) -> None:
    """Its Host and Origin would not be checked."""
    host = f"Host: 127.0.0.1:{port_of(page)}\r\n".encode()
    first = b"GET /orders HTTP/1.1\r\n" + host + b"\r\n"
    second = b"POST /orders HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n"
    received = send_raw(page, first + second)
    assert received.count(b"HTTP/1.1 ") == 1
    assert [line for line, _ in gateway.heads] == ["GET /orders HTTP/1.1"]


def test_a_malformed_request_is_refused_as_the_gateway_refuses_it(
    page, gateway
) -> None:
    for request in (b"GET /a b HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nA : b\r\n\r\n"):
        assert send_raw(page, request).startswith(b"HTTP/1.1 400 ")
    assert gateway.heads == []


def test_a_wait_of_the_gateway_is_not_cut(start) -> None:
    assert proxy.RESPONSE_TIMEOUT_S >= MAX_WAIT_S + 5
    page = start(response_timeout_s=GENEROUS_S)
    assert send(page, "GET", "/slow/1.5", {"Prefer": "wait=2"})[0].status == 402


def test_a_frozen_gateway_gives_a_problem_after_the_timeout(start) -> None:
    page = start(response_timeout_s=0.2)
    detail = assert_problem(
        *send(page, "POST", "/slow/3", body=b"{}"), 503, "unavailable"
    )
    assert problems.OUTCOME_UNKNOWN in detail


def test_a_killed_gateway_gives_a_problem_at_once(start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        unused = free.getsockname()[1]
    page = start(gateway_port=unused)
    detail = assert_problem(
        *send(page, "POST", "/orders", body=b"{}"), 503, "unavailable"
    )
    assert detail == problems.NOTHING_DONE


def test_a_gateway_killed_during_a_request_leaves_the_outcome_unknown(page) -> None:
    detail = assert_problem(
        *send(page, "POST", "/dies", body=b"{}"), 503, "unavailable"
    )
    assert problems.OUTCOME_UNKNOWN in detail


def test_a_client_that_closes_its_connection_frees_its_place(
    start, monkeypatch
) -> None:
    monkeypatch.setattr(page_server, "MAX_CONNECTIONS", 1)
    page = start()
    with socket.create_connection(("127.0.0.1", port_of(page))) as waiting:
        host = f"Host: 127.0.0.1:{port_of(page)}".encode()
        # Connections are accepted in sequence, so this one has the only place.
        waiting.sendall(b"GET /slow/600 HTTP/1.1\r\n" + host + b"\r\n\r\n")
        rejected = send_raw(page, b"GET /docs HTTP/1.1\r\n" + host + b"\r\n\r\n")
        assert rejected.startswith(b"HTTP/1.1 503 ")

    def is_served() -> bool:
        try:
            return send(page, "GET", "/docs")[0].status == 200
        except ConnectionError:  # of a connection that is rejected
            return False

    assert wait_for(is_served, GENEROUS_S)


# The files


@pytest.mark.parametrize("path", sorted(documents.FILES))
def test_the_gateways_files_are_served_without_the_gateway(page, gateway, path) -> None:
    response, content = send(page, "GET", path)
    assert (response.status, content) == (200, documents.FILES[path][1])
    for name, value in documents.respond(path, "").headers.items():
        assert response.headers[name] == value
    assert gateway.heads == []


def test_files_are_compressed_for_browsers(page) -> None:
    response, content = send(page, "GET", "/", {"Accept-Encoding": "gzip, br"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert content == documents.COMPRESSED["/"]


def test_the_panel_is_served_without_a_token(page) -> None:
    assert page_site.FILES.keys() == {"/dev/processes.css", "/dev/processes.js"}
    for path, (media_type, content) in page_site.FILES.items():
        response, received = send(page, "GET", path)
        assert (response.headers["Content-Type"], received) == (media_type, content)
        policy = response.headers["Content-Security-Policy"]
        assert policy == documents.PAGE_HEADERS["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_the_panel_names_the_seconds_of_a_freeze() -> None:
    text = page_site.FILES["/dev/processes.js"][1].decode()
    assert f"freezes a program for {FREEZE_S} s." in text
    assert f"приостанавливает программу на {FREEZE_S} с." in text


@pytest.mark.parametrize("path", ["/", "/dev/processes.js"])
def test_files_accept_only_get_and_head(page, path) -> None:
    response, content = send(page, "POST", path)
    assert_problem(response, content, 405, "method-not-allowed")
    assert response.headers["Allow"] == "GET, HEAD"


# The borders


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize("token", [None, "", "a", TOKEN[:-1], TOKEN + "x", "é"])
def test_a_call_without_the_token_is_refused(
    page, programs, method, path, token
) -> None:
    headers = {} if token is None else {"X-Dev-Token": token}
    assert_problem(*send(page, method, path, headers), 403, "forbidden")
    assert programs.faults == []


@pytest.mark.parametrize("where", ["?X-Dev-Token={}", "?dev={}"])
def test_a_token_in_a_url_is_not_accepted(page, programs, where) -> None:
    path = CALLS[1][1] + where.format(TOKEN)
    assert_problem(*send(page, "POST", path), 403, "forbidden")
    assert programs.faults == []


def test_a_call_with_the_token_is_accepted(page, programs) -> None:
    statuses = [send(page, *call, WITH_TOKEN)[0].status for call in CALLS]
    assert statuses == [200, 202, 202]
    assert programs.faults == [("kill", "billing"), ("freeze", "billing")]


HOSTS = [
    "evil.example",
    "evil.example:{port}",
    "127.0.0.1",
    "127.0.0.1:1",
    "127.0.0.1.evil.example:{port}",
    "localhost.:{port}",
    "[::1]:{port}",
    "0.0.0.0:{port}",
    "",
]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("target", ["GET /", "GET /account", "GET /dev/processes"])
def test_another_host_is_refused(page, gateway, host, target) -> None:
    """DNS rebinding: the name of another site resolves to this address."""
    headers = {"Host": host.format(port=port_of(page)), **WITH_TOKEN}
    response, content = send(page, *target.split(), headers)
    assert_problem(response, content, 421, "misdirected-request")
    assert gateway.heads == []


def test_a_request_without_a_host_is_refused(page) -> None:
    assert send_raw(page, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 421 ")


def test_the_host_in_an_absolute_target_does_not_replace_the_header(page) -> None:
    target = f"GET http://127.0.0.1:{port_of(page)}/ HTTP/1.1\r\n".encode()
    received = send_raw(page, target + b"Host: evil.example\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 421 ")


def test_localhost_is_accepted(page) -> None:
    host = f"localhost:{port_of(page)}"
    headers = {"Host": host, "Origin": f"http://{host}", **WITH_TOKEN}
    assert send(page, *CALLS[1], headers)[0].status == 202


def test_browsers_omit_the_port_of_http() -> None:
    site = Site(80, TOKEN, FakePrograms())  # type: ignore[arg-type]
    assert {"localhost", "localhost:80", "127.0.0.1"} <= site._hosts


ORIGINS = [
    "http://evil.example",
    "null",
    "",
    "https://127.0.0.1:{port}",
    "http://127.0.0.1",
    "http://127.0.0.1:1",
    "http://localhost:{port}",
    "http://127.0.0.1:{port}.evil.example",
    "http://127.0.0.1:{port}, http://evil.example",
]


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize(
    "target", ["POST /dev/processes/billing/kill", "POST /orders", "OPTIONS /orders"]
)
def test_another_origin_is_refused(page, gateway, programs, origin, target) -> None:
    headers = {"Origin": origin.format(port=port_of(page)), **WITH_TOKEN}
    response, content = send(page, *target.split(), headers)
    assert_problem(response, content, 403, "forbidden-origin")
    assert "Access-Control-Allow-Origin" not in response.headers
    assert (gateway.heads, programs.faults) == ([], [])


def test_the_same_origin_is_accepted(page, gateway) -> None:
    headers = {"Origin": f"http://127.0.0.1:{port_of(page)}"}
    assert send(page, "POST", "/orders", headers)[0].status == 402
    assert len(gateway.heads) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/dev/processes/page/kill",
        "/dev/processes/supervisord/kill",
        "/dev/processes/1/kill",
        "/dev/processes/-1/freeze",
        "/dev/processes/*/kill",
        "/dev/processes/services:billing/kill",
        "/dev/processes/billing%00/kill",
        "/dev/processes/Billing/kill",
        "/dev/processes/billing/term",
        "/dev/processes/billing/kill/",
        "/dev/processes/billing",
        "/dev/processes//kill",
        "/dev/processes/./billing/kill",
        "/dev/processes/../processes/billing/kill",
        "/dev/processes/%2e%2e/%2e%2e/orders",
        "/dev/../dev/processes/billing/kill",
        "/dev/processes/billing%2Fkill/kill",
        "/dev/",
        "/dev/server.py",
        "/dev/page/processes.js",
        "/dev/../../../../etc/passwd",
    ],
)
def test_other_names_and_paths_are_not_found(page, gateway, programs, path) -> None:
    assert_problem(*send(page, "POST", path, WITH_TOKEN), 404, "not-found")
    assert (gateway.heads, programs.faults) == ([], [])


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH"])
def test_a_fault_needs_post(page, programs, method) -> None:
    response, _ = send(page, method, CALLS[1][1], WITH_TOKEN)
    assert (response.status, response.headers["Allow"]) == (405, "POST")
    assert programs.faults == []


def test_only_this_machine_can_connect(page) -> None:
    assert page.server_address[0] == "127.0.0.1"


def test_an_error_is_a_problem_without_detail(page, programs, monkeypatch) -> None:
    monkeypatch.setattr(programs, "list", lambda: 1 / 0)
    detail = assert_problem(*send(page, *CALLS[0], WITH_TOKEN), 500, "internal-error")
    assert "division" not in detail

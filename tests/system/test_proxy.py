"""Chunked bodies and waiting requests, from real clients and through nginx."""

import json
import random
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import pytest

from conftest import eventually
from dev.ports import free_ports, is_free
from tests.system.processes import Suite, debian_program
from tests.system.shopper import WAIT, Shopper

CONFIG = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr crit;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream gateway {{
        server 127.0.0.1:{gateway};
        keepalive 4;
    }}
    server {{
        listen 127.0.0.1:{http1};
        listen 127.0.0.1:{http2} http2;
        location / {{
            proxy_pass http://gateway;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_request_buffering off;
        }}
    }}
}}
"""
FETCH = """
const [url, authorization, ...parts] = process.argv.slice(1);
const body = new ReadableStream({
    pull(controller) {
        if (parts.length > 0) controller.enqueue(new TextEncoder().encode(parts.shift()));
        else controller.close();
    },
});
const headers = { authorization, "content-type": "application/json" };
const options = { method: "POST", headers, body, duplex: "half" };
fetch(url, options).then((response) => console.log(response.status));
"""
DEADLINE_S = 60
END = b"0\r\n\r\n"


@pytest.fixture(scope="module")
def nginx(
    suite: Suite, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, int]]:
    """Start nginx. Its ports by the version of HTTP."""
    folder = tmp_path_factory.mktemp("nginx")
    free = free_ports(["http1", "http2"])
    ports = {"http1": free["http1"], "http2": free["http2"]}
    (folder / "nginx.conf").write_text(
        CONFIG.format(gateway=suite.ports["gateway"], **ports)
    )
    options = ["-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
    command = ["setpriv", "--pdeathsig", "TERM", debian_program("nginx"), *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: not is_free(ports["http2"]))
        yield ports
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def shopper(suite: Suite) -> Shopper:
    return Shopper(suite.url)


# Clients that send chunks


def status_of(command: list[str], body: bytes = b"") -> int:
    """Return the status that a client prints."""
    done = subprocess.run(
        command, input=body, capture_output=True, timeout=DEADLINE_S, check=True
    )
    return int(done.stdout)


CHUNKED = ["--header", "Transfer-Encoding: chunked"]


@pytest.mark.parametrize(
    ("port", "options"),
    [
        ("gateway", CHUNKED),
        ("gateway", [*CHUNKED, "--header", "Expect: 100-continue"]),
        ("http1", CHUNKED),
        ("http2", ["--http2-prior-knowledge"]),
    ],
)
def test_curl_streams_an_order(
    suite, nginx, new_shopper, tmp_path, port, options
) -> None:
    shopper = new_shopper()
    command = [
        *("curl", "--silent", "--show-error", "--noproxy", "*"),
        *("--output", str(tmp_path / "response"), "--write-out", "%{http_code}"),
        *("--header", f"Authorization: {shopper.headers['Authorization']}"),
        *("--header", "Content-Type: application/json", *options),
        *("--request", "POST", "--upload-file", "-"),
        f"http://127.0.0.1:{({**suite.ports, **nginx})[port]}/orders",
    ]
    assert status_of(command, b'{"price": "1.00"}') == 201
    assert [order["price"] for order in shopper.all("/orders")] == ["1.00"]


@pytest.mark.parametrize("port", ["gateway", "http1"])
def test_fetch_streams_an_order(suite, nginx, new_shopper, port) -> None:
    shopper = new_shopper()
    url = f"http://127.0.0.1:{({**suite.ports, **nginx})[port]}/orders"
    parts = ['{"price"', ': "1', '.00"}']
    authorization = str(shopper.headers["Authorization"])
    assert status_of(["node", "--eval", FETCH, url, authorization, *parts]) == 201
    assert [order["price"] for order in shopper.all("/orders")] == ["1.00"]


# Waiting requests


def test_a_request_waits_behind_nginx_with_its_default_timeouts(
    suite, nginx, new_shopper
) -> None:
    shopper = new_shopper()
    shopper.deposit("10.00")
    suite.stop("billing")
    try:
        order_id = shopper.order("4.00").json()["id"]
        urls = {
            name: f"http://127.0.0.1:{port}/orders/{order_id}"
            for name, port in nginx.items()
        }
        clients = [
            curl_waits(shopper, urls["http1"]),
            curl_waits(shopper, urls["http2"], "--http2-prior-knowledge"),
        ]
        for client in clients:
            assert_waited(client, "pending")
    finally:
        suite.start("billing")
    assert_waited(curl_waits(shopper, urls["http1"]), "paid")


def curl_waits(shopper: Shopper, url: str, *more: str) -> subprocess.Popen[str]:
    """Start a client that sends `Prefer: wait=30`, and prints the whole response."""
    command = [
        *("curl", "--silent", "--include", "--noproxy", "*"),
        *("--max-time", str(DEADLINE_S), *more),
        *("--header", f"Authorization: {shopper.headers['Authorization']}"),
        *("--header", f"Prefer: {WAIT['Prefer']}", url),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def assert_waited(client: subprocess.Popen[str], status: str) -> None:
    output, _ = client.communicate()
    head, _, body = output.partition("\n\n")
    assert head.split()[1] == "200"
    assert "preference-applied: wait=30" in head.lower().splitlines()
    assert json.loads(body)["status"] == status


# Reused connections


class ReusedConnection:
    """A connection that carries many requests."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
        self._received = b""

    def send(self, data: bytes) -> None:
        with suppress(OSError):  # closed after a refusal, whose response can be read
            self._socket.sendall(data)

    def response(self) -> tuple[int, dict[str, str], bytes]:
        """Read status, headers and body of the next response."""
        while b"\r\n\r\n" not in self._received:
            assert self._receive()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers["content-length"])
        while len(self._received) < length:
            assert self._receive()
        body, self._received = self._received[:length], self._received[length:]
        return int(first.split()[1]), headers, body

    def _receive(self) -> bool:
        part = b""
        with suppress(ConnectionResetError):
            part = self._socket.recv(65536)
        self._received += part
        return bool(part)

    def close(self) -> None:
        assert self._received == b""  # no response without a request
        self._socket.close()


class Requests:
    """Requests of one user to send a message. Each name is a subject and a request id."""

    def __init__(self, shopper: Shopper) -> None:
        self._authorization = shopper.headers["Authorization"].encode()
        self._random = random.Random(1)

    def head(self, name: str, framing: bytes, method: bytes = b"POST") -> bytes:
        return (
            b"%b /notifications HTTP/1.1\r\nHost: shop\r\nAuthorization: %b\r\nX-Request-Id: %b\r\n"
            b"Content-Type: application/json\r\n%b\r\n\r\n"
        ) % (method, self._authorization, name.encode(), framing)

    def sized(self, name: str) -> bytes:
        body = self._body(name)
        return self.head(name, b"Content-Length: %d" % len(body)) + body

    def chunked(self, name: str) -> bytes:
        return self.head(name, b"Transfer-Encoding: chunked") + self._chunks(name) + END

    def right(self, name: str) -> tuple[bytes, int]:
        """Return a correct request, and the expected status."""
        end = b"0;x=y\r\nContent-MD5: z\r\nX: y\r\n\r\n"
        return self._random.choice(
            [
                (self.chunked(name), 201),
                (self.chunked(name)[: -len(END)] + end, 201),
                (self.sized(name), 201),
                (self.head(name, b"Transfer-Encoding: chunked", b"GET") + END, 200),
                (self.head(name, b"Accept: */*", b"GET"), 200),
            ]
        )

    def wrong(self, name: str) -> bytes:
        """Return a wrong request with another request hidden in or after it. Neither may count."""
        hidden, chunked = self.sized("hidden"), b"Transfer-Encoding: chunked"
        inside = b"%x\r\n%b\r\n" % (len(hidden), hidden)
        return self._random.choice(
            [
                self.head(name, b"Content-Length: 5\r\n" + chunked) + END + hidden,
                self.head(name, chunked + b"\r\nContent-Length: %d" % len(hidden))
                + END
                + hidden,
                self.head(name, chunked + b"\r\n" + chunked) + END + hidden,
                self.head(name, b"Transfer-Encoding: xchunked") + END + hidden,
                self.head(name, b"Transfer-Encoding: chunked, identity") + END + hidden,
                self.head(name, b"Transfer-Encoding: \x0bchunked") + END + hidden,
                self.head(name, b"Transfer-Encoding : chunked") + END + hidden,
                self.head(name, chunked) + inside + END,
                self.head(name, chunked) + self._chunks(name) + inside + END,
                self.head(name, chunked) + self._chunks(name) + b"0x0\r\n\r\n" + hidden,
                self.head(name, chunked) + self._chunks(name) + b"-1\r\n" + hidden,
                self.head(name, chunked) + b"1\r\n{}\r\n" + END + hidden,
                self.head(name, chunked) + b"fffffffffffffffff\r\n" + hidden,
                self.head(name, chunked)
                + b"20000\r\n"
                + hidden * (70_000 // len(hidden)),
                self.head(name, chunked, b"GET") + inside + END,
                self.head(name, chunked, b"PUT") + inside + END,
                self.head(name, b"Content-Length: %d" % len(hidden), b"GET") + hidden,
                self.head(name, chunked).replace(b"Bearer ", b"Bearer x")
                + inside
                + END,
                self.head(name, chunked).replace(b"/json", b"/xml") + inside + END,
            ]
        )

    def _body(self, name: str) -> bytes:
        text = "x" * self._random.randint(1, 3000)
        return json.dumps({"subject": name, "body": text}).encode()

    def _chunks(self, name: str) -> bytes:
        body, parts = self._body(name), []
        while body:
            size = self._random.randint(1, 500)
            parts.append(b"%x\r\n%b\r\n" % (len(body[:size]), body[:size]))
            body = body[size:]
        return b"".join(parts)


@pytest.mark.parametrize("port", ["http1", "gateway"])
def test_every_answer_belongs_to_its_request(suite, nginx, new_shopper, port) -> None:
    """Requests of several clients, each sent in two parts, share the few connections of nginx."""
    shopper = new_shopper()
    requests, chance = Requests(shopper), random.Random(1)
    ports = {**suite.ports, **nginx}
    connections = [ReusedConnection(ports[port]) for _ in range(4)]
    # Requests of which one part is sent, by connection.
    open_: dict[int, tuple[str, bytes, int | None]] = {}
    done = []
    for number in range(200):
        at = chance.randrange(len(connections))
        connection = connections[at]
        if at not in open_:
            name = f"message-{number}"
            data, status = (
                (requests.wrong(name), None)
                if chance.random() < 0.2
                else requests.right(name)
            )
            cut = chance.randrange(len(data))
            connection.send(data[:cut])
            open_[at] = name, data[cut:], status
            if chance.random() < 0.5:
                continue
        name, rest, expected = open_.pop(at)
        connection.send(rest)
        status, headers, body = connection.response()
        if expected is None:
            assert status >= 400
            # Without this header nginx has refused it.
            assert headers.get("x-request-id", name) == name
            connection.close()
            connections[at] = ReusedConnection(ports[port])
        else:
            assert (status, headers["x-request-id"]) == (expected, name)
        if status == 201:
            assert json.loads(body)["subject"] == name
            done.append(name)
    assert sorted(
        letter["subject"] for letter in shopper.all("/notifications")
    ) == sorted(done)

"""No client can starve others: during each attack a second user waits only a little longer.

Each attack may also use little memory. The gateway here has the settings of config.yaml.
Attackers connect from 127.0.0.1, the second user from 127.0.0.2.
"""

import itertools
import socket
import string
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    closing,
    contextmanager,
    suppress,
)
from http.client import HTTPConnection
from math import ceil
from resource import RLIMIT_NOFILE, getrlimit, setrlimit
from time import perf_counter

import eventlet
import pytest
import uuid_utils
import yaml
from greenlet import GreenletExit

from chassis import health
from conftest import eventually
from dev.ports import free_ports
from tests.chart.helm import CHART
from tests.system.processes import START_S, Process, Suite, calls_done
from tests.system.shopper import Shopper

HOST, SECOND = "127.0.0.1", "127.0.0.2"
ASKED = 60  # requests of the second user, alone and during an attack
TIMES = 10  # the factor by which the second user may wait longer
NOISE_S = 0.25  # a busy machine may cause such a wait
SLOW_READERS = 950
GROWTH_MB = 60
ALL_CONNECTIONS = 1_000
HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: shop\r\n\r\n"
BUNDLE = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: shop\r\n\r\n"
PAGE = (
    b"GET /notifications?limit=100 HTTP/1.1\r\nHost: shop\r\n"
    b"Authorization: Bearer %b\r\n\r\n"
)
GET_ORDER = (
    b"GET /orders/%b HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer %b\r\n"
    b"Prefer: wait=30\r\n\r\n"
)
WAITING = 1_000
SLOW_BROWSERS = 100
INSERT_PENDING = """
    INSERT INTO orders (id, user_id, key, price_minor, request_id, next_attempt_at)
    VALUES (%(id)s, %(user_id)s, 'waited for', 100, 'waited-for', now() + interval '1 hour')
"""
MAKE_DUE = "UPDATE orders SET next_attempt_at = now() WHERE id = %(id)s"
LOGIN = b'{"username": "ann", "password": "long enough"}'
PAIRS = map("".join, itertools.product(string.ascii_letters, repeat=2))
NAMES = "&".join(PAIRS)[:8_099]  # fills the request line
MANY_NAMES = (
    b"POST /tokens?%b HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b"
) % (NAMES.encode(), len(LOGIN), LOGIN)


class Gateway:
    """The gateway under attack."""

    def __init__(
        self, process: Process, port: int, health_port: int, token: str
    ) -> None:
        self.process = process
        self.port = port
        self.health_port = health_port
        self._headers = {"Authorization": f"Bearer {token}"}

    def connect(self, first: bytes = b"", receive_buffer: int = 0) -> socket.socket:
        """Open an attacker's connection, and send `first` on it."""
        connection = socket.socket()
        connection.settimeout(60)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.connect((HOST, self.port))
        connection.sendall(first)
        return connection

    def ask(self) -> float:
        """Return how many seconds the second user waits for the balance, on a new connection."""
        started = perf_counter()
        opened = HTTPConnection(HOST, self.port, timeout=60, source_address=(SECOND, 0))
        with closing(opened) as connection:
            connection.request("GET", "/account", headers=self._headers)
            response = connection.getresponse()
            response.read()
            assert response.status == 200
        return perf_counter() - started


@pytest.fixture(scope="module")
def gateway(
    suite: Suite, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    ports = free_ports()
    own = {"GATEWAY_PORT": str(ports["gateway"]), "HEALTH_PORT": str(ports["users"])}
    log = tmp_path_factory.mktemp("fairness") / "log"
    process = Process(("gateway",), {**suite.environment, **own}, log)
    # The attackers in this process need many files. The gateway inherits the limit.
    limit, maximum = getrlimit(RLIMIT_NOFILE)
    setrlimit(RLIMIT_NOFILE, (maximum, maximum))
    process.start()
    try:
        eventually(lambda: status(ports["users"], "/readyz") == 200, START_S)
        token = Shopper(suite.url).user["access_token"]
        yield Gateway(process, ports["gateway"], ports["users"], token)
    finally:
        setrlimit(RLIMIT_NOFILE, (limit, maximum))
        assert process.stop() == 0


def status(port: int, path: str) -> int:
    """Return the status of a response, or 0 if the connection fails."""
    try:
        with closing(HTTPConnection(HOST, port, timeout=60)) as connection:
            connection.request("GET", path)
            return connection.getresponse().status
    except OSError:
        return 0


@pytest.fixture(autouse=True)
def memory_within_the_charts_limit(gateway: Gateway) -> Iterator[None]:
    """Assert that after each attack the gateway uses less memory than the chart allows."""
    yield
    assert gateway.process.rss_mb() < memory_limit_mb()


def memory_limit_mb() -> int:
    """Return the chart's memory limit."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())["serviceDefaults"]
    return int(defaults["resources"]["limits"]["memory"].removesuffix("Mi"))


def p99(waits: list[float]) -> float:
    return sorted(waits)[ceil(len(waits) * 0.99) - 1]


@pytest.fixture
def second_user_beside(
    gateway: Gateway,
) -> Callable[[AbstractContextManager[object]], None]:
    """`second_user_beside(attack)`: assert that the second user waits hardly longer than alone."""

    def compare(attack: AbstractContextManager[object]) -> None:
        alone = [gateway.ask() for _ in range(ASKED)]
        with attack:
            beside = [gateway.ask() for _ in range(ASKED)]
        assert p99(beside) <= max(TIMES * p99(alone), NOISE_S)

    return compare


@contextmanager
def repeated(attackers: int, attack: Callable[[], None]) -> Iterator[None]:
    """Let this many attackers repeat an attack until the end. Start when each has done it once.

    An attacker's failed assertion fails the test.
    """
    done = set()

    def repeat(number: int) -> None:
        while True:
            with suppress(OSError):
                attack()
                done.add(number)

    threads = [eventlet.spawn(repeat, number) for number in range(attackers)]
    try:
        eventually(lambda: len(done) == attackers)
        yield
    finally:
        for thread in threads:
            thread.kill()
        for thread in threads:
            with suppress(GreenletExit):
                thread.wait()


def test_only_healthz_is_on_the_public_port(gateway, suite) -> None:
    assert {path: status(gateway.port, path) for path in health.PATHS} == {
        **dict.fromkeys(health.PATHS, 404),
        "/healthz": 200,
    }


def test_requests_with_many_names_delay_no_other_user(
    gateway, second_user_beside
) -> None:
    def send() -> None:
        with closing(gateway.connect(MANY_NAMES)) as connection:
            assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")

    second_user_beside(repeated(4, send))


def test_many_requests_in_one_write_delay_no_other_user(
    gateway, second_user_beside
) -> None:
    def send() -> None:
        last = HEALTHZ.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        with closing(gateway.connect(HEALTHZ * 2_000 + last)) as connection:
            while connection.recv(1 << 20):
                pass

    second_user_beside(repeated(2, send))


def test_slow_readers_of_a_large_file_need_little_memory(
    gateway, second_user_beside
) -> None:
    before = gateway.process.rss_mb()
    with ExitStack() as connections:
        for _ in range(SLOW_READERS):
            slow = connections.enter_context(closing(gateway.connect(BUNDLE, 4_096)))
            assert slow.recv(8) == b"HTTP/1.1"
        second_user_beside(ExitStack())
        assert gateway.process.rss_mb() < before + GROWTH_MB


@pytest.mark.parametrize(
    "letter", ["\x01" * 10_000, "\U0001f40e" * 5_000], ids=["controls", "emoji"]
)
def test_slow_readers_of_pages_need_little_memory(
    gateway, suite, second_user_beside, letter
) -> None:
    """JSON needs six bytes for a control character, UTF-8 four for an emoji."""
    writer = Shopper(suite.url)
    message = {"subject": "a", "body": letter}
    for _ in range(14):
        assert writer.post("/notifications", json=message).status_code == 201
    page = PAGE % writer.user["access_token"].encode()
    with ExitStack() as connections:
        for _ in range(SLOW_READERS):
            slow = connections.enter_context(closing(gateway.connect(page, 4_096)))
            assert slow.recv(12) == b"HTTP/1.1 200"
        second_user_beside(ExitStack())
        assert gateway.process.rss_mb() < memory_limit_mb()


@pytest.mark.parametrize(
    "first", [b"", b"GET ", BUNDLE], ids=["idle", "slow", "unread"]
)
def test_a_client_with_all_connections_excludes_no_other(
    gateway, second_user_beside, first
) -> None:
    """The client opens new connections all the time."""
    with ExitStack() as connections:

        def open_one() -> None:
            connections.enter_context(closing(gateway.connect(first, 4_096)))
            eventlet.sleep(0.005)

        for _ in range(ALL_CONNECTIONS):
            connections.enter_context(closing(gateway.connect(first, 4_096)))
        second_user_beside(repeated(1, open_one))


class Crowd:
    """WAITING connections whose requests wait for an order, and browsers that read slowly."""

    def __init__(self, gateway: Gateway, request: bytes) -> None:
        self._gateway = gateway
        self._request = request
        self._connections = ExitStack()
        self._waiting: list[socket.socket] = []

    def __enter__(self) -> None:
        for _ in range(SLOW_BROWSERS):
            assert self._connect(BUNDLE).recv(8) == b"HTTP/1.1"
        read = self._read()
        for number in range(1, WAITING + 1):
            self._waiting.append(self._connect(self._request))
            # More of one client's requests at a time would get 503.
            if number % 50 == 0:
                eventually(lambda goal=read + number: self._read() == goal)

    def __exit__(self, *_: object) -> None:
        """Leave the connections open, for their responses."""

    def responses(self) -> list[bytes]:
        """Return all responses, and close the connections."""
        with self._connections:
            return [connection.recv(65536) for connection in self._waiting]

    def _connect(self, first: bytes) -> socket.socket:
        connection = self._gateway.connect(first, 4_096)
        return self._connections.enter_context(closing(connection))

    def _read(self) -> int:
        """Return how many orders the gateway has read for requests."""
        return calls_done(self._gateway.health_port, "get_order")


def test_a_thousand_waiting_requests_delay_no_other_user(
    gateway, suite, sql, second_user_beside
) -> None:
    """Half of the connections wait. Other requests are answered at once, and orders settle."""
    buyer = Shopper(suite.url)
    buyer.deposit("10.00")
    order = {"id": str(uuid_utils.uuid7()), "user_id": buyer.id}
    sql("orders", INSERT_PENDING, order)
    token = buyer.user["access_token"].encode()
    crowd = Crowd(gateway, GET_ORDER % (order["id"].encode(), token))
    second_user_beside(crowd)
    buyer.url = f"http://{HOST}:{gateway.port}"
    assert buyer.order("1.00").json()["status"] == "paid"
    sql("orders", MAKE_DUE, order)
    responses = crowd.responses()
    assert {response[:12] for response in responses} == {b"HTTP/1.1 200"}
    have_waited = [r for r in responses if b"\r\nPreference-Applied:" in r]
    assert ALL_CONNECTIONS // 2 <= len(have_waited) < WAITING
    assert any(b'"paid"' in response for response in have_waited)

"""Hosts by name: name servers that do not answer, addresses that change or are silent."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import eventlet
import psycopg2
import pytest
import requests
import yaml
from sqlalchemy import URL, NullPool, create_engine, event, make_url, text
from sqlalchemy.exc import OperationalError

from chassis import broker, health, lookups, publishers
from chassis.container import Container
from chassis.publishers import TransientPublisher
from chassis.tests.conftest import Keeper
from chassis.tests.names import NameServer, name_server
from conftest import DEADLINE_S, eventually, loopback
from dev.ports import free_ports
from dev.servers import Servers

# eventlet calls what dnspython has deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:please use dns.resolver:DeprecationWarning"
)

HOST = "db.shop.test"
HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"  # the servers listen here only
MORE = ["127.0.0.3", "127.0.0.4"]
# The C library waits longer for a name server.
REQUEST_TIMEOUT_S = 3
SERVER = f"host={HERE} port={{port}} user=users_owner password={{password}}"
READ_ONLY = f"""
[databases]
users = {SERVER} connect_query='SET default_transaction_read_only = on'
[pgbouncer]
listen_addr = {HERE}
listen_port = {{pooled}}
unix_socket_dir =
auth_type = any
server_reset_query =
"""


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    with name_server(monkeypatch) as server:
        yield server


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the limits, so that tests take less time."""
    monkeypatch.setattr(lookups, "LOOKUP_TIMEOUT_S", 1)
    monkeypatch.setattr(lookups, "CONNECT_TIMEOUT_S", 1)


@pytest.fixture
def connect(suite_config: dict[str, Any]) -> Callable[..., str]:
    """Return a function that connects to `"name:port", ...` and returns the server's address."""
    url = make_url(suite_config["DB_URIS"]["users:Base"])

    def run(*hosts: str, **query: str) -> str:
        where = url.set(host=None, port=None, query={"host": hosts, **query})
        engine = create_engine(where, poolclass=NullPool)
        event.listen(engine, "do_connect", lookups.connect)
        with engine.connect() as connection:
            return str(
                connection.execute(text("SELECT host(inet_server_addr())")).scalar()
            )

    return run


@pytest.fixture
def port(servers: Servers) -> int:
    return servers.ports["postgresql"]


@pytest.fixture
def mute(port: int) -> Iterator[socket.socket]:
    """A server with PostgreSQL's port at ELSEWHERE that accepts connections and never answers."""
    with closing(eventlet.listen((ELSEWHERE, port))) as listening:
        yield listening


@contextmanager
def keeper(config: dict[str, Any]) -> Iterator[None]:
    """Run a service that connects to its database by name."""
    uri = make_url(config["DB_URIS"]["users:Base"]).set(host=HOST)
    uris = {"users:Base": uri.render_as_string(hide_password=False)}
    container = Container(Keeper, {**config, "DB_URIS": uris})
    with eventlet.Timeout(DEADLINE_S, AssertionError("it does not start")):
        container.start()
    try:
        yield
    finally:
        container.stop()


def get(path: str) -> int:
    host, port = health.serve("127.0.0.1:0").getsockname()
    return requests.get(
        f"http://{host}:{port}{path}", timeout=REQUEST_TIMEOUT_S
    ).status_code


@pytest.mark.usefixtures("limits")
def test_a_service_follows_the_address_of_its_database(
    chassis_config: dict[str, Any], names: NameServer, superuser: Callable[[str], Any]
) -> None:
    names.addresses[HOST] = [HERE]
    with keeper(chassis_config):
        eventually(lambda: get("/readyz") == 200)
        names.is_silent = True
        sessions = "pg_stat_activity WHERE application_name = 'users'"
        superuser(f"SELECT pg_terminate_backend(pid) FROM {sessions}")
        eventually(lambda: get("/readyz") == 503)
        lookup = eventlet.spawn(get, "/readyz")
        while not lookup.dead:
            assert get("/healthz") == 200
        names.addresses[HOST] = [ELSEWHERE]  # no server listens there
        names.is_silent = False
        assert get("/readyz") == 503
        names.addresses[HOST] = [HERE]
        eventually(lambda: get("/readyz") == 200)


@pytest.mark.parametrize("addresses", [[ELSEWHERE, HERE], ["::1", HERE]])
def test_the_next_address_is_tried_after_a_refusal(
    addresses: list[str], connect: Callable[..., str], names: NameServer, port: int
) -> None:
    names.addresses[HOST] = addresses
    assert connect(f"{HOST}:{port}") == HERE


def test_silent_addresses_of_a_database_are_skipped(
    connect: Callable[..., str], names: NameServer, port: int, mute: socket.socket
) -> None:
    names.addresses[HOST] = [ELSEWHERE, MORE[0], HERE]
    with closing(eventlet.listen((MORE[0], port))):
        assert (
            health.Check("database", lambda: connect(f"{HOST}:{port}")).result() == "ok"
        )
    with eventlet.Timeout(
        DEADLINE_S, AssertionError("the first connection is left open")
    ):
        left, _ = mute.accept()
        with closing(left):
            while left.recv(1024):
                pass


def test_each_host_is_tried_with_its_own_port(
    connect: Callable[..., str], names: NameServer, port: int
) -> None:
    names.addresses |= {"a.shop.test": [HERE], HOST: [HERE]}
    assert connect("unknown.shop.test:1", "a.shop.test:1", f"{HOST}:{port}") == HERE


@pytest.mark.usefixtures("limits")
def test_an_error_names_each_host_with_its_failure(
    connect: Callable[..., str], names: NameServer, port: int, mute: socket.socket
) -> None:
    names.addresses |= {"a.shop.test": [HERE], "b.shop.test": [ELSEWHERE]}
    with pytest.raises(OperationalError) as raised:
        connect("unknown.shop.test:1", "a.shop.test:1", f"b.shop.test:{port}")
    assert str(raised.value.orig).splitlines() == [
        "unknown.shop.test 1: could not resolve the name: "
        "The DNS query name does not exist: unknown.shop.test.; "
        f"a.shop.test {HERE} 1: Connection refused; "
        f"b.shop.test {ELSEWHERE} {port}: no answer in time"
    ]


def test_a_given_address_needs_no_name_server(
    connect: Callable[..., str], names: NameServer, port: int
) -> None:
    names.is_silent = True
    assert connect(f"{HOST}:{port}", hostaddr=HERE) == HERE
    assert connect(f"{HERE}:{port}") == HERE


def test_the_hosts_file_needs_no_name_server(names: NameServer) -> None:
    names.is_silent = True
    assert HERE in lookups.resolve("localhost")


def test_a_negative_answer_is_not_cached(names: NameServer) -> None:
    with pytest.raises(socket.gaierror):
        lookups.resolve(HOST)
    names.addresses[HOST] = [HERE, "::1"]
    assert lookups.resolve(HOST) == ["::1", HERE]


@pytest.mark.parametrize("host", loopback())
def test_name_servers_and_addresses_can_be_of_either_family(
    monkeypatch, host: str
) -> None:
    with name_server(monkeypatch, host) as names:
        names.addresses[HOST] = [host]
        assert lookups.resolve(HOST) == [host]


def test_a_short_name_is_found_by_the_search_list(
    names: NameServer,
) -> None:
    names.configuration = "nameserver 127.0.0.1\nsearch shop.test\noptions ndots:5\n"
    names.addresses[HOST] = [HERE]
    names.ignored = {"db"}  # the next name server is dead
    assert lookups.resolve("db") == [HERE]


def test_a_host_without_addresses_is_reported_as_such(
    names: NameServer,
) -> None:
    names.addresses[HOST] = []
    with pytest.raises(socket.gaierror, match="does not contain an answer"):
        lookups.resolve(HOST)


def test_the_timeout_of_a_caller_ends_a_lookup(names: NameServer) -> None:
    names.is_silent = True
    with pytest.raises(ZeroDivisionError), eventlet.Timeout(0.1, ZeroDivisionError()):
        lookups.resolve(HOST)


def test_a_connection_has_a_limit_without_eventlets_patches(
    port: int,
    mute: socket.socket,
) -> None:
    code = (
        "from chassis import lookups; from sqlalchemy import create_engine, event;"
        f"uri = 'postgresql+psycopg2://u:p@{ELSEWHERE}:{port}/d?connect_timeout=1';"
        "engine = create_engine(uri);"
        "event.listen(engine, 'do_connect', lookups.connect); engine.connect()"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    tried = subprocess.run(
        command, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert "timeout expired" in tried.stderr


def listens(port: int) -> bool:
    with socket.socket() as trying:
        return trying.connect_ex((HERE, port)) == 0


@pytest.fixture
def standby(servers: Servers, port: int, tmp_path: Path) -> Iterator[int]:
    """The port of a read-only server: a PgBouncer with read-only sessions."""
    pooled = free_ports()["gateway"]
    file = tmp_path / "pgbouncer.ini"
    password = servers.passwords["postgresql:users_owner"]
    file.write_text(READ_ONLY.format(port=port, pooled=pooled, password=password))
    command = [
        "pgbouncer",
        str(file),
        *(["--user=postgres"] if os.geteuid() == 0 else []),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: listens(pooled))
        yield pooled
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def standby_first(suite_config: dict[str, Any], port: int, standby: int) -> URL:
    """A URI with a standby first, then the server."""
    owner = make_url(suite_config["DB_OWNER_URIS"]["users:Base"])
    hosts = (f"{HERE}:{standby}", f"localhost:{port}")
    return owner.set(host=None, port=None, query={"host": hosts})


def test_a_standby_is_skipped(standby_first: URL, standby: int) -> None:
    alone = standby_first.set(host=HERE, port=standby, query={})
    with closing(psycopg2.connect(dsn_of(alone))) as connection:
        assert is_read_only(connection)
    engine = create_engine(standby_first, poolclass=NullPool)
    event.listen(engine, "do_connect", lookups.connect)
    with closing(engine.raw_connection()) as connection:
        assert not is_read_only(connection)


def dsn_of(uri: URL) -> str:
    return uri.render_as_string(hide_password=False).replace("+psycopg2", "")


def is_read_only(connection: Any) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SHOW transaction_read_only")
        return bool(cursor.fetchone() == ("on",))


def test_migrations_skip_a_standby(
    suite_config: dict[str, Any], standby_first: URL, tmp_path: Path
) -> None:
    uris = {"users:Base": standby_first.render_as_string(hide_password=False)}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({**suite_config, "DB_OWNER_URIS": uris}))
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "chassis.migrate",
        "--config",
        str(file),
        "users",
    ]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert run.stdout == "users: tables and queues are ready\n", run.stderr


@pytest.fixture
def broker_config(servers: Servers, chassis_config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a service that connects to the broker by name."""
    uri = chassis_config["AMQP_URI"].replace("127.0.0.1", HOST)
    return {**chassis_config, "AMQP_URI": uri}


@pytest.fixture
def connect_to_broker(broker_config: dict[str, Any]) -> Callable[[], None]:
    """Return a function that connects to the broker by name."""
    return lambda: (
        broker.connect(broker_config).transport.establish_connection().close()
    )


@pytest.fixture
def dropped(servers: Servers) -> Iterator[list[str]]:
    """Addresses where the broker's port neither accepts nor refuses connections."""
    addresses = [ELSEWHERE, MORE[0]]
    with ExitStack() as stack:
        for address in addresses:
            place = (address, servers.ports["rabbitmq"])
            stack.enter_context(closing(eventlet.listen(place, backlog=0)))
            for _ in range(3):  # they fill the queue of the listening socket
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(place)
        yield addresses


def test_a_broker_is_found_when_its_name_returns(
    names: NameServer, connect_to_broker: Callable[[], None]
) -> None:
    with pytest.raises(OSError, match="could not resolve"):
        connect_to_broker()
    names.addresses[HOST] = [ELSEWHERE, HERE]  # the first refuses
    connect_to_broker()


def test_the_timeout_of_a_caller_ends_a_lookup_of_the_broker(
    names: NameServer, connect_to_broker: Callable[[], None]
) -> None:
    names.is_silent = True
    with pytest.raises(ZeroDivisionError), eventlet.Timeout(0.1, ZeroDivisionError()):
        connect_to_broker()


@pytest.mark.parametrize(
    "trouble",
    [
        {"ignored": {"AAAA"}},
        {"delay_s": 0.8},
        {"configuration": f"nameserver {ELSEWHERE}\nnameserver {HERE}\n"},
    ],
    ids=["no answer for IPv6", "slow answers", "the first name server is dead"],
)
def test_a_broker_is_ready_with_an_unreliable_name_server(
    trouble: dict[str, Any],
    names: NameServer,
    connect_to_broker: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookups, "LOOKUP_TIMEOUT_S", DEADLINE_S)
    names.addresses[HOST] = [HERE]
    for attribute, value in trouble.items():
        setattr(names, attribute, value)
    assert health.Check("broker", connect_to_broker).result() == "ok"


def test_silent_addresses_of_a_broker_are_skipped(
    names: NameServer, connect_to_broker: Callable[[], None], dropped: list[str]
) -> None:
    names.addresses[HOST] = [*dropped, HERE]
    assert health.Check("broker", connect_to_broker).result() == "ok"


def test_the_timeout_of_a_publisher_covers_all_addresses(
    names: NameServer,
    broker_config: dict[str, Any],
    dropped: list[str],
    servers: Servers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (broker, publishers):
        monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", 0.6)  # 0.3 for each address
    names.delay_s = 0.4
    names.addresses[HOST] = [dropped[0], MORE[1]]
    sender = TransientPublisher()
    sender.container = SimpleNamespace(config=broker_config)
    with closing(eventlet.listen((MORE[1], servers.ports["rabbitmq"]))) as listening:
        with pytest.raises(broker.CONNECTION_ERRORS, match="no answer in time"):
            sender._connected()
        listening.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listening.accept()

"""The start and the stop of a service, its settings and its database."""

import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import eventlet
import pytest
from amqp.exceptions import ChannelError
from eventlet.event import Event
from nameko.standalone.rpc import ClusterRpcProxy
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase

from chassis import db as chassis_db, health
from chassis.broker import connect
from chassis.consumer import POLL_S, QueueConsumer
from chassis.container import Container
from chassis.db import Database
from chassis.errors import Unavailable, is_transient
from chassis.rpc import RpcProxy, rpc
from chassis.settings import TEXT, Setting
from chassis.tests.conftest import Broker, dependency, running
from conftest import DEADLINE_S, eventually

gate = Event()
handled: Counter[str] = Counter()


def open_gate() -> None:
    """Let the workers finish. Another test may have done so before."""
    if not gate.ready():
        gate.send()


class Worker:
    """A service without an RpcProxy, which would keep the connection to the broker open."""

    name = "worker"

    @rpc
    def work(self, number: str) -> str:
        handled[number] += 1
        gate.wait()
        return f"{number} done"


class Base(DeclarativeBase):
    pass


class Keeper:
    """A service with a database."""

    name = "users"

    db = Database(Base)
    currency = Setting("CURRENCY", TEXT)
    billing = RpcProxy("billing")

    @rpc
    def sleep(self, seconds: float) -> None:
        with self.db.transaction() as connection:
            connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})


@pytest.fixture(scope="module")
def keeper(chassis_config) -> Iterator[Container]:
    container = Container(Keeper, {**chassis_config, "DB_STATEMENT_TIMEOUT_S": 0.5})
    with running(container):
        yield container


# Stopping


def test_a_request_in_progress_at_the_stop_is_executed_once(config, broker) -> None:
    config["WORKERS"] = {"worker": 2}
    first, second = Container(Worker, config), Container(Worker, config)
    first.start()
    with ClusterRpcProxy(config, timeout=DEADLINE_S) as client:
        answers = [client.worker.work.call_async(str(n)) for n in range(4)]
        eventually(lambda: sum(handled.values()) == 2)
        stopping = [eventlet.spawn(first.stop) for _ in range(2)]  # as two SIGTERMs do
        eventually(lambda: not consumers(broker))
        # A connection that did not wait for the acks would be closed after this.
        eventlet.sleep(3 * POLL_S)
        gate.send()
        assert [answer.result() for answer in answers[:2]] == ["0 done", "1 done"]
        with eventlet.Timeout(DEADLINE_S):
            for thread in stopping:
                thread.wait()
            first.stop()
        with running(second):  # receives the other requests
            assert [answer.result() for answer in answers[2:]] == ["2 done", "3 done"]
    assert broker.count("rpc-worker") == 0
    assert handled == {str(n): 1 for n in range(4)}


def test_unfinished_work_returns_to_the_queue_at_the_deadline(
    config, broker, caplog
) -> None:
    config |= {"WORKERS": {"worker": 2}, "STOP_TIMEOUT_S": 0.5}
    container = Container(Stuck, config)
    container.start()
    with ClusterRpcProxy(config, timeout=DEADLINE_S) as client:
        client.worker.work.call_async()
        eventually(lambda: handled["stuck"])
        with eventlet.Timeout(DEADLINE_S):
            container.stop()
            container.wait()
        assert "shutdown_timed_out" in caplog.messages
        eventually(lambda: broker.count("rpc-worker") == 1)
    broker.channel.queue_purge("rpc-worker")


def test_the_deadline_of_the_stop_applies_without_a_broker(
    config, broker, servers, close_connections
) -> None:
    config |= {"WORKERS": {"worker": 2}, "STOP_TIMEOUT_S": 1}
    container = Container(Stuck, config)
    container.start()
    before = handled["stuck"]
    with ClusterRpcProxy(config, timeout=DEADLINE_S) as client:
        client.worker.work.call_async()
        eventually(lambda: handled["stuck"] > before)
    servers.rabbitmqctl("suspend_listeners")
    try:
        close_connections()
        with eventlet.Timeout(DEADLINE_S):
            container.stop()
            container.wait()
    finally:
        servers.rabbitmqctl("resume_listeners")
    with connect(config) as connection:
        eventually(lambda: Broker(connection).count("rpc-worker") == 1)
        connection.default_channel.queue_purge("rpc-worker")


class Stuck:
    """A service whose work never ends."""

    name = "worker"

    @rpc
    def work(self) -> None:
        handled["stuck"] += 1
        Event().wait()


def consumers(broker: Any) -> int:
    return int(broker.channel.queue_declare("rpc-worker", passive=True).consumer_count)


class Talker(Worker):
    """A service that receives requests and replies, so it has two uses for the broker."""

    billing = RpcProxy("billing")


def test_a_service_stops_or_recovers_during_an_outage(
    config, servers, close_connections, caplog
) -> None:
    stays, leaves = Container(Talker, config), Container(Talker, config)
    stays.start()
    leaves.start()
    servers.rabbitmqctl("suspend_listeners")
    try:
        close_connections()
        eventually(lambda: "Error connecting to broker" in caplog.text)
        with eventlet.Timeout(DEADLINE_S):
            leaves.stop()
    finally:
        servers.rabbitmqctl("resume_listeners")
    with ClusterRpcProxy(config, timeout=DEADLINE_S) as client:
        assert client.worker.work("again") == "again done"
    stays.stop()


@pytest.fixture
def frozen_broker(servers) -> Iterator[Callable[[], None]]:
    """Return a function that freezes the broker: it acknowledges bytes and never answers."""
    pid = int(servers.rabbitmqctl("eval", "os:getpid().").strip().strip('"'))
    yield lambda: os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGCONT)


def test_a_service_stops_in_time_with_a_silent_broker(
    nameko_run, suite_config, frozen_broker
) -> None:
    process = nameko_run("orders.service", "gateway.service", STOP_TIMEOUT_S="2")
    eventually(lambda: process.log.read_text().count("service_started") == 2)
    frozen_broker()
    process.terminate()
    line, code = process.last_line_and_code()
    assert "service_stopped" in line
    assert code == 0


def test_a_consumer_does_not_wait_for_a_silent_broker(
    config, frozen_broker, caplog
) -> None:
    with running(Container(Worker, {**config, "HEARTBEAT": 1, "STOP_TIMEOUT_S": 1})):
        frozen_broker()
        eventually(lambda: "Error connecting to broker" in caplog.text)


def test_all_consumers_return_after_an_unnoticed_loss(config) -> None:
    """An ack that fails between two reads of the connection causes such a loss."""
    open_gate()
    container = Container(Worker, config)
    [queue_consumer] = [e for e in container.extensions if isinstance(e, QueueConsumer)]
    lost = Event()

    class Breaking:
        @property
        def prefetch(self) -> int:
            if not lost.ready():
                transport = queue_consumer._channel.connection.transport
                transport.sock.shutdown(socket.SHUT_RDWR)
                transport.connected = False
                lost.send()
            return 0

    with running(container), ClusterRpcProxy(config, timeout=DEADLINE_S) as client:
        queue_consumer._pending_changes.append((Breaking(), Event()))
        lost.wait()
        assert client.worker.work("received") == "received done"


def test_a_deleted_queue_is_declared_and_consumed_again(config, broker) -> None:
    open_gate()
    with (
        running(Container(Worker, config)),
        ClusterRpcProxy(config, timeout=DEADLINE_S) as client,
    ):
        broker.channel.queue_delete("rpc-worker")

        def is_back() -> bool:
            with suppress(ChannelError):
                return consumers(broker) == 1
            return False

        eventually(is_back)
        assert client.worker.work("back") == "back done"


def test_a_stop_during_the_start_ends_the_process(config) -> None:
    with pytest.raises(SystemExit) as ended:
        Container(Keeper, config).stop()
    assert ended.value.code == 0


class BrokenSetting(Setting):
    """An extension whose stop fails."""

    def drain(self) -> None:
        raise ValueError("broken")


class Broken:
    name = "worker"

    setting = BrokenSetting("CURRENCY", TEXT)


def test_a_failed_stop_does_not_keep_a_starting_service(config) -> None:
    broken = Container(Broken, config)
    broken.start()
    with pytest.raises(ValueError, match="broken"):
        broken.stop()
    with pytest.raises(SystemExit), eventlet.Timeout(DEADLINE_S):
        Container(Keeper, config).stop()
    broken.kill()


def test_sigterm_under_load_fails_no_request(nameko_run, suite_config) -> None:
    calls = outcomes = 0
    stop = Event()
    query = {"user_id": "0190b5a0-0000-7000-8000-000000000000"}

    def client() -> None:
        nonlocal calls, outcomes
        with ClusterRpcProxy(suite_config, timeout=DEADLINE_S) as proxy:
            while not stop.ready():
                calls += 1
                assert proxy.billing.statement(**query)["items"] == []
                outcomes += 1

    first, second = nameko_run("billing.service"), nameko_run("billing.service")
    eventually(lambda: first.says("service_started") and second.says("service_started"))
    clients = [eventlet.spawn(client) for _ in range(8)]
    eventually(lambda: outcomes > 100)
    first.terminate()
    line, code = first.last_line_and_code()
    assert "service_stopped" in line
    assert code == 0
    stop.send()
    for thread in clients:
        thread.wait()
    assert outcomes == calls


def test_sigterm_ends_a_service_that_is_starting(nameko_run) -> None:
    process = nameko_run(
        "users.service", USERS_DB_URI="postgresql+psycopg2://a:b@127.0.0.1:1/c"
    )
    eventually(lambda: process.says("waiting_for_database"))
    process.terminate()
    assert process.last_line_and_code()[1] == 0


# Settings


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"WORKERS": {}}, "WORKERS.users is missing"),
        ({"WORKERS": {"users": 0}}, "WORKERS.users is wrong"),
        ({"AMQP_URI": None}, "AMQP_URI is missing"),
        ({"AMQP_URI": "localhost"}, "AMQP_URI is wrong"),
        ({"HEARTBEAT": 0}, "HEARTBEAT is wrong"),
        ({"HEALTH_ADDRESS": "localhost"}, "HEALTH_ADDRESS is wrong"),
        ({"DB_URIS": {}}, "USERS_DB_URI is missing"),
        ({"DB_URIS": {"users:Base": "sqlite://"}}, "USERS_DB_URI is wrong"),
        ({"DB_STATEMENT_TIMEOUT_S": "soon"}, "DB_STATEMENT_TIMEOUT_S is wrong"),
        ({"DB_POOL_SIZE": 0}, "DB_POOL_SIZE is wrong"),
        ({"RPC_TIMEOUT_S": -1}, "RPC_TIMEOUT_S is wrong"),
        ({"CURRENCY": ""}, "CURRENCY is missing"),
    ],
)
def test_one_line_names_a_wrong_setting(config, changes, line) -> None:
    with pytest.raises(SystemExit) as ended:
        Container(Keeper, {**config, **changes})
    assert ended.value.code.startswith(f"config.yaml: {line}")
    assert "\n" not in ended.value.code


@pytest.mark.parametrize("setting", ["CONFIRM_TIMEOUT_S", "OUTBOX_RETENTION_S"])
def test_the_settings_of_events_are_checked(config, setting) -> None:
    from users.service import Service

    with pytest.raises(SystemExit, match=rf"^config\.yaml: {setting} is missing$"):
        Container(Service, {**config, setting: None})


def test_the_relay_must_not_outwait_its_transaction(
    config,
) -> None:
    from users.service import Service

    with pytest.raises(
        SystemExit,
        match=r"^config\.yaml: CONFIRM_TIMEOUT_S is wrong: .*DB_STATEMENT_TIMEOUT_S$",
    ):
        Container(
            Service, {**config, "CONFIRM_TIMEOUT_S": 2, "DB_STATEMENT_TIMEOUT_S": 2}
        )


def test_a_wrong_setting_ends_the_process_with_code_1(
    nameko_run,
) -> None:
    line, code = nameko_run("users.service", USERS_WORKERS="many").last_line_and_code()
    assert line.startswith("config.yaml: WORKERS.users is wrong")
    assert code == 1


# The database


def test_a_service_reads_ids_as_text(keeper) -> None:
    id_ = "0190b5a0-0000-7000-8000-000000000000"
    with dependency(keeper, "db").transaction() as connection:
        assert connection.execute(text(f"SELECT '{id_}'::uuid")).scalar() == id_


def test_a_statement_has_a_time_limit(keeper, rpc) -> None:
    with pytest.raises(Unavailable):
        rpc.users.sleep(seconds=60)
    rpc.users.sleep(seconds=0)


IDLE_IN_TRANSACTION = """
    SELECT 1 FROM pg_stat_activity WHERE datname = 'users' AND state = 'idle in transaction'
"""


def test_the_server_ends_an_idle_transaction(keeper, superuser) -> None:
    with dependency(keeper, "db").engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        eventually(lambda: not superuser(IDLE_IN_TRANSACTION))
        with pytest.raises(DBAPIError) as caught:
            connection.execute(text("SELECT 2"))
        assert is_transient(caught.value)
        connection.rollback()


def test_a_service_waits_for_its_schema(config, monkeypatch, caplog) -> None:
    needed = ["9999"]
    monkeypatch.setattr(chassis_db, "newest_migration", lambda service: needed[0])
    monkeypatch.setattr(chassis_db, "RETRY_S", 0.05)
    container = Container(Keeper, config)
    starting = eventlet.spawn(container.start)
    eventually(lambda: "waiting_for_schema" in caplog.messages)
    assert health.respond("/readyz").status_code == 503
    needed[0] = "0001"
    starting.wait()
    container.stop()


def test_a_service_waits_for_its_tables(config, monkeypatch, caplog, sql) -> None:
    monkeypatch.setattr(chassis_db, "RETRY_S", 0.05)
    container = Container(Keeper, config)
    sql("users", "ALTER TABLE alembic_version RENAME TO hidden")
    try:
        starting = eventlet.spawn(container.start)
        eventually(lambda: "waiting_for_schema" in caplog.messages)
    finally:
        sql("users", "ALTER TABLE hidden RENAME TO alembic_version")
    starting.wait()
    container.stop()


def test_a_service_waits_for_its_database(
    config, monkeypatch, caplog, superuser
) -> None:
    monkeypatch.setattr(chassis_db, "RETRY_S", 0.05)
    container = Container(Keeper, config)
    superuser("ALTER ROLE users NOLOGIN")
    try:
        starting = eventlet.spawn(container.start)
        eventually(lambda: "waiting_for_database" in caplog.messages)
    finally:
        superuser("ALTER ROLE users LOGIN")
    starting.wait()
    container.stop()

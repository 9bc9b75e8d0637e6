"""`make shell`: calls end within their time limit and are not executed later."""

import json
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import eventlet
import kombu
import pytest

import billing.service
import orders.service
import users.service
from chassis.broker import connect
from chassis.deadlines import TIMEOUT
from conftest import eventually
from dev.broker import OPERATOR
from dev.cli import QUIET
from dev.servers import Servers
from tests.system.processes import without_uris

COMMAND = [sys.executable, "-m", "dev.shell", "--config", "config.yaml"]
COMMAND += ["--interface", "plain"]
DEFAULT_TIMEOUT_S = 5  # RPC_TIMEOUT_S of config.yaml
USER = str(uuid.uuid4())
ORDER = f"n.rpc.orders.place, user_id={USER!r}, price_minor=100"
UNKNOWN = "The outcome is unknown. It is safe to retry with the same key or ref."
PREPARE = """\
import json
def call(method, *args, **kwargs):
    try:
        result = method(*args, **kwargs)
    except BaseException as error:
        result = f"{type(error).__name__}: {error}"
    print("\\n=>", json.dumps(result))

"""


def obey_ctrl_c() -> None:
    """Enable SIGINT. Tests in the background ignore it, and so would their processes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Session:
    """`make shell` as a process that reads typed lines and continues after errors."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        self._seen = 0
        with log.open("w") as output:
            self._process = subprocess.Popen(
                COMMAND,
                env={**environment, **QUIET},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                preexec_fn=obey_ctrl_c,
            )
        self.type(PREPARE)

    def type(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def start(self, call: str) -> None:
        """Start a call. Do not wait for its result."""
        self.type(f"call({call})")

    def result(self) -> Any:
        """Return the result of the started call, or the text of its error."""
        line = eventually(lambda: self._results()[self._seen :])[0]
        self._seen += 1
        return json.loads(line)

    def call(self, call: str) -> Any:
        self.start(call)
        return self.result()

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Press Ctrl-D. Return the exit code."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            eventually(lambda: self._process.poll() is not None)
            return self._process.returncode
        except AssertionError:
            self._process.kill()
            raise

    def _results(self) -> list[str]:
        return [
            line[3:]
            for line in self._log.read_text().splitlines()
            if line.startswith("=> ")
        ]


OpenShell = Callable[..., Session]


@pytest.fixture(scope="module")
def operator(environment: dict[str, str], servers: Servers) -> dict[str, str]:
    """The environment of an operator."""
    # Other tests may have changed the user's password.
    servers.load_permissions(again=True)
    return {**without_uris(environment), **servers.env(OPERATOR)}


@pytest.fixture
def open_shell(
    operator: dict[str, str], clean: None, tmp_path: Path
) -> Iterator[OpenShell]:
    """`open_shell(RPC_TIMEOUT_S="1")`: a session of an operator with these variables."""
    with ExitStack() as sessions:

        def open_(**variables: str) -> Session:
            session = Session({**operator, **variables}, tmp_path / "shell.log")
            sessions.callback(session.end)
            return session

        yield open_


@pytest.fixture
def channel(config: dict[str, Any]) -> Iterator[Any]:
    """A channel for reading queues."""
    with connect(config) as connection:
        yield connection.default_channel


def waiting(channel: Any, queue: str = "rpc-orders") -> int:
    """Return how many messages a queue has."""
    return kombu.Queue(queue)(channel).queue_declare(passive=True).message_count


def test_interrupted_orders_are_not_placed_later(open_shell, channel, run, sql) -> None:
    session = open_shell()
    session.start(ORDER)
    eventually(lambda: waiting(channel) == 1)
    session.interrupt()
    assert (
        session.result() == f"KeyboardInterrupt: orders.place: interrupted. {UNKNOWN}"
    )
    late = f"OutcomeUnknown: orders.place: no reply within {DEFAULT_TIMEOUT_S} s. {UNKNOWN}"
    assert session.call(ORDER) == late
    eventually(lambda: waiting(channel) == 0)
    for service in (users.service, billing.service, orders.service):
        run(service.Service)
    placed = session.call(f"{ORDER}, key='once'")
    assert placed["status"] == "rejected"  # this user is unknown
    assert sql("orders", "SELECT key FROM orders") == [("once",)]


def test_a_call_without_a_reply_can_be_retried_with_its_key(
    open_shell, run, sql
) -> None:
    session = open_shell(RPC_TIMEOUT_S="1")
    deposit = f"n.rpc.billing.deposit, user_id={USER!r}, amount_minor=100, ref='till-1'"
    assert UNKNOWN in session.call(deposit)
    container = run(billing.service.Service)
    assert (
        session.call(f"n.rpc.billing.open_account, user_id={USER!r}")["status"]
        == "open"
    )
    done = session.call(deposit)
    assert done["status"] == "done"
    container.stop()
    assert UNKNOWN in session.call(deposit)
    run(billing.service.Service)
    assert session.call(deposit) == done
    assert sql("billing", "SELECT balance_minor FROM accounts") == [(100,)]


def test_a_request_expires(open_shell, channel) -> None:
    session = open_shell()
    session.start(ORDER)
    request = eventually(lambda: channel.basic_get("rpc-orders", no_ack=True))
    session.interrupt()
    assert "interrupted" in session.result()
    assert request.properties["expiration"] == str(
        DEFAULT_TIMEOUT_S * 1000
    )  # milliseconds
    assert request.headers[f"nameko.{TIMEOUT}"] == DEFAULT_TIMEOUT_S


def test_requests_during_a_broker_alarm_are_not_executed_later(
    open_shell, run, servers, sql
) -> None:
    run(users.service.Service)
    run(billing.service.Service)
    container = run(orders.service.Service)
    session = open_shell(RPC_TIMEOUT_S="1")
    assert session.call(f"{ORDER}, key='before'")["status"] == "rejected"
    servers.rabbitmqctl("set_vm_memory_high_watermark", "0.000001")
    try:
        unknown = [session.call(ORDER) for _ in range(3)]
    finally:
        servers.rabbitmqctl("set_vm_memory_high_watermark", "0.4")
    assert all(UNKNOWN in text for text in unknown)
    container.stop()
    run(orders.service.Service)
    eventually(lambda: "status" in session.call(f"{ORDER}, key='after'"))
    assert sql("orders", "SELECT key FROM orders ORDER BY key") == [
        ("after",),
        ("before",),
    ]


def consumers(config: dict[str, Any], queue: str) -> int:
    """Return how many consumers a queue has."""
    with connect(config) as connection:
        declared = kombu.Queue(queue)(connection.default_channel).queue_declare(
            passive=True
        )
        return declared.consumer_count


def test_a_session_survives_a_restart_of_the_broker(
    open_shell, run, servers, config
) -> None:
    session = open_shell()
    run(users.service.Service)
    get_user = f"n.rpc.users.get, user_id={USER!r}"
    assert session.call(get_user) is None
    servers.rabbitmqctl("stop_app")
    servers.rabbitmqctl("start_app")
    eventually(lambda: consumers(config, "rpc-users"))
    assert session.call(get_user) is None
    servers.rabbitmqctl("stop_app")
    assert UNKNOWN in session.call(get_user)
    servers.rabbitmqctl("start_app")
    eventually(lambda: session.call(get_user) is None)


class Forwarder:
    """A firewall between the shell and the broker. It can forget the connections it has."""

    def __init__(self, port: int) -> None:
        self._broker = ("127.0.0.1", port)
        self._sockets: list[Any] = []
        self._threads: list[Any] = []
        self._listener = eventlet.listen(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._accepting = eventlet.spawn(self._accept)

    def forget(self) -> None:
        """Stop forwarding on the open connections, without closing them."""
        for thread in self._threads:
            thread.kill()

    def close(self) -> None:
        self._accepting.kill()
        self.forget()
        for each in (self._listener, *self._sockets):
            each.close()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            broker = eventlet.connect(self._broker)
            self._sockets += [client, broker]
            self._threads += [
                eventlet.spawn(self._forward, client, broker),
                eventlet.spawn(self._forward, broker, client),
            ]

    def _forward(self, source: Any, target: Any) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def test_a_session_survives_a_lost_connection(open_shell, run, servers) -> None:
    run(users.service.Service)
    with closing(Forwarder(servers.ports["rabbitmq"])) as forwarder:
        uri = servers.env(OPERATOR)["AMQP_URI"].replace(
            str(servers.ports["rabbitmq"]), str(forwarder.port)
        )
        session = open_shell(RPC_TIMEOUT_S="2", AMQP_URI=uri)
        get_user = f"n.rpc.users.get, user_id={USER!r}"
        assert session.call(get_user) is None
        forwarder.forget()
        assert UNKNOWN in session.call(get_user)
        assert session.call(get_user) is None
        session.end()


def test_mistakes_are_reported_at_once(open_shell, run) -> None:
    session = open_shell()
    run(users.service.Service)
    reason = "no service has this method, or an operator may not call it"
    for name in ("unknown.get", "users.nothing"):
        assert session.call(f"n.rpc.{name}") == f"NotPermitted: {name}: {reason}"
    assert session.call("n.rpc.users.get, name='x'").startswith("IncorrectSignature")
    assert session.call(f"n.rpc['users'].get, user_id={USER!r}") is None
    assert (
        session.call(f"lambda: n.rpc.users.get.call_async(user_id={USER!r}).result()")
        is None
    )


def test_settings_equal_those_of_nameko_shell(open_shell) -> None:
    assert open_shell().call("lambda: n.config['RPC_TIMEOUT_S']") == str(
        DEFAULT_TIMEOUT_S
    )


def test_an_operator_cannot_publish_events_of_a_service(open_shell, channel) -> None:
    session = open_shell()
    queue = "evt-users-user_created--billing.handle_user_created"
    error = session.call("n.dispatch_event, 'users', 'user_created', {}")
    assert "ACCESS_REFUSED" in error
    assert "access to exchange 'users.events'" in error
    assert waiting(channel, queue) == 0


def test_an_error_ends_a_script(operator) -> None:
    """As in `nameko shell`, the lines after it are not executed."""
    done = subprocess.run(
        COMMAND,
        env={**operator, **QUIET, "RPC_TIMEOUT_S": "1"},
        input=f"n.rpc.orders.get(order_id={USER!r})\nprint('reached')\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "reached" not in done.stdout
    assert done.stderr.splitlines()[-1].endswith(
        f"orders.get: no reply within 1 s. {UNKNOWN}"
    )

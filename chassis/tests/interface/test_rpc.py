"""RPC over a real broker, between our services and stock Nameko's."""

import json
import pickle
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from socket import SHUT_RDWR
from typing import Any

import amqp
import eventlet
import pytest
from eventlet.event import Event
from nameko.containers import ServiceContainer
from nameko.exceptions import IncorrectSignature, MalformedRequest, MethodNotFound
from nameko.rpc import rpc as stock_rpc
from nameko.standalone.rpc import ClusterRpcProxy
from prometheus_client import REGISTRY

from chassis import health
from chassis.consumer import QueueConsumer
from chassis.container import Container
from chassis.errors import DeadlineExceeded, InternalError, Unavailable
from chassis.logs import bind_request_id, current_client, current_request_id
from chassis.rpc import NotReceived, RpcProxy, reply_prefix, rpc
from chassis.schemas import is_id
from chassis.tests.conftest import (
    SHORT_S,
    UNREADABLE_HEADERS,
    WORKERS,
    dependency,
    running,
)
from conftest import DEADLINE_S, eventually

gates: dict[str, Event] = {}
connections_of_echo: list[Any] = []


class Echo:
    """The callee."""

    name = "echo"

    @rpc
    def echo(self, value: Any) -> Any:
        return value

    @rpc
    def fail(self, text: str) -> None:
        raise ValueError(text)

    @rpc
    def unavailable(self) -> None:
        raise ConnectionResetError("10.0.0.1 is gone")

    @rpc
    def refuse(self) -> None:
        raise MalformedRequest("not so")

    @rpc
    def odd(self) -> Any:
        return object()

    @rpc
    def deep(self) -> Any:
        nested: list[Any] = []
        for _ in range(10_000):
            nested = [nested]
        return nested

    @rpc
    def hold(self, gate: str) -> str:
        gates.setdefault(gate, Event()).wait()
        return "at last"

    @rpc
    def cut(self) -> None:
        """Break the connection before the ack. The consumer does not notice it yet."""
        for connection in connections_of_echo:
            connection.transport.sock.shutdown(SHUT_RDWR)
        connections_of_echo.clear()

    @rpc
    def request_id(self) -> str:
        return current_request_id()

    @rpc
    def client(self) -> str:
        return current_client()

    @rpc
    def client_many(self, items: list[dict[str, Any]]) -> list[str]:
        return [current_client() for _ in items]

    @rpc
    def double_many(self, items: list[dict[str, Any]]) -> list[Any]:
        return [
            {"twice": 2 * item["number"], "with": len(items), **item} for item in items
        ]

    @rpc
    def forget_many(self, items: list[dict[str, Any]]) -> list[Any]:
        return items[1:]


class Caller:
    """Calls the callee."""

    name = "caller"

    echo = RpcProxy(
        "echo",
        [
            "unavailable",
            "client",
            "cut",
            "deep",
            "echo",
            "fail",
            "hold",
            "nothing",
            "odd",
            "request_id",
        ],
        batched=["double", "forget"],
    )
    echo_of_many = RpcProxy("echo", batched=["client"])
    hasty = RpcProxy("echo", ["hold"], timeout_setting="SHORT_S")
    limited = RpcProxy("echo", ["hold"], limit_s=SHORT_S)
    missing = RpcProxy("missing", ["anything"])
    worker = RpcProxy("worker", ["echo", "fail", "nothing"])
    faulty = RpcProxy("faulty", ["speak"])

    @rpc
    def request_ids(self) -> list[str]:
        item = self.echo.double(number=1)
        return [current_request_id(), self.echo.request_id(), item["request_id"]]

    @rpc
    def clients(self) -> list[str]:
        return [current_client(), self.echo.client(), self.echo_of_many.client()]

    @rpc
    def call_missing(self) -> None:
        self.missing.anything()


@pytest.fixture(scope="module")
def caller(chassis_config) -> Iterator[Container]:
    """The container of the caller. The callee runs too."""
    echo, caller = Container(Echo, chassis_config), Container(Caller, chassis_config)
    with running(echo, caller):
        [queue_consumer] = [e for e in echo.extensions if isinstance(e, QueueConsumer)]
        [consumer] = queue_consumer._consumers.values()
        connections_of_echo.append(consumer.channel.connection)
        yield caller
        for gate in gates.values():  # a failed test must not delay the stop
            if not gate.ready():
                gate.send()


@pytest.fixture
def echo(caller) -> Any:
    return dependency(caller, "echo")


@pytest.fixture(scope="module")
def stock(caller, chassis_config) -> Iterator[Any]:
    """A stock Nameko client of the services."""
    with ClusterRpcProxy(chassis_config, timeout=DEADLINE_S) as proxy:
        yield proxy


def pending(container: Container) -> int:
    """Return the number of calls that wait for a reply."""
    [proxy] = [d for d in container.dependencies if d.attr_name == "echo"]
    return len(proxy.replies._reply_events)


@pytest.mark.parametrize("value", [None, 0, "д", [1, {"a": [True]}], {}, "x" * 300_000])
def test_a_result_is_returned_unchanged(echo, caller, value) -> None:
    assert echo.echo(value=value) == value
    assert pending(caller) == 0


def test_an_exception_reaches_the_caller_without_its_text(echo, caller) -> None:
    with pytest.raises(InternalError, match=r"^echo failed$"):
        echo.fail(text="SELECT secret")
    assert pending(caller) == 0


def test_a_transient_error_reaches_the_caller_as_unavailable(echo) -> None:
    with pytest.raises(Unavailable, match=r"^a dependency of echo is unavailable$"):
        echo.unavailable()


@pytest.mark.parametrize("method", ["odd", "deep"])
def test_an_unserializable_result_is_a_fault(echo, method) -> None:
    with pytest.raises(InternalError):
        getattr(echo, method)()
    assert echo.echo(value=1) == 1


def test_an_unserializable_argument_is_refused_by_the_caller(echo, caller) -> None:
    with pytest.raises(TypeError):
        echo.echo(value=object())
    assert pending(caller) == 0


def test_a_stock_caller_gets_namekos_exceptions(stock) -> None:
    with pytest.raises(IncorrectSignature):
        stock.echo.echo(valeu=1)
    with pytest.raises(MethodNotFound):
        stock.echo.nothing()


def test_a_wrong_call_is_an_internal_error_of_its_caller(echo, caplog) -> None:
    """It is logged, also if a timer made the call."""
    with pytest.raises(InternalError, match=r"^echo failed$"):
        echo.echo(valeu=1)
    assert caplog.messages.count("rpc_call_failed") == 1


def test_a_method_that_an_earlier_version_does_not_have_is_not_received(
    echo, caplog
) -> None:
    """During an upgrade the call succeeds later. If it is a mistake, the log has it."""
    with pytest.raises(NotReceived):
        echo.nothing()
    assert caplog.messages.count("rpc_call_failed") == 1


@pytest.mark.parametrize("name", ["hasty", "limited"])
def test_a_call_ends_at_its_deadline(caller, echo, name) -> None:
    with pytest.raises(DeadlineExceeded, match=r"echo\.hold did not reply in 0\.3 s"):
        dependency(caller, name).hold(gate=name)
    assert pending(caller) == 0
    gates[name].send()  # its late reply is dropped, and does not affect later calls
    assert echo.echo(value=1) == 1


def test_at_most_half_of_the_workers_wait_for_one_service(caller, echo) -> None:
    held = [eventlet.spawn(echo.hold, gate="half") for _ in range(WORKERS // 2)]
    eventually(lambda: pending(caller) == len(held))
    for call in (lambda: echo.echo(value=1), lambda: echo.double(number=1)):
        with pytest.raises(Unavailable, match="4 workers wait for echo"):
            call()
    faults = echo.double.many([{"number": 1}, {"number": 2}])
    assert [type(fault) for fault in faults] == [NotReceived, NotReceived]
    with pytest.raises(
        Unavailable, match="never run"
    ):  # each service has its own limit
        dependency(caller, "missing").anything()
    gates["half"].send()
    assert [call.wait() for call in held] == ["at last"] * len(held)
    assert echo.echo(value=1) == 1


def test_a_blocked_broker_fails_a_call_at_once(caller, echo, servers) -> None:
    servers.rabbitmqctl("set_vm_memory_high_watermark", "0.000001")
    try:
        with pytest.raises(
            Unavailable, match="blocked publishing"
        ):  # the broker reports the block after the first message
            echo.echo(value=1)
        with pytest.raises(
            Unavailable, match="blocked publishing"
        ):  # not DeadlineExceeded
            echo.echo(value=1)
        assert health.respond("/readyz").status_code == 503
    finally:
        servers.rabbitmqctl("set_vm_memory_high_watermark", "0.4")
    eventually(lambda: health.respond("/readyz").status_code == 200)
    assert echo.echo(value=1) == 1
    assert pending(caller) == 0


@pytest.fixture
def distant(proxy, caller) -> Iterator[Container]:
    """A second copy of the calling service, which reaches the broker through the proxy."""
    container = Container(Caller, proxy.config)
    with running(container):
        assert dependency(container, "echo").echo(value=1) == 1
        yield container


def test_calls_fail_at_once_while_the_broker_is_unavailable(
    distant,
    proxy,
) -> None:
    echo = dependency(distant, "echo")
    proxy.close()
    eventually(lambda: echo.echo._proxy.publisher._connection.closed)
    for _ in range(20):
        with pytest.raises(NotReceived, match="unavailable"):  # not DeadlineExceeded
            echo.hold(gate="never")
        with pytest.raises(NotReceived, match="unavailable"):
            echo.double(number=1)
    assert [type(fault) for fault in echo.double.many([{"number": 1}] * 2)] == [
        NotReceived
    ] * 2
    assert pending(distant) == 0
    proxy.open()
    assert eventually(lambda: reply_of(echo)) == 1
    assert "never" not in gates


def reply_of(echo: Any) -> Any:
    """Return the result of a call, or None while the callee is unavailable."""
    with suppress(DeadlineExceeded, Unavailable):
        return echo.echo(value=1)


def test_the_outcome_of_a_call_that_was_written_is_unknown(distant, proxy) -> None:
    proxy.hold()
    with pytest.raises(DeadlineExceeded):
        dependency(distant, "hasty").hold(gate="held back")
    assert "held back" not in gates
    proxy.release()
    eventually(lambda: "held back" in gates)  # the call is executed later
    gates["held back"].send()
    assert pending(distant) == 0


def test_not_received_is_not_passed_on_to_callers(
    stock,
) -> None:
    with pytest.raises(Unavailable) as caught:
        stock.caller.call_missing()
    assert type(caught.value) is Unavailable


def test_a_service_that_has_never_run_is_unavailable_at_once(caller) -> None:
    with pytest.raises(NotReceived, match="never run"):
        dependency(caller, "missing").anything()
    assert pending(caller) == 0


def test_calls_and_items_have_the_request_id_of_their_caller(
    caller, chassis_config
) -> None:
    with ClusterRpcProxy(
        chassis_config, {"request_id": "from-outside"}, DEADLINE_S
    ) as client:
        assert client.caller.request_ids() == ["from-outside"] * 3


def test_a_single_call_has_the_address_of_the_client(caller, chassis_config) -> None:
    with ClusterRpcProxy(chassis_config, {"client": "192.0.2.1"}, DEADLINE_S) as client:
        assert client.caller.clients() == ["192.0.2.1", "192.0.2.1", ""]
    with ClusterRpcProxy(chassis_config, timeout=DEADLINE_S) as client:
        assert client.caller.clients() == ["", "", ""]


def test_concurrent_calls_of_a_batched_method_share_a_request(echo) -> None:
    threads = [eventlet.spawn(echo.double, number=n) for n in range(WORKERS // 2)]
    outcomes = [thread.wait() for thread in threads]
    assert [outcome["twice"] for outcome in outcomes] == [
        2 * n for n in range(len(threads))
    ]
    assert max(outcome["with"] for outcome in outcomes) > 1


def test_each_item_of_a_batch_has_the_request_id_of_its_caller(echo) -> None:
    def call(number: int) -> str:
        bind_request_id({"request_id": f"caller-{number}"})
        return echo.double(number=number)["request_id"]

    threads = [eventlet.spawn(call, n) for n in range(WORKERS // 2)]
    assert [thread.wait() for thread in threads] == [
        f"caller-{n}" for n in range(len(threads))
    ]


def test_many_items_have_their_outcomes_in_order(echo) -> None:
    outcomes = echo.double.many([{"number": n} for n in range(250)])
    assert [outcome["number"] for outcome in outcomes] == list(range(250))


def test_a_reply_with_too_few_outcomes_fails_all_items(echo) -> None:
    faults = echo.forget.many([{"number": 1}, {"number": 2}])
    assert [type(fault) for fault in faults] == [InternalError, InternalError]


def test_stock_clients_can_call_our_services(stock) -> None:
    assert stock.echo.echo("positional") == "positional"
    assert stock.echo.echo(value="named") == "named"
    with pytest.raises(InternalError):
        stock.echo.fail("why")
    with pytest.raises(MethodNotFound):
        stock.echo.nothing()
    with pytest.raises(IncorrectSignature):
        stock.echo.echo()


def test_our_services_can_call_stock_services(caller, chassis_config) -> None:
    class Stock:
        name = "worker"

        @stock_rpc
        def echo(self, value: Any) -> Any:
            return value

        @stock_rpc
        def fail(self) -> None:
            raise RuntimeError("SELECT secret")

    container = ServiceContainer(Stock, chassis_config)
    with running(container):
        worker = dependency(caller, "worker")
        assert worker.echo(value=[1]) == [1]
        with pytest.raises(InternalError, match=r"^worker failed$"):
            worker.fail()
        with pytest.raises(NotReceived):
            worker.nothing()


def ask(broker: Any, body: Any, **properties: Any) -> None:
    properties = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        **properties,
    }
    headers = properties.pop("headers", None)
    content = {
        name: properties.pop(name) for name in ("content_type", "content_encoding")
    }
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    broker.publish(
        "nameko-rpc",
        "echo.echo",
        body,
        headers=headers,
        properties=properties,
        **content,
    )


GOOD = {"args": [1], "kwargs": {}}
NOWHERE = str(uuid.uuid4())
REPLY = {"reply_to": NOWHERE, "correlation_id": "1"}
POISON: dict[str, Callable[[Any], None]] = {
    "no reply_to": lambda b: ask(b, GOOD),
    "an empty message": lambda b: b.publish("nameko-rpc", "echo.echo", b""),
    "garbage": lambda b: ask(b, b"\xff\x00{", **REPLY),
    "empty": lambda b: ask(b, b"", **REPLY),
    "deeply nested": lambda b: ask(b, b"[" * 100_000, **REPLY),
    "pickle": lambda b: ask(
        b,
        pickle.dumps(GOOD),
        content_type="application/x-python-serialize",
        content_encoding="binary",
        **REPLY,
    ),
    "another content type": lambda b: ask(b, GOOD, content_type="text/plain", **REPLY),
    "an unknown encoding": lambda b: ask(b, GOOD, content_encoding="klingon", **REPLY),
    "a list": lambda b: ask(b, [1, 2], **REPLY),
    "null": lambda b: ask(b, None, **REPLY),
    "args missing": lambda b: ask(b, {"kwargs": {}}, **REPLY),
    "args a text": lambda b: ask(b, {"args": "a", "kwargs": {}}, **REPLY),
    "args a number": lambda b: ask(b, {"args": 1, "kwargs": {}}, **REPLY),
    "kwargs a list": lambda b: ask(b, {"args": [], "kwargs": [["value", 1]]}, **REPLY),
    "kwargs null": lambda b: ask(b, {"args": [1], "kwargs": None}, **REPLY),
    "a call stack that is a number": lambda b: ask(
        b, GOOD, headers={"nameko.call_id_stack": 5}, **REPLY
    ),
    "a call stack of numbers": lambda b: ask(
        b, GOOD, headers={"nameko.call_id_stack": [1]}, **REPLY
    ),
    "a client that is a table": lambda b: ask(
        b, GOOD, headers={"nameko.client": {"a": 1}}, **REPLY
    ),
    "a request id that is a table": lambda b: ask(
        b, GOOD, headers={"nameko.request_id": {"a": 1}}, **REPLY
    ),
    "reply_to a service": lambda b: ask(
        b, GOOD, reply_to="echo.echo", correlation_id="1"
    ),
    "reply_to far too long": lambda b: ask(b, GOOD, reply_to="x" * 255),
    "reply_to that is not text": lambda b: ask(b, GOOD, reply_to=b"\xff"),
    "reply_to that is long and not text": lambda b: ask(
        b, GOOD, reply_to=b"\xff" * 200
    ),
    "a correlation id that is not text": lambda b: ask(
        b, GOOD, reply_to=NOWHERE, correlation_id=b"\xff" * 200
    ),
    "a header that is not text": lambda b: ask(
        b, GOOD, headers={"a": b"\xff"}, **REPLY
    ),
    "no correlation id": lambda b: ask(b, GOOD, reply_to=NOWHERE),
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
def test_a_poison_message_does_not_stop_the_service(
    broker, echo, caller, poison
) -> None:
    poison(broker)
    assert echo.echo(value=1) == 1
    eventually(lambda: broker.count("rpc-echo") == 0)


DROPPED, MALFORMED = "request_dropped", "request_malformed"


def refusals(caplog: Any, event: str) -> list[str]:
    """Return the reasons of all refused requests."""
    return [record.error for record in caplog.records if record.message == event]


def by_dead_letter(broker: Any) -> None:
    """Publish to a private queue, whose messages expire at once."""
    arguments = {
        "x-dead-letter-exchange": "nameko-rpc",
        "x-dead-letter-routing-key": "echo.echo",
    }
    queue = broker.bind("", "", **arguments, **{"x-message-ttl": 0})
    publish_request(broker, "", queue)


def by_alternate_exchange(broker: Any) -> None:
    """Publish to a private exchange, which passes on messages without a queue."""
    broker.channel.exchange_declare(
        "detour",
        "topic",
        auto_delete=True,
        arguments={"alternate-exchange": "nameko-rpc"},
    )
    publish_request(broker, "detour", "echo.echo")
    broker.channel.exchange_delete("detour")


def by_bound_exchange(broker: Any) -> None:
    """Publish to a private exchange, to which the exchange of requests is bound."""
    broker.channel.exchange_declare("detour", "topic", auto_delete=True)
    broker.channel.exchange_bind("nameko-rpc", "detour", "#")
    publish_request(broker, "detour", "echo.echo")
    broker.channel.exchange_delete("detour")


def by_queue_name(broker: Any) -> None:
    """Publish to the default exchange, which reaches all queues."""
    publish_request(broker, "", "rpc-echo")


def publish_request(broker: Any, exchange: str, key: str) -> None:
    body, json_type = json.dumps(GOOD).encode(), "application/json"
    properties = {"content_type": json_type, "content_encoding": "utf-8"}
    broker.publish(exchange, key, body, **properties, properties=REPLY)


DETOURS = {
    by_dead_letter: "dead-lettered",
    by_alternate_exchange: "published to another exchange",
    by_bound_exchange: "published to another exchange",
    by_queue_name: "published to another exchange",
}


@pytest.mark.parametrize(
    ("detour", "reason"), DETOURS.items(), ids=[each.__name__ for each in DETOURS]
)
def test_a_request_that_bypassed_the_permissions_is_not_executed(
    broker, echo, caplog, detour, reason
) -> None:
    labels = {"service": "echo", "method": "echo", "outcome": "done"}
    before = REGISTRY.get_sample_value("shop_worker_seconds_count", labels) or 0
    detour(broker)
    eventually(lambda: refusals(caplog, DROPPED) == [reason])
    eventually(lambda: broker.count("rpc-echo") == 0)
    assert (
        REGISTRY.get_sample_value("shop_worker_seconds_count", labels) or 0
    ) == before


def test_reply_keys_are_uuids_with_the_prefix_of_their_service(
    caller, chassis_config
) -> None:
    another = Container(Caller, chassis_config)
    with running(another):
        keys = {
            dependency(each, "echo").echo._proxy.replies.routing_key
            for each in (caller, another)
        }
    assert len(keys) == 2
    assert all(is_id(key) for key in keys)
    assert (
        {key[:8] for key in keys} == {reply_prefix("caller")} != {reply_prefix("echo")}
    )


@pytest.mark.parametrize("headers", UNREADABLE_HEADERS.values(), ids=UNREADABLE_HEADERS)
def test_a_request_with_unreadable_headers_does_not_stop_the_service(
    broker, echo, monkeypatch, headers
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(amqp.Message, "_serialize_properties", lambda self: headers)
        ask(broker, GOOD)
    assert echo.echo(value=1) == 1
    eventually(lambda: broker.count("rpc-echo") == 0)


def test_a_poison_message_is_logged(broker, echo, caplog) -> None:
    ask(broker, GOOD)
    eventually(lambda: refusals(caplog, DROPPED) == ["reply_to is not a UUID"])
    ask(broker, [], **REPLY)
    eventually(lambda: len(refusals(caplog, MALFORMED)) == 1)


def test_the_content_of_an_undecodable_request_is_not_logged(
    broker, echo, caplog
) -> None:
    reader = str(uuid.uuid4())
    queue = broker.bind("nameko-rpc", reader)
    secret = b'{"args": [], "kwargs": {"password": "correct horse"}'  # without the last brace
    ask(broker, secret, reply_to=reader, correlation_id="8")
    eventually(lambda: broker.count(queue))
    [reply] = broker.take(queue)
    assert reply.properties["correlation_id"] == "8"
    assert json.loads(reply.body)["error"]["exc_type"] == MalformedRequest.__name__
    assert "correct horse" not in caplog.text
    assert MALFORMED in caplog.messages
    eventually(lambda: broker.count("rpc-echo") == 0)


def test_a_malformed_request_gets_a_reply(broker, echo) -> None:
    reply_to = str(uuid.uuid4())
    queue = broker.bind("nameko-rpc", reply_to)
    ask(broker, {"args": "a", "kwargs": {}}, reply_to=reply_to, correlation_id="7")
    eventually(lambda: broker.count(queue))
    [reply] = broker.take(queue)
    assert reply.properties["correlation_id"] == "7"
    assert json.loads(reply.body)["error"]["exc_type"] == MalformedRequest.__name__


def test_a_mistake_of_the_caller_is_not_logged_as_an_error(stock, caplog) -> None:
    caplog.set_level("INFO", "chassis")
    with pytest.raises(MalformedRequest):
        stock.echo.refuse()
    found: list[Any] = []
    eventually(
        lambda: (
            found.extend(
                r for r in caplog.records if getattr(r, "method", "") == "refuse"
            )
            or found
        )
    )
    assert [(record.levelname, record.exc_info) for record in found] == [("INFO", None)]
    labels = {"service": "echo", "method": "refuse"}
    counts = [
        REGISTRY.get_sample_value(
            "shop_worker_seconds_count", {**labels, "outcome": outcome}
        )
        for outcome in ("refused", "failed")
    ]
    assert counts == [1, None]


MALFORMED_REPLIES = {
    "not JSON": b"{",
    "not text": b"\xff",
    "null": b"null",
    "a list": b"[]",
    "an object without its keys": b"{}",
    "an error that is a text": b'{"error": "no"}',
}


@pytest.mark.parametrize("reply", MALFORMED_REPLIES.values(), ids=MALFORMED_REPLIES)
def test_a_malformed_reply_is_a_fault_at_once(caller, broker, reply) -> None:
    queue = broker.bind("nameko-rpc", "faulty.speak")
    call = eventlet.spawn(dependency(caller, "faulty").speak)
    eventually(lambda: broker.count(queue))
    [request] = broker.take(queue)
    broker.publish(
        "nameko-rpc",
        request.properties["reply_to"],
        reply,
        content_type="application/json",
        properties={"correlation_id": request.properties["correlation_id"]},
    )
    with pytest.raises(InternalError, match=r"^faulty sent a malformed reply$"):
        call.wait()


def test_every_received_message_is_acked(broker, chassis_config) -> None:
    """An unacked message returns to the queue when its consumer stops."""
    with running(Container(Echo, chassis_config)):
        for poison in POISON.values():
            poison(broker)
        eventually(lambda: broker.count("rpc-echo") == 0)
    assert broker.count("rpc-echo") == 0


def test_an_ack_on_a_broken_connection_does_not_stop_the_service(echo) -> None:
    assert echo.cut() is None
    assert echo.echo(value=1) == 1


def test_calls_succeed_after_all_connections_were_closed(
    echo, caller, close_connections
) -> None:
    assert echo.echo(value=1) == 1
    close_connections()

    def answered() -> bool:
        try:
            return echo.echo(value=2) == 2
        except (DeadlineExceeded, Unavailable):
            return False

    eventually(answered)
    assert [echo.echo(value=n) for n in range(20)] == list(range(20))
    assert pending(caller) == 0


def test_a_request_in_flight_survives_a_closed_connection(
    echo, caller, close_connections
) -> None:
    """Its ack fails, and the broker delivers it again."""
    started = eventlet.spawn(dependency(caller, "echo").hold, gate="cut")
    eventually(lambda: "cut" in gates)
    close_connections()
    gates["cut"].send()
    with eventlet.Timeout(DEADLINE_S), suppress(DeadlineExceeded, Unavailable):
        assert started.wait() == "at last"  # unless the request or the reply was lost
    eventually(lambda: echo.echo(value=3) == 3)

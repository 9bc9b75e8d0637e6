"""RPC over the real broker: our callers, our services, and stock Nameko's of both."""

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
    """Answers."""

    name = "echo"

    @rpc
    def echo(self, value: Any) -> Any:
        return value

    @rpc
    def fail(self, text: str) -> None:
        raise ValueError(text)

    @rpc
    def away(self) -> None:
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
        """The connection breaks before the ack, and nobody has noticed yet."""
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


class Asker:
    """Asks, and passes on what it was asked."""

    name = "asker"

    echo = RpcProxy(
        "echo",
        [
            "away",
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
    hasty = RpcProxy("echo", ["hold"], timeout="SHORT_S")
    limited = RpcProxy("echo", ["hold"], limit_s=SHORT_S)
    nobody = RpcProxy("nobody", ["anything"])
    worker = RpcProxy("worker", ["echo", "fail", "nothing"])
    mumbler = RpcProxy("mumbler", ["speak"])

    @rpc
    def request_ids(self) -> list[str]:
        item = self.echo.double(number=1)
        return [current_request_id(), self.echo.request_id(), item["request_id"]]

    @rpc
    def clients(self) -> list[str]:
        return [current_client(), self.echo.client(), self.echo_of_many.client()]

    @rpc
    def ask_nobody(self) -> None:
        self.nobody.anything()


@pytest.fixture(scope="module")
def asker(chassis_config) -> Iterator[Container]:
    """Both services run; the one that asks."""
    echo, asker = Container(Echo, chassis_config), Container(Asker, chassis_config)
    with running(echo, asker):
        [queue_consumer] = [e for e in echo.extensions if isinstance(e, QueueConsumer)]
        [consumer] = queue_consumer._consumers.values()
        connections_of_echo.append(consumer.channel.connection)
        yield asker
        for gate in gates.values():  # a test that failed must not hold up the stop
            if not gate.ready():
                gate.send()


@pytest.fixture
def echo(asker) -> Any:
    return dependency(asker, "echo")


@pytest.fixture(scope="module")
def stock(asker, chassis_config) -> Iterator[Any]:
    """A stock Nameko client of the services."""
    with ClusterRpcProxy(chassis_config, timeout=DEADLINE_S) as proxy:
        yield proxy


def pending(container: Container) -> int:
    """How many calls of the container's service wait for an answer."""
    [proxy] = [d for d in container.dependencies if d.attr_name == "echo"]
    return len(proxy.replies._reply_events)


@pytest.mark.parametrize("value", [None, 0, "д", [1, {"a": [True]}], {}, "x" * 300_000])
def test_an_answer_comes_back_as_it_was_given(echo, asker, value) -> None:
    assert echo.echo(value=value) == value
    assert pending(asker) == 0


def test_an_exception_of_the_service_is_told_without_its_text(echo, asker) -> None:
    with pytest.raises(InternalError, match=r"^echo failed$"):
        echo.fail(text="SELECT secret")
    assert pending(asker) == 0


def test_a_service_that_cannot_reach_a_part_says_so_without_its_text(echo) -> None:
    with pytest.raises(Unavailable, match=r"^a dependency of echo is unavailable$"):
        echo.away()


@pytest.mark.parametrize("method", ["odd", "deep"])
def test_a_result_that_cannot_be_sent_is_a_fault_and_the_service_lives(
    echo, method
) -> None:
    with pytest.raises(InternalError):
        getattr(echo, method)()
    assert echo.echo(value=1) == 1


def test_an_argument_that_cannot_be_sent_is_refused_here(echo, asker) -> None:
    with pytest.raises(TypeError):
        echo.echo(value=object())
    assert pending(asker) == 0


def test_a_call_with_wrong_arguments_is_the_callers_mistake(stock) -> None:
    with pytest.raises(IncorrectSignature):
        stock.echo.echo(valeu=1)
    with pytest.raises(MethodNotFound):
        stock.echo.nothing()


def test_a_wrong_call_of_ours_is_our_fault_not_that_of_who_called_us(
    echo, caplog
) -> None:
    """Nor one that a timer would keep to itself."""
    for call in (lambda: echo.echo(valeu=1), lambda: echo.nothing()):
        with pytest.raises(InternalError, match=r"^echo failed$"):
            call()
    assert caplog.messages.count("rpc_call_failed") == 2


@pytest.mark.parametrize("name", ["hasty", "limited"])
def test_a_service_too_slow_is_waited_for_until_the_deadline_only(
    asker, echo, name
) -> None:
    with pytest.raises(DeadlineExceeded, match=r"echo\.hold did not answer in 0\.3 s"):
        dependency(asker, name).hold(gate=name)
    assert pending(asker) == 0
    gates[name].send()  # its late reply is dropped, and harms no later call
    assert echo.echo(value=1) == 1


def test_half_of_the_workers_may_wait_for_one_service_and_the_next_call_fails_at_once(
    asker, echo
) -> None:
    held = [eventlet.spawn(echo.hold, gate="half") for _ in range(WORKERS // 2)]
    eventually(lambda: pending(asker) == len(held))
    for call in (lambda: echo.echo(value=1), lambda: echo.double(number=1)):
        with pytest.raises(Unavailable, match="4 calls wait for echo"):
            call()
    faults = echo.double.many([{"number": 1}, {"number": 2}])
    assert [type(fault) for fault in faults] == [NotReceived, NotReceived]
    with pytest.raises(Unavailable, match="no such service"):  # another service's turn
        dependency(asker, "nobody").anything()
    gates["half"].send()
    assert [call.wait() for call in held] == ["at last"] * len(held)
    assert echo.echo(value=1) == 1


def test_a_blocked_broker_fails_a_call_at_once(asker, echo, servers) -> None:
    servers.rabbitmqctl("set_vm_memory_high_watermark", "0.000001")
    try:
        with pytest.raises(
            Unavailable, match="blocked publishing"
        ):  # the first message tells
            echo.echo(value=1)
        with pytest.raises(
            Unavailable, match="blocked publishing"
        ):  # no DeadlineExceeded
            echo.echo(value=1)
        assert health.respond("/readyz").status_code == 503
    finally:
        servers.rabbitmqctl("set_vm_memory_high_watermark", "0.4")
    eventually(lambda: health.respond("/readyz").status_code == 200)
    assert echo.echo(value=1) == 1
    assert pending(asker) == 0


@pytest.fixture
def distant(proxy, asker) -> Iterator[Container]:
    """A second copy of the calling service, which reaches the broker through the proxy."""
    container = Container(Asker, proxy.config)
    with running(container):
        assert dependency(container, "echo").echo(value=1) == 1
        yield container


def test_while_the_broker_is_unavailable_calls_fail_at_once_and_are_never_done(
    distant,
    proxy,
) -> None:
    echo = dependency(distant, "echo")
    proxy.close()
    eventually(lambda: echo.echo._proxy.publisher._connection.closed)
    for _ in range(20):
        with pytest.raises(NotReceived, match="unavailable"):  # no DeadlineExceeded
            echo.hold(gate="never")
        with pytest.raises(NotReceived, match="unavailable"):
            echo.double(number=1)
    assert [type(fault) for fault in echo.double.many([{"number": 1}] * 2)] == [
        NotReceived
    ] * 2
    assert pending(distant) == 0
    proxy.open()
    assert eventually(lambda: answer_of(echo)) == 1
    assert "never" not in gates


def answer_of(echo: Any) -> Any:
    """Its reply to 1; None while it is unavailable."""
    with suppress(DeadlineExceeded, Unavailable):
        return echo.echo(value=1)


def test_a_call_that_the_socket_has_stays_unknown(distant, proxy) -> None:
    proxy.hold()
    with pytest.raises(DeadlineExceeded):
        dependency(distant, "hasty").hold(gate="held back")
    assert "held back" not in gates
    proxy.release()
    eventually(lambda: "held back" in gates)  # the call was executed after all
    gates["held back"].send()
    assert pending(distant) == 0


def test_that_a_call_of_its_own_was_not_received_says_nothing_about_the_service(
    stock,
) -> None:
    with pytest.raises(Unavailable) as caught:
        stock.asker.ask_nobody()
    assert type(caught.value) is Unavailable


def test_a_service_that_has_never_run_is_unavailable_at_once(asker) -> None:
    with pytest.raises(NotReceived, match="no such service"):
        dependency(asker, "nobody").anything()
    assert pending(asker) == 0


def test_the_request_id_goes_with_the_call_and_with_each_item(
    asker, chassis_config
) -> None:
    with ClusterRpcProxy(
        chassis_config, {"request_id": "from-outside"}, DEADLINE_S
    ) as client:
        assert client.asker.request_ids() == ["from-outside"] * 3


def test_the_clients_address_goes_with_a_lone_call_and_not_with_a_batch(
    asker, chassis_config
) -> None:
    with ClusterRpcProxy(chassis_config, {"client": "192.0.2.1"}, DEADLINE_S) as client:
        assert client.asker.clients() == ["192.0.2.1", "192.0.2.1", ""]
    with ClusterRpcProxy(chassis_config, timeout=DEADLINE_S) as client:
        assert client.asker.clients() == ["", "", ""]


def test_calls_of_a_batched_verb_share_their_round_trip(echo) -> None:
    threads = [eventlet.spawn(echo.double, number=n) for n in range(WORKERS // 2)]
    answers = [thread.wait() for thread in threads]
    assert [answer["twice"] for answer in answers] == [
        2 * n for n in range(len(threads))
    ]
    assert max(answer["with"] for answer in answers) > 1


def test_each_item_of_a_batch_carries_the_request_id_of_its_caller(echo) -> None:
    def call(number: int) -> str:
        bind_request_id({"request_id": f"caller-{number}"})
        return echo.double(number=number)["request_id"]

    threads = [eventlet.spawn(call, n) for n in range(WORKERS // 2)]
    assert [thread.wait() for thread in threads] == [
        f"caller-{n}" for n in range(len(threads))
    ]


def test_many_items_have_their_outcomes_in_order(echo) -> None:
    answers = echo.double.many([{"number": n} for n in range(250)])
    assert [answer["number"] for answer in answers] == list(range(250))


def test_a_service_that_does_not_answer_each_item_fails_each(echo) -> None:
    faults = echo.forget.many([{"number": 1}, {"number": 2}])
    assert [type(fault) for fault in faults] == [InternalError, InternalError]


def test_stock_clients_are_answered(stock) -> None:
    assert stock.echo.echo("positional") == "positional"
    assert stock.echo.echo(value="named") == "named"
    with pytest.raises(InternalError):
        stock.echo.fail("why")
    with pytest.raises(MethodNotFound):
        stock.echo.nothing()
    with pytest.raises(IncorrectSignature):
        stock.echo.echo()


def test_a_stock_service_answers_our_calls(asker, chassis_config) -> None:
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
        worker = dependency(asker, "worker")
        assert worker.echo(value=[1]) == [1]
        with pytest.raises(InternalError, match=r"^worker failed$"):
            worker.fail()
        with pytest.raises(InternalError):
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
    "nothing at all": lambda b: b.publish("nameko-rpc", "echo.echo", b""),
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
    "reply_to no text": lambda b: ask(b, GOOD, reply_to=b"\xff"),
    "reply_to long and no text": lambda b: ask(b, GOOD, reply_to=b"\xff" * 200),
    "a correlation id that is no text": lambda b: ask(
        b, GOOD, reply_to=NOWHERE, correlation_id=b"\xff" * 200
    ),
    "a header that is no text": lambda b: ask(b, GOOD, headers={"a": b"\xff"}, **REPLY),
    "no correlation id": lambda b: ask(b, GOOD, reply_to=NOWHERE),
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
def test_a_poison_message_is_taken_off_the_queue_and_the_service_lives(
    broker, echo, asker, poison
) -> None:
    poison(broker)
    assert echo.echo(value=1) == 1
    eventually(lambda: broker.count("rpc-echo") == 0)


UNANSWERED, MALFORMED = "request_dropped", "request_malformed"


def refusals(caplog: Any, event: str) -> list[str]:
    """The reasons of all refused requests."""
    return [record.error for record in caplog.records if record.message == event]


def by_dead_letter(broker: Any) -> None:
    """A queue of one's own, whose messages expire at once."""
    arguments = {
        "x-dead-letter-exchange": "nameko-rpc",
        "x-dead-letter-routing-key": "echo.echo",
    }
    queue = broker.bind("", "", **arguments, **{"x-message-ttl": 0})
    publish_request(broker, "", queue)


def by_alternate_exchange(broker: Any) -> None:
    """An exchange of one's own, which passes on what nobody is bound to."""
    broker.channel.exchange_declare(
        "detour",
        "topic",
        auto_delete=True,
        arguments={"alternate-exchange": "nameko-rpc"},
    )
    publish_request(broker, "detour", "echo.echo")
    broker.channel.exchange_delete("detour")


def by_bound_exchange(broker: Any) -> None:
    """An exchange of one's own, to which the exchange of requests is bound."""
    broker.channel.exchange_declare("detour", "topic", auto_delete=True)
    broker.channel.exchange_bind("nameko-rpc", "detour", "#")
    publish_request(broker, "detour", "echo.echo")
    broker.channel.exchange_delete("detour")


def by_queue_name(broker: Any) -> None:
    """The default exchange knows all queues."""
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
def test_a_request_whose_routing_key_the_broker_has_not_checked_is_never_executed(
    broker, echo, caplog, detour, reason
) -> None:
    labels = {"service": "echo", "method": "echo", "outcome": "done"}
    before = REGISTRY.get_sample_value("shop_worker_seconds_count", labels) or 0
    detour(broker)
    eventually(lambda: refusals(caplog, UNANSWERED) == [reason])
    eventually(lambda: broker.count("rpc-echo") == 0)
    assert (
        REGISTRY.get_sample_value("shop_worker_seconds_count", labels) or 0
    ) == before


def test_the_reply_keys_of_a_service_begin_alike_and_are_uuids_still(
    asker, chassis_config
) -> None:
    another = Container(Asker, chassis_config)
    with running(another):
        keys = {
            dependency(each, "echo").echo._proxy.replies.routing_key
            for each in (asker, another)
        }
    assert len(keys) == 2
    assert all(is_id(key) for key in keys)
    assert (
        {key[:8] for key in keys} == {reply_prefix("asker")} != {reply_prefix("echo")}
    )


@pytest.mark.parametrize("headers", UNREADABLE_HEADERS.values(), ids=UNREADABLE_HEADERS)
def test_a_request_whose_headers_cannot_be_read_is_taken_off_as_well(
    broker, echo, monkeypatch, headers
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(amqp.Message, "_serialize_properties", lambda self: headers)
        ask(broker, GOOD)
    assert echo.echo(value=1) == 1
    eventually(lambda: broker.count("rpc-echo") == 0)


def test_a_poison_message_is_logged(broker, echo, caplog) -> None:
    ask(broker, GOOD)
    eventually(lambda: refusals(caplog, UNANSWERED) == ["reply_to is not a UUID"])
    ask(broker, [], **REPLY)
    eventually(lambda: len(refusals(caplog, MALFORMED)) == 1)


def test_a_request_that_cannot_be_read_is_answered_and_what_it_holds_is_not_logged(
    broker, echo, caplog
) -> None:
    reader = str(uuid.uuid4())
    queue = broker.bind("nameko-rpc", reader)
    secret = b'{"args": [], "kwargs": {"password": "correct horse"}'  # the last brace is missing
    ask(broker, secret, reply_to=reader, correlation_id="8")
    eventually(lambda: broker.count(queue))
    [answer] = broker.take(queue)
    assert answer.properties["correlation_id"] == "8"
    assert json.loads(answer.body)["error"]["exc_type"] == MalformedRequest.__name__
    assert "correct horse" not in caplog.text
    assert MALFORMED in caplog.messages
    eventually(lambda: broker.count("rpc-echo") == 0)


def test_a_malformed_request_is_answered_as_the_callers_mistake(broker, echo) -> None:
    asker = str(uuid.uuid4())
    queue = broker.bind("nameko-rpc", asker)
    ask(broker, {"args": "a", "kwargs": {}}, reply_to=asker, correlation_id="7")
    eventually(lambda: broker.count(queue))
    [answer] = broker.take(queue)
    assert answer.properties["correlation_id"] == "7"
    assert json.loads(answer.body)["error"]["exc_type"] == MalformedRequest.__name__


def test_a_mistake_of_the_caller_is_no_error_of_the_service(stock, caplog) -> None:
    caplog.set_level("INFO", "chassis")
    with pytest.raises(MalformedRequest):
        stock.echo.refuse()
    told: list[Any] = []
    eventually(
        lambda: (
            told.extend(
                r for r in caplog.records if getattr(r, "method", "") == "refuse"
            )
            or told
        )
    )
    assert [(record.levelname, record.exc_info) for record in told] == [("INFO", None)]
    labels = {"service": "echo", "method": "refuse"}
    counts = [
        REGISTRY.get_sample_value(
            "shop_worker_seconds_count", {**labels, "outcome": outcome}
        )
        for outcome in ("refused", "failed")
    ]
    assert counts == [1, None]


NO_ANSWERS = {
    "not JSON": b"{",
    "no text": b"\xff",
    "null": b"null",
    "a list": b"[]",
    "an object without its keys": b"{}",
    "an error that is a text": b'{"error": "no"}',
}


@pytest.mark.parametrize("answer", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_an_answer_that_is_none_is_a_fault_at_once(asker, broker, answer) -> None:
    queue = broker.bind("nameko-rpc", "mumbler.speak")
    asked = eventlet.spawn(lambda: dependency(asker, "mumbler").speak())
    eventually(lambda: broker.count(queue))
    [request] = broker.take(queue)
    call = {"correlation_id": request.properties["correlation_id"]}
    reply_to = request.properties["reply_to"]
    broker.publish(
        "nameko-rpc", reply_to, answer, content_type="application/json", properties=call
    )
    with pytest.raises(
        InternalError, match=r"^mumbler answered with what is no answer$"
    ):
        asked.wait()


def test_nothing_that_was_taken_is_left_unacked(broker, chassis_config) -> None:
    """What is not acked comes back when its consumer leaves."""
    with running(Container(Echo, chassis_config)):
        for poison in POISON.values():
            poison(broker)
        eventually(lambda: broker.count("rpc-echo") == 0)
    assert broker.count("rpc-echo") == 0


def test_an_ack_that_meets_a_broken_connection_does_not_end_the_service(echo) -> None:
    assert echo.cut() is None
    assert echo.echo(value=1) == 1


def test_after_the_broker_closed_all_connections_calls_succeed_without_a_hand(
    echo, asker, close_connections
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
    assert pending(asker) == 0


def test_a_request_under_way_when_the_connection_closes_harms_nobody(
    echo, asker, close_connections
) -> None:
    """Its ack meets a broken connection; the broker delivers it again."""
    started = eventlet.spawn(dependency(asker, "echo").hold, gate="cut")
    eventually(lambda: "cut" in gates)
    close_connections()
    gates["cut"].send()
    with eventlet.Timeout(DEADLINE_S), suppress(DeadlineExceeded, Unavailable):
        assert (
            started.wait() == "at last"
        )  # unless request or answer went down with the connection
    eventually(lambda: echo.echo(value=3) == 3)

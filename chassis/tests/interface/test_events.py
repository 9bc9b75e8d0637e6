"""Event handlers that fail: retried, then parked; nothing is lost."""

import json
import uuid
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from time import monotonic
from typing import Any

import amqp
import eventlet
import kombu
import psycopg2
import pytest
from amqp.exceptions import NotFound
from eventlet.event import Event
from nameko.containers import ServiceContainer
from nameko.events import event_handler as stock_event_handler
from prometheus_client import REGISTRY

from chassis import events
from chassis.container import Container
from chassis.errors import InternalError, Unavailable
from chassis.events import event_handler
from chassis.logs import current_request_id
from chassis.tests.conftest import UNREADABLE_HEADERS, Broker, running
from conftest import eventually

QUEUE = "evt-teller-told--listener.handle_told"
# Quick, and on queues of this module's own: one that was declared with other times would be refused.
DELAYS_S = (0.05, 0.1, 0.15)

plans: dict[str, list[Exception]] = {}  # what handling the event with this id raises, try by try
handled: dict[str, list[Any]] = defaultdict(list)  # the request ids of the tries
tried_at: dict[str, list[float]] = defaultdict(list)  # seconds
batches: list[list[str]] = []  # the ids of each call
gate: list[Event] = []  # what a batch waits for at its end


class Listener:
    name = "listener"

    @event_handler("teller", "told")
    def handle_told(self, events: list[dict[str, Any]]) -> None:
        batches.append([event["id"] for event in events])
        for event in events:
            tried_at[event["id"]].append(monotonic())
            handled[event["id"]].append(current_request_id())
        for event in events:
            if plans.get(event["id"]):
                raise plans[event["id"]].pop(0)
        if gate:
            gate[0].wait()


@pytest.fixture(scope="module")
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "RETRY_DELAYS_S", DELAYS_S)
        patch.setattr(events, "REQUEUE_S", 0.05)
        yield


@pytest.fixture(scope="module")
def listener(_quick, chassis_config) -> Iterator[Container]:
    container = Container(Listener, chassis_config)
    with running(container):
        yield container


@pytest.fixture
def tell(listener, dispatch) -> Any:
    """Dispatch an event as stock Nameko does; its id. Its handling raises `faults`, try by try."""

    def tell(*faults: Exception) -> str:
        event_id = str(uuid.uuid4())
        plans[event_id] = list(faults)
        dispatch("teller", "told", {"id": event_id})
        return event_id

    return tell


def all_queues() -> list[str]:
    return [QUEUE, *(f"{QUEUE}.retry.{n}" for n in range(len(DELAYS_S))), f"{QUEUE}.dead"]


def is_quiet(broker: Broker) -> bool:
    return not any(broker.count(queue) for queue in all_queues())


def test_a_handled_event_is_gone(tell, broker) -> None:
    event_id = tell()
    eventually(lambda: handled[event_id])
    eventually(lambda: is_quiet(broker))
    assert len(handled[event_id]) == 1


def test_an_event_waits_for_a_part_that_is_away_for_as_long_as_it_takes(tell, broker) -> None:
    tries = 2 * events.MAX_ATTEMPTS
    event_id = tell(*[Unavailable("gone")] * tries)
    eventually(lambda: len(handled[event_id]) == tries + 1)
    eventually(lambda: is_quiet(broker))


def test_no_try_follows_the_last_one_before_its_delay(tell) -> None:
    event_id = tell(*[Unavailable("gone")] * 6)
    eventually(lambda: len(handled[event_id]) == 7)
    waits = [later - earlier for earlier, later in pairwise(tried_at[event_id])]
    assert all(wait >= delay for wait, delay in zip(waits, [*DELAYS_S, *DELAYS_S[-1:] * 3], strict=True))


def test_the_delays_are_one_five_and_then_always_fifteen_seconds(suite_config, broker) -> None:
    """Declared with other arguments, a queue that exists is refused: 406."""
    main = "evt-orders-order_paid--notifications.handle_order_paid"
    for number, seconds in enumerate((1, 5, 15)):
        back = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": main}
        arguments = {**back, "x-message-ttl": seconds * 1000}
        retry = f"{main}.retry.{number}"
        broker.channel.queue_declare(retry, durable=True, auto_delete=False, arguments=arguments)
    with pytest.raises(NotFound):
        broker.channel.queue_declare(f"{main}.retry.3", passive=True)


def test_an_event_that_cannot_be_right_is_parked_with_its_error(tell, broker) -> None:
    event_id = tell(*[ValueError("no such letter")] * 100)
    eventually(lambda: broker.count(f"{QUEUE}.dead"))
    assert len(handled[event_id]) == events.MAX_ATTEMPTS
    [parked] = broker.take(f"{QUEUE}.dead")
    assert json.loads(parked.body) == {"id": event_id}
    labels = {"queue": QUEUE, "outcome": "parked"}
    eventually(lambda: REGISTRY.get_sample_value("shop_events_handled_total", labels))
    assert parked.headers["x-error"] == "ValueError('no such letter')"
    assert parked.headers["x-attempts"] == events.MAX_ATTEMPTS
    assert parked.properties["delivery_mode"] == 2
    assert is_quiet(broker)


def test_tries_that_met_a_part_away_do_not_count_against_the_event(tell, broker) -> None:
    away = [Unavailable("gone")] * events.MAX_ATTEMPTS
    wrong = [InternalError()] * (events.MAX_ATTEMPTS - 1)
    event_id = tell(*away, *wrong)
    eventually(lambda: len(handled[event_id]) == len(away + wrong) + 1)
    eventually(lambda: is_quiet(broker))


def test_a_failing_event_holds_up_no_other(tell, broker) -> None:
    failing = tell(*[Unavailable("gone")] * 3)
    others = [tell() for _ in range(50)]
    eventually(lambda: all(handled[other] for other in others))
    eventually(lambda: len(handled[failing]) == 4)
    eventually(lambda: is_quiet(broker))


@pytest.fixture
def waiting(listener) -> Any:
    [handler] = listener.entrypoints
    return handler


@pytest.fixture
def gathered(tell, waiting) -> Iterator[Any]:
    """Tell events that are all there before the first of them is handled; their ids."""

    def gathered(*faults: list[Exception]) -> list[str]:
        gate.append(Event())
        first = tell()
        eventually(lambda: handled[first])
        rest = [tell(*its_faults) for its_faults in faults]
        eventually(lambda: waiting.arrived.qsize() == len(rest))
        del batches[:]
        gate.pop().send()
        return rest

    yield gathered
    for held in gate:
        held.send()
    gate.clear()


def test_what_arrives_while_a_batch_is_worked_on_is_the_next_batch(gathered) -> None:
    ids = gathered(*[[]] * 50)
    eventually(lambda: batches == [ids])


def test_a_batch_is_no_larger_than_its_limit(gathered, monkeypatch) -> None:
    monkeypatch.setattr(events, "BATCH", 20)
    ids = gathered(*[[]] * 50)
    eventually(lambda: batches == [ids[:20], ids[20:40], ids[40:]])


def test_one_that_cannot_be_right_is_found_among_its_neighbours_and_parked_alone(gathered, broker) -> None:
    ids = gathered(*[[]] * 20, [ValueError("no such letter")] * 100, *[[]] * 29)
    eventually(lambda: broker.count(f"{QUEUE}.dead"))
    [parked] = broker.take(f"{QUEUE}.dead")
    assert json.loads(parked.body) == {"id": ids[20]}
    assert all(handled[event_id] for event_id in ids)
    assert len(batches) < 20  # halves, not one by one: 1 + 2 * 6 and its retries
    eventually(lambda: is_quiet(broker))


def test_one_that_meets_a_part_away_puts_its_batch_aside_without_more_tries(gathered, broker) -> None:
    ids = gathered(*[[]] * 10, [Unavailable("gone")], *[[]] * 10)
    eventually(lambda: all(len(handled[event_id]) == 2 for event_id in ids))
    eventually(lambda: is_quiet(broker))
    assert batches[0] == ids


def test_what_has_arrived_and_was_not_begun_goes_back_at_the_stop(chassis_config, dispatch, broker) -> None:
    calls: list[list[int]] = []
    held = Event()

    class Leaver:
        name = "leaver"

        @event_handler("teller", "parted")
        def handle_parted(self, events: list[int]) -> None:
            calls.append(events)
            held.wait()

    container = Container(Leaver, chassis_config)
    [handler] = container.entrypoints
    with running(container):
        dispatch("teller", "parted", 0)
        eventually(lambda: calls)
        for number in range(1, 11):
            dispatch("teller", "parted", number)
        eventually(lambda: handler.arrived.qsize() == 10)
        stopping = eventlet.spawn(container.stop)
        eventlet.sleep(0.5)
        assert not stopping.dead  # the batch at hand is finished first
        held.send()
        stopping.wait()
    left = broker.take("evt-teller-parted--leaver.handle_parted")
    assert calls == [[0]]
    assert [json.loads(message.body) for message in left] == list(range(1, 11))


def test_what_an_event_carries_survives_its_retries(listener, broker) -> None:
    event_id = str(uuid.uuid4())
    plans[event_id] = [ValueError("no")] * 100
    body = json.dumps({"id": event_id, "name": "Zoë"}, ensure_ascii=False).encode("utf-16")
    broker.publish(
        "teller.events",
        "told",
        body,
        content_type="application/json",
        content_encoding="utf-16",
        headers={"nameko.request_id": "from-the-gateway", "mine": [1, {"a": None}]},
        properties={"message_id": "m-1"},
    )
    eventually(lambda: broker.count(f"{QUEUE}.dead"))
    broker.channel.auto_decode = False
    [parked] = broker.take(f"{QUEUE}.dead")
    assert (parked.body, parked.content_encoding) == (body, "utf-16")
    assert parked.properties["message_id"] == "m-1"
    assert parked.headers["mine"] == [1, {"a": None}]
    assert handled[event_id] == ["from-the-gateway"] * events.MAX_ATTEMPTS


@pytest.mark.parametrize("count", ["many", -7, None, [1]])
def test_odd_counts_in_the_headers_neither_lose_the_event_nor_end_the_service(broker, tell, count) -> None:
    event_id = str(uuid.uuid4())
    plans[event_id] = [Unavailable("gone")]
    headers = {"x-attempts": count, "x-failures": count}
    body = json.dumps({"id": event_id}).encode()
    broker.publish("teller.events", "told", body, content_type="application/json", headers=headers)
    eventually(lambda: len(handled[event_id]) == 2)
    eventually(lambda: is_quiet(broker))


POISON: dict[str, dict[str, Any]] = {
    "a call stack that is a number": {
        "body": b'{"id": "stack"}',
        "content_type": "application/json",
        "headers": {"nameko.call_id_stack": 5},
    },
    "a header that is no text": {
        "body": b'{"id": "header"}',
        "content_type": "application/json",
        "headers": {"a": b"\xff"},
    },
    "a request id that is a table": {
        "body": b'{"id": "table"}',
        "content_type": "application/json",
        "headers": {"nameko.request_id": {"a": 1}},
    },
}


@pytest.mark.parametrize("message", POISON.values(), ids=POISON)
def test_a_poison_event_is_taken_off_the_queue_and_the_service_lives(broker, tell, message) -> None:
    broker.publish("teller.events", "told", **message)
    event_id = tell()
    eventually(lambda: handled[event_id])
    eventually(lambda: is_quiet(broker))


UNDECODABLE: dict[str, dict[str, Any]] = {
    "no JSON": {"body": b"{"},
    "no text": {"body": b"\xff{"},
    "nested deeply": {"body": b"[" * 100_000},
    "a number of 5,000 digits": {"body": b"9" * 5000},
    "pickle": {"body": b"\x80\x04N.", "content_type": "application/x-python-serialize"},
    "a content type nobody knows": {"body": b"<a/>", "content_type": "application/xml"},
    "compressed": {"body": zlib.compress(b'{"id": "x"}'), "headers": {"compression": "application/x-gzip"}},
}


@pytest.mark.parametrize("message", UNDECODABLE.values(), ids=UNDECODABLE)
def test_an_event_that_cannot_be_read_is_parked_at_once_and_as_it_is(broker, listener, message) -> None:
    broker.publish("teller.events", "told", **{"content_type": "application/json", **message})
    eventually(lambda: broker.count(f"{QUEUE}.dead"))
    broker.channel.auto_decode = False
    [parked] = broker.take(f"{QUEUE}.dead")
    assert parked.body == message["body"]
    assert parked.headers["x-attempts"] == 1
    assert parked.headers["x-error"]
    eventually(lambda: is_quiet(broker))


MALFORMED: dict[str, tuple[bytes, str, dict[str, Any]]] = {
    "a list": (b"[1]", "TypeError", {}),
    "null": (b"null", "TypeError", {}),
    "nothing at all": (b"", "TypeError", {}),
    "an object without its keys": (b"{}", "KeyError('id')", {}),
    "an object that asks to be made something else": (
        b'{"__type__": "decimal", "__value__": "1"}',
        "KeyError('id')",
        {},
    ),
    "a text in an encoding that can't encode it": (
        b'["' + b"x" * 70 + b'"]',
        "TypeError",
        {"content_encoding": "idna"},
    ),
    "an encoding nobody knows": (b"[1]", "TypeError", {"content_encoding": "no-such"}),
    "nothing in an encoding nobody knows": (b"", "TypeError", {"content_encoding": "no-such"}),
    "no content type": (b"[1]", "TypeError", {"content_type": None}),
    "a header whose name is no text": (b"[1]", "TypeError", {"headers": {b"\xff": 1}}),
    "headers of a hundred kilobytes": (b"[1]", "TypeError", {"headers": {"a": "x" * 100_000}}),
    "headers that leave no room for more": (b"[1]", "TypeError", {"headers": {"a": "x" * 130_000}}),
}


@pytest.mark.parametrize(("body", "error", "more"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_event_is_parked_as_it_is(broker, listener, body, error, more) -> None:
    given = {"content_type": "application/json", **more}
    broker.publish("teller.events", "told", body, **given)
    eventually(lambda: broker.count(f"{QUEUE}.dead"))
    broker.channel.auto_decode = False
    [parked] = broker.take(f"{QUEUE}.dead")
    assert (parked.body or b"") == body
    assert error in parked.headers["x-error"]
    assert is_quiet(broker)


@pytest.mark.parametrize("headers", UNREADABLE_HEADERS.values(), ids=UNREADABLE_HEADERS)
def test_an_event_whose_headers_cannot_be_read_is_parked(broker, listener, monkeypatch, headers) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(amqp.Message, "_serialize_properties", lambda self: headers)
        broker.publish("teller.events", "told", b"[1]")
    eventually(lambda: broker.count(f"{QUEUE}.dead"))
    [parked] = broker.take(f"{QUEUE}.dead")
    assert parked.headers["x-error"]
    eventually(lambda: is_quiet(broker))


def test_an_event_that_the_broker_takes_from_nobody_waits_in_its_queue(
    tell, listener, broker, caplog, monkeypatch
) -> None:
    [handler] = listener.entrypoints
    publish, away = handler.publisher.publish, [Unavailable("it confirms nothing")] * 3

    def refuse(messages: Any) -> list[bool]:
        if away:
            raise away.pop()
        return publish(messages)

    monkeypatch.setattr(handler.publisher, "publish", refuse)
    event_id = tell(*[ValueError("no")] * 4)
    eventually(lambda: len(handled[event_id]) == 5)
    eventually(lambda: is_quiet(broker))
    assert caplog.messages.count("can't put events aside") == 3
    waits = [later - earlier for earlier, later in pairwise(tried_at[event_id])]
    assert all(wait >= events.REQUEUE_S for wait in waits[:3])


def test_an_event_that_can_be_put_nowhere_stays_in_its_queue(tell, listener, broker, caplog) -> None:
    broker.channel.queue_delete(f"{QUEUE}.retry.0")
    try:
        event_id = tell(*[Unavailable("gone")] * 3)
        eventually(lambda: len(handled[event_id]) == 4)
        assert "queue is missing: make migrate" in caplog.messages
        assert broker.count(QUEUE) == 0
    finally:
        [handler] = listener.entrypoints
        handler.declare(broker.channel)


def test_an_event_whose_handler_is_killed_in_the_middle_is_handled_by_the_next_process(
    nameko_run, dispatch, sql, servers, clean
) -> None:
    user_id, order_id = str(uuid.uuid4()), str(uuid.uuid4())
    user = {"user_id": user_id, "username": "Ann", "email": "ann@example.org", "locale": "en"}
    killed = nameko_run("notifications.service")
    dispatch("users", "user_created", user)
    eventually(lambda: sql("notifications", "SELECT 1 FROM recipients"))
    sql("notifications", "BEGIN")
    sql("notifications", "LOCK TABLE letters IN EXCLUSIVE MODE")
    fact = {
        "order_id": order_id,
        "user_id": user_id,
        "price_minor": 100,
        "occurred_at": "2026-01-31T12:00:00Z",
    }
    dispatch("orders", "order_paid", fact)
    eventually(lambda: sql("notifications", "SELECT 1 FROM pg_locks WHERE NOT granted"))
    killed.kill()
    # Or its server process, which knows nothing of that, would write the letter all the same.
    with closing(psycopg2.connect(servers.superuser_dsn())) as server, server.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted")
    eventually(lambda: not sql("notifications", "SELECT 1 FROM pg_locks WHERE NOT granted"))
    sql("notifications", "ROLLBACK")
    nameko_run("notifications.service")
    eventually(lambda: sql("notifications", "SELECT order_id::text FROM letters") == [(order_id,)])


def test_after_the_broker_closed_all_connections_events_are_handled(tell, close_connections, broker) -> None:
    before = tell(Unavailable("gone"))
    close_connections()
    after = tell(Unavailable("gone"))
    eventually(lambda: len(handled[before]) >= 2)
    eventually(lambda: len(handled[after]) >= 2)


def test_where_an_ack_fails_its_connection_ends_and_the_event_comes_again(tell, broker, monkeypatch) -> None:
    """Over that connection an ack of many would end the event, of which nobody knows whether it is ended."""
    acks: list[Any] = []

    def ack(message: Any, **options: Any) -> None:
        acks.append(message)
        raise TimeoutError("the socket is full")

    with monkeypatch.context() as patch:
        patch.setattr(kombu.Message, "ack", ack)
        event_id = tell()
        eventually(lambda: acks)
    eventually(lambda: len(handled[event_id]) >= 2)
    assert acks[0].channel.connection is None
    eventually(lambda: is_quiet(broker))


def test_a_stock_handler_can_take_the_queue_over(listener, chassis_config, dispatch) -> None:
    """Had the queue been declared otherwise, the broker would refuse it: 406."""
    seen: list[Any] = []

    class Stock:
        name = "listener"

        @stock_event_handler("teller", "told")
        def handle_told(self, event: Any) -> None:
            seen.append(event["id"])

    container = ServiceContainer(Stock, chassis_config)
    with running(container):
        ids = [str(uuid.uuid4()) for _ in range(10)]
        for event_id in ids:
            dispatch("teller", "told", {"id": event_id})
        eventually(lambda: all(event_id in seen or handled[event_id] for event_id in ids))
    assert seen


def test_an_event_with_a_long_message_id_that_is_no_text_is_parked_too(broker, listener) -> None:
    forged = {"content_type": "application/json", "properties": {"message_id": b"\xff" * 200}}
    broker.publish("teller.events", "told", b"[2]", **forged)
    eventually(lambda: broker.count(f"{QUEUE}.dead"))
    [parked] = broker.take(f"{QUEUE}.dead")
    assert parked.body == "[2]"

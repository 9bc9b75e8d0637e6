"""Event handlers that fail: events are retried, then dead-lettered, and never lost."""

import json
import random
import uuid
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from time import monotonic
from typing import Any

import amqp
import eventlet
import kombu
import psycopg2
import pytest
from eventlet.event import Event
from nameko.containers import ServiceContainer
from nameko.events import event_handler as stock_event_handler
from prometheus_client import REGISTRY
from sqlalchemy.exc import OperationalError, ProgrammingError

from chassis import events, health, retries
from chassis.container import Container
from chassis.errors import DeadlineExceeded, InternalError, Unavailable
from chassis.events import FailedEvents, event_handler
from chassis.logs import current_request_id
from chassis.tests.conftest import UNREADABLE_HEADERS, Broker, running
from conftest import eventually
from dev.servers import Servers

QUEUE = "evt-shop-sold--listener.handle_sold"
DEAD = f"{QUEUE}.dead"
DELAYS_S = (0.05, 0.1, 0.15)

# By event id: the exceptions of the handler, attempt by attempt.
raised: dict[str, list[Exception]] = {}
# By event id: the errors with which the handler returns the event, attempt by attempt.
named: dict[str, list[Exception]] = {}
# By event id: the request id and the time (seconds, monotonic) of each attempt.
handled: dict[str, list[Any]] = defaultdict(list)
tried_at: dict[str, list[float]] = defaultdict(list)
# The event ids of each call.
batches: list[list[str]] = []
# If there is an event, a batch waits for it at its end.
gate: list[Event] = []


class Listener:
    name = "listener"

    @event_handler("shop", "sold")
    def handle_sold(self, events: list[dict[str, Any]]) -> FailedEvents:
        batches.append([event["id"] for event in events])
        for event in events:
            tried_at[event["id"]].append(monotonic())
            handled[event["id"]].append(current_request_id())
        for event in events:
            if raised.get(event["id"]):
                raise raised[event["id"]].pop(0)
        if gate:
            gate[0].wait()
        return [
            (event, named[event["id"]].pop(0))
            for event in events
            if named.get(event["id"])
        ]


def database_gone() -> Exception:
    return OperationalError(
        "INSERT", {}, psycopg2.OperationalError("the server has gone")
    )


class NoGrant(psycopg2.errors.InsufficientPrivilege):
    # The driver sets it for an error that the server has reported.
    pgcode = "42501"


class TooSlow(psycopg2.errors.QueryCanceled):
    pgcode = "57014"


def no_grant() -> Exception:
    return ProgrammingError("INSERT", {}, NoGrant("permission denied"))


@pytest.fixture(scope="module")
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retries, "RETRY_DELAYS_S", DELAYS_S)
        patch.setattr(events, "PAUSES_S", (0.1, 0.2))
        patch.setattr(events, "PROBE_S", 0.5)
        patch.setattr(events, "OVERFLOW_PAUSE_S", 0.05)
        yield


@pytest.fixture(scope="module")
def listener(_quick, chassis_config) -> Iterator[Container]:
    container = Container(Listener, chassis_config)
    with running(container):
        yield container


@pytest.fixture
def handler(listener) -> Any:
    [handler] = listener.entrypoints
    return handler


@pytest.fixture(autouse=True)
def _working(request) -> None:
    """Handle an event before each test. This ends the streak of the previous test's failures."""
    if {"publish", "listener"} & set(request.fixturenames):
        raised.clear()
        named.clear()
        handler = request.getfixturevalue("handler")
        good = request.getfixturevalue("publish")()
        eventually(lambda: handled[good])
        eventually(lambda: not is_paused() and not len(handler.held))
        request.getfixturevalue("broker").channel.queue_purge(DEAD)


@pytest.fixture
def publish(listener, dispatch) -> Any:
    """Return a function that publishes an event as stock Nameko does, and returns its id.

    The handler raises `faults`, or returns the event with `errors`, attempt by attempt.
    """

    def publish(*faults: Exception, errors: Sequence[Exception] = ()) -> str:
        event_id = str(uuid.uuid4())
        raised[event_id] = list(faults)
        named[event_id] = list(errors)
        dispatch("shop", "sold", {"id": event_id})
        return event_id

    return publish


@pytest.fixture
def moved(handler, monkeypatch) -> list[Any]:
    """The copies that the handler publishes."""
    copies: list[Any] = []
    publish = handler.publisher.publish

    def record(messages: Any) -> Any:
        copies.extend(messages)
        return publish(messages)

    monkeypatch.setattr(handler.publisher, "publish", record)
    return copies


def is_quiet(broker: Broker) -> bool:
    return not (broker.count(QUEUE) or broker.count(DEAD))


def is_paused() -> bool:
    return REGISTRY.get_sample_value("shop_events_paused", {"queue": QUEUE}) == 1


def is_ready() -> bool:
    return health.respond("/readyz").status_code == 200


def test_a_handled_event_is_acked(publish, broker) -> None:
    event_id = publish()
    eventually(lambda: handled[event_id])
    eventually(lambda: is_quiet(broker))
    assert len(handled[event_id]) == 1


# The service's own database is unavailable.


@pytest.mark.parametrize("fault", [database_gone, no_grant])
def test_an_event_is_retried_until_the_database_is_available(
    publish, moved, broker, fault
) -> None:
    tries = 3 * events.MAX_FAILURES
    event_id = publish(*[fault() for _ in range(tries)])
    eventually(lambda: len(handled[event_id]) == tries + 1)
    eventually(lambda: not is_paused())
    assert is_quiet(broker)
    assert moved == []  # it stayed in its place in the queue


def test_a_paused_handler_probes_with_one_event(gathered) -> None:
    ids = gathered([database_gone() for _ in range(3)], *[[]] * 19)
    eventually(lambda: all(len(handled[event_id]) == 2 for event_id in ids[1:]))
    whole, *probes = batches[:4]
    assert whole == ids
    assert probes == [[ids[0]]] * 3, batches


def test_the_queue_of_a_paused_handler_has_no_consumer(
    publish, broker, monkeypatch
) -> None:
    monkeypatch.setattr(events, "PAUSES_S", (3,))
    event_id = publish(database_gone())
    eventually(is_paused)
    eventually(lambda: (consumers(broker), broker.count(QUEUE)) == (0, 1))
    assert not is_ready()
    eventually(lambda: len(handled[event_id]) == 2)
    eventually(lambda: consumers(broker) == 1)
    eventually(is_ready)


def consumers(broker: Broker) -> int:
    return int(broker.channel.queue_declare(QUEUE, passive=True).consumer_count)


def test_pauses_grow_to_15_seconds() -> None:
    assert retries.PAUSES_S == (1, 2, 4, 8, 15)


def test_a_pause_resets_the_count_of_failures(publish, broker) -> None:
    event_id = publish(
        ValueError("no"), ValueError("no"), database_gone(), *[ValueError("no")] * 4
    )
    eventually(lambda: len(handled[event_id]) == 8)
    eventually(lambda: is_quiet(broker))


def test_a_handler_without_an_event_to_probe_resumes(
    publish, broker, monkeypatch
) -> None:
    monkeypatch.setattr(events, "PAUSES_S", (2,))
    publish(database_gone())
    eventually(is_paused)
    eventually(lambda: broker.take(QUEUE))
    eventually(lambda: not is_paused())
    event_id = publish()
    eventually(lambda: handled[event_id])


def slow() -> Exception:
    return OperationalError(
        "INSERT", {}, TooSlow("canceling statement due to statement timeout")
    )


def test_an_event_that_waits_for_a_lock_does_not_delay_others(gathered, broker) -> None:
    """It is found by bisection, like a malformed event."""
    tries = 2 * events.MAX_FAILURES
    ids = gathered(*[[]] * 10, [slow() for _ in range(tries)], *[[]] * 9)
    eventually(lambda: all(handled[event_id] for event_id in ids))
    eventually(lambda: len(handled[ids[10]]) == tries + 1)
    assert is_quiet(broker)


def test_a_handler_pauses_after_a_few_slow_events(gathered, caplog) -> None:
    ids = gathered(*[[slow() for _ in range(12)]] * 50)
    eventually(lambda: "event_handler_paused" in caplog.messages)
    assert len(batches) < 20, "each of them takes as long as a statement timeout"
    raised.clear()
    eventually(lambda: all(len(handled[event_id]) > 1 for event_id in ids))
    eventually(lambda: not is_paused())


def test_a_malformed_probe_does_not_end_a_pause(
    publish, moved, broker, caplog, monkeypatch
) -> None:
    """Its failure is counted, and the next probe has another event."""
    monkeypatch.setattr(events, "PROBE_S", 10)  # a busy machine delivers messages late
    malformed = publish(database_gone(), *[ValueError("no")] * 100)
    pauses = events.MAX_FAILURES + 1
    eventually(lambda: caplog.messages.count("event_handler_paused") == pauses)
    eventually(lambda: broker.count(DEAD))
    assert len(handled[malformed]) == 1 + events.MAX_FAILURES
    assert [copy.headers["x-failures"] for copy in moved] == [1, 2, 3, 4, 5]
    publish()
    eventually(lambda: not is_paused())
    broker.take(DEAD)


# A call to another service fails.


def test_an_event_that_needs_another_service_does_not_delay_others(
    gathered, broker
) -> None:
    tries = 2 * events.MAX_FAILURES
    ids = gathered(*[[]] * 20)
    needy = ids[7]
    named[needy] = [
        Unavailable("gone"),
        DeadlineExceeded("late"),
        InternalError("failed"),
    ] * 4
    eventually(lambda: len(handled[needy]) > tries)
    assert all(len(handled[event_id]) == 1 for event_id in ids if event_id != needy)
    named[needy].clear()
    eventually(lambda: is_quiet(broker))


def test_a_failed_call_is_not_bisected(gathered) -> None:
    ids = gathered(*[[]] * 10, [Unavailable("gone")], *[[]] * 10)
    eventually(lambda: all(len(handled[event_id]) == 2 for event_id in ids))
    assert batches == [ids, ids]


def test_failed_calls_are_not_counted_as_failures(publish, broker) -> None:
    gone = [Unavailable("gone")] * events.MAX_FAILURES
    wrong = [ValueError("no")] * (events.MAX_FAILURES - 1)
    event_id = publish(*gone, *wrong)
    eventually(lambda: len(handled[event_id]) == len(gone + wrong) + 1)
    eventually(lambda: is_quiet(broker))


# An event fails on its own content.


def test_retries_wait_for_their_delays(publish) -> None:
    event_id = publish(*[ValueError("no")] * 4)
    eventually(lambda: len(handled[event_id]) == 5)
    waits = [later - earlier for earlier, later in pairwise(tried_at[event_id])]
    assert all(
        wait >= delay
        for wait, delay in zip(waits, [*DELAYS_S, DELAYS_S[-1]], strict=True)
    )


def test_a_failing_event_is_dead_lettered_with_its_error(publish, broker) -> None:
    event_id = publish(*[ValueError("no such letter")] * 100)
    eventually(lambda: broker.count(DEAD))
    assert len(handled[event_id]) == events.MAX_FAILURES
    [dead] = broker.take(DEAD)
    assert json.loads(dead.body) == {"id": event_id}
    labels = {"queue": QUEUE, "outcome": "parked"}
    eventually(lambda: REGISTRY.get_sample_value("shop_events_handled_total", labels))
    assert dead.headers["x-error"] == "ValueError: no such letter"
    assert dead.headers["x-attempts"] == events.MAX_FAILURES
    assert dead.properties["delivery_mode"] == 2
    assert is_quiet(broker)


@pytest.fixture
def unconfirmed(handler, monkeypatch) -> list[Exception]:
    """Exceptions that the publisher raises instead of a confirm, one for each publish."""
    publish, refusals = (
        handler.publisher.publish,
        [Unavailable("it confirms nothing")] * 3,
    )

    def refuse(messages: Any) -> list[bool]:
        if refusals:
            raise refusals.pop()
        return publish(messages)

    monkeypatch.setattr(handler.publisher, "publish", refuse)
    return refusals


def test_an_unconfirmed_dead_letter_does_not_delay_others(
    publish, unconfirmed, broker, caplog
) -> None:
    event_id = publish(*[ValueError("no")] * 100)
    eventually(lambda: "dead_lettering_postponed" in caplog.messages)
    other = publish()
    eventually(lambda: handled[other])
    eventually(lambda: broker.count(DEAD))
    assert (len(handled[event_id]), unconfirmed) == (events.MAX_FAILURES + 3, [])
    assert "event_handler_paused" not in caplog.messages
    broker.take(DEAD)


def test_a_handler_that_cannot_hold_dead_letters_pauses(
    publish, unconfirmed, broker, caplog, monkeypatch
) -> None:
    monkeypatch.setattr(events, "MAX_HELD", 0)
    publish(*[ValueError("no")] * 100)
    eventually(lambda: broker.count(DEAD))
    assert "event_handler_paused" in caplog.messages
    broker.take(DEAD)


def test_no_ack_covers_an_unconfirmed_dead_letter(
    publish, unconfirmed, handler, broker
) -> None:
    """It is between events of its batch that are done."""
    gate.append(Event())
    first = publish()
    eventually(lambda: handled[first])
    before = publish()
    broker.publish("shop.events", "sold", b"not JSON", content_type="application/json")
    after = publish()
    eventually(lambda: handler.inbox.qsize() == 3)
    gate.pop().send()
    eventually(lambda: handled[before] and handled[after])
    eventually(lambda: broker.count(DEAD) == 1)
    assert not unconfirmed
    broker.take(DEAD)


def test_no_ack_covers_an_event_that_failed_before_an_outage(gathered, broker) -> None:
    """The other events of its half are done. The other half fails with the database."""
    ids = gathered([ValueError("no")] * 100, *[[]] * 8, [database_gone()])
    eventually(lambda: broker.count(DEAD) == 1)
    [dead] = broker.take(DEAD)
    assert json.loads(dead.body) == {"id": ids[0]}


def test_without_a_dead_letter_queue_an_event_stays_in_its_queue(
    publish, handler, broker, caplog
) -> None:
    broker.channel.queue_delete(DEAD)
    publish(*[ValueError("no")] * 100)
    eventually(
        lambda: (
            "the migrations have not run"
            in str([vars(record) for record in caplog.records])
        )
    )
    handler.declare(broker.channel)
    eventually(lambda: broker.count(DEAD))
    broker.take(DEAD)


def test_an_event_named_by_the_handler_is_dead_lettered_alone(gathered, broker) -> None:
    ids = gathered(*[[]] * 20)
    named[ids[3]] = [ValueError("no such reader")] * 100
    eventually(lambda: broker.count(DEAD))
    [dead] = broker.take(DEAD)
    assert json.loads(dead.body) == {"id": ids[3]}
    assert len(handled[ids[3]]) == events.MAX_FAILURES
    assert all(len(handled[event_id]) == 1 for event_id in ids if event_id != ids[3])


def test_an_event_that_waits_for_a_retry_does_not_delay_others(publish, broker) -> None:
    failing = publish(*[ValueError("no")] * 3)
    others = [publish() for _ in range(50)]
    eventually(lambda: all(handled[other] for other in others))
    eventually(lambda: len(handled[failing]) == 4)
    eventually(lambda: is_quiet(broker))


def test_no_ack_covers_a_held_event(
    publish, handler, servers, close_connections, monkeypatch
) -> None:
    """Other events are acked while it is held. When the connection breaks, it is redelivered."""
    monkeypatch.setattr(retries, "RETRY_DELAYS_S", (60,))
    held = publish(ValueError("no"))
    eventually(lambda: len(handler.held) == 1)
    others = [publish() for _ in range(50)]
    eventually(lambda: all(handled[other] for other in others))
    eventually(lambda: unacked(servers) == 1)
    close_connections()
    eventually(lambda: len(handled[held]) == 2)


def unacked(servers: Servers) -> int:
    """Return the number of unacked messages of the queue."""
    columns = ("name", "messages_unacknowledged")
    listed = servers.rabbitmqctl("-q", "list_queues", "--formatter", "json", *columns)
    [found] = [line for line in json.loads(listed) if line["name"] == QUEUE]
    return int(found["messages_unacknowledged"])


def test_the_number_of_held_events_is_limited(
    publish, handler, moved, broker, monkeypatch
) -> None:
    monkeypatch.setattr(retries, "MAX_HELD", 3)
    monkeypatch.setattr(retries, "RETRY_DELAYS_S", (0.5,))
    needy = [publish(errors=[Unavailable("gone")] * 1000) for _ in range(20)]
    eventually(lambda: len(moved) > 20)
    assert len(handler.held) <= 3
    others = [publish() for _ in range(20)]
    eventually(lambda: all(handled[other] for other in others))
    named.clear()
    before = {event_id: len(handled[event_id]) for event_id in needy}
    eventually(
        lambda: all(len(handled[event_id]) > before[event_id] for event_id in needy)
    )
    eventually(lambda: is_quiet(broker))
    assert {copy.routing_key for copy in moved} == {QUEUE}


def test_the_time_of_held_events_is_limited(
    publish, moved, broker, monkeypatch
) -> None:
    monkeypatch.setattr(retries, "MAX_HELD_S", 0.5)
    event_id = publish(errors=[Unavailable("gone")] * 10)
    eventually(lambda: len(handled[event_id]) == 11)
    assert moved
    assert all(copy.routing_key == QUEUE for copy in moved)
    attempts = [copy.headers["x-attempts"] for copy in moved]
    assert attempts == sorted(set(attempts))  # the copy continues the count
    eventually(lambda: is_quiet(broker))


# Different events fail with the same error.


def test_a_handler_pauses_when_different_events_have_one_error(
    publish, broker, caplog
) -> None:
    ids = [publish(*[AttributeError("a mistake")] * 20) for _ in range(5)]
    eventually(is_paused)
    eventually(lambda: sum(len(handled[event_id]) for event_id in ids) > 30)
    assert broker.count(DEAD) == 0
    assert any(
        "fail with the same error: AttributeError" in str(vars(record))
        for record in caplog.records
    )
    raised.clear()  # the handler is repaired
    eventually(lambda: not is_paused())
    eventually(lambda: is_quiet(broker))
    assert broker.count(DEAD) == 0


def test_failures_of_single_events_add_up_to_a_pause(
    publish, broker, monkeypatch
) -> None:
    """The second event arrives after the first one is dead-lettered."""
    for number in range(retries.MAX_SAME_FAILURES - 1):
        publish(*[AttributeError("a mistake")] * events.MAX_FAILURES)
        eventually(lambda number=number: broker.count(DEAD) == number + 1)
    publish(*[AttributeError("a mistake")] * events.MAX_FAILURES)
    eventually(is_paused)
    raised.clear()
    eventually(lambda: not is_paused())
    broker.take(DEAD)


def test_malformed_events_do_not_block_a_good_one(publish, broker) -> None:
    bad = [publish(*[AttributeError("malformed")] * 1000) for _ in range(5)]
    eventually(is_paused)
    good = publish()
    eventually(lambda: handled[good])
    eventually(lambda: broker.count(DEAD) == len(bad))
    assert {json.loads(dead.body)["id"] for dead in broker.take(DEAD)} == set(bad)
    eventually(lambda: not is_paused())


def test_many_malformed_events_delay_a_good_one_by_a_few_probes(
    publish, broker, caplog
) -> None:
    """Each probe has twice as many events as the one before, until an event succeeds."""
    bad = [publish(*[AttributeError("malformed")] * 1000) for _ in range(100)]
    eventually(is_paused)
    good = publish()
    paused = caplog.messages.count("event_handler_paused")
    eventually(lambda: handled[good])
    assert caplog.messages.count("event_handler_paused") - paused < 12
    eventually(lambda: broker.count(DEAD) == len(bad), 60)
    broker.take(DEAD)


@pytest.fixture
def gathered(publish, handler) -> Iterator[Any]:
    """Return a function that publishes events, all of which arrive before the first is handled."""

    def gathered(*faults: list[Exception]) -> list[str]:
        gate.append(Event())
        first = publish()
        eventually(lambda: handled[first])
        rest = [publish(*its_faults) for its_faults in faults]
        eventually(lambda: handler.inbox.qsize() == len(rest))
        del batches[:]
        gate.pop().send()
        return rest

    yield gathered
    for held in gate:
        held.send()
    gate.clear()


def test_events_that_arrive_during_a_batch_are_the_next_batch(gathered) -> None:
    ids = gathered(*[[]] * 50)
    eventually(lambda: batches == [ids])


def test_the_size_of_a_batch_is_limited(gathered, monkeypatch) -> None:
    monkeypatch.setattr(events, "MAX_BATCH", 20)
    ids = gathered(*[[]] * 50)
    eventually(lambda: batches == [ids[:20], ids[20:40], ids[40:]])


def test_a_malformed_event_in_a_batch_is_dead_lettered_alone(gathered, broker) -> None:
    ids = gathered(*[[]] * 20, [ValueError("no such letter")] * 100, *[[]] * 29)
    eventually(lambda: broker.count(DEAD))
    [dead] = broker.take(DEAD)
    assert json.loads(dead.body) == {"id": ids[20]}
    assert all(handled[event_id] for event_id in ids)
    assert len(batches) < 20  # bisection, not one by one: 1 + 2 * 6 and retries
    eventually(lambda: is_quiet(broker))


def test_a_stop_returns_events_that_were_not_begun(
    chassis_config, dispatch, broker
) -> None:
    calls: list[list[int]] = []
    held = Event()

    class Leaver:
        name = "leaver"

        @event_handler("shop", "parted")
        def handle_parted(self, events: list[int]) -> None:
            calls.append(events)
            held.wait()

    container = Container(Leaver, chassis_config)
    [handler] = container.entrypoints
    with running(container):
        dispatch("shop", "parted", 0)
        eventually(lambda: calls)
        for number in range(1, 11):
            dispatch("shop", "parted", number)
        eventually(lambda: handler.inbox.qsize() == 10)
        stopping = eventlet.spawn(container.stop)
        eventlet.sleep(0.5)
        assert not stopping.dead  # the current batch is finished first
        held.send()
        stopping.wait()
    left = broker.take("evt-shop-parted--leaver.handle_parted")
    assert calls == [[0]]
    assert [json.loads(message.body) for message in left] == list(range(1, 11))


def test_a_paused_handler_can_be_stopped_at_any_time(
    chassis_config, dispatch, broker, caplog, monkeypatch
) -> None:
    monkeypatch.setattr(events, "PAUSES_S", (0.2,))

    class Leaver:
        name = "leaver"

        @event_handler("shop", "gone")
        def handle_gone(self, events: list[int]) -> None:
            raise database_gone()

    chance = random.Random(1)
    for _ in range(8):
        container = Container(Leaver, chassis_config)
        with running(container):
            dispatch("shop", "gone", 0)
            eventually(lambda: "event_handler_paused" in caplog.messages)
            eventlet.sleep(chance.uniform(0, 0.6))
        assert "shutdown_timed_out" not in caplog.messages
        caplog.clear()
    assert len(broker.take("evt-shop-gone--leaver.handle_gone")) == 8


def test_a_dead_letter_has_the_body_and_headers_of_its_event(listener, broker) -> None:
    event_id = str(uuid.uuid4())
    raised[event_id] = [ValueError("no")] * 100
    body = json.dumps({"id": event_id, "name": "Zoë"}, ensure_ascii=False).encode(
        "utf-16"
    )
    broker.publish(
        "shop.events",
        "sold",
        body,
        content_type="application/json",
        content_encoding="utf-16",
        headers={"nameko.request_id": "from-the-gateway", "mine": [1, {"a": None}]},
        properties={"message_id": "m-1"},
    )
    eventually(lambda: broker.count(DEAD))
    broker.channel.auto_decode = False
    [dead] = broker.take(DEAD)
    assert (dead.body, dead.content_encoding) == (body, "utf-16")
    assert dead.properties["message_id"] == "m-1"
    assert dead.headers["mine"] == [1, {"a": None}]
    assert handled[event_id] == ["from-the-gateway"] * events.MAX_FAILURES


@pytest.mark.parametrize("count", ["many", -7, None, [1]])
def test_forged_counts_in_headers_are_ignored(broker, publish, count) -> None:
    event_id = str(uuid.uuid4())
    raised[event_id] = [Unavailable("gone")]
    headers = {"x-attempts": count, "x-failures": count}
    body = json.dumps({"id": event_id}).encode()
    broker.publish(
        "shop.events", "sold", body, content_type="application/json", headers=headers
    )
    eventually(lambda: len(handled[event_id]) == 2)
    eventually(lambda: is_quiet(broker))


POISON: dict[str, dict[str, Any]] = {
    "a call stack that is a number": {
        "body": b'{"id": "stack"}',
        "content_type": "application/json",
        "headers": {"nameko.call_id_stack": 5},
    },
    "a header that is not text": {
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
def test_a_poison_event_does_not_stop_the_service(broker, publish, message) -> None:
    broker.publish("shop.events", "sold", **message)
    event_id = publish()
    eventually(lambda: handled[event_id])
    eventually(lambda: is_quiet(broker))


UNDECODABLE: dict[str, dict[str, Any]] = {
    "not JSON": {"body": b"{"},
    "not text": {"body": b"\xff{" + b"secret" * 100},
    "nested deeply": {"body": b"[" * 100_000},
    "a number of 5,000 digits": {"body": b"9" * 5000},
    "pickle": {"body": b"\x80\x04N.", "content_type": "application/x-python-serialize"},
    "an unknown content type": {"body": b"<a/>", "content_type": "application/xml"},
    "compressed": {
        "body": zlib.compress(b'{"id": "x"}'),
        "headers": {"compression": "application/x-gzip"},
    },
}


@pytest.mark.parametrize("message", UNDECODABLE.values(), ids=UNDECODABLE)
def test_an_undecodable_event_is_dead_lettered_at_once(
    broker, listener, message
) -> None:
    broker.publish(
        "shop.events", "sold", **{"content_type": "application/json", **message}
    )
    eventually(lambda: broker.count(DEAD))
    broker.channel.auto_decode = False
    [dead] = broker.take(DEAD)
    assert dead.body == message["body"]
    assert dead.headers["x-attempts"] == 1
    assert dead.headers["x-error"]
    assert len(dead.headers["x-error"]) < 200, "it quotes the message"
    eventually(lambda: is_quiet(broker))


MALFORMED: dict[str, tuple[bytes, str, dict[str, Any]]] = {
    "a list": (b"[1]", "TypeError", {}),
    "null": (b"null", "TypeError", {}),
    "an empty body": (b"", "TypeError", {}),
    "an object without its keys": (b"{}", "KeyError: 'id'", {}),
    "an object that names another type": (
        b'{"__type__": "decimal", "__value__": "1"}',
        "KeyError: 'id'",
        {},
    ),
    "a text that its encoding cannot encode": (
        b'["' + b"x" * 70 + b'"]',
        "TypeError",
        {"content_encoding": "idna"},
    ),
    "an unknown encoding": (b"[1]", "TypeError", {"content_encoding": "no-such"}),
    "nothing in an unknown encoding": (
        b"",
        "TypeError",
        {"content_encoding": "no-such"},
    ),
    "no content type": (b"[1]", "TypeError", {"content_type": None}),
    "a header whose name is not text": (b"[1]", "TypeError", {"headers": {b"\xff": 1}}),
    "headers of a hundred kilobytes": (
        b"[1]",
        "TypeError",
        {"headers": {"a": "x" * 100_000}},
    ),
    "headers that leave no room for more": (
        b"[1]",
        "TypeError",
        {"headers": {"a": "x" * 130_000}},
    ),
}


@pytest.mark.parametrize(("body", "error", "more"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_event_is_dead_lettered_unchanged(
    broker, listener, body, error, more
) -> None:
    given = {"content_type": "application/json", **more}
    broker.publish("shop.events", "sold", body, **given)
    eventually(lambda: broker.count(DEAD))
    broker.channel.auto_decode = False
    [dead] = broker.take(DEAD)
    assert (dead.body or b"") == body
    assert error in dead.headers["x-error"]
    assert is_quiet(broker)


def test_a_copy_ignores_the_cc_header_of_its_event(broker, listener) -> None:
    """With the header the copy would return to its queue and fail again, without an end."""
    broker.publish(
        "shop.events", "sold", b"[1]", headers={"CC": [QUEUE, DEAD], "mine": 1}
    )
    eventually(lambda: broker.count(DEAD))
    [dead] = broker.take(DEAD)
    assert "CC" not in dead.headers
    assert dead.headers["mine"] == 1
    eventually(lambda: is_quiet(broker))


@pytest.mark.parametrize("headers", UNREADABLE_HEADERS.values(), ids=UNREADABLE_HEADERS)
def test_an_event_with_unreadable_headers_is_dead_lettered(
    broker, listener, monkeypatch, headers
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(amqp.Message, "_serialize_properties", lambda self: headers)
        broker.publish("shop.events", "sold", b"[1]")
    eventually(lambda: broker.count(DEAD))
    [dead] = broker.take(DEAD)
    assert dead.headers["x-error"]
    eventually(lambda: is_quiet(broker))


def test_an_event_of_a_killed_handler_is_handled_by_the_next_one(
    nameko_run, dispatch, sql, servers, clean
) -> None:
    user_id, order_id = str(uuid.uuid4()), str(uuid.uuid4())
    user = {
        "user_id": user_id,
        "username": "Ann",
        "email": "ann@example.org",
        "locale": "en",
    }
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
    # Otherwise its server process would still write the letter.
    with (
        closing(psycopg2.connect(servers.superuser_dsn())) as server,
        server.cursor() as cursor,
    ):
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted"
        )
    eventually(
        lambda: not sql("notifications", "SELECT 1 FROM pg_locks WHERE NOT granted")
    )
    sql("notifications", "ROLLBACK")
    nameko_run("notifications.service")
    eventually(
        lambda: (
            sql("notifications", "SELECT order_id::text FROM letters") == [(order_id,)]
        )
    )


def test_events_are_handled_after_all_connections_were_closed(
    publish, close_connections, broker
) -> None:
    before = publish(Unavailable("gone"))
    close_connections()
    after = publish(Unavailable("gone"))
    eventually(lambda: len(handled[before]) >= 2)
    eventually(lambda: len(handled[after]) >= 2)


def test_a_failed_ack_closes_the_connection_and_the_event_is_redelivered(
    publish, broker, monkeypatch
) -> None:
    """On that connection a later ack of many messages would cover the event."""
    acks: list[Any] = []

    def ack(message: Any, **options: Any) -> None:
        acks.append(message)
        raise TimeoutError("the socket is full")

    with monkeypatch.context() as patch:
        patch.setattr(kombu.Message, "ack", ack)
        event_id = publish()
        eventually(lambda: acks)
    eventually(lambda: len(handled[event_id]) >= 2)
    assert acks[0].channel.connection is None
    eventually(lambda: is_quiet(broker))


def test_a_stock_handler_can_consume_the_same_queue(
    listener, chassis_config, dispatch
) -> None:
    """If the queue were declared differently, the broker would refuse the handler (406)."""
    seen: list[Any] = []

    class Stock:
        name = "listener"

        @stock_event_handler("shop", "sold")
        def handle_sold(self, event: Any) -> None:
            seen.append(event["id"])

    container = ServiceContainer(Stock, chassis_config)
    with running(container):
        ids = [str(uuid.uuid4()) for _ in range(10)]
        for event_id in ids:
            dispatch("shop", "sold", {"id": event_id})
        eventually(
            lambda: all(event_id in seen or handled[event_id] for event_id in ids)
        )
    assert seen


def test_an_event_with_a_binary_message_id_is_dead_lettered(broker, listener) -> None:
    forged = {
        "content_type": "application/json",
        "properties": {"message_id": b"\xff" * 200},
    }
    broker.publish("shop.events", "sold", b"[2]", **forged)
    eventually(lambda: broker.count(DEAD))
    [dead] = broker.take(DEAD)
    assert dead.body == "[2]"

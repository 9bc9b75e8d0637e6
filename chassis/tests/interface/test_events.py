"""Event handlers that fail: events are tried again, then dead-lettered; none is lost."""

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
from chassis.events import Reasons, event_handler
from chassis.logs import current_request_id
from chassis.tests.conftest import UNREADABLE_HEADERS, Broker, running
from conftest import eventually
from dev.servers import Servers

QUEUE = "evt-teller-told--listener.handle_told"
DEAD = f"{QUEUE}.dead"
DELAYS_S = (0.05, 0.1, 0.15)

plans: dict[
    str, list[Exception]
] = {}  # what handling the event with this id raises, try by try
named: dict[
    str, list[Exception]
] = {}  # with which reasons the handler returns it, try by try
handled: dict[str, list[Any]] = defaultdict(list)  # the request ids of the tries
tried_at: dict[str, list[float]] = defaultdict(list)  # seconds
batches: list[list[str]] = []  # the ids of each call
gate: list[Event] = []  # what a batch waits for at its end


class Listener:
    name = "listener"

    @event_handler("teller", "told")
    def handle_told(self, events: list[dict[str, Any]]) -> Reasons:
        batches.append([event["id"] for event in events])
        for event in events:
            tried_at[event["id"]].append(monotonic())
            handled[event["id"]].append(current_request_id())
        for event in events:
            if plans.get(event["id"]):
                raise plans[event["id"]].pop(0)
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
    pgcode = "42501"  # set by the driver, where an answer of the server is at hand


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
    """Each test begins with a success, which ends the streak of the last test's failures."""
    if {"tell", "listener"} & set(request.fixturenames):
        plans.clear()
        named.clear()
        handler = request.getfixturevalue("handler")
        good = request.getfixturevalue("tell")()
        eventually(lambda: handled[good])
        eventually(lambda: not is_paused() and not len(handler.held))
        request.getfixturevalue("broker").channel.queue_purge(DEAD)


@pytest.fixture
def tell(listener, dispatch) -> Any:
    """Dispatch an event as stock Nameko does; its id. Its handling raises `faults`, try by try."""

    def tell(*faults: Exception, reasons: Sequence[Exception] = ()) -> str:
        event_id = str(uuid.uuid4())
        plans[event_id], named[event_id] = list(faults), list(reasons)
        dispatch("teller", "told", {"id": event_id})
        return event_id

    return tell


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


def test_a_handled_event_is_gone(tell, broker) -> None:
    event_id = tell()
    eventually(lambda: handled[event_id])
    eventually(lambda: is_quiet(broker))
    assert len(handled[event_id]) == 1


# The service's own database is unavailable


@pytest.mark.parametrize("fault", [database_gone, no_grant])
def test_an_event_waits_for_the_database_for_as_long_as_it_takes(
    tell, moved, broker, fault
) -> None:
    tries = 3 * events.MAX_ATTEMPTS
    event_id = tell(*[fault() for _ in range(tries)])
    eventually(lambda: len(handled[event_id]) == tries + 1)
    eventually(lambda: not is_paused())
    assert is_quiet(broker)
    assert moved == []  # it has stayed in its place


def test_a_paused_handler_returns_all_events_and_tries_one_at_a_time(gathered) -> None:
    ids = gathered([database_gone() for _ in range(3)], *[[]] * 19)
    eventually(lambda: all(len(handled[event_id]) == 2 for event_id in ids[1:]))
    whole, *probes = batches[:4]
    assert whole == ids
    assert probes == [[ids[0]]] * 3, batches


def test_while_a_handler_pauses_its_queue_has_no_consumer_and_all_messages(
    tell, broker, monkeypatch
) -> None:
    monkeypatch.setattr(events, "PAUSES_S", (3,))
    event_id = tell(database_gone())
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


def test_failures_before_a_pause_count_no_more_and_none_is_skipped(
    tell, broker
) -> None:
    event_id = tell(
        ValueError("no"), ValueError("no"), database_gone(), *[ValueError("no")] * 4
    )
    eventually(lambda: len(handled[event_id]) == 8)
    eventually(lambda: is_quiet(broker))


def test_a_handler_that_paused_without_an_event_left_consumes_again(
    tell, broker, monkeypatch
) -> None:
    monkeypatch.setattr(events, "PAUSES_S", (2,))
    tell(database_gone())
    eventually(is_paused)
    eventually(lambda: broker.take(QUEUE))
    eventually(lambda: not is_paused())
    event_id = tell()
    eventually(lambda: handled[event_id])


def slow() -> Exception:
    return OperationalError(
        "INSERT", {}, TooSlow("canceling statement due to statement timeout")
    )


def test_an_event_that_meets_a_lock_holds_up_no_other_and_is_not_exhausted(
    gathered, broker
) -> None:
    """It is found by halving, as a malformed one is."""
    tries = 2 * events.MAX_ATTEMPTS
    ids = gathered(*[[]] * 10, [slow() for _ in range(tries)], *[[]] * 9)
    eventually(lambda: all(handled[event_id] for event_id in ids))
    eventually(lambda: len(handled[ids[10]]) == tries + 1)
    assert is_quiet(broker)


def test_where_every_event_is_too_slow_the_handler_pauses_after_a_few(
    gathered, caplog
) -> None:
    ids = gathered(*[[slow() for _ in range(12)]] * 50)
    eventually(lambda: "event_handler_paused" in caplog.messages)
    assert len(batches) < 20, "each of them would take the time of a statement"
    plans.clear()
    eventually(lambda: all(len(handled[event_id]) > 1 for event_id in ids))
    eventually(lambda: not is_paused())


def test_a_probe_that_fails_on_its_own_does_not_end_the_pause(
    tell, moved, broker, caplog, monkeypatch
) -> None:
    """Its failure says nothing of the database. It is counted, and gives way to the next one."""
    monkeypatch.setattr(events, "PROBE_S", 10)  # a busy machine delivers late
    malformed = tell(database_gone(), *[ValueError("no")] * 100)
    pauses = events.MAX_ATTEMPTS + 1
    eventually(lambda: caplog.messages.count("event_handler_paused") == pauses)
    eventually(lambda: broker.count(DEAD))
    assert len(handled[malformed]) == 1 + events.MAX_ATTEMPTS
    assert [copy.headers["x-failures"] for copy in moved] == [1, 2, 3, 4, 5]
    tell()
    eventually(lambda: not is_paused())
    broker.take(DEAD)


# A call to another service fails


def test_events_that_need_another_service_wait_and_all_others_go_on(
    gathered, broker
) -> None:
    tries = 2 * events.MAX_ATTEMPTS
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


def test_a_failed_call_costs_one_try_and_no_halving(gathered) -> None:
    ids = gathered(*[[]] * 10, [Unavailable("gone")], *[[]] * 10)
    eventually(lambda: all(len(handled[event_id]) == 2 for event_id in ids))
    assert batches == [ids, ids]


def test_failed_calls_do_not_count_against_the_event(tell, broker) -> None:
    gone = [Unavailable("gone")] * events.MAX_ATTEMPTS
    wrong = [ValueError("no")] * (events.MAX_ATTEMPTS - 1)
    event_id = tell(*gone, *wrong)
    eventually(lambda: len(handled[event_id]) == len(gone + wrong) + 1)
    eventually(lambda: is_quiet(broker))


# An event fails on its own content


def test_no_try_follows_the_last_one_before_its_delay(tell) -> None:
    event_id = tell(*[ValueError("no")] * 4)
    eventually(lambda: len(handled[event_id]) == 5)
    waits = [later - earlier for earlier, later in pairwise(tried_at[event_id])]
    assert all(
        wait >= delay
        for wait, delay in zip(waits, [*DELAYS_S, DELAYS_S[-1]], strict=True)
    )


def test_an_event_that_fails_is_dead_lettered_with_its_error(tell, broker) -> None:
    event_id = tell(*[ValueError("no such letter")] * 100)
    eventually(lambda: broker.count(DEAD))
    assert len(handled[event_id]) == events.MAX_ATTEMPTS
    [dead] = broker.take(DEAD)
    assert json.loads(dead.body) == {"id": event_id}
    labels = {"queue": QUEUE, "outcome": "parked"}
    eventually(lambda: REGISTRY.get_sample_value("shop_events_handled_total", labels))
    assert dead.headers["x-error"] == "ValueError: no such letter"
    assert dead.headers["x-attempts"] == events.MAX_ATTEMPTS
    assert dead.properties["delivery_mode"] == 2
    assert is_quiet(broker)


@pytest.fixture
def unconfirmed(handler, monkeypatch) -> list[Exception]:
    """The broker confirms nothing, as often as this list has something to raise."""
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


def test_a_dead_letter_that_is_not_confirmed_waits_and_holds_up_no_other(
    tell, unconfirmed, broker, caplog
) -> None:
    event_id = tell(*[ValueError("no")] * 100)
    eventually(lambda: "dead_lettering_postponed" in caplog.messages)
    other = tell()
    eventually(lambda: handled[other])
    eventually(lambda: broker.count(DEAD))
    assert (len(handled[event_id]), unconfirmed) == (events.MAX_ATTEMPTS + 3, [])
    assert "event_handler_paused" not in caplog.messages
    broker.take(DEAD)


def test_where_no_more_dead_letters_can_be_held_the_handler_pauses(
    tell, unconfirmed, broker, caplog, monkeypatch
) -> None:
    monkeypatch.setattr(events, "MAX_HELD", 0)
    tell(*[ValueError("no")] * 100)
    eventually(lambda: broker.count(DEAD))
    assert "event_handler_paused" in caplog.messages
    broker.take(DEAD)


def test_no_ack_covers_a_dead_letter_that_is_not_confirmed(
    tell, unconfirmed, handler, broker
) -> None:
    """It stands between events of its batch that are done."""
    gate.append(Event())
    first = tell()
    eventually(lambda: handled[first])
    before = tell()
    broker.publish("teller.events", "told", b"no JSON", content_type="application/json")
    after = tell()
    eventually(lambda: handler.inbox.qsize() == 3)
    gate.pop().send()
    eventually(lambda: handled[before] and handled[after])
    eventually(lambda: broker.count(DEAD) == 1)
    assert not unconfirmed
    broker.take(DEAD)


def test_no_ack_covers_an_event_that_failed_before_the_database_did(
    gathered, broker
) -> None:
    """Its batch is halved: it fails, the rest of its half is done, the other half meets no database."""
    ids = gathered([ValueError("no")] * 100, *[[]] * 8, [database_gone()])
    eventually(lambda: broker.count(DEAD) == 1)
    [dead] = broker.take(DEAD)
    assert json.loads(dead.body) == {"id": ids[0]}


def test_an_event_without_a_dead_letter_queue_stays_in_its_own(
    tell, handler, broker, caplog
) -> None:
    broker.channel.queue_delete(DEAD)
    tell(*[ValueError("no")] * 100)
    eventually(
        lambda: (
            "the migrations have not run"
            in str([vars(record) for record in caplog.records])
        )
    )
    handler.declare(broker.channel)
    eventually(lambda: broker.count(DEAD))
    broker.take(DEAD)


def test_an_event_that_the_handler_names_is_dead_lettered_alone(
    gathered, broker
) -> None:
    ids = gathered(*[[]] * 20)
    named[ids[3]] = [ValueError("no such reader")] * 100
    eventually(lambda: broker.count(DEAD))
    [dead] = broker.take(DEAD)
    assert json.loads(dead.body) == {"id": ids[3]}
    assert len(handled[ids[3]]) == events.MAX_ATTEMPTS
    assert all(len(handled[event_id]) == 1 for event_id in ids if event_id != ids[3])


def test_an_event_that_waits_for_its_next_try_holds_up_no_other(tell, broker) -> None:
    failing = tell(*[ValueError("no")] * 3)
    others = [tell() for _ in range(50)]
    eventually(lambda: all(handled[other] for other in others))
    eventually(lambda: len(handled[failing]) == 4)
    eventually(lambda: is_quiet(broker))


def test_no_ack_covers_an_event_that_is_held(
    tell, handler, servers, close_connections, monkeypatch
) -> None:
    """Acks of many events follow while it is held. Then the connection breaks: it must come again."""
    monkeypatch.setattr(retries, "RETRY_DELAYS_S", (60,))
    held = tell(ValueError("no"))
    eventually(lambda: len(handler.held) == 1)
    others = [tell() for _ in range(50)]
    eventually(lambda: all(handled[other] for other in others))
    eventually(lambda: unacked(servers) == 1)
    close_connections()
    eventually(lambda: len(handled[held]) == 2)


def unacked(servers: Servers) -> int:
    """How many messages of the queue are with a consumer that has not acked them."""
    columns = ("name", "messages_unacknowledged")
    told = servers.rabbitmqctl("-q", "list_queues", "--formatter", "json", *columns)
    [found] = [line for line in json.loads(told) if line["name"] == QUEUE]
    return int(found["messages_unacknowledged"])


def test_held_events_are_bounded_in_number(
    tell, handler, moved, broker, monkeypatch
) -> None:
    monkeypatch.setattr(retries, "MAX_HELD", 3)
    monkeypatch.setattr(retries, "RETRY_DELAYS_S", (0.5,))
    needy = [tell(reasons=[Unavailable("gone")] * 1000) for _ in range(20)]
    eventually(lambda: len(moved) > 20)
    assert len(handler.held) <= 3
    others = [tell() for _ in range(20)]
    eventually(lambda: all(handled[other] for other in others))
    named.clear()
    before = {event_id: len(handled[event_id]) for event_id in needy}
    eventually(
        lambda: all(len(handled[event_id]) > before[event_id] for event_id in needy)
    )
    eventually(lambda: is_quiet(broker))
    assert {copy.routing_key for copy in moved} == {QUEUE}


def test_held_events_are_bounded_in_time(tell, moved, broker, monkeypatch) -> None:
    monkeypatch.setattr(retries, "MAX_HELD_S", 0.5)
    event_id = tell(reasons=[Unavailable("gone")] * 10)
    eventually(lambda: len(handled[event_id]) == 11)
    assert moved
    assert all(copy.routing_key == QUEUE for copy in moved)
    attempts = [copy.headers["x-attempts"] for copy in moved]
    assert attempts == sorted(set(attempts))  # the copy goes on counting
    eventually(lambda: is_quiet(broker))


# Different events fail alike


def test_where_different_events_fail_alike_the_handler_pauses_and_none_is_dead_lettered(
    tell, broker, caplog
) -> None:
    ids = [tell(*[AttributeError("a mistake")] * 20) for _ in range(5)]
    eventually(is_paused)
    eventually(lambda: sum(len(handled[event_id]) for event_id in ids) > 30)
    assert broker.count(DEAD) == 0
    assert any(
        "fail alike: AttributeError" in str(vars(record)) for record in caplog.records
    )
    plans.clear()  # the mistake is mended
    eventually(lambda: not is_paused())
    eventually(lambda: is_quiet(broker))
    assert broker.count(DEAD) == 0


def test_one_after_the_other_counts_as_well(tell, broker, monkeypatch) -> None:
    """In a quiet shop the second event comes when the first one is dead-lettered."""
    for number in range(retries.MAX_SAME_FAILURES - 1):
        tell(*[AttributeError("a mistake")] * events.MAX_ATTEMPTS)
        eventually(lambda number=number: broker.count(DEAD) == number + 1)
    tell(*[AttributeError("a mistake")] * events.MAX_ATTEMPTS)
    eventually(is_paused)
    plans.clear()
    eventually(lambda: not is_paused())
    broker.take(DEAD)


def test_malformed_events_alone_stop_no_good_one_behind_them_and_end_as_dead_letters(
    tell, broker
) -> None:
    bad = [tell(*[AttributeError("malformed")] * 1000) for _ in range(5)]
    eventually(is_paused)
    good = tell()
    eventually(lambda: handled[good])
    eventually(lambda: broker.count(DEAD) == len(bad))
    assert {json.loads(dead.body)["id"] for dead in broker.take(DEAD)} == set(bad)
    eventually(lambda: not is_paused())


def test_many_malformed_events_delay_a_good_one_behind_them_by_a_few_probes(
    tell, broker, caplog
) -> None:
    """A probe takes twice as many as the last one, while none succeeds."""
    bad = [tell(*[AttributeError("malformed")] * 1000) for _ in range(100)]
    eventually(is_paused)
    good = tell()
    paused = caplog.messages.count("event_handler_paused")
    eventually(lambda: handled[good])
    assert caplog.messages.count("event_handler_paused") - paused < 12
    eventually(lambda: broker.count(DEAD) == len(bad), 60)
    broker.take(DEAD)


@pytest.fixture
def gathered(tell, handler) -> Iterator[Any]:
    """Tell events that are all there before the first of them is handled; their ids."""

    def gathered(*faults: list[Exception]) -> list[str]:
        gate.append(Event())
        first = tell()
        eventually(lambda: handled[first])
        rest = [tell(*its_faults) for its_faults in faults]
        eventually(lambda: handler.inbox.qsize() == len(rest))
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


def test_one_malformed_event_is_found_in_its_batch_and_dead_lettered_alone(
    gathered, broker
) -> None:
    ids = gathered(*[[]] * 20, [ValueError("no such letter")] * 100, *[[]] * 29)
    eventually(lambda: broker.count(DEAD))
    [dead] = broker.take(DEAD)
    assert json.loads(dead.body) == {"id": ids[20]}
    assert all(handled[event_id] for event_id in ids)
    assert len(batches) < 20  # halves, not one by one: 1 + 2 * 6 and its retries
    eventually(lambda: is_quiet(broker))


def test_what_has_arrived_and_was_not_begun_goes_back_at_the_stop(
    chassis_config, dispatch, broker
) -> None:
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
        eventually(lambda: handler.inbox.qsize() == 10)
        stopping = eventlet.spawn(container.stop)
        eventlet.sleep(0.5)
        assert not stopping.dead  # the batch at hand is finished first
        held.send()
        stopping.wait()
    left = broker.take("evt-teller-parted--leaver.handle_parted")
    assert calls == [[0]]
    assert [json.loads(message.body) for message in left] == list(range(1, 11))


def test_a_handler_that_pauses_stops_at_any_moment(
    chassis_config, dispatch, broker, caplog, monkeypatch
) -> None:
    monkeypatch.setattr(events, "PAUSES_S", (0.2,))

    class Leaver:
        name = "leaver"

        @event_handler("teller", "gone")
        def handle_gone(self, events: list[int]) -> None:
            raise database_gone()

    chance = random.Random(1)
    for _ in range(8):
        container = Container(Leaver, chassis_config)
        with running(container):
            dispatch("teller", "gone", 0)
            eventually(lambda: "event_handler_paused" in caplog.messages)
            eventlet.sleep(chance.uniform(0, 0.6))
        assert "shutdown_timed_out" not in caplog.messages
        caplog.clear()
    assert len(broker.take("evt-teller-gone--leaver.handle_gone")) == 8


def test_what_an_event_carries_survives_its_retries(listener, broker) -> None:
    event_id = str(uuid.uuid4())
    plans[event_id] = [ValueError("no")] * 100
    body = json.dumps({"id": event_id, "name": "Zoë"}, ensure_ascii=False).encode(
        "utf-16"
    )
    broker.publish(
        "teller.events",
        "told",
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
    assert handled[event_id] == ["from-the-gateway"] * events.MAX_ATTEMPTS


@pytest.mark.parametrize("count", ["many", -7, None, [1]])
def test_odd_counts_in_the_headers_neither_lose_the_event_nor_end_the_service(
    broker, tell, count
) -> None:
    event_id = str(uuid.uuid4())
    plans[event_id] = [Unavailable("gone")]
    headers = {"x-attempts": count, "x-failures": count}
    body = json.dumps({"id": event_id}).encode()
    broker.publish(
        "teller.events", "told", body, content_type="application/json", headers=headers
    )
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
def test_a_poison_event_is_taken_off_the_queue_and_the_service_lives(
    broker, tell, message
) -> None:
    broker.publish("teller.events", "told", **message)
    event_id = tell()
    eventually(lambda: handled[event_id])
    eventually(lambda: is_quiet(broker))


UNDECODABLE: dict[str, dict[str, Any]] = {
    "no JSON": {"body": b"{"},
    "no text": {"body": b"\xff{" + b"secret" * 100},
    "nested deeply": {"body": b"[" * 100_000},
    "a number of 5,000 digits": {"body": b"9" * 5000},
    "pickle": {"body": b"\x80\x04N.", "content_type": "application/x-python-serialize"},
    "a content type nobody knows": {"body": b"<a/>", "content_type": "application/xml"},
    "compressed": {
        "body": zlib.compress(b'{"id": "x"}'),
        "headers": {"compression": "application/x-gzip"},
    },
}


@pytest.mark.parametrize("message", UNDECODABLE.values(), ids=UNDECODABLE)
def test_an_event_that_cannot_be_read_is_dead_lettered_at_once_and_as_it_is(
    broker, listener, message
) -> None:
    broker.publish(
        "teller.events", "told", **{"content_type": "application/json", **message}
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
    "nothing at all": (b"", "TypeError", {}),
    "an object without its keys": (b"{}", "KeyError: 'id'", {}),
    "an object that asks to be made something else": (
        b'{"__type__": "decimal", "__value__": "1"}',
        "KeyError: 'id'",
        {},
    ),
    "a text in an encoding that can't encode it": (
        b'["' + b"x" * 70 + b'"]',
        "TypeError",
        {"content_encoding": "idna"},
    ),
    "an encoding nobody knows": (b"[1]", "TypeError", {"content_encoding": "no-such"}),
    "nothing in an encoding nobody knows": (
        b"",
        "TypeError",
        {"content_encoding": "no-such"},
    ),
    "no content type": (b"[1]", "TypeError", {"content_type": None}),
    "a header whose name is no text": (b"[1]", "TypeError", {"headers": {b"\xff": 1}}),
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
def test_a_malformed_event_is_dead_lettered_as_it_is(
    broker, listener, body, error, more
) -> None:
    given = {"content_type": "application/json", **more}
    broker.publish("teller.events", "told", body, **given)
    eventually(lambda: broker.count(DEAD))
    broker.channel.auto_decode = False
    [dead] = broker.take(DEAD)
    assert (dead.body or b"") == body
    assert error in dead.headers["x-error"]
    assert is_quiet(broker)


def test_a_copy_of_an_event_goes_to_no_queue_that_its_publisher_names(
    broker, listener
) -> None:
    """The copy would go to its queue as well, fail there again, and so on without an end."""
    broker.publish(
        "teller.events", "told", b"[1]", headers={"CC": [QUEUE, DEAD], "mine": 1}
    )
    eventually(lambda: broker.count(DEAD))
    [dead] = broker.take(DEAD)
    assert "CC" not in dead.headers
    assert dead.headers["mine"] == 1
    eventually(lambda: is_quiet(broker))


@pytest.mark.parametrize("headers", UNREADABLE_HEADERS.values(), ids=UNREADABLE_HEADERS)
def test_an_event_whose_headers_cannot_be_read_is_dead_lettered(
    broker, listener, monkeypatch, headers
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(amqp.Message, "_serialize_properties", lambda self: headers)
        broker.publish("teller.events", "told", b"[1]")
    eventually(lambda: broker.count(DEAD))
    [dead] = broker.take(DEAD)
    assert dead.headers["x-error"]
    eventually(lambda: is_quiet(broker))


def test_an_event_whose_handler_is_killed_in_the_middle_is_handled_by_the_next_process(
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
    # Or its server process, which knows nothing of that, would write the letter all the same.
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


def test_after_the_broker_closed_all_connections_events_are_handled(
    tell, close_connections, broker
) -> None:
    before = tell(Unavailable("gone"))
    close_connections()
    after = tell(Unavailable("gone"))
    eventually(lambda: len(handled[before]) >= 2)
    eventually(lambda: len(handled[after]) >= 2)


def test_where_an_ack_fails_its_connection_ends_and_the_event_comes_again(
    tell, broker, monkeypatch
) -> None:
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


def test_a_stock_handler_can_take_the_queue_over(
    listener, chassis_config, dispatch
) -> None:
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
        eventually(
            lambda: all(event_id in seen or handled[event_id] for event_id in ids)
        )
    assert seen


def test_an_event_with_a_long_message_id_that_is_no_text_is_dead_lettered_too(
    broker, listener
) -> None:
    forged = {
        "content_type": "application/json",
        "properties": {"message_id": b"\xff" * 200},
    }
    broker.publish("teller.events", "told", b"[2]", **forged)
    eventually(lambda: broker.count(DEAD))
    [dead] = broker.take(DEAD)
    assert dead.body == "[2]"

"""The relay reads only events above its position, and still publishes every event."""

import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from time import time
from typing import Any

import eventlet
import psycopg2
import pytest
from eventlet.event import Event
from sqlalchemy.orm import DeclarativeBase

from chassis import outbox
from chassis.container import Container
from chassis.db import Database
from chassis.errors import Unavailable
from chassis.outbox import Outbox
from chassis.rpc import rpc
from chassis.tests.conftest import running
from conftest import eventually
from tests.buffers import buffers_of, old_snapshot, recorded

EXCHANGE = "users.events"
HOUR_S = 3600
NEVER_S = 10_000
RELAYS, WRITERS, TRANSACTIONS = 3, 4, 25


class Base(DeclarativeBase):
    pass


class Emitter:
    """A service that emits events. It commits the type "slow" when `released` is sent."""

    name = "users"
    released = Event()

    db = Database(Base)
    outbox = Outbox()

    @rpc
    def emit(self, event_type: str) -> None:
        with self.db.transaction() as connection:
            self.outbox.stage(connection, [(event_type, {})])
            if event_type == "slow":
                self.released.wait()


@pytest.fixture(autouse=True)
def _quick(monkeypatch, sql) -> None:
    monkeypatch.setattr(outbox, "POLL_S", 0.1)
    monkeypatch.setattr(outbox, "MEASURE_EVERY_S", 0.5)
    sql("users", "DELETE FROM outbox")


@pytest.fixture
def relay(chassis_config) -> Iterator[Outbox]:
    """The outbox of a running service."""
    container = Container(Emitter, chassis_config)
    with running(container):
        [provider] = [d for d in container.dependencies if isinstance(d, Outbox)]
        yield provider


@pytest.fixture
def measures_once(monkeypatch) -> None:
    """The relay looks for events below its position only once, at its start."""
    monkeypatch.setattr(outbox, "MEASURE_EVERY_S", NEVER_S)
    monkeypatch.setattr(outbox, "POSITION_LAG_S", 0.0)


def event_id(age_s: float) -> str:
    """Return a uuid7 of a clock that is `age_s` behind."""
    return str(
        uuid.UUID(int=(int((time() - age_s) * 1000) << 80) | random.getrandbits(74))
    )


def write(cursor: Any, ids: list[str]) -> None:
    cursor.execute(
        "INSERT INTO outbox (event_id, type, payload, request_id)"
        " SELECT id, 'sold', '{}', 'r' FROM unnest(%s::uuid[]) AS id",
        [ids],
    )


def all_sent(sql: Callable[..., Any]) -> bool:
    rows = sql(
        "users", "SELECT bool_and(sent_at IS NOT NULL) FROM outbox HAVING count(*) > 0"
    )
    return rows == [(True,)]


def test_a_pass_does_not_read_events_sent_since_the_oldest_snapshot(
    relay, rpc, broker, sql, chassis_config
) -> None:
    owner, service = (
        chassis_config[name]["users:Base"] for name in ("DB_OWNER_URIS", "DB_URIS")
    )
    broker.bind(EXCHANGE, "sold")
    engine = relay._database.engine
    with (
        old_snapshot(owner),
        recorded(engine, "UPDATE outbox SET sent_at = now()") as takes,
    ):
        # One transaction, so that no relay sees them unsent.
        with psycopg2.connect(owner.replace("+psycopg2", "")) as connection:
            write(connection.cursor(), [event_id(age_s=60) for _ in range(10_000)])
            connection.cursor().execute("UPDATE outbox SET sent_at = now()")
            connection.cursor().execute(
                "ANALYZE outbox"
            )  # autovacuum may have analysed an empty table
        rpc.users.emit("sold")
        eventually(lambda: all_sent(sql))
        start = len(takes)
        eventually(lambda: len(takes) > start)
        statement, parameters = takes[-1]
        assert (
            buffers_of(service, statement, {**parameters, "after": outbox.MIN_ID}) > 100
        )
        assert buffers_of(service, statement, parameters) <= 20


def test_an_event_of_a_clock_that_is_an_hour_behind_is_published(
    relay, rpc, broker, sql
) -> None:
    """The copy that made it died after the commit."""
    queue = broker.bind(EXCHANGE, "sold")
    rpc.users.emit("sold")
    eventually(lambda: all_sent(sql))
    with psycopg2.connect(
        relay._database.db_uri.replace("+psycopg2", "")
    ) as connection:
        write(connection.cursor(), [event_id(age_s=HOUR_S)])
    eventually(lambda: broker.count(queue) == 2)


def test_an_event_that_is_committed_late_is_published_at_once(
    measures_once, relay, rpc, broker, monkeypatch
) -> None:
    """The position stays below the events that workers have not yet committed."""
    monkeypatch.setattr(Emitter, "released", Event())
    slow, sold = broker.bind(EXCHANGE, "slow"), broker.bind(EXCHANGE, "sold")
    call = rpc.users.emit.call_async("slow")
    eventually(lambda: relay._uncommitted)
    for count in (1, 2, 3):
        rpc.users.emit("sold")
        eventually(lambda count=count: broker.count(sold) == count)
    Emitter.released.send()
    call.result()
    eventually(lambda: broker.count(slow) == 1)


def test_the_position_does_not_move_while_publishing_fails(
    measures_once, relay, rpc, broker, sql, monkeypatch
) -> None:
    queue = broker.bind(EXCHANGE, "sold")
    failures = []

    def fail(messages: Any) -> None:
        failures.append(messages)
        raise Unavailable("the broker confirms nothing")

    with monkeypatch.context() as patch:
        patch.setattr(relay.publisher, "publish", fail)
        rpc.users.emit("sold")
        eventually(lambda: len(failures) >= 2)
    eventually(lambda: broker.count(queue) == 1)
    eventually(lambda: all_sent(sql))


def test_every_event_is_published_with_clocks_that_differ(
    chassis_config, broker, sql
) -> None:
    """Some transactions are long and some fail. Some relays die."""
    queue = broker.bind(EXCHANGE, "sold")
    uri = chassis_config["DB_URIS"]["users:Base"].replace("+psycopg2", "")
    chance = random.Random(14)
    committed: set[str] = set()

    def work() -> None:
        ahead_s = chance.uniform(-HOUR_S, HOUR_S)
        connection = psycopg2.connect(uri)
        for _ in range(TRANSACTIONS):
            ids = [event_id(-ahead_s) for _ in range(chance.randint(1, 3))]
            write(connection.cursor(), ids)
            eventlet.sleep(chance.choice([0, 0, 0.01, 0.2]))
            if chance.random() < 0.8:
                connection.commit()
                committed.update(ids)
            else:
                connection.rollback()
        connection.close()

    def take_and_die() -> None:
        for _ in range(TRANSACTIONS):
            connection = psycopg2.connect(uri)
            connection.cursor().execute(
                "UPDATE outbox SET sent_at = now() WHERE event_id = ANY(ARRAY("
                "SELECT event_id FROM outbox WHERE sent_at IS NULL LIMIT 5 FOR UPDATE SKIP LOCKED"
                "))"
            )
            eventlet.sleep(chance.choice([0, 0.1]))
            connection.close()

    with ExitStack() as stack:
        for _ in range(RELAYS):
            stack.enter_context(running(Container(Emitter, chassis_config)))
        threads = [eventlet.spawn(work) for _ in range(WRITERS)] + [
            eventlet.spawn(take_and_die)
        ]
        for thread in threads:
            thread.wait()
        eventually(lambda: all_sent(sql))
    published = {message.properties["message_id"] for message in broker.take(queue)}
    assert published == committed

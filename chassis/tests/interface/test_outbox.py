"""The outbox: events are written with their change, and all of them are published."""

import itertools
import json
import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import eventlet
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.orm import DeclarativeBase

from chassis import outbox
from chassis.broker import connect
from chassis.container import Container
from chassis.db import Database
from chassis.errors import Unavailable
from chassis.logs import bind_request_id
from chassis.outbox import Outbox
from chassis.publishers import ConfirmedPublisher
from chassis.rpc import rpc
from chassis.tests.conftest import Broker, dependency, running
from conftest import DEADLINE_S, eventually

EXCHANGE = "users.events"


class Base(DeclarativeBase):
    pass


class Emitter:
    """A service that emits events, with the outbox table of users."""

    name = "users"

    db = Database(Base)
    outbox = Outbox()

    @rpc
    def emit(
        self, event_type: str, payloads: list[dict[str, Any]], then_fails: bool = False
    ) -> None:
        with self.db.transaction() as connection:
            self.outbox.stage(
                connection, [(event_type, payload) for payload in payloads]
            )
            if then_fails:
                raise ValueError("no")


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "POLL_S", 0.1)
        patch.setattr(outbox, "MEASURE_EVERY_S", 0.1)  # finds rows with old ids
        yield


@pytest.fixture(scope="module")
def emitter(chassis_config) -> Iterator[Container]:
    container = Container(Emitter, chassis_config)
    with running(container):
        yield container


@pytest.fixture(autouse=True)
def _empty(sql) -> None:
    sql("users", "DELETE FROM outbox")


def unsent(sql: Any) -> int:
    [(count,)] = sql("users", "SELECT count(*) FROM outbox WHERE sent_at IS NULL")
    return int(count)


# Older than all ids that a service makes.
ids = itertools.count(1)


def insert(sql: Any, event_type: str, count: int) -> None:
    """Insert rows as a dead process leaves them."""
    rows = [
        (str(uuid.UUID(int=next(ids))), event_type, json.dumps({"n": n}))
        for n in range(count)
    ]
    values = ", ".join(
        f"('{id_}', '{kind}', '{payload}', 'r')" for id_, kind, payload in rows
    )
    sql(
        "users",
        f"INSERT INTO outbox (event_id, type, payload, request_id) VALUES {values}",
    )


def bodies(broker: Broker, queue: str) -> list[dict[str, Any]]:
    return [json.loads(message.body) for message in broker.take(queue)]


def publisher_of(container: Container) -> ConfirmedPublisher:
    [provider] = [d for d in container.dependencies if isinstance(d, Outbox)]
    return provider.publisher


def test_an_event_is_published_after_its_commit(emitter, rpc, broker, sql) -> None:
    queue = broker.bind(EXCHANGE, "sold")
    rpc.users.emit("sold", [{"n": 1}, {"n": 2}])
    eventually(lambda: broker.count(queue) == 2)
    eventually(lambda: unsent(sql) == 0)
    messages = broker.take(queue)
    payloads = [json.loads(message.body) for message in messages]
    assert [payload["n"] for payload in payloads] == [1, 2]
    for payload, message in zip(payloads, messages, strict=True):
        assert payload["version"] == 1
        assert payload["event_id"] == message.properties["message_id"]
        assert (
            datetime.fromisoformat(payload["occurred_at"]).utcoffset().total_seconds()
            == 0
        )
        assert message.properties["delivery_mode"] == 2


def test_an_event_of_a_failed_transaction_is_not_published(
    emitter, rpc, broker, sql
) -> None:
    queue = broker.bind(EXCHANGE, "sold")
    with pytest.raises(Exception, match="users failed"):
        rpc.users.emit("sold", [{"n": 1}], then_fails=True)
    assert sql("users", "SELECT * FROM outbox") == []
    rpc.users.emit("sold", [{"n": 2}])
    eventually(lambda: broker.count(queue))
    assert [body["n"] for body in bodies(broker, queue)] == [2]


def test_the_request_id_becomes_a_header(emitter, broker) -> None:
    queue = broker.bind(EXCHANGE, "sold")

    def work() -> None:
        bind_request_id({"request_id": "of-the-worker"})
        with dependency(emitter, "db").transaction() as connection:
            payloads = [{"n": 1}, {"n": 2, "request_id": "of-the-order"}]
            dependency(emitter, "outbox").stage(
                connection, [("sold", payload) for payload in payloads]
            )

    eventlet.spawn(work).wait()
    eventually(lambda: broker.count(queue) == 2)
    messages = broker.take(queue)
    ids = [message.headers["nameko.request_id"] for message in messages]
    assert ids == ["of-the-worker", "of-the-order"]
    assert all("request_id" not in json.loads(message.body) for message in messages)


def test_an_event_without_a_queue_is_published_later(
    emitter, rpc, broker, sql, caplog
) -> None:
    rpc.users.emit("early", [{"n": 1}])
    eventually(lambda: "events_without_queue" in caplog.messages)
    assert unsent(sql) == 1
    queue = broker.bind(EXCHANGE, "early")
    eventually(lambda: broker.count(queue))
    eventually(lambda: unsent(sql) == 0)
    assert [body["n"] for body in bodies(broker, queue)] == [1]


def test_events_without_a_queue_do_not_delay_others(emitter, rpc, broker, sql) -> None:
    insert(sql, "unrouted", 2 * outbox.MAX_BATCH + 1)
    queue = broker.bind(EXCHANGE, "sold")
    rpc.users.emit("sold", [{"n": 1}])  # the newest event
    eventually(lambda: broker.count(queue))
    eventually(lambda: unsent(sql) == 2 * outbox.MAX_BATCH + 1)


def test_two_relays_publish_each_event_once(
    chassis_config, emitter, broker, sql
) -> None:
    queue = broker.bind(EXCHANGE, "sold")
    with running(Container(Emitter, chassis_config)):
        for _ in range(5):
            insert(sql, "sold", 300)
            eventlet.sleep(0)
        eventually(lambda: unsent(sql) == 0)
    ids = [message.properties["message_id"] for message in broker.take(queue)]
    assert (
        len(set(ids)) == len(ids) == 1500
    )  # each relay skips the rows that the other has locked


def test_events_of_a_dead_process_are_published_at_the_next_start(
    chassis_config, broker, sql
) -> None:
    queue = broker.bind(EXCHANGE, "left")
    insert(sql, "left", 3)
    with running(Container(Emitter, chassis_config)):
        eventually(lambda: broker.count(queue) == 3)


def test_no_event_is_lost_when_connections_are_closed(
    emitter, rpc, broker, sql, close_connections, chassis_config
) -> None:
    broker.channel.queue_declare("outbox-test", durable=True, auto_delete=False)
    broker.channel.queue_bind("outbox-test", EXCHANGE, "sold")
    rpc.users.emit("sold", [{"n": 0}])
    eventually(lambda: unsent(sql) == 0)
    closing = eventlet.spawn(close_connections)
    for n in range(1, 6):
        insert(sql, "sold", 100)
        eventlet.sleep(0.1 * (n % 2))
    closing.wait()
    eventually(lambda: unsent(sql) == 0)
    with connect(chassis_config) as connection:  # the one of this test is closed too
        again = Broker(connection)
        ids = {
            message.properties["message_id"] for message in again.take("outbox-test")
        }
        again.channel.queue_delete("outbox-test")
    assert len(ids) == 501


def test_no_rows_are_written_while_the_broker_is_unavailable(
    emitter, broker, sql, monkeypatch
) -> None:
    """A row that was written and rolled back has an xmax."""
    queue = broker.bind(EXCHANGE, "sold")
    tried = []

    def connect() -> None:
        tried.append(1)
        raise Unavailable("the broker is unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(publisher_of(emitter), "check_available", connect)
        insert(sql, "sold", 3)
        eventually(lambda: len(tried) > 2)
        assert sql("users", "SELECT DISTINCT xmax::text FROM outbox") == [("0",)]
    eventually(lambda: broker.count(queue) == 3)


def test_the_relay_survives_the_end_of_its_database_session(
    emitter, rpc, broker, sql, superuser
) -> None:
    queue = broker.bind(EXCHANGE, "sold")
    superuser(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'users'"
    )
    insert(sql, "sold", 3)
    eventually(lambda: broker.count(queue) == 3)


def test_sent_events_are_deleted_after_the_retention_time(chassis_config, sql) -> None:
    insert(sql, "old", 1)
    insert(sql, "recent", 1)
    insert(sql, "unsent", 1)
    sql(
        "users",
        "UPDATE outbox SET sent_at = now() - interval '11 minutes' WHERE type = 'old'",
    )
    sql(
        "users",
        "UPDATE outbox SET sent_at = now() - interval '9 minutes' WHERE type = 'recent'",
    )
    with running(Container(Emitter, {**chassis_config, "OUTBOX_RETENTION_S": 600})):
        eventually(lambda: not sql("users", "SELECT 1 FROM outbox WHERE type = 'old'"))
    assert {kind for (kind,) in sql("users", "SELECT type FROM outbox")} == {
        "recent",
        "unsent",
    }


def test_metrics_show_the_number_and_age_of_unsent_events(emitter, broker, sql) -> None:
    def metric(name: str) -> float:
        return (
            REGISTRY.get_sample_value(f"shop_outbox_{name}", {"service": "users"}) or 0
        )

    insert(sql, "no-listener", 3)
    sql("users", "UPDATE outbox SET created_at = now() - interval '2 minutes'")
    eventually(lambda: metric("unsent") == 3 and metric("oldest_unsent_seconds") >= 120)
    broker.bind(EXCHANGE, "no-listener")
    eventually(lambda: metric("unsent") == metric("oldest_unsent_seconds") == 0)


def test_a_reply_does_not_wait_for_the_relay(emitter, rpc, monkeypatch) -> None:
    """The relay is blocked in this test, and the call gets its reply nevertheless."""
    published = eventlet.event.Event()

    def publish(messages: Any) -> list[bool]:
        published.wait()
        return [True] * len(messages)

    monkeypatch.setattr(publisher_of(emitter), "publish", publish)
    with eventlet.Timeout(DEADLINE_S):
        rpc.users.emit("sold", [{"n": 1}])
    published.send()


def test_events_after_the_first_are_published_together(
    emitter, rpc, monkeypatch
) -> None:
    monkeypatch.setattr(outbox, "PAUSE_S", 1.0)
    eventlet.sleep(1.1)  # after the pause of an earlier test
    published: list[int] = []

    def publish(messages: Any) -> list[bool]:
        published.append(len(messages))
        return [True] * len(messages)

    monkeypatch.setattr(publisher_of(emitter), "publish", publish)
    for n in range(5):
        rpc.users.emit("sold", [{"n": n}])
        eventually(lambda: published)
    eventually(lambda: sum(published) == 5)
    assert published == [1, 4]


def test_many_events_are_staged_with_one_statement(emitter, broker, sql) -> None:
    queue = broker.bind(EXCHANGE, "sold")
    with dependency(emitter, "db").transaction() as connection:
        dependency(emitter, "outbox").stage(
            connection, [("sold", {"n": n}) for n in range(1000)]
        )
        assert connection.execute(text("SELECT count(*) FROM outbox")).scalar() == 1000
        dependency(emitter, "outbox").stage(connection, [])
    eventually(lambda: broker.count(queue) == 1000)

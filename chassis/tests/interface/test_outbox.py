"""The outbox: events are written with the state, and all of them are published."""

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


class Teller:
    """A service that emits, on the outbox table of users."""

    name = "users"

    db = Database(Base)
    outbox = Outbox()

    @rpc
    def tell(
        self, event_type: str, facts: list[dict[str, Any]], then_fails: bool = False
    ) -> None:
        with self.db.transaction() as connection:
            self.outbox.stage(connection, [(event_type, fact) for fact in facts])
            if then_fails:
                raise ValueError("no")


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "POLL_S", 0.1)
        patch.setattr(
            outbox, "MEASURE_EVERY_S", 0.1
        )  # by which rows with old ids are noticed
        yield


@pytest.fixture(scope="module")
def teller(chassis_config) -> Iterator[Container]:
    container = Container(Teller, chassis_config)
    with running(container):
        yield container


@pytest.fixture(autouse=True)
def _empty(sql) -> None:
    sql("users", "DELETE FROM outbox")


def unsent(sql: Any) -> int:
    [(count,)] = sql("users", "SELECT count(*) FROM outbox WHERE sent_at IS NULL")
    return int(count)


ids = itertools.count(1)  # older than any that a service makes


def insert(sql: Any, event_type: str, count: int) -> None:
    """Rows as a service that died would leave them."""
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


def test_an_event_is_published_after_its_commit_and_marked(
    teller, rpc, broker, sql
) -> None:
    queue = broker.bind(EXCHANGE, "told")
    rpc.users.tell("told", [{"n": 1}, {"n": 2}])
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


def test_an_event_of_a_transaction_that_failed_is_never_told(
    teller, rpc, broker, sql
) -> None:
    queue = broker.bind(EXCHANGE, "told")
    with pytest.raises(Exception, match="users failed"):
        rpc.users.tell("told", [{"n": 1}], then_fails=True)
    assert sql("users", "SELECT * FROM outbox") == []
    rpc.users.tell("told", [{"n": 2}])
    eventually(lambda: broker.count(queue))
    assert [body["n"] for body in bodies(broker, queue)] == [2]


def test_the_request_id_goes_in_the_headers(teller, broker) -> None:
    queue = broker.bind(EXCHANGE, "told")

    def work() -> None:
        bind_request_id({"request_id": "of-the-worker"})
        with dependency(teller, "db").transaction() as connection:
            facts = [{"n": 1}, {"n": 2, "request_id": "of-the-order"}]
            dependency(teller, "outbox").stage(
                connection, [("told", fact) for fact in facts]
            )

    eventlet.spawn(work).wait()
    eventually(lambda: broker.count(queue) == 2)
    messages = broker.take(queue)
    ids = [message.headers["nameko.request_id"] for message in messages]
    assert ids == ["of-the-worker", "of-the-order"]
    assert all("request_id" not in json.loads(message.body) for message in messages)


def test_an_event_without_a_queue_is_kept_and_sent_once_there_is_one(
    teller, rpc, broker, sql, caplog
) -> None:
    rpc.users.tell("early", [{"n": 1}])
    eventually(lambda: "events_without_queue" in caplog.messages)
    assert unsent(sql) == 1
    queue = broker.bind(EXCHANGE, "early")
    eventually(lambda: broker.count(queue))
    eventually(lambda: unsent(sql) == 0)
    assert [body["n"] for body in bodies(broker, queue)] == [1]


def test_events_without_a_queue_hold_up_no_others(teller, rpc, broker, sql) -> None:
    insert(sql, "unheard", 2 * outbox.BATCH + 1)
    queue = broker.bind(EXCHANGE, "told")
    rpc.users.tell("told", [{"n": 1}])  # the newest of all
    eventually(lambda: broker.count(queue))
    eventually(lambda: unsent(sql) == 2 * outbox.BATCH + 1)


def test_two_relays_side_by_side_publish_every_event_once(
    chassis_config, teller, broker, sql
) -> None:
    queue = broker.bind(EXCHANGE, "told")
    with running(Container(Teller, chassis_config)):
        for _ in range(5):
            insert(sql, "told", 300)
            eventlet.sleep(0)
        eventually(lambda: unsent(sql) == 0)
    ids = [message.properties["message_id"] for message in broker.take(queue)]
    assert (
        len(set(ids)) == len(ids) == 1500
    )  # a row that one has taken is skipped by the other


def test_events_that_a_dead_process_left_are_published_at_start(
    chassis_config, broker, sql
) -> None:
    queue = broker.bind(EXCHANGE, "left")
    insert(sql, "left", 3)
    with running(Container(Teller, chassis_config)):
        eventually(lambda: broker.count(queue) == 3)


def test_a_closed_connection_loses_no_event(
    teller, rpc, broker, sql, close_connections, chassis_config
) -> None:
    broker.channel.queue_declare("outbox-test", durable=True, auto_delete=False)
    broker.channel.queue_bind("outbox-test", EXCHANGE, "told")
    rpc.users.tell("told", [{"n": 0}])
    eventually(lambda: unsent(sql) == 0)
    closing = eventlet.spawn(close_connections)
    for n in range(1, 6):
        insert(sql, "told", 100)
        eventlet.sleep(0.1 * (n % 2))
    closing.wait()
    eventually(lambda: unsent(sql) == 0)
    with connect(chassis_config) as connection:  # the test's own was closed too
        again = Broker(connection)
        ids = {
            message.properties["message_id"] for message in again.take("outbox-test")
        }
        again.channel.queue_delete("outbox-test")
    assert len(ids) == 501


def test_nothing_is_written_while_the_broker_takes_no_messages(
    teller, broker, sql, monkeypatch
) -> None:
    """A row that was taken and given back again has an xmax."""
    queue = broker.bind(EXCHANGE, "told")
    tried = []

    def connect() -> None:
        tried.append(1)
        raise Unavailable("the broker takes no messages")

    with monkeypatch.context() as patch:
        patch.setattr(publisher_of(teller), "connect", connect)
        insert(sql, "told", 3)
        eventually(lambda: len(tried) > 2)
        assert sql("users", "SELECT DISTINCT xmax::text FROM outbox") == [("0",)]
    eventually(lambda: broker.count(queue) == 3)


def test_the_relay_survives_its_database_session(
    teller, rpc, broker, sql, superuser
) -> None:
    queue = broker.bind(EXCHANGE, "told")
    superuser(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'users'"
    )
    insert(sql, "told", 3)
    eventually(lambda: broker.count(queue) == 3)


def test_sent_events_are_cleaned_up_after_their_time(chassis_config, sql) -> None:
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
    with running(Container(Teller, {**chassis_config, "OUTBOX_RETENTION_S": 600})):
        eventually(lambda: not sql("users", "SELECT 1 FROM outbox WHERE type = 'old'"))
    assert {kind for (kind,) in sql("users", "SELECT type FROM outbox")} == {
        "recent",
        "unsent",
    }


def test_metrics_tell_how_many_events_wait_and_how_long(teller, broker, sql) -> None:
    def metric(name: str) -> float:
        return (
            REGISTRY.get_sample_value(f"shop_outbox_{name}", {"service": "users"}) or 0
        )

    insert(sql, "nobody-listens", 3)
    sql("users", "UPDATE outbox SET created_at = now() - interval '2 minutes'")
    eventually(lambda: metric("unsent") == 3 and metric("oldest_unsent_seconds") >= 120)
    broker.bind(EXCHANGE, "nobody-listens")
    eventually(lambda: metric("unsent") == metric("oldest_unsent_seconds") == 0)


def test_an_answer_does_not_wait_for_the_relay(teller, rpc, monkeypatch) -> None:
    """The relay stands still in this test, and the call is answered all the same."""
    published = eventlet.event.Event()

    def publish(messages: Any) -> list[bool]:
        published.wait()
        return [True] * len(messages)

    monkeypatch.setattr(publisher_of(teller), "publish", publish)
    with eventlet.Timeout(DEADLINE_S):
        rpc.users.tell("told", [{"n": 1}])
    published.send()


def test_an_event_goes_at_once_and_those_that_follow_it_go_together(
    teller, rpc, monkeypatch
) -> None:
    monkeypatch.setattr(outbox, "PAUSE_S", 1.0)
    eventlet.sleep(1.1)  # the pause after an earlier test's events is over
    published: list[int] = []

    def publish(messages: Any) -> list[bool]:
        published.append(len(messages))
        return [True] * len(messages)

    monkeypatch.setattr(publisher_of(teller), "publish", publish)
    for n in range(5):
        rpc.users.tell("told", [{"n": n}])
        eventually(lambda: published)
    eventually(lambda: sum(published) == 5)
    assert published == [1, 4]


def test_a_flood_of_facts_is_written_in_one_go(teller, broker, sql) -> None:
    queue = broker.bind(EXCHANGE, "told")
    with dependency(teller, "db").transaction() as connection:
        dependency(teller, "outbox").stage(
            connection, [("told", {"n": n}) for n in range(1000)]
        )
        assert connection.execute(text("SELECT count(*) FROM outbox")).scalar() == 1000
        dependency(teller, "outbox").stage(connection, [])
    eventually(lambda: broker.count(queue) == 1000)

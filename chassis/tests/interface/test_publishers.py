"""Publishing with and without confirms, also while the broker is unavailable."""

import gc
import json
import logging
import uuid
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import eventlet
import pytest
from eventlet.event import Event

from chassis import publishers
from chassis.broker import (
    CONNECTION_ERRORS,
    OutgoingMessage,
    PublisherConnection,
    UnsendableError,
    connect,
    encode_json,
)
from chassis.container import Container
from chassis.errors import Unavailable
from chassis.publishers import ConfirmedPublisher, TransientPublisher
from chassis.rpc import rpc
from chassis.tests.conftest import Broker, running
from conftest import DEADLINE_S, eventually

CONFIRM_TIMEOUT_S = 0.5


def extension(extension_cls: type, config: dict[str, Any]) -> Any:
    """Return a shared extension that is bound as by a container."""
    made = extension_cls()
    made.container = SimpleNamespace(
        config=config,
        service_name="echo",
        spawn_managed_thread=lambda fn, identifier: eventlet.spawn(fn),
    )
    return made


@pytest.fixture
def publisher(chassis_config) -> Iterator[ConfirmedPublisher]:
    publisher = extension(
        ConfirmedPublisher, {**chassis_config, "CONFIRM_TIMEOUT_S": CONFIRM_TIMEOUT_S}
    )
    publisher.check()
    yield publisher
    publisher.stop()


@pytest.fixture
def transient(chassis_config) -> Iterator[TransientPublisher]:
    transient = extension(TransientPublisher, chassis_config)
    transient.start()
    yield transient
    transient.stop()


def message(
    queue: str, data: Any = 0, *, exchange: str = "", **properties: Any
) -> OutgoingMessage:
    properties = {"message_id": str(uuid.uuid4()), **properties}
    return OutgoingMessage(
        exchange=exchange,
        routing_key=queue,
        body=encode_json(data),
        properties=properties,
    )


def taken(broker: Broker, queue: str) -> list[int]:
    return [int(message.body) for message in broker.take(queue)]


@pytest.fixture
def block(servers) -> Iterator[Callable[[bool], None]]:
    """Return a function that switches the memory alarm of the broker."""

    def block(on: bool) -> None:
        servers.rabbitmqctl("set_vm_memory_high_watermark", "0.000001" if on else "0.4")

    yield block
    block(False)


def test_confirmed_messages_are_in_the_queue_in_order(publisher, broker) -> None:
    queue = broker.bind("", "")
    assert publisher.publish([message(queue, n) for n in range(300)]) == [True] * 300
    assert taken(broker, queue) == list(range(300))


def test_an_empty_batch_does_not_wait(publisher) -> None:
    assert publisher.publish([]) == []


def test_each_message_without_a_queue_is_reported(publisher, broker) -> None:
    queue = broker.bind("", "")
    messages = [message(queue), message("nowhere"), message(queue), message("nowhere")]
    assert publisher.publish(messages) == [True, False, True, False]
    assert publisher.publish([message(queue)]) == [True]


def test_concurrent_batches_get_their_own_confirms(publisher, broker) -> None:
    queue = broker.bind("", "")
    threads = [
        eventlet.spawn(
            publisher.publish, [message(queue), message("nowhere" if n % 2 else queue)]
        )
        for n in range(20)
    ]
    assert [thread.wait() for thread in threads] == [
        [True, n % 2 == 0] for n in range(20)
    ]


def test_the_publisher_works_after_a_refused_message(publisher, broker) -> None:
    full = broker.bind("", "", **{"x-max-length": 1, "x-overflow": "reject-publish"})
    queue = broker.bind("", "")
    with pytest.raises(Unavailable, match="refused"):
        publisher.publish([message(full) for _ in range(5)])
    assert publisher.publish([message(queue)]) == [True]


def test_the_publisher_works_after_an_unknown_exchange(publisher, broker) -> None:
    with pytest.raises(Unavailable):
        publisher.publish([message("x", exchange="no-such-exchange")])
    assert publisher.publish([message(broker.bind("", ""))]) == [True]


def test_a_batch_with_an_unsendable_message_is_not_sent(publisher, broker) -> None:
    queue = broker.bind("", "")
    assert publisher.publish([message(queue, 0)]) == [True]
    connection = publisher._connection
    with pytest.raises(UnsendableError):
        publisher.publish([message(queue, 1), message("x" * 256)])
    batch = [message(queue, 2), message("nowhere"), message(queue, 3)]
    assert publisher.publish(batch) == [True, False, True]
    assert taken(broker, queue) == [0, 2, 3]
    assert publisher._connection is connection


def test_the_wait_for_another_batch_is_limited(publisher, broker) -> None:
    queue = broker.bind("", "")
    assert publisher.publish([message(queue, 0)]) == [True]
    connection = publisher._connection
    with (
        publisher._lock,
        eventlet.Timeout(DEADLINE_S),
        pytest.raises(Unavailable, match="did not answer in time"),
    ):
        publisher.publish([message(queue, 1)])
    # The connection belongs to the other batch.
    assert publisher.publish([message(queue, 2)]) == [True]
    assert publisher._connection is connection
    assert taken(broker, queue) == [0, 2]


def test_a_closed_connection_is_noticed_and_replaced(
    publisher, chassis_config, close_connections, caplog
) -> None:
    publisher.publish([message("nowhere")])
    connection = publisher._connection
    close_connections()
    eventually(lambda: connection.closed)
    assert "broker_connection_lost" in caplog.messages
    assert publisher.publish([message("nowhere")]) == [False]


def test_a_broker_that_refuses_connections_is_unavailable(chassis_config) -> None:
    config = {**chassis_config, "AMQP_URI": "amqp://shop:shop@127.0.0.1:1/"}
    publisher = extension(ConfirmedPublisher, config)
    publisher.check()
    with pytest.raises(Unavailable):
        publisher.publish([message("nowhere")])
    publisher.stop()


def test_a_blocked_broker_delays_no_caller_and_recovers(
    publisher, transient, broker, block, chassis_config
) -> None:
    confirmed, sent = broker.bind("", ""), broker.bind("", "")
    transient.publish(message(sent, 0))
    eventually(lambda: broker.count(sent) == 1)
    block(True)
    with (
        eventlet.Timeout(DEADLINE_S),
        pytest.raises(Unavailable, match="did not answer in time"),
    ):
        publisher.publish([message(confirmed, 1)])
    for _ in range(2000):
        # In all more than the sockets in between can buffer.
        transient.publish(message(sent, "x" * 10_000))
    with eventlet.Timeout(DEADLINE_S), pytest.raises(Unavailable):
        publisher.publish([message(confirmed, 2)])
    block(False)
    assert eventually(lambda: _published(publisher, message(confirmed, 3))) == [True]
    assert taken(broker, confirmed)[-1] == 3
    transient.publish(message(sent, 4))
    eventually(lambda: 4 in [json.loads(message.body) for message in broker.take(sent)])


def _published(
    publisher: ConfirmedPublisher, message: OutgoingMessage
) -> list[bool] | None:
    try:
        return publisher.publish([message])
    except Unavailable:
        return None


def test_messages_wait_for_the_broker_until_they_expire(
    transient, broker, servers, close_connections, chassis_config
) -> None:
    broker.channel.queue_declare("sender-test", durable=True, auto_delete=False)
    transient.publish(message("sender-test", 0))
    eventually(lambda: broker.count("sender-test") == 1)
    servers.rabbitmqctl("suspend_listeners")
    close_connections()
    eventually(lambda: transient._connection.closed)
    transient.publish(message("sender-test", 1, expiration="50"))
    transient.publish(message("sender-test", 2))
    # The first message expires.
    eventlet.sleep(0.1)
    servers.rabbitmqctl("resume_listeners")
    with connect(chassis_config) as connection:
        again = Broker(connection)
        eventually(lambda: again.count("sender-test") == 2)
        assert taken(again, "sender-test") == [0, 2]
        again.channel.queue_delete("sender-test")


@pytest.fixture
def proxied(proxy) -> Iterator[TransientPublisher]:
    """A connected publisher behind the proxy."""
    transient = extension(TransientPublisher, proxy.config)
    transient.start()
    transient.publish(message("nowhere"))
    eventually(lambda: transient._connection)
    yield transient
    transient.stop()


def test_a_withdrawn_message_is_reported_and_never_sent(proxied, proxy, broker) -> None:
    queue, reasons = broker.bind("", ""), []
    proxy.close()
    eventually(lambda: proxied._connection.closed)
    proxied.publish(message(queue, 1), reasons.append)
    proxied.publish(message(queue, 2))  # waits, as a reply does
    eventually(lambda: reasons)
    assert "unavailable" in reasons[0]
    proxy.open()
    eventually(lambda: broker.count(queue))
    proxied.publish(message(queue, 3), reasons.append)
    eventually(lambda: broker.count(queue) == 2)
    assert taken(broker, queue) == [2, 3]
    assert len(reasons) == 1


def test_an_idle_publisher_notices_an_outage_and_its_end(proxied, proxy) -> None:
    proxy.close()
    eventually(lambda: "unavailable" in proxied.unavailable_reason)
    proxy.open()
    eventually(lambda: not proxied.unavailable_reason)
    assert not proxied._connection.closed


def test_a_lost_connection_is_replaced_before_the_next_message(proxied, proxy) -> None:
    lost = proxied._connection
    proxy.cut()
    eventually(lambda: proxied._connection is not lost)
    assert not proxied._connection.closed


def test_a_silent_broker_is_unavailable(proxied, proxy, broker, monkeypatch) -> None:
    monkeypatch.setattr(publishers, "CONNECT_TIMEOUT_S", 0.2)
    queue, reasons = broker.bind("", ""), []
    proxy.hold()
    proxy.cut()
    eventually(lambda: proxied._connection.closed)
    proxied.publish(message(queue, 1), reasons.append)
    eventually(lambda: reasons)
    assert "no answer in time" in proxied.unavailable_reason
    proxy.release()
    eventually(lambda: not proxied.unavailable_reason)
    proxied.publish(message(queue, 2))
    eventually(lambda: broker.count(queue))
    assert taken(broker, queue) == [2]


def test_a_connection_with_a_stalled_write_is_closed(proxy) -> None:
    """Its heartbeats would wait for the write, and no missing heartbeat would be noticed."""
    transient = extension(TransientPublisher, {**proxy.config, "HEARTBEAT": 1})
    reasons: list[str] = []
    transient.start()
    transient.publish(message("nowhere"))
    connection = eventually(lambda: transient._connection)
    proxy.hold()
    # More than the sockets in between can buffer.
    transient.publish(message("nowhere", "x" * 20_000_000))
    transient.publish(message("nowhere"), reasons.append)
    eventually(lambda: connection.closed)
    eventually(lambda: reasons)
    proxy.close()
    transient.stop()


def test_a_publisher_stops_without_a_broker(chassis_config) -> None:
    transient = extension(
        TransientPublisher,
        {**chassis_config, "AMQP_URI": "amqp://shop:shop@127.0.0.1:1/"},
    )
    transient.start()
    transient.publish(message("nowhere"))
    eventlet.sleep(0)
    with eventlet.Timeout(DEADLINE_S):
        transient.stop()


def test_messages_queued_before_the_stop_arrive(chassis_config, broker) -> None:
    queue = broker.bind("", "")
    transient = extension(TransientPublisher, chassis_config)
    transient.start()
    for number in range(500):
        transient.publish(message(queue, number))
    transient.stop()
    eventually(lambda: broker.count(queue) == 500)


def test_the_caller_is_notified_of_a_returned_request_but_of_no_reply(
    transient,
) -> None:
    returned = Event()
    transient.on_returned = returned.send
    transient.publish(message("nowhere", correlation_id="of a reply"))
    transient.publish(message("nowhere", correlation_id="c-1", reply_to="caller"))
    with eventlet.Timeout(DEADLINE_S):
        assert returned.wait() == "c-1"


class Idle:
    name = "echo"

    @rpc
    def nothing(self) -> None:
        pass


def test_heartbeats_keep_idle_connections_open(chassis_config, caplog) -> None:
    config = {**chassis_config, "HEARTBEAT": 1}
    connection = PublisherConnection(config, lambda channel: None)
    with running(Container(Idle, config)):
        # The broker closes a connection after two to three missing heartbeats.
        eventlet.sleep(3.5)
    assert not connection.closed
    connection.close()
    warnings = [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING
    ]
    assert warnings == ["broker_permissions_unconfirmed"]  # this user has all rights


def test_a_failed_preparation_closes_the_connection(chassis_config, servers) -> None:
    def prepare(channel: Any) -> None:
        channel.queue_declare("no-such-queue", passive=True)

    def connections() -> int:
        return len(servers.rabbitmqctl("list_connections", "pid").splitlines())

    gc.disable()  # it would close leaked connections
    try:
        before = connections()
        for _ in range(3):
            with pytest.raises(CONNECTION_ERRORS):
                PublisherConnection(chassis_config, prepare)
        eventually(lambda: connections() <= before)
    finally:
        gc.enable()

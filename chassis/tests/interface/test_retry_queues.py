"""The retry queues of earlier versions are drained while such a version may run, then deleted."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import amqp
import pytest
import yaml
from amqp.exceptions import NotFound

from chassis import dead
from chassis.container import Container
from chassis.events import event_handler
from chassis.migrate import declare_queues
from chassis.moves import copy_of
from chassis.retry_queues import retry_queues
from chassis.tests.conftest import Broker, running
from conftest import eventually

QUEUE = "evt-teller-moved--listener.handle_moved"
handled: list[Any] = []


class Listener:
    name = "listener"

    @event_handler("teller", "moved")
    def handle_moved(self, events: list[Any]) -> None:
        handled.extend(events)


@pytest.fixture
def old_version(broker: Broker) -> Iterator[Callable[..., None]]:
    """Declares its retry queues as it does at each reconnect, and publishes a failed event there."""
    handled.clear()

    def publish(event: Any, level: int = 2, delays_s: tuple[int, ...] = (60, 60, 60)) -> None:
        for number, seconds in enumerate(delays_s):
            arguments = {
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": QUEUE,
                "x-message-ttl": seconds * 1000,
            }
            name = f"{QUEUE}.retry.{number}"
            broker.channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
        message = amqp.Message(
            json.dumps(event).encode(),
            content_type="application/json",
            content_encoding="utf-8",
            application_headers={"x-attempts": 4, "x-failures": 1, "mine": "kept"},
            message_id="m-1",
            delivery_mode=2,
        )
        broker.channel.basic_publish(message, "", f"{QUEUE}.retry.{level}")

    yield publish
    for name in [QUEUE, f"{QUEUE}.dead", *retry_queues(QUEUE)]:
        broker.channel.queue_delete(name)


@pytest.fixture
def config_file(config, tmp_path, monkeypatch) -> str:
    """A config.yaml that knows this one service; its queues are there."""
    module = ModuleType("listener.service")
    module.Service = Listener
    monkeypatch.setitem(sys.modules, "listener", ModuleType("listener"))
    monkeypatch.setitem(sys.modules, "listener.service", module)
    declare_queues(config, "listener")
    path = Path(tmp_path, "config.yaml")
    path.write_text(yaml.safe_dump({**config, "DB_URIS": {"listener:Base": "unused"}}))
    return str(path)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_what_an_older_copy_publishes_there_is_handled_long_before_it_expires(
    old_version, config, broker, level
) -> None:
    old_version("before the start", level)
    with running(Container(Listener, config)):
        eventually(lambda: handled == ["before the start"])
        old_version("after the start", level)
        eventually(lambda: handled == ["before the start", "after the start"])
        assert all(broker.count(name) == 0 for name in retry_queues(QUEUE))


def test_a_drained_event_keeps_its_counts_and_is_persistent(old_version, config, broker) -> None:
    class Faulty:
        name = "listener"

        @event_handler("teller", "moved")
        def handle_moved(self, events: list[Any]) -> list[tuple[Any, Exception]]:
            return [(event, ValueError("no")) for event in events]

    old_version("the fifth failure is its last", 0)
    headers = {"x-attempts": 8, "x-failures": 4}
    with running(Container(Faulty, config)):
        eventually(lambda: broker.count(f"{QUEUE}.retry.0") == 0)
        message = amqp.Message(b"1", application_headers=headers, content_type="application/json")
        broker.channel.basic_publish(message, "", f"{QUEUE}.retry.1")
        eventually(lambda: broker.count(f"{QUEUE}.dead") == 1)
    [dead] = broker.take(f"{QUEUE}.dead")
    assert (dead.headers["x-attempts"], dead.headers["x-failures"]) == (9, 5)


def test_this_version_declares_none(old_version, config, config_file, broker) -> None:
    with running(Container(Listener, config)):
        for name in retry_queues(QUEUE):
            with pytest.raises(NotFound):
                broker.channel.queue_declare(name, passive=True)


def test_the_command_moves_what_waits_and_deletes_them(old_version, config_file, broker, capsys) -> None:
    for level in range(3):
        old_version(level, level)
    dead.main(["--config", config_file, "retire-retries"])
    assert capsys.readouterr().out == f"{QUEUE}: 3 retry queues deleted\n"
    assert broker.count(QUEUE) == 3
    for name in retry_queues(QUEUE):
        with pytest.raises(NotFound):
            broker.channel.queue_declare(name, passive=True)
    dead.main(["--config", config_file, "retire-retries"])
    assert capsys.readouterr().out == f"{QUEUE}: 0 retry queues deleted\n"


def test_an_event_that_comes_between_the_move_and_the_deletion_is_not_lost(
    old_version, config_file, broker, monkeypatch
) -> None:
    late = ["published meanwhile"]
    move = dead.move

    def move_then_publish(*arguments: Any) -> int:
        moved = move(*arguments)
        if late:
            old_version(late.pop(), 0)
            eventually(lambda: broker.count(f"{QUEUE}.retry.0") == 1)
        return moved

    old_version("waits", 0)
    monkeypatch.setattr(dead, "move", move_then_publish)
    dead.main(["--config", config_file, "retire-retries"])
    assert broker.count(QUEUE) == 2


def test_the_command_ends_with_one_line_while_an_earlier_version_still_publishes_there(
    old_version, config_file, monkeypatch
) -> None:
    move = dead.move

    def move_then_publish(*arguments: Any) -> int:
        moved: int = move(*arguments)
        old_version({"n": moved})
        return moved

    old_version({"n": 0})
    monkeypatch.setattr(dead, "move", move_then_publish)
    with pytest.raises(SystemExit) as ended:
        dead.main(["--config", config_file, "retire-retries"])
    assert "fills again" in ended.value.code
    assert "\n" not in ended.value.code


def test_a_service_goes_on_when_they_are_deleted(old_version, config, config_file, dispatch) -> None:
    old_version(1)
    with running(Container(Listener, config)):
        eventually(lambda: handled == [1])
        dead.main(["--config", config_file, "retire-retries"])
        dispatch("teller", "moved", 2)
        eventually(lambda: handled == [1, 2])


def test_a_broker_that_refuses_the_copies_ends_no_service(old_version, config, servers, caplog) -> None:
    for number in range(3):
        old_version(number, 0)
    refusal = ("drain", f"^{QUEUE}$", '{"max-length": 0, "overflow": "reject-publish"}')
    servers.rabbitmqctl("set_policy", "--apply-to", "queues", *refusal)
    try:
        with running(Container(Listener, config)):
            eventually(lambda: "can't drain retry queues" in caplog.messages)
            servers.rabbitmqctl("clear_policy", "drain")
            eventually(lambda: set(handled) == {0, 1, 2})
    finally:
        servers.rabbitmqctl("set_policy", "--apply-to", "queues", *refusal)
        servers.rabbitmqctl("clear_policy", "drain")


def test_a_copy_has_no_property_that_the_broker_would_refuse_or_obey() -> None:
    forged = {"user_id": "nobody", "expiration": "50", "message_id": "m-2"}
    copy = copy_of(amqp.Message(b"1", content_type="application/json", **forged))
    assert copy.properties == {
        "application_headers": {},
        "content_type": "application/json",
        "delivery_mode": 2,
        "message_id": "m-2",
    }

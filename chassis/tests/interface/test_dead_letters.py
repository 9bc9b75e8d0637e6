"""Dead letters can be listed without a change, and redriven."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import amqp
import pytest
import yaml

from chassis import dead_letters, retries
from chassis.container import Container
from chassis.dead_letters import copy_of
from chassis.events import event_handler
from chassis.logs import current_request_id
from chassis.migrate import declare_queues
from chassis.tests.conftest import Broker, running
from conftest import eventually

QUEUE = "evt-shop-sold--listener.handle_sold"
OTHER = "evt-shop-stocked--listener.handle_stocked"
DEAD = f"{QUEUE}.dead"
UNDECODABLE = bytes(range(256))

# The events, each with the request id of its handling.
handled: list[tuple[Any, str]] = []
# If it is not empty, each event fails with the first fault.
faults: list[Exception] = []


class Listener:
    name = "listener"

    @event_handler("shop", "sold")
    def handle_sold(self, events: Any) -> Any:
        handled.extend((event, current_request_id()) for event in events)
        return [(event, faults[0]) for event in events] if faults else None

    @event_handler("shop", "stocked")
    def handle_stocked(self, events: Any) -> None:
        handled.extend((event, current_request_id()) for event in events)


@pytest.fixture
def config_file(config, tmp_path, monkeypatch) -> str:
    """Write a config.yaml for the command, with only the service of this module."""
    module = ModuleType("listener.service")
    module.Service = Listener
    monkeypatch.setitem(sys.modules, "listener", ModuleType("listener"))
    monkeypatch.setitem(sys.modules, "listener.service", module)
    monkeypatch.setattr(retries, "RETRY_DELAYS_S", (0.05, 0.1, 0.15))
    declare_queues(config, "listener")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**config, "DB_URIS": {"listener:Base": "unused"}}))
    return str(path)


@pytest.fixture
def command(config_file, capsys) -> Callable[..., list[str]]:
    """Return a function that runs the command, and returns the lines that it prints."""

    def run(*arguments: str) -> list[str]:
        dead_letters.main(["--config", config_file, *arguments])
        return capsys.readouterr().out.splitlines()

    return run


@pytest.fixture(autouse=True)
def _empty(config_file, broker) -> None:
    handled.clear()
    faults.clear()
    for name in (QUEUE, OTHER):
        for queue in (name, f"{name}.dead"):
            broker.channel.queue_purge(queue)


@pytest.fixture
def listener(config, config_file) -> Iterator[None]:
    with running(Container(Listener, config)):
        yield


@pytest.fixture
def dead_letter(broker) -> Callable[..., None]:
    """Return a function that publishes a dead letter, as an event handler does."""

    def publish(
        message_id: str, body: bytes = b"{}", queue: str = DEAD, **more: Any
    ) -> None:
        broker.publish(
            "",
            queue,
            body,
            content_type="application/json",
            content_encoding="utf-8",
            headers={
                "x-attempts": 5,
                "x-failures": 5,
                "x-error": "ValueError('no such letter')",
                "nameko.request_id": f"request-of-{message_id}",
                **more,
            },
            properties={"message_id": message_id},
        )
        eventually(lambda: broker.count(queue))

    return publish


def raw(broker: Broker, queue: str) -> list[Any]:
    """Remove and return all messages, with their bodies as bytes."""
    broker.channel.auto_decode = False
    return broker.take(queue)


def ids(messages: list[Any]) -> list[str]:
    return [message.properties["message_id"] for message in messages]


def test_an_event_is_listed_with_its_attempts_and_error(command, dead_letter) -> None:
    dead_letter("m-1", '{"order": "Заказ"}'.encode())
    assert command("list") == [
        f"{QUEUE}: 1 dead-lettered",
        "  sold 'm-1', 5 attempts, request 'request-of-m-1': \"ValueError('no such letter')\"",
        '    \'{"order": "Заказ"}\'',
        f"{OTHER}: 0 dead-lettered",
    ]


def test_a_list_does_not_change_the_queue(command, dead_letter, broker) -> None:
    for number in range(5):
        dead_letter(f"m-{number}")
    first = command("list")
    assert command("list") == first
    eventually(lambda: broker.count(DEAD) == 5)
    assert ids(broker.take(DEAD)) == [f"m-{number}" for number in range(5)]


def test_the_list_of_many_events_is_cut(
    command, dead_letter, broker, monkeypatch
) -> None:
    monkeypatch.setattr(dead_letters, "MAX_SHOWN", 2)
    for number in range(5):
        dead_letter(f"m-{number}")
    lines = command("list", QUEUE)
    assert (lines[0], lines[-1]) == (f"{QUEUE}: 5 dead-lettered", "  ... and 3 more")
    assert len(lines) == 2 + 2 * 2
    assert broker.count(DEAD) == 5


def test_control_characters_are_escaped(command, dead_letter) -> None:
    dead_letter(
        "m-\x1b[2J",
        b"\x1b]0;owned\x07\r" + UNDECODABLE,
        **{"x-error": "\x1b[31m", "nameko.request_id": 7},
    )
    assert all(line.isprintable() for line in command("list"))


@pytest.mark.parametrize("body", [b"by hand", b""])
def test_a_message_without_headers_is_listed_and_redriven(
    command, broker, body
) -> None:
    broker.publish("", DEAD, body)
    eventually(lambda: broker.count(DEAD))
    assert f"    {body.decode()!r}" in command("list")
    command("redrive")
    assert [message.body or b"" for message in raw(broker, QUEUE)] == [body]


def test_a_redriven_event_has_no_headers_of_its_attempts(
    command, dead_letter, broker
) -> None:
    dead_letter("m-1", UNDECODABLE, mine=[1, {"a": None}], CC=[OTHER])
    assert command("redrive", QUEUE) == [f"{QUEUE}: 1 redriven"]
    assert broker.count(DEAD) == 0
    [message] = raw(broker, QUEUE)
    assert message.body == UNDECODABLE
    assert message.headers == {
        "nameko.request_id": "request-of-m-1",
        "mine": [1, {"a": None}],
    }
    kept = ("message_id", "content_type", "content_encoding", "delivery_mode")
    assert [message.properties[name] for name in kept] == [
        "m-1",
        "application/json",
        "utf-8",
        2,
    ]


def test_a_list_does_not_change_an_undecodable_body(
    command, dead_letter, broker
) -> None:
    dead_letter("m-1", UNDECODABLE)
    command("list")
    [message] = raw(broker, DEAD)
    assert message.body == UNDECODABLE


def test_redriven_events_are_handled_in_order(
    command, dead_letter, listener, broker
) -> None:
    for number in range(20):
        dead_letter(f"m-{number}", json.dumps(number).encode())
    command("redrive")
    eventually(lambda: len(handled) == 20)
    assert [event for event, _ in handled] == list(range(20))
    assert {request_id for _, request_id in handled} <= {
        f"request-of-m-{number}" for number in range(20)
    }
    assert handled[0] == (0, "request-of-m-0")  # the first id of its batch
    eventually(lambda: broker.count(QUEUE) == broker.count(DEAD) == 0)


def test_a_redriven_event_has_all_its_attempts_again(
    command, dead_letter, listener, broker
) -> None:
    faults.append(ValueError("still wrong"))
    dead_letter("m-1")
    command("redrive")
    eventually(lambda: broker.count(DEAD))
    assert len(handled) == retries.MAX_FAILURES
    [dead] = broker.take(DEAD)
    assert dead.headers["x-failures"] == retries.MAX_FAILURES
    assert dead.headers["x-error"] == "ValueError: still wrong"


def test_events_that_fail_again_at_once_are_moved_once(
    command, dead_letter, listener, broker, monkeypatch
) -> None:
    monkeypatch.setattr(retries, "MAX_FAILURES", 1)
    faults.append(ValueError("still wrong"))
    for number in range(50):
        dead_letter(f"m-{number}", json.dumps(number).encode())
    assert command("redrive", QUEUE) == [f"{QUEUE}: 50 redriven"]
    eventually(lambda: broker.count(DEAD) == 50)
    assert {event for event, _ in handled} == set(range(50))


@pytest.mark.parametrize("name", [OTHER, f"{OTHER}.dead"])
def test_a_queue_can_be_named(command, dead_letter, broker, name) -> None:
    dead_letter("m-1")
    dead_letter("m-2", queue=f"{OTHER}.dead")
    assert command("list", name)[0] == f"{OTHER}: 1 dead-lettered"
    assert command("redrive", name) == [f"{OTHER}: 1 redriven"]
    assert (broker.count(DEAD), ids(broker.take(OTHER))) == (1, ["m-2"])


@pytest.mark.parametrize("verb", ["list", "redrive"])
def test_an_unknown_queue_is_refused(command, dead_letter, broker, verb) -> None:
    dead_letter("m-1")
    with pytest.raises(SystemExit) as ended:
        command(verb, QUEUE, "nowhere")
    line = f"no event queues: nowhere; there are {QUEUE}, {OTHER}"
    assert ended.value.code.endswith(line)
    assert broker.count(DEAD) == 1


@pytest.mark.parametrize(
    ("verb", "missing"), [("list", DEAD), ("redrive", DEAD), ("redrive", QUEUE)]
)
def test_a_missing_queue_ends_the_command_without_loss(
    command, dead_letter, broker, verb, missing
) -> None:
    dead_letter("m-1")
    broker.channel.queue_delete(missing)
    with pytest.raises(SystemExit) as ended:
        command(verb, QUEUE)
    assert ended.value.code.endswith(": the migrations have not run")
    assert "\n" not in ended.value.code
    if missing != DEAD:
        eventually(lambda: broker.count(DEAD) == 1)


def test_a_blocked_broker_ends_the_redrive_without_loss(
    command, dead_letter, broker, servers, config_file
) -> None:
    dead_letter("m-1")
    settings = yaml.safe_load(Path(config_file).read_text())
    Path(config_file).write_text(yaml.safe_dump({**settings, "CONFIRM_TIMEOUT_S": 0.5}))
    servers.rabbitmqctl("set_vm_memory_high_watermark", "0.000001")
    try:
        with pytest.raises(SystemExit, match="the broker is unavailable"):
            command("redrive", QUEUE)
    finally:
        servers.rabbitmqctl("set_vm_memory_high_watermark", "0.4")
    eventually(lambda: broker.count(DEAD) + broker.count(QUEUE) >= 1)


def test_an_unavailable_broker_ends_the_process_with_one_line(
    environment,
) -> None:
    unreachable = {
        **environment,
        "AMQP_URI": "amqp://shop:shop@127.0.0.1:1/",
        "PYTHONWARNINGS": "ignore",
    }
    for verb in ("list", "redrive"):
        command = [sys.executable, "-m", "chassis.dead", verb]
        ended = subprocess.run(command, env=unreachable, capture_output=True, text=True)
        assert ended.returncode == 1
        [line] = ended.stderr.splitlines()
        assert line.startswith("config.yaml: the broker is unavailable: ")


def test_the_process_lists_all_queues_of_the_suite(environment, suite_config) -> None:
    command = [sys.executable, "-m", "chassis.dead", "list"]
    quiet = {**environment, "PYTHONWARNINGS": "ignore"}
    listed = subprocess.run(
        command, env=quiet, capture_output=True, text=True, check=True
    ).stdout
    assert [
        line.partition(":")[0]
        for line in listed.splitlines()
        if not line.startswith(" ")
    ] == [
        "evt-orders-order_paid--notifications.handle_order_paid",
        "evt-orders-order_rejected--notifications.handle_order_rejected",
        "evt-users-user_created--billing.handle_user_created",
        "evt-users-user_created--notifications.handle_user_created",
    ]


def test_a_copy_omits_the_user_id_and_the_expiration() -> None:
    forged = {"user_id": "another", "expiration": "50", "message_id": "m-2"}
    copy = copy_of(amqp.Message(b"1", content_type="application/json", **forged))
    assert copy.properties == {
        "application_headers": {},
        "content_type": "application/json",
        "delivery_mode": 2,
        "message_id": "m-2",
    }

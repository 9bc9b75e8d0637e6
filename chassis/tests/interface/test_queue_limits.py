"""The migration refuses a broker whose policies drop events, and passes one that keeps them.

The limits are real policies of a real RabbitMQ, in virtual hosts of classic and of quorum queues.
"""

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nameko.exceptions import ConfigurationError

from chassis import queue_limits
from chassis.broker import connect
from chassis.migrate import event_queues
from chassis.queue_limits import check_queue_limits
from conftest import SERVICES_WITH_TABLES, eventually
from dev.servers import Servers

VHOSTS = {f"limits-{kind}": kind for kind in ("classic", "quorum")}
# As they come, and with the default of RabbitMQ 4; the tests run on older ones, too.
INSTALLED, STRICT = "limits-installed", "limits-strict"
CROWDED = "limits-crowded"  # has room for one queue
REJECT = {"overflow": "reject-publish"}
# The policy of the queue evt-<name>--listener.handle, and the limit that the refusal names.
POLICIES: dict[str, tuple[dict[str, Any], str]] = {
    "short": ({"message-ttl": 200}, '"message-ttl"'),
    "unused": ({"expires": 200}, '"expires"'),
    "few": ({"max-length": 100}, '"max-length"'),
    "few-refused": ({"max-length": 100, **REJECT}, '"max-length"'),
    "small": ({"max-length-bytes": 100_000}, '"max-length-bytes"'),
    "small-refused": ({"max-length-bytes": 100_000, **REJECT}, '"max-length-bytes"'),
    # More than the returns of either kind: both count.
    "returned": ({"delivery-limit": 40}, '"delivery-limit"'),
}
GOOD = "evt-good--listener.handle"
UNKNOWN_IN = {  # no such limit, or one that this type of queue has too late to be found
    "classic": {"returned"},
    "quorum": {"unused"},
}
HOSTILE = [
    (vhost, name)
    for vhost, kind in VHOSTS.items()
    for name in POLICIES
    if name not in UNKNOWN_IN[kind]
]
OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"


def definitions() -> dict[str, Any]:
    """All virtual hosts, what the tests may do there, and the policies."""

    def policy(
        vhost: str, name: str, pattern: str, definition: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "vhost": vhost,
            "name": name,
            "pattern": pattern,
            "apply-to": "queues",
            "definition": definition,
            "priority": 1,
        }

    policies = [policy(STRICT, "default", ".*", {"delivery-limit": 20})]
    for vhost in VHOSTS:
        for name, (definition, _) in POLICIES.items():
            policies.append(policy(vhost, name, f"^evt-{name}--", definition))
        policies.append(
            policy(vhost, "letters", r"^evt-letters--.*\.dead$", {"message-ttl": 200})
        )
    # As docs/operations.md says for RabbitMQ 4, whose quorum queues drop after 20 deliveries.
    unlimited = {"delivery-limit": 1_000_000_000}
    policies.append(policy("limits-quorum", "good", "^evt-good--", unlimited))
    vhosts = [*VHOSTS, INSTALLED, STRICT, CROWDED]
    everything = dict.fromkeys(("configure", "write", "read"), ".*")
    room = {"component": "vhost-limits", "name": "limits", "value": {"max-queues": 1}}
    return {
        "vhosts": [{"name": vhost} for vhost in vhosts],
        "permissions": [
            {"user": "shop", "vhost": vhost, **everything} for vhost in vhosts
        ],
        "policies": policies,
        "parameters": [{"vhost": CROWDED, **room}],
    }


@pytest.fixture(scope="module")
def vhosts(servers: Servers) -> None:
    """RabbitMQ 3.10 takes the default type of a virtual host from the command alone."""
    quorum = [vhost for vhost, kind in VHOSTS.items() if kind == "quorum"]
    for vhost in [*quorum, INSTALLED, STRICT]:
        servers.rabbitmqctl("add_vhost", vhost, "--default-queue-type", "quorum")
    file = servers.state / "rabbitmq" / "limits.json"
    file.write_text(json.dumps(definitions()))
    servers.rabbitmqctl("import_definitions", str(file))


@pytest.fixture
def at(
    environment: dict[str, str], config: dict[str, Any], vhosts: None
) -> Callable[[str], dict[str, Any]]:
    """`at("limits-quorum")`: the settings with this virtual host."""
    return lambda vhost: {**config, "AMQP_URI": environment["AMQP_URI"] + vhost}


@pytest.fixture
def queues_of(servers: Servers) -> Callable[[str], dict[str, str]]:
    """`queues_of("limits-quorum")`: the names and types of its queues."""

    def find(vhost: str) -> dict[str, str]:
        told = servers.rabbitmqctl(
            "list_queues", "-p", vhost, "--formatter", "json", "name", "type"
        )
        return {each["name"]: each["type"] for each in json.loads(told)}

    return find


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """For policies that drop messages after a fifth of a second."""
    monkeypatch.setattr(queue_limits, "WAIT_S", 1)


def refusal(config: dict[str, Any], *queues: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        check_queue_limits(config, queues)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(("vhost", "name"), HOSTILE)
def test_a_policy_that_drops_events_is_refused_by_name(at, quick, vhost, name) -> None:
    queue = f"evt-{name}--listener.handle"
    line = refusal(at(vhost), GOOD, queue)
    assert POLICIES[name][1] in line
    assert queue in line
    assert GOOD not in line
    assert "(docs/operations.md#queue-limits)" in line


@pytest.mark.parametrize("vhost", VHOSTS)
def test_queues_of_dead_letters_are_checked_with_their_own_policies(
    at, quick, vhost
) -> None:
    events = "evt-letters--listener.handle"
    line = refusal(at(vhost), events, f"{events}.dead")
    assert f"from {events}.dead: " in line


def test_one_line_counts_the_queues_that_it_does_not_name(at, quick) -> None:
    first, *others = [f"evt-few--listener.handle_{n}" for n in range(3)]
    line = refusal(at("limits-classic"), first, *others)
    assert f"in {first} and 2 more: " in line


@pytest.mark.parametrize("vhost", VHOSTS)
def test_queues_without_limits_pass_and_keep_what_they_hold(
    at, quick, queues_of, vhost
) -> None:
    with connect(at(vhost)) as connection:
        channel = connection.default_channel
        channel.queue_declare(GOOD, durable=True, auto_delete=False)
        channel.basic_publish_confirm(channel.prepare_message(b"{}"), routing_key=GOOD)
        check_queue_limits(at(vhost), [GOOD, f"{GOOD}.dead"])
        assert queues_of(vhost) == {GOOD: VHOSTS[vhost]}
        assert channel.basic_get(GOOD, no_ack=True).body == b"{}"
        channel.queue_delete(GOOD)


@pytest.fixture
def max_message_size(servers: Servers) -> Any:
    """The broker refuses messages of more than a kilobyte."""
    was = servers.rabbitmqctl(
        "eval", "rabbit_misc:get_env(rabbit, max_message_size, 0)."
    ).strip()
    setting = (  # older versions ask the environment, 4.0 a copy of it
        "application:set_env(rabbit, max_message_size, {0}), persistent_term:put(max_message_size, {0})."
    )
    servers.rabbitmqctl("eval", setting.format(1024))
    yield
    servers.rabbitmqctl("eval", setting.format(was))


def test_a_broker_that_refuses_large_messages_is_refused(
    at, quick, max_message_size
) -> None:
    assert "set max_message_size" in refusal(at("limits-classic"), GOOD)


def test_a_virtual_host_without_room_for_scratch_queues_is_refused(
    at, quick, queues_of
) -> None:
    line = refusal(at(CROWDED), GOOD, f"{GOOD}.dead")
    assert "queue limit in vhost" in line
    assert queues_of(CROWDED) == {}


@pytest.fixture
def memory_alarm(servers: Servers) -> Any:
    servers.rabbitmqctl("set_vm_memory_high_watermark", "0.000001")
    yield
    servers.rabbitmqctl("set_vm_memory_high_watermark", "0.4")


def test_a_memory_alarm_ends_the_check(at, quick, memory_alarm, queues_of) -> None:
    with pytest.raises(TimeoutError, match="memory or disk alarm"):
        check_queue_limits(at("limits-classic"), [GOOD])
    assert queues_of("limits-classic") == {}


def test_without_queues_the_broker_is_not_asked(config) -> None:
    check_queue_limits({**config, "AMQP_URI": "amqp://nobody:no@127.0.0.1:1/"}, [])


Done = subprocess.CompletedProcess[str]


@pytest.fixture
def migrate(environment: dict[str, str], vhosts: None) -> Callable[[str], Done]:
    """`migrate("limits-strict")`: the migration as a process, with this virtual host."""

    def run(vhost: str) -> Done:
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "chassis.migrate"],
            env={**environment, "AMQP_URI": environment["AMQP_URI"] + vhost},
            capture_output=True,
            text=True,
        )

    return run


def policy_command() -> list[str]:
    """The command that docs/operations.md gives, as arguments of rabbitmqctl."""
    text = OPERATIONS.read_text().replace("\\\n", " ")
    [command] = re.findall(r"^    rabbitmqctl (set_policy .+)$", text, re.MULTILINE)
    return shlex.split(command)


def test_the_migration_refuses_a_delivery_limit_of_20_until_the_documented_policy_is_set(
    migrate, servers, config, queues_of
) -> None:
    """20 is the default of RabbitMQ 4."""
    refused = migrate(STRICT)
    assert refused.returncode == 1
    assert refused.stdout == "", "a service's tables are ready"
    [line] = refused.stderr.splitlines()
    loss = "the broker drops messages after at most 50 returns from evt-"
    remedy = 'set "delivery-limit": 1000000000 in its policy (docs/operations.md#queue-limits)'
    assert line.startswith(f"config.yaml: {loss}")
    assert line.endswith(remedy)

    command = policy_command()
    assert command[command.index("--vhost") + 1] == "/"
    servers.rabbitmqctl(*[STRICT if word == "/" else word for word in command])
    passed = migrate(STRICT)
    assert (passed.returncode, passed.stderr) == (0, "")
    assert len(passed.stdout.splitlines()) == len(SERVICES_WITH_TABLES)
    queues = queues_of(STRICT)
    assert set(queues.values()) == {"quorum"}
    assert set(event_queues(config, SERVICES_WITH_TABLES)) <= queues.keys()
    assert [name for name in queues if ".check-" in name] == []


def test_scratch_queues_of_a_killed_migration_expire(
    environment, vhosts, queues_of
) -> None:
    code = (
        "from chassis import migrate, queue_limits\n"
        "queue_limits.WAIT_S, queue_limits.EXPIRES_S = 60, 5\n"
        "migrate.main([])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**environment, "AMQP_URI": environment["AMQP_URI"] + INSTALLED},
    )

    def scratch() -> list[str]:
        return [name for name in queues_of(INSTALLED) if ".check-" in name]

    eventually(scratch)
    process.send_signal(signal.SIGKILL)
    process.wait()
    eventually(lambda: not scratch(), deadline_s=60)

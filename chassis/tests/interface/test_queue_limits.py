"""The migration refuses a broker whose policies drop events.

The limits are policies of a real RabbitMQ, in virtual hosts with classic and with quorum queues.
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

from chassis import broker_checks
from chassis.broker import connect
from chassis.broker_checks import check_queue_limits
from chassis.migrate import event_queues
from conftest import SERVICES_WITH_TABLES, eventually
from dev.servers import Servers

VHOSTS = {f"limits-{kind}": kind for kind in ("classic", "quorum")}
# Virtual hosts with the installed defaults, and with those of RabbitMQ 4.
INSTALLED, STRICT = "limits-installed", "limits-strict"
# Its limit is one queue.
CROWDED = "limits-crowded"
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
# Limits that this type of queue does not have, or applies too late for the check.
UNKNOWN_IN = {
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
    """Return the virtual hosts, the permissions of the tests, and the policies."""

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
    # docs/operations.md recommends it: quorum queues of RabbitMQ 4 drop after 20 deliveries.
    unlimited = {"delivery-limit": 1_000_000_000}
    policies.append(policy("limits-quorum", "good", "^evt-good--", unlimited))
    vhosts = [*VHOSTS, INSTALLED, STRICT, CROWDED]
    everything = dict.fromkeys(("configure", "write", "read"), ".*")
    limit = {"component": "vhost-limits", "name": "limits", "value": {"max-queues": 1}}
    return {
        "vhosts": [{"name": vhost} for vhost in vhosts],
        "permissions": [
            {"user": "shop", "vhost": vhost, **everything} for vhost in vhosts
        ],
        "policies": policies,
        "parameters": [{"vhost": CROWDED, **limit}],
    }


@pytest.fixture(scope="module")
def vhosts(servers: Servers) -> None:
    """Create the virtual hosts. RabbitMQ 3.10 accepts a default queue type only on creation."""
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
    """Return a function that returns the settings with another virtual host."""
    return lambda vhost: {**config, "AMQP_URI": environment["AMQP_URI"] + vhost}


@pytest.fixture
def queues_of(servers: Servers) -> Callable[[str], dict[str, str]]:
    """Return a function that returns the types of a virtual host's queues by name."""

    def find(vhost: str) -> dict[str, str]:
        listed = servers.rabbitmqctl(
            "list_queues", "-p", vhost, "--formatter", "json", "name", "type"
        )
        return {each["name"]: each["type"] for each in json.loads(listed)}

    return find


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for one second only. The policies drop messages after 0.2 s."""
    monkeypatch.setattr(broker_checks, "WAIT_S", 1)


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
def test_dead_letter_queues_are_checked_with_their_own_policies(
    at, quick, vhost
) -> None:
    events = "evt-letters--listener.handle"
    line = refusal(at(vhost), events, f"{events}.dead")
    assert f"from {events}.dead: " in line


def test_the_line_counts_further_queues(at, quick) -> None:
    first, *others = [f"evt-few--listener.handle_{n}" for n in range(3)]
    line = refusal(at("limits-classic"), first, *others)
    assert f"in {first} and 2 more: " in line


@pytest.mark.parametrize("vhost", VHOSTS)
def test_queues_without_limits_pass_and_keep_their_messages(
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
    """Have the broker refuse messages of more than a kilobyte."""
    was = servers.rabbitmqctl(
        "eval", "rabbit_misc:get_env(rabbit, max_message_size, 0)."
    ).strip()
    # Older versions read the environment, 4.0 reads the persistent term.
    setting = (
        "application:set_env(rabbit, max_message_size, {0}),"
        " persistent_term:put(max_message_size, {0})."
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


def test_without_queues_there_is_no_check(config) -> None:
    check_queue_limits({**config, "AMQP_URI": "amqp://user:no@127.0.0.1:1/"}, [])


Done = subprocess.CompletedProcess[str]


@pytest.fixture
def migrate(environment: dict[str, str], vhosts: None) -> Callable[[str], Done]:
    """Return a function that runs the migration as a process, with a virtual host."""

    def run(vhost: str) -> Done:
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "chassis.migrate"],
            env={**environment, "AMQP_URI": environment["AMQP_URI"] + vhost},
            capture_output=True,
            text=True,
        )

    return run


def policy_command() -> list[str]:
    """Return the command in docs/operations.md, as arguments of rabbitmqctl."""
    text = OPERATIONS.read_text().replace("\\\n", " ")
    [command] = re.findall(r"^    rabbitmqctl (set_policy .+)$", text, re.MULTILINE)
    return shlex.split(command)


def test_the_documented_policy_lifts_the_default_delivery_limit(
    migrate, servers, config, queues_of
) -> None:
    """20 is the default of RabbitMQ 4."""
    refused = migrate(STRICT)
    assert refused.returncode == 1
    assert refused.stdout == "", "the migration went on"
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
        "from chassis import broker_checks, migrate\n"
        "broker_checks.WAIT_S, broker_checks.EXPIRES_S = 60, 5\n"
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

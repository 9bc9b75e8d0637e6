"""The users that the chart makes on the broker may do what they must, on a real RabbitMQ, and no more."""

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import amqp
import kombu
import pytest
import uuid_utils
import yaml
from nameko.exceptions import ConfigurationError
from nameko.rpc import get_rpc_exchange
from nameko.standalone.events import get_event_exchange
from nameko.standalone.rpc import ClusterRpcProxy

from chassis.amqp import connect
from chassis.broker_user import check_broker_user
from chassis.migrate import event_handlers, event_queues
from chassis.moves import open_channel
from chassis.queue_limits import check_queue_limits
from chassis.schemas import is_id
from conftest import DEADLINE_S, eventually
from dev import bus
from dev import servers as dev_servers
from dev.cli import QUIET
from dev.ports import free_ports
from dev.servers import Servers
from tests.chart.attacks import Account, attempts, detours, publish
from tests.chart.commands import LIMIT_S, Run
from tests.chart.environment import SERVICES, WITH_TABLES, data
from tests.chart.helm import CHART, component, objects, of, pods, render
from tests.system.processes import NAMEKO, Process, Suite
from tests.system.shopper import Shopper, new_user

VHOST = "chart"
VALUES = {
    "rabbitmq": {"enabled": False},
    "externalRabbitmq": {"host": "localhost", "vhost": VHOST, "makeDefinitions": True},
}
USERS = (*SERVICES, "migrations", "operator")
REFUSED = "ACCESS_REFUSED"
USER_CREATED = "evt-users-user_created--billing.handle_user_created"


class OwnUsers(Suite):
    """The five services, each as its own user of the broker."""

    def __init__(self, uris: dict[str, str], *rest: Any) -> None:
        self.uris = uris
        super().__init__(*rest)

    def _process(self, name: str) -> Process:
        own = {"AMQP_URI": self.uris[name], "AMQP_USER_RESTRICTED": "true"}
        self.environment = {**self.environment, **own}
        return super()._process(name)


@pytest.fixture(scope="module")
def secret() -> dict[str, str]:
    """The passwords of all users, and definitions.json."""
    found = data(render(VALUES), "Secret", "shop-rabbitmq")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def uris(servers: Servers, secret: dict[str, str]) -> dict[str, str]:
    """Where each user finds the broker; it has read the chart's definitions."""
    definitions = servers.state / "rabbitmq" / "definitions.json"
    definitions.write_text(secret["definitions.json"])
    servers.rabbitmqctl("import_definitions", str(definitions))
    port = servers.ports["rabbitmq"]
    return {
        user: f"amqp://{user}:{secret[f'{user}-password']}@127.0.0.1:{port}/{VHOST}"
        for user in USERS
    }


@pytest.fixture(scope="module")
def run(
    environment: dict[str, str], suite_config: dict[str, Any], uris: dict[str, str]
) -> Run:
    """`run("dead")`: one of the chart's commands, as the user that the chart has it be."""
    return Run(render(VALUES), {**environment, "AMQP_USER_RESTRICTED": "true"}, uris)


@pytest.fixture(scope="module")
def suite(
    servers: Servers,
    environment: dict[str, str],
    uris: dict[str, str],
    run: Run,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Suite]:
    assert run("migrations", "chassis.migrate").code == 0
    folder = tmp_path_factory.mktemp("chart")
    with OwnUsers(uris, environment, servers.ports, folder).running() as suite:
        yield suite


def test_the_definitions_have_all_exchanges_as_services_declare_them(
    secret: dict[str, str], suite_config: dict[str, Any]
) -> None:
    """RabbitMQ 4.3.2 and later does not start with topic permissions for an exchange that is missing."""
    definitions = json.loads(secret["definitions.json"])
    names = {permission["exchange"] for permission in definitions["topic_permissions"]}
    handlers = [
        each for name in WITH_TABLES for each in event_handlers(suite_config, name)
    ]
    declared = {
        exchange.name: (exchange.type, exchange.durable, exchange.auto_delete)
        for exchange in (
            get_rpc_exchange(suite_config),
            *(
                get_event_exchange(service, suite_config)
                for service in ("users", "orders")
            ),
            *(handler.moves for handler in handlers),
        )
    }
    listed = {
        exchange["name"]: (
            exchange["type"],
            exchange["durable"],
            exchange["auto_delete"],
        )
        for exchange in definitions["exchanges"]
    }
    assert listed == declared
    assert names < listed.keys()


def test_a_user_with_all_rights_is_noticed(suite_config: dict[str, Any]) -> None:
    """The suite above checks that each service's own user is not (AMQP_USER_RESTRICTED)."""
    wide = "configure, read, write, routing keys of nameko-rpc, routing keys of users.events"
    with pytest.raises(ConfigurationError, match=rf"too much \({wide}\)"):
        check_broker_user(suite_config, "users")


@pytest.fixture
def channel(uris: dict[str, str], suite: Suite) -> Iterator[Callable[[str], Any]]:
    """`channel("users")`: a channel of that user, for one attempt."""
    opened: list[kombu.Connection] = []

    def connect(user: str) -> Any:
        opened.append(kombu.Connection(uris[user]))
        return opened[-1].channel()

    yield connect
    for connection in opened:
        connection.release()


def test_the_whole_story_goes_well_with_a_user_for_each(suite: Suite) -> None:
    shopper = Shopper(suite.url)
    assert shopper.deposit("10.00").status_code == 201
    assert shopper.order("7.00").json()["status"] == "paid"
    assert shopper.order("7.00").json()["status"] == "rejected"
    letters = eventually(
        lambda: (
            len(found := shopper.get("/notifications").json()["items"]) == 2 and found
        )
    )
    assert {letter["kind"] for letter in letters} == {"happiness", "grief"}
    assert shopper.get("/account").json()["balance"] == "3.00"


def test_a_replay_reports_what_is_missing_and_with_another_command_brings_it_back(
    suite: Suite, run: Run, sql: Callable[..., Any]
) -> None:
    shopper = Shopper(suite.url)
    shopper.deposit("10.00")
    shopper.ended_order("7.00")
    [letter] = shopper.letters(1)
    assert run("replay").code == 0
    sql("notifications", "DELETE FROM letters WHERE id = %s", [letter["id"]])
    reported = run("replay", "replay", "--settled", "--dry-run")
    assert (reported.code, "1 without letter, 1 to replay" in reported.says) == (
        1,
        True,
    ), reported.says
    replayed = run("replay", "replay", "--settled")
    assert (replayed.code, "1 without letter, 1 replayed" in replayed.says) == (
        0,
        True,
    ), replayed.says
    [again] = shopper.letters(1)
    assert (again["subject"], again["body"]) == (letter["subject"], letter["body"])


def test_an_event_that_can_not_be_right_is_shown_told_by_the_audit_and_moved_back(
    suite: Suite, channel: Callable[[str], Any], run: Run
) -> None:
    audit = run("audit")
    assert (audit.code, "differences: none" in audit.says) == (0, True), audit.says
    publish(channel("users"), "users.events", "user_created", b"no JSON")
    eventually(lambda: f"{USER_CREATED}: 1 parked" in run("dead").says)
    audit = run("audit")
    assert (audit.code, f"parked: {USER_CREATED}.dead: 1 events" in audit.says) == (
        1,
        True,
    ), audit.says
    assert f"{USER_CREATED}: 1 redriven" in run("redrive").says


def ready(channel: Any, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).message_count)


@pytest.fixture
def account(uris: dict[str, str], suite: Suite) -> Iterator[Callable[[str], Account]]:
    """`account("users")`: the stolen account of that user."""
    opened: list[Account] = []

    def steal(user: str) -> Account:
        opened.append(Account(user, uris[user]))
        return opened[-1]

    yield steal
    for each in opened:
        each.close()


@pytest.fixture
def listed(servers: Servers) -> Callable[..., list[dict[str, Any]]]:
    """`listed("queues", "name", "messages")`: what rabbitmqctl lists of the virtual host."""

    def ask(what: str, *columns: str) -> list[dict[str, Any]]:
        where = [] if what == "connections" else ["--vhost", VHOST]
        told = servers.rabbitmqctl(
            f"list_{what}", *where, "--formatter", "json", *columns
        )
        return json.loads(told)

    return ask


ATTEMPTS = 150  # at least, of each account; some 2,300 together


def test_no_account_does_more_than_its_own_tasks(
    account: Callable[[str], Account],
    listed: Callable[..., list[dict[str, Any]]],
) -> None:
    queues = [each["name"] for each in listed("queues", "name")]
    queues += [f"{queue}.retry.0" for queue in queues if queue.startswith("evt-")]
    keys = [
        each["routing_key"] for each in listed("bindings", "source_name", "routing_key")
    ]
    reply_keys = {key[:8]: key for key in keys if is_id(key)}  # one of each service
    assert len(reply_keys) == sum(bus.service(name).has_replies for name in SERVICES)
    counts, through = {}, []
    for user in USERS:
        thief = account(user)
        tried = list(attempts(thief, queues, reply_keys.values()))
        counts[user] = len(tried)
        through += [
            (user, attempt.name) for attempt in tried if not thief.is_refused(attempt)
        ]
    assert through == []
    assert min(counts.values()) >= ATTEMPTS, counts


TABLES = (
    "users.users",
    "billing.accounts",
    "billing.operations",
    "orders.orders",
    "notifications.letters",
    "notifications.recipients",
)
OUTSIDERS = ("users", "billing", "orders", "notifications", "migrations")
DETOURS = 8  # kinds, at least: the broker refuses one, or lets it pass and the services refuse it


def requests_of(shopper: Shopper) -> dict[str, dict[str, Any]]:
    """Requests that would have an effect each."""
    order = {"user_id": shopper.id, "price_minor": 1}
    return {
        "billing.deposit": {
            "user_id": shopper.id,
            "amount_minor": 700,
            "ref": str(uuid.uuid4()),
        },
        "users.create": new_user(),
        "notifications.send": {
            "user_id": shopper.id,
            "subject": "Win",
            "body": "Pay here",
        },
        "orders.place": {**order, "key": str(uuid.uuid4())},
    }


def held(sql: Callable[..., Any]) -> dict[str, Any]:
    """How many rows all tables have, and how much money there is."""
    found: dict[str, Any] = {}
    for service, _, table in (name.partition(".") for name in TABLES):
        found[table] = sql(service, f"SELECT count(*) FROM {table}")
    return {**found, "money": sql("billing", "SELECT sum(balance_minor) FROM accounts")}


def test_a_stolen_account_moves_no_money_and_writes_no_letter_by_any_detour(
    suite: Suite,
    account: Callable[[str], Account],
    listed: Callable[..., list[dict[str, Any]]],
    sql: Callable[..., Any],
    uris: dict[str, str],
) -> None:
    shopper = Shopper(suite.url)
    shopper.deposit("10.00")
    requests = requests_of(shopper)
    query = "SELECT 1 FROM recipients WHERE user_id = %s"
    eventually(lambda: sql("notifications", query, [shopper.id]))
    eventually(lambda: not waiting(listed))
    before = held(sql)
    refused: set[str] = set()
    taken: set[str] = set()
    for user in OUTSIDERS:
        thief = account(user)
        for method, kwargs in requests.items():
            body = json.dumps({"args": [], "kwargs": kwargs}).encode()
            for detour in detours(thief, method, body):
                kinds = refused if thief.is_refused(detour) else taken
                kinds.add(detour.name)
    eventually(lambda: not waiting(listed))
    assert held(sql) == before
    assert shopper.balance == "10.00"
    told = {
        line.get("error") for each in suite.processes.values() for line in each.lines()
    }
    assert {"dead-lettered", "published to another exchange"} <= told
    assert taken
    assert len(refused | taken) >= DETOURS  # RabbitMQ 4 refuses more of them itself
    with ClusterRpcProxy({"AMQP_URI": uris["operator"]}, timeout=DEADLINE_S) as rpc:
        for method, kwargs in requests.items():
            service, _, verb = method.partition(".")
            getattr(getattr(rpc, service), verb)(**kwargs)
    after = held(sql)
    assert all(
        after[each] != before[each] for each in ("money", "users", "orders", "letters")
    )


def waiting(listed: Callable[..., list[dict[str, Any]]]) -> list[str]:
    """The queues with messages, but for dead letters; what is being worked on counts."""
    found = listed("queues", "name", "messages")
    return [
        each["name"]
        for each in found
        if each["messages"] and not each["name"].endswith(".dead")
    ]


NO_UUIDS = (
    "amq.rabbitmq.reply-to",
    "billing.deposit",
    "user_created",
    "",
    "x" * 255,
    str(uuid.uuid4()).upper(),
)


def test_a_reply_to_somewhere_else_costs_the_callee_no_connection(
    suite: Suite,
    channel: Callable[[str], Any],
    listed: Callable[..., list[dict[str, Any]]],
) -> None:
    shopper = Shopper(suite.url)

    def connections() -> set[str]:
        return {
            each["pid"]
            for each in listed("connections", "pid", "user")
            if each["user"] == "users"
        }

    before = connections()
    body = json.dumps({"args": [], "kwargs": {"user_ids": [shopper.id]}}).encode()
    caller = channel("notifications")
    caller.basic_consume(
        "amq.rabbitmq.reply-to",
        no_ack=True,
        callback=lambda message: pytest.fail("a reply"),
    )
    for reply_to in NO_UUIDS:
        publish(
            caller,
            "nameko-rpc",
            "users.get_many",
            body,
            reply_to=reply_to,
            correlation_id="1",
        )
    eventually(lambda: not waiting(listed))
    assert shopper.get("/users/me").status_code == 200
    assert before
    assert connections() == before


def test_an_operator_calls_by_nameko_shell_and_no_service_does(
    suite: Suite,
    environment: dict[str, str],
    uris: dict[str, str],
    secret: dict[str, str],
    tmp_path: Path,
) -> None:
    """By the command of the chart's README, in the environment of a gateway."""
    (script,) = re.findall(
        r"sh -c '\n(.*nameko shell[^']*)'", (CHART / "README.md").read_text(), re.S
    )
    assert "password" not in script
    password = tmp_path / "operator"
    password.write_text(secret["operator-password"])
    script = script.replace("/tmp/operator", str(password))
    path = f"{Path(NAMEKO).parent}:{os.environ['PATH']}"
    shopper = Shopper(suite.url)
    done = subprocess.run(
        ["sh", "-c", script],
        env={**environment, **QUIET, "AMQP_URI": uris["gateway"], "PATH": path},
        input=f"print('=>', n.rpc.users.get(user_id='{shopper.id}')['username'])\n",
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert f"=> {shopper.user['username']}" in done.stdout, done.stderr
    assert not password.exists()
    for user in SERVICES:
        with (
            pytest.raises(amqp.AccessRefused),
            ClusterRpcProxy({"AMQP_URI": uris[user]}, timeout=1) as rpc,
        ):
            rpc.users.get(user_id=shopper.id)


def test_the_audit_names_what_a_stolen_account_forges_among_its_own_tasks(
    suite: Suite, channel: Callable[[str], Any], sql: Callable[..., Any], run: Run
) -> None:
    shopper = Shopper(suite.url)
    nobody, paid, moved, withdrawn = (str(uuid_utils.uuid7()) for _ in range(4))

    def order_paid(order_id: str) -> bytes:
        at = datetime.now(UTC).isoformat()
        event = {
            "order_id": order_id,
            "user_id": shopper.id,
            "price_minor": 700,
            "occurred_at": at,
        }
        return json.dumps(event).encode()

    user = json.dumps(
        {"user_id": nobody, "username": "nobody", "email": "a@b.org", "locale": "en"}
    )
    item = {
        "user_id": shopper.id,
        "amount_minor": 700,
        "order_id": withdrawn,
        "request_id": "1",
    }
    request = {"args": [], "kwargs": {"items": [item]}}
    queue = "evt-orders-order_paid--notifications.handle_order_paid"
    publish(channel("users"), "users.events", "user_created", user.encode())
    publish(channel("orders"), "orders.events", "order_paid", order_paid(paid))
    publish(
        channel("notifications"),
        "evt-moves--notifications.direct",
        queue,
        order_paid(moved),
    )
    properties = {"reply_to": str(uuid.uuid4()), "correlation_id": "1"}
    call = json.dumps(request).encode()
    publish(
        channel("orders"), "nameko-rpc", "billing.withdraw_many", call, **properties
    )
    forged = {"recipients": nobody, "letters": moved, "ledger": withdrawn}
    try:
        eventually(
            lambda: sql(
                "notifications", "SELECT 1 FROM recipients WHERE user_id = %s", [nobody]
            )
        )
        eventually(
            lambda: sql(
                "billing", "SELECT 1 FROM accounts WHERE user_id = %s", [nobody]
            )
        )
        query = "SELECT 1 FROM letters WHERE order_id IN (%s, %s)"
        eventually(lambda: len(sql("notifications", query, [paid, moved])) == 2)
        eventually(
            lambda: sql(
                "billing",
                "SELECT 1 FROM operations WHERE ref = %s",
                [f"order:{withdrawn}"],
            )
        )
        said = run("audit", "audit", "--settled").says
        for check, key in (*forged.items(), ("letters", paid), ("users", nobody)):
            assert f"{check}: {key}: due is []" in said, said
    finally:
        sql(
            "notifications",
            "DELETE FROM letters WHERE order_id IN (%s, %s)",
            [paid, moved],
        )
        sql("notifications", "DELETE FROM recipients WHERE user_id = %s", [nobody])
        sql("billing", "DELETE FROM accounts WHERE user_id = %s", [nobody])
        sql("billing", "DELETE FROM operations WHERE ref = %s", [f"order:{withdrawn}"])
        sql(
            "billing",
            "UPDATE accounts SET last_seq = 0 WHERE user_id = %s",
            [shopper.id],
        )


@pytest.mark.parametrize("header", ["CC", "BCC"])
def test_a_copy_of_a_failed_event_goes_nowhere_by_its_headers(
    suite: Suite,
    channel: Callable[[str], Any],
    listed: Callable[..., list[dict[str, Any]]],
    header: str,
) -> None:
    """Into its queue again, it would fail again, and make two of itself each time."""
    looks = channel("migrations")
    dead = f"{USER_CREATED}.dead"
    before = ready(looks, dead)
    copies = {header: [USER_CREATED, dead]}
    try:
        publish(
            channel("users"), "users.events", "user_created", b"no JSON", headers=copies
        )
    except amqp.AccessRefused:  # RabbitMQ 4 checks these keys, too
        assert ready(looks, dead) == before
        return
    eventually(lambda: ready(looks, dead) > before)
    eventually(lambda: not waiting(listed))
    assert ready(looks, dead) == before + 1
    looks.queue_purge(dead)
    looks.queue_purge(dead.replace("--billing", "--notifications"))


def test_a_service_scales_by_its_rpc_queue_alone_which_it_may_look_at(
    channel: Callable[[str], Any], suite: Suite
) -> None:
    """An event queue grows while its handler pauses, and more copies would pause as well."""
    scaled = of(objects("everything"), "ScaledObject")
    assert {component(each) for each in scaled} == {
        "billing",
        "orders",
        "notifications",
    }
    for each in scaled:
        service = component(each)
        (trigger,) = each["spec"]["triggers"]
        assert trigger["metadata"]["queueName"] == f"rpc-{service}"
        found = channel(service).queue_declare(f"rpc-{service}", passive=True)
        assert found.consumer_count > 0


def test_no_user_can_take_all_connections_of_the_broker(
    servers: Servers, secret: dict[str, str], uris: dict[str, str]
) -> None:
    many = {
        "services": {"billing": {"keda": {"enabled": True, "maxReplicas": 60}}},
        **VALUES,
    }
    for values, connections in ((VALUES, 500), (many, 1200)):
        definitions = json.loads(
            (data(render(values), "Secret", "shop-rabbitmq") or {})["definitions.json"]
        )
        limits = {"max-connections": connections, "max-channels": 4 * connections}
        assert all(user["limits"] == limits for user in definitions["users"])
    told = json.loads(
        servers.rabbitmqctl("list_user_limits", "--global", "--formatter", "json")
    )
    found = {
        each["user"]: json.loads(each["limits"])
        for each in told
        if each["user"] in USERS
    }
    assert found == {
        user: {"max-connections": 500, "max-channels": 2000} for user in USERS
    }


def test_with_permit_previous_a_user_may_do_what_it_may_by_both_versions() -> None:
    previous = yaml.safe_load((CHART / "files" / "bus-previous.yaml").read_text())[
        "users"
    ]
    now = bus.bus()["users"]
    external = {**VALUES["externalRabbitmq"], "permitPrevious": True}
    found = (
        data(
            render({**VALUES, "externalRabbitmq": external}), "Secret", "shop-rabbitmq"
        )
        or {}
    )
    definitions = json.loads(found["definitions.json"])
    for permission in definitions["permissions"]:
        user = permission["user"]
        for right in ("configure", "write", "read"):
            parts = [table[user][right] for table in (now, previous) if user in table]
            assert permission[right] == f"^({'|'.join(parts)})$"
    for permission in definitions["topic_permissions"]:
        user, exchange = permission["user"], permission["exchange"]
        tables = [
            table[user]["topics"][exchange]
            for table in (now, previous)
            if user in table
        ]
        for right in ("write", "read"):
            parts = [table[right] for table in tables if table[right]]
            assert permission[right] == f"^({'|'.join(parts)})$"


def test_the_definitions_have_the_passwords_that_the_services_get(
    secret: dict[str, str],
) -> None:
    users = json.loads(secret["definitions.json"])["users"]
    assert {user["name"]: user["password"] for user in users} == {
        user: secret[f"{user}-password"] for user in USERS
    }
    assert len({user["password"] for user in users}) == len(USERS)
    assert all(not user["tags"] for user in users), "nobody is an administrator"


MANY = 1_000_000_000
QUORUM: dict[str, dict[str, Any]] = {
    "rabbitmq": {"enabled": False},
    "externalRabbitmq": {
        "host": "localhost",
        "vhost": "quorum",
        "makeDefinitions": True,
        "queueType": "quorum",
    },
}


def test_with_quorum_queues_the_broker_takes_the_policy_and_applies_it(
    servers: Servers, environment: dict[str, str]
) -> None:
    """Which type a queue has by default, RabbitMQ 3.10 does not take from definitions: here it is said."""
    definitions = json.loads(
        (data(render(QUORUM), "Secret", "shop-rabbitmq") or {})["definitions.json"]
    )
    assert definitions["vhosts"][0]["metadata"]["default_queue_type"] == "quorum"
    file = servers.state / "rabbitmq" / "quorum.json"
    file.write_text(
        json.dumps({key: definitions[key] for key in ("vhosts", "policies")})
    )
    servers.rabbitmqctl("import_definitions", str(file))
    servers.rabbitmqctl(
        "set_permissions", "--vhost", "quorum", "shop", ".*", ".*", ".*"
    )
    names = (USER_CREATED, f"{USER_CREATED}.dead", "rpc-users")
    with kombu.Connection(f"{environment['AMQP_URI']}quorum") as connection:
        for name in names:
            quorum = {"x-queue-type": "quorum"}
            connection.default_channel.queue_declare(
                name, durable=True, auto_delete=False, arguments=quorum
            )
    told = servers.rabbitmqctl(
        "list_queues", "--vhost", "quorum", "--formatter", "json", "name", "policy"
    )
    assert {each["name"]: each["policy"] for each in json.loads(told)} == dict.fromkeys(
        names, "deliveries"
    )
    told = servers.rabbitmqctl(
        "list_policies", "--vhost", "quorum", "--formatter", "json"
    )
    taken = {each["name"]: json.loads(each["definition"]) for each in json.loads(told)}
    assert taken == {"deliveries": {"delivery-limit": MANY}}


def test_with_the_policies_for_quorum_queues_the_migration_accepts_the_broker(
    servers: Servers, environment: dict[str, str], suite_config: dict[str, Any]
) -> None:
    vhost = "quorum-limits"
    servers.rabbitmqctl("add_vhost", vhost, "--default-queue-type", "quorum")
    values = {
        **QUORUM,
        "externalRabbitmq": {**QUORUM["externalRabbitmq"], "vhost": vhost},
    }
    definitions = json.loads(
        (data(render(values), "Secret", "shop-rabbitmq") or {})["definitions.json"]
    )
    file = servers.state / "rabbitmq" / "quorum-limits.json"
    file.write_text(json.dumps({"policies": definitions["policies"]}))
    servers.rabbitmqctl("import_definitions", str(file))
    servers.rabbitmqctl("set_permissions", "--vhost", vhost, "shop", ".*", ".*", ".*")
    config = {**suite_config, "AMQP_URI": f"{environment['AMQP_URI']}{vhost}"}
    check_queue_limits(config, event_queues(config, WITH_TABLES))


STUB = """#!/bin/bash
cp --recursive "${RABBITMQ_CONFIG_FILES:-/dev/null}" "$OUT"
"""


def start_script(servers: Servers, folder: Path) -> Path:
    """Run what the chart's container runs before RabbitMQ; a folder with the settings it adds."""
    (pod,) = (each for name, each in pods(render({})).items() if "rabbitmq" in name)
    *bash, script = pod["spec"]["containers"][0]["command"]
    root = Path(getattr(servers, "root", "/"))
    (home,) = root.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*")
    (folder / "bin").mkdir()
    entrypoint = folder / "bin" / "docker-entrypoint.sh"
    entrypoint.write_text(STUB)
    entrypoint.chmod(0o755)
    out = folder / "added"
    path = f"{entrypoint.parent}:{os.environ['PATH']}"
    env = {
        "PATH": path,
        "HOME": str(folder),
        "RABBITMQ_HOME": str(home.resolve()),
        "OUT": str(out),
    }
    subprocess.run([*bash, script], env=env, check=True)
    return out


@pytest.fixture(scope="module")
def on_an_empty_volume(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    """A broker as the chart starts it, with the definitions for quorum queues."""
    maps = of(render({}), "ConfigMap")
    (conf,) = (
        each["data"]["rabbitmq.conf"]
        for each in maps
        if "rabbitmq.conf" in each["data"]
    )
    conf = conf.replace("/etc/definitions/definitions.json", "{definitions}")
    definitions = (data(render(QUORUM), "Secret", "shop-rabbitmq") or {})[
        "definitions.json"
    ]
    added = start_script(servers, tmp_path_factory.mktemp("container"))
    with (
        tempfile.TemporaryDirectory(prefix="shop-tests-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        started = type(servers)(Path(folder, "run"), free_ports(), database=False)
        started.__dict__ |= {"root": getattr(servers, "root", None)}
        patch.setattr(
            dev_servers,
            "RABBITMQ_CONF",
            f"{conf}\nlisteners.tcp.1 = 127.0.0.1:{{port}}\n",
        )
        patch.setattr(started, "_definitions", lambda: definitions)
        env = started._rabbitmq_env()
        if added.is_dir():
            more = started.state / "conf.d"
            shutil.copytree(added, more)
            subprocess.run(["chmod", "-R", "a+rX", str(more)], check=True)
            env["RABBITMQ_CONFIG_FILES"] = str(more)
        patch.setattr(started, "_rabbitmq_env", lambda: env)
        try:
            started.start()
            yield started
        finally:
            started.erase()


def assert_loaded(servers: Servers, definitions: dict[str, Any]) -> None:
    """That the broker has all that the definitions hold, whether it read or imported them."""
    vhost = definitions["vhosts"][0]["name"]

    def names(what: str, *columns: str) -> list[tuple[str, ...]]:
        told = servers.rabbitmqctl(
            f"list_{what}", "--vhost", vhost, "--formatter", "json"
        )
        return sorted(
            tuple(each[column] for column in columns) for each in json.loads(told)
        )

    def wanted(what: str, *columns: str) -> list[tuple[str, ...]]:
        return sorted(
            tuple(each[column] for column in columns) for each in definitions[what]
        )

    exchanges = wanted("exchanges", "name", "type")
    assert [
        each for each in names("exchanges", "name", "type") if each in exchanges
    ] == exchanges
    rights = ("user", "configure", "write", "read")
    assert wanted("permissions", *rights) == [
        e for e in names("permissions", *rights) if e[0] in USERS
    ]
    topics = ("user", "exchange", "write", "read")
    assert wanted("topic_permissions", *topics) == names("topic_permissions", *topics)
    assert wanted("policies", "name") == names("policies", "name")


def test_a_broker_that_starts_without_data_loads_all_definitions(
    on_an_empty_volume: Servers,
) -> None:
    """RabbitMQ 4.3.2 and later ends at permissions for an exchange that is missing."""
    started = on_an_empty_volume
    definitions = json.loads((started.state / "rabbitmq" / "users.json").read_text())
    assert definitions["policies"]
    assert_loaded(started, definitions)


def test_a_running_broker_imports_all_definitions(
    servers: Servers, secret: dict[str, str], uris: dict[str, str]
) -> None:
    """A later RabbitMQ stops half-way: it leaves users without topic permissions and policies."""
    assert_loaded(servers, json.loads(secret["definitions.json"]))


def test_the_brokers_log_is_json_and_a_look_at_readiness_adds_no_line(
    on_an_empty_volume: Servers,
) -> None:
    """Each look is a connection (chassis/container.py)."""
    started = on_an_empty_volume
    log = started.supervisor.log("rabbitmq")
    definitions = json.loads((started.state / "rabbitmq" / "users.json").read_text())
    password = next(
        each["password"] for each in definitions["users"] if each["name"] == "gateway"
    )
    uri = f"amqp://gateway:{password}@127.0.0.1:{started.ports['rabbitmq']}/quorum"
    before = log.read_text()
    for _ in range(50):
        connect(
            {"AMQP_URI": uri, "HEARTBEAT": 10}
        ).transport.establish_connection().close()
    with (
        pytest.raises(amqp.AccessRefused),
        open_channel({"AMQP_URI": uri, "HEARTBEAT": 10}) as channel,
    ):
        channel.queue_delete("the last one")
    after = eventually(
        lambda: (
            "the last one" in (text := log.read_text()) and text.endswith("\n") and text
        )
    )
    lines = [
        line for line in after.splitlines() if line.startswith("{")
    ]  # around them it prints a banner
    told = [json.loads(line)["msg"] for line in lines]
    assert any("Server startup complete" in message for message in told)
    assert "the last one" in next(
        message for message in told[before.count("\n{") :] if "'gateway'" in message
    )


def test_the_charts_own_broker_reads_the_same_definitions() -> None:
    (own,) = [
        each
        for each in of(objects("default"), "Secret")
        if "definitions.json" in each["data"]
    ]
    definitions = json.loads(base64.b64decode(own["data"]["definitions.json"]))
    assert [vhost["name"] for vhost in definitions["vhosts"]] == ["/"]
    assert {permission["user"] for permission in definitions["permissions"]} == set(
        USERS
    )

"""The chart's users of the broker have the permissions they need, and no others.

The tests run on a real RabbitMQ.
"""

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

from chassis.broker import connect, open_channel
from chassis.broker_checks import check_broker_user, check_queue_limits
from chassis.migrate import event_handlers, event_queues
from chassis.schemas import is_id
from conftest import DEADLINE_S, eventually
from dev import bus, servers as dev_servers
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
Keys = tuple[str, ...]
USERS = (*SERVICES, "migrations", "operator")
REFUSED = "ACCESS_REFUSED"
USER_CREATED = "evt-users-user_created--billing.handle_user_created"


class OwnUsers(Suite):
    """The five services, each with its own user of the broker."""

    def __init__(self, uris: dict[str, str], *rest: Any) -> None:
        self.uris = uris
        super().__init__(*rest)

    def _process(self, name: str) -> Process:
        own = {"AMQP_URI": self.uris[name], "AMQP_USER_RESTRICTED": "true"}
        self.environment = {**self.environment, **own}
        return super()._process(name)


@pytest.fixture(scope="module")
def secret() -> dict[str, str]:
    """Return the passwords of all users, and definitions.json."""
    found = data(render(VALUES), "Secret", "shop-rabbitmq")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def uris(servers: Servers, secret: dict[str, str]) -> dict[str, str]:
    """Import the chart's definitions into the broker; return the URI of each user."""
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
    """Return a function that runs a command of the chart, for example `run("dead")`.

    The command has the broker user that the chart gives it.
    """
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


def test_the_definitions_have_the_exchanges_that_services_declare(
    secret: dict[str, str], suite_config: dict[str, Any]
) -> None:
    """RabbitMQ 4.3.2 does not start with topic permissions for a missing exchange."""
    definitions = json.loads(secret["definitions.json"])
    names = {permission["exchange"] for permission in definitions["topic_permissions"]}
    exchanges = [get_rpc_exchange(suite_config)]
    exchanges += [
        get_event_exchange(name, suite_config) for name in ("users", "orders")
    ]
    for name in WITH_TABLES:
        exchanges += [
            each.moves_exchange for each in event_handlers(suite_config, name)
        ]
    declared = {
        exchange.name: (exchange.type, exchange.durable, exchange.auto_delete)
        for exchange in exchanges
    }
    properties = ("type", "durable", "auto_delete")
    listed = {
        exchange["name"]: tuple(exchange[key] for key in properties)
        for exchange in definitions["exchanges"]
    }
    assert listed == declared
    assert names < listed.keys()


def test_a_user_with_all_permissions_is_noticed(suite_config: dict[str, Any]) -> None:
    """The services of the fixture `suite` check their own users (AMQP_USER_RESTRICTED)."""
    wide = "configure, read, write, routing keys of nameko-rpc, routing keys of users.events"
    with pytest.raises(ConfigurationError, match=rf"too much \({wide}\)"):
        check_broker_user(suite_config, "users")


@pytest.fixture
def channel(uris: dict[str, str], suite: Suite) -> Iterator[Callable[[str], Any]]:
    """Return a function that opens a channel of a user, for example `channel("users")`."""
    opened: list[kombu.Connection] = []

    def connect(user: str) -> Any:
        opened.append(kombu.Connection(uris[user]))
        return opened[-1].channel()

    yield connect
    for connection in opened:
        connection.release()


def test_the_suite_works_with_a_user_for_each_service(suite: Suite) -> None:
    shopper = Shopper(suite.url)
    assert shopper.deposit("10.00").status_code == 201
    assert shopper.order("7.00").json()["status"] == "paid"
    assert shopper.order("7.00").json()["status"] == "rejected"
    letters = shopper.letters(2)
    assert {letter["kind"] for letter in letters} == {"happiness", "grief"}
    assert shopper.get("/account").json()["balance"] == "3.00"


def test_a_replay_reports_a_missing_letter_then_restores_it(
    suite: Suite, run: Run, sql: Callable[..., Any]
) -> None:
    shopper = Shopper(suite.url)
    shopper.deposit("10.00")
    shopper.ended_order("7.00")
    [letter] = shopper.letters(1)
    assert run("replay").code == 0
    sql("notifications", "DELETE FROM letters WHERE id = %s", [letter["id"]])
    reported = run("replay", "replay", "--settled", "--dry-run")
    assert "1 without letter, 1 to replay" in reported.output
    assert reported.code == 1, reported.output
    replayed = run("replay", "replay", "--settled")
    assert "1 without letter, 1 replayed" in replayed.output
    assert replayed.code == 0, replayed.output
    [again] = shopper.letters(1)
    assert (again["subject"], again["body"]) == (letter["subject"], letter["body"])


def test_a_malformed_event_is_listed_audited_and_redriven(
    suite: Suite, channel: Callable[[str], Any], run: Run
) -> None:
    audit = run("audit")
    assert "differences: none" in audit.output
    assert audit.code == 0, audit.output
    publish(channel("users"), "users.events", "user_created", b"no JSON")
    eventually(lambda: f"{USER_CREATED}: 1 dead-lettered" in run("dead").output)
    audit = run("audit")
    assert f"dead-lettered: {USER_CREATED}.dead: 1 events" in audit.output
    assert audit.code == 1, audit.output
    assert f"{USER_CREATED}: 1 redriven" in run("redrive").output


def message_count(channel: Any, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).message_count)


@pytest.fixture
def account(uris: dict[str, str], suite: Suite) -> Iterator[Callable[[str], Account]]:
    """Return a function that steals the account of a user: `account("users")`."""
    opened: list[Account] = []

    def steal(user: str) -> Account:
        opened.append(Account(user, uris[user]))
        return opened[-1]

    yield steal
    for each in opened:
        each.close()


@pytest.fixture
def listed(servers: Servers) -> Callable[..., list[dict[str, Any]]]:
    """Return a function that lists objects of the virtual host by rabbitmqctl.

    For example `listed("queues", "name", "messages")`.
    """

    def rows(kind: str, *columns: str) -> list[dict[str, Any]]:
        vhost = [] if kind == "connections" else ["--vhost", VHOST]
        options = (*vhost, "--formatter", "json", *columns)
        return json.loads(servers.rabbitmqctl(f"list_{kind}", *options))

    return rows


# The minimum for each account. All accounts make some 2,300 attempts.
MIN_ATTEMPTS = 150


def test_no_account_does_more_than_its_own_tasks(
    account: Callable[[str], Account],
    listed: Callable[..., list[dict[str, Any]]],
) -> None:
    queues = [each["name"] for each in listed("queues", "name")]
    queues += [f"{queue}.retry.0" for queue in queues if queue.startswith("evt-")]
    bindings = listed("bindings", "source_name", "routing_key")
    keys = [each["routing_key"] for each in bindings]
    # One key of each service: its first 8 digits are the same for all replicas.
    reply_keys = {key[:8]: key for key in keys if is_id(key)}
    callers = [name for name in SERVICES if bus.service(name).has_replies]
    assert len(reply_keys) == len(callers)
    counts, permitted = {}, []
    for user in USERS:
        thief = account(user)
        tried = list(attempts(thief, queues, reply_keys.values()))
        counts[user] = len(tried)
        permitted += [
            (user, attempt.name) for attempt in tried if not thief.is_refused(attempt)
        ]
    assert permitted == []
    assert min(counts.values()) >= MIN_ATTEMPTS, counts


TABLES = (
    "users.users",
    "billing.accounts",
    "billing.operations",
    "orders.orders",
    "notifications.letters",
    "notifications.recipients",
)
OUTSIDERS = ("users", "billing", "orders", "notifications", "migrations")
# The minimum of kinds. Either the broker refuses a detour, or the services do.
MIN_DETOURS = 8


def requests_of(shopper: Shopper) -> dict[str, dict[str, Any]]:
    """Return requests that would have an effect, as arguments by method."""
    user = {"user_id": shopper.id}
    deposit = {**user, "amount_minor": 700, "ref": str(uuid.uuid4())}
    order = {**user, "price_minor": 1, "key": str(uuid.uuid4())}
    return {
        "billing.deposit": deposit,
        "users.create": new_user(),
        "notifications.send": {**user, "subject": "Win", "body": "Pay here"},
        "orders.place": order,
    }


def totals(sql: Callable[..., Any]) -> dict[str, Any]:
    """Return the number of rows of all tables, and the sum of all balances."""
    found: dict[str, Any] = {}
    for service, _, table in (name.partition(".") for name in TABLES):
        found[table] = sql(service, f"SELECT count(*) FROM {table}")
    return {**found, "money": sql("billing", "SELECT sum(balance_minor) FROM accounts")}


def test_no_detour_moves_money_or_writes_a_letter(
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
    eventually(lambda: not busy_queues(listed))
    before = totals(sql)
    refused: set[str] = set()
    accepted: set[str] = set()
    for user in OUTSIDERS:
        thief = account(user)
        for method, kwargs in requests.items():
            body = json.dumps({"args": [], "kwargs": kwargs}).encode()
            for detour in detours(thief, method, body):
                kinds = refused if thief.is_refused(detour) else accepted
                kinds.add(detour.name)
    eventually(lambda: not busy_queues(listed))
    assert totals(sql) == before
    assert shopper.balance == "10.00"
    logged = {
        line.get("error") for each in suite.processes.values() for line in each.lines()
    }
    assert {"dead-lettered", "published to another exchange"} <= logged
    # RabbitMQ 4 refuses more detours than RabbitMQ 3.
    assert accepted
    assert len(refused | accepted) >= MIN_DETOURS
    with ClusterRpcProxy({"AMQP_URI": uris["operator"]}, timeout=DEADLINE_S) as rpc:
        for method, kwargs in requests.items():
            service, _, verb = method.partition(".")
            getattr(getattr(rpc, service), verb)(**kwargs)
    after = totals(sql)
    changed = ("money", "users", "orders", "letters")
    assert all(after[each] != before[each] for each in changed)


def busy_queues(listed: Callable[..., list[dict[str, Any]]]) -> list[str]:
    """Return the queues with messages, except for dead letters.

    Messages in flight count.
    """
    found = listed("queues", "name", "messages")
    return [
        each["name"]
        for each in found
        if each["messages"] and not each["name"].endswith(".dead")
    ]


INVALID_REPLY_KEYS = (
    "amq.rabbitmq.reply-to",
    "billing.deposit",
    "user_created",
    "",
    "x" * 255,
    str(uuid.uuid4()).upper(),
)


def test_an_invalid_reply_key_costs_the_callee_no_connection(
    suite: Suite,
    channel: Callable[[str], Any],
    listed: Callable[..., list[dict[str, Any]]],
) -> None:
    shopper = Shopper(suite.url)

    def connections() -> set[str]:
        found = listed("connections", "pid", "user")
        return {each["pid"] for each in found if each["user"] == "users"}

    before = connections()
    body = json.dumps({"args": [], "kwargs": {"user_ids": [shopper.id]}}).encode()
    caller = channel("notifications")
    caller.basic_consume(
        "amq.rabbitmq.reply-to",
        no_ack=True,
        callback=lambda message: pytest.fail("a reply"),
    )
    for reply_to in INVALID_REPLY_KEYS:
        properties = {"reply_to": reply_to, "correlation_id": "1"}
        publish(caller, "nameko-rpc", "users.get_many", body, **properties)
    eventually(lambda: not busy_queues(listed))
    assert shopper.get("/users/me").status_code == 200
    assert before
    assert connections() == before


def test_only_an_operator_can_call_by_nameko_shell(
    suite: Suite,
    environment: dict[str, str],
    uris: dict[str, str],
    secret: dict[str, str],
    tmp_path: Path,
) -> None:
    """The command of the chart's README runs in the environment of a gateway."""
    readme = (CHART / "README.md").read_text()
    (script,) = re.findall(r"sh -c '\n(.*nameko shell[^']*)'", readme, re.DOTALL)
    assert "password" not in script
    password = tmp_path / "operator"
    password.write_text(secret["operator-password"])
    script = script.replace("/tmp/operator", str(password))
    path = f"{Path(NAMEKO).parent}:{os.environ['PATH']}"
    shopper = Shopper(suite.url)
    call = f"n.rpc.users.get(user_id='{shopper.id}')"
    done = subprocess.run(
        ["sh", "-c", script],
        env={**environment, **QUIET, "AMQP_URI": uris["gateway"], "PATH": path},
        input=f"print('=>', {call}['username'])\n",
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


def user_created(user_id: str) -> bytes:
    event = {"user_id": user_id, "username": "nobody", "email": "a@b.org"}
    return json.dumps({**event, "locale": "en"}).encode()


def order_paid(order_id: str, user_id: str) -> bytes:
    event = {"order_id": order_id, "user_id": user_id, "price_minor": 700}
    at = datetime.now(UTC).isoformat()
    return json.dumps({**event, "occurred_at": at}).encode()


def withdraw_many(order_id: str, user_id: str) -> bytes:
    item = {"user_id": user_id, "amount_minor": 700, "order_id": order_id}
    items = [{**item, "request_id": "1"}]
    return json.dumps({"args": [], "kwargs": {"items": items}}).encode()


def test_the_audit_reports_forgeries_that_permissions_allow(
    suite: Suite, channel: Callable[[str], Any], sql: Callable[..., Any], run: Run
) -> None:
    shopper = Shopper(suite.url)
    unknown, paid, moved, withdrawn = (str(uuid_utils.uuid7()) for _ in range(4))
    orders, notifications = channel("orders"), channel("notifications")
    user = user_created(unknown)
    publish(channel("users"), "users.events", "user_created", user)
    publish(orders, "orders.events", "order_paid", order_paid(paid, shopper.id))
    queue = "evt-orders-order_paid--notifications.handle_order_paid"
    exchange = "evt-moves--notifications.direct"
    publish(notifications, exchange, queue, order_paid(moved, shopper.id))
    request = withdraw_many(withdrawn, shopper.id)
    properties = {"reply_to": str(uuid.uuid4()), "correlation_id": "1"}
    publish(orders, "nameko-rpc", "billing.withdraw_many", request, **properties)
    letters = [paid, moved]
    ref = f"order:{withdrawn}"
    try:
        query = "SELECT 1 FROM recipients WHERE user_id = %s"
        eventually(lambda: sql("notifications", query, [unknown]))
        query = "SELECT 1 FROM accounts WHERE user_id = %s"
        eventually(lambda: sql("billing", query, [unknown]))
        query = "SELECT 1 FROM letters WHERE order_id IN (%s, %s)"
        eventually(lambda: len(sql("notifications", query, letters)) == 2)
        query = "SELECT 1 FROM operations WHERE ref = %s"
        eventually(lambda: sql("billing", query, [ref]))
        output = run("audit", "audit", "--settled").output
        for check, key in (
            ("recipients", unknown),
            ("users", unknown),
            ("letters", moved),
            ("letters", paid),
            ("ledger", withdrawn),
        ):
            assert f"{check}: {key}: expected []" in output, output
    finally:
        statement = "DELETE FROM letters WHERE order_id IN (%s, %s)"
        sql("notifications", statement, letters)
        statement = "DELETE FROM recipients WHERE user_id = %s"
        sql("notifications", statement, [unknown])
        sql("billing", "DELETE FROM accounts WHERE user_id = %s", [unknown])
        sql("billing", "DELETE FROM operations WHERE ref = %s", [ref])
        statement = "UPDATE accounts SET last_seq = 0 WHERE user_id = %s"
        sql("billing", statement, [shopper.id])


@pytest.mark.parametrize("header", ["CC", "BCC"])
def test_headers_do_not_copy_a_failed_event(
    suite: Suite,
    channel: Callable[[str], Any],
    listed: Callable[..., list[dict[str, Any]]],
    header: str,
) -> None:
    """A copy in its own queue would fail again, and double at each failure."""
    watcher = channel("migrations")
    dead = f"{USER_CREATED}.dead"
    before = message_count(watcher, dead)
    copies = {header: [USER_CREATED, dead]}
    publisher = channel("users")
    try:
        publish(publisher, "users.events", "user_created", b"no JSON", headers=copies)
    except amqp.AccessRefused:
        # RabbitMQ 4 checks these keys, too.
        assert message_count(watcher, dead) == before
        return
    eventually(lambda: message_count(watcher, dead) > before)
    eventually(lambda: not busy_queues(listed))
    assert message_count(watcher, dead) == before + 1
    watcher.queue_purge(dead)
    watcher.queue_purge(dead.replace("--billing", "--notifications"))


def test_a_service_scales_by_its_rpc_queue_alone(
    channel: Callable[[str], Any], suite: Suite
) -> None:
    """An event queue grows while its handler pauses, and more replicas would pause too.

    The service's own user may inspect the queue.
    """
    scaled = of(objects("everything"), "ScaledObject")
    services = {component(each) for each in scaled}
    assert services == {"billing", "orders", "notifications"}
    for each in scaled:
        service = component(each)
        (trigger,) = each["spec"]["triggers"]
        assert trigger["metadata"]["queueName"] == f"rpc-{service}"
        found = channel(service).queue_declare(f"rpc-{service}", passive=True)
        assert found.consumer_count > 0


def test_no_user_can_use_all_connections_of_the_broker(
    servers: Servers, secret: dict[str, str], uris: dict[str, str]
) -> None:
    scaled = {"keda": {"enabled": True, "maxReplicas": 60}}
    many = {"services": {"billing": scaled}, **VALUES}
    for values, connections in ((VALUES, 500), (many, 1200)):
        limits = {"max-connections": connections, "max-channels": 4 * connections}
        users = definitions_of(values)["users"]
        assert all(user["limits"] == limits for user in users)
    listed = json.loads(
        servers.rabbitmqctl("list_user_limits", "--global", "--formatter", "json")
    )
    found = {
        each["user"]: json.loads(each["limits"])
        for each in listed
        if each["user"] in USERS
    }
    assert found == {
        user: {"max-connections": 500, "max-channels": 2000} for user in USERS
    }


def definitions_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return the definitions that the chart renders for the broker."""
    secret = data(render(values), "Secret", "shop-rabbitmq")
    assert secret is not None
    return json.loads(secret["definitions.json"])


def test_with_permit_previous_a_user_has_the_permissions_of_both_versions() -> None:
    file = CHART / "files" / "bus-previous.yaml"
    previous = yaml.safe_load(file.read_text())["users"]
    now = bus.bus()["users"]
    external = {**VALUES["externalRabbitmq"], "permitPrevious": True}
    definitions = definitions_of({**VALUES, "externalRabbitmq": external})
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
    assert all(not user["tags"] for user in users), "no user is an administrator"


DELIVERY_LIMIT = 1_000_000_000
QUORUM: dict[str, dict[str, Any]] = {
    "rabbitmq": {"enabled": False},
    "externalRabbitmq": {
        "host": "localhost",
        "vhost": "quorum",
        "makeDefinitions": True,
        "queueType": "quorum",
    },
}


def test_the_broker_applies_the_policy_to_quorum_queues(
    servers: Servers, environment: dict[str, str]
) -> None:
    """RabbitMQ 3.10 ignores the default queue type in definitions.

    Therefore the test declares the queues with their type.
    """
    definitions = definitions_of(QUORUM)
    assert definitions["vhosts"][0]["metadata"]["default_queue_type"] == "quorum"
    file = servers.state / "rabbitmq" / "quorum.json"
    file.write_text(
        json.dumps({key: definitions[key] for key in ("vhosts", "policies")})
    )
    servers.rabbitmqctl("import_definitions", str(file))
    vhost = ("--vhost", "quorum")
    servers.rabbitmqctl("set_permissions", *vhost, "shop", ".*", ".*", ".*")
    names = (USER_CREATED, f"{USER_CREATED}.dead", "rpc-users")
    with kombu.Connection(f"{environment['AMQP_URI']}quorum") as connection:
        for name in names:
            quorum = {"x-queue-type": "quorum"}
            connection.default_channel.queue_declare(
                name, durable=True, auto_delete=False, arguments=quorum
            )
    options = (*vhost, "--formatter", "json")
    queues = json.loads(servers.rabbitmqctl("list_queues", *options, "name", "policy"))
    policies = {each["name"]: each["policy"] for each in queues}
    assert policies == dict.fromkeys(names, "deliveries")
    listed = json.loads(servers.rabbitmqctl("list_policies", *options))
    found = {each["name"]: json.loads(each["definition"]) for each in listed}
    assert found == {"deliveries": {"delivery-limit": DELIVERY_LIMIT}}


def test_migrations_accept_the_policies_of_quorum_queues(
    servers: Servers, environment: dict[str, str], suite_config: dict[str, Any]
) -> None:
    vhost = "quorum-limits"
    servers.rabbitmqctl("add_vhost", vhost, "--default-queue-type", "quorum")
    external = {**QUORUM["externalRabbitmq"], "vhost": vhost}
    definitions = definitions_of({**QUORUM, "externalRabbitmq": external})
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
    """Run the start script of the chart's container, which adds settings to RabbitMQ.

    Return the folder of the added settings. It is missing if there are none.
    """
    (pod,) = (each for name, each in pods(render({})).items() if "rabbitmq" in name)
    *bash, script = pod["spec"]["containers"][0]["command"]
    root = Path(getattr(servers, "root", "/"))
    (home,) = root.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*")
    (folder / "bin").mkdir()
    entrypoint = folder / "bin" / "docker-entrypoint.sh"
    entrypoint.write_text(STUB)
    entrypoint.chmod(0o755)
    out = folder / "added"
    env = {
        "PATH": f"{entrypoint.parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "RABBITMQ_HOME": str(home.resolve()),
        "OUT": str(out),
    }
    subprocess.run([*bash, script], env=env, check=True)
    return out


@pytest.fixture(scope="module")
def empty_broker(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    """Start a broker on an empty volume as the chart does, with quorum queues."""
    settings = [each["data"] for each in of(render({}), "ConfigMap")]
    (conf,) = (each["rabbitmq.conf"] for each in settings if "rabbitmq.conf" in each)
    conf = conf.replace("/etc/definitions/definitions.json", "{definitions}")
    conf = f"{conf}\nlisteners.tcp.1 = 127.0.0.1:{{port}}\n"
    secret = data(render(QUORUM), "Secret", "shop-rabbitmq")
    assert secret is not None
    added = start_script(servers, tmp_path_factory.mktemp("container"))
    with (
        tempfile.TemporaryDirectory(prefix="shop-tests-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        started = type(servers)(Path(folder, "run"), free_ports(), database=False)
        started.__dict__ |= {"root": getattr(servers, "root", None)}
        patch.setattr(dev_servers, "RABBITMQ_CONF", conf)
        patch.setattr(started, "_definitions", lambda: secret["definitions.json"])
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
    """Check that the broker has all objects in the definitions."""
    vhost = definitions["vhosts"][0]["name"]

    def columns_of(rows: list[dict[str, str]], columns: Keys) -> list[Keys]:
        return sorted(tuple(each[column] for column in columns) for each in rows)

    def found(kind: str, *columns: str) -> list[Keys]:
        options = ("--vhost", vhost, "--formatter", "json")
        listed = json.loads(servers.rabbitmqctl(f"list_{kind}", *options))
        return columns_of(listed, columns)

    def expected(kind: str, *columns: str) -> list[Keys]:
        return columns_of(definitions[kind], columns)

    exchanges = expected("exchanges", "name", "type")
    all_exchanges = found("exchanges", "name", "type")
    assert [each for each in all_exchanges if each in exchanges] == exchanges
    rights = ("user", "configure", "write", "read")
    all_permissions = found("permissions", *rights)
    permissions = [each for each in all_permissions if each[0] in USERS]
    assert expected("permissions", *rights) == permissions
    topics = ("user", "exchange", "write", "read")
    assert expected("topic_permissions", *topics) == found("topic_permissions", *topics)
    assert expected("policies", "name") == found("policies", "name")


def test_an_empty_broker_loads_all_definitions(empty_broker: Servers) -> None:
    """RabbitMQ 4.3.2 and later stops at permissions for a missing exchange."""
    started = empty_broker
    definitions = json.loads((started.state / "rabbitmq" / "users.json").read_text())
    assert definitions["policies"]
    assert_loaded(started, definitions)


def test_a_running_broker_imports_all_definitions(
    servers: Servers, secret: dict[str, str], uris: dict[str, str]
) -> None:
    """An import that stops half-way leaves users without topic permissions."""
    assert_loaded(servers, json.loads(secret["definitions.json"]))


def test_the_brokers_log_is_json_without_a_line_for_each_connection(
    empty_broker: Servers,
) -> None:
    """Each readiness check opens a connection (chassis/container.py)."""
    started = empty_broker
    log = started.supervisor.log("rabbitmq")
    definitions = json.loads((started.state / "rabbitmq" / "users.json").read_text())
    passwords = {each["name"]: each["password"] for each in definitions["users"]}
    server = f"127.0.0.1:{started.ports['rabbitmq']}"
    uri = f"amqp://gateway:{passwords['gateway']}@{server}/quorum"
    config = {"AMQP_URI": uri, "HEARTBEAT": 10}
    before = log.read_text()
    for _ in range(50):
        connect(config).transport.establish_connection().close()
    with pytest.raises(amqp.AccessRefused), open_channel(config) as channel:
        channel.queue_delete("the last one")

    def logged() -> str | None:
        text = log.read_text()
        return text if "the last one" in text and text.endswith("\n") else None

    # The broker prints a banner, which is not JSON, around the lines.
    lines = [line for line in eventually(logged).splitlines() if line.startswith("{")]
    messages = [json.loads(line)["msg"] for line in lines]
    assert any("Server startup complete" in message for message in messages)
    new = messages[before.count("\n{") :]
    first_of_gateway = next(message for message in new if "'gateway'" in message)
    assert "the last one" in first_of_gateway


def test_the_charts_own_broker_reads_the_same_definitions() -> None:
    secrets = [each["data"] for each in of(objects("default"), "Secret")]
    (encoded,) = [
        each["definitions.json"] for each in secrets if "definitions.json" in each
    ]
    definitions = json.loads(base64.b64decode(encoded))
    assert [vhost["name"] for vhost in definitions["vhosts"]] == ["/"]
    users = {permission["user"] for permission in definitions["permissions"]}
    assert users == set(USERS)

"""The users that the chart makes on the broker may do what they must, on a real RabbitMQ, and no more."""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import amqp
import kombu
import pytest
from nameko.rpc import get_rpc_exchange
from nameko.standalone.events import get_event_exchange

from chassis.migrate import event_queues
from chassis.queue_limits import check_queue_limits
from chassis.retry_queues import retry_queues
from conftest import eventually
from dev.servers import Servers
from tests.chart.commands import Run
from tests.chart.environment import SERVICES, WITH_TABLES, data
from tests.chart.helm import component, objects, of, render
from tests.system.processes import Process, Suite
from tests.system.shopper import Shopper

VHOST = "chart"
VALUES = {
    "rabbitmq": {"enabled": False},
    "externalRabbitmq": {"host": "localhost", "vhost": VHOST, "makeDefinitions": True},
}
USERS = (*SERVICES, "migrations")
REFUSED = "ACCESS_REFUSED"
USER_CREATED = "evt-users-user_created--billing.handle_user_created"


class OwnUsers(Suite):
    """The five services, each as its own user of the broker."""

    def __init__(self, uris: dict[str, str], *rest: Any) -> None:
        self.uris = uris
        super().__init__(*rest)

    def _process(self, name: str) -> Process:
        self.environment = {**self.environment, "AMQP_URI": self.uris[name]}
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
    return {user: f"amqp://{user}:{secret[f'{user}-password']}@127.0.0.1:{port}/{VHOST}" for user in USERS}


@pytest.fixture(scope="module")
def run(environment: dict[str, str], suite_config: dict[str, Any], uris: dict[str, str]) -> Run:
    """`run("dead")`: one of the chart's commands, as the user that the chart has it be."""
    return Run(render(VALUES), environment, uris)


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


def test_topic_permissions_are_for_exchanges_of_the_definitions_as_nameko_declares_them(
    secret, suite_config
) -> None:
    """RabbitMQ 4.3.2 and later refuses the definitions otherwise, and does not start."""
    definitions = json.loads(secret["definitions.json"])
    names = {permission["exchange"] for permission in definitions["topic_permissions"]}
    declared = {
        exchange.name: (exchange.type, exchange.durable, exchange.auto_delete)
        for exchange in (
            get_rpc_exchange(suite_config),
            *(get_event_exchange(service, suite_config) for service in ("users", "orders")),
        )
    }
    listed = {
        exchange["name"]: (exchange["type"], exchange["durable"], exchange["auto_delete"])
        for exchange in definitions["exchanges"]
    }
    assert listed == declared
    assert names == listed.keys()


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
    letters = eventually(lambda: len(found := shopper.get("/notifications").json()["items"]) == 2 and found)
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
    assert (reported.code, "1 without letter, 1 to replay" in reported.says) == (1, True), reported.says
    replayed = run("replay", "replay", "--settled")
    assert (replayed.code, "1 without letter, 1 replayed" in replayed.says) == (0, True), replayed.says
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
    assert (audit.code, f"parked: {USER_CREATED}.dead: 1 events" in audit.says) == (1, True), audit.says
    assert f"{USER_CREATED}: 1 redriven" in run("redrive").says


@pytest.mark.parametrize("service", ["billing", "notifications"])
def test_services_may_drain_old_retry_queues_and_migrations_delete_them(
    suite: Suite, channel: Callable[[str], Any], run: Run, service: str
) -> None:
    queue = f"evt-users-user_created--{service}.handle_user_created"
    own = channel(service)
    dead_letters = ready(own, f"{queue}.dead")
    for name in retry_queues(queue):
        own.queue_declare(name, durable=True, auto_delete=False)
        publish(own, "", name, user_created(Shopper(suite.url)))
    suite.stop(service)
    suite.start(service)
    eventually(lambda: not any(ready(own, name) for name in (queue, *retry_queues(queue))))
    lines = [line for line in suite.processes[service].lines() if line["event"] == "retry queues drained"]
    assert sum(line["events"] for line in lines if line["queue"] == queue) == len(retry_queues(queue))
    assert ready(own, f"{queue}.dead") == dead_letters
    deleted = run("dead", "chassis.old_retries", "delete")
    assert (deleted.code, f"{queue}: 3 retry queues deleted" in deleted.says) == (0, True), deleted.says
    for name in retry_queues(queue):
        with pytest.raises(amqp.NotFound):
            ready(own, name)


def user_created(shopper: Shopper) -> bytes:
    """The event of that user, once more."""
    facts = {name: shopper.user[name] for name in ("username", "email", "locale")}
    return json.dumps({"user_id": shopper.id, **facts}).encode()


def ready(channel: Any, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).message_count)


CALLS = {
    ("gateway", "users"),
    ("gateway", "billing"),
    ("gateway", "orders"),
    ("gateway", "notifications"),
    ("orders", "billing"),
    ("billing", "users"),
    ("notifications", "users"),
}


@pytest.mark.parametrize("caller", USERS)
def test_nobody_calls_whom_it_has_no_business_with(channel: Callable[[str], Any], caller: str) -> None:
    for callee in SERVICES:
        if (caller, callee) not in CALLS:
            with pytest.raises(amqp.AccessRefused, match=REFUSED):
                publish(channel(caller), "nameko-rpc", f"{callee}.audit")


def publish(channel: Any, exchange: str, key: str, body: bytes = b"{}") -> None:
    """With a confirm: the broker says no only to whom it answers."""
    channel.confirm_select()
    channel.basic_publish(amqp.Message(body, content_type="application/json"), exchange, key)
    channel.wait([amqp.spec.Basic.Ack, amqp.spec.Basic.Nack, amqp.spec.Channel.Close])


@pytest.mark.parametrize("user", USERS)
def test_only_consumers_of_events_and_migrations_publish_to_queues_by_their_names(
    channel: Callable[[str], Any], user: str
) -> None:
    """To any queue then: RabbitMQ checks whether a user may write to the default exchange, and no more."""
    if user in ("billing", "notifications", "migrations"):
        publish(channel(user), "", "no-such-queue")
    else:
        with pytest.raises(amqp.AccessRefused, match=REFUSED):
            publish(channel(user), "", "no-such-queue")


@pytest.mark.parametrize("user", USERS)
def test_nobody_tells_what_is_anothers_to_tell(channel: Callable[[str], Any], user: str) -> None:
    for source, event in (("users", "user_created"), ("orders", "order_paid")):
        if user != source:
            with pytest.raises(amqp.AccessRefused, match=REFUSED):
                publish(channel(user), f"{source}.events", event)


@pytest.mark.parametrize("user", SERVICES)
def test_nobody_takes_what_others_are_asked_or_hear(channel: Callable[[str], Any], user: str) -> None:
    queues = {service: [f"rpc-{service}"] for service in SERVICES if service != "gateway"}
    queues["billing"].append(USER_CREATED)
    for owner, names in queues.items():
        for name in names:
            if owner != user:
                with pytest.raises(amqp.AccessRefused, match=REFUSED):
                    channel(user).basic_get(name)


@pytest.mark.parametrize("user", SERVICES)
def test_nobody_has_what_others_are_asked_sent_to_itself(channel: Callable[[str], Any], user: str) -> None:
    for service in set(SERVICES) - {user}:
        with pytest.raises(amqp.AccessRefused, match=REFUSED):
            channel(user).queue_bind(f"rpc-{user}", "nameko-rpc", f"{service}.*")


def test_a_service_scales_by_its_rpc_queue_alone_which_it_may_look_at(
    channel: Callable[[str], Any], suite: Suite
) -> None:
    """An event queue grows while its handler pauses, and more copies would pause as well."""
    scaled = of(objects("everything"), "ScaledObject")
    assert {component(each) for each in scaled} == {"billing", "orders", "notifications"}
    for each in scaled:
        service = component(each)
        (trigger,) = each["spec"]["triggers"]
        assert trigger["metadata"]["queueName"] == f"rpc-{service}"
        found = channel(service).queue_declare(f"rpc-{service}", passive=True)
        assert found.consumer_count > 0


def test_the_definitions_have_the_passwords_that_the_services_get(secret: dict[str, str]) -> None:
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
    definitions = json.loads((data(render(QUORUM), "Secret", "shop-rabbitmq") or {})["definitions.json"])
    assert definitions["vhosts"][0]["metadata"]["default_queue_type"] == "quorum"
    file = servers.state / "rabbitmq" / "quorum.json"
    file.write_text(json.dumps({key: definitions[key] for key in ("vhosts", "policies")}))
    servers.rabbitmqctl("import_definitions", str(file))
    servers.rabbitmqctl("set_permissions", "--vhost", "quorum", "shop", ".*", ".*", ".*")
    names = (USER_CREATED, f"{USER_CREATED}.dead", "rpc-users")
    with kombu.Connection(f"{environment['AMQP_URI']}quorum") as connection:
        for name in names:
            quorum = {"x-queue-type": "quorum"}
            connection.default_channel.queue_declare(name, durable=True, auto_delete=False, arguments=quorum)
    told = servers.rabbitmqctl("list_queues", "--vhost", "quorum", "--formatter", "json", "name", "policy")
    assert {each["name"]: each["policy"] for each in json.loads(told)} == dict.fromkeys(names, "deliveries")
    told = servers.rabbitmqctl("list_policies", "--vhost", "quorum", "--formatter", "json")
    taken = {each["name"]: json.loads(each["definition"]) for each in json.loads(told)}
    assert taken == {"deliveries": {"delivery-limit": MANY}}


def test_with_the_policies_for_quorum_queues_the_migration_accepts_the_broker(
    servers: Servers, environment: dict[str, str], suite_config: dict[str, Any]
) -> None:
    vhost = "quorum-limits"
    servers.rabbitmqctl("add_vhost", vhost, "--default-queue-type", "quorum")
    values = {**QUORUM, "externalRabbitmq": {**QUORUM["externalRabbitmq"], "vhost": vhost}}
    definitions = json.loads((data(render(values), "Secret", "shop-rabbitmq") or {})["definitions.json"])
    file = servers.state / "rabbitmq" / "quorum-limits.json"
    file.write_text(json.dumps({"policies": definitions["policies"]}))
    servers.rabbitmqctl("import_definitions", str(file))
    servers.rabbitmqctl("set_permissions", "--vhost", vhost, "shop", ".*", ".*", ".*")
    config = {**suite_config, "AMQP_URI": f"{environment['AMQP_URI']}{vhost}"}
    check_queue_limits(config, event_queues(config, WITH_TABLES))


def test_the_charts_own_broker_reads_the_same_definitions() -> None:
    (own,) = [each for each in of(objects("default"), "Secret") if "definitions.json" in each["data"]]
    definitions = json.loads(base64.b64decode(own["data"]["definitions.json"]))
    assert [vhost["name"] for vhost in definitions["vhosts"]] == ["/"]
    assert {permission["user"] for permission in definitions["permissions"]} == set(USERS)

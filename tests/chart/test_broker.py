"""The users that the chart makes on the broker may do what they must, on a real RabbitMQ, and no more."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import amqp
import kombu
import pytest

from conftest import eventually
from dev.servers import Servers
from tests.chart.environment import SERVICES, data
from tests.chart.helm import objects, of, render
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
def command(
    environment: dict[str, str], suite_config: dict[str, Any], uris: dict[str, str]
) -> Callable[..., str]:
    """`command("chassis.dead", "list")`: what it prints, as the migrations' user."""
    own = environment | {"AMQP_URI": uris["migrations"]}

    def run(*arguments: str) -> str:
        module = [sys.executable, "-W", "ignore", "-m", *arguments]
        done = subprocess.run(module, env=own, text=True, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def suite(
    servers: Servers,
    environment: dict[str, str],
    uris: dict[str, str],
    command: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Suite]:
    command("chassis.migrate")
    suite = OwnUsers(uris, environment, servers.ports, tmp_path_factory.mktemp("chart"))
    try:
        suite.start()
        yield suite
    finally:
        suite.stop()


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


def test_an_event_that_can_not_be_right_is_parked_shown_and_moved_back(
    suite: Suite, channel: Callable[[str], Any], command: Callable[..., str]
) -> None:
    channel("users").basic_publish(amqp.Message(b"no JSON"), "users.events", "user_created")
    eventually(lambda: "1 parked" in command("chassis.dead", "list", USER_CREATED))
    assert "1 redriven" in command("chassis.dead", "redrive", USER_CREATED)


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


def publish(channel: Any, exchange: str, key: str) -> None:
    """With a confirm: the broker says no only to whom it answers."""
    channel.confirm_select()
    channel.basic_publish(amqp.Message(b"{}"), exchange, key)
    channel.wait([amqp.spec.Basic.Ack, amqp.spec.Basic.Nack, amqp.spec.Channel.Close])


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


def test_the_definitions_have_the_passwords_that_the_services_get(secret: dict[str, str]) -> None:
    users = json.loads(secret["definitions.json"])["users"]
    assert {user["name"]: user["password"] for user in users} == {
        user: secret[f"{user}-password"] for user in USERS
    }
    assert len({user["password"] for user in users}) == len(USERS)
    assert all(not user["tags"] for user in users), "nobody is an administrator"


def test_the_charts_own_broker_reads_the_same_definitions() -> None:
    (own,) = [each for each in of(objects("default"), "Secret") if "definitions.json" in each["data"]]
    definitions = json.loads(base64.b64decode(own["data"]["definitions.json"]))
    assert [vhost["name"] for vhost in definitions["vhosts"]] == ["/"]
    assert {permission["user"] for permission in definitions["permissions"]} == set(USERS)

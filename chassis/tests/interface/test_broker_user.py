"""The check of a broker user's permissions, on a real RabbitMQ."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import eventlet
import pytest
import yaml
from nameko.exceptions import ConfigurationError

from chassis import container as chassis_container, health, migrate
from chassis.broker_checks import check_broker_user
from chassis.container import Container
from chassis.tests.conftest import Keeper, running
from conftest import eventually
from dev.broker import ALL_RIGHTS, BUS, MIGRATIONS, PREVIOUS, definitions, users
from dev.cli import SERVICES
from dev.servers import Servers

RIGHTS = ("configure", "read", "write")
WIDE = ", ".join(
    (*RIGHTS, "routing keys of nameko-rpc", "routing keys of users.events")
)
UNCONFIRMED = "broker_permissions_unconfirmed"
IMPORT = r"import definitions\.json \(docs/operations\.md#permissions-on-the-broker\)"


@pytest.fixture(scope="module")
def of_user(
    suite_config: dict[str, Any], servers: Servers
) -> Callable[[str], dict[str, Any]]:
    """Return a function: `of_user("billing")` is the configuration of that user."""

    def config(user: str) -> dict[str, Any]:
        uri = servers.env(user)["AMQP_URI"]
        return {**suite_config, "AMQP_URI": uri, "AMQP_USER_RESTRICTED": True}

    return config


@pytest.fixture(scope="module")
def wide(servers: Servers, suite_config: dict[str, Any]) -> dict[str, str]:
    """URIs of users with one excessive right each, by that right."""
    found = definitions(dict.fromkeys(users(BUS), "secret"), BUS)
    (own,) = (each for each in found["permissions"] if each["user"] == "users")
    topics = [each for each in found["topic_permissions"] if each["user"] == "users"]
    made: dict[str, list[dict[str, Any]]] = {
        "users": [],
        "permissions": [],
        "topic_permissions": [],
    }
    exchanges = [each["exchange"] for each in topics]
    for right in (*RIGHTS, *exchanges):
        user = f"wide-{right}"
        made["users"].append({"name": user, "password": "secret", "tags": []})
        own_right = {right: ".*"} if right in RIGHTS else {}
        made["permissions"].append({**own, **own_right, "user": user})
        made["topic_permissions"] += [
            {**e, "user": user} for e in topics if e["exchange"] != right
        ]
    file = servers.state / "rabbitmq" / "wide.json"
    file.write_text(json.dumps(made))
    servers.rabbitmqctl("import_definitions", str(file))
    place = suite_config["AMQP_URI"].partition("@")[2]
    return {
        right: f"amqp://wide-{right}:secret@{place}" for right in (*RIGHTS, *exchanges)
    }


def unconfirmed(caplog: pytest.LogCaptureFixture) -> list[Any]:
    """Return the log records about unconfirmed permissions."""
    return [record for record in caplog.records if record.msg == UNCONFIRMED]


@pytest.mark.parametrize("user", [*SERVICES, MIGRATIONS])
def test_each_user_with_its_own_permissions_passes(
    of_user: Callable[..., Any], user: str
) -> None:
    check_broker_user(of_user(user), user)


def test_a_user_with_all_rights_is_refused_in_one_line(
    suite_config: dict[str, Any],
) -> None:
    with pytest.raises(ConfigurationError, match=rf"too much \({WIDE}\): {IMPORT}\Z"):
        check_broker_user(suite_config, "users")


@pytest.mark.parametrize("right", [*RIGHTS, "nameko-rpc", "users.events"])
def test_each_excessive_right_is_named(
    suite_config: dict[str, Any], wide: dict[str, str], right: str
) -> None:
    named = right if right in RIGHTS else f"routing keys of {right}"
    with pytest.raises(ConfigurationError, match=rf"too much \({re.escape(named)}\)"):
        check_broker_user({**suite_config, "AMQP_URI": wide[right]}, "users")


def test_a_service_waits_until_its_user_is_restricted(
    of_user: Callable[..., Any],
    servers: Servers,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(chassis_container, "PERMISSION_RETRY_S", 0.05)
    container = Container(Keeper, {**of_user("users"), "HEALTH_ADDRESS": "127.0.0.1:0"})
    servers.rabbitmqctl("clear_topic_permissions", "users")
    try:
        starting = eventlet.spawn(container.start)
        eventually(lambda: len(unconfirmed(caplog)) > 2)
        record = unconfirmed(caplog)[0]
        assert (
            "(routing keys of nameko-rpc, routing keys of users.events)" in record.error
        )
        assert health.respond("/startedz").status_code == 503
        assert health.respond("/readyz").status_code == 503
        assert not starting.dead
    finally:
        servers.load_permissions(again=True)
    starting.wait()
    try:
        eventually(lambda: health.respond("/readyz").status_code == 200)
    finally:
        container.stop()


def test_without_the_setting_a_service_warns_once_and_starts(
    suite_config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with running(Container(Keeper, {**suite_config, "HEALTH_ADDRESS": "127.0.0.1:0"})):
        assert health.respond("/startedz").status_code == 200
    (warning,) = unconfirmed(caplog)
    assert warning.levelname == "WARNING"
    assert WIDE in warning.error


@pytest.fixture
def blocked(servers: Servers) -> Iterator[None]:
    """Put the broker into a memory alarm: it reads from no publisher."""
    servers.rabbitmqctl("set_vm_memory_high_watermark", "0.000001")
    yield
    servers.rabbitmqctl("set_vm_memory_high_watermark", "0.4")


def test_a_blocked_broker_still_starts_consumers(
    of_user: Callable[..., Any], suite_config: dict[str, Any], blocked: None
) -> None:
    with running(
        Container(Keeper, {**of_user("users"), "HEALTH_ADDRESS": "127.0.0.1:0"})
    ):
        assert health.respond("/startedz").status_code == 200
    with pytest.raises(ConfigurationError, match=r"too much \(configure, read\)"):
        check_broker_user(suite_config, "users")


def test_a_refused_login_is_not_a_restriction(of_user: Callable[..., Any]) -> None:
    config = of_user("users")
    uri = config["AMQP_URI"].replace("users:", "users:wrong")
    with pytest.raises(Exception, match=r"Login was refused") as refused:
        check_broker_user({**config, "AMQP_URI": uri}, "users")
    assert not isinstance(refused.value, ConfigurationError)


def test_migrations_end_with_one_line(
    suite_config: dict[str, Any], tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({**suite_config, "AMQP_USER_RESTRICTED": "true"}))
    with pytest.raises(SystemExit, match=rf"too much \(.*\): {IMPORT}\Z") as ended:
        migrate.main(["--config", str(file), "users"])
    assert "\n" not in str(ended.value)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    "files", [(BUS,), (BUS, PREVIOUS)], ids=["alone", "beside the previous version"]
)
def test_no_permission_matches_the_names_of_the_check(
    files: tuple[Any, ...],
) -> None:
    """Otherwise the check would always fail, or find nothing."""
    found = definitions(dict.fromkeys(users(*files), ""), *files)
    name = "permission-check.0123456789abcdef"
    patterns = [each[right] for each in found["permissions"] for right in RIGHTS]
    patterns += [each["write"] for each in found["topic_permissions"]]
    assert not [pattern for pattern in patterns if re.search(pattern, name)]
    assert ALL_RIGHTS not in users(*files)

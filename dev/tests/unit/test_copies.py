"""Several copies of each service: names, ports, commands and secrets."""

from pathlib import Path

import pytest

from dev.broker import ALL_RIGHTS
from dev.cli import (
    PRIVATE,
    SERVICES,
    USERS,
    Suite,
    further_copies,
    service_of,
    wanted_suite,
)
from dev.ports import free_ports

EXTERNAL = {name: f"value of {name}" for name in PRIVATE if name.endswith("_URI")}


def test_copies_are_numbered_from_the_second_one() -> None:
    assert further_copies(1) == []
    second = [f"{name}2" for name in SERVICES]
    assert further_copies(3)[: len(SERVICES) + 1] == [*second, f"{SERVICES[0]}3"]
    assert {service_of(name) for name in further_copies(4)} == set(SERVICES)


def test_only_gateways_share_a_port(
    tmp_path: Path,
) -> None:
    suite = Suite(tmp_path, free_ports(further_copies(4)), copies=4)
    assert len(suite.services) == 4 * len(SERVICES)
    gateways = {
        suite.ports[name] for name in suite.services if service_of(name) == "gateway"
    }
    others = {
        suite.ports[name] for name in suite.services if service_of(name) != "gateway"
    }
    assert gateways == {suite.ports["gateway"]}
    assert len(others) == 4 * (len(SERVICES) - 1)


def test_a_copy_runs_the_service_it_is_a_copy_of(tmp_path: Path) -> None:
    suite = Suite(tmp_path, free_ports(further_copies(3)), copies=3)
    assert suite.command("orders3") == suite.command("orders")


@pytest.mark.parametrize(
    "external", [{}, EXTERNAL], ids=["own servers", "external servers"]
)
@pytest.mark.parametrize(
    "copy", ["users", "billing2", "orders", "notifications2", "gateway2"]
)
def test_a_copy_gets_the_secrets_of_its_service_only(tmp_path, copy, external) -> None:
    suite = Suite(tmp_path / "run", free_ports(further_copies(2)), external, copies=2)
    own = "TOKEN_SECRET" if copy == "gateway2" else f"{service_of(copy).upper()}_DB_URI"
    variables = suite._service(copy).env
    assert variables.keys() & PRIVATE == {"AMQP_URI", own}
    given = external.keys() & variables.keys()
    assert all(variables[name] == external[name] for name in given)


def test_only_one_user_of_the_own_broker_is_unrestricted(
    tmp_path,
) -> None:
    suite = Suite(tmp_path / "run", free_ports())
    restricted = {user: suite.env(user)["AMQP_USER_RESTRICTED"] for user in USERS}
    assert restricted == {**dict.fromkeys(USERS, "true"), ALL_RIGHTS: "false"}
    external = Suite(tmp_path / "other", free_ports(), EXTERNAL)
    assert "AMQP_USER_RESTRICTED" not in external.env("users"), (
        "the operator of that server decides"
    )


def test_each_user_has_a_password_of_its_own(tmp_path) -> None:
    suite = Suite(tmp_path / "run", free_ports())
    uris = {user: suite.env(user)["AMQP_URI"] for user in USERS}
    assert len({uri.split(":")[2].partition("@")[0] for uri in uris.values()}) == len(
        USERS
    )
    assert all(uri.startswith(f"amqp://{user}:") for user, uri in uris.items())
    assert Suite(tmp_path / "run", suite.ports).env() == suite.env(), (
        "the same passwords"
    )


def test_a_command_without_a_user_gets_no_secret(tmp_path, monkeypatch) -> None:
    suite = Suite(tmp_path / "run", free_ports())
    monkeypatch.setenv("BILLING_DB_OWNER_URI", "postgresql://of-another-user")
    assert not suite.environ().keys() & PRIVATE
    assert "BILLING_DB_OWNER_URI" not in suite.environ("operator")


def test_commands_bypass_proxies(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet.example.org")
    monkeypatch.delenv("no_proxy", raising=False)
    environment = Suite(tmp_path / "run", free_ports()).environ()
    for name in ("NO_PROXY", "no_proxy"):
        assert environment[name] == "intranet.example.org,127.0.0.1,::1,localhost"


def test_variables_of_the_suite_are_not_external_servers(tmp_path, monkeypatch) -> None:
    """`make up` works in a terminal that has read .run/env/shop."""
    suite = Suite(tmp_path / "run", free_ports())
    for name, value in suite.private_env("shop").items():
        monkeypatch.setenv(name, value)
    assert wanted_suite(tmp_path / "run").external == {}
    monkeypatch.setenv("AMQP_URI", "amqp://another:secret@127.0.0.1/")
    assert wanted_suite(tmp_path / "run").external == {
        "AMQP_URI": "amqp://another:secret@127.0.0.1/"
    }

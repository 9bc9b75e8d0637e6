"""Several copies of each service: their names, their ports, what they run and what they are told."""

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

EXTERNAL = {name: f"{name}'s" for name in PRIVATE if name.endswith("_URI")}


def test_copies_are_numbered_from_the_second_one() -> None:
    assert further_copies(1) == []
    second = [f"{name}2" for name in SERVICES]
    assert further_copies(3)[: len(SERVICES) + 1] == [*second, f"{SERVICES[0]}3"]
    assert {service_of(name) for name in further_copies(4)} == set(SERVICES)


def test_gateways_share_a_port_and_all_other_copies_have_their_own(
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
    "external", [{}, EXTERNAL], ids=["own servers", "servers of others"]
)
@pytest.mark.parametrize(
    "copy", ["users", "billing2", "orders", "notifications2", "gateway2"]
)
def test_a_copy_is_told_of_its_own_database_and_no_other_secret(
    tmp_path, copy, external
) -> None:
    suite = Suite(tmp_path / "run", free_ports(further_copies(2)), external, copies=2)
    own = "TOKEN_SECRET" if copy == "gateway2" else f"{service_of(copy).upper()}_DB_URI"
    told = suite._service(copy).env
    assert told.keys() & PRIVATE == {"AMQP_URI", own}
    assert all(told[name] == external[name] for name in external.keys() & told.keys())


def test_all_insist_on_restricted_users_of_the_own_broker_but_the_one_with_all_rights(
    tmp_path,
) -> None:
    suite = Suite(tmp_path / "run", free_ports())
    told = {user: suite.env(user)["AMQP_USER_RESTRICTED"] for user in USERS}
    assert told == {**dict.fromkeys(USERS, "true"), ALL_RIGHTS: "false"}
    elsewhere = Suite(tmp_path / "other", free_ports(), EXTERNAL)
    assert "AMQP_USER_RESTRICTED" not in elsewhere.env("users"), (
        "the operator of that server decides"
    )


def test_each_user_has_a_password_of_its_own(tmp_path) -> None:
    suite = Suite(tmp_path / "run", free_ports())
    uris = {user: suite.env(user)["AMQP_URI"] for user in USERS}
    assert len({uri.split(":")[2].partition("@")[0] for uri in uris.values()}) == len(
        USERS
    )
    assert all(uri.startswith(f"amqp://{user}:") for user, uri in uris.items())
    assert Suite(tmp_path / "run", suite.ports).env() == suite.env(), "they stay"


def test_a_command_without_a_user_gets_no_secret(tmp_path, monkeypatch) -> None:
    suite = Suite(tmp_path / "run", free_ports())
    monkeypatch.setenv("BILLING_DB_OWNER_URI", "postgresql://of-somebody")
    assert not suite.environ().keys() & PRIVATE
    assert "BILLING_DB_OWNER_URI" not in suite.environ("operator")


def test_no_command_asks_a_proxy_for_the_suite(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet.example.org")
    monkeypatch.delenv("no_proxy", raising=False)
    environment = Suite(tmp_path / "run", free_ports()).environ()
    for name in ("NO_PROXY", "no_proxy"):
        assert environment[name] == "intranet.example.org,127.0.0.1,::1,localhost"


def test_variables_of_an_own_user_do_not_name_servers_of_others(
    tmp_path, monkeypatch
) -> None:
    """A terminal that has read .run/env/shop can still say `make up`."""
    suite = Suite(tmp_path / "run", free_ports())
    for name, value in suite.private_env("shop").items():
        monkeypatch.setenv(name, value)
    assert wanted_suite(tmp_path / "run").external == {}
    monkeypatch.setenv("AMQP_URI", "amqp://another:secret@127.0.0.1/")
    assert wanted_suite(tmp_path / "run").external == {
        "AMQP_URI": "amqp://another:secret@127.0.0.1/"
    }

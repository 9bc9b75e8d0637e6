"""Ports, servers of others and the state folder: what is taken, refused and told."""

import os
import socket
from pathlib import Path

import pytest

from dev import state
from dev.cli import Suite, _variables, external_servers, wanted_suite, with_secrets
from dev.failure import Failure
from dev.ports import DEFAULTS, check_free, free_ports, ports_from
from dev.servers import DATABASES

DB_URIS = {
    f"{name.upper()}_DB_URI": f"postgresql://r:p@host/{name.upper()}"
    for name in DATABASES
}


def test_ports_are_the_default_ones_unless_the_environment_says_otherwise() -> None:
    assert ports_from({"GATEWAY_PORT": "9000", "DB_PORT": ""}) == DEFAULTS | {
        "gateway": 9000
    }


def test_one_variable_moves_all_ports_for_a_second_checkout() -> None:
    moved = ports_from({"PORT_OFFSET": "100", "GATEWAY_PORT": "9000"})
    others = {name: port + 100 for name, port in DEFAULTS.items()}
    assert moved == others | {"gateway": 9000}
    assert not set(others.values()) & set(DEFAULTS.values())


@pytest.mark.parametrize("text", ["abc", "-1", "57536"])
def test_what_is_no_offset_is_refused(text: str) -> None:
    with pytest.raises(Failure, match="PORT_OFFSET must be a number, 0 to 57535"):
        ports_from({"PORT_OFFSET": text})


@pytest.mark.parametrize("text", ["abc", "0", "65536", "-1", "80 80", "²"])
def test_what_is_no_port_is_refused_by_the_variables_name(text: str) -> None:
    with pytest.raises(Failure, match="GATEWAY_PORT must be a port"):
        ports_from({"GATEWAY_PORT": text})


def test_a_port_given_twice_is_refused() -> None:
    with pytest.raises(Failure, match="GATEWAY_PORT or USERS_HEALTH_PORT"):
        ports_from({"GATEWAY_PORT": "7001"})


def test_a_taken_port_is_told_with_its_holder_and_its_variable() -> None:
    ports = free_ports()
    told = rf"taken \(by pid {os.getpid()}, .*set GATEWAY_PORT, or PORT_OFFSET"
    with (
        socket.create_server(("127.0.0.1", ports["gateway"])),
        pytest.raises(Failure, match=told),
    ):
        check_free(ports, ["users", "gateway"])


def test_a_port_that_only_a_connection_holds_is_told_as_that() -> None:
    ports = free_ports()
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", ports["gateway"]))
        with pytest.raises(Failure, match="by a connection that goes out from it"):
            check_free(ports, ["gateway"])


def test_two_suites_never_get_the_same_ports() -> None:
    assert not set(free_ports().values()) & set(free_ports().values())


def test_servers_of_others_need_all_databases() -> None:
    first, *others = (f"{name.upper()}_DB_URI" for name in DATABASES)
    with pytest.raises(Failure, match=f"set {', '.join(others)} too"):
        external_servers({first: "postgresql://..."})


def test_two_services_never_share_a_database() -> None:
    with pytest.raises(Failure, match="each service needs its own"):
        external_servers(
            {**DB_URIS, "ORDERS_DB_URI": "postgresql://other:p@host/USERS"}
        )


def test_a_setting_that_what_runs_would_ignore_is_seen() -> None:
    assert _variables({"PATH": "/bin"}) == _variables({"HOME": "/root"})
    assert _variables({"CURRENCY": "USD"}) != _variables({})
    assert _variables({"TOKEN_SECRET": "a"}) != _variables({"TOKEN_SECRET": "b"})


def test_an_owner_without_its_uri_is_the_role_itself() -> None:
    external = external_servers({**DB_URIS, "USERS_DB_OWNER_URI": "postgresql://owner"})
    assert external["USERS_DB_OWNER_URI"] == "postgresql://owner"
    assert external["BILLING_DB_OWNER_URI"] == DB_URIS["BILLING_DB_URI"]


def test_broker_and_databases_are_independent() -> None:
    assert external_servers({"AMQP_URI": "amqp://"}) == {"AMQP_URI": "amqp://"}
    assert external_servers({"AMQP_URI": ""}) == {}


def test_servers_of_others_may_be_named_in_files(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "uri").write_text("amqp://a:b@host/\n")
    monkeypatch.setenv("AMQP_URI_FILE", str(tmp_path / "uri"))
    suite = wanted_suite(tmp_path / "run")
    assert suite.external == {"AMQP_URI": "amqp://a:b@host/"}
    told = suite._service("users").env
    assert told["AMQP_URI"] == "amqp://a:b@host/"
    assert (
        "AMQP_URI_FILE"
        not in told.keys() | suite.environ("users").keys() | suite.environ().keys()
    )


def test_the_key_of_the_tokens_may_stand_in_a_file(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "key").write_text("a key of one's own")
    suite = Suite(tmp_path / "run", free_ports())
    for name, value in suite.private_env(
        "gateway"
    ).items():  # as after `. .run/env/gateway`
        monkeypatch.setenv(name, value)
    before = suite._settings
    monkeypatch.setenv("TOKEN_SECRET_FILE", str(tmp_path / "key"))
    assert suite.private_env("gateway")["TOKEN_SECRET"] == "a key of one's own"
    assert suite._settings != before, "what runs would ignore it"


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        (
            {"AMQP_URI": "amqp://", "AMQP_URI_FILE": "/f"},
            "AMQP_URI and AMQP_URI_FILE are both set",
        ),
        (
            {"USERS_DB_URI_FILE": "/no/such/file"},
            "USERS_DB_URI_FILE is wrong: .*: No such file",
        ),
    ],
)
def test_a_file_that_is_no_secret_is_named(environ: dict[str, str], why: str) -> None:
    with pytest.raises(Failure, match=why):
        with_secrets(environ)


def test_an_empty_variable_is_not_set(tmp_path: Path) -> None:
    (tmp_path / "uri").write_text("amqp://a:b@host/")
    named = {
        "AMQP_URI": "",
        "AMQP_URI_FILE": str(tmp_path / "uri"),
        "USERS_DB_URI_FILE": "",
        "PATH": "",
    }
    assert with_secrets(named) == {"AMQP_URI": "amqp://a:b@host/", "PATH": ""}


def test_a_folder_too_deep_for_sockets_becomes_a_link(tmp_path: Path) -> None:
    wanted = tmp_path / ("deep" * 20) / ".run"
    real = state.make(wanted)
    try:
        assert len(str(real)) < 80
        assert wanted.resolve() == real
        assert state.make(wanted) == real
    finally:
        state.remove(wanted)
    assert not real.exists()
    assert not wanted.is_symlink()


@pytest.mark.parametrize(
    "name", ["a shop", "Лавка", "shop #1", "it's", "50%", "$HOME", "a;b"]
)
def test_a_folder_whose_name_the_servers_do_not_take_becomes_a_link(
    tmp_path: Path, name: str
) -> None:
    wanted = tmp_path / name / ".run"
    real = state.make(wanted)
    try:
        assert state.PLAIN.fullmatch(str(real))
        assert wanted.resolve() == real
    finally:
        state.remove(wanted)


@pytest.mark.parametrize("suits", [True, False])
@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_the_servers_may_enter_the_folder_and_write_nothing_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int, suits: bool
) -> None:
    monkeypatch.setattr(state, "_suits", lambda _: suits)
    before = os.umask(umask)
    try:
        assert state.make(tmp_path / "run").stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(before)
        state.remove(tmp_path / "run")


def test_the_link_of_a_copied_checkout_is_not_followed(tmp_path: Path) -> None:
    first, second = tmp_path / ("a" * 90) / ".run", tmp_path / ("b" * 90) / ".run"
    try:
        real = state.make(first)
        second.parent.mkdir()
        second.symlink_to(real)
        assert state.make(second) != real
    finally:
        state.remove(first)
        state.remove(second)

"""Ports, external servers and the state folder: accepted and refused settings."""

import os
import socket
from pathlib import Path

import pytest

from dev import state
from dev.cli import Suite, _digest, external_servers, wanted_suite, with_secrets
from dev.failure import Failure
from dev.ports import DEFAULTS, PAGE, check_free, free_ports, ports_from
from dev.servers import DATABASES

DB_URIS = {
    f"{name.upper()}_DB_URI": f"postgresql://r:p@host/{name.upper()}"
    for name in DATABASES
}


def test_the_environment_overrides_default_ports() -> None:
    assert ports_from({"GATEWAY_PORT": "9000", "DB_PORT": ""}) == DEFAULTS | {
        "gateway": 9000
    }


def test_one_variable_moves_all_ports() -> None:
    moved = ports_from({"PORT_OFFSET": "100", "GATEWAY_PORT": "9000"})
    others = {name: port + 100 for name, port in DEFAULTS.items()}
    assert moved == others | {"gateway": 9000}
    assert not set(others.values()) & set(DEFAULTS.values())


@pytest.mark.parametrize("text", ["abc", "-1", "57456"])
def test_an_invalid_offset_is_refused(text: str) -> None:
    with pytest.raises(Failure, match="PORT_OFFSET must be a number, 0 to 57455"):
        ports_from({"PORT_OFFSET": text})


@pytest.mark.parametrize("text", ["abc", "0", "65536", "-1", "80 80", "²"])
def test_an_invalid_port_is_refused_with_its_variable(text: str) -> None:
    with pytest.raises(Failure, match="GATEWAY_PORT must be a number, 1 to 65535"):
        ports_from({"GATEWAY_PORT": text})


def test_a_port_given_twice_is_refused() -> None:
    with pytest.raises(Failure, match="GATEWAY_PORT or USERS_HEALTH_PORT"):
        ports_from({"GATEWAY_PORT": "7001"})


@pytest.mark.parametrize("environ", [{"PORT_OFFSET": "2000"}, {"PAGE_PORT": "6000"}])
def test_a_port_that_browsers_block_is_refused_for_the_page(
    environ: dict[str, str],
) -> None:
    with pytest.raises(Failure, match=r"browsers block port .*: set PAGE_PORT"):
        ports_from(environ)
    assert ports_from({**environ, "PAGE_PORT": "9999"})["page"] == 9999


def test_a_suite_of_a_test_has_no_development_server_unless_it_asks() -> None:
    assert PAGE not in free_ports()
    assert PAGE in free_ports([PAGE])


def test_a_used_port_is_reported_with_process_and_variable() -> None:
    ports = free_ports()
    message = rf"in use by pid {os.getpid()}, .*set GATEWAY_PORT, or PORT_OFFSET"
    with (
        socket.create_server(("127.0.0.1", ports["gateway"])),
        pytest.raises(Failure, match=message),
    ):
        check_free(ports, ["users", "gateway"])


def test_a_port_used_by_an_outgoing_connection_is_reported() -> None:
    ports = free_ports()
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", ports["gateway"]))
        with pytest.raises(Failure, match="in use by an outgoing connection"):
            check_free(ports, ["gateway"])


def test_two_suites_never_get_the_same_ports() -> None:
    assert not set(free_ports().values()) & set(free_ports().values())


def test_external_servers_need_all_databases() -> None:
    first, *others = (f"{name.upper()}_DB_URI" for name in DATABASES)
    with pytest.raises(Failure, match=f"set {', '.join(others)} too"):
        external_servers({first: "postgresql://..."})


def test_two_services_never_share_a_database() -> None:
    with pytest.raises(Failure, match="each service needs its own"):
        external_servers(
            {**DB_URIS, "ORDERS_DB_URI": "postgresql://other:p@host/USERS"}
        )


def test_a_changed_setting_is_detected() -> None:
    assert _digest({"PATH": "/bin"}) == _digest({"HOME": "/root"})
    assert _digest({"CURRENCY": "USD"}) != _digest({})
    assert _digest({"TOKEN_SECRET": "a"}) != _digest({"TOKEN_SECRET": "b"})


def test_the_role_is_the_owner_if_no_owner_uri_is_set() -> None:
    external = external_servers({**DB_URIS, "USERS_DB_OWNER_URI": "postgresql://owner"})
    assert external["USERS_DB_OWNER_URI"] == "postgresql://owner"
    assert external["BILLING_DB_OWNER_URI"] == DB_URIS["BILLING_DB_URI"]


def test_broker_and_databases_are_independent() -> None:
    assert external_servers({"AMQP_URI": "amqp://"}) == {"AMQP_URI": "amqp://"}
    assert external_servers({"AMQP_URI": ""}) == {}


def test_external_uris_can_come_from_files(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "uri").write_text("amqp://a:b@host/\n")
    monkeypatch.setenv("AMQP_URI_FILE", str(tmp_path / "uri"))
    suite = wanted_suite(tmp_path / "run")
    assert suite.external == {"AMQP_URI": "amqp://a:b@host/"}
    variables = suite._service("users").env
    assert variables["AMQP_URI"] == "amqp://a:b@host/"
    for environ in (variables, suite.environ("users"), suite.environ()):
        assert "AMQP_URI_FILE" not in environ


def test_the_signing_key_can_come_from_a_file(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "key").write_text("another signing key")
    suite = Suite(tmp_path / "run", free_ports())
    # As after `. .run/env/gateway`.
    for name, value in suite.private_env("gateway").items():
        monkeypatch.setenv(name, value)
    before = suite._settings
    monkeypatch.setenv("TOKEN_SECRET_FILE", str(tmp_path / "key"))
    assert suite.private_env("gateway")["TOKEN_SECRET"] == "another signing key"
    assert suite._settings != before, "a running suite would ignore it"


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
def test_an_unusable_secret_file_is_reported(environ: dict[str, str], why: str) -> None:
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
def test_a_folder_with_an_unsupported_name_becomes_a_link(
    tmp_path: Path, name: str
) -> None:
    wanted = tmp_path / name / ".run"
    real = state.make(wanted)
    try:
        assert state.PLAIN.fullmatch(str(real))
        assert wanted.resolve() == real
    finally:
        state.remove(wanted)


@pytest.mark.parametrize("usable", [True, False])
@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_servers_can_enter_the_folder_but_not_write_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int, usable: bool
) -> None:
    monkeypatch.setattr(state, "_is_usable", lambda _: usable)
    before = os.umask(umask)
    try:
        assert state.make(tmp_path / "run").stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(before)
        state.remove(tmp_path / "run")


def test_a_link_from_a_copied_checkout_is_not_followed(tmp_path: Path) -> None:
    first, second = tmp_path / ("a" * 90) / ".run", tmp_path / ("b" * 90) / ".run"
    try:
        real = state.make(first)
        second.parent.mkdir()
        second.symlink_to(real)
        assert state.make(second) != real
    finally:
        state.remove(first)
        state.remove(second)

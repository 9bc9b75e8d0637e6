"""A wrong or missing setting ends the start at once, with one line that names it."""

import importlib
import re
import socket
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from chassis.container import Container
from tests.system.processes import SERVICES, Process

URIS = [
    *("", "nonsense", "sqlite://", "postgresql://u:p@h/d", "mysql://h/d"),
    *(5, ["x"], {}),
]
SECONDS = [
    *("", "x", "NaN", "1e3", "0x10", "1_000", "12:30"),
    *(0, -1, float("nan"), float("inf"), [], {}),
]
COUNTS = [0, -1, "", "x", "0", "1.5", "1_000", float("nan"), [], {}]
TEXTS = ["", [], {}, 5]
SWITCHES = ["", "maybe", "yes", "no", 5, [], {}]
ADDRESSES = [*TEXTS, "h", "h:x", "h:-1", "h:99999", "a b:1"]
WRONG: dict[str, list[Any]] = {
    "AMQP_URI": [
        *("", "nonsense", "amqp://h:x/", "http://h", "127.0.0.1:5672"),
        *(5, [], {}),
    ],
    "HEARTBEAT": SECONDS,
    **{f"DB_URIS.{name}:Base": URIS for name in SERVICES if name != "gateway"},
    **{f"WORKERS.{name}": COUNTS for name in SERVICES},
    **dict.fromkeys(
        ("RPC_TIMEOUT_S", "WITHDRAW_TIMEOUT_S", "CONFIRM_TIMEOUT_S"), SECONDS
    ),
    **dict.fromkeys(
        ("DB_STATEMENT_TIMEOUT_S", "OUTBOX_RETENTION_S", "TOKEN_LIFETIME_S"), SECONDS
    ),
    **dict.fromkeys(("DB_POOL_SIZE", "WEB_SERVER_CONNECTIONS"), COUNTS),
    **dict.fromkeys(("STOP_TIMEOUT_S", "WEB_SERVER_IDLE_S"), SECONDS),
    "STOP_DELAY_S": [value for value in SECONDS if value != 0 or value is False],
    **{f"{name}_ADDRESS": ADDRESSES for name in ("WEB_SERVER", "HEALTH")},
    "CURRENCY": [*TEXTS, "ZZZ", "usd", "XAU"],
    **dict.fromkeys(
        ("WEB_SERVER_SHARED", "WEB_SERVER_HEALTH", "AMQP_USER_RESTRICTED"), SWITCHES
    ),
    "TRUSTED_PROXIES": [-1, 11, 0.5, "", "x", [], {}],
    "TOKEN_SECRET": ["", "short", "x" * 31, 5, [], {}],
}
FILES = [
    "AMQP_URI",
    "TOKEN_SECRET",
    *(name for name in WRONG if name.startswith("DB_URIS.")),
]
MIGRATIONS_ONLY = {"DB_OWNER_URIS", "DB_OWNER_URIS_FILE"}
NAMEKOS_OWN = {"SERVICE_CONTAINER_CLS", "LOGGING"}


def start(config: dict[str, Any]) -> str:
    """Start all services with this configuration. Return the line that ends it, or ""."""
    try:
        for name in SERVICES:
            service = importlib.import_module(f"{name}.service").Service
            Container(service, deepcopy(config))
    except SystemExit as exc:
        return str(exc.code)
    return ""


def changed(config: dict[str, Any], name: str, *value: Any) -> dict[str, Any]:
    """Return a copy of `config` with another value of a setting, or without it."""
    config = deepcopy(config)
    *parents, last = name.split(".")
    place = config
    for parent in parents:
        place = place[parent]
    if value:
        place[last] = value[0]
    else:
        del place[last]
    return config


def variable_of(name: str) -> str:
    """Return the variable of a setting: USERS_DB_URI for DB_URIS.users:Base."""
    found = re.fullmatch(r"(DB_\w+)S\.(\w+):Base", name)
    return f"{found[2].upper()}_{found[1]}" if found else name


def assert_names(message: str, name: str) -> None:
    """Assert that `message` is one line that names the setting."""
    assert message.startswith(f"config.yaml: {variable_of(name)} is ")
    assert "\n" not in message
    assert "Traceback" not in message


def test_the_configuration_as_it_is_starts(config) -> None:
    assert start(config) == ""


def test_every_setting_of_the_file_is_tried_here(config) -> None:
    names = [*WRONG, *map(file_of, FILES)]
    tried = {name.partition(".")[0] for name in names}
    assert set(config) == tried | MIGRATIONS_ONLY | NAMEKOS_OWN


@pytest.mark.parametrize("name", WRONG)
def test_a_missing_setting_is_reported(config, name) -> None:
    assert_names(start(changed(config, name)), name)
    assert_names(start(changed(config, name, None)), name)


@pytest.mark.parametrize("name", ["DB_URIS", "WORKERS"])
def test_a_missing_group_of_settings_is_named(config, name) -> None:
    for wrong in ({}, None, 5, "x", []):
        message = start(changed(config, name, wrong))
        expected = rf"config\.yaml: ({name}\.\w+|USERS_DB_URI) is missing$"
        assert re.match(expected, message)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in WRONG.items() for value in values],
)
def test_a_wrong_setting_is_named(config, name, value) -> None:
    assert_names(start(changed(config, name, value)), name)


def file_of(name: str) -> str:
    """Return the setting with the path of a file that contains another setting."""
    group, _, key = name.partition(".")
    return f"{group}_FILE.{key}" if key else f"{group}_FILE"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("path", ["relative", 5, "/no/such/file", "/"])
def test_a_wrong_file_is_named(config, name, path) -> None:
    without = changed(config, name, "")
    message = start(changed(without, file_of(name), path))
    assert message.startswith(f"config.yaml: {variable_of(name)}_FILE is wrong: ")
    assert "\n" not in message


@pytest.mark.parametrize("name", FILES)
def test_a_setting_beside_its_file_is_refused(config, name) -> None:
    message = start(changed(config, file_of(name), "/a/file"))
    variable = variable_of(name)
    expected = f"{variable} and {variable}_FILE are both set: unset one of them"
    assert message == f"config.yaml: {expected}"


def test_services_of_one_process_read_the_same_files(
    config, environment, tmp_path
) -> None:
    for name in FILES:
        file = tmp_path / variable_of(name)
        file.write_text(environment[variable_of(name)] + "\n")
        config = changed(changed(config, name, ""), file_of(name), str(file))
    before = deepcopy(config)
    for service in SERVICES:
        Container(importlib.import_module(f"{service}.service").Service, config)
    assert config == before


# As a process

IN_THE_ENVIRONMENT = {
    "GATEWAY_PORT": ("WEB_SERVER_ADDRESS", ["x"]),
    "HEALTH_PORT": ("HEALTH_ADDRESS", ["99999"]),
    "HEALTH_HOST": ("HEALTH_ADDRESS", [""]),  # would be all interfaces
    # No machine has this address (RFC 5737).
    "GATEWAY_HOST": ("GATEWAY_HOST", ["203.0.113.1"]),
    "AMQP_URI": ("AMQP_URI", ["amqp://u:p@127.0.0.1:x/"]),
    "LOG_FORMAT": ("LOG_FORMAT", ["xml"]),
    "TOKEN_SECRET": ("TOKEN_SECRET", ["short"]),
    "RPC_TIMEOUT_S": ("RPC_TIMEOUT_S", ["soon"]),
}


@pytest.fixture(scope="module")
def ended(environment, tmp_path_factory):
    """Exit code and log of processes with a wrong environment, by (variable, value)."""
    folder = tmp_path_factory.mktemp("wrong")
    cases = [
        (variable, value)
        for variable, (_, values) in IN_THE_ENVIRONMENT.items()
        for value in values
    ]
    found = {}
    for pair in (cases[n : n + 2] for n in range(0, len(cases), 2)):  # a core each
        processes = []
        for variable, value in pair:
            log = folder / f"{len(found) + len(processes)}.log"
            wrong = {**environment, "GATEWAY_PORT": "0", variable: value}
            processes.append(Process(("gateway", "users"), wrong, log))
            processes[-1].start()
        for case, process in zip(pair, processes, strict=True):
            try:
                found[case] = (process.wait(20), process.log.read_text())
            except AssertionError:
                process.stop()
                found[case] = (0, "it went on: " + process.log.read_text())
    return found


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (name, value)
        for name, (_, values) in IN_THE_ENVIRONMENT.items()
        for value in values
    ],
)
def test_a_process_names_its_wrong_setting(ended, variable, value) -> None:
    code, log = ended[variable, value]
    assert code != 0, log
    assert IN_THE_ENVIRONMENT[variable][0] in log.splitlines()[-1]
    assert "Traceback" not in log


def test_a_process_names_its_missing_setting(environment, tmp_path) -> None:
    config = tmp_path / "config.yaml"
    lines = Path("config.yaml").read_text().splitlines(True)
    others = [line for line in lines if not line.startswith("CURRENCY")]
    config.write_text("".join(others))
    process = Process(("billing",), environment, tmp_path / "log", config)
    process.start()
    assert process.wait() != 0
    assert process.log.read_text() == "config.yaml: CURRENCY is missing\n"


@pytest.mark.parametrize(
    ("service", "variable"), [("gateway", "GATEWAY_PORT"), ("users", "HEALTH_PORT")]
)
def test_a_port_in_use_is_reported_in_one_line(
    environment, tmp_path, service, variable
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        process = Process((service,), {**environment, variable: port}, tmp_path / "log")
        process.start()
        assert process.wait() != 0
    *before, last = process.log.read_text().splitlines()
    assert port in last
    assert "in use" in last
    assert variable in last
    assert not any("Traceback" in line for line in before)


def test_a_wrong_log_level_is_reported_in_one_line(environment, tmp_path) -> None:
    process = Process(
        ("users",), {**environment, "LOG_LEVEL": "LOUD"}, tmp_path / "log"
    )
    process.start()
    assert process.wait() != 0
    [line] = process.log.read_text().splitlines()
    assert "LOG_LEVEL" in line

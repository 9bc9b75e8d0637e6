"""Real processes accept secrets of any characters, in variables and files, and never show them."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import jwt
import psycopg2
import pytest
from psycopg2 import sql

from audit.snapshots import connect
from conftest import eventually
from dev.broker import ALL_RIGHTS
from dev.cli import QUIET
from dev.ports import free_ports
from dev.servers import Servers, uri_names
from tests.docs.markdown import ROOT, blocks
from tests.system.processes import NAMEKO, Process
from tests.system.shopper import Shopper

# No line of the project contains four of these characters in a row.
NASTY = "*QX {ZJ4} &79%s #@:/?[Q]X'Z\"J\\4$7!9é|€ "
USER = "nasty"
OPERATIONS = blocks(ROOT / "docs" / "operations.md")
[SHELL] = [block for block in OPERATIONS if "$AMQP_URI_FILE" in block.text]
[ENCODE] = [block for block in OPERATIONS if "urllib.parse" in block.text]
[OWNER] = [block for block in OPERATIONS if "owner() {" in block.text]
SECRETS = [*uri_names(ALL_RIGHTS), "TOKEN_SECRET"]


def assert_unseen(text: str, secret: str = NASTY) -> None:
    """Assert that a text contains no four characters of the secret, raw or encoded."""
    for shown in (secret, quote(secret, safe="")):
        pieces = {shown[start : start + 4] for start in range(len(shown) - 3)}
        assert [piece for piece in pieces if piece in text] == [], text


def ended(
    command: list[str], environment: Mapping[str, str], typed: str = ""
) -> tuple[int, str]:
    """Run a command, and return its exit code and its output."""
    path = f"{Path(NAMEKO).parent}:{environment['PATH']}"
    done = subprocess.run(
        command,
        env={**environment, **QUIET, "PATH": path},
        input=typed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout


@pytest.fixture
def nasty(servers: Servers, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """An environment whose passwords and token key are NASTY."""
    servers.rabbitmqctl("add_user", USER, NASTY)
    servers.rabbitmqctl("set_permissions", USER, ".*", ".*", ".*")
    role, password = sql.Identifier(USER), sql.Literal(NASTY)
    administrator = psycopg2.connect(servers.superuser_dsn())
    administrator.autocommit = True
    encoded = quote(NASTY, safe="")
    broker = f"amqp://{USER}:{encoded}@127.0.0.1:{servers.ports['rabbitmq']}/"
    address = f"127.0.0.1:{servers.ports['postgresql']}"
    database = f"postgresql+psycopg2://{USER}:{encoded}@{address}/users"
    create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE users")
    with administrator.cursor() as cursor:
        cursor.execute(create.format(role, password))
        port = {"GATEWAY_PORT": str(free_ports()["gateway"])}
        yield {
            **environment,
            **port,
            "AMQP_URI": broker,
            "USERS_DB_URI": database,
            "TOKEN_SECRET": NASTY,
        }
        cursor.execute(sql.SQL("DROP ROLE {}").format(role))
    administrator.close()
    servers.rabbitmqctl("delete_user", USER)


@pytest.fixture
def in_files(tmp_path: Path) -> Callable[[Mapping[str, str]], dict[str, str]]:
    """Return a function that moves the secrets of an environment to files."""

    def move(environment: Mapping[str, str]) -> dict[str, str]:
        moved = {
            name: value for name, value in environment.items() if name not in SECRETS
        }
        for name in environment.keys() & set(SECRETS):
            (tmp_path / name).write_text(f"{environment[name]}\n")
            moved[f"{name}_FILE"] = str(tmp_path / name)
        return moved

    return move


@pytest.mark.parametrize("form", ["variables", "files"])
def test_secrets_may_have_any_characters(
    suite_config, nasty, in_files, tmp_path, form
) -> None:
    environment = in_files(nasty) if form == "files" else nasty
    process = Process(("users", "gateway"), environment, tmp_path / "log")

    def is_up() -> bool:
        assert not process.ended(), process.log.read_text()
        return process.log.read_text().count("service_started") == 2

    process.start()
    try:
        eventually(is_up, 60)
        # It signs up and logs in.
        shopper = Shopper(f"http://127.0.0.1:{environment['GATEWAY_PORT']}")
    finally:
        process.stop()
    token = str(shopper.headers["Authorization"]).removeprefix("Bearer ")
    assert jwt.decode(token, NASTY, algorithms=["HS256"])["sub"] == shopper.id
    assert_unseen(process.log.read_text())


def test_the_audits_password_may_have_any_characters(suite_config, nasty) -> None:
    config = {"DB_URIS": {"users:Base": nasty["USERS_DB_URI"]}}
    with (
        closing(connect(config, "users", readonly=True)) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT current_user")
        assert cursor.fetchone() == (USER,)


COMMANDS = {
    "migrate": [sys.executable, "-m", "chassis.migrate"],
    "dead": [sys.executable, "-m", "chassis.dead", "list"],
    "audit": [sys.executable, "-m", "audit"],
    "replay": [sys.executable, "-m", "replay"],
    "make shell": [sys.executable, "-m", "dev.shell", "--config", "config.yaml"],
    "nameko shell": ["bash", "-c", SHELL.text],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_reads_its_secrets_from_files(
    clean, environment, in_files, name
) -> None:
    typed = "print(n.config['AMQP_URI'][:7])\n"
    code, output = ended(COMMANDS[name], in_files(environment), typed)
    assert code == 0, output
    if name.endswith("shell"):
        assert "amqp://\n" in output


def test_the_documented_command_encodes_a_password(environment) -> None:
    code, output = ended(["bash", "-c", ENCODE.text], environment, NASTY + "\n")
    assert (code, output) == (0, quote(NASTY, safe="") + "\n")


@pytest.mark.parametrize("form", ["variables", "files"])
def test_psql_finds_a_database_as_its_owner(environment, in_files, form) -> None:
    [function] = re.findall(
        r"^owner\(\) \{.*?^\}$", OWNER.text, re.MULTILINE | re.DOTALL
    )
    given = in_files(environment) if form == "files" else environment
    code, uri = ended(["bash", "-euc", f"{function}\nowner users"], given)
    expected = environment["USERS_DB_OWNER_URI"].replace("+psycopg2", "")
    assert (code, uri) == (0, expected + "\n")


# Starts that are refused

RAW = {
    "AMQP_URI": f"amqp://{USER}:{NASTY}@127.0.0.1:5/",
    "USERS_DB_URI": f"postgresql+psycopg2://{USER}:{NASTY}@127.0.0.1:5/users",
    "USERS_DB_OWNER_URI": f"postgresql+psycopg2://{USER}:{NASTY}@127.0.0.1:5/users",
    "TOKEN_SECRET": NASTY[:31],
}
SERVICES = ["users.service", "gateway.service"]
NAMEKO_RUN = [NAMEKO, "run", "--config", "config.yaml", *SERVICES]
STARTS = [
    (NAMEKO_RUN, "AMQP_URI", "variable"),
    (NAMEKO_RUN, "AMQP_URI", "path"),
    (NAMEKO_RUN, "USERS_DB_URI", "file"),
    (NAMEKO_RUN, "TOKEN_SECRET", "variable"),
    (NAMEKO_RUN, "TOKEN_SECRET", "both"),
    (COMMANDS["migrate"], "USERS_DB_OWNER_URI", "variable"),
    (COMMANDS["dead"], "AMQP_URI", "file"),
    (COMMANDS["audit"], "USERS_DB_URI", "variable"),
    (COMMANDS["replay"], "AMQP_URI", "both"),
    (COMMANDS["make shell"], "AMQP_URI", "variable"),
]


@pytest.mark.parametrize(("command", "variable", "form"), STARTS)
def test_a_refused_start_names_the_variable_not_the_secret(
    suite_config, environment, tmp_path, command, variable, form
) -> None:
    (tmp_path / "file").write_text(RAW[variable])
    forms = {
        "variable": {variable: RAW[variable]},
        "file": {variable: "", f"{variable}_FILE": str(tmp_path / "file")},
        # The secret itself instead of a path.
        "path": {variable: "", f"{variable}_FILE": RAW[variable]},
        "both": {variable: RAW[variable], f"{variable}_FILE": str(tmp_path / "file")},
    }
    code, output = ended(command, {**environment, "GATEWAY_PORT": "0", **forms[form]})
    assert code != 0
    [line] = output.splitlines()
    named = f"{variable}_FILE is wrong" if form == "path" else variable
    assert named in line
    assert (f"{variable} and {variable}_FILE are both set" in line) == (form == "both")
    assert_unseen(line)

"""The roles and databases that the migrations Job makes, on a real PostgreSQL, as each role that may."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn

from conftest import eventually
from dev.ports import free_ports
from dev.servers import DATABASES, POSTGRESQL_SETTINGS, Servers
from tests.chart.environment import data, raw
from tests.chart.helm import CHART, DEFAULTS, containers, objects, of, pods, render

LIMIT_S = 30
# Where a cloud gives away no superuser.
KEEPER = {
    "postgresql": {"enabled": False},
    "externalPostgresql": {
        "host": "localhost",
        "admin": {"existingSecret": "cloud", "username": "keeper"},
    },
}

# The template of new databases is LATIN1, so that a default is noticed.
LATIN1 = (
    "ALTER DATABASE template1 IS_TEMPLATE false",
    "DROP DATABASE template1",
    "CREATE DATABASE template1 TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C' IS_TEMPLATE true",
    "REVOKE CONNECT ON DATABASE template1 FROM PUBLIC",
)
PROPERTIES = """
    SELECT pg_encoding_to_char(encoding), datcollate
    FROM pg_database
    WHERE datname = current_database()
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """How to connect to a PostgreSQL as its superuser; none of ours is in it yet."""
    with (
        tempfile.TemporaryDirectory(prefix="shop-tests-") as folder,
        tempfile.TemporaryDirectory(prefix="shop-socket-") as sockets,
    ):
        Path(sockets).chmod(0o777)  # the server may run as another user
        monkeypatch.setitem(POSTGRESQL_SETTINGS, "unix_socket_directories", sockets)
        started = Servers(Path(folder, "run"), free_ports(), broker=False)
        try:
            started.start()
            superuser = parse_dsn(started.superuser_dsn())
            for name in DATABASES:
                for what in (f"DATABASE {name}", f"ROLE {name}", f"ROLE {name}_owner"):
                    ask(superuser, f"DROP {what}")
            for statement in LATIN1:
                ask(superuser, statement)
            yield superuser
        finally:
            started.erase()


def ask(whom: dict[str, str], statement: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(**whom)) as connection:
        connection.autocommit = True  # CREATE DATABASE allows no transaction
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


def make(values: dict[str, Any], admin: dict[str, str], folder: Path) -> dict[str, str]:
    """Run the Job's own script as it stands; the passwords of the roles, by variable."""
    found = render(values)
    (job,) = of(found, "Job")
    (container,) = job["spec"]["template"]["spec"]["initContainers"]
    sql = folder / "databases.sql"
    sql.write_text((data(found, "ConfigMap", "shop-databases") or {})["databases.sql"])
    server = f"postgresql://{admin['user']}@{admin['host']}:{admin['port']}/postgres"
    assert raw(container)["SERVER"].partition("@")[0] == server.partition("@")[0]
    assert raw(container).keys() >= {"PGPASSWORD", "SERVER"}
    passwords = {
        name: name.lower() for name in raw(container) if name.endswith("_PASSWORD")
    }
    environment = {
        "PATH": os.environ["PATH"],
        "SERVER": server,
        "PGPASSWORD": admin["password"],
        **passwords,
    }
    script = container["command"][-1].replace("/sql/databases.sql", str(sql))
    done = subprocess.run(
        ["sh", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == f"connecting to {server}\nroles and databases are ready\n"
    assert "ERROR" not in done.stderr
    return passwords


def check(superuser: dict[str, str], passwords: dict[str, str]) -> None:
    """Each role gets in with its password, into its own database alone. It holds all texts."""
    place = {key: superuser[key] for key in ("host", "port")}
    for name in DATABASES:
        for role in (name, f"{name}_owner"):
            password = passwords[
                f"{name.upper()}_DB_{'OWNER_' if role != name else ''}PASSWORD"
            ]
            who = {**place, "user": role, "password": password}
            assert ask({**who, "dbname": name}, "SELECT current_user") == [(role,)]
            assert ask({**who, "dbname": name}, PROPERTIES) == [("UTF8", "C")]
            for other in {*DATABASES} - {name}:
                with pytest.raises(
                    psycopg2.OperationalError, match="permission denied"
                ):
                    ask({**who, "dbname": other}, "SELECT 1")
        owner = {
            **place,
            "user": f"{name}_owner",
            "password": passwords[f"{name.upper()}_DB_OWNER_PASSWORD"],
        }
        ask({**owner, "dbname": name}, "CREATE TABLE IF NOT EXISTS a ()")


def test_a_superuser_makes_them_and_may_do_it_again(
    server: dict[str, str], tmp_path: Path
) -> None:
    for _ in range(2):
        check(server, make({}, server, tmp_path))
    assert limits(server) == {"users": 106, "users_owner": 20}
    assert DEFAULTS["postgresql"]["maxConnections"] > 2 * 106, (
        "no role can take them all"
    )
    make(SCALED, server, tmp_path)
    assert limits(server) == {"users": 150, "users_owner": 20}


# Twice seven copies while they are replaced, each with two pools of five connections, and ten more.
SCALED: dict[str, Any] = {
    "extraEnv": [{"name": "DB_POOL_SIZE", "value": "5"}],
    "services": {"users": {"autoscaling": {"enabled": True, "maxReplicas": 7}}},
}


def limits(superuser: dict[str, str]) -> dict[str, int]:
    """How many connections the roles of users may have."""
    query = "SELECT rolname, rolconnlimit FROM pg_roles WHERE rolname IN ('users', 'users_owner')"
    return dict(ask(superuser, query))


HASH = "$argon2id$v=19$m=65536$of-a-password"
LOGGING = (
    "log_min_error_statement=error",
    "log_error_verbosity=default",
)  # the server's defaults


def test_a_statement_that_fails_leaves_nothing_of_its_values_in_the_log(
    servers: Servers,
) -> None:
    """By the settings of the chart's own PostgreSQL, given to the tests' server for a session."""
    pod = pods(objects("default"))["StatefulSet/shop-postgresql"]
    own = [word for word in containers(pod)[0]["args"] if word.startswith("log_")]
    options = " ".join(f"-c {setting}" for setting in (*LOGGING, *own))
    log = servers.supervisor.log("postgresql")
    for statement in (
        "SET statement_timeout = 20; SELECT pg_sleep(9), %s",
        "CREATE TEMP TABLE a (b text UNIQUE); INSERT INTO a SELECT %s FROM generate_series(1, 2)",
    ):
        session = closing(psycopg2.connect(servers.superuser_dsn(), options=options))
        with (
            session as connection,
            connection.cursor() as cursor,
            pytest.raises(psycopg2.Error),
        ):
            cursor.execute(statement, [HASH])
    eventually(lambda: "duplicate key value" in log.read_text())
    assert "canceling statement due to statement timeout" in log.read_text()
    assert HASH not in log.read_text()


def test_a_lost_secret_is_made_good_as_the_readme_says(
    server: dict[str, str], tmp_path: Path
) -> None:
    """The server keeps the password of the lost Secret. Its pod has that of the new one."""
    new = {**server, "password": "of-the-new-Secret"}
    ((folder,),) = ask(server, "SHOW data_directory")
    rules = Path(folder, "pg_hba.conf")
    before = rules.read_text()
    with pytest.raises(
        psycopg2.OperationalError, match="password authentication failed"
    ):
        ask(new, "SELECT 1")
    environment = {
        "PATH": os.environ["PATH"],
        "PGDATA": folder,
        "PGHOST": POSTGRESQL_SETTINGS["unix_socket_directories"],
        "PGPORT": server["port"],
        "POSTGRES_PASSWORD": new["password"],
    }
    subprocess.run(
        ["sh", "-eu"], input=cure(), text=True, env=environment, timeout=60, check=True
    )
    with pytest.raises(
        psycopg2.OperationalError, match="password authentication failed"
    ):
        ask(server, "SELECT 1")
    with pytest.raises(psycopg2.OperationalError, match="no password supplied"):
        psycopg2.connect(
            host=environment["PGHOST"], port=server["port"], user="postgres"
        )
    assert rules.read_text() == before
    check(new, make({}, new, tmp_path))


def cure() -> str:
    """What the README's section gives to a shell in the pod."""
    section = (
        (CHART / "README.md")
        .read_text()
        .partition("### A lost Secret\n")[2]
        .partition("\n## ")[0]
    )
    command, _, script = section.partition("<<'EOF'\n")
    assert command.rstrip().endswith("exec --stdin shop-postgresql-0 -- sh -eu")
    return textwrap.dedent(script.partition("    EOF\n")[0])


@pytest.mark.parametrize(
    ("name", "restricted", "reason"),
    [
        ("databases", "true", "timeout expired"),
        ("migrations", "true", "the broker is"),  # it is asked first, about its user
        ("migrations", "false", "timeout expired"),
    ],
)
def test_migrations_without_an_answer_say_so(
    name: str, restricted: str, reason: str
) -> None:
    """As behind a firewall that drops packets: the log is where people look for the cause.

    The first line comes before any lookup in DNS, whose time limits are long.
    """
    (job,) = of(render({}), "Job")
    (container,) = [
        each for each in containers(job["spec"]["template"]) if each["name"] == name
    ]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        uris = {
            variable: value.partition("@")[0].replace("$(", "").replace(")", "")
            + f"@{address}/postgres"
            for variable, value in raw(container).items()
            if variable == "SERVER"
            or (variable.endswith("_URI") and isinstance(value, str))
        }
        given = {
            key: value
            for key, value in raw(container).items()
            if isinstance(value, str)
        }
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {
            "AMQP_USER_RESTRICTED": restricted,
            "PATH": path,
            "PYTHONWARNINGS": "ignore",
        }
        environment = {"PGPASSWORD": "p", **given, **uris, **own}
        with subprocess.Popen(
            container["command"],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as running:
            assert running.stdout
            limit = threading.Timer(LIMIT_S, os.killpg, (running.pid, signal.SIGKILL))
            limit.start()
            try:
                assert next(running.stdout).startswith("connecting to ")
                assert any(reason in line for line in running.stdout)
            finally:
                limit.cancel()
                os.killpg(running.pid, signal.SIGKILL)


def test_a_role_that_may_make_roles_and_databases_does(
    server: dict[str, str], tmp_path: Path
) -> None:
    ask(server, "CREATE ROLE keeper LOGIN CREATEROLE CREATEDB PASSWORD 'keeper'")
    ask(server, "GRANT CONNECT ON DATABASE postgres TO keeper")
    for _ in range(2):
        check(
            server,
            make(KEEPER, {**server, "user": "keeper", "password": "keeper"}, tmp_path),
        )

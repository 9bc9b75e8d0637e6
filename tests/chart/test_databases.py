"""The roles and databases that the migrations Job creates, on a real PostgreSQL."""

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
# Some clouds provide a role without superuser rights.
CLOUD_ADMIN = {
    "postgresql": {"enabled": False},
    "externalPostgresql": {
        "host": "localhost",
        "admin": {"existingSecret": "cloud", "username": "keeper"},
    },
}

# The template of new databases is LATIN1, so that a default encoding is noticed.
LATIN1 = (
    "ALTER DATABASE template1 IS_TEMPLATE false",
    "DROP DATABASE template1",
    """
    CREATE DATABASE template1
        TEMPLATE template0
        ENCODING 'LATIN1'
        LOCALE 'C'
        IS_TEMPLATE true
    """,
    "REVOKE CONNECT ON DATABASE template1 FROM PUBLIC",
)
PROPERTIES = """
    SELECT pg_encoding_to_char(encoding), datcollate
    FROM pg_database
    WHERE datname = current_database()
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Start a PostgreSQL without the suite's databases; return the superuser's DSN."""
    with (
        tempfile.TemporaryDirectory(prefix="shop-tests-") as folder,
        tempfile.TemporaryDirectory(prefix="shop-socket-") as sockets,
    ):
        # The server may run as another user.
        Path(sockets).chmod(0o777)
        monkeypatch.setitem(POSTGRESQL_SETTINGS, "unix_socket_directories", sockets)
        started = Servers(Path(folder, "run"), free_ports(), broker=False)
        try:
            started.start()
            superuser = parse_dsn(started.superuser_dsn())
            for name in DATABASES:
                query(superuser, f"DROP DATABASE {name}")
                query(superuser, f"DROP ROLE {name}")
                query(superuser, f"DROP ROLE {name}_owner")
            for statement in LATIN1:
                query(superuser, statement)
            yield superuser
        finally:
            started.erase()


def query(dsn: dict[str, str], statement: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(**dsn)) as connection:
        # CREATE DATABASE allows no transaction.
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


def make(values: dict[str, Any], admin: dict[str, str], folder: Path) -> dict[str, str]:
    """Run the Job's unchanged script; return the passwords of the roles, by variable."""
    found = render(values)
    (job,) = of(found, "Job")
    (container,) = job["spec"]["template"]["spec"]["initContainers"]
    sql = folder / "databases.sql"
    sql.write_text((data(found, "ConfigMap", "shop-databases") or {})["databases.sql"])
    server = f"postgresql://{admin['user']}@{admin['host']}:{admin['port']}/postgres"
    assert raw(container)["SERVER"].partition("@")[0] == server.partition("@")[0]
    assert raw(container).keys() >= {"PGPASSWORD", "SERVER"}
    names = [name for name in raw(container) if name.endswith("_PASSWORD")]
    passwords = {name: name.lower() for name in names}
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
    """Check that each role can log in to its own UTF-8 database, and to no other."""
    place = {key: superuser[key] for key in ("host", "port")}
    for name in DATABASES:
        prefix = f"{name.upper()}_DB_"
        password = passwords[f"{prefix}PASSWORD"]
        service = {**place, "user": name, "password": password}
        password = passwords[f"{prefix}OWNER_PASSWORD"]
        owner = {**place, "user": f"{name}_owner", "password": password}
        for role in (service, owner):
            own = {**role, "dbname": name}
            assert query(own, "SELECT current_user") == [(role["user"],)]
            assert query(own, PROPERTIES) == [("UTF8", "C")]
            for other in {*DATABASES} - {name}:
                with pytest.raises(
                    psycopg2.OperationalError, match="permission denied"
                ):
                    query({**role, "dbname": other}, "SELECT 1")
        query({**owner, "dbname": name}, "CREATE TABLE IF NOT EXISTS a ()")


# Twice seven replicas while they are replaced, each with two pools of five connections, and ten
# more.
SCALED: dict[str, Any] = {
    "extraEnv": [{"name": "DB_POOL_SIZE", "value": "5"}],
    "services": {"users": {"autoscaling": {"enabled": True, "maxReplicas": 7}}},
}
CONNECTION_LIMITS = """
    SELECT rolname, rolconnlimit
    FROM pg_roles
    WHERE rolname IN ('users', 'users_owner')
"""


def connection_limits(superuser: dict[str, str]) -> dict[str, int]:
    """Return the connection limit of the roles of users."""
    return dict(query(superuser, CONNECTION_LIMITS))


def test_a_superuser_can_create_them_twice(
    server: dict[str, str], tmp_path: Path
) -> None:
    for _ in range(2):
        check(server, make({}, server, tmp_path))
    assert connection_limits(server) == {"users": 106, "users_owner": 20}
    # No role can use all connections.
    assert DEFAULTS["postgresql"]["maxConnections"] > 2 * 106
    make(SCALED, server, tmp_path)
    assert connection_limits(server) == {"users": 150, "users_owner": 20}


HASH = "$argon2id$v=19$m=65536$of-a-password"
# The server's defaults.
LOGGING = ("log_min_error_statement=error", "log_error_verbosity=default")
TIMEOUT = "SET statement_timeout = 20; SELECT pg_sleep(9), %s"
DUPLICATE = """
    CREATE TEMP TABLE a (b text UNIQUE);
    INSERT INTO a
    SELECT %s
    FROM generate_series(1, 2)
"""


def test_a_failed_statement_leaves_no_values_in_the_log(servers: Servers) -> None:
    """The tests' server gets the log settings of the chart's PostgreSQL for a session."""
    pod = pods(objects("default"))["StatefulSet/shop-postgresql"]
    own = [word for word in containers(pod)[0]["args"] if word.startswith("log_")]
    options = " ".join(f"-c {setting}" for setting in (*LOGGING, *own))
    log = servers.supervisor.log("postgresql")
    for statement in (TIMEOUT, DUPLICATE):
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


def test_the_readmes_cure_for_a_lost_secret_works(
    server: dict[str, str], tmp_path: Path
) -> None:
    """The server has the password of the lost Secret, and its pod that of the new one."""
    new = {**server, "password": "of-the-new-Secret"}
    ((folder,),) = query(server, "SHOW data_directory")
    rules = Path(folder, "pg_hba.conf")
    before = rules.read_text()
    wrong_password = "password authentication failed"
    with pytest.raises(psycopg2.OperationalError, match=wrong_password):
        query(new, "SELECT 1")
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
    with pytest.raises(psycopg2.OperationalError, match=wrong_password):
        query(server, "SELECT 1")
    local = {"host": environment["PGHOST"], "port": server["port"]}
    with pytest.raises(psycopg2.OperationalError, match="no password supplied"):
        psycopg2.connect(**local, user="postgres")
    assert rules.read_text() == before
    check(new, make({}, new, tmp_path))


def cure() -> str:
    """Return the script that the README's section runs in a shell of the pod."""
    readme = (CHART / "README.md").read_text()
    section = readme.partition("### A lost Secret\n")[2].partition("\n## ")[0]
    command, _, script = section.partition("<<'EOF'\n")
    assert command.rstrip().endswith("exec --stdin shop-postgresql-0 -- sh -eu")
    return textwrap.dedent(script.partition("    EOF\n")[0])


@pytest.mark.parametrize(
    ("name", "restricted", "reason"),
    [
        ("databases", "true", "timeout expired"),
        # Migrations first check their user of the broker.
        ("migrations", "true", "the broker is"),
        ("migrations", "false", "timeout expired"),
    ],
)
def test_migrations_log_the_server_that_does_not_respond(
    name: str, restricted: str, reason: str
) -> None:
    """A silent port acts like a firewall that drops packets.

    The first line comes before any lookup in DNS, whose timeouts are long.
    """
    (job,) = of(render({}), "Job")
    in_job = {each["name"]: each for each in containers(job["spec"]["template"])}
    container = in_job[name]
    variables = raw(container).items()
    given = {key: value for key, value in variables if isinstance(value, str)}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        uris = {
            key: value.partition("@")[0].replace("$(", "").replace(")", "")
            + f"@{address}/postgres"
            for key, value in given.items()
            if key == "SERVER" or key.endswith("_URI")
        }
        own = {
            "AMQP_USER_RESTRICTED": restricted,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
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


def test_a_role_that_may_create_roles_and_databases_can_create_them(
    server: dict[str, str], tmp_path: Path
) -> None:
    query(server, "CREATE ROLE keeper LOGIN CREATEROLE CREATEDB PASSWORD 'keeper'")
    query(server, "GRANT CONNECT ON DATABASE postgres TO keeper")
    admin = {**server, "user": "keeper", "password": "keeper"}
    for _ in range(2):
        check(server, make(CLOUD_ADMIN, admin, tmp_path))

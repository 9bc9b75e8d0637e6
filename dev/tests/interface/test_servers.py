"""The private servers have random passwords, and PostgreSQL's log has no values."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import kombu
import psycopg2
import pytest
from amqp.exceptions import AccessRefused
from psycopg2.extensions import parse_dsn

from conftest import SERVICES_WITH_TABLES, eventually
from dev.broker import CHECKOUT
from dev.servers import Servers

HASH = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2g"
ADDRESS, LETTER = "ann.secret@example.org", "Dear Ann, this is a private letter"
DEFAULT = ("shop", "guest", "users", "gateway", "postgres")


def connect(servers: Servers, user: str, password: str) -> None:
    uri = f"amqp://{user}:{password}@127.0.0.1:{servers.ports['rabbitmq']}/"
    with closing(kombu.Connection(uri)) as connection:
        connection.connect()


@pytest.mark.parametrize("user", DEFAULT)
def test_the_broker_has_no_default_password(servers: Servers, user: str) -> None:
    with pytest.raises(AccessRefused):
        connect(servers, user, user)


def test_the_known_password_of_an_earlier_version_is_replaced(servers: Servers) -> None:
    servers.rabbitmqctl("change_password", "shop", "shop")
    connect(servers, "shop", "shop")
    servers.load_permissions(again=True)
    with pytest.raises(AccessRefused):
        connect(servers, "shop", "shop")
    connect(servers, "shop", servers.passwords["rabbitmq:shop"])


@pytest.mark.parametrize("name", SERVICES_WITH_TABLES)
def test_no_role_has_a_default_password(servers: Servers, name: str) -> None:
    for role in (name, f"{name}_owner"):
        with pytest.raises(
            psycopg2.OperationalError, match="password authentication failed"
        ):
            psycopg2.connect(
                host="127.0.0.1",
                port=servers.ports["postgresql"],
                dbname=name,
                user=role,
                password=role,
            )


def test_only_the_owner_can_read_passwords_and_logs(
    servers: Servers,
) -> None:
    for path in ("passwords.json", "superuser.password", "rabbitmq/users.json", "log"):
        assert not servers.state.joinpath(path).stat().st_mode & 0o077, path


@pytest.fixture
def session(servers: Servers) -> Iterator[Any]:
    """A session of the owner of users, with a table like those that contain secrets."""
    uri = servers.env()["USERS_DB_OWNER_URI"].replace("+psycopg2", "")
    with closing(psycopg2.connect(uri)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(
            "CREATE TEMP TABLE people (email text PRIMARY KEY, hash text NOT NULL, letter text)"
        )
        yield cursor


def test_the_log_of_postgresql_has_no_values(servers: Servers, session: Any) -> None:
    insert = "INSERT INTO people (email, hash, letter) SELECT %s, %s, %s"
    values = (ADDRESS, HASH, LETTER)
    session.execute(insert, values)
    session.execute("SET statement_timeout = '50ms'")
    for statement, parameters in (
        (insert, values),  # a unique violation, whose detail is the key
        (insert, (f"other.{ADDRESS}", None, LETTER)),  # the detail is the row
        (f"{insert} FROM pg_sleep(60)", values),  # a timeout
        (f"{insert} FROM nowhere", values),
    ):
        with suppress(psycopg2.Error):
            session.execute(statement, parameters)
    log = servers.supervisor.log("postgresql")
    for error in (
        "duplicate key value",
        "not-null",
        "statement timeout",
        '"nowhere" does not exist',
    ):
        eventually(lambda error=error: error in log.read_text())
    for value in (HASH, ADDRESS, LETTER):
        assert value not in log.read_text()


def test_no_role_can_use_all_connections(servers: Servers) -> None:
    query = """
        SELECT
            (SELECT sum(rolconnlimit) FROM pg_roles WHERE rolcanlogin AND NOT rolsuper),
            (SELECT min(rolconnlimit) FROM pg_roles WHERE rolcanlogin AND NOT rolsuper),
            current_setting('max_connections')::int
                - current_setting('superuser_reserved_connections')::int
    """
    with closing(psycopg2.connect(servers.superuser_dsn())) as connection:
        cursor = connection.cursor()
        cursor.execute(query)
        [(limits, least, available)] = cursor.fetchall()
    assert least > 0
    assert limits < available


SCRIPT = CHECKOUT / "dev/images/databases.sh"


def superuser_place(servers: Servers) -> dict[str, str]:
    """Return psql's variables for the server, without a password."""
    superuser = parse_dsn(servers.superuser_dsn())
    return {"PGHOST": superuser["host"], "PGPORT": superuser["port"]}


def test_the_compose_script_sets_passwords_of_existing_roles(
    servers: Servers,
) -> None:
    superuser = parse_dsn(servers.superuser_dsn())
    passwords = {"POSTGRES_PASSWORD": superuser["password"], "PGPASSWORD": "postgres"}
    for name in SERVICES_WITH_TABLES:
        for role, variable in ((name, "DB"), (f"{name}_owner", "DB_OWNER")):
            passwords[f"{name.upper()}_{variable}_PASSWORD"] = servers.passwords[
                f"postgresql:{role}"
            ]
    with closing(psycopg2.connect(servers.superuser_dsn())) as connection:
        connection.autocommit = True
        for role in ("orders", "postgres"):
            connection.cursor().execute(f"ALTER ROLE {role} PASSWORD '{role}'")
    environment = {**os.environ, **superuser_place(servers), **passwords}
    subprocess.run([SCRIPT], env=environment, check=True)
    psycopg2.connect(servers.env()["ORDERS_DB_URI"].replace("+psycopg2", "")).close()
    psycopg2.connect(servers.superuser_dsn()).close()


def test_the_compose_script_completes_a_failed_start(
    servers: Servers, tmp_path
) -> None:
    names = ("first", "second")
    script = tmp_path / "databases.sh"
    script.write_text(
        SCRIPT.read_text().replace(" ".join(SERVICES_WITH_TABLES), " ".join(names))
    )
    passwords = {f"{name.upper()}_DB_PASSWORD": name for name in names}
    passwords |= {
        f"{name.upper()}_DB_OWNER_PASSWORD": f"{name}_owner" for name in names
    }
    roles = list(passwords.values())
    superuser = parse_dsn(servers.superuser_dsn())["password"]
    passwords |= {"POSTGRES_PASSWORD": superuser, "PGPASSWORD": superuser}

    def run(variables: dict[str, str]) -> int:
        """Run the script as compose does: as the server's user, with only these variables."""
        environment = {
            "PATH": os.environ["PATH"],
            **superuser_place(servers),
            **variables,
        }
        user = "postgres" if os.geteuid() == 0 else None
        with script.open() as text:
            done = subprocess.run(
                ["bash", "-s"], stdin=text, env=environment, user=user, cwd="/"
            )
        return done.returncode

    with closing(psycopg2.connect(servers.superuser_dsn())) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        try:
            unfinished = {
                name: value for name, value in passwords.items() if "SECOND" not in name
            }
            codes = [run(unfinished), run(passwords), run(passwords)]
            for role in roles:
                as_role = {
                    "user": role,
                    "password": role,
                    "dbname": role.removesuffix("_owner"),
                }
                psycopg2.connect(servers.superuser_dsn(), **as_role).close()
        finally:
            for kind, names_of_kind in (("DATABASE", names), ("ROLE", roles)):
                for name in names_of_kind:
                    cursor.execute(f"DROP {kind} IF EXISTS {name}")
    assert codes == [1, 0, 0]

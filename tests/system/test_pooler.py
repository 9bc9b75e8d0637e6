"""Everything works behind PgBouncer in transaction mode, and time limits are in force."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import eventlet
import psycopg2
import pytest
import yaml

from audit.__main__ import audit
from billing.service import Service as Billing
from chassis.migrate import check_databases, migrate_tables
from conftest import DEADLINE_S, SERVICES_WITH_TABLES, eventually
from dev.ports import free_ports
from dev.servers import Servers
from notifications.service import Service as Notifications
from orders.service import Service as Orders
from replay.__main__ import main as replay
from tests.system.processes import debian_program
from users.service import Service as Users

CONFIG = """
[databases]
{databases}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
admin_users = admin
pool_mode = transaction
"""
NOT_IN_FORCE = "time_limits_not_in_force"
ANN = {
    "username": "Ann",
    "email": "ann@example.com",
    "password": "correct horse",
    "locale": "ru",
}


class Pooler:
    """A PgBouncer in front of all databases."""

    def __init__(self, port: int) -> None:
        self.port = port

    def connect(self, database: str, user: str) -> Any:
        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, dbname=database, user=user
        )
        connection.autocommit = True
        return connection

    def ask(self, database: str, user: str, statement: str) -> Any:
        with (
            closing(self.connect(database, user)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def answers(self) -> bool:
        try:
            return bool(self.ask("pgbouncer", "admin", "SHOW VERSION"))
        except psycopg2.OperationalError:
            return False

    def reconnect(self) -> None:
        self.ask("pgbouncer", "admin", "RECONNECT")


@pytest.fixture
def pooler(servers: Servers, tmp_path: Path) -> Iterator[Pooler]:
    port = servers.ports["postgresql"]
    databases = [
        f"{role} = host=127.0.0.1 port={port} dbname={name} user={role} "
        f"password={servers.passwords[f'postgresql:{role}']}"
        for name in SERVICES_WITH_TABLES
        for role in (name, f"{name}_owner")
    ]
    pooler = Pooler(free_ports()["gateway"])
    path = tmp_path / "pgbouncer.ini"
    path.write_text(CONFIG.format(databases="\n".join(databases), port=pooler.port))
    command = [
        debian_program("pgbouncer"),
        str(path),
        *(["--user=postgres"] if os.geteuid() == 0 else []),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        eventually(pooler.answers)
        yield pooler
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def config(config: dict[str, Any], pooler: Pooler, servers: Servers) -> dict[str, Any]:
    """Let the services use the pooler. Their roles have no time limits yet."""
    direct = f"@127.0.0.1:{servers.ports['postgresql']}/"
    pooled = f"@127.0.0.1:{pooler.port}/"
    with closing(psycopg2.connect(servers.superuser_dsn())) as connection:
        connection.autocommit = True
        for name in SERVICES_WITH_TABLES:
            reset = f"ALTER ROLE {name} IN DATABASE {name} RESET ALL"
            connection.cursor().execute(reset)
    uris = {key: uri.replace(direct, pooled) for key, uri in config["DB_URIS"].items()}
    owners = {
        f"{name}:Base": f"postgresql+psycopg2://{name}_owner{pooled}{name}_owner"
        for name in SERVICES_WITH_TABLES
    }
    return {**config, "DB_URIS": uris, "DB_OWNER_URIS": owners}


def test_an_order_is_paid_and_the_books_agree(
    config,
    pooler,
    run,
    rpc,
    sql,
    caplog,
    tmp_path,
) -> None:
    """The migration, the audit and the replay work too."""
    check_databases(config, SERVICES_WITH_TABLES)
    for name in SERVICES_WITH_TABLES:
        migrate_tables(config, name)
    with eventlet.Timeout(DEADLINE_S):
        for service in (Users, Billing, Orders, Notifications):
            run(service)
    user_id = rpc.users.create(**ANN)["user"]["id"]
    rpc.billing.deposit(user_id=user_id, amount_minor=500, ref="salary")
    order = rpc.orders.place(user_id=user_id, price_minor=300, key="k", request_id="r")
    assert order["status"] == "paid"
    eventually(lambda: rpc.notifications.list(user_id=user_id, limit=1)["items"])
    assert rpc.billing.audit()["status"] == "balanced"
    assert audit(config)["first"] == []
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    sql("notifications", "DELETE FROM letters")
    assert replay(["--config", str(path), "--settled"]) == 0
    eventually(lambda: rpc.notifications.list(user_id=user_id, limit=1)["items"])
    for name in SERVICES_WITH_TABLES:
        read_only = pooler.ask(name, name, "SHOW default_transaction_read_only")
        assert read_only == [("off",)]
        assert pooler.ask(name, name, "SHOW statement_timeout") == [("5s",)]
    assert NOT_IN_FORCE not in caplog.messages


def test_sessions_without_limits_are_reported_once(config, pooler, run, caplog) -> None:
    clients = [pooler.connect("billing", "billing") for _ in range(2)]
    # Two transactions at once, so that the pooler needs two sessions.
    for statement in ("BEGIN", "ROLLBACK"):
        for client in clients:
            client.cursor().execute(statement)
    for client in clients:
        client.close()
    with eventlet.Timeout(DEADLINE_S):
        run(Billing)
    assert caplog.messages.count(NOT_IN_FORCE) == 1
    pooler.reconnect()
    caplog.clear()
    run(Billing)
    assert NOT_IN_FORCE not in caplog.messages
    assert pooler.ask("billing", "billing", "SHOW lock_timeout") == [("5s",)]

"""Run a private RabbitMQ node and a private PostgreSQL cluster, for the suite or for tests.

    servers = Servers(Path(".run"), free_ports())
    servers.start()
    os.environ |= servers.env()  # or servers.env("billing")
    ...
    servers.stop()

Both listen on 127.0.0.1 only. They share no port, socket, cookie, port mapper or file with the
system's own servers. Root runs them as the users that Debian's packages created.

Each service has a user of the broker and a role in its database, with random passwords. The
permissions on the broker are those of bus.yaml (dev/broker.py). Each start loads them.
"""

import json
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import psycopg2

from dev import state as folder
from dev.broker import ALL_RIGHTS, BUS, MIGRATIONS, definitions, users, with_all_rights
from dev.failure import Failure
from dev.passwords import Passwords, write_private
from dev.ports import Ports, accepts, check_free
from dev.supervisor import Program, Supervisor, wait_for

DATABASES = ("users", "billing", "orders", "notifications")
# Debian's wrappers in /usr/sbin know only the system's node.
RABBITMQ = Path("/usr/lib/rabbitmq/bin")
POSTGRESQL = Path("/usr/lib/postgresql")
MIN_POSTGRESQL = 15
MIN_RABBITMQ = (3, 10)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START_TIMEOUT_S = 90

# Variables for other servers, which would change these ones.
FOREIGN_VARIABLES = re.compile(r"RABBITMQ_|ERL_|PG[A-Z]|SUPERVISOR_")

RABBITMQ_CONF = """\
listeners.tcp.1 = 127.0.0.1:{port}
load_definitions = {definitions}
vm_memory_high_watermark.relative = 0.4
disk_free_limit.absolute = 50MB
max_message_size = 2097152
log.file = false
log.console = true
log.console.level = info
log.console.formatter = json
log.connection.level = warning
"""

POSTGRESQL_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "600",  # the limits of all roles, and a reserve for tools
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    # Statements contain password hashes, addresses and letters. Keep them out of the log: failed
    # statements, parameters, and the details of errors, which name the row.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}
# Limits per role, so that no role can use all connections. Each copy of a service has two pools
# (DB_POOL_SIZE).
SERVICE_CONNECTIONS = 130
OWNER_CONNECTIONS = 10

# The names of all roles, and of all databases with the prefix "db:".
ROLES_AND_DATABASES = """
    SELECT rolname FROM pg_roles
    UNION
    SELECT 'db:' || datname FROM pg_database
"""


class Servers:
    """The servers of one state folder.

    With `tied` they end with the thread that started them, so that a killed test run leaves no
    process behind.
    """

    def __init__(
        self,
        state: Path,
        ports: Ports,
        *,
        broker: bool = True,
        database: bool = True,
        tied: bool = True,
        permissions: Sequence[Path] = (BUS,),
    ) -> None:
        self.permissions = permissions
        self.wanted = state
        self.state = folder.make(state)
        self.ports = ports
        self.broker = broker
        self.database = database
        self.tied = tied
        self.supervisor = Supervisor(self.state)
        self.passwords = Passwords(self.state / "passwords.json")

    def start(
        self, more: list[Program] | None = None, environ: Mapping[str, str] = os.environ
    ) -> None:
        """Start the servers and wait until both respond and all databases exist.

        supervisord also learns the `more` programs, but does not start them.
        Raises Failure if a port is in use, a program is missing, or a server does not respond.
        """
        if self.supervisor.pid() is None:
            self._begin(more or [], environ)
        if self.broker:
            self.supervisor.start("epmd")
            self.supervisor.start("rabbitmq")
        if self.database:
            self._make_cluster()  # while RabbitMQ starts
            self.supervisor.start("postgresql")
            self._await("postgresql", self._database_responds)
            self._make_databases()
        if self.broker:
            self._await("rabbitmq", self._broker_responds)
            self.load_permissions()

    def stop(self) -> bool:
        """Stop all programs of the supervisor. Return whether anything was running."""
        return self.supervisor.stop()

    def erase(self) -> None:
        """Stop all programs and remove the state folder."""
        self.stop()
        folder.remove(self.wanted)

    def env(self, user: str = ALL_RIGHTS) -> dict[str, str]:
        """Return the variables of config.yaml with the URIs of these servers.

        They are only the URIs that this user of the broker needs: see `uri_names`.
        """
        uris = self._broker_uris(user) | self._database_uris()
        return {name: uris[name] for name in uri_names(user) if name in uris}

    def _broker_uris(self, user: str) -> dict[str, str]:
        if not self.broker:
            return {}
        password = self.passwords[f"rabbitmq:{user}"]
        address = f"127.0.0.1:{self.ports['rabbitmq']}"
        return {"AMQP_URI": f"amqp://{user}:{password}@{address}/"}

    def _database_uris(self) -> dict[str, str]:
        if not self.database:
            return {}
        uris = {}
        for name in DATABASES:
            database = f"127.0.0.1:{self.ports['postgresql']}/{name}"
            for role, variable in ((name, "DB_URI"), (f"{name}_owner", "DB_OWNER_URI")):
                user = f"{role}:{self.passwords[f'postgresql:{role}']}"
                uri = f"postgresql+psycopg2://{user}@{database}"
                uris[f"{name.upper()}_{variable}"] = uri
        return uris

    def superuser_dsn(self, name: str = "postgresql") -> str:
        """Return psycopg2's DSN of the superuser. `name` is the name of the port."""
        password = (self.state / "superuser.password").read_text()
        port = self.ports[name]
        return f"host=127.0.0.1 port={port} user=postgres password={password} dbname=postgres"

    def rabbitmqctl(self, *arguments: str) -> str:
        """Run rabbitmqctl on the private node. Return its output, or raise CalledProcessError."""
        command = [str(RABBITMQ / "rabbitmqctl"), *arguments]
        done = _run(command, "rabbitmq", self._rabbitmq_env(), self.state / "rabbitmq")
        done.check_returncode()
        return done.stdout

    def names(self) -> list[str]:
        """Return the programs in the order in which they start."""
        names: list[str] = []
        if self.broker:
            names += ["epmd", "rabbitmq"]
        if self.database:
            names.append("postgresql")
        return names

    def responds(self, name: str) -> bool:
        """Return whether the program accepts clients now."""
        if name == "rabbitmq":
            return self._broker_responds()
        if name == "postgresql":
            return self._database_responds()
        return accepts(self.ports[name])

    def _begin(self, more: list[Program], environ: Mapping[str, str]) -> None:
        self.supervisor.stop()  # processes of a killed supervisord would use the ports
        check_free(self.ports, self.names())
        programs = []
        if self.broker:
            check_free(self.ports, ["erlang"])
            self._prepare_rabbitmq()
            programs += [self._epmd(), self._rabbitmq()]
        if self.database:
            programs.append(self._postgresql())
            self._remove_stale_lock()
        kept = {
            name: value
            for name, value in environ.items()
            if not FOREIGN_VARIABLES.match(name)
        }
        self.supervisor.begin([*programs, *more], kept, tied=self.tied)

    def _await(self, name: str, responds: Callable[[], bool]) -> None:
        if not wait_for(responds, START_TIMEOUT_S):
            log = self.supervisor.log(name)
            problem = f"{name} does not respond after {START_TIMEOUT_S} s"
            raise Failure(f"{problem}: see {log}\n{tail(log)}")

    # RabbitMQ

    def _prepare_rabbitmq(self) -> None:
        _check_rabbitmq()
        home = self._own_folder("rabbitmq", "rabbitmq")
        cookie = home / ".erlang.cookie"
        if not cookie.exists():  # Erlang would create a weak one
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex(32))
        settings = {
            "port": self.ports["rabbitmq"],
            "definitions": self._definitions_file,
        }
        (home / "rabbitmq.conf").write_text(RABBITMQ_CONF.format(**settings))
        write_private(self._definitions_file, self._definitions())
        (home / "enabled_plugins").write_text("[].\n")
        _give(home, _user("rabbitmq"))

    @property
    def _definitions_file(self) -> Path:
        return self.state / "rabbitmq" / "users.json"

    def _definitions(self) -> str:
        """Return the broker's users and permissions, with the user that has all rights."""
        known = {
            user: self.passwords[f"rabbitmq:{user}"]
            for user in users(*self.permissions)
        }
        found = definitions(known, *self.permissions)
        all_rights = with_all_rights(self.passwords[f"rabbitmq:{ALL_RIGHTS}"])
        for kind, more in all_rights.items():
            found[kind] += more
        return json.dumps(found, indent=1)

    def load_permissions(self, *, again: bool = False) -> None:
        """Load users and permissions into the running broker if they have changed."""
        wanted = self._definitions()
        if again or self._definitions_file.read_text() != wanted:
            write_private(self._definitions_file, wanted, _user("rabbitmq"))
            self.rabbitmqctl("import_definitions", str(self._definitions_file))

    def _rabbitmq_env(self) -> dict[str, str]:
        home = self.state / "rabbitmq"
        return {
            "PATH": PATH,
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(self.ports["epmd"]),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # Otherwise an Erlang program may start a port mapper that keeps running.
            "ERL_AFLAGS": "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_NODENAME": "shop@localhost",
            "RABBITMQ_DIST_PORT": str(self.ports["erlang"]),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(home / "none"),  # instead of the system's
            # The node replaces its shell, so that supervisord supervises the node itself.
            "RUNNING_UNDER_SYSTEMD": "true",
            # Debian's "none" makes each wake-up of a thread slow: the start takes 5 s instead of 2.
            "RABBITMQ_SCHEDULER_BUSY_WAIT_THRESHOLD": "very_short",
        }

    def _epmd(self) -> Program:
        command = ["epmd", "-address", "127.0.0.1", "-port", str(self.ports["epmd"])]
        return Program(
            name="epmd",
            command=command,
            directory=self.state,
            user=_user("rabbitmq"),
            env={"PATH": PATH},
        )

    def _rabbitmq(self) -> Program:
        return Program(
            name="rabbitmq",
            command=[str(RABBITMQ / "rabbitmq-server")],
            directory=self.state / "rabbitmq",
            user=_user("rabbitmq"),
            env=self._rabbitmq_env(),
        )

    def _broker_responds(self) -> bool:
        """Return whether RabbitMQ greets a connection. Listening is its last step of starting."""
        address = ("127.0.0.1", self.ports["rabbitmq"])
        try:
            with socket.create_connection(address, timeout=2) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    # PostgreSQL

    def _make_cluster(self) -> None:
        """Run initdb once. It writes to another folder first, so that it can be interrupted."""
        data = self._own_folder("postgresql", "postgres") / "data"
        if data.exists():
            return
        unfinished, password = data.with_name("unfinished"), data.with_name("password")
        shutil.rmtree(unfinished, ignore_errors=True)
        secret = secrets.token_hex(32)
        for path, owner in (
            (self.state / "superuser.password", None),
            (password, _user("postgres")),
        ):
            path.touch(mode=0o600)
            path.write_text(secret)
            _give(path, owner)
        command = [str(self.postgresql_programs() / "initdb"), "-D", str(unfinished)]
        command += ["--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8"]
        command += ["--auth=scram-sha-256"]
        command += [f"--pwfile={password}", "--no-sync", "--no-instructions"]
        made = _run(command, "postgres", {"PATH": PATH}, data.parent)
        if made.returncode:
            raise Failure(f"initdb failed: {made.stderr.strip()}")
        password.unlink()
        unfinished.rename(data)

    def _remove_stale_lock(self) -> None:
        """Delete a postmaster.pid that names a process of another program.

        After a reboot another process may have the process id, and then PostgreSQL would not
        start. If no process has it, PostgreSQL deletes the file.
        """
        lock = self.state / "postgresql" / "data" / "postmaster.pid"
        if lock.exists() and Path("/proc", lock.read_text().split()[0]).exists():
            lock.unlink()  # this cluster does not run now

    def postgresql_programs(self) -> Path:
        """Return the folder of the programs, of the cluster's version or else the newest one."""
        version = self.state / "postgresql" / "data" / "PG_VERSION"
        installed = [int(p.parts[4]) for p in POSTGRESQL.glob("[0-9]*/bin/postgres")]
        advice = f"install postgresql, version {MIN_POSTGRESQL} or later"
        if not installed:
            raise Failure(f"PostgreSQL is missing: {advice}")
        newest = max(installed)
        if newest < MIN_POSTGRESQL:
            raise Failure(f"PostgreSQL {newest} is too old: {advice}")
        wanted = int(version.read_text()) if version.exists() else newest
        if wanted not in installed:
            raise Failure(
                f"{self.state} contains data of PostgreSQL {wanted}: install postgresql-{wanted}"
            )
        return POSTGRESQL / str(wanted) / "bin"

    def postgresql_command(self, data: Path, name: str = "postgresql") -> list[str]:
        """Return the command of PostgreSQL for a data directory, on the port of that name."""
        command = [str(self.postgresql_programs() / "postgres"), "-D", str(data)]
        settings = POSTGRESQL_SETTINGS | {"port": str(self.ports[name])}
        for setting, value in settings.items():
            command += ["-c", f"{setting}={value}"]
        return command

    def _postgresql(self) -> Program:
        return Program(
            name="postgresql",
            command=self.postgresql_command(Path("data")),
            directory=self._own_folder("postgresql", "postgres"),
            user=_user("postgres"),
            env={"PATH": PATH, "LC_ALL": "C.UTF-8"},
            # A fast shutdown. With SIGTERM it would wait for its clients to disconnect.
            stop_signal="INT",
        )

    def _database_responds(self) -> bool:
        try:
            psycopg2.connect(self.superuser_dsn(), connect_timeout=2).close()
        except (psycopg2.OperationalError, OSError):
            return False
        return True

    def _make_databases(self) -> None:
        """Create missing roles and databases, and set the passwords of all roles.

        Each role may connect to its own database only.
        """
        connection = psycopg2.connect(self.superuser_dsn())
        connection.autocommit = True  # CREATE DATABASE cannot run in a transaction
        with connection.cursor() as cursor:
            cursor.execute(ROLES_AND_DATABASES)
            present = {row[0] for row in cursor.fetchall()}
            cursor.execute("REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC")
            for name in DATABASES:
                owner = f"{name}_owner"
                limits = {name: SERVICE_CONNECTIONS, owner: OWNER_CONNECTIONS}
                for role, connections in limits.items():
                    verb = "ALTER" if role in present else "CREATE"
                    password = self.passwords[f"postgresql:{role}"]
                    cursor.execute(f"{verb} ROLE {role} LOGIN PASSWORD '{password}'")
                    cursor.execute(f"ALTER ROLE {role} CONNECTION LIMIT {connections}")
                if f"db:{name}" not in present:
                    cursor.execute(f"CREATE DATABASE {name} OWNER {owner}")
                cursor.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
                cursor.execute(f"GRANT CONNECT ON DATABASE {name} TO {name}")
        connection.close()

    def _own_folder(self, name: str, user: str) -> Path:
        """Create a folder in the state folder, owned by the user of the server. Return its path."""
        path = self.state / name
        path.mkdir(mode=0o700, exist_ok=True)
        owner = _user(user)
        if owner and path.owner() != owner:
            _give(path, owner)
        elif not owner and path.stat().st_uid != os.geteuid():
            problem = f"{path} belongs to {path.owner()}"
            raise Failure(f"{problem}: run as root, or remove it")
        return path


def uri_names(user: str) -> list[str]:
    """Return the names of the variables with the URIs that a user of the broker needs.

    A service needs the URIs of the broker and of its own database. Migrations need all.
    """
    databases = [user] if user in DATABASES else []
    kinds = ["DB_URI"]
    if user in (ALL_RIGHTS, MIGRATIONS):
        databases, kinds = list(DATABASES), ["DB_URI", "DB_OWNER_URI"]
    uris = [f"{name.upper()}_{kind}" for name in databases for kind in kinds]
    return ["AMQP_URI", *uris]


def tail(log: Path, lines: int = 15, start: int = 0) -> str:
    """Return the last lines of a log, of those that begin at byte `start` or later."""
    if not log.exists():
        return ""
    text = log.read_bytes()[start:].decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def _check_rabbitmq() -> None:
    """Raise Failure if RabbitMQ is missing or too old.

    The version comes from the name of its folder: `rabbitmqctl version` would take a second.
    """
    has_server = (RABBITMQ / "rabbitmq-server").exists()
    if not has_server or not shutil.which("epmd", path=PATH):
        raise Failure("RabbitMQ is missing: install rabbitmq-server")
    versions = []
    for path in RABBITMQ.parent.glob("lib/rabbitmq_server-*"):
        for major, minor in re.findall(r"-(\d+)\.(\d+)", str(path)):
            versions.append((int(major), int(minor)))
    if versions and max(versions) < MIN_RABBITMQ:
        raise Failure("RabbitMQ is too old: install version 3.10 or later")


def _user(name: str) -> str | None:
    """Return the user that a server runs as. None is the current user, unless it is root."""
    return name if os.geteuid() == 0 else None


def _run(
    command: list[str], user: str, env: Mapping[str, str], cwd: Path
) -> CompletedProcess[str]:
    """Run a command as the user of a server and return its result."""
    owner = _user(user)
    return subprocess.run(
        command,
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        user=owner,
        group=pwd.getpwnam(owner).pw_gid if owner else None,
        extra_groups=[] if owner else None,
    )


def _give(path: Path, owner: str | None) -> None:
    """Change the owner of the path and of its content."""
    if owner:
        subprocess.run(
            ["chown", "-R", "--no-dereference", f"{owner}:", str(path)], check=True
        )

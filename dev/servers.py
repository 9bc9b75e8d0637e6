"""A private RabbitMQ node and a private PostgreSQL cluster, for the suite or for tests.

    servers = Servers(Path(".run"), free_ports())
    servers.start()
    os.environ |= servers.env()  # or servers.env("billing")
    ...
    servers.stop()

Both listen on 127.0.0.1 only and share nothing with the system's own: no port, no socket, no
cookie, no port mapper, no file. As root they run as the users Debian's packages made for them.

Each service has a user of the broker and a role in its database, with random passwords. The
permissions on the broker are those of bus.yaml (dev/broker.py). They come into force at each start.
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
RABBITMQ = Path(
    "/usr/lib/rabbitmq/bin"
)  # Debian's wrappers in /usr/sbin know only the system's node
POSTGRESQL = Path("/usr/lib/postgresql")
OLDEST_POSTGRESQL = 15
OLDEST_RABBITMQ = (3, 10)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START_TIMEOUT_S = 90

# What would change the private servers when it is set for others.
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
    "max_connections": "600",  # the limits of all roles, and whoever looks
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    # Statements hold hashes of passwords, addresses and letters. The log has none of them: no failed
    # statement, no parameter, and no detail, which names the row that an error is about.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}
# Connections of a role: none can take all. A service has two pools (DB_POOL_SIZE) in each copy.
SERVICE_CONNECTIONS, OWNER_CONNECTIONS = 130, 10


class Servers:
    """The servers of one state folder.

    `tied`: they end with the thread that started them, so that a killed test run leaves nothing.
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
        """Starts what does not run and returns when both answer and all databases exist.

        `more` programs are made known to the same supervisord, not started.
        Raises Failure when a port is taken, a program missing, or the wait is over.
        """
        if self.supervisor.pid() is None:
            self._begin(more or [], environ)
        if self.broker:
            self.supervisor.start("epmd")
            self.supervisor.start("rabbitmq")
        if self.database:
            self._make_cluster()  # while RabbitMQ starts
            self.supervisor.start("postgresql")
            self._await("postgresql", self._database_answers)
            self._make_databases()
        if self.broker:
            self._await("rabbitmq", self._broker_answers)
            self.load_permissions()

    def stop(self) -> bool:
        """Ends them and what else their supervisord runs; returns whether anything ran."""
        return self.supervisor.stop()

    def erase(self) -> None:
        """Ends them and removes the state folder."""
        self.stop()
        folder.remove(self.wanted)

    def env(self, user: str = ALL_RIGHTS) -> dict[str, str]:
        """The environment variables by which config.yaml finds these servers.

        They are for one user of the broker, and name only what that user needs: see `uri_names`.
        """
        uris = self._broker_uris(user) | self._database_uris()
        return {name: uris[name] for name in uri_names(user) if name in uris}

    def _broker_uris(self, user: str) -> dict[str, str]:
        if not self.broker:
            return {}
        password = self.passwords[f"rabbitmq:{user}"]
        return {
            "AMQP_URI": f"amqp://{user}:{password}@127.0.0.1:{self.ports['rabbitmq']}/"
        }

    def _database_uris(self) -> dict[str, str]:
        uris = {}
        for name in DATABASES if self.database else ():
            for role, variable in ((name, "DB_URI"), (f"{name}_owner", "DB_OWNER_URI")):
                user = f"{role}:{self.passwords[f'postgresql:{role}']}"
                place = f"127.0.0.1:{self.ports['postgresql']}/{name}"
                uris[f"{name.upper()}_{variable}"] = (
                    f"postgresql+psycopg2://{user}@{place}"
                )
        return uris

    def superuser_dsn(self, name: str = "postgresql") -> str:
        """Connects psycopg2 to the cluster's own database as its superuser; `name` is a port's."""
        password = (self.state / "superuser.password").read_text()
        port = self.ports[name]
        return f"host=127.0.0.1 port={port} user=postgres password={password} dbname=postgres"

    def rabbitmqctl(self, *arguments: str) -> str:
        """Runs rabbitmqctl on the private node and returns its output; raises CalledProcessError."""
        command = [str(RABBITMQ / "rabbitmqctl"), *arguments]
        done = _run(command, "rabbitmq", self._rabbitmq_env(), self.state / "rabbitmq")
        done.check_returncode()
        return done.stdout

    def names(self) -> list[str]:
        """The programs, in the order in which they start."""
        return ["epmd", "rabbitmq"] * self.broker + ["postgresql"] * self.database

    def answers(self, name: str) -> bool:
        """Whether the program serves now."""
        checks = {
            "rabbitmq": self._broker_answers,
            "postgresql": self._database_answers,
        }
        return checks[name]() if name in checks else accepts(self.ports[name])

    def _begin(self, more: list[Program], environ: Mapping[str, str]) -> None:
        self.supervisor.stop()  # what a killed supervisord left would hold the ports
        check_free(self.ports, [*self.names(), *(["erlang"] if self.broker else [])])
        programs = []
        if self.broker:
            self._prepare_rabbitmq()
            programs += [self._epmd(), self._rabbitmq()]
        if self.database:
            programs.append(self._postgresql())
            self._forget_other_postgres()
        kept = {
            name: value
            for name, value in environ.items()
            if not FOREIGN_VARIABLES.match(name)
        }
        self.supervisor.begin([*programs, *more], kept, tied=self.tied)

    def _await(self, name: str, answers: Callable[[], bool]) -> None:
        if not wait_for(answers, START_TIMEOUT_S):
            log = self.supervisor.log(name)
            raise Failure(
                f"{name} does not answer after {START_TIMEOUT_S} s: see {log}\n{tail(log)}"
            )

    # RabbitMQ

    def _prepare_rabbitmq(self) -> None:
        _check_rabbitmq()
        home = self._own_folder("rabbitmq", "rabbitmq")
        cookie = home / ".erlang.cookie"
        if not cookie.exists():  # Erlang would make a weak one
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
        """The broker's users and permissions, among them the user with all rights."""
        known = {
            user: self.passwords[f"rabbitmq:{user}"]
            for user in users(*self.permissions)
        }
        found = definitions(known, *self.permissions)
        for kind, more in with_all_rights(
            self.passwords[f"rabbitmq:{ALL_RIGHTS}"]
        ).items():
            found[kind] += more
        return json.dumps(found, indent=1)

    def load_permissions(self, *, again: bool = False) -> None:
        """Bring the running broker's users and permissions up to date, unless it has loaded them."""
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
            # No Erlang program may start a port mapper of its own, which nobody would end.
            "ERL_AFLAGS": "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_NODENAME": "shop@localhost",
            "RABBITMQ_DIST_PORT": str(self.ports["erlang"]),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(home / "none"),  # and not the system's
            # The node becomes the supervised process itself: no shell between that can die alone.
            "RUNNING_UNDER_SYSTEMD": "true",
            # Debian's "none" makes each wake-up of a thread slow: 5 s to start instead of 2.
            "RABBITMQ_SCHEDULER_BUSY_WAIT_THRESHOLD": "very_short",
        }

    def _epmd(self) -> Program:
        command = ["epmd", "-address", "127.0.0.1", "-port", str(self.ports["epmd"])]
        return Program("epmd", command, self.state, _user("rabbitmq"), {"PATH": PATH})

    def _rabbitmq(self) -> Program:
        return Program(
            "rabbitmq",
            [str(RABBITMQ / "rabbitmq-server")],
            self.state / "rabbitmq",
            _user("rabbitmq"),
            self._rabbitmq_env(),
        )

    def _broker_answers(self) -> bool:
        """Whether a connection is greeted, which RabbitMQ does as its last step of starting."""
        try:
            with socket.create_connection(
                ("127.0.0.1", self.ports["rabbitmq"]), 2
            ) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    # PostgreSQL

    def _make_cluster(self) -> None:
        """initdb, once: into another folder first, so that one cut short is done again."""
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

    def _forget_other_postgres(self) -> None:
        """Delete a postmaster.pid that names a process of another cluster.

        After a reboot that is possible, and would keep ours from starting. PostgreSQL itself clears up
        after a process that is gone.
        """
        lock = self.state / "postgresql" / "data" / "postmaster.pid"
        if lock.exists() and Path("/proc", lock.read_text().split()[0]).exists():
            lock.unlink()  # none of ours runs now

    def postgresql_programs(self) -> Path:
        """Where the programs are of the version that the cluster has or will have."""
        version = self.state / "postgresql" / "data" / "PG_VERSION"
        found = sorted(
            (int(p.parts[4]) for p in POSTGRESQL.glob("[0-9]*/bin/postgres")),
            reverse=True,
        )
        if not found or found[0] < OLDEST_POSTGRESQL:
            had = (
                f"PostgreSQL {found[0]} is too old"
                if found
                else "PostgreSQL is missing"
            )
            raise Failure(
                f"{had}: install postgresql, version {OLDEST_POSTGRESQL} or later"
            )
        wanted = int(version.read_text()) if version.exists() else found[0]
        if wanted not in found:
            raise Failure(
                f"{self.state} holds data of PostgreSQL {wanted}: install postgresql-{wanted}"
            )
        return POSTGRESQL / str(wanted) / "bin"

    def postgresql_command(self, data: Path, name: str = "postgresql") -> list[str]:
        """What runs PostgreSQL on a data directory, on the port of that name."""
        settings = POSTGRESQL_SETTINGS | {"port": str(self.ports[name])}
        options = [
            word
            for name, value in settings.items()
            for word in ("-c", f"{name}={value}")
        ]
        return [str(self.postgresql_programs() / "postgres"), "-D", str(data), *options]

    def _postgresql(self) -> Program:
        return Program(
            "postgresql",
            self.postgresql_command(Path("data")),
            self._own_folder("postgresql", "postgres"),
            _user("postgres"),
            {"PATH": PATH, "LC_ALL": "C.UTF-8"},
            stop_signal="INT",  # fast: SIGTERM would wait until the last client has left
        )

    def _database_answers(self) -> bool:
        try:
            psycopg2.connect(self.superuser_dsn(), connect_timeout=2).close()
        except (psycopg2.OperationalError, OSError):
            return False
        return True

    def _make_databases(self) -> None:
        """Roles and databases that are missing, and the passwords of all roles.

        Each role may connect to its own database only.
        """
        connection = psycopg2.connect(self.superuser_dsn())
        connection.autocommit = True  # CREATE DATABASE allows no transaction
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT rolname FROM pg_roles UNION SELECT 'db:' || datname FROM pg_database"
            )
            present = {row[0] for row in cursor.fetchall()}
            cursor.execute("REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC")
            for name in DATABASES:
                for role, connections in (
                    (name, SERVICE_CONNECTIONS),
                    (f"{name}_owner", OWNER_CONNECTIONS),
                ):
                    verb = "ALTER" if role in present else "CREATE"
                    password = self.passwords[f"postgresql:{role}"]
                    cursor.execute(f"{verb} ROLE {role} LOGIN PASSWORD '{password}'")
                    cursor.execute(f"ALTER ROLE {role} CONNECTION LIMIT {connections}")
                if f"db:{name}" not in present:
                    cursor.execute(f"CREATE DATABASE {name} OWNER {name}_owner")
                cursor.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
                cursor.execute(f"GRANT CONNECT ON DATABASE {name} TO {name}")
        connection.close()

    def _own_folder(self, name: str, user: str) -> Path:
        """A folder of the state folder that belongs to the user a server runs as."""
        path = self.state / name
        path.mkdir(mode=0o700, exist_ok=True)
        owner = _user(user)
        if owner and path.owner() != owner:
            _give(path, owner)
        elif not owner and path.stat().st_uid != os.geteuid():
            raise Failure(
                f"{path} belongs to {path.owner()}: run as root, or remove it"
            )
        return path


def uri_names(user: str) -> list[str]:
    """The variables with the URIs that a user of the broker needs.

    A service has those of the broker and of its own database, migrations have all.
    """
    databases = [user] if user in DATABASES else []
    kinds = ["DB_URI"]
    if user in (ALL_RIGHTS, MIGRATIONS):
        databases, kinds = list(DATABASES), ["DB_URI", "DB_OWNER_URI"]
    return [
        "AMQP_URI",
        *(f"{name.upper()}_{kind}" for name in databases for kind in kinds),
    ]


def tail(log: Path, lines: int = 15, start: int = 0) -> str:
    """The last lines of a log that begin at byte `start` or later."""
    if not log.exists():
        return ""
    text = log.read_bytes()[start:].decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def _check_rabbitmq() -> None:
    """Raises Failure when RabbitMQ is missing or too old. Asking it would take a second."""
    if not (RABBITMQ / "rabbitmq-server").exists() or not shutil.which(
        "epmd", path=PATH
    ):
        raise Failure("RabbitMQ is missing: install rabbitmq-server")
    paths = [str(path) for path in RABBITMQ.parent.glob("lib/rabbitmq_server-*")]
    versions = [
        tuple(map(int, found))
        for path in paths
        for found in re.findall(r"-(\d+)\.(\d+)", path)
    ]
    if versions and max(versions) < OLDEST_RABBITMQ:
        raise Failure("RabbitMQ is too old: install version 3.10 or later")


def _user(name: str) -> str | None:
    """The user to run a server as: None, ourselves, unless we are root."""
    return name if os.geteuid() == 0 else None


def _run(
    command: list[str], user: str, env: Mapping[str, str], cwd: Path
) -> CompletedProcess[str]:
    """Runs a command to its end as the user that a server runs as."""
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
    """Makes the owner own the path and what is below."""
    if owner:
        subprocess.run(
            ["chown", "-R", "--no-dereference", f"{owner}:", str(path)], check=True
        )

"""Starts, stops and shows the whole suite: `python -m dev.cli VERB`, which `make` calls.

Where the environment sets AMQP_URI or the *_DB_URI, those servers are used and none is started.
The ports, and the variables that change them, are in dev/ports.py; RUN_DIR is where all that runs
keeps its files (`.run`).

Each process gets the URIs and secrets that it needs, as a user of its own. Below RUN_DIR, env/ has a
file for each user, for commands by hand: `. .run/env/operator`.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from nameko.exceptions import ConfigurationError

from chassis.secret_files import read_secret
from dev import state as folder
from dev.broker import ALL_RIGHTS, BUS, CHECKOUT, MIGRATIONS, OPERATOR
from dev.failure import Failure
from dev.passwords import exports, write_private
from dev.ports import Ports, accepts, check_free, ports_from
from dev.proxies import without_proxy
from dev.servers import DATABASES, Servers, tail, uri_names
from dev.supervisor import Program, wait_for

SERVICES = (*DATABASES, "gateway")
USERS = (*SERVICES, MIGRATIONS, OPERATOR, ALL_RIGHTS)  # of the broker
SIGNING_KEY = "TOKEN_SECRET"
SECRETS = (*uri_names(ALL_RIGHTS), SIGNING_KEY)
PRIVATE = frozenset(
    {*SECRETS, *(f"{name}_FILE" for name in SECRETS)}
)  # only some processes get them
SECOND = "2"
GATEWAYS = ("gateway", "gateway" + SECOND)
NOTHING_RUNS = "nothing runs: make up starts it"
READY_TIMEOUT_S = 120
HOPELESS_STARTS = (
    4  # a service that died so often while `up` waits will not come up by itself
)
WARNING = (
    "nameko.cli.main",
    "nameko.cli.commands",
    "nameko.containers",
    "chassis.broker",
    "chassis.db",
)
QUIET = {  # whatever imports pkg_resources or eventlet first warns that they will be retired
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": ",".join(f"ignore::Warning:{module}" for module in WARNING),
}


def further_copies(copies: int) -> list[str]:
    """The names of all but the first copy of each service: users2, billing2, ... users3, ..."""
    return [f"{name}{number}" for number in range(2, copies + 1) for name in SERVICES]


def service_of(name: str) -> str:
    """The service of which a program is a copy: users of users2."""
    return name.rstrip("0123456789")


SECOND_COPIES = tuple(further_copies(2))


class Suite:
    """The servers and the five services of one state folder.

    `external` are the URIs of servers that are someone else's to run. `tied`: all ends with the
    thread that called `up`. Of each service run so many `copies`: the second ones are named `users2` and
    so on, and the gateways share one port; the other copies need a port each (`further_copies`).
    `checkout` is the folder of the code that runs, `permissions` are files like bus.yaml.
    """

    def __init__(
        self,
        state: Path,
        ports: Ports,
        external: Mapping[str, str] | None = None,
        *,
        tied: bool = False,
        copies: int = 1,
        checkout: Path = CHECKOUT,
        permissions: Sequence[Path] = (BUS,),
    ) -> None:
        self.checkout = checkout
        more = further_copies(copies)
        self.services = [*SERVICES, *more]
        self.ports = ports | {
            name: ports["gateway"] for name in more if service_of(name) == "gateway"
        }
        self.external = dict(external or {})
        broker, database = (
            "AMQP_URI" not in self.external,
            "USERS_DB_URI" not in self.external,
        )
        self.servers = Servers(
            state,
            ports,
            broker=broker,
            database=database,
            tied=tied,
            permissions=permissions,
        )
        self.supervisor = self.servers.supervisor

    def env(self, user: str = ALL_RIGHTS) -> dict[str, str]:
        """The environment variables by which config.yaml finds what a user of the broker needs."""
        return {
            **self.private_env(user),
            "GATEWAY_PORT": str(self.ports["gateway"]),
            **(
                {"AMQP_USER_RESTRICTED": str(user != ALL_RIGHTS).lower()}
                if self.servers.broker
                else {}
            ),
        }

    def private_env(self, user: str) -> dict[str, str]:
        """Those with passwords and secrets. Servers of others have one URI for all users."""
        uris = {**self.servers.env(user), **self.external}
        found = {name: uris[name] for name in uri_names(user)}
        if user in ("gateway", ALL_RIGHTS):
            own = self.servers.passwords[SIGNING_KEY]
            found[SIGNING_KEY] = self.foreign(os.environ).get(SIGNING_KEY) or own
        return found

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['gateway']}"

    def up(self) -> None:
        """Starts what does not run and returns when all is ready; raises Failure otherwise."""
        if self.ready():
            print(f"Already up: {self.url}")
            return
        started = time.monotonic()
        self._check_ports()
        self.start_servers()
        _say(started, "broker and databases answer")
        self.migrate()
        _say(started, "tables and queues are up to date")
        self._start_services()
        _say(started, f"all services are ready: {self.url}")

    def start_servers(self) -> None:
        """Starts broker and databases, unless they are external or run."""
        services = [self._service(name) for name in self.services]
        write_private(self.settings_file, json.dumps(self._settings))
        self._write_env()
        public = {
            name: value for name, value in os.environ.items() if name not in PRIVATE
        }
        self.servers.start(services, public)

    def _write_env(self) -> None:
        """A file for each user that exports what its commands need, to be read by a shell."""
        place = self.servers.state / "env"
        place.mkdir(mode=0o700, exist_ok=True)
        for user in USERS:
            write_private(place / user, exports(self.private_env(user)))

    def environ(self, user: str = "") -> dict[str, str]:
        """The environment of a command that acts as this user; without one it gets no password."""
        public = {
            name: value for name, value in os.environ.items() if name not in PRIVATE
        }
        own = self.env(user) if user else {"GATEWAY_PORT": str(self.ports["gateway"])}
        return {**public, **own, **QUIET, **without_proxy(os.environ)}

    def migrate(self) -> None:
        """Brings tables and queues up to date; the servers must run."""
        log = self.supervisor.log("migrate")
        command = [sys.executable, "-m", "chassis.migrate", "--config", "config.yaml"]
        env = self.environ(MIGRATIONS)
        with log.open("w") as output:
            done = subprocess.run(
                command, cwd=self.checkout, env=env, stdout=output, stderr=output
            )
        if done.returncode:
            raise Failure(f"the migration failed: see {log}\n{tail(log)}")

    def restart(self) -> None:
        """The services again, with the code of now; the servers stay."""
        if self.supervisor.pid():
            self.supervisor.halt(*self.services)
        self.up()

    def down(self) -> bool:
        """Stops everything; returns whether anything ran."""
        return self.servers.stop()

    def ready(self) -> bool:
        """Whether all services answer /readyz with 200."""
        running = self.supervisor.processes()
        return all(running.get(name) and self.is_ready(name) for name in self.services)

    def status(self) -> list[tuple[str, ...]]:
        """A row for each program: name, state, process id, restarts, address, log."""
        running = self.supervisor.processes()
        return [
            self._row(name, running.get(name, 0))
            for name in (*self.servers.names(), *self.services)
        ]

    def check_unchanged(self) -> None:
        """Raises Failure when it runs with other settings, which `up` and `restart` would not change."""
        if (
            self.supervisor.pid()
            and json.loads(self.settings_file.read_text()) != self._settings
        ):
            raise Failure(
                "already up with other ports, servers, users or variables: make down first"
            )

    def check_answers(self, *, servers: bool, gateway: bool) -> None:
        """Raises Failure when what a command needs does not answer; servers of others are not asked."""
        own = [
            name
            for name in ("rabbitmq", "postgresql")
            if servers and name in self.servers.names()
        ]
        for name in [*own, *["gateway"] * gateway]:
            if not accepts(self.ports[name]):
                if self.supervisor.pid() is None:
                    raise Failure(NOTHING_RUNS)
                place = f"127.0.0.1:{self.ports[name]}"
                raise Failure(
                    f"{name} does not answer on {place}: make up starts what does not run"
                )

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "ports": self.ports,
            "external": self.external,
            "variables": _variables(self.foreign(os.environ)),
            "users": list(USERS),
        }

    def foreign(self, environ: Mapping[str, str]) -> dict[str, str]:
        """An environment without what a file of env/ has put there, and with the content of secret files."""
        own = self.servers.passwords.occur_in
        return with_secrets(
            {
                name: value
                for name, value in environ.items()
                if name not in PRIVATE or not own(value)
            }
        )

    @property
    def settings_file(self) -> Path:
        return self.servers.state / "settings.json"

    def command(self, name: str) -> list[str]:
        """What runs a service."""
        nameko = str(Path(sys.executable).with_name("nameko"))
        return [nameko, "run", "--config", "config.yaml", f"{service_of(name)}.service"]

    def _service(self, name: str) -> Program:
        ports = {"HEALTH_PORT": str(self.ports[name])}
        if service_of(name) == "gateway":  # on its own port: `is_ready` asks there
            ports = {"GATEWAY_HEALTH_PUBLIC": "true"}
        if len(self.services) > len(SERVICES):
            ports["GATEWAY_PORT_SHARED"] = "true"
        env = {**self.env(service_of(name)), **ports, **QUIET}
        return Program(
            name, self.command(name), self.checkout, env=env, group="services"
        )

    def _check_ports(self) -> None:
        if self.supervisor.pid() is None:
            self.supervisor.stop()  # what a killed supervisord left
        running = self.supervisor.processes()
        check_free(
            self.ports, [name for name in self.services if not running.get(name)]
        )

    def _start_services(self) -> None:
        starts = {name: self.supervisor.starts(name) for name in self.services}
        logs = {name: self.supervisor.log(name) for name in self.services}
        sizes = {
            name: log.stat().st_size if log.exists() else 0
            for name, log in logs.items()
        }
        deadline = time.monotonic() + READY_TIMEOUT_S
        for name in self.services:
            self.supervisor.start(name)
        for name in self.services:
            if not self._await_ready(name, deadline, starts[name] + HOPELESS_STARTS):
                lines = tail(
                    logs[name], start=sizes[name]
                )  # not those of earlier starts
                raise Failure(
                    f"{name} does not become ready, the others run (make down ends all): "
                    f"see {logs[name]}\n{lines}"
                )

    def _await_ready(self, name: str, deadline: float, too_many_starts: int) -> bool:
        wait_for(
            lambda: (
                self.is_ready(name) or self.supervisor.starts(name) >= too_many_starts
            ),
            timeout_s=deadline - time.monotonic(),
            every_s=0.1,
        )
        return self.is_ready(name)

    def is_ready(self, name: str) -> bool:
        """Whether a service answers /readyz with 200."""
        connection = HTTPConnection("127.0.0.1", self.ports[name], timeout=3)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def _row(self, name: str, pid: int) -> tuple[str, ...]:
        answers = self.is_ready if name in self.services else self.servers.answers
        state = ("ready" if answers(name) else "not ready") if pid else "stopped"
        restarts = str(max(self.supervisor.starts(name) - 1, 0)) if pid else "-"
        address = f"127.0.0.1:{self.ports[name]}"
        return (
            name,
            state,
            str(pid or "-"),
            restarts,
            address,
            str(self.supervisor.log(name)),
        )


def _variables(environ: Mapping[str, str]) -> str:
    """A digest of the variables that config.yaml reads and that are set (one is a secret)."""
    names = re.findall(r"\$\{(\w+)", (CHECKOUT / "config.yaml").read_text())
    ours = sorted((name, environ[name]) for name in names if name in environ)
    return hashlib.sha256(json.dumps(ours).encode()).hexdigest()


def with_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment with the content of a file in the place of the variable that names the file.

    Raises Failure where both are set, or a file is no secret.
    """
    found = {
        name: value for name, value in environ.items() if value or name not in PRIVATE
    }
    for name in SECRETS:
        variable = f"{name}_FILE"
        if path := found.pop(variable, ""):
            if name in found:
                raise Failure(f"{name} and {variable} are both set: unset one of them")
            try:
                found[name] = read_secret(variable, path)
            except ConfigurationError as error:
                raise Failure(str(error)) from None
    return found


def external_servers(environ: Mapping[str, str]) -> dict[str, str]:
    """The URIs of servers to use instead of own ones; raises Failure when some are missing.

    What has no owner's URI is migrated by the role that uses it.
    """
    external = {"AMQP_URI": environ["AMQP_URI"]} if environ.get("AMQP_URI") else {}
    uris = {
        f"{name.upper()}_DB_URI": environ.get(f"{name.upper()}_DB_URI", "")
        for name in DATABASES
    }
    owners = {name: name.replace("DB_URI", "DB_OWNER_URI") for name in uris}
    if not any(uris.values()) and not any(map(environ.get, owners.values())):
        return external
    if missing := [name for name, uri in uris.items() if not uri]:
        raise Failure(
            f"some databases are set but not all: set {', '.join(missing)} too"
        )
    if len({uri.rpartition("@")[2] for uri in uris.values()}) < len(uris):
        raise Failure(
            "two *_DB_URI name one database: each service needs its own, empty at first"
        )
    return (
        external
        | uris
        | {owner: environ.get(owner) or uris[name] for name, owner in owners.items()}
    )


def wanted_suite(state: Path) -> Suite:
    """The suite as the environment wants it."""
    environ = Suite(state, {}).foreign(os.environ)
    return Suite(state, ports_from(environ), external_servers(environ))


def present_suite(state: Path) -> Suite:
    """The suite as it runs, with the ports it was started with; as wanted when it does not run."""
    suite = Suite(state, {})
    if suite.supervisor.pid() is None:
        return wanted_suite(state)
    settings = json.loads(suite.settings_file.read_text())
    if settings.get("users") != list(USERS):
        raise Failure(
            "it was started by another version, with other users: make down first"
        )
    return Suite(state, settings["ports"], settings["external"])


def up(state: Path) -> int:
    suite = wanted_suite(state)
    suite.check_unchanged()
    suite.up()
    return 0


def migrate(state: Path) -> int:
    suite = present_suite(state)
    suite.start_servers()
    suite.migrate()
    print("Tables and queues are up to date.")
    return 0


def restart(state: Path) -> int:
    suite = present_suite(state)
    if suite.supervisor.pid() is None:
        raise Failure(NOTHING_RUNS)
    suite.check_unchanged()
    suite.restart()
    return 0


def down(state: Path) -> int:
    print("Stopped." if Suite(state, {}).down() else "Nothing was running.")
    return 0


def clean(state: Path) -> int:
    down(state)
    folder.remove(state)
    return 0


def status(state: Path) -> int:
    suite = present_suite(state)
    rows = suite.status()
    _print_table([("NAME", "STATE", "PID", "RESTARTS", "ADDRESS", "LOG"), *rows])
    for name in suite.external:
        print(f"{name} is set: that server is used.")
    if not suite.supervisor.pid() and suite.supervisor.orphans():
        print(
            "supervisord was killed, what it started is alone: make up (or down) ends it."
        )
    elif not suite.supervisor.pid():
        print(f"{NOTHING_RUNS}.")
    return 0 if all(row[1] == "ready" for row in rows) else 1


def hints(state: Path) -> int:
    """What to look at and what to try, after `make demo`."""
    suite = present_suite(state)
    print(HINTS.format(url=suite.url, logs=suite.supervisor.log("*")))
    return 0


HINTS = """
The suite stays up: {url}

Where to look
  make status   what runs, where, with which process ids
  make logs     {logs}
  README.md     the routes; every service also answers /healthz, /readyz and /metrics

What to try next
  curl -s --noproxy '*' {url}/users -H 'Content-Type: application/json' \\
    -d '{{"username": "ada'$RANDOM'", "email": "ada'$RANDOM'@example.org", "password": "correct horse"}}'
  make shell    then: n.rpc.billing.deposit(user_id="...", amount_minor=10000, ref="till-1")
  make newman   the scenario again
  make down     stops everything; make up starts it again, with all its data
"""


def logs(state: Path) -> int:
    """Follows all logs until Ctrl-C."""
    suite = present_suite(state)
    files = [
        str(file) for file in sorted(suite.supervisor.log("").parent.glob("*.log"))
    ]
    if suite.supervisor.pid() is None:
        last = f" (logs of the last run: {suite.supervisor.log('*')})" if files else ""
        raise Failure(NOTHING_RUNS + last)
    return _become(["tail", "-n", "20", "-F", *files], dict(os.environ))


def execute(state: Path, command: list[str], user: str, *, gateway: bool) -> int:
    """Becomes the command, with the environment that finds the suite."""
    suite = present_suite(state)
    suite.check_answers(servers=bool(user), gateway=gateway)
    return _become(command, suite.environ(user))


def _become(command: list[str], env: Mapping[str, str]) -> int:
    try:
        os.execvpe(command[0], command, env)  # noqa: S606 - the command is the caller's own
    except OSError as error:
        raise Failure(f"{command[0]}: {error.strerror}") from None


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Waits until no other command changes this suite."""
    descriptor = os.open(folder.make(state), os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _say(started: float, text: str) -> None:
    print(f"{time.monotonic() - started:5.1f} s  {text}", flush=True)


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.cli", description=__doc__)
    default = Path(os.environ.get("RUN_DIR") or CHECKOUT / ".run")
    parser.add_argument(
        "--state", type=Path, default=default, help="where it keeps its files"
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in (
        "up",
        "down",
        "restart",
        "migrate",
        "clean",
        "status",
        "hints",
        "logs",
    ):
        verbs.add_parser(verb)
    command = verbs.add_parser("exec")
    command.add_argument(
        "--user", choices=USERS, default="", help="whose URIs and secrets it gets"
    )
    command.add_argument(
        "--gateway", action="store_true", help="fail at once where it does not answer"
    )
    command.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    socket.setdefaulttimeout(
        10
    )  # seconds; a frozen supervisord would not answer for ever
    try:
        return run(arguments)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1


def run(arguments: argparse.Namespace) -> int:
    state: Path = arguments.state
    looking = {"status": status, "hints": hints, "logs": logs}
    changing = {
        "up": up,
        "down": down,
        "restart": restart,
        "migrate": migrate,
        "clean": clean,
    }
    if arguments.verb == "exec":
        return execute(
            state, arguments.command, arguments.user, gateway=arguments.gateway
        )
    if arguments.verb in looking:
        return looking[arguments.verb](state)
    with _alone(state):
        return changing[arguments.verb](state)


if __name__ == "__main__":
    sys.exit(main())

"""Start, stop and show the whole suite: `python -m dev.cli VERB`, which `make` calls.

If the environment sets AMQP_URI or the *_DB_URI variables, those servers are used and none is
started. The ports and their variables are in dev/ports.py. RUN_DIR is the state folder, `.run` by
default.

Each process acts as a user of its own and gets only the URIs and secrets that it needs. The
folder env/ below RUN_DIR has a file per user, for commands typed by hand: `. .run/env/operator`.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import secrets
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
from dev import state as state_folder
from dev.broker import ALL_RIGHTS, BUS, CHECKOUT, MIGRATIONS, OPERATOR
from dev.failure import Failure
from dev.page import TOKEN_FILE
from dev.passwords import exports, write_private
from dev.ports import PAGE, Ports, accepts, check_free, ports_from
from dev.proxies import without_proxy
from dev.servers import DATABASES, Servers, tail, uri_names
from dev.supervisor import Program, wait_for

SERVICES = (*DATABASES, "gateway")
USERS = (*SERVICES, MIGRATIONS, OPERATOR, ALL_RIGHTS)  # of the broker
SIGNING_KEY = "TOKEN_SECRET"
SECRETS = (*uri_names(ALL_RIGHTS), SIGNING_KEY)
# Only the processes that need them get these variables.
PRIVATE = frozenset({*SECRETS, *(f"{name}_FILE" for name in SECRETS)})
SECOND = "2"
GATEWAYS = ("gateway", "gateway" + SECOND)
NOTHING_RUNS = "nothing runs: make up starts the suite"
READY_TIMEOUT_S = 120
RESPONSE_TIMEOUT_S = 10  # of supervisord, which may be suspended
# A service that `up` has started four times is not expected to recover.
MAX_STARTS = 4
# Importing these modules warns that pkg_resources or eventlet is deprecated.
WARNING = (
    "nameko.cli.main",
    "nameko.cli.commands",
    "nameko.containers",
    "chassis.broker",
    "chassis.db",
    "chassis.rpc",
)
QUIET = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": ",".join(f"ignore::Warning:{module}" for module in WARNING),
}


def further_copies(copies: int) -> list[str]:
    """Return the names of all copies but the first: users2, billing2, ..., users3, ..."""
    return [f"{name}{number}" for number in range(2, copies + 1) for name in SERVICES]


def service_of(name: str) -> str:
    """Return the service of a copy: "users" for "users2"."""
    return name.rstrip("0123456789")


SECOND_COPIES = tuple(further_copies(2))


class Suite:
    """The servers and the five services of one state folder.

    ports        with PAGE, the suite has the development server
    external     URIs of servers that this suite does not start
    tied         all processes end with the thread that called `up`
    copies       of each service. The second copies are users2 and so on. The gateways share a
                 port. Every other copy needs a port: see `further_copies`
    checkout     folder of the code to run
    permissions  files like bus.yaml
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
        page = [PAGE] if PAGE in ports else []
        self.services = [*SERVICES, *more, *page]
        self.ports = ports | {
            name: ports["gateway"] for name in more if service_of(name) == "gateway"
        }
        self.external = dict(external or {})
        self.servers = Servers(
            state,
            ports,
            broker="AMQP_URI" not in self.external,
            database="USERS_DB_URI" not in self.external,
            tied=tied,
            permissions=permissions,
        )
        self.supervisor = self.servers.supervisor

    def env(self, user: str = ALL_RIGHTS) -> dict[str, str]:
        """Return the variables of config.yaml for a user of the broker."""
        variables = self.private_env(user)
        variables["GATEWAY_PORT"] = str(self.ports["gateway"])
        if self.servers.broker:
            is_restricted = user != ALL_RIGHTS
            variables["AMQP_USER_RESTRICTED"] = str(is_restricted).lower()
        return variables

    def private_env(self, user: str) -> dict[str, str]:
        """Return the variables with passwords. All users share the URIs of external servers."""
        uris = {**self.servers.env(user), **self.external}
        found = {name: uris[name] for name in uri_names(user)}
        if user in ("gateway", ALL_RIGHTS):
            own = self.servers.passwords[SIGNING_KEY]
            outer = self.outer_variables(os.environ)
            found[SIGNING_KEY] = outer.get(SIGNING_KEY) or own
        return found

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['gateway']}"

    @property
    def page_url(self) -> str:
        """Return the URL of the page with its token, or "" without the development server."""
        if PAGE not in self.services or not self._token_file.exists():
            return ""
        address = f"http://127.0.0.1:{self.ports[PAGE]}"
        return f"{address}/#dev={self._token_file.read_text()}"

    @property
    def _token_file(self) -> Path:
        return self.servers.state / TOKEN_FILE

    def up(self) -> None:
        """Start all stopped processes and wait until they are ready. Raises Failure."""
        if self.ready():
            print(f"Already up: {self.url}")
            self.print_page()
            return
        started = time.monotonic()
        self._check_ports()
        self.start_servers()
        _say(started, "broker and databases are running")
        self.migrate()
        _say(started, "tables and queues are up to date")
        self._start_services()
        _say(started, f"all services are ready: {self.url}")
        self.print_page()

    def print_page(self) -> None:
        if self.page_url:
            print(f"The page: {self.page_url}")

    def start_servers(self) -> None:
        """Start broker and databases unless they are external or already run."""
        services = [self._service(name) for name in self.services]
        write_private(self.settings_file, json.dumps(self._settings))
        if (
            self.supervisor.pid() is None
        ):  # otherwise the running server knows the token
            write_private(self._token_file, secrets.token_urlsafe())
        self._write_env()
        self.servers.start(services, _public_variables())

    def _write_env(self) -> None:
        """Write a shell script for each user that exports the variables of its commands."""
        place = self.servers.state / "env"
        place.mkdir(mode=0o700, exist_ok=True)
        for user in USERS:
            write_private(place / user, exports(self.private_env(user)))

    def environ(self, user: str = "") -> dict[str, str]:
        """Return the environment of a command that acts as this user. No user, no passwords."""
        own = self.env(user) if user else {"GATEWAY_PORT": str(self.ports["gateway"])}
        return {**_public_variables(), **own, **QUIET, **without_proxy(os.environ)}

    def migrate(self) -> None:
        """Bring tables and queues up to date. The servers must run."""
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
        """Restart the services with the current code. The servers keep running."""
        if self.supervisor.pid():
            self.supervisor.halt(*self.services)
        self.up()

    def down(self) -> bool:
        """Stop everything. Return whether anything was running."""
        return self.servers.stop()

    def ready(self) -> bool:
        """Return whether all services respond to /readyz with 200."""
        running = self.supervisor.processes()
        return all(running.get(name) and self.is_ready(name) for name in self.services)

    def status(self) -> list[tuple[str, ...]]:
        """Return a row for each program: name, state, process id, restarts, address, log."""
        running = self.supervisor.processes()
        return [
            self._row(name, running.get(name, 0))
            for name in (*self.servers.names(), *self.services)
        ]

    def check_unchanged(self) -> None:
        """Raise Failure if it runs with other settings. `up` and `restart` do not change them."""
        if self.supervisor.pid() is None:
            return
        if json.loads(self.settings_file.read_text()) != self._settings:
            raise Failure(
                "already up with other ports, servers, users or variables: make down first"
            )

    def check_reachable(self, *, servers: bool, gateway: bool) -> None:
        """Raise Failure if a server or the gateway is unreachable. Skip external servers."""
        needed: list[str] = []
        if servers:
            own = self.servers.names()
            needed += [name for name in ("rabbitmq", "postgresql") if name in own]
        if gateway:
            needed.append("gateway")
        for name in needed:
            if accepts(self.ports[name]):
                continue
            if self.supervisor.pid() is None:
                raise Failure(NOTHING_RUNS)
            address = f"127.0.0.1:{self.ports[name]}"
            raise Failure(f"{name} does not respond on {address}: make up restarts it")

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "ports": self.ports,
            "external": self.external,
            "variables": _digest(self.outer_variables(os.environ)),
            "users": list(USERS),
        }

    def outer_variables(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return an environment without the passwords of this suite, with secret files read.

        A file of env/ may have put the passwords there.
        """
        is_own = self.servers.passwords.occur_in
        outer = {
            name: value
            for name, value in environ.items()
            if name not in PRIVATE or not is_own(value)
        }
        return with_secrets(outer)

    @property
    def settings_file(self) -> Path:
        return self.servers.state / "settings.json"

    def command(self, name: str) -> list[str]:
        """Return the command of a service."""
        nameko = str(Path(sys.executable).with_name("nameko"))
        return [nameko, "run", "--config", "config.yaml", f"{service_of(name)}.service"]

    def _service(self, name: str) -> Program:
        if name == PAGE:
            return self._page()
        ports = {"HEALTH_PORT": str(self.ports[name])}
        if service_of(name) == "gateway":  # its port serves /readyz, for `is_ready`
            ports = {"GATEWAY_HEALTH_PUBLIC": "true"}
        if GATEWAYS[1] in self.services:
            ports["GATEWAY_PORT_SHARED"] = "true"
        env = {**self.env(service_of(name)), **ports, **QUIET}
        return Program(
            name=name,
            command=self.command(name),
            directory=self.checkout,
            env=env,
            group="services",
        )

    def _page(self) -> Program:
        """Return the development server. It gets no URI and no secret."""
        ports = {
            "PAGE_PORT": str(self.ports[PAGE]),
            "GATEWAY_PORT": str(self.ports["gateway"]),
        }
        return Program(
            name=PAGE,
            command=[sys.executable, "-m", "dev.page"],
            directory=CHECKOUT,
            env={**ports, **QUIET},
            group="services",
        )

    def _check_ports(self) -> None:
        if self.supervisor.pid() is None:
            self.supervisor.stop()  # stop processes of a killed supervisord
        running = self.supervisor.processes()
        stopped = [name for name in self.services if not running.get(name)]
        check_free(self.ports, stopped)

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
            if not self._await_ready(name, deadline, starts[name] + MAX_STARTS):
                lines = tail(logs[name], start=sizes[name])  # without earlier starts
                raise Failure(
                    f"{name} does not become ready, the others run (make down stops all): "
                    f"see {logs[name]}\n{lines}"
                )

    def _await_ready(self, name: str, deadline: float, max_starts: int) -> bool:
        def is_ready_or_failing() -> bool:
            return self.is_ready(name) or self.supervisor.starts(name) >= max_starts

        wait_for(is_ready_or_failing, deadline - time.monotonic(), every_s=0.1)
        return self.is_ready(name)

    def is_ready(self, name: str) -> bool:
        """Return whether a service responds to /readyz with 200, or the page to its own path."""
        path = "/dev/processes.js" if name == PAGE else "/readyz"
        connection = HTTPConnection("127.0.0.1", self.ports[name], timeout=3)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def _row(self, name: str, pid: int) -> tuple[str, ...]:
        address = f"127.0.0.1:{self.ports[name]}"
        log = str(self.supervisor.log(name))
        if not pid:
            return name, "stopped", "-", "-", address, log
        responds = self.is_ready if name in self.services else self.servers.responds
        state = "ready" if responds(name) else "not ready"
        restarts = max(self.supervisor.starts(name) - 1, 0)
        return name, state, str(pid), str(restarts), address, log


def _public_variables() -> dict[str, str]:
    """Return this process's environment without passwords."""
    return {name: value for name, value in os.environ.items() if name not in PRIVATE}


def _digest(environ: Mapping[str, str]) -> str:
    """Return a digest of the variables of config.yaml that are set. One is a secret."""
    names = re.findall(r"\$\{(\w+)", (CHECKOUT / "config.yaml").read_text())
    settings = sorted((name, environ[name]) for name in names if name in environ)
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def with_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which the content of each NAME_FILE is the value of NAME.

    Raises Failure if NAME and NAME_FILE are both set, or if a file cannot be used as a secret.
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
    """Return the URIs of external servers. Raises Failure if only some are set.

    A database without an owner's URI is migrated by the role that uses it.
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
    owner_uris = {
        owner: environ.get(owner) or uris[name] for name, owner in owners.items()
    }
    return external | uris | owner_uris


def wanted_suite(state: Path) -> Suite:
    """Return the suite with the ports and servers that the environment names."""
    environ = Suite(state, {}).outer_variables(os.environ)
    return Suite(state, ports_from(environ), external_servers(environ))


def present_suite(state: Path) -> Suite:
    """Return the running suite, with its ports, or the wanted suite if nothing runs."""
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
    state_folder.remove(state)
    return 0


def status(state: Path) -> int:
    suite = present_suite(state)
    rows = suite.status()
    _print_table([("NAME", "STATE", "PID", "RESTARTS", "ADDRESS", "LOG"), *rows])
    for name in suite.external:
        print(f"{name} is set: that server is used.")
    if suite.supervisor.pid():
        suite.print_page()
    if not suite.supervisor.pid() and suite.supervisor.orphans():
        print(
            "supervisord was killed but its programs still run: make up or make down stops them."
        )
    elif not suite.supervisor.pid():
        print(f"{NOTHING_RUNS}.")
    return 0 if all(row[1] == "ready" for row in rows) else 1


def hints(state: Path) -> int:
    """Print useful commands after `make demo`."""
    suite = present_suite(state)
    logs = suite.supervisor.log("*")
    print(HINTS.format(url=suite.url, page=suite.page_url, logs=logs))
    return 0


HINTS = """
The suite keeps running: {url}

Inspect
  the page      {page}
  make status   services and servers with addresses and process ids
  make logs     {logs}
  README.md     the routes; every service also has /healthz, /readyz and /metrics

Try
  curl -s --noproxy '*' {url}/users -H 'Content-Type: application/json' \\
    -d '{{"username": "ada'$RANDOM'", "email": "ada'$RANDOM'@example.org",
          "password": "correct horse"}}'
  make shell    then: n.rpc.billing.deposit(user_id="...", amount_minor=10000, ref="till-1")
  make newman   run the scenario again
  make down     stop everything; make up starts it again, with all data
"""


def logs(state: Path) -> int:
    """Follow all logs until Ctrl-C."""
    suite = present_suite(state)
    folder = suite.supervisor.log("*").parent
    files = [str(file) for file in sorted(folder.glob("*.log"))]
    if suite.supervisor.pid() is None:
        last = f" (logs of the last run: {suite.supervisor.log('*')})" if files else ""
        raise Failure(NOTHING_RUNS + last)
    return _replace_process(["tail", "-n", "20", "-F", *files], dict(os.environ))


def execute(state: Path, command: list[str], user: str, *, gateway: bool) -> int:
    """Replace this process by the command, in the environment of the suite."""
    suite = present_suite(state)
    suite.check_reachable(servers=bool(user), gateway=gateway)
    return _replace_process(command, suite.environ(user))


def _replace_process(command: list[str], env: Mapping[str, str]) -> int:
    try:
        os.execvpe(command[0], command, env)  # noqa: S606 - the user typed the command
    except OSError as error:
        raise Failure(f"{command[0]}: {error.strerror}") from None


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    """Hold a lock, so that one command at a time changes this suite."""
    descriptor = os.open(state_folder.make(state), os.O_RDONLY)
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


READING = {"status": status, "hints": hints, "logs": logs}
CHANGING = {
    "up": up,
    "down": down,
    "restart": restart,
    "migrate": migrate,
    "clean": clean,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.cli", description=__doc__)
    default = Path(os.environ.get("RUN_DIR") or CHECKOUT / ".run")
    parser.add_argument("--state", type=Path, default=default, help="the state folder")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in (*READING, *CHANGING):
        verbs.add_parser(verb)
    command = verbs.add_parser("exec")
    command.add_argument(
        "--user", choices=USERS, default="", help="the user whose secrets it gets"
    )
    command.add_argument(
        "--gateway", action="store_true", help="fail at once if it is unreachable"
    )
    command.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    socket.setdefaulttimeout(RESPONSE_TIMEOUT_S)
    try:
        return run(arguments)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1


def run(arguments: argparse.Namespace) -> int:
    state: Path = arguments.state
    verb: str = arguments.verb
    if verb == "exec":
        command, user = arguments.command, arguments.user
        return execute(state, command, user, gateway=arguments.gateway)
    if verb in READING:
        return READING[verb](state)
    with _locked(state):
        return CHANGING[verb](state)


if __name__ == "__main__":
    sys.exit(main())

"""A second PostgreSQL server: a standby of the arena's server, on a small disk.

The disk is a tmpfs in a mount namespace of this server. It needs root, or a kernel that lets
ordinary users create namespaces. It disappears when the last process in the namespace ends. The
write-ahead log is on the arena's disk, because PostgreSQL ends if it cannot write that log.
"""

import os
import pwd
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import psycopg2

from dev.failure import Failure
from dev.servers import PATH, tail
from dev.supervisor import MARK, wait_for
from tests.chaos.arena import STANDBY, Arena

ENOUGH = "4g"  # only a limit: files use memory, free space does not
START_S = STOP_S = 30.0  # generous
DISK_FULL = re.compile(r"(\w+)@\w+ ERROR: .*No space left on device")
HOLD = 'mount -t tmpfs -o "$2" tmpfs "$1" && echo mounted && read -r _'
RESIZE = 'mount -o "remount,size=$2" tmpfs "$1"'
# The used space may grow at the same time, and a smaller size is refused.
FILL = """\
for _ in 1 2 3 4 5 6 7 8 9; do
    used=$(df --block-size=1 --output=used "$1" | tail -n 1)
    mount -o "remount,size=$used" tmpfs "$1" && exit
done
exit 1
"""
NO_MOUNT = (
    "the standby needs a file system of its own: run this as root with the right to mount"
    " (CAP_SYS_ADMIN; docker run --privileged), or as a user that can run `unshare -Urm true`"
)


class Standby:
    """The server, its disk, and the process that keeps the disk mounted."""

    def __init__(self, arena: Arena) -> None:
        servers = arena.suite.servers
        self._arena = arena
        self._servers = servers
        self._home = servers.state / "postgresql"
        self._disk = self._home / "disk"
        self._data = self._disk / "data"
        self._log = arena.supervisor.log(STANDBY)
        # All processes with the supervisor's mark are stopped with the arena.
        self._env = {"PATH": PATH, "LC_ALL": "C.UTF-8", MARK: str(servers.state)}
        self._holder: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self.is_primary = False

    @property
    def port(self) -> int:
        return self._arena.suite.ports[STANDBY]

    def start(self) -> None:
        """Create the disk, copy the data, and wait until the server responds."""
        self._mount()
        wal = self._home / "standby-wal"
        copy = [str(self._servers.postgresql_programs() / "pg_basebackup"), "--no-sync"]
        copy += ["--pgdata", str(self._data), "--waldir", str(wal)]
        copy += ["--write-recovery-conf"]
        copy += ["--checkpoint=fast", "--dbname", self._servers.superuser_dsn()]
        self._run(self._as_postgres(copy))
        command = self._servers.postgresql_command(self._data, STANDBY)
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                self._as_postgres(command),
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if not wait_for(self._responds, START_S):
            lines = tail(self._log)
            raise Failure(f"the standby does not respond: see {self._log}\n{lines}")

    def close(self) -> None:
        """Stop the server and remove its disk. The primary no longer waits for it."""
        try:
            if not self.is_primary:
                self.synchronous(False)
        finally:
            self._stop()
            if self._holder is not None:
                self._holder.communicate()  # closes its input, which ends it
            shutil.rmtree(self._home / "standby-wal", ignore_errors=True)

    def synchronous(self, wanted: bool) -> None:
        """Set whether the primary confirms a commit only after the standby has it, too."""
        name = "synchronous_standby_names"
        change = f"SET {name} = '*'" if wanted else f"RESET {name}"
        self._arena.query("postgres", f"ALTER SYSTEM {change}")
        self._arena.query("postgres", "SELECT pg_reload_conf()")
        if wanted:
            state = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
            query = partial(self._arena.query, "postgres", state)
            self._arena.wait_until(query, "the standby is synchronous")

    def promote(self) -> None:
        """Kill the primary, which cannot restart without data, and promote the standby."""
        (self._home / "data").rename(self._home / "fenced")
        self.is_primary = True
        self._arena.kill("postgresql")
        self._query("SELECT pg_promote(true, 30)")

    @contextmanager
    def full(self) -> Iterator[None]:
        """Fill its disk completely inside."""
        self._run(self._enter(["sh", "-c", FILL, "sh", str(self._disk)]))
        try:
            yield
        finally:
            self._run(self._enter(["sh", "-c", RESIZE, "sh", str(self._disk), ENOUGH]))

    def hand_back(self) -> None:
        """Stop the server, and start the arena's own server with its data."""
        self._stop()
        self._arena.halt("postgresql")
        copy = ["cp", "--archive", "--dereference"]
        copy += [str(self._data), str(self._home / "data")]
        self._run(self._as_postgres(copy))
        shutil.rmtree(self._home / "fenced")
        self._arena.start_database()

    def disk_full_errors(self) -> Counter[str]:
        """Return how many statements of each role have failed because the disk was full."""
        return Counter(DISK_FULL.findall(self._log.read_text(errors="replace")))

    def _mount(self) -> None:
        options = f"size={ENOUGH},mode=700"
        if _is_root():
            postgres = pwd.getpwnam("postgres")
            options += f",uid={postgres.pw_uid},gid={postgres.pw_gid}"
        self._disk.mkdir(exist_ok=True)
        own = ["--mount"] if _is_root() else ["--mount", "--user", "--map-root-user"]
        hold = ["sh", "-c", HOLD, "sh", str(self._disk), options]
        self._holder = subprocess.Popen(
            ["unshare", *own, "--", *hold],
            env=self._env,
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if self._holder.stdout is None or not self._holder.stdout.readline():
            _, error = self._holder.communicate()
            raise Failure(f"{NO_MOUNT}: {error.decode().strip()}")

    def _enter(self, command: list[str]) -> list[str]:
        """Return a command that runs as root in the namespace of the disk."""
        if self._holder is None:
            raise Failure("the standby has no disk")
        users = [] if _is_root() else ["--user", "--preserve-credentials"]
        # With its root: in a chroot the namespace alone would show the files outside.
        spaces = [*users, "--mount", "--root", f"--target={self._holder.pid}"]
        return ["nsenter", *spaces, "--", *command]

    def _as_postgres(self, command: list[str]) -> list[str]:
        """Return a command that runs there as the server's user and ends with this process."""
        if _is_root():
            user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        else:
            ids = [f"--map-user={os.geteuid()}", f"--map-group={os.getegid()}"]
            user = ["unshare", "--user", *ids, "--", "setpriv"]
        return self._enter([*user, "--pdeathsig=INT", "--", *command])

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, env=self._env, capture_output=True, text=True)
        if done.returncode:
            raise Failure(done.stderr.strip())  # the command contains a password

    def _stop(self) -> None:
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)  # a fast shutdown
            try:
                self._server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._server.kill()
                raise Failure(f"the standby does not stop: see {self._log}") from None
            finally:
                self._server = None

    def _query(self, query: str) -> list[tuple[Any, ...]]:
        dsn = self._servers.superuser_dsn(STANDBY)
        with closing(psycopg2.connect(dsn)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(query)
            return list(cursor.fetchall())

    def _responds(self) -> bool:
        try:
            return bool(self._query("SELECT 1"))
        except psycopg2.OperationalError:
            return False


def _is_root() -> bool:
    return os.geteuid() == 0


@contextmanager
def standby(arena: Arena) -> Iterator[Standby]:
    """Start a standby of the arena's server. Remove it completely afterwards."""
    server = Standby(arena)
    try:
        server.start()
        yield server
    finally:
        server.close()

"""Keep programs running: one supervisord per state folder.

Every process has the path of the state folder in its environment (MARK). If supervisord is
killed, its processes are found by this variable. A file with process ids would be wrong after
a reboot.
"""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from dev import process_tree
from dev.failure import Failure
from dev.passwords import exports, write_private

MARK = "SHOP_STATE"
PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>

# With startsecs=0 supervisord restarts a program at once, without a limit. Its own backoff either
# stops after startretries or grows by a second each time, without a limit. Here a start within
# 10 s of the previous one waits 1 s, so a program that cannot start does not keep a core busy.
#
# Each start appends its process id to the record. `exec` keeps the process id.
#
# Variables, folder and command come from a file. Every user can see a command line, and some
# variables are passwords. supervisord's configuration cannot contain every path: ` #` and ` ;`
# begin a comment there.
START = """\
record=$PWD/starts/$1
. "./programs/$1"
[ -z "$(find "$record" -size +0 -newermt '-10 seconds')" ] || sleep 1
echo $$ >>"$record"
exec "$@"
"""

SUPERVISORD = """\
[supervisord]
logfile={state}/log/supervisord.log
logfile_maxbytes=10MB
logfile_backups=2
pidfile={state}/supervisord.pid
childlogdir={state}/log
{user}

[unix_http_server]
file={state}/supervisord.sock
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[group:servers]
programs={servers}
priority=1

[group:services]
programs={services}
priority=2
"""

PROGRAM = """
[program:{name}]
command=/bin/sh start.sh {name}
directory={directory}
{user}
autostart=false
autorestart=true
startsecs=0
stopsignal={signal}
stopwaitsecs={wait_s}
killasgroup=true
redirect_stderr=true
stdout_logfile={log}
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=3
"""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program to keep running.

    `user` None is the current user. The group "services" stops before the group "servers". The
    programs of a group stop together.
    """

    name: str
    command: list[str]
    directory: Path
    user: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    group: str = "servers"
    stop_signal: str = "TERM"
    stop_wait_s: int = 30  # longer than config.yaml's STOP_TIMEOUT_S


def wait_for(
    done: Callable[[], object], timeout_s: float, every_s: float = 0.05
) -> bool:
    """Return whether `done` became true in time."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


class Supervisor:
    """Control the supervisord of one state folder."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self._child: subprocess.Popen[bytes] | None = None

    def begin(
        self, programs: list[Program], environ: Mapping[str, str], *, tied: bool
    ) -> None:
        """Start supervisord with these programs. It does not start the programs.

        Processes of an earlier supervisord are stopped first. With `tied`, supervisord and its
        programs end when the calling thread ends, even if that thread is killed.
        """
        self.stop()
        for folder, mode in (("log", 0o700), ("starts", 0o755), ("programs", 0o755)):
            (self.state / folder).mkdir(exist_ok=True)
            (self.state / folder).chmod(mode)
        for program in programs:
            script = self.state / "programs" / program.name
            write_private(self.state / "starts" / program.name, "", program.user)
            write_private(script, _script(program), program.user)
        start = self.state / "start.sh"
        start.write_text(START)
        # Under any umask: programs of other users read it.
        start.chmod(0o644)
        config = self.state / "supervisord.conf"
        write_private(config, self._config(programs))
        command = [sys.executable, "-m", "supervisor.supervisord", "--nodaemon"]
        self._child = subprocess.Popen(
            [*command, "-c", str(config)],
            env={**environ, MARK: str(self.state)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.state,
            start_new_session=True,  # Ctrl-C in the terminal does not reach it
            umask=0o077,  # only the owner may read logs and other files of a program
            preexec_fn=end_with_parent if tied else None,
        )
        if not wait_for(self._responds, 20):
            raise Failure(f"supervisord does not start: see {self.log('supervisord')}")

    def stop(self) -> bool:
        """Stop supervisord and its programs. Return whether any process was running."""
        # A frozen program would not handle its stop signal.
        process_tree.resume(process_tree.tree(*self.orphans()))
        pid = self.pid()
        if pid is not None:
            _signal(pid, signal.SIGTERM)
            wait_for(lambda: self.pid() is None, 90)
        if self._child is not None:
            self._child.wait(90)  # it removes its pid file before it ends
            self._child = None
        return self._sweep() or pid is not None

    def pid(self) -> int | None:
        """Return supervisord's process id, or None if it does not run."""
        if self._child is not None:
            self._child.poll()  # otherwise a child that has ended stays as a zombie
        with suppress(OSError, ValueError):
            pid = int((self.state / "supervisord.pid").read_text())
            return pid if self._has_mark(pid) else None
        return None

    def start(self, name: str) -> None:
        """Start a program unless it runs. Do not wait for it."""
        with suppress(Fault), self._rpc() as rpc:  # ALREADY_STARTED
            rpc.startProcess(self._full_name(name), False)

    def halt(self, *names: str) -> None:
        """Stop these programs and wait until they have ended."""
        self.resume(*names)
        for name in names:
            with suppress(Fault), self._rpc() as rpc:  # NOT_RUNNING
                rpc.stopProcess(self._full_name(name), False)
        wait_for(lambda: not any(self.processes().get(name) for name in names), 60)

    def resume(self, *names: str) -> None:
        """Continue these programs, with all their processes, if a signal has stopped them."""
        running = self.processes()
        pids = [running[name] for name in names if running.get(name)]
        process_tree.resume(process_tree.tree(*pids))

    def processes(self) -> dict[str, int]:
        """Return the process id of each program, 0 if it does not run. The services come first."""
        infos = sorted(self._infos(), key=lambda info: info["group"] == "servers")
        return {info["name"]: info["pid"] for info in infos}

    def starts(self, name: str) -> int:
        """Return how often the program was started since supervisord started."""
        with suppress(OSError):
            return len((self.state / "starts" / name).read_text().splitlines())
        return 0

    def log(self, name: str) -> Path:
        """Return the file with the program's output."""
        return self.state / "log" / f"{name}.log"

    def _config(self, programs: list[Program]) -> str:
        names = {
            group: [p.name for p in programs if p.group == group]
            for group in ("servers", "services")
        }
        head = SUPERVISORD.format(
            state=_escape(str(self.state)),
            user="user=root" if os.geteuid() == 0 else "",
            **{group: ",".join(members) for group, members in names.items()},
        )
        return head + "".join(self._section(program) for program in programs)

    def _section(self, program: Program) -> str:
        return PROGRAM.format(
            name=program.name,
            directory=_escape(str(self.state)),
            user=f"user={program.user}" if program.user else "",
            signal=program.stop_signal,
            wait_s=program.stop_wait_s,
            log=_escape(str(self.log(program.name))),
        )

    @contextmanager
    def _rpc(self) -> Iterator[Any]:
        """Connect to supervisord. The connection ends with the block."""
        socket = f"unix://{self.state}/supervisord.sock"
        transport = SupervisorTransport(None, None, socket)
        with ServerProxy("http://127.0.0.1", transport=transport) as proxy:
            yield proxy.supervisor

    def _infos(self) -> list[dict[str, Any]]:
        if self.pid() is None:
            return []
        with suppress(OSError), self._rpc() as rpc:
            infos: list[dict[str, Any]] = rpc.getAllProcessInfo()
            return infos
        return []  # it has just ended

    def _full_name(self, name: str) -> str:
        return next(
            f"{i['group']}:{i['name']}" for i in self._infos() if i["name"] == name
        )

    def _responds(self) -> bool:
        return bool(self._infos())

    def _has_mark(self, pid: int) -> bool:
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        return f"{MARK}={self.state}".encode() in environ.split(b"\0")

    def orphans(self) -> list[int]:
        """Return all processes of any supervisord of this state folder, itself included."""
        pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
        return [pid for pid in pids if self._has_mark(pid)]

    def _sweep(self) -> bool:
        """Stop processes that no supervisord controls. Return whether there were any."""
        found = bool(self.orphans())
        for number, wait_s in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            for pid in self.orphans():
                _signal(pid, number)
            if wait_for(lambda: not self.orphans(), wait_s):
                return found
        raise Failure(f"cannot end process {self.orphans()} of {self.state}")


def _script(program: Program) -> str:
    """Return the script that sets a program's variables, folder and command."""
    place = shlex.quote(str(program.directory))
    return f"{exports(program.env)}cd {place} || exit\nset -- {shlex.join(program.command)}\n"


def _escape(text: str) -> str:
    return text.replace("%", "%%")  # supervisord expands %(...)s


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def end_with_parent() -> None:
    """Ask Linux to send SIGTERM to this process when the thread that started it ends.

    Call it in the child, before `exec`.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

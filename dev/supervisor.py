"""Keeps programs running: one supervisord for each state folder, and nothing left when it ends.

Every program carries the state folder's path in its environment (MARK), by which it is found again
when supervisord itself was killed. A file with a process id alone would lie after a reboot.
"""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from dev.failure import Failure
from dev.passwords import exports, write_private

MARK = "SHOP_STATE"
PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>

# With startsecs=0 supervisord restarts at once and for ever. (Its own back-off gives up after
# startretries, or with very many of them waits a second longer each time, without bound.) So that a
# program that dies as soon as it starts keeps no core busy, a start within 10 s of the last one
# waits 1 s. Each start leaves its process id in the record; `exec` keeps it. Variables, folder and
# command come from a file: everybody can see a command, and passwords are among the variables; and
# supervisord's configuration cannot hold every path (` #` and ` ;` begin a comment).
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


@dataclass(frozen=True)
class Program:
    """One program to keep running.

    `user` None is ourselves. The group "services" is stopped before the group "servers", the
    programs of a group together.
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
    """Whether `done` came true in time."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


class Supervisor:
    """The supervisord of one state folder."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self._child: subprocess.Popen[bytes] | None = None

    def begin(
        self, programs: list[Program], environ: Mapping[str, str], *, tied: bool
    ) -> None:
        """Starts supervisord with the programs, none of which runs yet.

        What an earlier supervisord left behind is ended first. `tied`: it ends, and all with it,
        as soon as the thread that called this ends, in whatever way.
        """
        self.stop()
        for folder, mode in (("log", 0o700), ("starts", 0o755), ("programs", 0o755)):
            (self.state / folder).mkdir(exist_ok=True)
            (self.state / folder).chmod(mode)
        for program in programs:
            write_private(self.state / "starts" / program.name, "", program.user)
            write_private(
                self.state / "programs" / program.name, _script(program), program.user
            )
        start = self.state / "start.sh"
        start.write_text(START)
        start.chmod(0o644)  # whatever the umask is: programs of other users read it
        config = self.state / "supervisord.conf"
        write_private(config, self._config(programs))
        self._child = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "supervisor.supervisord",
                "--nodaemon",
                "-c",
                str(config),
            ],
            env={**environ, MARK: str(self.state)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.state,
            start_new_session=True,  # Ctrl-C in the terminal is not for it
            umask=0o077,  # logs and whatever a program writes are for their owners alone
            preexec_fn=end_with_parent if tied else None,
        )
        if not wait_for(self._answers, 20):
            raise Failure(f"supervisord does not start: see {self.log('supervisord')}")

    def stop(self) -> bool:
        """Ends supervisord and all it started; returns whether there was anything to end."""
        pid = self.pid()
        if pid is not None:
            _signal(pid, signal.SIGTERM)
            wait_for(lambda: self.pid() is None, 90)
        if self._child is not None:
            self._child.wait(90)  # it removes its pid file before it ends
            self._child = None
        return self._sweep() or pid is not None

    def pid(self) -> int | None:
        """supervisord's process id, while it runs."""
        if self._child is not None:
            self._child.poll()  # a child that ended stays a process until it is asked for
        with suppress(OSError, ValueError):
            pid = int((self.state / "supervisord.pid").read_text())
            return pid if self._is_ours(pid) else None
        return None

    def start(self, name: str) -> None:
        """Starts a program, unless it runs, and returns at once."""
        with suppress(Fault):  # ALREADY_STARTED
            self._rpc().startProcess(self._full_name(name), False)

    def halt(self, *names: str) -> None:
        """Stops those of the programs that run, and returns when they have ended."""
        for name in names:
            with suppress(Fault):  # NOT_RUNNING
                self._rpc().stopProcess(self._full_name(name), False)
        wait_for(lambda: not any(self.processes().get(name) for name in names), 60)

    def processes(self) -> dict[str, int]:
        """The programs of this supervisord and their process ids, 0 for what does not run."""
        return {info["name"]: info["pid"] for info in self._infos()}

    def starts(self, name: str) -> int:
        """How often the program was started since supervisord was."""
        with suppress(OSError):
            return len((self.state / "starts" / name).read_text().splitlines())
        return 0

    def log(self, name: str) -> Path:
        """The file with the program's output."""
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

    def _rpc(self) -> Any:
        socket = f"unix://{self.state}/supervisord.sock"
        transport = SupervisorTransport(None, None, socket)
        return ServerProxy("http://127.0.0.1", transport=transport).supervisor

    def _infos(self) -> list[dict[str, Any]]:
        if self.pid() is None:
            return []
        with suppress(OSError):
            infos: list[dict[str, Any]] = self._rpc().getAllProcessInfo()
            return infos
        return []  # it ended meanwhile

    def _full_name(self, name: str) -> str:
        return next(
            f"{i['group']}:{i['name']}" for i in self._infos() if i["name"] == name
        )

    def _answers(self) -> bool:
        return bool(self._infos())

    def _is_ours(self, pid: int) -> bool:
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        return f"{MARK}={self.state}".encode() in environ.split(b"\0")

    def orphans(self) -> list[int]:
        """All processes that come from a supervisord of this state folder, itself included."""
        pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
        return [pid for pid in pids if self._is_ours(pid)]

    def _sweep(self) -> bool:
        """Ends what no supervisord watches any more; returns whether there was any."""
        found = bool(self.orphans())
        for number, wait_s in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            for pid in self.orphans():
                _signal(pid, number)
            if wait_for(lambda: not self.orphans(), wait_s):
                return found
        raise Failure(f"cannot end process {self.orphans()} of {self.state}")


def _script(program: Program) -> str:
    """What the start of a program reads: its variables, its folder, its command."""
    place = shlex.quote(str(program.directory))
    return f"{exports(program.env)}cd {place} || exit\nset -- {shlex.join(program.command)}\n"


def _escape(text: str) -> str:
    return text.replace("%", "%%")  # supervisord expands %(...)s


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def end_with_parent() -> None:
    """In a child, before its program: let SIGTERM reach it as soon as the thread that made it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

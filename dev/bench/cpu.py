"""CPU seconds under load by kind of process, read from /proc.

A kind is a service with all its copies, the broker, or PostgreSQL by database. The titles of
PostgreSQL's processes contain the database.
"""

import os
import resource
from collections import defaultdict
from pathlib import Path

from dev.cli import Suite, service_of
from dev.servers import DATABASES

TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")
KINDS = {"rabbitmq": "RabbitMQ", "epmd": "RabbitMQ", "postgresql": "PostgreSQL, itself"}
WRK, REST, IDLE, STEAL = "wrk", "the rest of the machine", "idle", "taken by the host"
OUTSIDE_SUITE = (REST, IDLE, STEAL)

CpuSeconds = dict[tuple[str, int], float]  # by kind and process id


def cpu_seconds(suite: Suite) -> CpuSeconds:
    """Return the CPU time until now of the suite's processes, of wrk and of the machine.

    The time of wrk is known when it has ended.
    """
    programs = {pid: name for name, pid in suite.supervisor.processes().items() if pid}
    [cluster] = [pid for pid, name in programs.items() if name == "postgresql"]
    found: CpuSeconds = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            parent, seconds = process((folder / "stat").read_text())
            title = command_line(folder)
        except OSError:  # ended meanwhile
            continue
        pid = int(folder.name)
        if pid in programs:
            program = programs[pid]
            found[KINDS.get(program, service_of(program)), pid] = seconds
        elif parent == cluster:
            found[backend_kind(title), pid] = seconds
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    found[WRK, 0] = children.ru_utime + children.ru_stime
    busy, idle, steal = machine((PROC / "stat").read_text())
    return {**found, (REST, 0): busy, (IDLE, 0): idle, (STEAL, 0): steal}


def used_between(before: CpuSeconds, after: CpuSeconds) -> dict[str, float]:
    """Return the seconds by kind. Processes that have ended count as the rest of the machine."""
    used: defaultdict[str, float] = defaultdict(float)
    for (kind, pid), seconds in after.items():
        used[kind] += max(0.0, seconds - before.get((kind, pid), 0.0))
    suite = sum(s for kind, s in used.items() if kind not in OUTSIDE_SUITE)
    return {**used, REST: max(0.0, used[REST] - suite)}


def command_line(folder: Path) -> str:
    """Return the title of the process of a folder in /proc."""
    title = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
    return title.decode(errors="replace")


def process(stat: str) -> tuple[int, float]:
    """Return the parent and the CPU seconds of a process, from its /proc/PID/stat."""
    # The name is in brackets, and may itself contain brackets and spaces.
    fields = stat.rpartition(")")[2].split()
    return int(fields[1]), (int(fields[11]) + int(fields[12])) / TICKS


def backend_kind(title: str) -> str:
    """Return the kind of "postgres: USER DATABASE ...", by database if it is a service's."""
    words = title.split()
    is_service = len(words) > 2 and words[2] in DATABASES
    return f"PostgreSQL, {words[2]}" if is_service else KINDS["postgresql"]


def machine(stat: str) -> tuple[float, float, float]:
    """Return the busy, idle and steal seconds of all cores together, from /proc/stat."""
    columns = stat.split("\n", 1)[0].split()[1:9]
    user, nice, system, idle, iowait, irq, softirq, steal = map(int, columns)
    busy = user + nice + system + irq + softirq
    return busy / TICKS, (idle + iowait) / TICKS, steal / TICKS

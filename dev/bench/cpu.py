"""What the CPU does under load, by kind of process: read from /proc, in seconds.

A kind is a service (all its copies together), the broker, or PostgreSQL by database, which the titles of
its processes tell.
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
WRK, REST, IDLE, TAKEN = "wrk", "the rest of the machine", "idle", "taken by the host"
NOT_OURS = (REST, IDLE, TAKEN)

Spent = dict[tuple[str, int], float]  # by kind and process id


def spent(suite: Suite) -> Spent:
    """What each process of a suite has used until now; wrk, when it has ended; all that the machine did."""
    programs = {pid: name for name, pid in suite.supervisor.processes().items() if pid}
    [cluster] = [pid for pid, name in programs.items() if name == "postgresql"]
    found: Spent = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            parent, used = process((folder / "stat").read_text())
            title = (
                (folder / "cmdline")
                .read_bytes()
                .replace(b"\0", b" ")
                .decode(errors="replace")
            )
        except OSError:  # ended meanwhile
            continue
        pid = int(folder.name)
        if pid in programs:
            found[KINDS.get(programs[pid], service_of(programs[pid])), pid] = used
        elif parent == cluster:
            found[backend_kind(title), pid] = used
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy, idle, taken = machine((PROC / "stat").read_text())
    found[WRK, 0] = children.ru_utime + children.ru_stime
    return {**found, (REST, 0): busy, (IDLE, 0): idle, (TAKEN, 0): taken}


def between(before: Spent, after: Spent) -> dict[str, float]:
    """Seconds by kind; what a process used that has ended meanwhile is with the rest of the machine."""
    used: defaultdict[str, float] = defaultdict(float)
    for (kind, pid), seconds in after.items():
        used[kind] += max(0.0, seconds - before.get((kind, pid), 0.0))
    ours = sum(seconds for kind, seconds in used.items() if kind not in NOT_OURS)
    return {**used, REST: max(0.0, used[REST] - ours)}


def process(stat: str) -> tuple[int, float]:
    """Parent and CPU seconds of a process, from its /proc/PID/stat."""
    fields = stat.rpartition(")")[2].split()  # a name may hold anything
    return int(fields[1]), (int(fields[11]) + int(fields[12])) / TICKS


def backend_kind(title: str) -> str:
    """Of "postgres: USER DATABASE ...": the database, where it is a service's."""
    words = title.split()
    is_service = len(words) > 2 and words[2] in DATABASES
    return f"PostgreSQL, {words[2]}" if is_service else KINDS["postgresql"]


def machine(stat: str) -> tuple[float, float, float]:
    """Seconds of all cores together, from /proc/stat: busy, idle, and taken by a virtual machine's host."""
    user, nice, system, idle, iowait, irq, softirq, steal = map(
        int, stat.split("\n", 1)[0].split()[1:9]
    )
    return (
        (user + nice + system + irq + softirq) / TICKS,
        (idle + iowait) / TICKS,
        steal / TICKS,
    )

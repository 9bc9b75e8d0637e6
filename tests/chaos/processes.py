"""Parts in which processes die, stand still, or are replaced."""

import json
import signal
import time
from collections import Counter
from pathlib import Path

import eventlet

from dev.cli import SERVICES
from dev.servers import DATABASES
from tests.chaos.arena import shuffled
from tests.chaos.points import Point, deaths, rounds
from tests.chaos.run import Part, Run

KILLED_UNDER_WAY_S = 0.25  # a wave takes about as long
DEATH_S = 120.0  # generous: a round waits so long for each of its deaths
Armed = dict[str, tuple[Point, Path]]
SLICE_S = 5
NO_FAILURES = {200, 201, 202, 409}  # 409: a refusal
MOST_UNDER_WAY = 60  # requests


def kills(run: Run) -> None:
    """Each kill comes at some moment of a wave of orders; whoever is killed was ready before."""
    times, orders = run.pick((3, 300), (20, 2000))
    victims = shuffled(
        [service for service in SERVICES for _ in range(times)], run.chance
    )
    run.clients.join(8)
    for service in victims:
        name = run.chance.choice(run.arena.copies(service))
        run.arena.await_ready([name])
        run.clients.wave(orders // len(victims))
        eventlet.sleep(run.chance.uniform(0, KILLED_UNDER_WAY_S))
        run.arena.kill(name)
        run.fault(f"kill -9 {name}")


def points(run: Run) -> None:
    """In rounds, in which each copy of a service dies at a point of its own, again and again."""
    run.clients.join(8)
    for number, pairs in enumerate(rounds()):
        folder = run.arena.suite.servers.state / f"deaths-{run.result.seed}-{number}"
        folder.mkdir()
        _play_round(run, {name: (point, folder / name) for name, point in pairs})
    run.arena.disarm()


def _play_round(run: Run, armed: Armed) -> None:
    times = run.pick(2, 10)
    for name, (point, record) in armed.items():
        run.arena.arm(name, point, record, times, run.chance.randint(1, 3))
        run.arena.kill(name)
    until = time.monotonic() + DEATH_S * times
    while (
        any(deaths(record) < times for _, record in armed.values())
        and time.monotonic() < until
    ):
        run.say(
            ", ".join(
                f"{deaths(record)} x {point.name}" for point, record in armed.values()
            )
        )
        _keep_busy(run)
    for point, record in armed.values():
        run.result.notes[point.name] = deaths(record)
        run.result.faults += deaths(record)
        run.expect(
            deaths(record) >= times,
            f"{point.name}: {deaths(record)} deaths, not {times}",
        )


def _keep_busy(run: Run) -> None:
    """There is always something to do for those who live, but no heap that grows."""
    if run.clients.under_way < MOST_UNDER_WAY:
        run.clients.wave(8)
        run.clients.spawn(run.clients.sign_up)
    eventlet.sleep(0.5)


def frozen(run: Run) -> None:
    """One copy of each service behind the gateway stands still, with what it has taken; the others
    serve on."""
    run.clients.join(8)
    with run.clients.arrivals():
        eventlet.sleep(1)
        for seconds in run.pick((5, 30), (5, 30, 150)):
            names = [
                run.chance.choice(run.arena.copies(service)) for service in DATABASES
            ]
            with run.arena.frozen(names):
                run.fault(f"{', '.join(names)} stand still for {seconds} s")
                served = [_served_in(run, SLICE_S) for _ in range(seconds // SLICE_S)]
            run.result.notes[f"orders answered while frozen for {seconds} s"] = served
            run.expect(
                min(served) > 0,
                f"nobody was served for {SLICE_S} s of {seconds} s frozen: {served}",
            )
            run.arena.await_ready()


def _served_in(run: Run, seconds: int) -> int:
    """How many orders were answered in so many seconds from now."""
    before = run.clients.answers["POST /orders", 201]
    eventlet.sleep(seconds)
    return run.clients.answers["POST /orders", 201] - before


def rolling(run: Run) -> None:
    """Each process in turn is told to stop, and is started again, under load."""
    run.clients.join(8)
    with run.clients.arrivals():
        for name in shuffled(run.arena.services, run.chance):
            eventlet.sleep(run.chance.uniform(0.2, 1))
            run.fault(f"{name} is stopped")
            run.arena.replace(name, signal.SIGTERM)
    run.clients.finish()
    run.expect_only(NO_FAILURES)
    work = _work(run)
    run.result.notes["pieces of work"] = len(work)
    run.expect(len(work) > run.clients.orders, "the logs do not tell what was done")
    twice = [f"{n} x {what}" for what, n in work.items() if n > 1]
    run.expect(not twice, f"work was done twice: {', '.join(twice[:20])}")


def _work(run: Run) -> Counter[str]:
    """How often each service's method handled each request, by the logs of all processes."""
    done: Counter[str] = Counter()
    for log in run.arena.supervisor.log("*").parent.glob(
        "*.log*"
    ):  # the rotated ones, too
        for line in log.read_text().splitlines():
            if '"entrypoint_handled"' in line and run.clients.name in line:
                fields = json.loads(line)
                for request_id in fields.get("request_ids") or [fields["request_id"]]:
                    done[f"{fields['service']}.{fields['method']} {request_id}"] += 1
    return done


PARTS = (
    Part("kills", "nothing acknowledged is lost when processes are killed", kills),
    Part("points", "nothing acknowledged is lost wherever a process dies", points),
    Part("frozen", "a process that stands still holds up its own work only", frozen),
    Part(
        "rolling", "a rolling restart fails no request and does no work twice", rolling
    ),
)

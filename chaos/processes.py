"""Parts in which processes die, stand still, or are replaced."""

from pathlib import Path

import eventlet

from chaos.arena import shuffled
from chaos.crashing import deaths
from chaos.points import Point, rounds
from chaos.run import Part, Run
from dev.suite import SERVICES

KILLED_UNDER_WAY_S = 0.25  # a wave takes about as long
ROUND_S = 240.0
MOST_UNDER_WAY = 60  # requests


def kills(run: Run) -> None:
    """Each kill comes at some moment of a wave of orders; whoever is killed was ready before."""
    times, orders = run.pick((3, 300), (20, 2000))
    victims = shuffled([service for service in SERVICES for _ in range(times)], run.chance)
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
    times = run.pick(2, 10)
    run.clients.join(8)
    for number, pairs in enumerate(rounds()):
        _play_round(run, pairs, times, run.arena.suite.servers.state / f"deaths-{run.result.seed}-{number}")
    run.arena.disarm()


def _play_round(run: Run, pairs: list[tuple[str, Point]], times: int, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    records = {point: folder / name for name, point in pairs}
    for name, point in pairs:
        run.arena.arm(name, point, records[point], times, run.chance.randint(1, 3))
        run.arena.kill(name)
    eventlet.sleep(1)
    run.arena.await_(
        lambda: _has_died(run, records, times), f"all have died: {', '.join(_names(records))}", ROUND_S
    )
    for point, record in records.items():
        run.expect(deaths(record) >= times, f"{point.name}: {deaths(record)} deaths, not {times}")
        run.result.notes[point.name] = deaths(record)
    run.result.faults += sum(map(deaths, records.values()))


def _has_died(run: Run, records: dict[Point, Path], times: int) -> bool:
    """Whether each point has had its deaths; if not, there is something to do for those who live."""
    done = sum(min(deaths(record), times) for record in records.values())
    run.say(f"{done} of {times * len(records)} deaths at {', '.join(_names(records))}")
    if done == times * len(records):
        return True
    if run.clients.under_way < MOST_UNDER_WAY:
        run.clients.wave(8)
        run.clients.spawn(run.clients.sign_up)
    eventlet.sleep(0.5)
    return False


def _names(records: dict[Point, Path]) -> list[str]:
    return [point.name for point in records]


PARTS = (
    Part("kills", "nothing acknowledged is lost when processes are killed", kills),
    Part("points", "nothing acknowledged is lost wherever a process dies", points),
)

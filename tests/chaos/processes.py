"""Parts in which processes are killed, suspended or replaced."""

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

MAX_KILL_DELAY_S = 0.25  # about the duration of a wave
CRASH_TIMEOUT_S = 120.0  # for each crash of a round; generous
Armed = dict[str, tuple[Point, Path]]
SLICE_S = 5
NO_FAILURES = {200, 201, 202, 409}  # 409: refused
MAX_IN_FLIGHT = 60  # requests


def kills(run: Run) -> None:
    """Kill ready copies at random moments during waves of orders."""
    times, orders = run.pick((3, 300), (20, 2000))
    victims = shuffled([service for service in SERVICES for _ in range(times)], run.rng)
    run.clients.add_users(8)
    for service in victims:
        name = run.rng.choice(run.arena.copies(service))
        run.arena.await_ready([name])
        run.clients.wave(orders // len(victims))
        eventlet.sleep(run.rng.uniform(0, MAX_KILL_DELAY_S))
        run.arena.kill(name)
        run.fault(f"kill -9 {name}")


def points(run: Run) -> None:
    """Play rounds in which each copy of a service crashes repeatedly at a point of its own."""
    run.clients.add_users(8)
    for number, pairs in enumerate(rounds()):
        folder = run.arena.suite.servers.state / f"deaths-{run.result.seed}-{number}"
        folder.mkdir()
        _play_round(run, {name: (point, folder / name) for name, point in pairs})
    run.arena.disarm()


def _play_round(run: Run, armed: Armed) -> None:
    times = run.pick(2, 10)
    for name, (point, record) in armed.items():
        run.arena.arm(name, point, record, times, run.rng.randint(1, 3))
        run.arena.kill(name)
    deadline = time.monotonic() + CRASH_TIMEOUT_S * times
    while _is_waiting(armed, times) and time.monotonic() < deadline:
        counts = [
            f"{deaths(record)} x {point.name}" for point, record in armed.values()
        ]
        run.say(", ".join(counts))
        _keep_busy(run)
    for point, record in armed.values():
        number = deaths(record)
        run.result.notes[point.name] = number
        run.result.faults += number
        run.expect(number >= times, f"{point.name}: {number} crashes, not {times}")


def _is_waiting(armed: Armed, times: int) -> bool:
    """Return whether a process has not crashed often enough yet."""
    return any(deaths(record) < times for _, record in armed.values())


def _keep_busy(run: Run) -> None:
    """Keep the services busy, with a limited number of requests in flight."""
    if run.clients.in_flight < MAX_IN_FLIGHT:
        run.clients.wave(8)
        run.clients.spawn(run.clients.sign_up)
    eventlet.sleep(0.5)


def frozen(run: Run) -> None:
    """Suspend a copy of each service behind the gateway, with its work. The others continue."""
    run.clients.add_users(8)
    with run.clients.background_load():
        eventlet.sleep(1)
        for seconds in run.pick((5, 30), (5, 30, 150)):
            names = [run.rng.choice(run.arena.copies(name)) for name in DATABASES]
            with run.arena.suspended(names):
                run.fault(f"{', '.join(names)} are suspended for {seconds} s")
                served = [_served_in(run, SLICE_S) for _ in range(seconds // SLICE_S)]
            run.result.notes[f"orders while suspended for {seconds} s"] = served
            problem = f"no order succeeded for {SLICE_S} s of {seconds} s: {served}"
            run.expect(min(served) > 0, problem)
            run.arena.await_ready()


def _served_in(run: Run, seconds: int) -> int:
    """Return how many orders succeed in this time from now."""
    before = run.clients.responses["POST /orders", 201]
    eventlet.sleep(seconds)
    return run.clients.responses["POST /orders", 201] - before


def rolling(run: Run) -> None:
    """Stop and restart one process after another, under load."""
    run.clients.add_users(8)
    with run.clients.background_load():
        for name in shuffled(run.arena.services, run.rng):
            eventlet.sleep(run.rng.uniform(0.2, 1))
            run.fault(f"{name} is stopped")
            run.arena.replace(name, signal.SIGTERM)
    run.clients.finish()
    run.expect_only(NO_FAILURES)
    handled = _handled(run)
    run.result.notes["handled requests"] = len(handled)
    run.expect(len(handled) > run.clients.orders, "the logs lack handled requests")
    twice = [f"{n} x {name}" for name, n in handled.items() if n > 1]
    run.expect(not twice, f"requests were handled twice: {', '.join(twice[:20])}")


def _handled(run: Run) -> Counter[str]:
    """Return how often each method handled each request, from the logs of all processes."""
    handled: Counter[str] = Counter()
    logs = run.arena.supervisor.log("*").parent
    for log in logs.glob("*.log*"):  # with rotated logs
        for line in log.read_text().splitlines():
            if '"entrypoint_handled"' in line and run.clients.name in line:
                fields = json.loads(line)
                method = f"{fields['service']}.{fields['method']}"
                for request_id in fields.get("request_ids") or [fields["request_id"]]:
                    handled[f"{method} {request_id}"] += 1
    return handled


PARTS = (
    Part(
        name="kills",
        promise="nothing acknowledged is lost when processes are killed",
        play=kills,
    ),
    Part(
        name="points",
        promise="nothing acknowledged is lost at any point of a crash",
        play=points,
    ),
    Part(
        name="frozen",
        promise="a suspended process delays only its own work",
        play=frozen,
    ),
    Part(
        name="rolling",
        promise="a rolling restart fails no request and does no work twice",
        play=rolling,
    ),
)

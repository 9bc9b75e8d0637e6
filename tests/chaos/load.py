"""Users who buy from the running suite until Ctrl-C, whatever is done to it meanwhile: `make load`.

Each request is repeated until it is answered. Behind it, when the audit finds all quiet, every answer is
compared with what the shop tells by then; ends with 1 where something was lost or contradicted, or the
audit finds differences all the same.
"""

import eventlet

eventlet.monkey_patch()  # first of all, as `nameko run` does

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from http import HTTPStatus

from tests.chaos.clients import Clients
from dev.failure import Failure

USERS = 8
QUIET_S = 90.0  # an order may have to wait for the sweeper
AUDIT_SAYS = {1: "the audit finds differences", 2: "the audit ended with an error"}


class Interrupt:
    """Set by the first Ctrl-C, wherever the program is by then; the second one ends it at once."""

    def __init__(self) -> None:
        self.came = False  # no more than that: a handler that wakes waiters could meet the hub half-way
        signal.signal(signal.SIGINT, self._come)

    def _come(self, *_: object) -> None:
        self.came = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(clients: Clients, per_s: float) -> None:
    """Load until Ctrl-C, with a line a second; what is broken, the clients have recorded by then."""
    interrupt = Interrupt()
    print("Ctrl-C ends it: then every answer is compared.", flush=True)
    clients.join(USERS, 1_000_00)
    if any(status == HTTPStatus.UNPROCESSABLE_ENTITY for _, status in clients.answers):
        raise Failure(
            "the load is for a currency with two digits after the point, such as EUR"
        )
    with clients.arrivals(per_s):
        while not interrupt.came:
            before = Counter(clients.answers)
            eventlet.sleep(1)
            print(_line(clients.answers - before, clients.under_way), flush=True)
    print("waiting until all is quiet; Ctrl-C again ends at once", flush=True)
    clients.finish()
    clients.broken += _audited()
    clients.compare()


def _line(answers: Counter[tuple[str, int]], under_way: int) -> str:
    statuses: Counter[str] = Counter()
    for (_, status), number in answers.items():
        statuses[str(status or "cut off")] += number
    told = ", ".join(
        f"{number} x {status}" for status, number in sorted(statuses.items())
    )
    return f"{time.strftime('%H:%M:%S')}  {told or 'no answer'}; {under_way} wait"


def _audited() -> list[str]:
    """Returns when the audit finds nothing, or after QUIET_S; what is broken then."""
    command = [sys.executable, "-W", "ignore", "-m", "audit", "--settled"]
    until = time.monotonic() + QUIET_S
    nowhere = subprocess.DEVNULL
    while (
        subprocess.run(command, stdout=nowhere, stderr=nowhere).returncode
        and time.monotonic() < until
    ):
        eventlet.sleep(1)
    found = subprocess.run(command).returncode
    return [AUDIT_SAYS.get(found, f"the audit ended with {found}")] if found else []


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.load", description=__doc__
    )
    parser.add_argument(
        "--per-s",
        type=float,
        default=20,
        help="requests that begin in a second: %(default)s",
    )
    options = parser.parse_args()
    clients = Clients(
        f"http://127.0.0.1:{os.environ.get('GATEWAY_PORT', '8000')}",
        f"load-{time.time_ns()}",
        random.Random(),
    )
    try:
        run(clients, options.per_s)
    except Failure as failure:
        clients.broken.append(str(failure))
    print(
        f"{clients.orders} orders, {clients.retries} repetitions, longest answer {clients.longest_s:.1f} s"
    )
    print("\n".join(clients.broken) or "every answer holds")
    return 1 if clients.broken else 0


if __name__ == "__main__":
    sys.exit(main())

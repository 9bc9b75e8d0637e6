"""Users that buy from the running suite until Ctrl-C: `make load`. Meanwhile inject any fault.

Each request is retried until it has a response. After Ctrl-C the audit must find no difference.
Then every response is compared with the final state of the shop. The exit code is 1 if a response
was lost or contradicted, or if the audit finds differences.
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
CONVERGED_S = 90.0  # an order may have to wait for the sweeper
AUDIT_RESULTS = {1: "the audit finds differences", 2: "the audit ended with an error"}


class Interrupt:
    """Set by the first Ctrl-C. The second one ends the program at once."""

    def __init__(self) -> None:
        # Only a flag: a handler must not wake greenthreads while eventlet's hub runs.
        self.is_set = False
        signal.signal(signal.SIGINT, self._set)

    def _set(self, *_: object) -> None:
        self.is_set = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(clients: Clients, per_s: float) -> None:
    """Generate load until Ctrl-C, then compare. Print a line a second. Clients record problems."""
    interrupt = Interrupt()
    print("Ctrl-C ends the load. Then every response is compared.", flush=True)
    clients.add_users(USERS, 1_000_00)
    if any(
        status == HTTPStatus.UNPROCESSABLE_ENTITY for _, status in clients.responses
    ):
        raise Failure("the load needs a currency with two decimals, such as EUR")
    with clients.background_load(per_s):
        while not interrupt.is_set:
            before = Counter(clients.responses)
            eventlet.sleep(1)
            print(_line(clients.responses - before, clients.in_flight), flush=True)
    print("waiting for convergence; Ctrl-C again ends at once", flush=True)
    clients.finish()
    clients.broken += _audited()
    clients.compare()


def _line(responses: Counter[tuple[str, int]], in_flight: int) -> str:
    statuses: Counter[str] = Counter()
    for (_, status), number in responses.items():
        statuses[str(status or "no response")] += number
    counts = [f"{number} x {status}" for status, number in sorted(statuses.items())]
    summary = ", ".join(counts) or "no response"
    return f"{time.strftime('%H:%M:%S')}  {summary}; {in_flight} in flight"


def _audited() -> list[str]:
    """Wait until the audit finds no difference, CONVERGED_S at most. Return the problems then."""
    command = [sys.executable, "-W", "ignore", "-m", "audit", "--settled"]
    deadline = time.monotonic() + CONVERGED_S
    while time.monotonic() < deadline:
        if subprocess.run(command, capture_output=True).returncode == 0:
            break
        eventlet.sleep(1)
    code = subprocess.run(command).returncode
    return [AUDIT_RESULTS.get(code, f"the audit ended with {code}")] if code else []


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.load", description=__doc__
    )
    parser.add_argument(
        "--per-s",
        type=float,
        default=20,
        help="new requests a second, by default %(default)s",
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
    longest = f"longest response {clients.longest_s:.1f} s"
    print(f"{clients.orders} orders, {clients.retries} retries, {longest}")
    print("\n".join(clients.broken) or "no response is contradicted")
    return 1 if clients.broken else 0


if __name__ == "__main__":
    sys.exit(main())

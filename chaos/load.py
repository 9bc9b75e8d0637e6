"""Users who buy from the running suite until Ctrl-C, whatever is done to it meanwhile: `make load`.

Each request is repeated until it is answered. Behind it, when the audit finds all quiet, every answer is
compared with what the shop tells by then; ends with 1 where something was lost or contradicted.
"""

import eventlet

eventlet.monkey_patch()  # first of all, as `nameko run` does

import argparse
import os
import random
import subprocess
import sys
import time
from collections import Counter

from chaos.clients import Clients
from dev.failure import Failure

USERS = 8
QUIET_S = 90.0  # an order may have to wait for the sweeper


def run(clients: Clients, per_s: float) -> list[str]:
    """Load until it is interrupted, with a line a second; what is broken."""
    clients.join(USERS, 1_000_00)
    print("Ctrl-C ends it: then every answer is compared.")
    with clients.arrivals(per_s):
        try:
            while True:
                before = Counter(clients.answers)
                eventlet.sleep(1)
                print(_line(clients.answers - before, clients.under_way), flush=True)
        except KeyboardInterrupt:
            print("waiting for the last answers")
    clients.finish()
    _await_quiet()
    return clients.compare()


def _line(answers: Counter[tuple[str, int]], under_way: int) -> str:
    statuses: Counter[str] = Counter()
    for (_, status), number in answers.items():
        statuses[str(status or "cut off")] += number
    told = ", ".join(f"{number} x {status}" for status, number in sorted(statuses.items()))
    return f"{time.strftime('%H:%M:%S')}  {told or 'no answer'}; {under_way} wait"


def _await_quiet() -> None:
    """Returns when the audit has nothing to say, or has not stopped for too long."""
    command = [sys.executable, "-W", "ignore", "-m", "audit", "--settled"]
    until = time.monotonic() + QUIET_S
    while subprocess.run(command, stdout=subprocess.DEVNULL).returncode and time.monotonic() < until:
        eventlet.sleep(1)
    subprocess.run(command)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos.load", description=__doc__)
    parser.add_argument(
        "--per-s", type=float, default=20, help="requests that begin in a second: %(default)s"
    )
    options = parser.parse_args()
    clients = Clients(
        f"http://127.0.0.1:{os.environ.get('GATEWAY_PORT', '8000')}",
        f"load-{time.time_ns()}",
        random.Random(),
    )
    try:
        broken = run(clients, options.per_s)
    except Failure as failure:
        broken = [str(failure)]
    print(f"{clients.orders} orders, {clients.retries} repetitions, longest answer {clients.longest_s:.1f} s")
    print("\n".join(broken) or "every answer holds")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

"""Send requests to the running gateway that schemathesis generates from docs/openapi.yaml.

The requests are valid and invalid ones, in the name of a new user. No request may cause a server
error. Each response must be documented. Invalid data and requests without a token must be refused.

usage: python -m dev.specs.fuzz [--seconds N] [--seed N]
"""

import argparse
import os
import subprocess
import sys
import time
import urllib.request
from json import dumps, load
from pathlib import Path
from tempfile import TemporaryDirectory

from dev.specs.openapi import YAML

# The document cannot express all rules: existing cursors and keys, decimals of a number.
CHECKS = ["--checks", "all", "--exclude-checks", "positive_data_acceptance"]


def command(url: str, token: str, *more: str) -> list[str]:
    """Return schemathesis's command for a gateway. It writes files to its working directory."""
    program = str(Path(sys.executable).with_name("schemathesis"))
    target = ["--url", url, "--header", f"Authorization: Bearer {token}"]
    return [program, "run", str(YAML), *target, *CHECKS, "--no-color", *more]


def new_token(url: str) -> str:
    name = f"fuzz-{time.time_ns()}"
    user = {
        "username": name,
        "email": f"{name}@example.org",
        "password": "correct horse battery",
    }
    request = urllib.request.Request(  # noqa: S310 - the gateway on this machine
        f"{url}/users", dumps(user).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - the same
        token: str = load(response)["access_token"]
        return token


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dev.specs.fuzz", description=__doc__
    )
    parser.add_argument(
        "--seconds", type=int, default=600, help="duration, by default %(default)s"
    )
    parser.add_argument("--seed", type=int, help="by default a new one")
    options = parser.parse_args()
    seed = time.time_ns() % 1_000_000 if options.seed is None else options.seed
    url = f"http://127.0.0.1:{os.environ.get('GATEWAY_PORT', '8000')}"
    limits = ["--max-time", str(options.seconds), "--seed", str(seed)]
    run = command(url, new_token(url), *limits, "--continue-on-failure")
    with TemporaryDirectory(prefix="shop-fuzz-") as folder:
        return subprocess.run(run, cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

"""Tries the running gateway with requests that schemathesis makes up from docs/openapi.yaml, right ones and
wrong ones, in the name of a new user: nothing breaks, what is answered is documented, wrong data is refused,
and so is who has no token.

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

# The document can't say all: which cursors and keys there have been, how many decimals a number may have.
CHECKS = ["--checks", "all", "--exclude-checks", "positive_data_acceptance"]


def command(url: str, token: str, *more: str) -> list[str]:
    """The run of schemathesis against a gateway; it leaves files where it runs."""
    program = str(Path(sys.executable).with_name("schemathesis"))
    header = f"Authorization: Bearer {token}"
    return [
        program,
        "run",
        str(YAML),
        "--url",
        url,
        "--header",
        header,
        *CHECKS,
        "--no-color",
        *more,
    ]


def new_token(url: str) -> str:
    name = f"fuzz-{time.time_ns()}"
    user = {
        "username": name,
        "email": f"{name}@example.org",
        "password": "correct horse battery",
    }
    request = urllib.request.Request(  # noqa: S310 - our own gateway
        f"{url}/users", dumps(user).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the same
        token: str = load(answer)["access_token"]
        return token


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dev.specs.fuzz", description=__doc__
    )
    parser.add_argument(
        "--seconds", type=int, default=600, help="how long: %(default)s"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=time.time_ns() % 1_000_000,
        help="a new one each time",
    )
    options = parser.parse_args()
    url = f"http://127.0.0.1:{os.environ.get('GATEWAY_PORT', '8000')}"
    long = [
        "--max-time",
        str(options.seconds),
        "--seed",
        str(options.seed),
        "--continue-on-failure",
    ]
    with TemporaryDirectory(prefix="shop-fuzz-") as folder:
        return subprocess.run(
            command(url, new_token(url), *long), cwd=folder, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())

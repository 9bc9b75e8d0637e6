"""The Postman collection passes against the running suite."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.proxies import DEAD_PROXY

NEWMAN = Path("postman/node_modules/.bin/newman")
COLLECTION = Path("postman/shop.postman_collection.json")
FOLDERS = re.findall(r'^      "name": "(.*)"', COLLECTION.read_text(), re.MULTILINE)
# Newman 4 and 5 lack these. They have setNextRequest in `postman`.
NEWER = re.compile(r"\bpm\.(?:execution|vault|require|state)\b")


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("127.0.0.1:{port}", ()),
        ("127.0.0.1:{port}", ("-n", "2", "--bail")),
        *[("http://127.0.0.1:{port}/", ("--folder", folder)) for folder in FOLDERS],
    ],
    ids=["whole", "again and again", *FOLDERS],
)
def test_the_collection_passes(suite, address: str, options: tuple[str, ...]) -> None:
    assert NEWMAN.exists(), "newman is missing: run `npm ci` in postman/"
    run = (NEWMAN, "run", COLLECTION, "-e", "postman/shop.postman_environment.json")
    command = [
        *map(str, run),
        *("--timeout-request", "30000", *options),
        *("--env-var", f"baseUrl={address.format(port=suite.ports['gateway'])}"),
    ]
    environment = {**os.environ, **DEAD_PROXY}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=180, env=environment
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "assertions" in done.stdout


def test_each_folder_can_be_run_alone() -> None:
    assert len(FOLDERS) == 2


def test_the_collection_needs_nothing_that_newman_4_lacks() -> None:
    assert NEWER.findall(COLLECTION.read_text()) == []
    assert NEWER.findall("pm.execution.setNextRequest(null)") != []

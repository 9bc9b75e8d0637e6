"""The Postman collection against the running suite."""

import subprocess
from pathlib import Path

import pytest

NEWMAN = Path("postman/node_modules/.bin/newman")


@pytest.mark.parametrize("time", ["first", "second"])
def test_the_collection_passes_again_and_again(suite, time) -> None:
    assert NEWMAN.exists(), "newman is missing: run `npm ci` in postman/"
    command = [
        *(str(NEWMAN), "run", "postman/shop.postman_collection.json"),
        *("-e", "postman/shop.postman_environment.json", "--timeout-request", "30000"),
        *("--env-var", f"baseUrl=127.0.0.1:{suite.ports['gateway']}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "assertions" in done.stdout

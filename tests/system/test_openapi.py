"""The running gateway does what docs/openapi.yaml says.

The client of other tests checks their requests and responses.
"""

import subprocess

import pytest
import yaml

from dev.specs.fuzz import command
from dev.specs.openapi import YAML
from gateway import documents

DEADLINE_S = 240  # it takes half a minute
REPEATABLE = [
    "--generation-deterministic",
    "--max-examples",
    "10",
    "--continue-on-failure",
]


def test_generated_requests_get_documented_responses(
    suite, new_shopper, tmp_path
) -> None:
    tried = command(suite.url, new_shopper().user["access_token"], *REPEATABLE)
    done = subprocess.run(
        tried, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    paths = yaml.safe_load(YAML.read_text())["paths"]
    operations = sum(len(methods) for methods in paths.values())
    assert f"Tested: {operations}" in done.stdout


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/metrics", *sorted(documents.FILES)]
)
def test_public_paths_are_served_as_documented(client, path) -> None:
    assert client.get(path).status_code == 200
    assert client.head(path).status_code == 200
    assert client.delete(path).status_code == 405

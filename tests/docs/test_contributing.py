"""The loop of CONTRIBUTING.md works as it is written; tests/docs/test_text.py looks at its verbs."""

import os
import subprocess

from tests.docs.markdown import ROOT, blocks

[LOOP] = [
    block.text
    for block in blocks(ROOT / "docs" / "CONTRIBUTING.md")
    if block.language == "bash"
]


def test_the_loop_while_one_writes_runs() -> None:
    environment = {**os.environ, "PYTEST_ADDOPTS": "-p no:cacheprovider"}
    done = subprocess.run(
        ["bash", "-e", "-c", LOOP],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for said in ("All checks passed!", " passed in ", "together; at most"):
        assert said in done.stdout

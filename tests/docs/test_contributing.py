"""Runs the commands of CONTRIBUTING.md. tests/docs/test_text.py checks its make targets."""

import os
import subprocess

from tests.docs.markdown import ROOT, blocks

BLOCKS = blocks(ROOT / "docs" / "CONTRIBUTING.md")
[LOOP] = [block.text for block in BLOCKS if block.language == "bash"]


def test_the_development_loop_runs() -> None:
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
    for output in ("All checks passed!", " passed in ", "total, of "):
        assert output in done.stdout

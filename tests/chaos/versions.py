"""The previous version of the suite, for copies that run beside copies of this version."""

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dev.broker import CHECKOUT
from dev.failure import Failure

# The last commit whose `make migrate` refuses events in the retry queues of earlier versions.
# Change it with each release, together with charts/shop/files/bus-previous.yaml.
PREVIOUS = "f4038a6dfb802ec5833ee5faf6ea6f7cf0457a06"


@contextmanager
def checkout_of(commit: str) -> Iterator[Path]:
    """Yield a folder with the files of a commit. Raises Failure if the history lacks it."""
    with tempfile.TemporaryDirectory(prefix=".run-version-", dir=CHECKOUT) as folder:
        command = ["git", "archive", commit]
        archive = subprocess.run(command, cwd=CHECKOUT, capture_output=True)
        if archive.returncode:
            raise Failure(f"the history lacks commit {commit}: git fetch --unshallow")
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(folder, filter="data")
        yield Path(folder)

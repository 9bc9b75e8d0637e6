"""Virtual environments for tools with other versions than .venv has, or that few people need.

usage: python -m dev.environment NAME LOCK    makes .tools/NAME from a lock file
"""

import hashlib
import subprocess
import sys
from pathlib import Path

from dev.failure import Failure

TOOLS = Path(__file__).parents[1] / ".tools"


def install(name: str, lock: Path) -> None:
    """Make .tools/`name` from a lock file, unless it is up to date. Raises Failure if pip fails."""
    venv = TOOLS / name
    stamp = venv / ".stamp"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    wanted = f"{venv} {digest}"  # its programs contain the path of the folder
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"install: installing .tools/{name} ...", file=sys.stderr)
    # Without pip of its own: Debian's Python may lack ensurepip, and .venv has a pip.
    _run("-m", "venv", "--clear", "--without-pip", str(venv))
    _run("-m", "pip", "--python", str(venv / "bin" / "python"), "install", "-qq",
         "--disable-pip-version-check", "--require-hashes", "-r", str(lock))  # fmt: skip
    stamp.write_text(wanted)


def _run(*arguments: str) -> None:
    if subprocess.run(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, check=False
    ).returncode:
        raise Failure(f"python failed: {' '.join(arguments[:3])} ...")


if __name__ == "__main__":
    try:
        install(sys.argv[1], Path(sys.argv[2]))
    except Failure as failure:
        sys.exit(f"install: {failure}")

"""Virtual environments for tools that need other versions than .venv, or that few people need.

usage: python -m dev.environment NAME LOCK    installs .tools/NAME from a lock file
"""

import hashlib
import subprocess
import sys
from pathlib import Path

from dev.failure import Failure

TOOLS = Path(__file__).parents[1] / ".tools"


def install(name: str, lock: Path) -> None:
    """Install .tools/`name` from a lock file unless it is up to date.

    Raises Failure if pip fails.
    """
    venv = TOOLS / name
    stamp = venv / ".stamp"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    wanted = f"{venv} {digest}"  # the programs contain the path of the folder
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"install: installing .tools/{name} ...", file=sys.stderr)
    # Use the pip of .venv: Debian's Python may lack ensurepip.
    _run("-m", "venv", "--clear", "--without-pip", str(venv))
    pip = ["-m", "pip", "--python", str(venv / "bin" / "python")]
    options = ["-qq", "--disable-pip-version-check", "--require-hashes"]
    _run(*pip, "install", *options, "-r", str(lock))
    stamp.write_text(wanted)


def _run(*arguments: str) -> None:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise Failure(f"python failed: {' '.join(arguments[:3])} ...")


if __name__ == "__main__":
    try:
        install(sys.argv[1], Path(sys.argv[2]))
    except Failure as failure:
        sys.exit(f"install: {failure}")

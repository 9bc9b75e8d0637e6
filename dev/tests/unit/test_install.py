"""A failed installation is reported in one line. The next one starts from scratch."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dev.broker import CHECKOUT

# Fake programs. They succeed, or fail as the real ones do if their index is unreachable.
PYTHON = """\
#!/bin/sh
case "$*" in
  *version_info*) echo 3.11 ;;
  "-m venv .venv")
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python
    echo "$PWD/.venv" >.venv/bin/activate ;;
  *"pip install"*)
    [ "$PIP_USER$PIP_TARGET$PYTHONHOME$PYTHONPATH" = 0 ] || exit 2
    echo "WARNING: Retrying after connection broken"
    [ -e "$UNREACHABLE_INDEX" ] || exit 0
    echo "ERROR: No matching distribution found for alembic"
    exit 1 ;;
esac
"""
NPM = """\
#!/bin/sh
echo "npm error code ECONNREFUSED"
echo "npm error FetchError: request to http://127.0.0.1:9/newman failed, reason: ECONNREFUSED"
echo "npm error A complete log of this run can be found in: somewhere"
[ ! -e "$UNREACHABLE_INDEX" ] || exit 1
mkdir -p postman/node_modules
"""
NODE = "#!/bin/sh\n"
# Variables for other installations. They would break this one.
OTHERS = {
    "PIP_USER": "1",
    "PIP_TARGET": "/nowhere",
    "PYTHONHOME": "/nowhere",
    "PYTHONPATH": "/nowhere",
}
# With external servers, no packages of servers are needed.
SERVERS = {"AMQP_URI": "amqp://elsewhere", "USERS_DB_URI": "postgresql://elsewhere"}
TIMEOUT_S = 60
Install = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in a folder whose name has special characters."""
    place = tmp_path / "Лавка #1 ;new 'q' 50%"
    for folder in ("dev", "postman", "programs", "requirements"):
        (place / folder).mkdir(parents=True)
    shutil.copy(CHECKOUT / "dev/install.sh", place / "dev")
    for file in ("requirements/dev.lock", "postman/package-lock.json"):
        (place / file).touch()
    for name, text in (("python", PYTHON), ("npm", NPM), ("node", NODE)):
        (place / "programs" / name).write_text(text)
        (place / "programs" / name).chmod(0o755)
    return place


@pytest.fixture
def unreachable_index(tmp_path: Path) -> Path:
    """While this file exists, both indexes are unreachable."""
    return tmp_path / "dead"


@pytest.fixture
def install(checkout: Path, unreachable_index: Path, tmp_path: Path) -> Install:
    """Run install.sh in the checkout or in a given folder. Return its exit code and its lines.

    CDPATH contains another folder with the same name.
    """
    (tmp_path / "others" / "dev").mkdir(parents=True)
    own = {
        "PYTHON": str(checkout / "programs" / "python"),
        "PATH": f"{checkout / 'programs'}:{os.environ['PATH']}",
        "CDPATH": str(tmp_path / "others"),
        "UNREACHABLE_INDEX": str(unreachable_index),
        "TMPDIR": str(tmp_path),
    }

    def run(folder: Path = checkout) -> tuple[int, list[str]]:
        done = subprocess.run(
            ["dev/install.sh"],
            cwd=folder,
            env={**os.environ, **OTHERS, **SERVERS, **own, "PWD": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
        )
        return done.returncode, done.stdout.splitlines()

    return run


def kept_output(line: str) -> str:
    """Return the whole output, from the file that the line names."""
    return Path(line.partition(", see ")[2].removesuffix(", then retry")).read_text()


def test_an_unreachable_python_index_is_reported_in_one_line(
    install: Install, unreachable_index: Path
) -> None:
    unreachable_index.touch()
    code, [begun, line] = install()
    assert code == 1
    assert begun == "install: installing Python packages into .venv ..."
    assert line.startswith(
        "install: pip failed: ERROR: No matching distribution found for alembic. "
    )
    assert "PIP_INDEX_URL" in line
    assert "WARNING: Retrying" in kept_output(line)


def test_an_unreachable_npm_registry_is_reported_in_one_line(
    install: Install, checkout: Path, unreachable_index: Path
) -> None:
    assert install()[0] == 0
    shutil.rmtree(checkout / "postman/node_modules")
    unreachable_index.touch()
    code, [begun, line] = install()
    assert (code, begun) == (
        1,
        "install: installing newman into postman/node_modules ...",
    )
    assert line.startswith(
        "install: npm failed: npm error FetchError: request to http://127.0.0.1:9/newman"
    )
    assert "npm_config_registry" in line
    assert "complete log" in kept_output(line)


def test_an_unfinished_installation_is_replaced(
    install: Install, checkout: Path, unreachable_index: Path
) -> None:
    unreachable_index.touch()
    assert install()[0] == 1
    remains = checkout / ".venv" / "half a package"
    remains.touch()
    unreachable_index.unlink()
    code, lines = install()
    assert (code, len(lines)) == (0, 2)
    assert not remains.exists()
    assert install() == (0, []), "everything is installed"


def test_a_linked_path_uses_the_same_installation(
    install: Install, checkout: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(checkout)
    assert install(link)[0] == 0
    assert install() == (0, [])
    assert install(link) == (0, [])


@pytest.mark.parametrize("character", '"$`\\')
def test_an_unsupported_folder_name_is_refused_in_one_line(
    install: Install, checkout: Path, tmp_path: Path, character: str
) -> None:
    place = checkout.rename(tmp_path / f"a{character}b")
    code, [line] = install(place)
    assert code == 1
    assert line.endswith(f"in its name: move {place}")

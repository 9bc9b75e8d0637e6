"""Run the steps of a release, for `.github/workflows/release.yml` (docs/releasing.md).

usage: python -m dev.release check TAG   # compares tag, version, chart, changelog and settings
       python -m dev.release notes       # prints the changelog's section of this version
       python -m dev.release chart       # packages and pushes the chart, prints its digest

REGISTRY is the registry's host, NAMESPACE the path on it. It needs Python only, without .venv.
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
# The registry of the images, in the chart's values.yaml.
IMAGES = re.compile(r'^image:\n  registry: ""\n  namespace: \S+$', re.MULTILINE)
DIGEST = re.compile(r"^Digest: (sha256:[0-9a-f]{64})$", re.MULTILINE)


def version_of(root: Path) -> str:
    """Return the version in pyproject.toml."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text)["project"]["version"])


def check(root: Path, tag: str, environ: Mapping[str, str]) -> None:
    """Raise Failure with the first reason not to release."""
    version = version_of(root)
    if tag != f"v{version}":
        raise Failure(
            f"the tag is {tag}, but pyproject.toml has version {version}: tag v{version}"
        )
    chart = (root / "charts/shop/Chart.yaml").read_text(encoding="utf-8")
    patterns = {"version": r"^version: (.+)$", "appVersion": r'^appVersion: "(.+)"$'}
    for field, pattern in patterns.items():
        found = re.findall(pattern, chart, re.MULTILINE)
        if found != [version]:
            raise Failure(f"{field} in charts/shop/Chart.yaml is not {version}")
    notes(root)
    for name in SETTINGS:
        _setting(environ, name)


def notes(root: Path) -> str:
    """Return CHANGELOG.md's section of this version. Raises Failure if there is none."""
    version = version_of(root)
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    pattern = rf"^## \[{re.escape(version)}\][^\n]*\n(.*?)(?=^## |\Z)"
    section = re.search(pattern, changelog, re.MULTILINE | re.DOTALL)
    if section is None or not section[1].strip():
        raise Failure(
            f'CHANGELOG.md has no section "## [{version}]": rename the section Unreleased'
        )
    return section[1].strip() + "\n"


def package(
    root: Path, helm: Path, registry: str, namespace: str, folder: Path
) -> Path:
    """Package the chart into the folder, with the registry and namespace of the images."""
    chart = folder / "shop"
    shutil.copytree(root / "charts/shop", chart)
    values = chart / "values.yaml"
    images = f'image:\n  registry: "{registry}"\n  namespace: "{namespace}"'
    text, changes = IMAGES.subn(lambda _: images, values.read_text(encoding="utf-8"))
    if changes != 1:
        raise Failure(
            "charts/shop/values.yaml lacks an empty image.registry and an image.namespace"
        )
    values.write_text(text, encoding="utf-8")
    _run(str(helm), "package", "--destination", str(folder), str(chart))
    return folder / f"shop-{version_of(root)}.tgz"


def push(helm: Path, archive: Path, repository: str) -> str:
    """Push a packaged chart to a repository, host/path. Return its reference with the digest."""
    output = _run(str(helm), "push", str(archive), f"oci://{repository}")
    digest = DIGEST.search(output)
    if digest is None:
        raise Failure(f"helm push names no digest: {output.strip()}")
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
    """Return stdout and stderr of the command. Versions of helm use different ones."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise Failure(f"{' '.join(command[1:2])} failed: {done.stdout.strip()}")
    return done.stdout


def main(arguments: list[str]) -> None:
    """Run the step that the arguments name. Raises Failure."""
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

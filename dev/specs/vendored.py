"""Fetch the files from npm that browsers get from the gateway. Their SHA-256 is pinned here.

Swagger UI is for /docs, and htm with Preact for the page. To update a package, set its version, run
this program, and pin the checksums that it prints.

usage: python -m dev.specs.vendored
"""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dev.failure import Failure
from gateway.documents import STATIC


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of a package, stored unmodified as `name`."""

    name: str
    source: str  # the path in the package
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Package:
    """A version of an npm package, and its files in a folder."""

    name: str
    version: str
    licence: str
    folder: Path
    files: tuple[File, ...]

    def fetch(self) -> dict[Path, bytes]:
        """Return the files. Raises Failure if a SHA-256 is not the pinned one."""
        with tempfile.TemporaryDirectory() as folder:
            package = f"{self.name}@{self.version}"
            command = ["npm", "pack", "--silent", "--pack-destination", folder, package]
            subprocess.run(command, check=True)
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
                found = {file: _member(archive, file.source) for file in self.files}
        wrong = [
            f"{file.name} {sha256(content)}"
            for file, content in found.items()
            if sha256(content) != file.sha256
        ]
        if wrong:
            raise Failure(f"another SHA-256 than pinned: {', '.join(wrong)}")
        return {self.folder / file.name: content for file, content in found.items()}


def _member(archive: tarfile.TarFile, path: str) -> bytes:
    file = archive.extractfile(f"package/{path}")
    if file is None:
        raise Failure(f"{path} is not a file")
    return file.read()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


SWAGGER_UI = Package(
    name="swagger-ui-dist",
    version="5.35.0",
    licence="Apache-2.0",
    folder=STATIC / "docs",
    files=(
        File(
            name="swagger-ui-bundle.js",
            source="swagger-ui-bundle.js",
            sha256="e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
        ),
        File(
            name="swagger-ui-bundle.js.LICENSE.txt",
            source="swagger-ui-bundle.js.LICENSE.txt",
            sha256="37eb6e7e59aed57b2c1acf076574b818ea07b74265717e0bd67b59e0baf9abbb",
        ),
        File(
            name="swagger-ui.css",
            source="swagger-ui.css",
            sha256="5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
        ),
        File(
            name="LICENSE",
            source="LICENSE",
            sha256="cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
        ),
        File(
            name="NOTICE",
            source="NOTICE",
            sha256="0d20d1adef18aee3f40dd258172155521ce702ac445cb5f7b7d60ed32dad2fb2",
        ),
    ),
)
# Its standalone module contains a Preact 10.
HTM = Package(
    name="htm",
    version="3.1.1",
    licence="Apache-2.0 AND MIT",
    folder=STATIC / "page",
    files=(
        File(
            name="standalone.module.js",
            source="preact/standalone.module.js",
            sha256="72284e8e9079c87817145df1110f74e8a2aa040b2fc384922e18dfcb46fc1fd7",
        ),
        File(
            name="htm.LICENSE",
            source="LICENSE",
            sha256="740725f7252e750af735d0028cc534970772f513331e9f68150fede8fb3ce00f",
        ),
    ),
)
# Only its licence, which htm's package does not contain.
PREACT = Package(
    name="preact",
    version="10.5.15",
    licence="MIT",
    folder=STATIC / "page",
    files=(
        File(
            name="preact.LICENSE",
            source="LICENSE",
            sha256="1fe6958409c8c257a70c587a18b6f7f412b179b456630790d30b2ec9a8e4b7d4",
        ),
    ),
)
PACKAGES = (SWAGGER_UI, HTM, PREACT)

if __name__ == "__main__":
    try:
        for package in PACKAGES:
            for path, content in package.fetch().items():
                path.write_bytes(content)
    except Failure as failure:
        sys.exit(str(failure))

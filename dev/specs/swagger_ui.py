"""Fetch the files of Swagger UI from npm that /docs serves. Their SHA-256 is pinned here.

To update it, set VERSION, run this program, and pin the checksums that it prints.

usage: python -m dev.specs.swagger_ui
"""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from dev.failure import Failure
from gateway.documents import STATIC

VERSION = "5.35.0"
FOLDER = STATIC / "docs"
SHA256 = {
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui-bundle.js.LICENSE.txt": (
        "37eb6e7e59aed57b2c1acf076574b818ea07b74265717e0bd67b59e0baf9abbb"
    ),
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
    "LICENSE": "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
    "NOTICE": "0d20d1adef18aee3f40dd258172155521ce702ac445cb5f7b7d60ed32dad2fb2",
}


def fetch() -> dict[str, bytes]:
    """Return the files of the package. Raises Failure if a SHA-256 is not the pinned one."""
    with tempfile.TemporaryDirectory() as folder:
        package = f"swagger-ui-dist@{VERSION}"
        command = ["npm", "pack", "--silent", "--pack-destination", folder, package]
        subprocess.run(command, check=True)
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            found = {name: archive.extractfile(f"package/{name}") for name in SHA256}
            files = {name: file.read() for name, file in found.items() if file}
    digests = {name: sha256(content) for name, content in files.items()}
    wrong = [
        f"{name} {found}" for name, found in digests.items() if found != SHA256[name]
    ]
    if wrong:
        raise Failure(f"another SHA-256 than pinned: {', '.join(wrong)}")
    return files


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    try:
        for name, content in fetch().items():
            (FOLDER / name).write_bytes(content)
    except Failure as failure:
        sys.exit(str(failure))

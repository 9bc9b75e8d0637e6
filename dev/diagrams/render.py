"""Render each changed docs/diagrams/*.mmd to .svg and .png beside it.

A picture contains the SHA-256 of its inputs: its source, the common style (config.json) and the
versions of the tools (package-lock.json). So no browser is needed to find outdated pictures, and
only those are rendered again.

usage: python -m dev.diagrams.render
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from dev.browser.chromium import FLAGS
from dev.failure import Failure

HERE = Path(__file__).parent
DIAGRAMS = HERE.parents[1] / "docs" / "diagrams"
MMDC = HERE / "node_modules" / ".bin" / "mmdc"
CONFIG, LOCK = HERE / "config.json", HERE / "package-lock.json"
FORMATS = ("svg", "png")
PNG_PIXELS = 2  # per pixel of the SVG: sharp on any screen
RENDER_S = 120

STAMP = re.compile(r"<!-- made of sha256:([0-9a-f]{64}) -->\n")
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_KEY = b"Made-Of\0sha256:"


def sources(folder: Path = DIAGRAMS) -> list[Path]:
    return sorted(folder.glob("*.mmd"))


def pictures(folder: Path = DIAGRAMS) -> list[Path]:
    return sorted(path for suffix in FORMATS for path in folder.glob(f"*.{suffix}"))


def picture_of(source: Path, suffix: str) -> Path:
    return source.with_suffix(f".{suffix}")


def input_digest(source: Path) -> str:
    """Return the digest of all inputs of a picture of this source."""
    parts = [
        hashlib.sha256(path.read_bytes()).digest() for path in (source, CONFIG, LOCK)
    ]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def stamp_of(picture: Path) -> str | None:
    """Return the digest in a picture, or None if picture or digest is missing."""
    if not picture.exists():
        return None
    content = picture.read_bytes()
    if picture.suffix == ".svg":
        found = STAMP.match(content.decode(errors="replace"))
        return found and found[1]
    texts = (
        data
        for kind, data in _chunks(content)
        if kind == b"tEXt" and data.startswith(PNG_KEY)
    )
    return next((data.removeprefix(PNG_KEY).decode() for data in texts), None)


def stamped(content: bytes, suffix: str, digest: str) -> bytes:
    """Return a picture with the digest in it: a comment in an SVG, a text chunk in a PNG."""
    if suffix == "svg":
        return f"<!-- made of sha256:{digest} -->\n".encode() + content.rstrip() + b"\n"
    head = len(PNG_START) + 25  # IHDR must be the first chunk
    kind_and_data = b"tEXt" + PNG_KEY + digest.encode()
    length, check = len(kind_and_data) - 4, zlib.crc32(kind_and_data)
    chunk = length.to_bytes(4, "big") + kind_and_data + check.to_bytes(4, "big")
    return content[:head] + chunk + content[head:]


def stale(folder: Path = DIAGRAMS) -> list[Path]:
    """Return the sources with a missing or outdated picture."""
    return [source for source in sources(folder) if not _is_up_to_date(source)]


def _is_up_to_date(source: Path) -> bool:
    stamps = {stamp_of(picture_of(source, suffix)) for suffix in FORMATS}
    return stamps == {input_digest(source)}


def orphans(folder: Path = DIAGRAMS) -> list[Path]:
    """Return the pictures without a source."""
    return [p for p in pictures(folder) if not p.with_suffix(".mmd").exists()]


def render(source: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        made = {suffix: _rendered(source, suffix, Path(scratch)) for suffix in FORMATS}
    for suffix, content in made.items():
        picture_of(source, suffix).write_bytes(
            stamped(content, suffix, input_digest(source))
        )


def _rendered(source: Path, suffix: str, scratch: Path) -> bytes:
    target, browser = scratch / f"picture.{suffix}", scratch / "browser.json"
    browser.write_text(json.dumps(_browser(scratch / f"profile-{suffix}")))
    command: list[str | Path] = [MMDC, "--quiet", "--input", source, "--output", target]
    command += ["--configFile", CONFIG, "--puppeteerConfigFile", browser]
    command += ["--backgroundColor", "white", "--svgId", source.stem]
    command += ["--scale", str(PNG_PIXELS)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=RENDER_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"{source.name}: not rendered within {RENDER_S} s") from None
    if done.returncode or not target.exists():
        errors = [
            line
            for line in done.stderr.splitlines()
            if line and not line.startswith("    at ")
        ]
        raise Failure("\n".join([f"{source.name} cannot be rendered:", *errors]))
    return target.read_bytes()


def _browser(profile: Path) -> dict[str, object]:
    """Return puppeteer's settings for the system's chromium. Its sandbox does not work for root."""
    sandbox = [] if os.getuid() else ["--no-sandbox"]
    return {
        "executablePath": shutil.which("chromium"),
        "userDataDir": str(profile),
        "args": [*FLAGS, *sandbox],
    }


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(PNG_START)
    while png.startswith(PNG_START) and at + 8 <= len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length


def main() -> None:
    for picture in orphans():
        print(f"docs: removing {picture.name}, which has no source")
        picture.unlink()
    for source in stale():
        print(f"docs: rendering {source.name} ...", flush=True)
        render(source)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"docs: {failure}")

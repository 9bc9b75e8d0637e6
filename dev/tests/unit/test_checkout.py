"""A clone on any machine: the lines of its files end as Linux needs them."""

import subprocess
from pathlib import Path

from dev.broker import CHECKOUT

CRLF = ("-c", "core.autocrlf=true", "-c", "core.eol=crlf")  # as on Windows


def git(*arguments: str, folder: Path = CHECKOUT) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_a_clone_made_as_on_windows_has_the_lines_of_linux(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git("clone", "--quiet", "--shared", *CRLF, str(CHECKOUT), str(clone))
    files = [Path(clone, name) for name in git("ls-files", "-z", folder=clone).split("\0") if name]
    assert len(files) > 500
    assert [file for file in files if file.suffix != ".png" and b"\r\n" in file.read_bytes()] == []
    assert git("status", "--short", folder=clone) == ""

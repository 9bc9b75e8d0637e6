"""In a clone on any machine, the lines of all files end as Linux needs them."""

import io
import subprocess
import tarfile

from dev.broker import CHECKOUT

CRLF = ("-c", "core.autocrlf=true", "-c", "core.eol=crlf")  # as on Windows


def test_a_windows_clone_has_linux_line_ends() -> None:
    """`git archive` converts files as a clone does, without a second repository."""
    command = ["git", *CRLF, "archive", "--format=tar", "HEAD"]
    written = subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(written)) as archive:
        files = {
            member.name: archive.extractfile(member)
            for member in archive
            if member.isfile()
        }
        texts = {
            name: file.read()
            for name, file in files.items()
            if file and not name.endswith(".png")
        }
    assert len(texts) > 500
    assert [name for name, text in texts.items() if b"\r\n" in text] == []

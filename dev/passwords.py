"""Random passwords in a file that only its owner can read."""

import json
import os
import secrets
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

PRIVATE = 0o600


class Passwords:
    """The passwords of one state folder, by name. A missing one is created when it is read."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __getitem__(self, name: str) -> str:
        known = self._known()
        if name not in known:
            # Hexadecimal digits need no quotes in a URI or in SQL.
            known[name] = secrets.token_hex(16)
            write_private(self._file, json.dumps(known, indent=1))
        return known[name]

    def occur_in(self, text: str) -> bool:
        """Return whether a text contains one of the passwords."""
        return any(password in text for password in self._known().values())

    def _known(self) -> dict[str, str]:
        return json.loads(self._file.read_text()) if self._file.exists() else {}


def exports(variables: Mapping[str, str]) -> str:
    """Return a shell script that exports the variables."""
    return "".join(
        f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()
    )


def write_private(file: Path, text: str, owner: str | None = None) -> None:
    """Replace the whole file. Only its owner, by default the current user, can read it."""
    unfinished = file.with_name(f"{file.name}.{os.getpid()}")
    unfinished.touch(mode=PRIVATE)
    unfinished.write_text(text)
    if owner:
        shutil.chown(unfinished, owner)
    unfinished.rename(file)

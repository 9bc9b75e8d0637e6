"""Secrets from files that variables such as TOKEN_SECRET_FILE name. No message quotes one."""

import re
from pathlib import Path
from stat import S_ISREG

from nameko.exceptions import ConfigurationError

MAX_BYTES = 64 * 1024


def read_secret(variable: str, path: str) -> str:
    """The text of the file at `path`, which `variable` names, without a newline at its end.

    Raises ConfigurationError with one line.
    """
    if not path.startswith("/"):  # it may be the secret itself
        raise ConfigurationError(
            f"{variable} is wrong: it must be the absolute path of a file"
        )
    try:
        if not S_ISREG(Path(path).stat().st_mode):  # a FIFO may never be written
            raise OSError(0, "not a regular file")
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = re.sub(r"\r?\n\Z", "", content.decode())
        if not text or "\0" in text or len(content) > MAX_BYTES:
            raise ValueError
    except OSError as exc:
        # Not the path: where there is no such file, it may be the secret itself.
        raise ConfigurationError(
            f"{variable} is wrong: its file can't be read: {exc.strerror}"
        ) from None
    except ValueError:
        raise ConfigurationError(
            f"{variable} is wrong: {path!r} must hold 1 to {MAX_BYTES} bytes of UTF-8 text without NUL"
        ) from None
    return text

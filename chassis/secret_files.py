"""Secrets from files that variables such as TOKEN_SECRET_FILE name. No message quotes a secret."""

import re
from pathlib import Path
from stat import S_ISREG

from nameko.exceptions import ConfigurationError

MAX_BYTES = 64 * 1024


def read_secret(variable: str, path: str) -> str:
    """Return the text of the file at `path`, without a newline at its end.

    `variable` names the file's variable in errors. Raises ConfigurationError with one line.
    """
    # A path that is not absolute may be the secret itself.
    if not path.startswith("/"):
        raise ConfigurationError(
            f"{variable} is wrong: it must be the absolute path of a file"
        )
    try:
        # Opening a FIFO could wait without end.
        if not S_ISREG(Path(path).stat().st_mode):
            raise OSError(0, "not a regular file")
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = re.sub(r"\r?\n\Z", "", content.decode())
        if not text or "\0" in text or len(content) > MAX_BYTES:
            raise ValueError
    except OSError as exc:
        # The path is not quoted: it may be the secret itself.
        raise ConfigurationError(
            f"{variable} is wrong: its file cannot be read: {exc.strerror}"
        ) from None
    except ValueError:
        raise ConfigurationError(
            f"{variable} is wrong: {path!r} must contain 1 to {MAX_BYTES} bytes of "
            "UTF-8 text without NUL"
        ) from None
    return text

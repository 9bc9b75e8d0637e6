"""The state folder: data, configuration, logs and process ids of a running suite."""

import hashlib
import os
import re
import shutil
import stat
from pathlib import Path

from dev.failure import Failure

# It survives a reboot, and every user can enter it.
FALLBACK = Path("/var/tmp")  # noqa: S108
# In bytes. The path of a Unix socket may have 107, and "/supervisord.sock.12345" is added.
MAX_LENGTH = 80
# The characters that the settings of supervisord and of the servers can contain.
PLAIN = re.compile(r"[\w@+=,./-]+", re.ASCII)


def make(wanted: Path) -> Path:
    """Create the folder and return its real path.

    The wanted path may be unusable. Root starts the servers as ordinary users, which cannot enter
    a checkout in /root or in a private temporary folder. The path of a socket must be short. The
    settings of the servers cannot contain every character. Then the wanted path becomes a link to
    a folder in /var/tmp.
    """
    wanted = wanted.absolute()
    if _is_usable(wanted):
        if wanted.is_symlink():  # from a checkout that was copied or moved here
            wanted.unlink()
        wanted.mkdir(parents=True, exist_ok=True)
        _make_enterable(wanted)
        return wanted.resolve()
    real = fallback(wanted)
    real.mkdir(exist_ok=True)
    if real.lstat().st_uid != os.geteuid() or not stat.S_ISDIR(real.lstat().st_mode):
        raise Failure(
            f"{real} belongs to {real.owner()}: run as {real.owner()}, or remove it"
        )
    _make_enterable(real)
    _link(wanted, real)
    return real


def remove(wanted: Path) -> None:
    """Remove the folder and the link to it."""
    shutil.rmtree(fallback(wanted.absolute()), ignore_errors=True)
    if wanted.is_symlink():
        wanted.unlink()
    elif wanted.exists():
        shutil.rmtree(wanted)


def fallback(wanted: Path) -> Path:
    """Return the folder in /var/tmp that is used if the wanted path is unusable."""
    path = os.fsencode(wanted.parent.resolve() / wanted.name)
    return FALLBACK / f"nameko-shop-{hashlib.sha256(path).hexdigest()[:12]}"


def _is_usable(wanted: Path) -> bool:
    place = wanted.parent.resolve() / wanted.name
    if len(os.fsencode(place)) > MAX_LENGTH or not PLAIN.fullmatch(str(place)):
        return False
    folders = [folder for folder in place.parents if folder.exists()]
    return os.geteuid() != 0 or all(
        folder.stat().st_mode & stat.S_IXOTH for folder in folders
    )


def _make_enterable(place: Path) -> None:
    """Let the servers' users enter the folder, under any umask."""
    if place.stat().st_uid == os.geteuid():
        place.chmod(0o755)


def _link(wanted: Path, real: Path) -> None:
    if wanted.is_symlink() and wanted.readlink() != real:
        wanted.unlink()
    if wanted.is_symlink():
        return
    wanted.parent.mkdir(parents=True, exist_ok=True)
    if wanted.is_dir():
        try:
            wanted.rmdir()
        except OSError:
            message = f"the servers' users cannot enter {wanted}: remove it"
            raise Failure(message) from None
    wanted.symlink_to(real)

"""The folder that holds all that a running suite writes: data, configuration, logs, process ids."""

import hashlib
import os
import re
import shutil
import stat
from pathlib import Path

from dev.failure import Failure

ELSEWHERE = Path("/var/tmp")  # noqa: S108 - survives a reboot, and everyone can enter it
LONGEST = 80  # bytes; a Unix socket's path may have 107 and ours adds "/supervisord.sock.12345"
PLAIN = re.compile(
    r"[\w@+=,./-]+", re.ASCII
)  # what supervisord's and the servers' settings can hold


def make(wanted: Path) -> Path:
    """Makes the folder and returns where it really is.

    As root we start the servers as ordinary users, who cannot enter a checkout in /root or in a
    temporary folder of ours; a socket's path may not be long; and the servers' settings do not hold
    every character. Where the wanted place is no good, it becomes a link to a folder of ours in
    /var/tmp.
    """
    wanted = wanted.absolute()
    if _suits(wanted):
        if wanted.is_symlink():  # of a checkout that was copied or moved here
            wanted.unlink()
        wanted.mkdir(parents=True, exist_ok=True)
        _admit(wanted)
        return wanted.resolve()
    real = elsewhere(wanted)
    real.mkdir(exist_ok=True)
    if real.lstat().st_uid != os.geteuid() or not stat.S_ISDIR(real.lstat().st_mode):
        raise Failure(
            f"{real} belongs to {real.owner()}: run as {real.owner()}, or remove it"
        )
    _admit(real)
    _link(wanted, real)
    return real


def remove(wanted: Path) -> None:
    """Removes the folder, and the link that stands for it."""
    shutil.rmtree(elsewhere(wanted.absolute()), ignore_errors=True)
    if wanted.is_symlink():
        wanted.unlink()
    elif wanted.exists():
        shutil.rmtree(wanted)


def elsewhere(wanted: Path) -> Path:
    """The folder in /var/tmp that stands in for the wanted one."""
    path = os.fsencode(wanted.parent.resolve() / wanted.name)
    return ELSEWHERE / f"nameko-shop-{hashlib.sha256(path).hexdigest()[:12]}"


def _suits(wanted: Path) -> bool:
    place = wanted.parent.resolve() / wanted.name
    if len(os.fsencode(place)) > LONGEST or not PLAIN.fullmatch(str(place)):
        return False
    folders = [folder for folder in place.parents if folder.exists()]
    return os.geteuid() != 0 or all(
        folder.stat().st_mode & stat.S_IXOTH for folder in folders
    )


def _admit(place: Path) -> None:
    """Lets the servers' users enter, whatever the umask is."""
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
            raise Failure(
                f"{wanted} cannot be used by the servers' users: remove it"
            ) from None
    wanted.symlink_to(real)

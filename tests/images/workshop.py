"""Builds images by buildah and starts them, without an engine: what it needs is root and Linux.

Images lie in a store of their own, which is removed. A container here is a private mount and process
namespace: the image's root file system, read-only with all that is in it, /proc, and a /dev where nothing
can be made. The network is the machine's own, where the tests' broker and databases listen.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conftest import eventually

BASE = "localhost/base"
# The Debian whose Python is that of the Dockerfile's default base, 3.13.
DEBIAN = "trixie"
PACKAGES = "python3,python3-venv,ca-certificates"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
STORAGE = """\
[storage]
driver = "{driver}"
graphroot = "{store}/images"
runroot = "{store}/run"
"""
# The program becomes process 1 of its namespace, as in a pod: signals reach it as they do there.
START = """\
set -e
root=$1 user=$2
shift 2
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -o remount,bind,ro "$root/dev"
mount -o remount,bind,ro "$root"
exec setpriv --no-new-privs chroot --userspec="$user" --groups="${user#*:}" "$root" "$@"
"""
NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
TIED = [
    "setpriv",
    "--pdeathsig",
    "KILL",
    *NAMESPACES,
]  # ends with the tests, even where they are killed
START_S = 90.0


class Workshop:
    """A store of images, with the base that they are built on."""

    def __init__(self, checkout: Path, store: Path) -> None:
        self.checkout = checkout
        self.store = store
        self._roots: dict[str, Path] = {}
        self._environment = {
            **os.environ,
            "BUILDAH_ISOLATION": "chroot",
            "CONTAINERS_STORAGE_CONF": str(store / "storage.conf"),
            "TMPDIR": str(store / "tmp"),
        }
        if store.exists():  # of a run that was killed
            self.remove()
        (store / "tmp").mkdir(parents=True)
        self._choose_driver()

    def make_base(self) -> None:
        """A Debian with Python, by debootstrap, that trusts the certificates that this machine trusts."""
        container = self.buildah("from", "scratch")
        root = Path(self.buildah("mount", container))
        # In namespaces of its own: one that is killed leaves nothing mounted, and nothing running.
        self._run(
            *TIED,
            "debootstrap",
            "--variant=minbase",
            f"--include={PACKAGES}",
            DEBIAN,
            str(root),
        )
        shutil.copyfile(Path("/", CERTIFICATES), root / CERTIFICATES)
        for rest in ("var/cache/apt/archives", "var/lib/apt/lists", "var/log"):
            shutil.rmtree(root / rest)
        self.buildah("commit", "--rm", container, BASE)

    def make_images(self, **settings: str) -> str:
        """What `make images` says."""
        defaults = {
            "BASE": BASE,
            "BUILDER": "buildah",
            "REGISTRY": "",
            "NAMESPACE": "",
            "TAG": "",
        }
        return self._run(
            "dev/images/build.sh", environment=self._environment | defaults | settings
        )

    def config(self, image: str) -> dict[str, Any]:
        """How an image says it is run: User, Env, Cmd, ..."""
        found: dict[str, Any] = json.loads(
            self.buildah("inspect", "--type=image", image)
        )
        return found["OCIv1"]["config"]

    def root(self, image: str) -> Path:
        """The root file system of an image."""
        if image not in self._roots:
            container = self.buildah("from", "--pull-never", image)
            self._roots[image] = Path(self.buildah("mount", container))
        return self._roots[image]

    def buildah(self, *arguments: str) -> str:
        return self._run("buildah", *arguments).strip()

    def remove(self) -> None:
        if (
            self.store / "storage.conf"
        ).exists():  # without it these would be others' containers
            self.buildah("rm", "--all")  # nothing stays mounted
        shutil.rmtree(self.store)

    def _choose_driver(self) -> None:
        """vfs copies every file for every layer, but works on any file system, overlayfs too."""
        for driver in ("overlay", "vfs"):
            settings = STORAGE.format(store=self.store, driver=driver)
            (self.store / "storage.conf").write_text(settings)
            tried = subprocess.run(
                ["buildah", "images"], env=self._environment, capture_output=True
            )
            if tried.returncode == 0:
                return

    def _run(self, *command: str, environment: Mapping[str, str] | None = None) -> str:
        log = self.store / "log"
        with log.open("a") as output:
            done = subprocess.run(
                command,
                cwd=self.checkout,
                env=environment or self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )
            output.write(done.stdout)
        assert done.returncode == 0, f"{' '.join(command)}:\n{log.read_text()[-4000:]}"
        return done.stdout


class Container:
    """An image's own command, or another one, in its root file system as its user, or another one."""

    def __init__(
        self,
        workshop: Workshop,
        image: str,
        log: Path,
        *command: str,
        user: str = "",
        **environment: str,
    ) -> None:
        config = workshop.config(image)
        self.log = log
        variables = [
            *config["Env"],
            *(f"{name}={value}" for name, value in environment.items()),
        ]
        program = [
            "/usr/bin/env",
            "-i",
            "-C",
            config["WorkingDir"],
            *variables,
            *(command or config["Cmd"]),
        ]
        start = [
            "bash",
            "-c",
            START,
            "start",
            str(workshop.root(image)),
            user or config["User"],
            *program,
        ]
        with log.open("wb") as output:
            self._running = subprocess.Popen(
                [*TIED, *start],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def ended(self) -> bool:
        return self._running.poll() is not None

    def wait(self, timeout_s: float = START_S) -> int:
        """The exit code, once it has ended."""
        eventually(self.ended, timeout_s)
        code: int = self._running.returncode
        return code

    def terminate(self) -> None:
        """SIGTERM for its process 1."""
        [child] = (
            Path(f"/proc/{self._running.pid}/task/{self._running.pid}/children")
            .read_text()
            .split()
        )
        os.kill(int(child), signal.SIGTERM)

    def kill(self) -> None:
        if not self.ended():
            self._running.kill()
            self._running.wait()

    def says(self) -> str:
        return self.log.read_text()

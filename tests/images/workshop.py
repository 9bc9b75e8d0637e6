"""Builds images with buildah and starts them without an engine. It needs root and Linux.

The images are in a private store, which is removed afterwards. A container here is a mount and
process namespace: the image's root file system, completely read-only, /proc, and a read-only /dev.
It shares the machine's network, on which the tests' broker and databases listen.
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
# The Debian release with the Python of the Dockerfile's default base, 3.13.
DEBIAN = "trixie"
PACKAGES = "python3,python3-venv,ca-certificates"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
STORAGE = """\
[storage]
driver = "{driver}"
graphroot = "{store}/images"
runroot = "{store}/run"
"""
# The program becomes process 1 of its namespace, as in a pod, so that signals act in the same way.
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
# The program ends with the tests, even if they are killed.
TIED = ["setpriv", "--pdeathsig", "KILL", *NAMESPACES]
START_S = 90.0


class Workshop:
    """A store of images, with their base image."""

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
        # A killed run leaves its store.
        if store.exists():
            self.remove()
        (store / "tmp").mkdir(parents=True)
        self._choose_driver()

    def make_base(self) -> None:
        """Build a Debian with Python by debootstrap, with this machine's CA certificates."""
        container = self.buildah("from", "scratch")
        root = Path(self.buildah("mount", container))
        # In new namespaces, a killed debootstrap leaves no mounts and no processes.
        options = ("--variant=minbase", f"--include={PACKAGES}")
        self._run(*TIED, "debootstrap", *options, DEBIAN, str(root))
        shutil.copyfile(Path("/", CERTIFICATES), root / CERTIFICATES)
        for folder in ("var/cache/apt/archives", "var/lib/apt/lists", "var/log"):
            shutil.rmtree(root / folder)
        self.buildah("commit", "--rm", container, BASE)

    def make_images(self, **settings: str) -> str:
        """Run the command of `make images` and return its output."""
        chosen = {"BASE": BASE, "BUILDER": "buildah"}
        unset = dict.fromkeys(("REGISTRY", "NAMESPACE", "TAG"), "")
        environment = self._environment | chosen | unset | settings
        return self._run("dev/images/build.sh", environment=environment)

    def config(self, image: str) -> dict[str, Any]:
        """Return the configuration of an image: User, Env, Cmd and others."""
        found = json.loads(self.buildah("inspect", "--type=image", image))
        config: dict[str, Any] = found["OCIv1"]["config"]
        return config

    def root(self, image: str) -> Path:
        """Mount the root file system of an image and return its path."""
        if image not in self._roots:
            container = self.buildah("from", "--pull-never", image)
            self._roots[image] = Path(self.buildah("mount", container))
        return self._roots[image]

    def buildah(self, *arguments: str) -> str:
        return self._run("buildah", *arguments).strip()

    def remove(self) -> None:
        # Without this file, buildah would remove the user's own containers.
        if (self.store / "storage.conf").exists():
            self.buildah("rm", "--all")
        shutil.rmtree(self.store)

    def _choose_driver(self) -> None:
        """Choose the first storage driver that works.

        vfs copies every file for every layer, but works on any file system, even overlayfs.
        """
        for driver in ("overlay", "vfs"):
            settings = STORAGE.format(store=self.store, driver=driver)
            (self.store / "storage.conf").write_text(settings)
            attempt = subprocess.run(
                ["buildah", "images"], env=self._environment, capture_output=True
            )
            if attempt.returncode == 0:
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
    """A command in the root file system of an image.

    By default, it is the image's own command, and runs as the image's user.
    """

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
        variables = [f"{name}={value}" for name, value in environment.items()]
        program = ["/usr/bin/env", "-i", "-C", config["WorkingDir"]]
        program += [*config["Env"], *variables, *(command or config["Cmd"])]
        arguments = [str(workshop.root(image)), user or config["User"], *program]
        with log.open("wb") as output:
            self._running = subprocess.Popen(
                [*TIED, "bash", "-c", START, "start", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def ended(self) -> bool:
        return self._running.poll() is not None

    def wait(self, timeout_s: float = START_S) -> int:
        """Wait for its end and return its exit code."""
        eventually(self.ended, timeout_s)
        code: int = self._running.returncode
        return code

    def terminate(self) -> None:
        """Send SIGTERM to its process 1."""
        pid = self._running.pid
        [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)

    def kill(self) -> None:
        if not self.ended():
            self._running.kill()
            self._running.wait()

    def output(self) -> str:
        return self.log.read_text()

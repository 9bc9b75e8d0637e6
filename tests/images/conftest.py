"""Builds the images once, and starts containers."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.images.workshop import NAMESPACES, Container, Workshop

CHECKOUT = Path(__file__).parents[2]
STORE = CHECKOUT / ".run-images"


@pytest.fixture(scope="session")
def workshop() -> Iterator[Workshop]:
    """Build all images, with the version in pyproject.toml."""
    require_mount()
    workshop = Workshop(CHECKOUT, STORE)
    try:
        workshop.make_base()
        workshop.make_images()
        yield workshop
    finally:
        workshop.remove()


def require_mount() -> None:
    """Fail, and do not skip, if images cannot be built or started here."""
    if os.geteuid() != 0:
        pytest.fail("only root can build and start images here", pytrace=False)
    command = [*NAMESPACES, "mount", "--bind", "/", "/"]
    attempt = subprocess.run(command, capture_output=True, text=True)
    if attempt.returncode:
        reason = "root may not mount, as in a chroot or an unprivileged container"
        pytest.fail(
            f"images cannot be built or started: {reason}: {attempt.stderr}",
            pytrace=False,
        )


@pytest.fixture
def start(workshop: Workshop, tmp_path: Path) -> Iterator[Callable[..., Container]]:
    """Return a function that starts a container, which ends with the test.

    Its arguments are `start(image, *command, user="", **environment)`.
    """
    with ExitStack() as running:

        def run(
            image: str, *command: str, user: str = "", **environment: str
        ) -> Container:
            log = tmp_path / f"{len(list(tmp_path.iterdir()))}.log"
            container = Container(
                workshop, image, log, *command, user=user, **environment
            )
            running.callback(container.kill)
            return container

        yield run

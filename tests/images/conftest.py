"""The images, built once, and what is run of them."""

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
    """All images, of the version that pyproject.toml names."""
    may_mount()
    workshop = Workshop(CHECKOUT, STORE)
    try:
        workshop.make_base()
        workshop.make_images()
        yield workshop
    finally:
        workshop.remove()


def may_mount() -> None:
    """A check that cannot be made has failed."""
    if os.geteuid() != 0:
        pytest.fail("images are built and started here by root alone", pytrace=False)
    tried = subprocess.run(
        [*NAMESPACES, "mount", "--bind", "/", "/"], capture_output=True, text=True
    )
    if tried.returncode:
        why = f"root may not mount here, as in a chroot or a container without privileges: {tried.stderr}"
        pytest.fail(f"images can't be built or started: {why}", pytrace=False)


@pytest.fixture
def start(workshop: Workshop, tmp_path: Path) -> Iterator[Callable[..., Container]]:
    """`start(image, *command, user="", **environment)`: a container, which ends with the test."""
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

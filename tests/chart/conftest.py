"""Where RABBITMQ_ROOT names a root file system, the broker runs in it: `make test-broker`."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.ports import free_ports
from dev.servers import Servers
from tests.chart.debian import OfAnotherDebian

if root := os.environ.get("RABBITMQ_ROOT"):

    @pytest.fixture(scope="session")
    def servers() -> Iterator[Servers]:
        with tempfile.TemporaryDirectory(prefix="shop-tests-") as folder:
            started = OfAnotherDebian(Path(folder, "run"), free_ports())
            started.root = Path(root)
            try:
                started.start()
                yield started
            finally:
                started.erase()

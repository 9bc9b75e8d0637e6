"""With RABBITMQ_ROOT set, the broker runs in that root file system (`make test-broker`)."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.ports import free_ports
from dev.servers import Servers
from tests.chart.debian import ServersOfAnotherDebian

if root := os.environ.get("RABBITMQ_ROOT"):

    @pytest.fixture(scope="session")
    def servers() -> Iterator[Servers]:
        with tempfile.TemporaryDirectory(prefix="shop-tests-") as folder:
            started = ServersOfAnotherDebian(Path(folder, "run"), free_ports())
            started.root = Path(root)
            try:
                started.start()
                yield started
            finally:
                started.erase()

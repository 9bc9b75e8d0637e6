"""What the unit tests of dev/ share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev import state


@pytest.fixture(autouse=True)
def cleared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Removes the folders that stood in for those of the test."""
    places: list[Path] = []
    find = state.elsewhere

    def elsewhere(wanted: Path) -> Path:
        places.append(find(wanted))
        return places[-1]

    monkeypatch.setattr(state, "elsewhere", elsewhere)
    yield
    for place in places:
        shutil.rmtree(place, ignore_errors=True)

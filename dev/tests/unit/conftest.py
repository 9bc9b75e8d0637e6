"""A fixture for all unit tests of dev/."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev import state


@pytest.fixture(autouse=True)
def removed_fallbacks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove the folders in /var/tmp that the test used as state folders."""
    places: list[Path] = []
    find = state.fallback

    def fallback(wanted: Path) -> Path:
        places.append(find(wanted))
        return places[-1]

    monkeypatch.setattr(state, "fallback", fallback)
    yield
    for place in places:
        shutil.rmtree(place, ignore_errors=True)

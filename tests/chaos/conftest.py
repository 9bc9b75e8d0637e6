"""Fixtures that play parts in an arena."""

import os
from collections.abc import Callable, Iterator

import pytest

from tests.chaos.arena import Arenas
from tests.chaos.parts import PARTS
from tests.chaos.run import Result, play

SEED = int(os.environ.get("SEED", "1"))


@pytest.fixture(scope="session")
def arenas() -> Iterator[Arenas]:
    """An arena with two copies of each service. A part that fails needs a new one."""
    arenas = Arenas()
    yield arenas
    arenas.close()


@pytest.fixture
def prove(arenas: Arenas) -> Callable[[str], Result]:
    """`prove("kills")`: play a part in its small size. No promise may be broken."""

    def play_part(name: str) -> Result:
        [part] = [part for part in PARTS if part.name == name]
        result = play(part, arenas.get(), SEED)
        assert not result.broken, f"SEED={SEED}\n" + "\n".join(result.broken)
        return result

    return play_part

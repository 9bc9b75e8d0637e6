"""The arena, and what plays a part in it."""

import os
from collections.abc import Callable, Iterator

import pytest

from tests.chaos.arena import Arenas
from tests.chaos.parts import PARTS
from tests.chaos.run import Result, play

SEED = int(os.environ.get("SEED", "1"))


@pytest.fixture(scope="session")
def arenas() -> Iterator[Arenas]:
    """Two copies of each service; new ones after a part that failed."""
    arenas = Arenas()
    yield arenas
    arenas.close()


@pytest.fixture
def prove(arenas: Arenas) -> Callable[[str], Result]:
    """Plays a part in its small size; nothing may be broken."""

    def play_part(name: str) -> Result:
        [part] = [part for part in PARTS if part.name == name]
        result = play(part, arenas.get(), SEED)
        assert not result.broken, f"SEED={SEED}\n" + "\n".join(result.broken)
        return result

    return play_part

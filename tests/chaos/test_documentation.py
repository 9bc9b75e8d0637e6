"""docs/reliability.md agrees with the code."""

import re
from pathlib import Path

import pytest

from tests.chaos.parts import PARTS
from tests.chaos.points import POINTS

TEXT = Path("docs/reliability.md").read_text()


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_each_point_is_documented_with_its_recovery(point) -> None:
    assert f"| {point.name} | {point.recovery} |\n" in TEXT


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_each_part_is_documented_with_its_promise(part) -> None:
    assert f"| `{part.name}` | {part.promise} |" in TEXT


def test_each_file_that_it_names_exists() -> None:
    named = re.findall(r"[\w/]+/[\w/]+\.(?:py|md)", TEXT)
    assert named
    assert [name for name in named if not Path(name).exists()] == []

"""The photographs of the page are there and in use. Their pixels differ from run to run."""

from pathlib import Path

import pytest
from PIL import Image

from dev.browser.pictures import ALL, PICTURES, SCALE, Picture
from dev.diagrams.render import stamp_of
from tests.docs.markdown import DOCUMENTS, links

MAX_KB = 300

each_picture = pytest.mark.parametrize("picture", ALL, ids=lambda picture: picture.name)


def shown(document: Path) -> set[Path]:
    """Return the pictures that a document links to."""
    targets = {(document.parent / link).resolve() for link in links(document)}
    return {target for target in targets if target.parent == PICTURES}


def test_the_folder_contains_these_pictures() -> None:
    assert {*PICTURES.iterdir()} == {picture.path for picture in ALL}


@each_picture
def test_a_picture_has_its_declared_size(picture: Picture) -> None:
    expected = (SCALE * picture.width, SCALE * picture.height)
    with Image.open(picture.path) as image:
        assert image.size == expected


@each_picture
def test_a_picture_is_small_and_made_by_make_docs(picture: Picture) -> None:
    assert picture.path.stat().st_size < MAX_KB * 1024
    assert stamp_of(picture.path)


def test_documents_show_all_pictures() -> None:
    found = {path for document in DOCUMENTS for path in shown(document)}
    assert found == {picture.path for picture in ALL}

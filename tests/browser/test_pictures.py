"""The pictures in the documents show the page as it is: `make docs` takes them again."""

from dev.browser.pictures import ALL, input_digest
from dev.diagrams.render import stamp_of


def test_the_pictures_are_of_this_page() -> None:
    assert {stamp_of(picture.path) for picture in ALL} == {input_digest()}

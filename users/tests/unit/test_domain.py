"""The rules of users alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from users.domain import fold, taken

NAME, ADDRESS = {"username": ["This username is taken."]}, {"email": ["This address is in use."]}


def holder(username: str, email: str) -> dict[str, str]:
    return {"username_key": fold(username), "email_key": fold(email)}


@given(st.text(st.characters(codec="ascii")))
def test_texts_that_differ_in_case_are_one(text) -> None:
    assert fold(text.upper()) == fold(text.lower()) == fold(text)


@pytest.mark.parametrize(
    ("holders", "errors"),
    [
        ([holder("ANN", "other@example.com")], NAME),
        ([holder("other", "Ann@Example.com")], ADDRESS),
        ([holder("ann", "other@example.com"), holder("other", "ann@example.com")], NAME | ADDRESS),
        ([holder("anna", "ann@example.org")], {}),
        ([], {}),
    ],
)
def test_what_is_taken_is_named(holders, errors) -> None:
    assert taken({"username": "Ann", "email": "ann@example.com"}, holders) == errors

"""The fields that services share."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from marshmallow import Schema, ValidationError

from chassis.schemas import (
    AmountMinor,
    Id,
    PageRequest,
    Text,
    Utc,
    is_id,
)

ID = "0190b5a0-0000-7000-8000-000000000000"


class Item(Schema):
    id = Id(required=True)
    name = Text(1, 5, required=True)
    amount_minor = AmountMinor(100, required=True)


VALID = {"id": ID, "name": "Zoë", "amount_minor": 100}


def test_a_valid_item_is_accepted() -> None:
    assert Item().load(VALID) == VALID


@pytest.mark.parametrize(
    ("field", "values"),
    [
        (
            "id",
            [
                "",
                ID.upper(),
                ID + "\n",
                ID[:-1],
                ID.replace("-", ""),
                5,
                None,
                [ID],
                "{" + ID + "}",
            ],
        ),
        ("name", ["", "toolong", "a\x00b", "\ud800", 5, None, ["a"]]),
        (
            "amount_minor",
            [0, -1, 101, 1.0, 1.5, "1", True, None, [], 2**63, float("nan")],
        ),
    ],
)
def test_an_invalid_value_is_refused_by_field(field, values) -> None:
    for value in values:
        with pytest.raises(ValidationError) as caught:
            Item().load({**VALID, field: value})
        assert list(caught.value.messages) == [field], value


def test_an_id_is_a_canonical_uuid() -> None:
    assert is_id(ID)
    assert not any(is_id(other) for other in (ID.upper(), ID + "\n", None, 5))


def test_times_are_sent_in_utc_with_microseconds() -> None:
    class Out(Schema):
        at = Utc()

    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert Out().dump({"at": noon}) == {"at": "2026-01-31T12:00:00.000000Z"}
    assert Out().dump(
        {"at": noon.astimezone(timezone(timedelta(hours=3)))}
    ) == Out().dump({"at": noon})


@pytest.mark.parametrize("limit", [0, -1, 101, 1e9, "5", True, None])
def test_an_invalid_page_size_is_refused(limit) -> None:
    with pytest.raises(ValidationError, match="limit"):
        PageRequest().load({"limit": limit})

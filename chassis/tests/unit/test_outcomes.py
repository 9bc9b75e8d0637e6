"""Outcomes of RPC methods: pages, validated arguments, valid items of a batch."""

from typing import Any

import pytest
from marshmallow import Schema
from nameko.exceptions import MalformedRequest

from chassis.outcomes import merge_outcomes, page, validate_items, validated
from chassis.schemas import AmountMinor, Id, Text

ID = "0190b5a0-0000-7000-8000-000000000000"
VALID = {"id": ID, "name": "Zoë", "amount_minor": 100}


class Item(Schema):
    id = Id(required=True)
    name = Text(1, 5, required=True)
    amount_minor = AmountMinor(100, required=True)


def test_a_page_names_the_next_page() -> None:
    items = [{"id": 3}, {"id": 2}, {"id": 1}]
    assert page(items, 2, "id") == {"items": items[:2], "next": "2"}
    assert page(items, 3, "id") == {"items": items, "next": None}
    assert page([], 3, "id") == {"items": [], "next": None}


def test_an_invalid_item_does_not_affect_the_others() -> None:
    valid, invalid = validate_items(Item(), [VALID, {"name": "x"}, None, VALID])
    assert valid == [VALID, VALID]
    done = [{"status": "done", "number": number} for number in range(len(valid))]
    merged = merge_outcomes(invalid, done)
    assert [outcome["status"] for outcome in merged] == [
        "done",
        "invalid",
        "invalid",
        "done",
    ]
    assert [outcome.get("number") for outcome in merged] == [0, None, None, 1]
    assert sorted(merged[1]["errors"]) == ["amount_minor", "id"]


@pytest.mark.parametrize("number", [0, 2])
def test_each_valid_item_needs_one_outcome(number: int) -> None:
    _, invalid = validate_items(Item(), [VALID, None])
    with pytest.raises(ValueError, match="zip"):
        merge_outcomes(invalid, [{"status": "done"}] * number)


@pytest.mark.parametrize("items", [None, {}, "items", 5])
def test_items_must_be_a_list(items) -> None:
    with pytest.raises(MalformedRequest):
        validate_items(Item(), items)


def test_a_validated_method_receives_loaded_arguments_or_is_not_called() -> None:
    class Shop:
        @validated(Item())
        def buy(self, **item: Any) -> Any:
            return item

    assert Shop().buy(**VALID) == VALID
    outcome = Shop().buy(name="x")
    assert outcome["status"] == "invalid"
    assert sorted(outcome["errors"]) == ["amount_minor", "id"]

"""Messages are JSON of plain data."""

import uuid
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from chassis.broker import encode_json


def test_plain_data_becomes_compact_json() -> None:
    assert encode_json({"a": [1, None, True, "д"]}) == b'{"a":[1,null,true,"\\u0434"]}'


@pytest.mark.parametrize(
    "odd",
    [
        float("nan"),
        float("inf"),
        Decimal(1),
        uuid.uuid4(),
        datetime.now(UTC),
        {1, 2},
        b"x",
        object(),
    ],
)
def test_other_data_is_refused(odd) -> None:
    with pytest.raises((TypeError, ValueError)):
        encode_json({"a": odd})

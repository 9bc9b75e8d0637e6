"""Properties and bodies of any message that could harm its consumer are removed."""

import codecs
from typing import Any

import amqp
import pytest
from amqp import serialization, spec
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.serialization import loads

from chassis.patches import (  # the module replaces the readers of properties and bodies
    MAX_BODY_CHARS,
    TEXT_ENCODINGS,
)


def read(**properties: Any) -> dict[str, Any]:
    """Return the properties as a consumer receives them."""
    sent = amqp.Message(b"", **properties)._serialize_properties()
    found, _ = serialization.PROPERTY_CLASSES[spec.Basic.CLASS_ID](sent, 0)
    return dict(found)


@pytest.mark.parametrize("encoding", ["bz2", "BZ2", "zlib", "bz2_codec"])
def test_no_body_is_decompressed_by_its_encoding(encoding) -> None:
    """A body of 242 bytes can be one of 300 MB, compressed by bz2."""
    found = read(content_type="application/data", content_encoding=encoding)
    body = codecs.encode(bytes(1000), encoding)
    try:
        data = loads(body, found.get("content_type"), found.get("content_encoding"))
    except (ContentDisallowed, DecodeError):
        return
    assert data == body


def test_a_body_that_is_too_long_is_not_decoded() -> None:
    with pytest.raises(DecodeError, match="more than 2097152"):
        loads(b"[" + b"[]," * MAX_BODY_CHARS + b"[]]", "application/json", "utf-8")
    assert loads(b"[" + b"[]," * 1000 + b"[]]", "application/json", "utf-8")


@pytest.mark.parametrize("encoding", TEXT_ENCODINGS)
def test_text_encodings_are_kept(encoding) -> None:
    assert read(content_encoding=encoding)["content_encoding"] == encoding


def test_no_body_is_decompressed_by_a_header() -> None:
    headers = read(application_headers={"compression": "application/x-gzip", "mine": 1})
    assert headers["application_headers"] == {"mine": 1}

"""How responses are encoded."""

import pytest

from gateway import documents, problems
from gateway.http.responses import MAX_COPIED, Response


def head_of(response: Response, **more: bool) -> dict[str, str]:
    """Return the headers, by name in lower case."""
    head = bytes(response.encode(**more)[0]).partition(b"\r\n\r\n")[0].decode()
    return dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])


def test_a_response_is_not_cached_or_sniffed_by_default() -> None:
    for response in (Response(200, b"{}"), problems.not_found().response()):
        head = head_of(response)
        assert head["cache-control"] == "no-store"
        assert head["x-content-type-options"] == "nosniff"


def test_a_response_may_permit_caching() -> None:
    assert (
        head_of(Response(200, b"{}", {"Cache-Control": "max-age=600"}))["cache-control"]
        == "max-age=600"
    )


def test_a_small_response_is_written_at_once() -> None:
    body = b"x" * MAX_COPIED
    [whole] = Response(200, body).encode()
    assert bytes(whole).endswith(b"\r\n\r\n" + body)


def test_a_large_body_is_never_copied() -> None:
    body = b"x" * (MAX_COPIED + 1)
    head, piece = Response(200, body).encode()
    assert bytes(head).endswith(b"\r\n\r\n")
    assert isinstance(piece, memoryview)
    assert piece.obj is body


def test_a_response_to_head_has_no_body() -> None:
    for body in (b"{}", b"x" * (MAX_COPIED + 1)):
        response = Response(200, body)
        [head] = response.encode(has_body=False)
        assert head == bytes(response.encode()[0])[: len(head)]
        assert bytes(head).endswith(b"\r\n\r\n")


@pytest.mark.parametrize("path", sorted(documents.FILES))
def test_a_file_is_compressed_once(path) -> None:
    first, second = (documents.respond(path, "deflate, gzip;q=0.5") for _ in range(2))
    assert first.body is second.body
    assert documents.respond(path, "").body is documents.FILES[path][1]

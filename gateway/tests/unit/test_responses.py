"""What an answer is on the wire."""

import pytest

from gateway import documents, problems
from gateway.responses import MAX_COPIED, Response


def head_of(response: Response, **more: bool) -> dict[str, str]:
    """The headers, by their names in lower case."""
    head = bytes(response.pieces(**more)[0]).partition(b"\r\n\r\n")[0].decode()
    return dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])


def test_nobody_keeps_an_answer_or_guesses_its_type() -> None:
    for answer in (Response(200, b"{}"), problems.not_found().response()):
        head = head_of(answer)
        assert head["cache-control"] == "no-store"
        assert head["x-content-type-options"] == "nosniff"


def test_an_answer_may_say_that_it_can_be_kept() -> None:
    assert (
        head_of(Response(200, b"{}", {"Cache-Control": "max-age=600"}))["cache-control"]
        == "max-age=600"
    )


def test_a_small_answer_goes_out_in_one_write() -> None:
    body = b"x" * MAX_COPIED
    [whole] = Response(200, body).pieces()
    assert bytes(whole).endswith(b"\r\n\r\n" + body)


def test_a_large_body_is_never_copied() -> None:
    body = b"x" * (MAX_COPIED + 1)
    head, piece = Response(200, body).pieces()
    assert bytes(head).endswith(b"\r\n\r\n")
    assert isinstance(piece, memoryview)
    assert piece.obj is body


def test_an_answer_to_head_is_the_head_alone() -> None:
    for body in (b"{}", b"x" * (MAX_COPIED + 1)):
        answer = Response(200, body)
        [head] = answer.pieces(has_body=False)
        assert head == bytes(answer.pieces()[0])[: len(head)]
        assert bytes(head).endswith(b"\r\n\r\n")


@pytest.mark.parametrize("path", sorted(documents.FILES))
def test_all_who_take_a_compressed_file_get_the_same_one(path) -> None:
    first, second = (documents.respond(path, "deflate, gzip;q=0.5") for _ in range(2))
    assert first.body is second.body
    assert documents.respond(path, "").body is documents.FILES[path][1]

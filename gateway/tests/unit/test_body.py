"""A body ends at the end of its framing, however its bytes arrive."""

from collections.abc import Iterable

import pytest

from gateway.http.body import MAX_FRAMING, ChunkedBody, split_sized
from gateway.http.parser import MAX_BODY, MAX_HEAD
from gateway.problems import Problem

NEXT = b"GET / HTTP/1.1\r\n"  # the request after a body
END = b"0\r\n\r\n"


def split(data: bytes, ends: Iterable[int]) -> tuple[bytes, bytes] | int | None:
    """Split `data` that arrives up to each of `ends`.

    Return the body and the rest, the status of a rejection, or None while it is incomplete.
    """
    body = ChunkedBody()
    try:
        return next((found for end in ends if (found := body.split(data[:end]))), None)
    except Problem as problem:
        return problem.status


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


CHUNKED = {
    "an empty body": (END, b""),
    "one chunk": (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "two chunks": (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world"),
    "digits of both cases": (
        b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
        b"0123456789" * 2,
    ),
    "zeros before the size": (b"0000000000000005\r\nhello\r\n000\r\n\r\n", b"hello"),
    "framing in the data": (
        b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
        b"\r\n0\r\n\r\n",
    ),
    "any byte": (chunk(bytes(range(256))) + END, bytes(range(256))),
    "extensions": (
        b'5;a;b=c;d="e;\\"\\\\\t\xff";f=""\r\nhello\r\n0;last=1\r\n\r\n',
        b"hello",
    ),
    "a line of 1,024 bytes": (b"5;%b\r\nhello\r\n0\r\n\r\n" % (b"a" * 1020), b"hello"),
    "trailers": (b"5\r\nhello\r\n0\r\nX-Digest: abc\r\nX-Digest:\r\n\r\n", b"hello"),
    "two trailers of one name": (
        b"0\r\nAccept: a\r\naccept: b\r\n\r\n",
        b"",
    ),
}
MALFORMED = {
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "an extension alone": b";a\r\nhello\r\n0\r\n\r\n",
    "a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "a negative size": b"-5\r\nhello\r\n0\r\n\r\n",
    "a prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "an underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "no digit": b"g\r\nhello\r\n0\r\n\r\n",
    "17 digits": b"00000000000000005\r\nhello\r\n0\r\n\r\n",
    "a space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "a space after the size": b"5 \r\nhello\r\n0\r\n\r\n",
    "a tab after the size": b"5\t\r\nhello\r\n0\r\n\r\n",
    "a space before the extension": b"5 ;a\r\nhello\r\n0\r\n\r\n",
    "a space in the extension": b"5; a\r\nhello\r\n0\r\n\r\n",
    "a space before a value": b"5;a= b\r\nhello\r\n0\r\n\r\n",
    "an extension without a name": b"5;\r\nhello\r\n0\r\n\r\n",
    "an extension without a value": b"5;a=\r\nhello\r\n0\r\n\r\n",
    "an unclosed quote": b'5;a="b\r\nhello\r\n0\r\n\r\n',
    "text after a quote": b'5;a="b"c\r\nhello\r\n0\r\n\r\n',
    "a control character in the extension": b"5;a\x01\r\nhello\r\n0\r\n\r\n",
    "DEL in the extension": b'5;a="\x7f"\r\nhello\r\n0\r\n\r\n',
    "a NUL in the extension": b'5;a="\x00"\r\nhello\r\n0\r\n\r\n',
    "a bare LF in the extension": b"5;a\nhello\r\n0\r\n\r\n",
    "a bare CR in the extension": b'5;a="\r"\r\nhello\r\n0\r\n\r\n',
    "a bare LF after the size": b"5\nhello\r\n0\r\n\r\n",
    "a bare CR after the size": b"5\rhello\r\n0\r\n\r\n",
    "two CRs after the size": b"5\r\r\nhello\r\n0\r\n\r\n",
    "a bare LF after the data": b"5\r\nhello\n0\r\n\r\n",
    "a bare CR after the data": b"5\r\nhello\r0\r\n\r\n",
    "nothing after the data": b"5\r\nhello0\r\n\r\n",
    "two other bytes after the data": b"5\r\nhelloXX0\r\n\r\n",
    "CR and another byte after the data": b"5\r\nhello\rX0\r\n\r\n",
    "LF and CR after the data": b"5\r\nhello\n\r0\r\n\r\n",
    "a chunk that is longer than its size": b"4\r\nhello\r\n0\r\n\r\n",
    "a chunk that is shorter than its size": b"6\r\nhello\r\n0\r\n\r\n",
    "a line of 1,025 bytes": b"5;%b\r\nhello\r\n0\r\n\r\n" % (b"a" * 1021),
    "a bare LF after the last chunk": b"0\n\r\n",
    "a bare LF at the end": b"0\r\n\n",
    "a bare CR at the end": b"0\r\n\rX",
    "a request instead of trailers": b"0\r\nGET / HTTP/1.1\r\n\r\n",
    "a trailer without a name": b"0\r\n: b\r\n\r\n",
    "a space before the colon of a trailer": b"0\r\na : b\r\n\r\n",
    "a folded trailer": b"0\r\na: b\r\n c\r\n\r\n",
    "a bare LF after a trailer": b"0\r\na: b\n\r\n\r\n",
    "a bare CR in a trailer": b"0\r\na: b\rc\r\n\r\n",
    "a NUL in a trailer": b"0\r\na: \0\r\n\r\n",
    "a control character in a trailer": b"0\r\na: \x01\r\n\r\n",
    "a Content-Length in a trailer": b"0\r\nContent-Length: 5\r\n\r\n",
    "a Transfer-Encoding in a trailer": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a token in a trailer": b"0\r\nAuthorization: Bearer x\r\n\r\n",
    "a key in a trailer": b"0\r\nidempotency-key: x\r\n\r\n",
}


@pytest.mark.parametrize("case", CHUNKED)
def test_a_chunked_body_is_decoded_however_it_arrives(case: str) -> None:
    data, content = CHUNKED[case]
    assert split(data, range(len(data))) is None
    assert split(data + NEXT, range(len(data) + 1)) == (content, b"")
    for end in range(len(data)):
        assert split(data + NEXT, [end, len(data + NEXT)]) == (content, NEXT)


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_chunks_are_rejected_however_they_arrive(case: str) -> None:
    data = MALFORMED[case]
    assert split(data, range(len(data) + 1)) == 400
    for end in range(len(data)):
        assert split(data, [end, len(data)]) == 400


@pytest.mark.parametrize(
    "start",
    [
        b"x",
        b"5 ",
        b"5\n",
        b"5\rh",
        b"5;a\x01",
        b"0" * 17,
        b"5;" + b"a" * 1022,
        b"0\r\na\n",
    ],
)
def test_malformed_chunks_are_rejected_before_the_line_ends(start: bytes) -> None:
    """The client may send nothing after them."""
    assert split(start, [len(start)]) == 400


def test_a_body_has_at_most_64_kib() -> None:
    half, whole = b"x" * (MAX_BODY // 2), b"x" * MAX_BODY
    assert split(chunk(half) + chunk(half) + END, [100_000]) == (whole, b"")
    assert split(chunk(whole) + END, [100_000]) == (whole, b"")
    assert split(chunk(half) + chunk(half) + chunk(b"x"), [100_000]) == 413
    assert split(b"%x\r\n" % (MAX_BODY + 1), [9]) == 413  # before its data arrive
    assert split(b"f" * 16 + b"\r\n", [99]) == 413


@pytest.mark.parametrize(
    ("data", "extension"), [(b"x", b""), (b"x" * 16, b""), (b"x", b";" + b"a" * 1000)]
)
def test_chunk_lines_have_at_most_16_kib_together(
    data: bytes, extension: bytes
) -> None:
    piece = chunk(data, extension)
    count = (MAX_FRAMING - len(b"0\r\n")) // (len(piece) - len(data))
    received = piece * count + END
    assert split(received, [len(received)]) == (data * count, b"")
    received = piece * (count + 1) + END
    assert split(received, [len(received)]) == 413
    assert split(received, range(0, len(received) + 999, 999)) == 413


@pytest.mark.parametrize("trailers", [b"a: b\r\n" * 101, b"a: %b\r\n" % (b"b" * 8192)])
def test_trailers_have_the_limits_of_headers(trailers: bytes) -> None:
    assert split(b"0\r\n" + trailers + b"\r\n", [MAX_HEAD]) == 431
    assert split(b"0\r\n" + trailers, [MAX_HEAD]) == 431  # before they end


def test_a_body_with_a_length_ends_with_its_last_byte() -> None:
    assert split_sized(0, NEXT) == (b"", NEXT)
    assert split_sized(5, b"hello" + NEXT) == (b"hello", NEXT)
    assert split_sized(5, b"hell") is None

"""A request that the gateway accepts is read in the same way by h11 and llhttp (httptools).

They need not accept each other's requests, and the gateway rejects many that both accept. If one
of them rejects something that RFC 9112 allows, the gateway rejects it too, with three exceptions.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from unittest.mock import Mock

import h11
import httptools
import pytest
from hypothesis import example, given, settings, strategies as st

from gateway.http.connection import ClientConnection
from gateway.problems import Problem

NEXT = b"GET /next HTTP/1.1\r\nHost: shop\r\n\r\n"


@dataclass
class Message:
    """A request as a parser reads it."""

    target: bytes
    headers: dict[
        bytes, bytes
    ]  # by name in lower case; the values of one name are joined
    body: bytes
    rest: bytes  # where the next request begins
    method: bytes


class FedConnection(ClientConnection):
    """A connection that receives these parts."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        super().__init__(self, "", Mock(spec=[]), 1)
        self._parts = list(parts)

    def sendall(self, data: bytes) -> None:
        assert data == b"HTTP/1.1 100 Continue\r\n\r\n"

    def _receive(self) -> bool:
        if self._parts:
            self._received += self._parts.pop(0)
            return True
        return False

    def read(self) -> Message | None:
        """Return the request. None if it is rejected or incomplete."""
        request = self._read_request()
        if not request or request.error:
            return None
        try:
            body = self._read_body(request)
        except Problem:
            return None
        headers = {k.encode(): v.encode("latin-1") for k, v in request.headers.items()}
        return Message(
            b"",
            headers,
            body,
            self._received + b"".join(self._parts),
            request.method.encode(),
        )


def joined(pairs: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Join headers as the gateway does. llhttp leaves whitespace after values."""
    headers = [(name.lower(), value.strip(b" \t")) for name, value in pairs]
    names = dict.fromkeys(name for name, _ in headers)
    return {
        name: b", ".join(value for other, value in headers if other == name)
        for name in names
    }


def read_by_h11(parts: Sequence[bytes]) -> Message:
    """Parse a request. Raises h11.RemoteProtocolError if h11 rejects it."""
    connection = h11.Connection(h11.SERVER)
    waiting, events = list(parts), []
    while not (events and isinstance(events[-1], h11.EndOfMessage)):
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(waiting.pop(0))
        else:
            events.append(event)
    request = events[0]
    return Message(
        request.target,
        joined(list(request.headers)),
        b"".join(event.data for event in events[1:-1]),
        connection.trailing_data[0] + b"".join(waiting),
        request.method,
    )


@dataclass
class Llhttp:
    """Collects the events of llhttp."""

    target: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    has_head: bool = False
    is_complete: bool = False

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # trailers are reported as headers
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        self.is_complete = True


def read_by_llhttp(data: bytes) -> Message:
    """Parse a request byte by byte, to find its end.

    Raises httptools.HttpParserError if llhttp rejects it.
    """
    events = Llhttp()
    parser: Any = httptools.HttpRequestParser(events)
    end = 0
    while not events.is_complete:
        assert end < len(data), "not complete"
        parser.feed_data(data[end : end + 1])
        end += 1
    return Message(
        events.target,
        joined(events.headers),
        events.body,
        data[end:],
        parser.get_method(),
    )


METHODS = [b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE"]


def agree(data: bytes, ends: Sequence[int] = ()) -> bool:
    """Return whether the gateway accepts this request; then assert that the others agree."""
    cuts = [0, *sorted({end for end in ends if 0 < end < len(data)}), len(data)]
    parts = [data[start:end] for start, end in pairwise(cuts)]
    ours = FedConnection(parts).read()
    if not ours:
        return False
    # Exception 1: an empty line before a request. RFC 9112, section 2.2, says that servers should
    # ignore one. h11 rejects it.
    start = len(data) - len(data.removeprefix(b"\r\n"))
    by_h11 = read_by_h11([data[start:]] if start else parts)
    # Exception 2: an unknown method gets 405 (RFC 9110, section 15.5.6). llhttp has a list.
    known = (
        data.replace(ours.method, b"POST", 1) if ours.method not in METHODS else data
    )
    # Exception 3: the gateway ignores Upgrade, as RFC 9110, section 7.8, allows. For llhttp, HTTP
    # ends there.
    head, end, body = known[start:].partition(b"\r\n\r\n")
    head = re.sub(rb"(?i)\r\nupgrade:", b"\r\nx-other:", head)
    by_llhttp = read_by_llhttp(known[:start] + head + end + body)
    if ours.method not in METHODS:
        by_llhttp.method = ours.method
    if b"x-other" in by_llhttp.headers:
        by_llhttp.headers[b"upgrade"] = by_llhttp.headers.pop(b"x-other")
    ours.target = data[start:].split(b" ", 2)[1]
    for message in (ours, by_llhttp):  # h11 has it in lower case
        if coding := message.headers.get(b"transfer-encoding"):
            message.headers[b"transfer-encoding"] = coding.lower()
    assert ours == by_h11
    assert ours == by_llhttp
    return True


# Requests with parts that are valid and, sometimes, invalid


def mostly(right: Sequence[bytes], wrong: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Draw one of `wrong` in about one case of 30."""
    return st.sampled_from(
        [*[part for part in right for _ in wrong] * (30 // len(right) + 1), *wrong]
    )


CRLF = mostly([b"\r\n"], [b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"\r\n\r\n", b""])
SPACE = mostly([b" "], [b"  ", b"\t", b"", b"\x0b"])
FEW = st.binary(max_size=3)
METHOD = mostly(
    [*METHODS, b"FOO", b"M-SEARCH", b"SETUP"], [b"CONNECT", b"PRI", b"get", b"G(T", b""]
)
RIGHT_TARGETS = [
    b"/orders",
    b"/a?b=c",
    b"/%20",
    b"/#x",
    b'/a\\b"<>^`{|}',
    b"http://shop/x",
    b"HTTP://[::1]:1",
]
WRONG_TARGETS = [
    b"/\xe9",
    b"/\x01",
    b"//a",
    b"*",
    b"a:1",
    b"http://a<b/",
    b"http://a@b/",
    b"http:///",
    b"/\x7f",
]
TARGET = mostly(RIGHT_TARGETS, WRONG_TARGETS)
VERSION = mostly(
    [b"HTTP/1.1"] * 9 + [b"HTTP/1.0"],
    [b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 "],
)
START = st.tuples(
    mostly([b"", b"\r\n"], [b"\r\n\r\n", b"\n", b" "]),
    METHOD,
    SPACE,
    TARGET,
    SPACE,
    VERSION,
    CRLF,
).map(b"".join)
NAME = mostly(
    [
        b"Accept",
        b"X!#$%&'*+.^_`|~9",
        b"Connection",
        b"expect",
        b"TE",
        b"Upgrade",
        b"Proxy-Connection",
    ],
    [b"X(", b"", b"X\xe9", b"Host", b"Content-Length", b"Transfer-Encoding", b" X"],
)
VALUE = st.one_of(
    st.sampled_from(
        [
            b"x",
            b"",
            b"close",
            b"keep-alive",
            b"upgrade",
            b"100-continue",
            b"a\tb",
            b"\xff",
            b"5",
        ]
    ),
    st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=5).map(
        lambda text: text.encode("latin-1")
    ),
    FEW,
)
LINE = st.tuples(
    NAME,
    mostly([b": ", b":", b":\t "], [b" :", b""]),
    VALUE,
    mostly([b"", b" ", b"\t"], [b"\x0b"]),
    CRLF,
).map(b"".join)
EXTENSION = mostly(
    [b"", b"", b";a", b";a=b", b';a="b;\\"c"', b';a="";b'],
    [
        b";",
        b";a=",
        b" ;a",
        b"; a",
        b";a =b",
        b";a= b",
        b";a=b ",
        b';a="',
        b';a="\\',
        b";\x01",
        b";\xe9",
        b";;",
    ],
)
SIZE = mostly(
    [b"%x", b"%X", b"%016x"],
    [b"%017x", b"0x%x", b"+%x", b"-%x", b" %x", b"%x ", b"%xg", b""],
)
LENGTH = mostly(
    [b"%d", b"%020d"],
    [b"%021d", b"+%d", b"-%d", b"%d ", b"0x%x", b"%d, 1", b"1, %d", b"%d.0"],
)
CODING = mostly(
    [b"chunked", b"Chunked", b"CHUNKED \t"],
    [
        b"gzip, chunked",
        b"chunked, chunked",
        b"identity",
        b"xchunked",
        b"chunked;a=b",
        b"",
        b"\x0bchunked",
    ],
)


def written(pattern: bytes, number: int) -> bytes:
    return pattern % number if b"%" in pattern else pattern


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    """Draw a chunked body."""
    parts = []
    for data in [*draw(st.lists(st.binary(min_size=1, max_size=20), max_size=3)), b""]:
        wrong = draw(st.integers(0, 29)) == 29
        parts += [
            written(draw(SIZE), len(data) + wrong),
            draw(EXTENSION),
            draw(CRLF),
            data,
        ]
        parts += [draw(CRLF)] if data else draw(st.lists(LINE, max_size=2))
    return b"".join([*parts, draw(CRLF)])


@st.composite
def framed(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw a body and the header that frames it."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return b"", b""
    if kind < 3:
        data = draw(st.binary(max_size=20))
        return b"Content-Length: " + written(draw(LENGTH), len(data)), data
    header = b"Transfer-Encoding: " + draw(CODING)
    twice = draw(
        mostly([b""], [b"\r\nContent-Length: 5", b"\r\nTransfer-Encoding: chunked"])
    )
    return header + twice, draw(chunks())


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Draw bytes that begin with something like a request, perhaps with another one after it."""
    header, body = draw(framed())
    lines = [
        b"Host: shop\r\n",
        *draw(st.lists(LINE, max_size=2)),
        *([header + draw(CRLF)] if header else []),
    ]
    data = draw(START) + b"".join(draw(st.permutations(lines))) + draw(CRLF) + body
    if draw(st.integers(0, 9)) == 9:  # change some bytes
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(FEW) + data[at + draw(st.integers(0, 2)) :]
    return data + draw(st.sampled_from([b"", NEXT]))


TO = b"POST /orders HTTP/1.1\r\nHost: shop\r\n"
CHUNKED = TO + b"Transfer-Encoding: chunked\r\n\r\n"
SMALL = b"5\r\nhello\r\n0\r\n\r\n"
FIELD = TO + b"Accept: %b\r\nContent-Length: 0\r\n\r\n"
# Requests that parsers have read differently or wrongly, by the decision of the gateway.
ACCEPTED = [
    CHUNKED + SMALL,
    CHUNKED + b"0\r\n\r\n",
    CHUNKED + b"0000000000000005\r\nhello\r\n000\r\n\r\n",
    CHUNKED
    + b'A;a;b=c;d="e;\\" \xff"\r\n0123456789\r\n0\r\nX: y\r\nConnection: close\r\n\r\n',
    CHUNKED + b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
    TO + b"transfer-ENCODING:ChunKed \r\n\r\n" + SMALL,
    TO
    + b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\nTE: trailers\r\n\r\n"
    + SMALL,
    TO + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + SMALL,
    TO
    + b"Transfer-Encoding: chunked\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    + SMALL,
    b"GET / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n" + SMALL,
    b"\r\n" + CHUNKED + SMALL,
    TO + b"Content-Length: 00000000000000000005\r\n\r\nhello",
    TO + b"Content-Length:5\t \r\n\r\nhello",
    TO + b"\r\n",
    FIELD % b"a\tb \xff \xa0",
    b"GET HTTP://shop:80/a?b=/#c HTTP/1.1\r\nHost: shop\r\n\r\n",
    b"FOO / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
]
REJECTED = [
    TO + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + SMALL,
    TO + b"Transfer-Encoding: chunked\r\nContent-Length: 15\r\n\r\n" + SMALL,
    TO + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + SMALL,
    TO + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + SMALL,
    *(
        TO + b"Transfer-Encoding:%b\r\n\r\n" % coding + SMALL
        for coding in (
            *(
                b"",
                b"identity",
                b"xchunked",
                b"gzip, chunked",
                b"chunked, chunked",
                b"chunked, identity",
            ),
            *(
                b"chunked;a=b",
                b"chunked,",
                b",chunked",
                b'"chunked"',
                b"chunked\t",
                b"\tchunked",
            ),
            *(b"\x0bchunked", b"chunked\0", b"chunked\xa0"),
        )
    ),
    TO + b"Transfer-Encoding : chunked\r\n\r\n" + SMALL,
    TO + b" Transfer-Encoding: chunked\r\n\r\n" + SMALL,
    TO + b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n" + SMALL,
    TO + b"X: y\nTransfer-Encoding: chunked\r\n\r\n" + SMALL,
    TO + b"X: y\rTransfer-Encoding: chunked\r\n\r\n" + SMALL,
    CHUNKED.replace(b"1.1", b"1.0") + SMALL,
    *(
        CHUNKED + body
        for body in (
            b"5 \r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"5;\r\nhello\r\n0\r\n\r\n",
            b"5; a\r\nhello\r\n0\r\n\r\n",
            b"5;a\x01\r\nhello\r\n0\r\n\r\n",
            b"5\nhello\r\n0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhelloXX0\r\n\r\n",
            b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
            b"5\r\nhello\r\n0\r\nX: y\n\r\n",
            b"5\r\nhello\r\n0\r\nX: y\r\n folded\r\n\r\n",
            b"5\r\nhello\r\n0\r\n",
            b"5\r\nhello\r\n",
        )
    ),
    TO + b"Content-Length: 5, 5\r\n\r\nhello",
    TO + b"Content-Length: +5\r\n\r\nhello",
    TO + b"Content-Length: 5\x0b\r\n\r\nhello",
    FIELD % b"a\x01",
    FIELD % b"a\x0bb",
    FIELD % b"\x7f",
    b"GET /\xe9 HTTP/1.1\r\nHost: shop\r\n\r\n",
    b"GET / HTTP/1.2\r\nHost: shop\r\n\r\n",
    b"GET http://a<b/ HTTP/1.1\r\nHost: shop\r\n\r\n",
    b"CONNECT /orders HTTP/1.1\r\nHost: shop\r\n\r\n",
]


@pytest.mark.parametrize("data", ACCEPTED)
def test_accepted_requests_are_read_in_the_same_way(data: bytes) -> None:
    for end in range(len(data)):
        assert agree(data + NEXT, [end])
    assert agree(data, range(len(data)))


@pytest.mark.parametrize("data", REJECTED)
def test_ambiguous_requests_are_rejected(data: bytes) -> None:
    assert not agree(data)


@settings(max_examples=500, deadline=None)
@given(requests(), st.lists(st.integers(0, 200), max_size=3))
@example(CHUNKED + SMALL + NEXT, [3, 90, 92])
@example(CHUNKED + b'5;a="\\""\r\nhello\r\n0;b\r\nX: y\r\n\r\n' + NEXT, [])
@example(TO + b"Transfer-Encoding: chunked\t\r\n\r\n" + SMALL, [])
@example(TO + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + SMALL, [])
@example(CHUNKED + b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n", [])
@example(CHUNKED + b"5;\r\nhello\r\n0\r\n\r\n", [])
@example(FIELD % b"a\x0bb", [])
@example(FIELD % b"\x01", [])
@example(b"GET /\xe9 HTTP/1.1\r\nHost: shop\r\n\r\n", [])
@example(b"GET / HTTP/1.2\r\nHost: shop\r\n\r\n", [])
@example(b"GET http://a<b/ HTTP/1.1\r\nHost: shop\r\n\r\n", [])
@example(b"CONNECT /orders HTTP/1.1\r\nHost: shop\r\n\r\n", [])
def test_other_parsers_read_the_same(data: bytes, ends: list[int]) -> None:
    agree(data, ends)

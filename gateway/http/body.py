"""Finds the end of a request body in the bytes that a connection has received."""

import re

from gateway import problems
from gateway.http import parser

# In bytes, for chunk lines and the CRLF after each chunk: as many as a head may have, enough for
# 3,276 chunks. Each chunk costs time, however small it is. RFC 9112, section 7.1.1, asks for such
# a limit.
MAX_FRAMING = 16 * 1024
# RFC 9112, section 7.1: chunk-size [ chunk-ext ] CRLF, in at most 1,024 bytes. Whitespace is
# rejected: parsers disagree about it.
_CHUNK_LINE = re.compile(
    rb"(?=[^\n]{0,1023}\n)([0-9A-Fa-f]{1,16})"
    rb"(?:;[!#$%&'*+.^_`|~0-9A-Za-z-]++"
    rb"(?:=(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++|"
    rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"))?)*+\r\n'
)
_START_OF_CHUNK_LINE = re.compile(
    rb"(?=[^\n]{0,1023}\Z)(?:[0-9A-Fa-f]{1,16}(?:;[\t -~\x80-\xff]*)?\r?)?"
)


def split_sized(length: int, received: bytes) -> tuple[bytes, bytes] | None:
    """Return a body of `length` bytes and the bytes after it. None until it has arrived.

    RFC 9112, section 6.2.
    """
    return (received[:length], received[length:]) if len(received) >= length else None


class ChunkedBody:
    """Decodes a chunked body (RFC 9112, section 7.1)."""

    def __init__(self) -> None:
        self._content = bytearray()
        # Its position in the received bytes.
        self._next_chunk = 0

    def split(self, received: bytes) -> tuple[bytes, bytes] | None:
        """Return the body and the bytes after it. None until it has arrived.

        `received` begins where the body begins, and is longer at each call. Extensions and
        trailers are checked, then dropped. Raises Problem for malformed or too many bytes.
        """
        while line := _CHUNK_LINE.match(received, self._next_chunk):
            start, size = line.end(), int(line[1], 16)
            end = start + size
            if (
                len(self._content) + size > parser.MAX_BODY
                or start - len(self._content) > MAX_FRAMING
            ):
                raise problems.Problem(
                    413,
                    "too-large",
                    f"Send at most {parser.MAX_BODY} bytes"
                    f" and at most {MAX_FRAMING} bytes of chunk lines.",
                )
            # RFC 9112, section 7.1.2: trailers have the syntax of headers.
            if size == 0:
                if not (
                    block := parser.parse_header_block(b"0" + received[start - 2 :])
                ):
                    return None
                parser.check_trailers(block[0][1:])
                return bytes(self._content), block[1]
            if len(received) < end + 2:
                return None
            if received[end : end + 2] != b"\r\n":
                raise problems.malformed("A chunk is longer than its size.")
            self._content += received[start:end]
            self._next_chunk = end + 2
        if not _START_OF_CHUNK_LINE.fullmatch(received, self._next_chunk):
            raise problems.malformed("A chunk line is malformed or too long.")
        return None

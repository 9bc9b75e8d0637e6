"""Finds the ends of request bodies in the bytes that arrive on a connection. Knows no socket."""

import re

from gateway import problems, reading

# Bytes of chunk lines, and of the CRLF after each chunk: as many as a head may have, enough for
# 3,276 chunks. Each chunk costs time, whatever its size. RFC 9112, section 7.1.1, asks for such a
# limit.
MAX_FRAMING = 16 * 1024
# RFC 9112, section 7.1: chunk-size [ chunk-ext ] CRLF, of at most 1,024 bytes. Whitespace is not
# allowed: parsers disagree about it.
_LINE = re.compile(
    rb"(?=[^\n]{0,1023}\n)([0-9A-Fa-f]{1,16})"
    rb"(?:;[!#$%&'*+.^_`|~0-9A-Za-z-]++"
    rb"(?:=(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++|"
    rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"))?)*+\r\n'
)
_START_OF_LINE = re.compile(
    rb"(?=[^\n]{0,1023}\Z)(?:[0-9A-Fa-f]{1,16}(?:;[\t -~\x80-\xff]*)?\r?)?"
)


def split_sized(length: int, received: bytes) -> tuple[bytes, bytes] | None:
    """A body of `length` bytes and the bytes after it; None until it has arrived.

    RFC 9112, section 6.2.
    """
    return (received[:length], received[length:]) if len(received) >= length else None


class Chunked:
    """A chunked body (RFC 9112, section 7.1)."""

    def __init__(self) -> None:
        self._content = bytearray()
        self._position = 0  # of the next chunk

    def split(self, received: bytes) -> tuple[bytes, bytes] | None:
        """The body and the bytes after it; None until it has arrived.

        `received` begins where the body begins, and is longer at each call. Extensions and trailers
        are checked, then dropped. Raises Problem for malformed or too many bytes.
        """
        while line := _LINE.match(received, self._position):
            start, size = line.end(), int(line[1], 16)
            end = start + size
            if (
                len(self._content) + size > reading.MAX_BODY
                or start - len(self._content) > MAX_FRAMING
            ):
                raise reading.too_large(
                    f"At most {reading.MAX_BODY} bytes, and {MAX_FRAMING} of chunk lines."
                )
            if size == 0:  # trailers have the form of headers (section 7.1.2)
                if not (split := reading.split_head(b"0" + received[start - 2 :])):
                    return None
                reading.check_trailers(split[0][1:])
                return bytes(self._content), split[1]
            if len(received) < end + 2:
                return None
            if received[end : end + 2] != b"\r\n":
                raise problems.malformed("A chunk is longer than its size.")
            self._content += received[start:end]
            self._position = end + 2
        if not _START_OF_LINE.fullmatch(received, self._position):
            raise problems.malformed(
                "The line before a chunk is malformed or too long."
            )
        return None

"""Each patch is applied, and still needed: the installed library has the fault without it.

Where a test of the second kind fails after an upgrade, delete the patch together with its test.
"""

import bz2
import logging
import socket
import subprocess
import sys
import zlib
from decimal import Decimal
from typing import Any

import amqp
import kombu
import pytest
from amqp import serialization, spec
from amqp.transport import SSLTransport, TCPTransport
from amqp.utils import bytes_to_str
from kombu.serialization import loads
from kombu.transport import pyamqp
from kombu.utils.json import loads as kombu_loads

from chassis import amqp_transport, broker
from chassis.patches import MAX_BODY_CHARS, apply_all

TYPED = '{"__type__": "decimal", "__value__": "1.5"}'
# The flag of the headers, their length, the key "x", and a type that does not exist.
UNREADABLE = b"\x20\x00" + b"\x00\x00\x00\x03" + b"\x01xZ"
# The flag of the content type, its length, and two bytes.
NOT_UTF8 = b"\x80\x00" + b"\x02\xffx"
FRAME = bytes([8, 0, 0, 0, 0, 0, 0, 0xCE])  # a heartbeat


def read_properties(data: bytes) -> Any:
    """The properties as a consumer receives them, and the offset of their end."""
    return serialization.PROPERTY_CLASSES[spec.Basic.CLASS_ID](data, 0)


def output_of(code: str) -> str:
    """What `code` prints in a process of its own."""
    run = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def pair() -> Any:
    """Two connected sockets."""
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


class CountingSocket:
    """A socket that counts how often it is read."""

    def __init__(self, sock: socket.socket) -> None:
        self.reads = 0
        self._sock = sock

    def recv(self, size: int) -> bytes:
        self.reads += 1
        return self._sock.recv(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def reads_for_a_frame(transport: Any, pair: Any) -> int:
    transport.sock = CountingSocket(pair[0])
    transport._setup_transport()
    pair[1].sendall(FRAME)
    assert transport.read_frame() == (8, 0, b"")
    return int(transport.sock.reads)


def test_a_second_application_changes_nothing() -> None:
    apply_all()
    assert read_properties(UNREADABLE) == ({}, len(UNREADABLE))
    assert pyamqp.Transport.Connection is amqp_transport.Connection


def test_json_is_plain_data() -> None:
    assert loads(TYPED, "application/json", "utf-8")["__type__"] == "decimal"


def test_kombu_still_creates_objects_from_json() -> None:
    assert kombu_loads(TYPED) == Decimal("1.5")


def test_kombu_still_accepts_json_of_any_size() -> None:
    assert kombu_loads('"' + "x" * MAX_BODY_CHARS + '"')


def test_unreadable_properties_are_empty() -> None:
    assert read_properties(UNREADABLE) == ({}, len(UNREADABLE))


def test_amqp_still_raises_for_unreadable_properties() -> None:
    with pytest.raises(amqp.FrameSyntaxError):
        serialization.decode_properties_basic(UNREADABLE, 0)


def test_kombu_still_decompresses_by_a_header() -> None:
    body = zlib.compress(b"text")
    message = kombu.Message(body=body, headers={"compression": "zlib"})
    assert message.body == b"text"


def test_kombu_still_decompresses_by_an_encoding() -> None:
    assert loads(bz2.compress(b"text"), "application/data", "bz2") == b"text"


def test_text_that_is_not_utf8_is_shortened() -> None:
    properties, _ = serialization.decode_properties_basic(NOT_UTF8, 0)
    assert properties == {"content_type": "x"}


def test_amqp_still_raises_for_text_that_is_not_utf8(monkeypatch) -> None:
    monkeypatch.setattr(serialization, "pstr_t", bytes_to_str)
    with pytest.raises(UnicodeDecodeError):
        serialization.decode_properties_basic(NOT_UTF8, 0)


@pytest.mark.parametrize(
    ("scheme", "transport"),
    [
        ("amqp", amqp_transport.PlainTransport),
        ("amqps", amqp_transport.TlsTransport),
    ],
)
def test_kombu_uses_the_transports_of_the_chassis(
    scheme, transport, monkeypatch
) -> None:
    class Reached(Exception):
        pass

    def connect(self: Any) -> None:
        raise Reached

    monkeypatch.setattr(transport, "connect", connect)
    config = {"AMQP_URI": f"{scheme}://127.0.0.1:1/", "HEARTBEAT": 10}
    with pytest.raises(Reached):
        broker.connect(config).transport.establish_connection()


def test_the_transport_reads_a_frame_at_once(pair) -> None:
    transport = amqp_transport.PlainTransport("localhost")
    assert reads_for_a_frame(transport, pair) == 1


def test_amqp_still_reads_a_frame_in_pieces(pair) -> None:
    assert reads_for_a_frame(TCPTransport("localhost"), pair) == 2


def test_amqp_still_accepts_a_certificate_for_any_name(pair) -> None:
    with SSLTransport("localhost", ssl=True)._wrap_socket(pair[0]) as encrypted:
        assert not encrypted.context.check_hostname


def test_amqp_still_waits_for_the_peer_to_end_tls() -> None:
    """`unwrap` returns when the peer has answered."""
    assert "unwrap" in SSLTransport._shutdown_transport.__code__.co_names


def test_amqp_still_resolves_names_with_the_resolver_of_eventlet(monkeypatch) -> None:
    looked_up = []

    def look_up(host: str, *_: Any) -> list[Any]:
        looked_up.append(host)
        return []

    monkeypatch.setattr(amqp.transport.socket, "getaddrinfo", look_up)
    TCPTransport("broker.example")._connect("broker.example", 5672, 1)
    assert looked_up == ["broker.example"]


def test_amqp_still_has_no_single_write_for_several_messages() -> None:
    assert not hasattr(TCPTransport, "in_one_write")


def test_log_records_have_no_caller_and_no_thread() -> None:
    """pytest's handler needs neither."""
    assert logging._srcfile is None
    assert logging.makeLogRecord({}).thread is None


def test_logging_still_looks_up_caller_and_thread() -> None:
    code = "import logging as l; print(l._srcfile, l.makeLogRecord({}).thread)"
    assert "None" not in output_of(code)


LARGE_BLOCKS = """
import ctypes
from chassis.patches import return_large_blocks
class Usage(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "mapped_blocks", "mapped_bytes", "usmblks",
        "fsmblks", "uordblks", "fordblks", "keepcost")]
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.mallinfo2.restype = Usage
{call}
for _ in range(2):
    before = libc.mallinfo2().mapped_blocks
    block = libc.malloc(ctypes.c_size_t(19 * 1024 * 1024))
    print(libc.mallinfo2().mapped_blocks - before, end=" ")
    libc.free(ctypes.c_void_p(block))
"""


@pytest.mark.parametrize(
    ("call", "mapped"), [("return_large_blocks()", "1 1 "), ("", "1 0 ")]
)
def test_only_the_patch_makes_glibc_return_large_blocks(call, mapped) -> None:
    """A mapped block returns to the system when it is freed."""
    assert output_of(LARGE_BLOCKS.format(call=call)) == mapped

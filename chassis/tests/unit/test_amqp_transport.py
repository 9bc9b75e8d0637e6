"""Frames reach the socket whole and in order, with several writers."""

import socket
import struct
import subprocess
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import eventlet
import pytest
from amqp.method_framing import frame_writer
from eventlet.greenio import GreenSocket

from chassis.amqp_transport import PlainTransport
from chassis.broker import connect
from conftest import eventually, in_uri, loopback
from dev.ports import free_ports

# More than the buffer of a socket.
LONG_BYTES = 1_000_000
LONG = b"x" * LONG_BYTES
# Any method of AMQP.
LONG_METHOD = (60, 40)


def transport_to_a_slow_reader() -> tuple[PlainTransport, socket.socket]:
    ours, theirs = socket.socketpair()
    transport = PlainTransport("localhost", connect_timeout=None)
    transport.sock = GreenSocket(ours)
    transport._setup_transport()
    return transport, theirs


def read(sock: socket.socket, size: int) -> bytes:
    received = b""
    reader = GreenSocket(sock)
    while len(received) < size:
        received += reader.recv(size)
    return received


def one_frame(transport: PlainTransport, write_frame: Any) -> None:
    write_frame(1, 1, LONG_METHOD, LONG, None)


def one_write(transport: PlainTransport, write_frame: Any) -> None:
    with transport.in_one_write():
        write_frame(1, 1, LONG_METHOD, LONG, None)


@pytest.mark.parametrize("write_long", [one_frame, one_write])
def test_a_heartbeat_does_not_interrupt_a_long_write(write_long) -> None:
    """py-amqp writes all frames from one buffer."""
    transport, theirs = transport_to_a_slow_reader()
    connection = SimpleNamespace(frame_max=2 * LONG_BYTES, bytes_sent=0)
    write_frame = frame_writer(connection, transport)
    writers = [eventlet.spawn(write_long, transport, write_frame)]
    eventlet.sleep(0)  # it waits for the reader
    writers.append(eventlet.spawn(write_frame, 8, 0, None, None, None))
    eventlet.sleep(0)
    method = struct.pack(">HH", *LONG_METHOD) + LONG
    frame = struct.pack(">BHI", 1, 1, len(method)) + method + b"\xce"
    heartbeat = struct.pack(">BHI", 8, 0, 0) + b"\xce"
    assert read(theirs, len(frame + heartbeat)) == frame + heartbeat
    for writer in writers:
        writer.wait()


def test_one_write_is_sent_at_its_end_or_discarded() -> None:
    transport, theirs = transport_to_a_slow_reader()
    with suppress(ValueError), transport.in_one_write():
        transport.write(b"lost")
        raise ValueError("unsendable")
    with transport.in_one_write():
        transport.write(b"one ")
        transport.write(b"write")
    assert theirs.recv(LONG_BYTES) == b"one write"


@pytest.mark.parametrize("host", loopback())
def test_tls_needs_a_certificate_for_the_host(
    tmp_path: Path, monkeypatch: Any, host: str
) -> None:
    """py-amqp accepts a certificate for any name, of any trusted CA."""
    error = connection_error(tmp_path, monkeypatch, host, "DNS:example.org")
    assert f"not valid for '{host}'" in error
    error = connection_error(tmp_path, monkeypatch, host, f"IP:{host}")
    assert "certificate" not in error


def connection_error(folder: Path, monkeypatch: Any, host: str, name: str) -> str:
    """Return the error of a connection to a server that speaks TLS, but not AMQP.

    Its certificate is for `name`, by a trusted CA.
    """
    key, certificate = str(folder / "key"), str(folder / "crt")
    port = str(free_ports()["rabbitmq"])
    made = ["-x509", "-nodes", "-subj", "/CN=test", "-newkey", "ed25519"]
    named = ["-addext", f"subjectAltName={name}", "-keyout", key, "-out", certificate]
    subprocess.run(["openssl", "req", *made, *named], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    serve = ["openssl", "s_server", "-quiet", "-accept", port]
    serve += ["-key", key, "-cert", certificate]
    with subprocess.Popen(
        serve, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as server:
        try:
            uri = f"amqps://a:b@{in_uri(host)}:{port}/"
            return str(eventually(lambda: unless_refused(uri)))
        finally:
            server.kill()


def unless_refused(uri: str) -> str:
    """Return the error of a connection, or "" before the server listens."""
    with pytest.raises(OSError) as ended:  # noqa: PT011 - the caller checks the text
        connect({"AMQP_URI": uri, "HEARTBEAT": 10}).connect()
    return "" if isinstance(ended.value, ConnectionRefusedError) else str(ended.value)

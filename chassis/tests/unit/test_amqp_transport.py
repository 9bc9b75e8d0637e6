"""Frames reach the socket whole and in order, with several writers."""

import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import eventlet
import pytest
from eventlet.greenio import GreenSocket

from chassis.amqp_transport import PlainTransport
from chassis.broker import connect
from conftest import eventually, in_uri, loopback
from dev.ports import free_ports

# More than the buffer of a socket.
LONG_BYTES = 1_000_000


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


def test_a_heartbeat_does_not_interrupt_a_long_write() -> None:
    """The caller may reuse its buffer."""
    transport, theirs = transport_to_a_slow_reader()
    buffer = bytearray(b"x" * LONG_BYTES)
    writers = [eventlet.spawn(transport.write, memoryview(buffer))]
    eventlet.sleep(0)  # it waits for the reader
    buffer[:9] = b"heartbeat"
    writers.append(eventlet.spawn(transport.write, memoryview(buffer)[:9]))
    eventlet.sleep(0)
    assert read(theirs, LONG_BYTES + 9) == b"x" * LONG_BYTES + b"heartbeat"
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

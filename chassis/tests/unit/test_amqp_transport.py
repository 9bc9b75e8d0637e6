"""Frames reach the socket whole and in order, whoever else writes."""

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

LONG = 1_000_000  # bytes, more than a socket holds


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


def test_a_heartbeat_does_not_come_into_the_middle_of_a_long_write() -> None:
    """And py-amqp has one buffer for all that write."""
    transport, theirs = transport_to_a_slow_reader()
    buffer = bytearray(b"x" * LONG)
    writers = [eventlet.spawn(transport.write, memoryview(buffer))]
    eventlet.sleep(0)  # it is stuck: nobody reads
    buffer[:9] = b"heartbeat"
    writers.append(eventlet.spawn(transport.write, memoryview(buffer)[:9]))
    eventlet.sleep(0)
    assert read(theirs, LONG + 9) == b"x" * LONG + b"heartbeat"
    for writer in writers:
        writer.wait()


def test_what_is_written_together_goes_out_at_the_end_or_not_at_all() -> None:
    transport, theirs = transport_to_a_slow_reader()
    with suppress(ValueError), transport.in_one_write():
        transport.write(b"lost")
        raise ValueError("a message that can't be sent")
    with transport.in_one_write():
        transport.write(b"one ")
        transport.write(b"write")
    assert theirs.recv(LONG) == b"one write"


@pytest.mark.parametrize("host", loopback())
def test_an_encrypted_connection_wants_a_certificate_for_the_host_it_asks_for(
    tmp_path: Path, monkeypatch: Any, host: str
) -> None:
    """py-amqp by itself takes a certificate for any name, of any CA that it trusts."""
    assert f"not valid for '{host}'" in ended_with(
        tmp_path, monkeypatch, host, "DNS:example.org"
    )
    assert "certificate" not in ended_with(tmp_path, monkeypatch, host, f"IP:{host}")


def ended_with(folder: Path, monkeypatch: Any, host: str, name: str) -> str:
    """What a connection to `amqps://host` ends with, where something that speaks TLS, but not AMQP,
    has a certificate for `name` by a CA that is trusted."""
    key, certificate, port = (
        str(folder / "key"),
        str(folder / "crt"),
        str(free_ports()["rabbitmq"]),
    )
    made = ["-x509", "-nodes", "-subj", "/CN=test", "-newkey", "ed25519"]
    named = ["-addext", f"subjectAltName={name}", "-keyout", key, "-out", certificate]
    subprocess.run(["openssl", "req", *made, *named], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    serve = [
        "openssl",
        "s_server",
        "-quiet",
        "-accept",
        port,
        "-key",
        key,
        "-cert",
        certificate,
    ]
    with subprocess.Popen(
        serve, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as server:
        try:
            uri = f"amqps://a:b@{in_uri(host)}:{port}/"
            return str(eventually(lambda: unless_refused(uri)))
        finally:
            server.kill()


def unless_refused(uri: str) -> str:
    """What a connection ends with, once somebody listens there."""
    with pytest.raises(OSError) as ended:  # noqa: PT011 - the caller looks at what it says
        connect({"AMQP_URI": uri, "HEARTBEAT": 10}).connect()
    return "" if isinstance(ended.value, ConnectionRefusedError) else str(ended.value)

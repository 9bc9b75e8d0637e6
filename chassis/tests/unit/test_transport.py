"""Frames reach the socket whole and in order, whoever else writes."""

import socket
from contextlib import suppress

import eventlet
from eventlet.greenio import GreenSocket

from chassis.transport import _Plain

LONG = 1_000_000  # bytes, more than a socket holds


def transport_to_a_slow_reader() -> tuple[_Plain, socket.socket]:
    ours, theirs = socket.socketpair()
    transport = _Plain("localhost", connect_timeout=None)
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

"""A TCP proxy on loopback that forwards everything until a fault is set.

Its faults are those of sidecars, poolers and load balancers: forget idle connections, accept bytes
without forwarding them, delay them, close a connection inside a reply.
"""

import math
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event
from typing import Any

import eventlet
from eventlet.greenpool import GreenPool
from eventlet.queue import LightQueue

HOST = "127.0.0.1"
CHUNK = 65_536  # bytes


class Proxy:
    """Listens on `port` and connects to `target`, another port of this machine."""

    def __init__(self, target: int, host: str = HOST) -> None:
        self.forgotten = 0  # connections
        self.cut = 0  # replies
        self.delay_s = 0.0
        self.forget_after_s = math.inf
        self.passing = Event()
        self.passing.set()
        self._target = target
        self._cut_probability = 0.0
        self._rng = random.Random()
        self._connections: set[_Connection] = set()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = eventlet.listen((host, 0), family, backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._accepting = eventlet.spawn(self._accept)

    def switch(self, target: int, *, hang_up: bool) -> None:
        """Connect new connections to another port. `hang_up` closes existing ones."""
        self._target = target
        if hang_up:
            self.hang_up()

    def hang_up(self) -> None:
        """Close all connections on both sides."""
        for connection in list(self._connections):
            connection.hang_up()

    def close(self) -> None:
        """Stop the proxy and close all its connections."""
        self._accepting.kill()
        self._listener.close()
        self.passing.set()
        self.hang_up()

    # Faults

    @contextmanager
    def forgetting(self, idle_s: float) -> Iterator[None]:
        """Forget connections that idle for `idle_s` inside. They stay forgotten.

        The proxy accepts all bytes on a forgotten connection and forwards none. The client is
        never notified. The server is notified when the client closes the connection.
        """
        self.forget_after_s = idle_s
        try:
            yield
        finally:
            for connection in self._connections:
                connection.check_forgotten()
            self.forget_after_s = math.inf

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Accept all connections and hold all bytes inside. Forward them at the end."""
        self.passing.clear()
        try:
            yield
        finally:
            self.passing.set()

    @contextmanager
    def delaying(self, delay_s: float) -> Iterator[None]:
        """Delay all bytes by `delay_s` inside, each way."""
        self.delay_s = delay_s
        try:
            yield
        finally:
            self.delay_s = 0.0

    @contextmanager
    def cutting(self, probability: float, rng: random.Random) -> Iterator[None]:
        """Cut this share of the server's replies inside: forward half of each, then close."""
        self._cut_probability, self._rng = probability, rng
        try:
            yield
        finally:
            self._cut_probability = 0.0

    def cuts(self, reply: bytes) -> bool:
        """Return whether to cut this reply, and count it."""
        if len(reply) > 1 and self._rng.random() < self._cut_probability:
            self.cut += 1
            return True
        return False

    # Connections

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            eventlet.spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        try:
            server = eventlet.connect((HOST, self._target))
        except OSError:
            client.close()
            return
        connection = _Connection(self, client, server)
        self._connections.add(connection)
        try:
            connection.run()
        finally:
            self._connections.discard(connection)


class _Connection:
    """A client's connection to the proxy, and the proxy's to the server."""

    def __init__(
        self, proxy: Proxy, client: socket.socket, server: socket.socket
    ) -> None:
        self.forgotten = False
        self.server = server
        self._client = client
        self._proxy = proxy
        self._used = time.monotonic()
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def run(self) -> None:
        """Forward bytes both ways until both sides are closed."""
        pool = GreenPool()
        for source, sink in ((self._client, self.server), (self.server, self._client)):
            chunks = LightQueue()
            pool.spawn(self._receive, source, chunks)
            pool.spawn(self._send, chunks, sink)
        pool.waitall()
        self._client.close()
        self.server.close()

    def hang_up(self) -> None:
        _shut_down(self._client)
        _shut_down(self.server)

    def check_forgotten(self) -> bool:
        """Forget the connection if it has idled for too long. Return whether it is forgotten."""
        idle_s = time.monotonic() - self._used
        if not self.forgotten and idle_s > self._proxy.forget_after_s:
            self.forgotten = True
            self._proxy.forgotten += 1
        return self.forgotten

    def _receive(self, source: socket.socket, chunks: Any) -> None:
        """Queue each chunk with its due time. An empty chunk is the end."""
        while data := _received(source):
            if not self.check_forgotten():
                self._used = time.monotonic()
                chunks.put((self._used + self._proxy.delay_s, data))
        chunks.put((time.monotonic() + self._proxy.delay_s, b""))

    def _send(self, chunks: Any, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := self._next(chunks):
                if self.forgotten:
                    continue
                if sink is self._client and self._proxy.cuts(data):
                    sink.sendall(data[: len(data) // 2])
                    break
                sink.sendall(data)
        if not (self.forgotten and sink is self._client):
            self.hang_up()

    def _next(self, chunks: Any) -> bytes:
        """Wait until the next chunk is due and return it."""
        due, data = chunks.get()
        eventlet.sleep(max(0.0, due - time.monotonic()))
        self._proxy.passing.wait()
        return bytes(data)


def _received(source: socket.socket) -> bytes:
    """Return the next bytes, or b"" if the other side has closed or reset the connection."""
    try:
        return source.recv(CHUNK)
    except OSError:
        return b""


def _shut_down(end: socket.socket) -> None:
    with suppress(OSError):  # it is already closed
        end.shutdown(socket.SHUT_RDWR)

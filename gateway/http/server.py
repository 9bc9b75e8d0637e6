"""Accepts connections, limits their number and ends them at a stop."""

import logging
from collections import Counter
from contextlib import suppress
from functools import partial
from resource import RLIMIT_NOFILE, getrlimit
from time import monotonic
from typing import Any

from eventlet import greenio, sleep
from marshmallow import fields, validate
from nameko.web.server import WebServer as NamekoWebServer

from chassis import health
from chassis.lifecycle import Lifecycle
from chassis.settings import ADDRESS, COUNT, SECONDS, SWITCH, read
from gateway import dispatcher, problems, tokens
from gateway.http.connection import IN_PROGRESS, ClientConnection
from gateway.waits import WaitingRequests

log = logging.getLogger(__name__)

# At a stop an idle connection is kept for this time: a request may be in flight.
DRAIN_IDLE_S = 1.0
# File descriptors for the broker, the health server and the process itself.
RESERVED_FILES = 24
# A connection that is used more often is not closed to make room for a new one.
MIN_IDLE_S = 0.2


class WebServer(Lifecycle, NamekoWebServer):
    """Nameko's web server, with connections of this package instead of a WSGI server.

    Settings: WEB_SERVER_ADDRESS, WEB_SERVER_SHARED, WEB_SERVER_CONNECTIONS, WEB_SERVER_IDLE_S,
    STOP_DELAY_S, and those of the dispatcher.
    """

    # Nameko's property would parse the address before `check` can report an error.
    bind_addr = None

    def check(self) -> None:
        config = self.container.config
        self._address = read(config, "WEB_SERVER_ADDRESS", ADDRESS)
        self._shared = read(config, "WEB_SERVER_SHARED", SWITCH)
        self._max_connections = min(
            read(config, "WEB_SERVER_CONNECTIONS", COUNT),
            getrlimit(RLIMIT_NOFILE)[0] - RESERVED_FILES,
        )
        self._idle_s = read(config, "WEB_SERVER_IDLE_S", SECONDS)
        self._stop_delay_s = read(
            config, "STOP_DELAY_S", fields.Float(validate=validate.Range(min=0))
        )
        self._dispatcher = dispatcher.Dispatcher(config)
        # The other half of the connections is for requests that do not wait.
        self.waiting = WaitingRequests(self._max_connections // 2)

    def open(self) -> None:
        """Listen. Until the container is up, routes are answered with 503."""
        self._connections: set[ClientConnection] = set()
        # One entry for each request.
        self.clients_in_progress: list[str] = []
        self._sock = health.listen(
            self._address,
            "GATEWAY",
            shared=self._shared,
            hint=" (or GATEWAY_PORT_SHARED=true, for several gateways)",
        )
        log.info("listening", extra={"url": health.url(self._sock)})
        self._sock.settimeout(None)
        self._gt = self.container.spawn_managed_thread(self.run)

    def start(self) -> None:
        self._dispatcher.start(
            self.make_url_map(),
            next(
                dependency
                for dependency in self.container.dependencies
                if isinstance(dependency, tokens.Tokens)
            ),
        )

    def run(self) -> None:
        """Accept connections until the stop."""
        while True:
            sock, peer = health.accept(self._sock.accept, self._make_room)
            self.container.spawn_managed_thread(partial(self._serve, sock, peer[0]))

    def drain(self) -> None:
        """Accept no further connection, and close each one after its next response."""
        self._dispatcher.is_draining = True
        self.waiting.release()
        sleep(self._stop_delay_s)
        self._gt.kill()
        self._sock.setblocking(False)
        # Closing the socket would reset the connections in its queue. The queue is empty at an
        # error, or there are no descriptors left.
        with suppress(OSError):
            while True:
                sock, peer = self._sock.accept()
                self.container.spawn_managed_thread(
                    partial(self._serve, greenio.GreenSocket(sock), peer[0])
                )
        self._sock.close()
        # A thread that was just spawned adds its connection when it first runs.
        sleep(0)
        idle_until = monotonic() + DRAIN_IDLE_S
        while self._connections:
            sleep(0.05)
            for connection in filter(ClientConnection.has_idled, self._connections):
                if monotonic() > idle_until:
                    connection.finish()

    def _serve(self, sock: Any, peer: str) -> None:
        client = dispatcher.normalize(peer)
        if len(self._connections) >= self._max_connections and not self._make_room(
            client
        ):
            self._reject(sock, client)
            return
        connection = ClientConnection(sock, client, self._dispatcher, self._idle_s)
        self._connections.add(connection)
        try:
            connection.serve()
        except Exception:  # One connection must not end the gateway.
            log.exception("connection_failed")
        finally:
            self._connections.remove(connection)

    def _make_room(self, client: str = "") -> bool:
        """Close one connection to make room for a new one of `client`. False if none may be closed.

        - Of the client with the most connections, if these are more than `client` will have:
          first an idle one, then one whose request arrives, then one whose response is not read.
        - Of any client with no fewer connections than `client`: an idle one.

        A connection whose request is in progress is never closed. A client whose connections are
        all in progress does not count as the one with the most: half of all may wait for orders.
        """
        counts = Counter(connection.client for connection in self._connections)
        closable = [
            connection
            for connection in self._connections
            if connection.phase < IN_PROGRESS
        ]
        most = max((counts[connection.client] for connection in closable), default=0)
        greedy = {name for name in counts if counts[name] == most > counts[client] + 1}
        candidates = [
            connection
            for connection in closable
            if connection.client in greedy
            or (
                counts[connection.client] >= counts[client]
                and connection.has_idled(MIN_IDLE_S)
            )
        ]
        if candidates:
            min(
                candidates,
                key=lambda c: (-counts[c.client], c.phase, c.last_request_at),
            ).finish()
        return bool(candidates)

    def _reject(self, sock: Any, client: str) -> None:
        """Answer one connection too many with 503, without reading its request."""
        log.warning(
            "connection_rejected",
            extra={"client": client, "connections": len(self._connections)},
        )
        with suppress(OSError):
            sock.sendall(
                b"".join(
                    problems.unavailable(problems.TOO_MANY_CONNECTIONS)
                    .response()
                    .encode()
                )
            )
            # An unread request would reset the connection, and the response could be lost.
            sock.setblocking(False)
            sock.recv(64 * 1024)
        sock.close()

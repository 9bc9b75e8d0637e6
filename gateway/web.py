"""The HTTP edge on Nameko's web server: routes with checked requests, JSON answers, problems."""

import json
import logging
from collections import Counter, OrderedDict
from contextlib import suppress
from functools import lru_cache, partial
from resource import RLIMIT_NOFILE, getrlimit
from time import monotonic
from typing import Any

import eventlet
from eventlet import greenio
from marshmallow import Schema, fields, validate
from nameko.web.handlers import HttpRequestHandler
from nameko.web.server import WebServer as NamekoWebServer
from werkzeug.exceptions import MethodNotAllowed

from chassis import health
from chassis.logs import CLIENT, REQUEST_ID, bind_request_id
from chassis.settings import ADDRESS, COUNT, ISO_4217_CODE, SECONDS, SWITCH, read
from gateway import documents, money, problems, reading
from gateway.protocol import IN_PROGRESS, Connection
from gateway.reading import HttpRequest, Request
from gateway.responses import Response
from gateway.tokens import Tokens

log = logging.getLogger(__name__)

LAST_REQUEST_S = 1.0  # at a stop a connection that idles is kept so long: a request may be on its way
KEPT_FILES = 24  # descriptors for the broker, health and the process itself
MAX_SHARE = 0.25  # of the workers, for the requests of one client
MIN_IDLE_S = 0.2  # a client that asks again and again keeps its connection
DELAY = fields.Float(validate=validate.Range(min=0))  # seconds
TO_JSON = json.JSONEncoder(ensure_ascii=False).encode
NONE = Schema()
PORT_HINT = " (or GATEWAY_PORT_SHARED=true, for several gateways)"


class WebServer(NamekoWebServer):
    """Nameko's, with connections of our own instead of a WSGI server, and health beside the API."""

    bind_addr = None  # nameko's own reads the setting before `check` can say what is wrong with it

    def check(self) -> None:
        self._address = read(self.container.config, "WEB_SERVER_ADDRESS", ADDRESS)
        self._shared = read(self.container.config, "WEB_SERVER_SHARED", SWITCH)
        self._most = min(
            read(self.container.config, "WEB_SERVER_CONNECTIONS", COUNT),
            getrlimit(RLIMIT_NOFILE)[0] - KEPT_FILES,
        )
        self._idle_s = read(self.container.config, "WEB_SERVER_IDLE_S", SECONDS)
        self._stop_delay_s = read(self.container.config, "STOP_DELAY_S", DELAY)
        money.currency = read(self.container.config, "CURRENCY", ISO_4217_CODE)
        self._proxies = read(
            self.container.config,
            "TRUSTED_PROXIES",
            fields.Integer(strict=True, validate=validate.Range(0, 10)),
        )
        self._open = {
            *documents.FILES,
            "/healthz",
            *(
                health.PATHS
                if read(self.container.config, "WEB_SERVER_HEALTH", SWITCH)
                else ()
            ),
        }

    def open(self) -> None:
        """Answer from now on: about health, and with 503 until the container is up."""
        self._match: Any = None
        self._is_draining = False
        self._connections: OrderedDict[Connection, None] = (
            OrderedDict()
        )  # oldest request first
        self._in_progress: list[str] = []  # the client of each request
        self._sock = health.listen(
            self._address, "GATEWAY", shared=self._shared, hint=PORT_HINT
        )
        log.info("listening", extra={"url": health.url(self._sock)})
        self._sock.settimeout(None)
        self._gt = self.container.spawn_managed_thread(self.run)

    def start(self) -> None:
        [self._tokens] = [
            d for d in self.container.dependencies if isinstance(d, Tokens)
        ]
        self._match = lru_cache(1000)(self.make_url_map().bind("").match)

    def run(self) -> None:
        while True:
            sock, peer = health.accept(self._sock.accept, self._make_room)
            self.container.spawn_managed_thread(partial(self._serve, sock, peer[0]))

    def drain(self) -> None:
        """Take no new connection, answer what was asked, and close each connection after its answer."""
        self._is_draining = True
        eventlet.sleep(self._stop_delay_s)
        self._gt.kill()
        self._sock.setblocking(False)
        with suppress(
            OSError
        ):  # nobody waits in its queue any more, or there are no descriptors left
            while True:  # closing it now would cut them off
                sock, peer = self._sock.accept()
                self.container.spawn_managed_thread(
                    partial(self._serve, greenio.GreenSocket(sock), peer[0])
                )
        self._sock.close()
        eventlet.sleep(0)  # those taken last enter the set when their threads first run
        patience = monotonic() + LAST_REQUEST_S
        while self._connections:
            eventlet.sleep(0.05)
            for connection in filter(Connection.idles_for, self._connections):
                if monotonic() > patience:
                    connection.finish()

    def _serve(self, sock: Any, peer: str) -> None:
        client = reading.normalize(peer)
        if len(self._connections) >= self._most and not self._make_room(client):
            self._refuse(sock, client)
            return
        connection = Connection(sock, client, self._idle_s, self._respond)
        self._connections[connection] = None
        try:
            connection.serve()
        except Exception:  # one connection's failure must not end the gateway
            log.exception("connection_failed")
        finally:
            del self._connections[connection]

    def _make_room(self, client: str = "") -> bool:
        """Close one connection to make room for a new one of `client`. False if none may be closed.

        - Of the client with the most connections, if these are more than `client` will have: first one
          that idles, then one whose request arrives, then one whose answer is not read.
        - Of any client with no fewer connections than `client`: one that idles.

        A connection whose request is in progress is never closed.
        """
        held = Counter(c.client for c in self._connections)
        most = max(held.values(), default=0)
        greedy = {name for name in held if held[name] == most > held[client] + 1}
        found = [
            c
            for c in self._connections
            if (c.client in greedy and c.phase < IN_PROGRESS)
            or (held[c.client] >= held[client] and c.idles_for(MIN_IDLE_S))
        ]
        if found:  # of those alike, the first has waited longest
            min(found, key=lambda c: (-held[c.client], c.phase)).finish()
        return bool(found)

    def _refuse(self, sock: Any, client: str) -> None:
        """Answer one connection too many, before what it asks is looked at."""
        log.warning(
            "connection_rejected",
            extra={"client": client, "connections": len(self._connections)},
        )
        with suppress(OSError):
            sock.sendall(
                b"".join(
                    problems.unavailable("Too many connections.").response().pieces()
                )
            )
            sock.setblocking(False)
            sock.recv(
                64 * 1024
            )  # closing with its request unread would take the answer back
        sock.close()

    def _respond(self, request: HttpRequest, connection: Connection) -> Response:
        started = monotonic()
        request_id = bind_request_id({REQUEST_ID: request.headers.get("x-request-id")})
        connection.is_last |= self._is_draining
        self._connections.move_to_end(connection)
        answer = self._answer(request, request_id, connection)
        answer.headers["X-Request-Id"] = request_id
        log.info(
            "request_handled",
            extra={
                "method": request.method,
                "path": request.path,
                "status": answer.status,
                "ms": round((monotonic() - started) * 1000, 1),
            },
        )
        return answer

    def _answer(
        self, request: HttpRequest, request_id: str, connection: Connection
    ) -> Response:
        try:
            if request.refusal:
                raise request.refusal
            if request.path in self._open:
                return _answer_open(request)
            route, checked = self._check(request, connection)
        except Exception as exc:
            connection.is_last = True  # its body may still be on the way
            return problems.from_exception(exc).response()
        client = reading.client_address(
            connection.client, request.headers, self._proxies
        )
        connection.phase = IN_PROGRESS
        self._in_progress.append(client)
        try:
            if self._in_progress.count(client) > max(
                self.container.max_workers * MAX_SHARE, 1
            ):
                raise problems.unavailable(
                    "Too many of your requests are in progress. Nothing was done."
                )
            return route.run(checked, request_id, client)
        except Exception as exc:
            return problems.from_exception(exc).response()
        finally:
            self._in_progress.remove(client)

    def _check(
        self, request: HttpRequest, connection: Connection
    ) -> tuple["Route", Request]:
        """The route and the checked request; raises a Problem, or werkzeug's 404 and 405."""
        if not self._match:
            raise problems.unavailable(problems.NOTHING_DONE)
        route, path = self._match(request.path, request.method)
        return route, Request(
            user_id="" if route.public else reading.authenticate(request, self._tokens),
            body=reading.read_body(request, route.body, connection.read_body),
            query=reading.read_query(request.query, route.query)
            if request.query
            else route.defaults,
            key=reading.idempotency_key(request),
            path=path,
            accept_language=request.headers.get("accept-language", ""),
        )


def _answer_open(request: HttpRequest) -> Response:
    """Health and the documents: no service is asked."""
    if request.method not in ("GET", "HEAD"):
        raise MethodNotAllowed(["GET", "HEAD"])
    if request.path in documents.FILES:
        return documents.respond(
            request.path, request.headers.get("accept-encoding", "")
        )
    told = health.respond(request.path)
    return Response(
        told.status_code, told.get_data(), {"Content-Type": str(told.content_type)}
    )


class Route(HttpRequestHandler):
    """`@http("POST", "/orders", body=NewOrder())`: one route. The handler gets a `Request` and returns
    (status, data) or (status, data, headers), or raises a Problem. A `public` route needs no token."""

    server = WebServer()
    quiet = True  # the line about the request tells it

    def __init__(
        self,
        *rule: str,
        body: Schema | None = None,
        query: Schema = NONE,
        public: bool = False,
        **more: Any,
    ) -> None:
        self.body = body
        self.query = query
        self.defaults = query.load({})
        self.public = public
        super().__init__(*rule, expected_exceptions=problems.Problem, **more)

    def run(self, request: Request, request_id: str, client: str) -> Response:
        """Run the handler in a worker and wait for its answer."""
        answer = eventlet.Event()
        self.container.spawn_worker(
            self,
            (request,),
            {},
            context_data={REQUEST_ID: request_id, CLIENT: client},
            handle_result=partial(self.handle_result, answer),
        )
        status, data, *rest = answer.wait()
        return Response(
            status,
            TO_JSON(data).encode(),
            {"Content-Type": "application/json", **(rest[0] if rest else {})},
        )


http = Route.decorator

"""The HTTP edge on Nameko's web server: routes with checked requests, JSON answers, problems."""

import json
import logging
from collections import OrderedDict
from contextlib import suppress
from functools import lru_cache, partial
from resource import RLIMIT_NOFILE, getrlimit
from time import monotonic
from typing import Any

import eventlet
from eventlet import greenio
from eventlet.event import Event
from marshmallow import Schema, fields, validate
from nameko.web.handlers import HttpRequestHandler
from nameko.web.server import WebServer as NamekoWebServer
from werkzeug.exceptions import MethodNotAllowed

from chassis import health
from chassis.logs import REQUEST_ID, bind_request_id
from chassis.settings import ADDRESS, COUNT, SECONDS, read
from gateway import documents, problems, reading
from gateway.protocol import Connection
from gateway.reading import HttpRequest, Request
from gateway.responses import Response
from gateway.tokens import Tokens

log = logging.getLogger(__name__)

LAST_REQUEST_S = 1.0  # at a stop a connection that idles is kept so long: a request may be on its way
KEPT_FILES = 24  # descriptors for the broker, health and the process itself
MIN_IDLE_S = 0.2  # a client that asks again and again keeps its connection
MAX_CROWDED = 8  # so many refused connections at a time get CROWDED_S
CROWDED_S = 1.0  # for one connection too many to say something and to read its answer
DELAY = fields.Float(validate=validate.Range(min=0))  # seconds
TO_JSON = json.JSONEncoder(ensure_ascii=False).encode
NONE = Schema()
PORT_SETTING = "GATEWAY_PORT (or GATEWAY_PORT_SHARED=true, for several gateways)"


class WebServer(NamekoWebServer):
    """Nameko's, with connections of our own instead of a WSGI server, and health beside the API."""

    bind_addr = None  # nameko's own reads the setting before `check` can say what is wrong with it

    def check(self) -> None:
        self._address = read(self.container.config, "WEB_SERVER_ADDRESS", ADDRESS)
        self._shared = read(self.container.config, "WEB_SERVER_SHARED", fields.Boolean())
        self._most = min(
            read(self.container.config, "WEB_SERVER_CONNECTIONS", COUNT),
            getrlimit(RLIMIT_NOFILE)[0] - KEPT_FILES,
        )
        self._idle_s = read(self.container.config, "WEB_SERVER_IDLE_S", SECONDS)
        self._stop_delay_s = read(self.container.config, "STOP_DELAY_S", DELAY)

    def open(self) -> None:
        """Answer from now on: about health, and with 503 until the container is up."""
        self._match: Any = None
        self._is_draining = False
        self._connections: OrderedDict[Connection, None] = OrderedDict()  # oldest request first
        self._crowded = 0
        self._sock = health.listen(self._address, PORT_SETTING, shared=self._shared)
        self._sock.settimeout(None)
        self._gt = self.container.spawn_managed_thread(self.run)

    def start(self) -> None:
        [self._tokens] = [d for d in self.container.dependencies if isinstance(d, Tokens)]
        self._match = lru_cache(1000)(self.make_url_map().bind("").match)

    def run(self) -> None:
        while True:
            sock, _ = health.accept(self._sock.accept, self._finish_idle)
            self.container.spawn_managed_thread(partial(self._serve, sock))

    def drain(self) -> None:
        """Take no new connection, answer what was asked, and close each connection after its answer."""
        self._is_draining = True
        eventlet.sleep(self._stop_delay_s)
        self._gt.kill()
        self._sock.setblocking(False)
        with suppress(OSError):  # nobody waits in its queue any more, or there are no descriptors left
            while True:  # closing it now would cut them off
                sock, _ = self._sock.accept()
                self.container.spawn_managed_thread(partial(self._serve, greenio.GreenSocket(sock)))
        self._sock.close()
        eventlet.sleep(0)  # those taken last enter the set when their threads first run
        patience = monotonic() + LAST_REQUEST_S
        while self._connections:
            eventlet.sleep(0.05)
            while monotonic() > patience and self._finish_idle():
                pass

    def _serve(self, sock: Any) -> None:
        if len(self._connections) >= self._most and not self._finish_idle(MIN_IDLE_S):
            self._refuse(sock)
            return
        connection = Connection(sock, self._idle_s, self._respond)
        self._connections[connection] = None
        try:
            connection.serve()
        except Exception:  # one connection's failure must not end the gateway
            log.exception("a connection failed")
        finally:
            del self._connections[connection]

    def _finish_idle(self, at_least_s: float = 0) -> bool:
        """Close the connection that has idled longest; False where none has idled for so long."""
        idle = next((c for c in self._connections if c.idles_for(at_least_s)), None)
        if idle:
            idle.finish()
        return idle is not None

    def _refuse(self, sock: Any) -> None:
        """Answer one connection too many, before what it asks is looked at."""
        log.warning("too many connections", extra={"connections": len(self._connections)})
        self._crowded += 1
        with suppress(OSError), eventlet.Timeout(CROWDED_S, exception=False):
            if self._crowded <= MAX_CROWDED:
                sock.recv(64 * 1024)  # closing with something unread would take the answer back
            sock.sendall(problems.unavailable("Too many connections; try again.").response().wire())
        self._crowded -= 1
        greenio.shutdown_safe(sock)
        sock.close()

    def _respond(self, request: HttpRequest, connection: Connection) -> Response:
        started = monotonic()
        request_id = bind_request_id({REQUEST_ID: request.headers.get("x-request-id")})
        connection.is_last |= self._is_draining
        self._connections.move_to_end(connection)
        answer = self._answer(request, request_id, connection)
        answer.headers["X-Request-Id"] = request_id
        fields = {"method": request.method, "path": request.path, "status": answer.status}
        log.info("request", extra={**fields, "ms": round((monotonic() - started) * 1000, 1)})
        return answer

    def _answer(self, request: HttpRequest, request_id: str, connection: Connection) -> Response:
        try:
            if request.refusal:
                raise request.refusal
            if request.path in health.PATHS or request.path in documents.FILES:
                return _open(request)
            route, checked = self._check(request, connection)
        except Exception as exc:
            connection.is_last = True  # its body may still be on the way
            return problems.from_exception(exc).response()
        try:
            return route.run(checked, request_id)
        except Exception as exc:
            return problems.from_exception(exc).response()

    def _check(self, request: HttpRequest, connection: Connection) -> tuple["Route", Request]:
        """The route and the checked request; raises a Problem, or werkzeug's 404 and 405."""
        if not self._match:
            raise problems.unavailable(problems.NOTHING_DONE)
        route, path = self._match(request.path, request.method)
        return route, Request(
            user_id="" if route.public else reading.authenticate(request, self._tokens),
            body=reading.read_body(request, route.body, connection.read_body),
            query=reading.read_query(request.query, route.query) if request.query else route.defaults,
            key=reading.idempotency_key(request),
            path=path,
        )


def _open(request: HttpRequest) -> Response:
    """Health and the documents: no service is asked."""
    if request.method not in ("GET", "HEAD"):
        raise MethodNotAllowed(["GET", "HEAD"])
    if request.path in documents.FILES:
        media_type, content = documents.FILES[request.path]
        return Response(200, content, {"Content-Type": media_type, **documents.HEADERS})
    told = health.respond(request.path)
    return Response(told.status_code, told.get_data(), {"Content-Type": str(told.content_type)})


class Route(HttpRequestHandler):
    """`@http("POST", "/orders", body=NewOrder())`: one route. The handler gets a `Request` and returns
    (status, data) or (status, data, headers), or raises a Problem. A `public` route needs no token."""

    server = WebServer()
    quiet = True  # the line about the request tells it

    def __init__(
        self, *rule: str, body: Schema | None = None, query: Schema = NONE, public: bool = False, **more: Any
    ) -> None:
        self.body = body
        self.query = query
        self.defaults = query.load({})
        self.public = public
        super().__init__(*rule, expected_exceptions=problems.Problem, **more)

    def run(self, request: Request, request_id: str) -> Response:
        """Run the handler in a worker and wait for its answer."""
        answer = Event()
        tell = partial(self.handle_result, answer)
        self.container.spawn_worker(self, (request,), {}, {REQUEST_ID: request_id}, tell)
        status, data, *rest = answer.wait()
        headers = {"Content-Type": "application/json", **(rest[0] if rest else {})}
        return Response(status, TO_JSON(data).encode(), headers)


http = Route.decorator

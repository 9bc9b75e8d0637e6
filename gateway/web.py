"""The HTTP edge on Nameko's web server: routes with checked requests, JSON answers, problems."""

import json
import logging
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

import eventlet
from eventlet import greenio, wsgi
from eventlet.event import Event
from marshmallow import Schema, fields, validate
from nameko.extensions import register_entrypoint
from nameko.web.handlers import HttpRequestHandler
from nameko.web.server import WebServer as NamekoWebServer
from werkzeug.routing import Map
from werkzeug.wrappers import Request as HttpRequest
from werkzeug.wrappers import Response

from chassis import health
from chassis.logs import REQUEST_ID, bind_request_id
from chassis.settings import ADDRESS, COUNT, read
from gateway import problems, reading
from gateway.protocol import CONNECTION, IDLE_TIMEOUT_S, Protocol, last_answer
from gateway.reading import Request
from gateway.tokens import Tokens

log = logging.getLogger(__name__)

ACCEPT_AGAIN_S = 0.1
LAST_REQUEST_S = 1.0  # at a stop a connection that idles is kept so long: a request may be on its way
CROWDED_S = 1.0  # for one connection too many to say something and to read its answer
DELAY = fields.Float(validate=validate.Range(min=0))  # seconds
PORT_SETTING = "GATEWAY_PORT (or GATEWAY_PORT_SHARED=true, for several gateways)"


class WebServer(NamekoWebServer):
    """Nameko's, with our application, a port of its own, and health beside the API."""

    bind_addr = None  # nameko's own reads the setting before `check` can say what is wrong with it

    def check(self) -> None:
        self._address = read(self.container.config, "WEB_SERVER_ADDRESS", ADDRESS)
        self._shared = read(self.container.config, "WEB_SERVER_SHARED", fields.Boolean())
        self._most = read(self.container.config, "WEB_SERVER_CONNECTIONS", COUNT)
        self._stop_delay_s = read(self.container.config, "STOP_DELAY_S", DELAY)

    def open(self) -> None:
        """Answer from now on: about health, and with 503 until the container is up."""
        self._routes: Map | None = None
        self._is_draining = False
        self._connections: list[Any] = []  # each [address, socket, state], as eventlet keeps them
        self._sock = health.listen(self._address, PORT_SETTING, shared=self._shared)
        self._sock.settimeout(None)
        self._serv = self.get_wsgi_server(self._sock, self._application)
        self._gt = self.container.spawn_managed_thread(self.run)

    def start(self) -> None:
        [self._tokens] = [d for d in self.container.dependencies if isinstance(d, Tokens)]
        self._routes = self.make_url_map()

    def get_wsgi_server(self, sock: Any, wsgi_app: Any, **options: Any) -> wsgi.Server:
        return wsgi.Server(
            sock,
            sock.getsockname(),
            wsgi_app,
            protocol=Protocol,
            log=logging.getLogger("eventlet.wsgi"),
            log_output=False,  # our own line has the request id
            debug=False,  # no stack in an answer
            socket_timeout=IDLE_TIMEOUT_S,
        )

    def run(self) -> None:
        while self._is_accepting:
            try:
                super().run()
            except OSError as exc:  # no descriptors left, or the client is gone again
                log.warning("can't accept a connection", extra={"error": str(exc)})
                eventlet.sleep(ACCEPT_AGAIN_S)

    def drain(self) -> None:
        """Take no new connection, answer what was asked, and close each connection after its answer."""
        self._is_draining = True
        eventlet.sleep(self._stop_delay_s)
        self._gt.kill()
        self._take_last()
        self._sock.close()
        eventlet.sleep(0)  # those taken last enter the list when their threads first run
        patience = monotonic() + LAST_REQUEST_S
        while self._connections:
            eventlet.sleep(0.05)
            for _, sock, state in self._connections:
                if state == wsgi.STATE_IDLE and monotonic() > patience:
                    greenio.shutdown_safe(sock)

    def _take_last(self) -> None:
        """Serve who waits in the listening socket's queue: closing it would cut them off."""
        self._sock.setblocking(False)
        with suppress(OSError):  # nobody waits any more, or there are no descriptors left
            while True:
                sock, address = self._sock.accept()
                sock = greenio.GreenSocket(sock)
                sock.settimeout(IDLE_TIMEOUT_S)
                self.container.spawn_managed_thread(partial(self.process_request, sock, address))

    def process_request(self, sock: Any, address: Any) -> None:
        if len(self._connections) >= self._most:
            self._refuse(sock)
            return
        connection = [address, sock, wsgi.STATE_IDLE]
        self._connections.append(connection)
        try:
            self._serv.process_request(connection)
        except Exception:  # one connection's failure must not end the gateway
            log.exception("a connection failed")
        finally:
            self._connections.remove(connection)

    def _refuse(self, sock: Any) -> None:
        """Answer one connection too many, before what it asks is looked at."""
        log.warning("too many connections", extra={"connections": len(self._connections)})
        with suppress(OSError), eventlet.Timeout(CROWDED_S, exception=False):
            sock.recv(64 * 1024)  # closing with something unread would take the answer back
            sock.sendall(last_answer(problems.unavailable("Too many connections; try again.")))
        greenio.shutdown_safe(sock)
        sock.close()

    def _application(self, environ: dict[str, Any], start_response: Any) -> Any:
        started = monotonic()
        request = HttpRequest(environ)
        request_id = bind_request_id({REQUEST_ID: request.headers.get("X-Request-Id")})
        if self._is_draining:
            environ[CONNECTION].close_connection = True
        response = self._respond(request, request_id, environ[CONNECTION])
        response.headers["X-Request-Id"] = request_id
        fields = {"method": request.method, "path": request.path, "status": response.status_code}
        log.info("request", extra={**fields, "ms": round((monotonic() - started) * 1000, 1)})
        return response(environ, start_response)

    def _respond(self, request: HttpRequest, request_id: str, connection: Protocol) -> Response:
        try:
            if connection.refusal:
                raise connection.refusal
            if request.path in health.PATHS and request.method in ("GET", "HEAD"):
                return health.respond(request.path)
            route, checked = self._check(request)
        except Exception as exc:
            connection.refuse_more()  # its body may still be on the way
            return problems.from_exception(exc).response()
        try:
            return route.run(checked, request_id)
        except Exception as exc:
            return problems.from_exception(exc).response()

    def _check(self, request: HttpRequest) -> tuple["Route", Request]:
        """The route and the checked request; raises a Problem, or werkzeug's 404 and 405."""
        if self._routes is None:
            raise problems.unavailable()
        route, path = self._routes.bind_to_environ(request.environ).match()
        return route, Request(
            user_id="" if route.public else reading.authenticate(request, self._tokens),
            body=reading.read_body(request, route.body),
            query=reading.read_query(request, route.query),
            key=reading.idempotency_key(request),
            path=path,
        )


class Route(HttpRequestHandler):
    """`@http("POST", "/orders", body=NewOrder())`: one route.

    The handler gets a `Request` and returns (status, data) or (status, data, headers), or raises a
    Problem. A `public` route needs no token.
    """

    server = WebServer()
    quiet = True  # the line about the request tells it

    def __init__(
        self,
        method: str,
        url: str,
        *,
        body: Schema | None = None,
        query: Schema | None = None,
        public: bool = False,
        **options: Any,
    ) -> None:
        self.body = body
        self.query = query or Schema()
        self.public = public
        super().__init__(method, url, **options)

    def run(self, request: Request, request_id: str) -> Response:
        """Run the handler in a worker and wait for its answer."""
        answer = Event()
        self.container.spawn_worker(
            self,
            (request,),
            {},
            context_data={REQUEST_ID: request_id},
            handle_result=partial(self.handle_result, answer),
        )
        status, data, *rest = answer.wait()
        headers = {"Content-Type": "application/json", **(rest[0] if rest else {})}
        return Response(json.dumps(data, ensure_ascii=False), status, headers)


def http(method: str, url: str, **options: Any) -> Any:
    """Makes a method of the gateway a `Route`."""

    def decorate(handler: Any) -> Any:
        route = Route(method, url, expected_exceptions=problems.Problem, **options)
        register_entrypoint(handler, route)
        return handler

    return decorate

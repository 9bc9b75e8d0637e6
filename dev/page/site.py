"""Responds to requests for files and for /dev, and refuses requests of other sites."""

import hmac
import json
from pathlib import Path

from werkzeug.exceptions import MethodNotAllowed
from werkzeug.routing import Map, Rule

from dev.page.programs import Programs
from gateway import documents, problems
from gateway.http.parser import SAFE_METHODS, HttpRequest
from gateway.http.responses import Response

HOSTS = ("127.0.0.1", "localhost")
HTTP_PORT = 80
# The panel, which the page loads if its URL contains the token.
FILES = {
    f"/dev/{path.name}": (documents.TYPES[path.suffix], path.read_bytes())
    for path in Path(__file__).parent.iterdir()
    if path.suffix in documents.TYPES
}
API = "/dev/"
ROUTES = Map(
    [
        Rule("/dev/processes", methods=["GET"], endpoint="list"),
        Rule("/dev/processes/<name>/kill", methods=["POST"], endpoint="kill"),
        Rule("/dev/processes/<name>/freeze", methods=["POST"], endpoint="freeze"),
    ]
)


class Site:
    """The requests that the development server answers itself."""

    def __init__(self, port: int, token: str, programs: Programs) -> None:
        self._hosts = {f"{host}:{port}" for host in HOSTS}
        if port == HTTP_PORT:  # browsers omit it
            self._hosts |= set(HOSTS)
        self._token = token.encode()
        self._programs = programs
        self._routes = ROUTES.bind("")

    def respond(self, request: HttpRequest) -> Response | None:
        """Return the response, or None if the gateway must respond."""
        try:
            self._check_sender(request)
            if request.path in documents.FILES or request.path in FILES:
                return _file(request)
            if request.path.startswith(API):
                return self._call(request)
        except Exception as exc:  # one request must not end the server
            return problems.from_exception(exc).response()
        return None

    def _check_sender(self, request: HttpRequest) -> None:
        """Raise Problem for a request that a page of another site may have sent.

        Such a page can use a name of its own for this address (DNS rebinding). Then the Host is
        that name. In other requests its Origin differs.
        """
        host = request.headers.get("host", "")
        if host not in self._hosts:
            raise problems.Problem(
                421,
                "misdirected-request",
                f"Use one of these hosts: {', '.join(sorted(self._hosts))}.",
            )
        origin = request.headers.get("origin", f"http://{host}")
        if request.method not in SAFE_METHODS and origin != f"http://{host}":
            raise problems.Problem(
                403, "forbidden-origin", "Send it from the page of this server."
            )

    def _call(self, request: HttpRequest) -> Response:
        given = request.headers.get("x-dev-token", "").encode()
        if not hmac.compare_digest(given, self._token):
            raise problems.Problem(
                403,
                "forbidden",
                "Open the URL that make status prints. It contains the token.",
            )
        endpoint, names = self._routes.match(request.path, request.method)
        if endpoint == "list":
            return _json(200, self._programs.list())
        fault = self._programs.kill if endpoint == "kill" else self._programs.freeze
        return _json(202, fault(names["name"]))


def _file(request: HttpRequest) -> Response:
    if request.method not in SAFE_METHODS:
        raise MethodNotAllowed(SAFE_METHODS)
    if request.path in documents.FILES:
        accepted = request.headers.get("accept-encoding", "")
        return documents.respond(request.path, accepted)
    media_type, content = FILES[request.path]
    return Response(
        200, content, {"Content-Type": media_type, **documents.PAGE_HEADERS}
    )


def _json(status: int, data: object) -> Response:
    body = json.dumps(data).encode()
    return Response(status, body, {"Content-Type": "application/json"})

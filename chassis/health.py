"""/healthz, /readyz, /startedz and /metrics, outside the worker pool, one server a process.

/healthz says that the loop turns, and never asks broker or database. /readyz asks both. /startedz
is 200 from the end of the start until the stop begins.
"""

import errno
import json
import logging
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from time import monotonic
from typing import Any

import eventlet
from eventlet import greenio, wsgi
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from werkzeug.wrappers import Request, Response

from chassis.errors import Unavailable, first_line
from chassis.lookups import resolve

log = logging.getLogger(__name__)

CHECK_TIMEOUT_S = 4.0  # a slow lookup and a dead address; a kubelet waits for 5 s
ACCEPT_AGAIN_S = 0.1
KEPT_S = 1.0  # how long a result counts
MAX_CONNECTIONS = 200
SOCKET_TIMEOUT_S = 10
PORT_ERRORS = (errno.EADDRINUSE, errno.EACCES)  # all others concern the host


class Check:
    """Calls `check`, which raises where a dependency is unavailable; one call at a time."""

    def __init__(self, name: str, check: Callable[[], object]) -> None:
        self._name = name
        self._check = check
        self._run: Any = None
        self._valid_until = 0.0  # monotonic

    def result(self) -> str:
        """The result of a call that ended at most KEPT_S ago: `ok` or `away`."""
        if self._valid_until < monotonic():
            self._valid_until = inf
            self._run = eventlet.spawn(self._call)
        return str(self._run.wait())

    def _call(self) -> str:
        try:
            with eventlet.Timeout(CHECK_TIMEOUT_S, Unavailable("no answer in time")):
                self._check()
            return "ok"
        except Exception as exc:  # whatever it is, the service can't be called ready
            log.warning(
                "readiness_check_failed",
                extra={"check": self._name, "error": first_line(exc)},
            )
            return "away"
        finally:
            self._valid_until = monotonic() + KEPT_S


_checks: dict[str, Check] = {}  # by "service name"
_server: socket.socket | None = None
_accepted: deque[Any] = deque()  # the last MAX_CONNECTIONS sockets, closed ones too


def add_check(service: str, name: str, check: Callable[[], object]) -> None:
    """Let /readyz call `check`, which raises where what it looks at is away."""
    named = f"{service} {name}"
    _checks[named] = Check(named, check)


def remove_checks(service: str) -> None:
    for asked in [asked for asked in _checks if asked.startswith(f"{service} ")]:
        del _checks[asked]


def respond(path: str) -> Response:
    """The answer to one of PATHS; 404 for anything else."""
    return PATHS[path]() if path in PATHS else _json(404, {"status": "not found"})


def _readiness(only: str = "") -> Response:
    runs = {
        name: eventlet.spawn(_checks[name].result)
        for name in _checks
        if name.endswith(only)
    }
    results = {name: run.wait() for name, run in runs.items()}
    ready = bool(results) and all(result == "ok" for result in results.values())
    return _json(
        200 if ready else 503,
        {"status": "ready" if ready else "not ready", "checks": results},
    )


def _json(status: int, data: dict[str, Any]) -> Response:
    return Response(json.dumps(data), status, content_type="application/json")


def _metrics() -> Response:
    return Response(generate_latest(), content_type=CONTENT_TYPE_LATEST)


PATHS: dict[str, Callable[[], Response]] = {
    "/healthz": partial(_json, 200, {"status": "ok"}),
    "/readyz": _readiness,
    "/startedz": partial(_readiness, " started"),
    "/metrics": _metrics,
}


def listen(
    address: str, variables: str, *, shared: bool = False, hint: str = ""
) -> socket.socket:
    """A socket on `[host:]port`, for this process alone unless `shared`.

    `::` or no host means all interfaces, of both families, or 0.0.0.0 if the kernel has no IPv6. For
    a name of both families the IPv4 address is taken. If it cannot listen, the process ends with a
    line that names the setting: `variables` and _HOST or _PORT.
    """
    host, _, port = address.rpartition(":")
    try:
        number = int(port)
        *_, ip = resolve(host.strip("[]") or "::")
        if (
            not ip.strip("0:") and not socket.has_dualstack_ipv6()
        ):  # any spelling of `::`
            ip = "0.0.0.0"  # noqa: S104 - the setting asks for it
        return socket.create_server(
            (ip, number),
            family=socket.AF_INET6 if ":" in ip else socket.AF_INET,
            backlog=1024,
            reuse_port=shared,
            dualstack_ipv6=not ip.strip("0:"),
        )
    except (ValueError, OverflowError):
        raise SystemExit(
            f"config.yaml: {address!r} is not an address: write host:port"
        ) from None
    except OSError as exc:
        reason = str(exc.strerror or exc).partition(" (while ")[
            0
        ]  # Python repeats the address
        named = (
            f"PORT{hint} names the port"
            if exc.errno in PORT_ERRORS
            else "HOST names the host"
        )
        raise SystemExit(
            f"can't listen on {address}: {reason}; {variables}_{named}"
        ) from None


def url(sock: socket.socket) -> str:
    """Where `sock` listens, for the log."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def accept(
    take: Callable[[], Any], when_failed: Callable[[], object] = lambda: None
) -> Any:
    """Return the next connection and its address.

    Where there is no descriptor for it, or the client has gone, call `when_failed` and wait for the
    next one. eventlet's own server would end.
    """
    while True:
        try:
            return take()
        except OSError as exc:
            log.warning("connection_not_accepted", extra={"error": str(exc)})
            when_failed()
            eventlet.sleep(ACCEPT_AGAIN_S)


def serve(address: str) -> None:
    """Start the process's health server, if it does not run yet."""
    global _server
    if _server is None:
        _server = listen(address, "HEALTH")
        log.info("health_server_started", extra={"url": f"{url(_server)}/readyz"})
        _server.accept = partial(_accept_newest, _server.accept)  # type: ignore[method-assign]
        eventlet.spawn(
            wsgi.server,
            _server,
            _app,
            log_output=False,
            keepalive=False,
            socket_timeout=SOCKET_TIMEOUT_S,
        )


def _accept_newest(take: Callable[[], Any]) -> Any:
    """Accept a connection, and end the one that was accepted MAX_CONNECTIONS before it.

    A connection carries one request, so the oldest is idle or slow. eventlet's server
    would hold 1,024 of them and accept no other.
    """
    connection, address = accept(take)
    _accepted.append(connection)
    if len(_accepted) > MAX_CONNECTIONS:
        greenio.shutdown_safe(_accepted.popleft())
    return connection, address


@Request.application
def _app(request: Request) -> Response:
    return respond(request.path)

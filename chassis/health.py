"""/healthz, /readyz, /startedz and /metrics, on one server a process, outside the worker pool.

/healthz shows that the event loop runs, and uses neither broker nor database. /readyz checks both.
/startedz is 200 from the end of the start until the stop begins.
"""

import errno
import json
import logging
import socket
from collections import deque
from collections.abc import Callable
from functools import cache, partial
from time import monotonic
from typing import Any

import eventlet
from eventlet import greenio, wsgi
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from werkzeug.wrappers import Request, Response

from chassis.errors import Unavailable, first_line
from chassis.lookups import resolve

log = logging.getLogger(__name__)

# Enough for a slow lookup and an address that does not answer. A kubelet waits for 5 s.
CHECK_TIMEOUT_S = 4.0
RESULT_TTL_S = 1.0
MAX_CONNECTIONS = 200


class Check:
    """Runs `check`, which raises if a dependency is unavailable; one call at a time."""

    def __init__(self, name: str, check: Callable[[], object]) -> None:
        self._name = name
        self._check = check
        self._valid_until = 0.0  # monotonic

    def result(self) -> str:
        """Return `ok` or `away`, the result of a call that ended at most RESULT_TTL_S ago."""
        if self._valid_until < monotonic():
            self._valid_until = float("inf")
            self._run = eventlet.spawn(self._call)
        return str(self._run.wait())

    def _call(self) -> str:
        try:
            with eventlet.Timeout(CHECK_TIMEOUT_S, Unavailable("no answer in time")):
                self._check()
            return "ok"
        except Exception as exc:  # any failed check makes the service unready
            log.warning(
                "readiness_check_failed",
                extra={"check": self._name, "error": first_line(exc)},
            )
            return "away"
        finally:
            self._valid_until = monotonic() + RESULT_TTL_S


_checks: dict[str, Check] = {}  # by service and name, with a space between
_accepted: deque[Any] = deque()  # the last MAX_CONNECTIONS sockets, also closed ones


def add_check(service: str, name: str, check: Callable[[], object]) -> None:
    """Add a check to /readyz; it must raise if its dependency is unavailable."""
    key = f"{service} {name}"
    _checks[key] = Check(key, check)


def remove_checks(service: str) -> None:
    for key in [key for key in _checks if key.startswith(f"{service} ")]:
        del _checks[key]


def respond(path: str) -> Response:
    """Return the response to a GET of one of PATHS; 404 for any other path."""
    return PATHS[path]() if path in PATHS else _json(404, {"status": "not found"})


def _readiness(suffix: str = "") -> Response:
    """Run the checks whose key ends with `suffix`, at the same time."""
    runs = {
        key: eventlet.spawn(check.result)
        for key, check in _checks.items()
        if key.endswith(suffix)
    }
    results = {key: run.wait() for key, run in runs.items()}
    if set(results.values()) == {"ok"}:
        return _json(200, {"status": "ready", "checks": results})
    return _json(503, {"status": "not ready", "checks": results})


def _json(status: int, data: dict[str, Any]) -> Response:
    return Response(json.dumps(data), status, content_type="application/json")


PATHS: dict[str, Callable[[], Response]] = {
    "/healthz": partial(_json, 200, {"status": "ok"}),
    "/readyz": _readiness,
    "/startedz": partial(_readiness, " started"),
    "/metrics": lambda: Response(generate_latest(), content_type=CONTENT_TYPE_LATEST),
}


def listen(
    address: str, prefix: str, *, shared: bool = False, hint: str = ""
) -> socket.socket:
    """Return a socket on `[host:]port`; only with `shared` may other processes use the port.

    Without a host, or with `::`, it listens on all interfaces of both families, or on 0.0.0.0 if
    the kernel has no IPv6. For a name with addresses of both families it uses IPv4.

    Ends the process with one line if it cannot listen. The line names the variable, `prefix` and
    _HOST or _PORT, and the `hint`.
    """
    host, _, port = address.rpartition(":")
    try:
        number = int(port)
        *_, ip = resolve(host.strip("[]") or "::")
        # Any spelling of `::`.
        is_any = not ip.strip("0:")
        if is_any and not socket.has_dualstack_ipv6():
            ip = "0.0.0.0"  # noqa: S104 - the setting asks for all interfaces
        is_ipv6 = ":" in ip
        return socket.create_server(
            (ip, number),
            family=socket.AF_INET6 if is_ipv6 else socket.AF_INET,
            backlog=1024,
            reuse_port=shared,
            dualstack_ipv6=is_any and is_ipv6,
        )
    except (ValueError, OverflowError):
        raise SystemExit(
            f"config.yaml: {address!r} is not an address: write host:port"
        ) from None
    except OSError as exc:
        # All other errors concern the host.
        setting = (
            f"PORT{hint} names the port"
            if exc.errno in (errno.EADDRINUSE, errno.EACCES)
            else "HOST names the host"
        )
        # Python adds the address to some reasons.
        reason = str(exc.strerror or exc).partition(" (while ")[0]
        raise SystemExit(
            f"can't listen on {address}: {reason}; {prefix}_{setting}"
        ) from None


def url(sock: socket.socket) -> str:
    """Return the URL of a listening socket, for the log."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def accept(
    accept_one: Callable[[], Any], on_error: Callable[[], object] = lambda: None
) -> Any:
    """Return the next connection and its address.

    Without a free file descriptor, or if the client has closed, call `on_error` and try again.
    eventlet's own server would end.
    """
    while True:
        try:
            return accept_one()
        except OSError as exc:
            log.warning("connection_not_accepted", extra={"error": str(exc)})
            on_error()
            eventlet.sleep(0.1)


@cache
def serve(address: str) -> socket.socket:
    """Start the health server of this process, unless it runs. Return its socket."""
    server = listen(address, "HEALTH")
    log.info("health_server_started", extra={"url": f"{url(server)}/readyz"})
    server.accept = partial(_accept_newest, server.accept)  # type: ignore[method-assign]
    eventlet.spawn(
        wsgi.server,
        server,
        Request.application(lambda request: respond(request.path)),
        log_output=False,
        keepalive=False,
        socket_timeout=10,
    )
    return server


def _accept_newest(accept_one: Callable[[], Any]) -> Any:
    """Accept a connection, and close the one that was accepted MAX_CONNECTIONS before it.

    A connection carries one request, so the oldest one is idle or slow. eventlet's server would
    keep 1,024 connections and accept no other.
    """
    connection, address = accept(accept_one)
    _accepted.append(connection)
    if len(_accepted) > MAX_CONNECTIONS:
        greenio.shutdown_safe(_accepted.popleft())
    return connection, address

"""The ports of the suite, all on 127.0.0.1, and the process that occupies a port.

| server | port | variable |
| --- | --- | --- |
| gateway, HTTP | 8000 | `GATEWAY_PORT` |
| development server, HTTP | 8080 | `PAGE_PORT` |
| users, billing, orders, notifications, health | 7001 to 7004 | `USERS_HEALTH_PORT`, ... |
| PostgreSQL | 7432 | `DB_PORT` |
| RabbitMQ, AMQP | 7672 | `AMQP_PORT` |
| RabbitMQ, Erlang's port mapper (epmd) | 7369 | `EPMD_PORT` |
| RabbitMQ, Erlang's distribution (rabbitmqctl) | 7673 | `ERLANG_PORT` |

`PORT_OFFSET` is added to all of these: with 100, a second checkout runs beside the first one.
"""

import random
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from dev.failure import Failure

Ports = dict[str, int]
# The development server. A suite starts it if its ports contain this name.
PAGE = "page"

DEFAULTS: Ports = {
    "gateway": 8000,
    PAGE: 8080,
    "users": 7001,
    "billing": 7002,
    "orders": 7003,
    "notifications": 7004,
    "postgresql": 7432,
    "rabbitmq": 7672,
    "epmd": 7369,
    "erlang": 7673,
}
VARIABLES = {
    "gateway": "GATEWAY_PORT",
    PAGE: "PAGE_PORT",
    "users": "USERS_HEALTH_PORT",
    "billing": "BILLING_HEALTH_PORT",
    "orders": "ORDERS_HEALTH_PORT",
    "notifications": "NOTIFICATIONS_HEALTH_PORT",
    "postgresql": "DB_PORT",
    "rabbitmq": "AMQP_PORT",
    "epmd": "EPMD_PORT",
    "erlang": "ERLANG_PORT",
}

MAX_PORT = 65535
# Browsers connect to none of these (the bad ports of WHATWG's Fetch standard, from 1024).
BLOCKED_BY_BROWSERS = {
    *(1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566),
    *(6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080),
}

# Sockets that reserve blocks of ports until this process ends.
_claims: list[socket.socket] = []


def ports_from(environ: Mapping[str, str]) -> Ports:
    """Return the ports: the defaults, overridden by the environment.

    Raises Failure if a value is not a port, two servers have one port, or no browser would open
    the page.
    """
    ports = {name: _port(environ, name) for name in DEFAULTS}
    for name, port in ports.items():
        variables = [VARIABLES[other] for other in ports if ports[other] == port]
        if len(variables) > 1:
            choice = " or ".join(variables)
            raise Failure(f"port {port} is given twice, to {name}: set {choice}")
    if ports[PAGE] in BLOCKED_BY_BROWSERS:
        raise Failure(f"browsers block port {ports[PAGE]}: set PAGE_PORT")
    return ports


def _port(environ: Mapping[str, str], name: str) -> int:
    if text := environ.get(VARIABLES[name]):
        return _number(VARIABLES[name], text, range(1, MAX_PORT + 1))
    return DEFAULTS[name] + _offset(environ.get("PORT_OFFSET") or "0")


def _offset(text: str) -> int:
    limit = MAX_PORT - max(DEFAULTS.values())
    return _number("PORT_OFFSET", text, range(limit + 1))


def _number(variable: str, text: str, accepted: range) -> int:
    if not (text.isascii() and text.isdigit() and int(text) in accepted):
        limits = f"{accepted[0]} to {accepted[-1]}"
        raise Failure(f"{variable} must be a number, {limits}, not {text!r}")
    return int(text)


def free_ports(more: Iterable[str] = ()) -> Ports:
    """Return ports for one more suite and for `more` names, reserved until this process ends.

    A suite of a test or a benchmark has no development server, unless `more` contains PAGE.
    They are below the range that outgoing connections use. The first port of a block is bound
    here and never listens, so that two suites cannot choose the same block.
    """
    names = [*(name for name in DEFAULTS if name != PAGE), *more]
    for base in random.sample(range(20_000, 32_000, 40), k=300):
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", base))
        except OSError:
            claim.close()
            continue
        ports = {name: base + offset for offset, name in enumerate(names, start=1)}
        if all(is_free(port) for port in ports.values()):
            _claims.append(claim)
            return ports
        claim.close()
    raise Failure("no free ports from 20000 to 32000")


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether a server could bind the port now."""
    with socket.socket() as probe:
        # Ignore lingering connections of an earlier server, as servers do.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def accepts(port: int) -> bool:
    """Return whether a server on this machine accepts connections on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), 2).close()
    except OSError:
        return False
    return True


def check_free(ports: Ports, names: list[str], host: str = "127.0.0.1") -> None:
    """Raise Failure, with a message of one line, for the first port that is in use."""
    for name in names:
        port = ports[name]
        if not is_free(port, host):
            advice = "stop it"
            if name in VARIABLES:
                advice += f", or set {VARIABLES[name]}, or PORT_OFFSET=100 for all"
            raise Failure(
                f"port {port} ({name}) is in use by {_user_of(port)}: {advice}"
            )


def _user_of(port: int) -> str:
    """Return the process that uses the port, as "pid 1, init", as far as it is visible."""
    inodes = {f"socket:[{inode}]" for inode in listening(port)}
    if not inodes:
        return "an outgoing connection"
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(fd.readlink()) in inodes:
                process = fd.parents[1]
                return f"pid {process.name}, {(process / 'comm').read_text().strip()}"
        except OSError:
            continue  # it has just ended, or belongs to another user
    return "a process of another user"


def listening(port: int) -> list[str]:
    """Return the inodes of the sockets that listen on the port, from /proc/net/tcp and tcp6."""
    inodes = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:  # a machine without IPv6 has no tcp6
            continue
        for columns in map(str.split, lines):
            if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:
                inodes.append(columns[9])
    return inodes

"""Looks up host names without blocking, and connects to PostgreSQL's addresses one by one.

libpq looks up names in C: while a name server does not answer, nothing else in the process runs.
Here eventlet's modules ask /etc/hosts and the name servers of /etc/resolv.conf, and libpq gets
`hostaddr`. It gets `host` too, because `sslmode=verify-full` and .pgpass go by it.
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import eventlet
import psycopg2
from eventlet.support import (
    greendns,
)  # not `socket`, which EVENTLET_NO_GREENDNS changes

from chassis.errors import first_line

LOOKUP_TIMEOUT_S = 2  # all name servers together
NEXT_SERVER_AFTER_S, IPV6_TIMEOUT_S = 1.0, 0.5
CONNECT_TIMEOUT_S, NEXT_ADDRESS_AFTER_S = 3, 1  # the last address, each before it
WHERE = ("host", "hostaddr", "port")  # libpq's parameters, each a list with commas


def connect(
    dialect: Any,
    record: object,
    arguments: Sequence[Any],
    parameters: Mapping[str, Any],
) -> Any:
    """Connect to the first address that takes the session and may be written to.

    For SQLAlchemy's `do_connect` event. Raises psycopg2.OperationalError with one line: each host
    and its failure.
    """
    # For a process without eventlet's patches. In others libpq ignores it, and Timeout works.
    parameters = {"connect_timeout": CONNECT_TIMEOUT_S, **parameters}
    waiting = targets(parameters)
    failures = []
    while waiting:
        target = waiting.pop(0)
        try:
            if needs_lookup(target):
                waiting[:0] = [
                    {**target, "hostaddr": ip} for ip in resolve(target["host"])
                ]
            else:
                with eventlet.Timeout(
                    NEXT_ADDRESS_AFTER_S if waiting else CONNECT_TIMEOUT_S,
                    psycopg2.OperationalError("no answer in time"),
                ):
                    connection = dialect.connect(*arguments, **{**parameters, **target})
                    refuse_read_only(connection)
                    return connection
        except (socket.gaierror, psycopg2.OperationalError) as exc:
            place = filter(None, map(target.get, WHERE))
            failures.append(f"{' '.join(dict.fromkeys(place))}: {first_line(exc)}")
    raise psycopg2.OperationalError("; ".join(failures))


def refuse_read_only(connection: Any) -> None:
    """Raise OperationalError for a standby, so that the next server is tried.

    `target_session_attrs` is no way to do it: PgBouncer reports to all clients the state of its
    first server session.
    """
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SHOW transaction_read_only")
        [setting] = cursor.fetchone()
    connection.autocommit = False
    if setting == "on":
        connection.close()
        raise psycopg2.OperationalError("the database is read-only")


def targets(parameters: Mapping[str, Any]) -> list[dict[str, str]]:
    """The servers that `parameters` name, in order, each with its own host, hostaddr and port."""
    lists = {
        name: str(parameters[name]).split(",") for name in WHERE if name in parameters
    }
    size = max((len(each) for each in lists.values()), default=1)
    columns = [each * size if len(each) == 1 else each for each in lists.values()]
    if any(len(each) != size for each in columns):
        return [{}]  # libpq reports the mistake
    return [
        dict(zip(lists, row, strict=True)) for row in zip(*columns, strict=True)
    ] or [{}]


def needs_lookup(target: Mapping[str, str]) -> bool:
    """Whether there is a host without an address that is not the folder of a Unix socket."""
    return not target.get("hostaddr") and target.get("host", "")[:1] not in (
        "",
        "/",
        "@",
    )


def resolve(host: str) -> list[str]:
    """The addresses of `host`, those of IPv6 first. Raises gaierror with the reason.

    Where there is an IPv4 address, the wait for those of IPv6 is short: some name servers never
    answer that question.
    """
    if greendns.is_ip_addr(host):
        return [host]
    for query in (greendns.HostsResolver().query, _ask_name_servers):
        ipv4, ipv6 = (
            eventlet.spawn(_look_up, query, host, kind) for kind in ("A", "AAAA")
        )
        addresses, failure = ipv4.wait()
        with eventlet.Timeout(IPV6_TIMEOUT_S if addresses else None, exception=False):
            addresses = ipv6.wait()[0] + addresses
        if addresses:
            return addresses
    raise socket.gaierror(f"could not resolve the name: {failure}")


def _look_up(query: Callable[..., Any], host: str, kind: str) -> tuple[list[str], str]:
    """The addresses, or none and the reason.

    Its limit is no Exception, and it runs in a greenthread of its own: after any Exception, also
    that of a caller's time limit, dnspython would go on with the next name server.
    """
    try:
        with eventlet.Timeout(LOOKUP_TIMEOUT_S):
            return [
                record.address
                for record in query(
                    host.encode("idna").decode(), greendns.dns.rdatatype.from_text(kind)
                )
            ], ""
    except eventlet.Timeout:
        return [], f"no name server answered within {LOOKUP_TIMEOUT_S} s"
    except (OSError, UnicodeError, greendns.dns.exception.DNSException) as exc:
        return [], first_line(exc)


def _ask_name_servers(name: str, record_type: int) -> Any:
    """Ask those of /etc/resolv.conf. Nothing is cached, and that file is read each time.

    Eventlet's own resolver reads it once. It keeps "no such name" for as long as the name server
    says, which may be a day. After an answer for a name without a dot it asks once more.
    """
    resolver = greendns.dns.resolver.Resolver()
    resolver.timeout = NEXT_SERVER_AFTER_S
    return resolver.resolve(name, record_type, search=True)

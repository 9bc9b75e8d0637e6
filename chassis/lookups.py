"""Host names without blocking, and connections to PostgreSQL's addresses one after another.

libpq looks up names in C: while a name server does not answer, nothing else in the process runs.
Here eventlet's modules ask /etc/hosts and the name servers of /etc/resolv.conf, and libpq gets
`hostaddr`. It gets `host` too, which `sslmode=verify-full` and .pgpass need.
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import eventlet
import psycopg2

# Not `socket`, which EVENTLET_NO_GREENDNS changes.
from eventlet.support import greendns

from chassis.errors import first_line

# For all name servers together.
LOOKUP_TIMEOUT_S = 2
IPV6_TIMEOUT_S = 0.5
# For the last address of a database; each earlier one has NEXT_ADDRESS_AFTER_S.
CONNECT_TIMEOUT_S = 3
NEXT_ADDRESS_AFTER_S = 1
# Parameters of libpq; each value is a list with commas.
PLACE_PARAMETERS = ("host", "hostaddr", "port")


def connect(
    dialect: Any,
    record: object,
    arguments: Sequence[Any],
    parameters: Mapping[str, Any],
) -> Any:
    """Connect to the first address with a session that may write.

    For SQLAlchemy's `do_connect` event. Raises psycopg2.OperationalError, whose one line has each
    address with its failure.
    """
    # For a process without eventlet's patches. In others libpq ignores it, and Timeout works.
    parameters = {"connect_timeout": CONNECT_TIMEOUT_S, **parameters}
    pending = targets(parameters)
    failures = []
    while pending:
        target = pending.pop(0)
        try:
            if needs_lookup(target):
                pending[:0] = [
                    {**target, "hostaddr": ip} for ip in resolve(target["host"])
                ]
            else:
                with eventlet.Timeout(
                    NEXT_ADDRESS_AFTER_S if pending else CONNECT_TIMEOUT_S,
                    psycopg2.OperationalError("no answer in time"),
                ):
                    connection = dialect.connect(*arguments, **{**parameters, **target})
                    refuse_read_only(connection)
                    return connection
        except (socket.gaierror, psycopg2.OperationalError) as exc:
            place = filter(None, map(target.get, PLACE_PARAMETERS))
            # An address can be the host name as well.
            failures.append(f"{' '.join(dict.fromkeys(place))}: {first_line(exc)}")
    raise psycopg2.OperationalError("; ".join(failures))


def refuse_read_only(connection: Any) -> None:
    """Close the connection to a standby and raise OperationalError, so that the next is tried.

    `target_session_attrs` cannot be used: PgBouncer reports to all clients the state of its first
    server session.
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
    """Return the servers that `parameters` name, in order, each with host, hostaddr and port."""
    lists = {
        name: str(parameters[name]).split(",")
        for name in PLACE_PARAMETERS
        if name in parameters
    }
    size = max((len(each) for each in lists.values()), default=1)
    columns = [each * size if len(each) == 1 else each for each in lists.values()]
    if any(len(each) != size for each in columns):
        # libpq reports the mistake.
        return [{}]
    return [
        dict(zip(lists, row, strict=True)) for row in zip(*columns, strict=True)
    ] or [{}]


def needs_lookup(target: Mapping[str, str]) -> bool:
    """Whether the target has a host name without an address. A Unix socket has a path instead."""
    host = target.get("host", "")
    return not target.get("hostaddr") and host[:1] not in ("", "/", "@")


def resolve(host: str) -> list[str]:
    """Return the addresses of `host`, those of IPv6 first. Raises gaierror with the reason.

    If there is an IPv4 address, it waits only briefly for those of IPv6: some name servers never
    answer that query.
    """
    if greendns.is_ip_addr(host):
        return [host]
    for query in (greendns.HostsResolver().query, _ask_name_servers):
        ipv4, ipv6 = (
            eventlet.spawn(_look_up, query, host, kind)
            for kind in (greendns.dns.rdatatype.A, greendns.dns.rdatatype.AAAA)
        )
        addresses, failure = ipv4.wait()
        with eventlet.Timeout(IPV6_TIMEOUT_S if addresses else None, exception=False):
            addresses = ipv6.wait()[0] + addresses
        if addresses:
            return addresses
    raise socket.gaierror(f"could not resolve the name: {failure}")


def _look_up(query: Callable[..., Any], host: str, kind: int) -> tuple[list[str], str]:
    """Return the addresses, or none and the reason.

    It must run in a greenthread of its own, and its time limit is not an Exception. After any
    Exception, such as the timeout of a caller, dnspython would try the next name server.
    """
    try:
        with eventlet.Timeout(LOOKUP_TIMEOUT_S):
            records = query(host.encode("idna").decode(), kind)
            return [record.address for record in records], ""
    except eventlet.Timeout:
        return [], f"no name server answered within {LOOKUP_TIMEOUT_S} s"
    except (OSError, UnicodeError, greendns.dns.exception.DNSException) as exc:
        return [], first_line(exc)


def _ask_name_servers(name: str, record_type: int) -> Any:
    """Query the name servers of /etc/resolv.conf, which is read each time. Nothing is cached.

    eventlet's own resolver reads the file once. It keeps a negative answer as long as the name
    server says, which may be a day, and queries a name without a dot twice.
    """
    resolver = greendns.dns.resolver.Resolver()
    # For each name server.
    resolver.timeout = 1.0
    return resolver.resolve(name, record_type, search=True)

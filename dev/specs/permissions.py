"""Write docs/permissions.md: the permissions of users over HTTP and on the bus.

They are read from the code: the routes of the gateway, and the RPC methods, calls and events of
each service. Tests check each cell, over HTTP (tests/system/test_permissions.py) and on a broker
(tests/specs/test_permissions.py).

usage: python -m dev.specs.permissions
"""

from collections.abc import Callable, Iterable, Sequence

from dev import bus
from dev.broker import MIGRATIONS, OPERATOR
from dev.cli import SERVICES
from dev.specs import openapi
from gateway.routes import Route

FILE = openapi.ROOT / "docs" / "permissions.md"
USERS = (*SERVICES, MIGRATIONS, OPERATOR)  # of the broker
CALLERS = ("its owner", "another user", "without a token")
YES, NO, OWN, MISSING, UNAUTHORIZED = "yes", "–", "own", "404", "401"

TEXT = """\
# Permissions

The permissions of users over HTTP and on the bus, written by `make specs` from the code
([dev/specs/permissions.py](../dev/specs/permissions.py)). Tests check each cell of the tables:
[over HTTP](../tests/system/test_permissions.py), and
[on a broker](../tests/specs/test_permissions.py).

| cell | meaning |
| --- | --- |
| yes | allowed |
| own | allowed, with the caller's own data only |
| 404 | refused as if the resource did not exist |
| 401 | refused |
| – | refused by the broker |

## Routes

The columns are the callers: the owner of the data, another user, and a client without a token.

{routes}

Health and documents need no token and contain no data of users:
{open_paths}.
Some of them are on the health port only: see [openapi.yaml](openapi.yaml).

## Methods

The columns are the users of the broker that the chart and `make up` create: one for each service,
one for migrations, and the operator for `nameko shell`. No method checks its caller. A caller of a
method may name any user.

{methods}

## Events

Migrations bind the queues of events and redrive dead letters, into any queue by its name.

{events}
"""


def name_of(route: Route) -> str:
    """Return a route as `GET /orders/{order_id}`."""
    return f"{route.method} {route.url.replace('<', '{').replace('>', '}')}"


def cells(route: Route) -> tuple[str, str, str]:
    """Return the cells of a route: the permission of each of CALLERS.

    It is about the resource in the path, or else about the caller's own resources.
    """
    if route.public:
        return YES, YES, YES
    has_parameter = "<" in route.url
    return YES, MISSING if has_parameter else OWN, UNAUTHORIZED


def may_call(user: str, method: str) -> bool:
    """Return whether a user of the broker may call `<service>.<method>`."""
    if user not in SERVICES:
        return user == "operator"
    callee, _, verb = method.partition(".")
    return verb in bus.service(user).calls.get(callee, [])


def may_publish(user: str, event: str) -> bool:
    """Return whether a user of the broker may publish `<service>.<event>`."""
    return event.startswith(f"{user}.")


def may_receive(user: str, event: str) -> bool:
    """Return whether a user of the broker may receive `<service>.<event>`.

    Migrations bind all queues.
    """
    return user == "migrations" or (user in SERVICES and event in received(user))


def received(service: str) -> set[str]:
    """Return the events that a service consumes."""
    sources = bus.service(service).sources
    return {
        f"{source}.{event}" for source, events in sources.items() for event in events
    }


def events() -> list[str]:
    """Return all events that a service consumes."""
    return sorted(set().union(*map(received, SERVICES)))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def matrix(name: str, rows: Sequence[str], cell: Callable[[str, str], str]) -> str:
    """Return a table with a column for each user of the broker."""
    cells_of = {row: [cell(user, row) for user in USERS] for row in rows}
    return table([name, *USERS], [[f"`{row}`", *cells_of[row]] for row in rows])


def call_cell(user: str, method: str) -> str:
    return YES if may_call(user, method) else NO


def event_cell(user: str, event: str) -> str:
    verbs = {"publish": may_publish, "receive": may_receive}
    return ", ".join(verb for verb, may in verbs.items() if may(user, event)) or NO


def written() -> str:
    """Return the text of docs/permissions.md."""
    routes = [(f"`{name_of(route)}`", *cells(route)) for _, route in openapi.routes()]
    return TEXT.format(
        routes=table(["route", *CALLERS], routes),
        open_paths=", ".join(f"`{path}`" for path in openapi.open_paths()),
        methods=matrix("method", bus.methods(), call_cell),
        events=matrix("event", events(), event_cell),
    )


if __name__ == "__main__":
    FILE.write_text(written())

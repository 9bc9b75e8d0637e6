"""Writes docs/permissions.md: who may do what, over HTTP and on the bus.

Routes are read off the gateway, and what each service answers, calls, emits and receives off its
class. Tests try each cell, over HTTP (tests/system/test_permissions.py) and on a broker
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
ASKING = ("its owner", "another user", "without a token")
YES, NO, OWN, MISSING, UNAUTHORIZED = "yes", "–", "own", "404", "401"

TEXT = """\
# Permissions

Who may do what, over HTTP and on the bus. Made by `make specs` from the code
([dev/specs/permissions.py](../dev/specs/permissions.py)). Tests try each cell of the tables:
[over HTTP](../tests/system/test_permissions.py), and
[on a broker](../tests/specs/test_permissions.py).

| in a cell | |
| --- | --- |
| yes | it is done |
| own | it is done for the caller, with the caller's data alone |
| 404 | as if it did not exist |
| 401 | refused |
| – | the broker refuses |

## Routes

The columns are the callers: the user whose data they are, another user, and one without a token.

{routes}

Health and documents are open to all, with or without a token, and tell nothing of a user:
{open_paths}.
Which of them are on the health port alone is told in [openapi.yaml](openapi.yaml).

## Methods

The columns are the users of the broker that the chart and `make up` make: one for each service, one
for migrations, and the operator's for `nameko shell`. No method checks who its caller is: whoever
may call one may name any user.

{methods}

## Events

Migrations bind the queues of events, and move dead letters back: into any queue, by its name.

{events}
"""


def name_of(route: Route) -> str:
    """The route as `GET /orders/{order_id}`."""
    return f"{route.method} {route.url.replace('<', '{').replace('>', '}')}"


def cells(route: Route) -> tuple[str, str, str]:
    """What each of ASKING gets of a route: of the resource in its path, or of their own."""
    if route.public:
        return YES, YES, YES
    return YES, MISSING if "<" in route.url else OWN, UNAUTHORIZED


def may_call(user: str, method: str) -> bool:
    """Whether a user of the broker may call `<service>.<method>`."""
    if user not in SERVICES:
        return user == "operator"
    callee, _, verb = method.partition(".")
    return verb in bus.service(user).calls.get(callee, [])


def may_publish(user: str, event: str) -> bool:
    """Whether a user of the broker may publish `<service>.<event>`."""
    return event.startswith(f"{user}.")


def may_receive(user: str, event: str) -> bool:
    """Whether a user of the broker may receive `<service>.<event>`. Migrations bind all queues."""
    return user == "migrations" or (user in SERVICES and event in received(user))


def received(service: str) -> set[str]:
    """The events that a service listens to."""
    sources = bus.service(service).sources
    return {
        f"{source}.{event}" for source, events in sources.items() for event in events
    }


def events() -> list[str]:
    """All events that some service listens to."""
    return sorted(set().union(*map(received, SERVICES)))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def matrix(name: str, rows: Sequence[str], cell: Callable[[str, str], str]) -> str:
    """A table with a column for each user of the broker."""
    cells_of = {row: [cell(user, row) for user in USERS] for row in rows}
    return table([name, *USERS], [[f"`{row}`", *cells_of[row]] for row in rows])


def call_cell(user: str, method: str) -> str:
    return YES if may_call(user, method) else NO


def event_cell(user: str, event: str) -> str:
    verbs = {"publish": may_publish, "receive": may_receive}
    return ", ".join(verb for verb, may in verbs.items() if may(user, event)) or NO


def written() -> str:
    """What docs/permissions.md must hold."""
    routes = [(f"`{name_of(route)}`", *cells(route)) for _, route in openapi.routes()]
    return TEXT.format(
        routes=table(["route", *ASKING], routes),
        open_paths=", ".join(f"`{path}`" for path in openapi.open_paths()),
        methods=matrix("method", bus.methods(), call_cell),
        events=matrix("event", events(), event_cell),
    )


if __name__ == "__main__":
    FILE.write_text(written())

"""At the limit, a new connection takes the place of another one, or is rejected."""

import pytest

from gateway.http.connection import ARRIVING, CLOSING, IDLE, IN_PROGRESS, RESPONDING
from gateway.http.server import MIN_IDLE_S, WebServer


class FakeConnection:
    """A connection in this phase; an idle one has idled for `idle_s`."""

    def __init__(self, client: str, phase: int = IDLE, idle_s: float = 1.0) -> None:
        self.client = client
        self.phase = phase
        self.last_request_at = 0.0
        self._idle_s = idle_s

    def has_idled(self, seconds: float) -> bool:
        return self.phase == IDLE and self._idle_s >= seconds

    def finish(self) -> None:
        self.phase = CLOSING


def closed(client: str, *connections: FakeConnection) -> list[int]:
    """Make room for a new connection of `client`; return the places of the closed ones.

    The first of the connections is the oldest.
    """
    for place, connection in enumerate(connections):
        connection.last_request_at = float(place)
    server = WebServer()
    server._connections = set(connections)  # type: ignore[arg-type]
    already = {c for c in connections if c.phase == CLOSING}
    has_room = server._make_room(client)
    now = [
        place
        for place, c in enumerate(connections)
        if c.phase == CLOSING and c not in already
    ]
    assert has_room == bool(now)
    return now


def many(*phases: int) -> list[FakeConnection]:
    """Return connections of one client. None of them has idled for long."""
    return [FakeConnection("many", phase, idle_s=0) for phase in phases]


def test_among_equals_the_longest_idle_connection_is_closed() -> None:
    assert closed(
        "new", FakeConnection("a", ARRIVING), FakeConnection("b"), FakeConnection("c")
    ) == [1]


def test_among_equals_a_busy_connection_is_not_closed() -> None:
    busy = [FakeConnection(name, idle_s=MIN_IDLE_S / 2) for name in "abc"]
    assert closed("new", *busy) == []
    assert closed("a", *busy) == []


@pytest.mark.parametrize(
    ("phases", "place"),
    [
        ((ARRIVING, IDLE, IDLE), 2),
        ((IN_PROGRESS, RESPONDING, ARRIVING), 3),
        ((IN_PROGRESS, RESPONDING, IN_PROGRESS), 2),
        ((CLOSING, CLOSING, ARRIVING), 3),
    ],
)
def test_the_client_with_most_connections_loses_one(phases, place) -> None:
    """The connection of the other client has idled for longer, but is not closed."""
    assert closed("new", FakeConnection("other"), *many(*phases)) == [place]


def test_a_request_in_progress_is_never_cut_off() -> None:
    assert closed("new", *many(IN_PROGRESS, IN_PROGRESS, CLOSING)) == []


def test_a_client_whose_requests_all_wait_does_not_shield_another_one() -> None:
    """The one with the most connections has none that may be closed."""
    waiting = [FakeConnection("waiting", IN_PROGRESS) for _ in range(3)]
    assert closed("new", *waiting, *many(ARRIVING, ARRIVING)) == [3]
    waiting[0].phase = IDLE
    assert closed("new", *waiting, *many(ARRIVING, ARRIVING)) == [0]


def test_the_client_with_most_connections_loses_only_its_own() -> None:
    few = [FakeConnection("few"), FakeConnection("few")]
    assert closed("many", *few, *many(ARRIVING, ARRIVING, IDLE)) == []
    assert closed("many", *few, *many(ARRIVING, ARRIVING), FakeConnection("many")) == [
        4
    ]


def test_one_connection_more_is_not_unfair() -> None:
    assert closed("a", FakeConnection("a", ARRIVING), *many(ARRIVING, ARRIVING)) == []


def test_behind_one_proxy_all_are_one_client() -> None:
    assert closed("many", *many(ARRIVING, IDLE, IN_PROGRESS)) == []
    assert closed("many", *many(ARRIVING, IN_PROGRESS), FakeConnection("many")) == [2]

"""Whose connection makes room for a new one where all are in use."""

from collections import OrderedDict

import pytest

from gateway.protocol import ANSWERING, ARRIVING, CLOSING, IDLE, IN_PROGRESS
from gateway.web import MIN_IDLE_S, WebServer


class FakeConnection:
    """One that idles for so long, or does what `phase` says."""

    def __init__(self, client: str, phase: int = IDLE, idle_s: float = 1.0) -> None:
        self.client = client
        self.phase = phase
        self._idle_s = idle_s

    def idles_for(self, seconds: float) -> bool:
        return self.phase == IDLE and self._idle_s >= seconds

    def finish(self) -> None:
        self.phase = CLOSING


def closed(client: str, *connections: FakeConnection) -> list[int]:
    """The places of the connections that make room for a new one of `client`; the first is the oldest."""
    server = WebServer()
    server._connections = OrderedDict.fromkeys(connections)  # type: ignore[arg-type]
    already = {c for c in connections if c.phase == CLOSING}
    found = server._make_room(client)
    now = [
        place
        for place, c in enumerate(connections)
        if c.phase == CLOSING and c not in already
    ]
    assert found == bool(now)
    return now


def many(*phases: int) -> list[FakeConnection]:
    """All of one client, and none has idled for long."""
    return [FakeConnection("many", phase, idle_s=0) for phase in phases]


def test_the_one_that_idles_longest_makes_room_among_equals() -> None:
    assert closed(
        "new", FakeConnection("a", ARRIVING), FakeConnection("b"), FakeConnection("c")
    ) == [1]


def test_among_equals_nobody_who_asks_again_and_again_makes_room() -> None:
    busy = [FakeConnection(name, idle_s=MIN_IDLE_S / 2) for name in "abc"]
    assert closed("new", *busy) == []
    assert closed("a", *busy) == []


@pytest.mark.parametrize(
    ("phases", "place"),
    [
        ((ARRIVING, IDLE, IDLE), 2),
        ((IN_PROGRESS, ANSWERING, ARRIVING), 3),
        ((IN_PROGRESS, ANSWERING, IN_PROGRESS), 2),
        ((CLOSING, CLOSING, ARRIVING), 3),
    ],
)
def test_the_client_that_has_most_makes_room_for_one_that_has_fewer(
    phases, place
) -> None:
    """The other one's connection has idled for longer, and stays all the same."""
    assert closed("new", FakeConnection("other"), *many(*phases)) == [place]


def test_no_request_in_progress_is_given_up() -> None:
    assert closed("new", *many(IN_PROGRESS, IN_PROGRESS, CLOSING)) == []


def test_a_client_that_has_most_takes_the_place_of_its_own_connections_alone() -> None:
    few = [FakeConnection("few"), FakeConnection("few")]
    assert closed("many", *few, *many(ARRIVING, ARRIVING, IDLE)) == []
    assert closed("many", *few, *many(ARRIVING, ARRIVING), FakeConnection("many")) == [
        4
    ]


def test_one_connection_more_or_less_is_not_unfair() -> None:
    assert closed("a", FakeConnection("a", ARRIVING), *many(ARRIVING, ARRIVING)) == []


def test_behind_one_proxy_all_are_one_client() -> None:
    assert closed("many", *many(ARRIVING, IDLE, IN_PROGRESS)) == []
    assert closed("many", *many(ARRIVING, IN_PROGRESS), FakeConnection("many")) == [2]

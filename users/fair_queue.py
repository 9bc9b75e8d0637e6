"""A queue whose turns are shared: no client and no username keeps all others waiting."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, cycle

from eventlet.event import Event

from chassis.errors import Unavailable

Group = tuple[str, str]  # all callers with one address, or all with one username


class FairQueue:
    """Lets `slots` callers work at a time, while at most `max_waiting` others wait.

    Addresses and usernames have alternate turns, each kind in a round of its own. So a caller waits
    for at most two turns for each waiting address, or for each waiting username if these are fewer.
    One address with many names delays other addresses little. Many addresses with one name delay
    other names little. Behind a proxy all have one address, and the names share the turns.

    One caller too many takes the place of the last of those whose address and username have the
    most places together. That may be the new caller itself.
    """

    def __init__(self, slots: int, max_waiting: int) -> None:
        self._slots = slots
        self._max_waiting = max_waiting
        self._working: set[Event] = set()
        self._waiting: dict[Event, tuple[Group, Group]] = {}  # in the order of arrival
        self._last_turn: dict[Group, int] = {}  # before its first turn: when the group came
        self._clock = count()
        self._kinds = cycle((0, 1))

    @contextmanager
    def slot(self, address: str, username: str) -> Iterator[None]:
        """Wait for a slot and hold it. Raises Unavailable for a caller that lost its place."""
        turn = Event()
        self._waiting[turn] = (("address", address), ("username", username))
        try:
            self._add_groups()
            self._start_next()
            turn.wait()
            yield
        finally:
            self._waiting.pop(turn, None)  # where its greenthread was killed
            self._working.discard(turn)
            self._start_next()

    def _add_groups(self) -> None:
        """Give new groups the last turn of the round, and dismiss one caller too many."""
        sizes = Counter(group for groups in self._waiting.values() for group in groups)
        now = next(self._clock)
        self._last_turn = {group: self._last_turn.get(group, now) for group in sizes}
        if len(self._waiting) > self._max_waiting:
            turns = reversed(self._waiting)
            heaviest = max(turns, key=lambda turn: sum(sizes[g] for g in self._waiting[turn]))
            del self._waiting[heaviest]
            heaviest.send_exception(Unavailable("too many callers wait"))

    def _start_next(self) -> None:
        """Give a free slot to the first caller of the group whose last turn is longest ago."""
        if not self._waiting or len(self._working) >= self._slots:
            return
        kind = next(self._kinds)
        turn = min(self._waiting, key=lambda turn: self._last_turn[self._waiting[turn][kind]])
        groups = self._waiting.pop(turn)
        self._working.add(turn)
        self._last_turn |= dict.fromkeys(groups, next(self._clock))
        turn.send()

"""A queue whose turns are shared: no client and no username keeps all others waiting."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from eventlet.event import Event

from chassis.errors import Unavailable


class FairQueue:
    """Lets `slots` callers work at a time, while at most `max_waiting` others wait.

    A caller belongs to the group of its address and to that of its username. The two kinds have
    alternate turns, each in a round of its own. So a caller waits for at most two turns for each
    waiting address, or for each waiting username if these are fewer. One address with many names
    delays other addresses little. Many addresses with one name delay other names little. Behind a
    proxy all have one address, and the names share the turns.

    One caller too many takes the place of another: of the last one whose two groups have the most
    places together. That may be the new caller itself.
    """

    def __init__(self, slots: int, max_waiting: int) -> None:
        self._slots = slots
        self._max_waiting = max_waiting
        self._working: set[Event] = set()
        self._waiting: dict[
            Event, tuple[str, str]
        ] = {}  # their groups, in the order of arrival
        self._last_turns: dict[
            str, int
        ] = {}  # of the waiting groups; at first, of their arrival
        self._turns = 0

    @contextmanager
    def slot(self, address: str, username: str) -> Iterator[None]:
        """Wait for a slot and hold it. Raises Unavailable for a caller that lost its place."""
        turn = Event()
        self._waiting[turn] = (f"address {address}", f"username {username}")
        try:
            self._share_places()
            self._start_next()
            turn.wait()
            yield
        finally:
            self._waiting.pop(turn, None)  # where its greenthread was killed
            self._working.discard(turn)
            self._start_next()

    def _share_places(self) -> None:
        """Put new groups at the end of their round, and dismiss one caller too many."""
        sizes = Counter(group for groups in self._waiting.values() for group in groups)
        self._last_turns = {
            group: self._last_turns.get(group, self._turns) for group in sizes
        }
        if len(self._waiting) > self._max_waiting:
            heaviest = max(
                reversed(self._waiting),
                key=lambda turn: sum(sizes[group] for group in self._waiting[turn]),
            )
            del self._waiting[heaviest]
            heaviest.send_exception(Unavailable("too many callers wait"))

    def _start_next(self) -> None:
        """Give a free slot to the first caller of the group whose last turn is longest ago."""
        if self._waiting and len(self._working) < self._slots:
            kind = self._turns % 2
            turn = min(
                self._waiting,
                key=lambda turn: self._last_turns[self._waiting[turn][kind]],
            )
            self._turns += 1
            self._last_turns |= dict.fromkeys(self._waiting.pop(turn), self._turns)
            self._working.add(turn)
            turn.send()

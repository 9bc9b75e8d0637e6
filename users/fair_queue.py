"""A queue with fair shares: no client and no username can keep all others waiting."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from eventlet.event import Event

from chassis.errors import Unavailable


class FairQueue:
    """Lets a number of callers work at a time, and a limited number of others wait.

    A caller belongs to two groups: that of its address and that of its username. Slots are given
    to addresses and to usernames alternately, and each kind has a round of its own. So a caller
    waits for at most two turns for each waiting address, or for each waiting username if these are
    fewer. One address with many names delays other addresses little, and many addresses with one
    name delay other names little. Behind a proxy all callers have one address, and their names
    share the slots.

    When the queue is full, a caller from the largest groups is refused: the last one whose two
    groups have the most places together. It may be the new caller.
    """

    def __init__(self, slots: int, max_waiting: int) -> None:
        self._slots = slots
        self._max_waiting = max_waiting
        self._working: set[Event] = set()
        # The groups of each waiting caller, in the order of arrival.
        self._waiting: dict[Event, tuple[str, str]] = {}
        # The number of the last turn of each waiting group, or of the turn at its arrival.
        self._last_turns: dict[str, int] = {}
        self._turns = 0

    @contextmanager
    def slot(self, address: str, username: str) -> Iterator[None]:
        """Wait for a slot and hold it. Raises Unavailable if the caller is refused."""
        caller = Event()
        self._waiting[caller] = (f"address {address}", f"username {username}")
        try:
            self._admit()
            self._start_next()
            caller.wait()
            yield
        finally:
            # It is still waiting if its greenthread was killed.
            self._waiting.pop(caller, None)
            self._working.discard(caller)
            self._start_next()

    def _admit(self) -> None:
        """Add new groups at the end of their round. Refuse a caller if the queue is too long."""
        sizes = Counter(group for groups in self._waiting.values() for group in groups)
        self._last_turns = {
            group: self._last_turns.get(group, self._turns) for group in sizes
        }
        if len(self._waiting) > self._max_waiting:
            refused = max(
                reversed(self._waiting),
                key=lambda caller: sum(sizes[group] for group in self._waiting[caller]),
            )
            del self._waiting[refused]
            refused.send_exception(Unavailable("too many callers wait"))

    def _start_next(self) -> None:
        """Give a free slot to the first caller of the group whose last turn is longest ago."""
        if self._waiting and len(self._working) < self._slots:
            kind = self._turns % 2
            caller = min(
                self._waiting,
                key=lambda caller: self._last_turns[self._waiting[caller][kind]],
            )
            self._turns += 1
            self._last_turns |= dict.fromkeys(self._waiting.pop(caller), self._turns)
            self._working.add(caller)
            caller.send()

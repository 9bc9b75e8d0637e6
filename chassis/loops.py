"""Makes a loop whose step takes too long visible: in the log, in a metric and in /readyz.

Every wait of a step has a limit, so no step should take too long. If one does, the service looks
healthy otherwise: it sends heartbeats and logs no error.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from eventlet.hubs import get_hub

from chassis import health, metrics
from chassis.errors import Unavailable

log = logging.getLogger(__name__)

# Longer than MAX_BATCH_S (retries.py) and one last statement.
MAX_BUSY_S = 75.0


class LoopWatch:
    """Watches one loop of a service; `limit_s` is the time that a step may take."""

    def __init__(self, service: str, loop: str, limit_s: float = MAX_BUSY_S) -> None:
        self._fields = {"service": service, "loop": loop, "seconds": limit_s}
        self._limit_s = limit_s
        self._started: float | None = None  # monotonic
        metrics.LOOP_BUSY.labels(service, loop).set_function(self.busy_s)
        health.add_check(service, loop, self.check)

    def busy_s(self) -> float:
        """Return the seconds since the current step began; 0 between two steps."""
        return 0 if self._started is None else monotonic() - self._started

    @contextmanager
    def step(self) -> Iterator[None]:
        """Watch the `with` block as one step. It must not include the wait for work."""
        self._started = monotonic()
        alarm = get_hub().schedule_call_global(self._limit_s, self._report)
        try:
            yield
        finally:
            alarm.cancel()
            self._started = None

    def _report(self) -> None:
        log.error("loop_stuck", extra=self._fields)

    def check(self) -> None:
        """Raise Unavailable, for /readyz, while a step exceeds its limit."""
        if self.busy_s() > self._limit_s:
            raise Unavailable(f"busy for {self.busy_s():.0f} s")

"""A loop whose step takes too long is visible: in the log, in a metric, in /readyz.

Every wait of a step has a limit, so this should never happen. Without this check, a service that
waits without a limit looks healthy: its heartbeats go on, and no error is logged.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from eventlet.hubs import get_hub

from chassis import health, metrics
from chassis.errors import Unavailable

log = logging.getLogger(__name__)

MAX_BUSY_S = 75.0  # longer than a batch of failing events and its last statement take


class LoopWatch:
    """Watches one loop of a service, from now on; `limit_s` is how long one step may take."""

    def __init__(self, service: str, loop: str, limit_s: float = MAX_BUSY_S) -> None:
        self._fields = {"service": service, "loop": loop, "seconds": limit_s}
        self._limit_s = limit_s
        self._started: float | None = None  # monotonic
        metrics.LOOP_BUSY.labels(service, loop).set_function(self.busy_s)
        health.add_check(service, loop, self.check)

    def busy_s(self) -> float:
        """Seconds since the current step began; 0 between two steps."""
        return 0 if self._started is None else monotonic() - self._started

    @contextmanager
    def step(self) -> Iterator[None]:
        """The context of one step. A wait for work is not part of it."""
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
        """For /readyz: raises Unavailable while a step takes longer than it may."""
        if self.busy_s() > self._limit_s:
            raise Unavailable(f"busy for {self.busy_s():.0f} s")

"""`@timer(interval=1)`: Nameko's, by a clock that nobody sets, and watched.

Nameko's own goes by the time of day: after a step back by an hour it does nothing for an hour.
After a step forward, or a slow tick, it makes up for each tick that it missed.
"""

from time import monotonic

import eventlet
from nameko.timer import Timer as NamekoTimer

from chassis.loops import MAX_BUSY_S, LoopWatch


class Timer(NamekoTimer):
    """Runs its method every `interval` seconds, one run at a time."""

    def start(self) -> None:
        limit_s = max(self.interval, MAX_BUSY_S)
        self._watch = LoopWatch(self.container.service_name, self.method_name, limit_s)
        super().start()

    def _run(self) -> None:
        next_at = monotonic() + (0 if self.eager else self.interval)
        while True:
            with eventlet.Timeout(max(next_at - monotonic(), 0), exception=False):
                self.should_stop.wait()
            if self.should_stop.ready():
                return
            next_at = monotonic() + self.interval
            with self._watch.step():
                self.handle_timer_tick()
                self.worker_complete.wait()
            self.worker_complete.reset()


timer = Timer.decorator

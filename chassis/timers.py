"""`@timer(interval=1)`: Nameko's, by a monotonic clock, and watched.

Nameko's own goes by the time of day. When that is set back by an hour, the timer pauses for an
hour. When it is set forward, or a tick is slow, the timer makes up for each missed tick.
"""

from time import monotonic

from nameko.timer import Timer as NamekoTimer

from chassis.loops import MAX_BUSY_S, LoopWatch


class Timer(NamekoTimer):
    """Runs its method every `interval` seconds, one run at a time."""

    quiet = True  # chassis.container logs its runs at DEBUG

    def start(self) -> None:
        self._watch = LoopWatch(
            self.container.service_name,
            self.method_name,
            limit_s=max(self.interval, MAX_BUSY_S),
        )
        super().start()

    def _run(self) -> None:
        next_at = monotonic() + (0 if self.eager else self.interval)
        while True:
            self.should_stop.wait(timeout=max(next_at - monotonic(), 0))
            if self.should_stop.ready():
                return
            next_at = monotonic() + self.interval
            with self._watch.step():
                self.handle_timer_tick()
                self.worker_complete.wait()
            self.worker_complete.reset()


timer = Timer.decorator

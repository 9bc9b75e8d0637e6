"""`@timer(interval=1)`: a timer with a monotonic clock, which is watched.

Nameko's timer uses the time of day. It pauses for an hour when that is set back by an hour. When
it is set forward, or a run is slow, Nameko's timer catches up on each run that it missed.
"""

from time import monotonic

from nameko.timer import Timer as NamekoTimer

from chassis.loops import MAX_BUSY_S, LoopWatch


class Timer(NamekoTimer):
    """Runs its method every `interval` seconds, one run at a time."""

    # chassis.container logs each run at DEBUG.
    quiet = True

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
            # A stop may coincide with the end of the timeout. No run may start then.
            if self.should_stop.ready():
                return
            next_at = monotonic() + self.interval
            with self._watch.step():
                self.handle_timer_tick()
                self.worker_complete.wait()
            self.worker_complete.reset()


timer = Timer.decorator

"""Run services in this process for the tests of a module, and fakes of other services."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import eventlet

from chassis.container import Container
from chassis.rpc import rpc


class FakeService:
    """A fake of the service `name`. It records the calls of `methods`, and replies from `replies`.

    `replies["get"] = lambda user_id: {...}` sets the reply of a method. Without one the call fails.
    """

    def __init__(self, name: str, *methods: str) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.replies: dict[str, Callable[..., Any]] = {}
        entrypoints = {method: self._entrypoint(method) for method in methods}
        self.service = type(f"Fake{name.title()}", (), {"name": name, **entrypoints})

    def _entrypoint(self, method: str) -> Any:
        def reply(service: Any, **kwargs: Any) -> Any:
            self.calls.append((method, kwargs))
            return self.replies[method](**kwargs)

        reply.__name__ = method
        return rpc(reply)

    def reset(self) -> None:
        """Remove calls and replies, for the next test."""
        self.calls.clear()
        self.replies.clear()


@contextmanager
def serving(config: dict[str, Any], *services: type) -> Iterator[None]:
    """Run services with the broker and databases of `config`."""
    own = {**config, "HEALTH_ADDRESS": "127.0.0.1:0"}
    containers = [Container(service, own) for service in services]
    try:
        for container in containers:
            container.start()
        yield
    finally:
        for stopping in [eventlet.spawn(container.stop) for container in containers]:
            stopping.wait()

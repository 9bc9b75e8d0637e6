"""Deadlines travel with calls, over the real broker."""

from time import monotonic

import pytest
from eventlet.event import Event

from chassis.container import Container
from chassis.errors import DeadlineExceeded
from chassis.rpc import RpcProxy, rpc
from chassis.tests.conftest import dependency, running
from conftest import eventually

waited_s: list[float] = []
gate = Event()


class Slow:
    name = "echo"

    @rpc
    def hold(self) -> None:
        gate.wait()


class Middle:
    """A service that waits for at most RPC_TIMEOUT_S, and not longer than its caller."""

    name = "worker"

    slow = RpcProxy("echo", ["hold"])

    @rpc
    def ask(self) -> None:
        started = monotonic()
        try:
            self.slow.hold()
        finally:
            waited_s.append(monotonic() - started)


class Caller:
    """A service that waits for SHORT_S."""

    name = "caller"

    middle = RpcProxy("worker", ["ask"], timeout_setting="SHORT_S")


def test_a_callee_does_not_wait_longer_than_its_caller(
    config,
) -> None:
    caller = Container(Caller, config)
    with running(Container(Slow, config), Container(Middle, config), caller):
        with pytest.raises(DeadlineExceeded):
            dependency(caller, "middle").ask()
        eventually(lambda: waited_s)
        gate.send()
    assert waited_s[0] < float(config["RPC_TIMEOUT_S"]) / 2

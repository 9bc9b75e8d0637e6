"""Deadlines travel with calls, over the real broker."""

from time import monotonic

import pytest
from eventlet.event import Event

from chassis.container import Container
from chassis.errors import DeadlineExceeded
from chassis.rpc import RpcProxy, rpc
from chassis.tests.conftest import dependency, running
from conftest import eventually

gave_up_after: list[float] = []  # seconds
gate = Event()


class Slow:
    name = "echo"

    @rpc
    def hold(self) -> None:
        gate.wait()


class Middle:
    """Would wait for RPC_TIMEOUT_S."""

    name = "worker"

    slow = RpcProxy("echo", ["hold"])

    @rpc
    def ask(self) -> None:
        started = monotonic()
        try:
            self.slow.hold()
        finally:
            gave_up_after.append(monotonic() - started)


class Hurried:
    """Waits for SHORT_S."""

    name = "asker"

    middle = RpcProxy("worker", ["ask"], timeout="SHORT_S")


def test_a_service_asked_in_a_hurry_waits_no_longer_for_others_than_its_caller_does(
    config,
) -> None:
    hurried = Container(Hurried, config)
    with running(Container(Slow, config), Container(Middle, config), hurried):
        with pytest.raises(DeadlineExceeded):
            dependency(hurried, "middle").ask()
        eventually(lambda: gave_up_after)
        gate.send()
    assert gave_up_after[0] < float(config["RPC_TIMEOUT_S"]) / 2

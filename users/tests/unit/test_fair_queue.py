"""The queue chooses the next caller, and the caller that it refuses."""

from collections.abc import Sequence

import eventlet
import pytest
from eventlet.event import Event
from hypothesis import given, strategies as st

from chassis.errors import Unavailable
from users.fair_queue import FairQueue

Caller = tuple[str, str]  # address and username
MAX_WAITING = 20


class Crowd:
    """Callers of a queue with one slot, which is free only after `serve`."""

    def __init__(self) -> None:
        self.queue = FairQueue(1, MAX_WAITING)
        self.served: list[Caller] = []
        self.refused: list[Caller] = []
        self._closed = Event()
        self._threads = [eventlet.spawn(self._hold)]
        eventlet.sleep(0)

    def _hold(self) -> None:
        with self.queue.slot("address", "username"):
            self._closed.wait()

    def _call(self, caller: Caller) -> None:
        try:
            with self.queue.slot(*caller):
                self.served.append(caller)
                eventlet.sleep(0)
        except Unavailable:
            self.refused.append(caller)

    def arrive(self, *callers: Caller) -> list[eventlet.greenthread.GreenThread]:
        threads = [eventlet.spawn(self._call, caller) for caller in callers]
        self._threads += threads
        eventlet.sleep(0)
        return threads

    def serve(self) -> list[Caller]:
        """Free the slot. Return the waiting callers in the order in which they got it."""
        self._closed.send()
        for thread in self._threads:
            thread.wait()
        return self.served


@pytest.fixture
def crowd() -> Crowd:
    return Crowd()


BOB = ("bob's", "bob")
ONE_ADDRESS = [("guesser's", f"name-{n}") for n in range(MAX_WAITING)]
ONE_NAME = [(f"address-{n}", "ann") for n in range(MAX_WAITING)]
ONE_OF_BOTH = [("guesser's", "ann")] * MAX_WAITING
CROWDS = pytest.mark.parametrize("guesses", [ONE_ADDRESS, ONE_NAME, ONE_OF_BOTH])


def test_equal_callers_are_served_in_order(crowd) -> None:
    callers = [("one", "ann")] * 3
    crowd.arrive(*callers)
    assert crowd.serve() == callers


@CROWDS
def test_a_crowd_delays_another_caller_by_few_turns(crowd, guesses) -> None:
    crowd.arrive(*guesses[:-1], BOB)
    assert crowd.serve().index(BOB) <= 3
    assert len(crowd.served) == MAX_WAITING


def test_behind_a_proxy_usernames_share_the_slots(crowd) -> None:
    guesses = [("proxy", "ann")] * (MAX_WAITING - 1)
    crowd.arrive(*guesses, ("proxy", "bob"))
    assert crowd.serve().index(("proxy", "bob")) <= 3


def test_guesses_of_a_username_delay_its_user_by_few_turns(
    crowd,
) -> None:
    crowd.arrive(*[("guesser's", "bob")] * (MAX_WAITING - 1), BOB)
    assert crowd.serve().index(BOB) <= 3


@CROWDS
def test_a_full_queue_gives_a_place_of_the_crowd_to_another_caller(
    crowd, guesses
) -> None:
    crowd.arrive(*guesses, BOB, *guesses)
    assert BOB in crowd.serve()
    assert len(crowd.refused) == MAX_WAITING + 1
    assert crowd.served.index(BOB) <= 3


def test_behind_a_proxy_a_full_queue_refuses_the_most_frequent_name(
    crowd,
) -> None:
    crowd.arrive(*[("proxy", "ann")] * MAX_WAITING, ("proxy", "bob"), ("proxy", "ann"))
    assert ("proxy", "bob") in crowd.serve()
    assert crowd.refused == [("proxy", "ann")] * 2


def test_many_addresses_with_one_name_do_not_displace_a_proxy(crowd) -> None:
    proxied = [("proxy", f"user-{n}") for n in range(5)]
    crowd.arrive(*proxied, *ONE_NAME)
    assert set(proxied) <= set(crowd.serve())


SOME = st.sampled_from("abc")


@given(
    crowded=st.lists(st.tuples(SOME, SOME), max_size=12),
    later=st.lists(st.tuples(SOME, SOME), max_size=12),
)
def test_a_single_caller_waits_at_most_two_turns_for_each_address(
    crowded: Sequence[Caller], later: Sequence[Caller]
) -> None:
    crowd = Crowd()
    crowd.arrive(*crowded[: MAX_WAITING // 2], BOB, *later[: MAX_WAITING // 2 - 1])
    place = crowd.serve().index(BOB)
    addresses, usernames = (
        len(set(kind)) for kind in zip(*crowded, *later, BOB, strict=False)
    )
    assert place <= 2 * min(addresses, usernames)


def test_a_free_slot_is_given_at_once() -> None:
    queue = FairQueue(2, 1)
    with eventlet.Timeout(5), queue.slot("a", "a"), queue.slot("a", "a"):
        pass


@pytest.mark.parametrize("killed", [0, 1])
def test_the_slot_of_a_killed_caller_is_not_lost(crowd, killed) -> None:
    first = crowd.arrive(BOB, ("ann's", "ann"))
    first[killed].kill()
    crowd.arrive(("cid's", "cid"))
    crowd._closed.send()
    eventlet.sleep(0)
    with eventlet.Timeout(5), crowd.queue.slot("dan's", "dan"):
        assert ("cid's", "cid") in crowd.served
    assert len(crowd.served) == 2


def test_a_caller_killed_before_its_work_releases_the_slot(
    crowd,
) -> None:
    [bob] = crowd.arrive(BOB)
    crowd._closed.send()
    # Bob gets the slot, and its greenthread has not run yet.
    crowd._threads[0].wait()
    bob.kill()
    with eventlet.Timeout(5), crowd.queue.slot("ann's", "ann"):
        pass

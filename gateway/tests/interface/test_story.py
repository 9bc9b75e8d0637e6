"""The story of an order if services reply, fail, are frozen, or are of an earlier version."""

from time import monotonic

import pytest
from eventlet.event import Event
from nameko.exceptions import MethodNotFound

from chassis.errors import DeadlineExceeded, InternalError, Unavailable
from tests.contracts import rpc_sample

ORDER_ID = "0199d6a8-5b7e-7c3a-8000-000000000002"
USER_ID = "0199d6a8-5b7e-7c3a-8000-000000000001"
RPC_TIMEOUT_S = 3  # of the gateway of these tests
PATH = f"/orders/{ORDER_ID}/story"
# The last part of the story first.
CALLS = ["notifications.get_letter", "orders.get_history", "billing.get_withdrawal"]
STEP = {"billing.get_withdrawal": 1, "notifications.get_letter": 4}
FAULTS = [
    Unavailable("SELECT 1"),
    DeadlineExceeded("SELECT 1"),
    InternalError("SELECT 1"),
    ConnectionError("SELECT 1"),
    # The reply of an earlier version, which has no such method.
    MethodNotFound("get_withdrawal"),
]


@pytest.fixture(autouse=True)
def stored(fakes) -> None:
    """Let each service have its part of the story."""
    fakes.replies |= {name: rpc_sample(name)["reply"] for name in CALLS}


def states(response) -> list[str]:
    assert response.status_code == 200
    return [step["state"] for step in response.json()["steps"]]


def all_but(state: str, step: int) -> list[str]:
    """Return the states of five steps that are done, except one."""
    return ["done"] * step + [state] + ["done"] * (4 - step)


def test_the_parts_are_those_of_the_user_of_the_token(client, fakes) -> None:
    response = client.get(PATH, headers={"X-Request-Id": "trace"})
    assert states(response) == ["done"] * 5
    query = {"order_id": ORDER_ID, "user_id": USER_ID}
    assert fakes.calls == [(name, query, "trace") for name in CALLS]


def test_the_order_of_another_user_is_not_found(client, fakes) -> None:
    fakes.replies["orders.get_history"] = None
    response = client.get(PATH)
    assert response.status_code == 404
    assert response.json()["type"].endswith(":not-found")


def test_a_malformed_id_is_not_looked_up(client, fakes) -> None:
    for wrong in ("x", ORDER_ID.upper(), ORDER_ID + "0", "%00", "..%2f"):
        assert client.get(f"/orders/{wrong}/story").status_code == 404
    assert fakes.calls == []


@pytest.mark.parametrize("method", STEP)
def test_a_missing_part_is_pending(client, fakes, method) -> None:
    fakes.replies[method] = None
    assert states(client.get(PATH)) == all_but("pending", STEP[method])


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("method", STEP)
def test_the_part_of_an_unavailable_service_is_unknown(
    client, fakes, method, fault
) -> None:
    fakes.replies[method] = fault
    response = client.get(PATH)
    assert states(response) == all_but("unknown", STEP[method])
    assert "SELECT" not in response.text


def test_the_wait_for_frozen_services_is_shorter_than_the_usual_timeout(
    client, fakes
) -> None:
    released = Event()
    for method in STEP:
        fakes.replies[method] = lambda arguments: released.wait()
    started = monotonic()
    response = client.get(PATH)
    waited_s = monotonic() - started
    released.send(None)
    assert states(response) == ["done", "unknown", "done", "done", "unknown"]
    assert waited_s < len(STEP) * RPC_TIMEOUT_S


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Unavailable("x"), 503),
        (DeadlineExceeded("x"), 504),
        (MethodNotFound("get_history"), 503),
    ],
)
def test_without_orders_there_is_no_story(client, fakes, fault, status) -> None:
    fakes.replies["orders.get_history"] = fault
    response = client.get(PATH)
    assert response.status_code == status
    assert "Retry-After" in response.headers

"""The calls of the gateway fit the samples of the services, and so do the replies."""

from typing import Any

import pytest

from tests.contracts import rpc_sample

# By RPC method: a request that makes the gateway call it.
REQUESTS = {
    "users.create": (
        "POST",
        "/users",
        {"username": "ann", "email": "ann@example.com", "password": "12345678"},
    ),
    "users.authenticate": (
        "POST",
        "/tokens",
        {"username": "ann", "password": "12345678"},
    ),
    "users.get": ("GET", "/users/me", None),
    "billing.account": ("GET", "/account", None),
    "billing.statement": ("GET", "/account/operations?limit=2", None),
    "billing.deposit": ("POST", "/account/deposits", {"amount": "1.00"}),
    "billing.withdraw": ("POST", "/account/withdrawals", {"amount": "1.00"}),
    "orders.place": ("POST", "/orders", {"price": "1.00"}),
    "orders.get": ("GET", "/orders/0199d6a8-5b7e-7c3a-8000-000000000002", None),
    "orders.list": ("GET", "/orders?limit=2", None),
    "notifications.send": ("POST", "/notifications", {"subject": "s", "body": "b"}),
    "notifications.list": ("GET", "/notifications?limit=2", None),
}
PARTS_OF_A_STORY = (
    "orders.get_history",
    "billing.get_withdrawal",
    "notifications.get_letter",
)
IDEMPOTENT = {"billing.deposit", "billing.withdraw", "orders.place"}
OPTIONAL = {"id", "after", "key"}
BATCHED = {*IDEMPOTENT, "billing.account"}


def fields_of(name: str) -> set[str]:
    """Return the arguments in the samples of a method and of its batched form."""
    calls = [rpc_sample(name)["request"]]
    if name in BATCHED:
        calls += rpc_sample(f"{name}_many")["request"]["items"]
    return {field for call in calls for field in call}


def test_a_story_fits_the_samples_of_its_parts(client, fakes) -> None:
    samples = {name: rpc_sample(name) for name in PARTS_OF_A_STORY}
    fakes.replies |= {name: sample["reply"] for name, sample in samples.items()}
    order_id = samples["orders.get_history"]["request"]["order_id"]
    story = client.get(f"/orders/{order_id}/story").json()
    for name, sample in samples.items():
        assert set(fakes.arguments(name)) == set(sample["request"])
    shown = [
        story["order"],
        story["steps"][1]["operation"],
        story["steps"][4]["letter"],
    ]
    for sample, part in zip(samples.values(), shown, strict=True):
        assert_nothing_is_lost(sample["reply"], part)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_call_and_its_reply_fit_the_sample(client, fakes, name) -> None:
    method, path, body = REQUESTS[name]
    sample = rpc_sample(name)
    fakes.replies[name] = sample["reply"]
    response = client.request(method, path, json=body)
    assert response.status_code == (201 if method == "POST" else 200)
    assert set(fakes.arguments(name)) <= fields_of(name) | OPTIONAL
    if name != "users.authenticate":  # its reply becomes a token
        assert_nothing_is_lost(sample["reply"], response.json())


def assert_nothing_is_lost(inside: dict[str, Any], outside: dict[str, Any]) -> None:
    """Assert that ids, statuses and texts of the reply are in the response."""
    inside = inside.get("user", inside)
    for one, other in zip(
        inside.get("items", [inside]), outside.get("items", [outside]), strict=True
    ):
        shared = set(one) & set(other) - {"currency"}
        assert shared
        assert {name: other[name] for name in shared} == {
            name: one[name] for name in shared
        }

"""Health, metrics and logs, and one request that is traced through all services."""

import uuid
from contextlib import suppress

import pytest
import requests

from conftest import eventually
from dev.specs.asyncapi import handlers
from tests.system.processes import SERVICES, calls_done

LOOPS = {
    "users": ["outbox"],
    "billing": ["audit"],
    "orders": ["outbox", "sweep", "measure"],
    "gateway": ["report_settled_orders"],
}


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_reports_its_health(suite, name) -> None:
    healthz = suite.health(name, "/healthz")
    assert (healthz.status_code, healthz.json()) == (200, {"status": "ok"})
    ready = suite.health(name, "/readyz").json()
    checks = [
        "started",
        "broker",
        "consumer",
        *(handler.method_name for handler in handlers(name)),
    ]
    checks += LOOPS.get(name, [])
    checks += ["database"] if name != "gateway" else []
    assert ready == {
        "status": "ready",
        "checks": {f"{name} {check}": "ok" for check in checks},
    }
    metrics = suite.health(name, "/metrics")
    assert metrics.headers["Content-Type"].startswith("text/plain")
    assert "# TYPE shop_worker_seconds histogram" in metrics.text
    assert suite.health(name, "/nowhere").status_code == 404


def test_health_is_public_and_the_api_is_not_on_its_ports(suite, shopper) -> None:
    assert suite.health("users", "/users/me").status_code == 404
    assert requests.get(f"{suite.url}/readyz", timeout=60).status_code == 200


def test_metrics_count_completed_calls(suite, shopper) -> None:
    def deposits() -> int:
        return calls_done(suite.ports["billing"], "deposit_many")

    before = deposits()
    shopper.deposit("1.00")
    eventually(lambda: deposits() == before + 1)


def test_every_log_line_is_json_with_time_and_level(suite, shopper) -> None:
    shopper.ended_order("1.00")
    for process in suite.processes.values():
        lines = process.lines()
        assert lines
        assert all(
            {"event", "level", "logger", "timestamp"} <= set(line) for line in lines
        )


def test_a_request_id_is_logged_from_gateway_to_letter(suite, shopper) -> None:
    shopper.deposit("5.00")
    request_id = f"trace-{uuid.uuid4()}"
    response = shopper.post(
        "/orders", json={"price": "1.00"}, headers={"X-Request-Id": request_id}
    )
    assert response.headers["X-Request-Id"] == request_id
    shopper.letters(1)

    expected = {
        "gateway": "POST",
        "orders": "place_many",
        "billing": "withdraw_many",
        "notifications": "handle_order_paid",
    }

    def missing() -> set[str]:
        """Return the services that have not yet logged their part of this request."""
        logged = {
            (name, line.get("method"))
            for name in expected
            for line in suite.processes[name].lines()
            if line.get("request_id") == request_id
        }
        return {
            name for name, method in expected.items() if (name, method) not in logged
        }

    with suppress(AssertionError):
        eventually(lambda: not missing())
    assert missing() == set()


def test_no_log_contains_a_password_or_a_token(suite, shopper, client) -> None:
    secret = f"secret-{uuid.uuid4()}"
    client.post(
        "/tokens", json={"username": shopper.user["username"], "password": secret}
    )
    client.post("/users", json={"username": "a b", "email": "x", "password": secret})
    token = shopper.user["access_token"]
    for process in suite.processes.values():
        log = process.log.read_text()
        assert secret not in log
        assert token not in log
        assert shopper.wanted["password"] not in log

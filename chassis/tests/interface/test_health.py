"""/healthz, /readyz and /metrics of a service during outages of its broker or database."""

from collections.abc import Iterator

import eventlet
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.orm import DeclarativeBase

from chassis import health
from chassis.container import Container
from chassis.db import Database
from chassis.rpc import rpc
from chassis.tests.conftest import running
from conftest import DEADLINE_S, eventually


class Base(DeclarativeBase):
    pass


class Keeper:
    """A service with a database."""

    name = "users"

    db = Database(Base)

    @rpc
    def nothing(self) -> None:
        pass


@pytest.fixture(scope="module")
def keeper(chassis_config) -> Iterator[Container]:
    container = Container(Keeper, chassis_config)
    with running(container):
        yield container


def get(path: str) -> requests.Response:
    host, port = health.serve("127.0.0.1:0").getsockname()
    return requests.get(f"http://{host}:{port}{path}", timeout=DEADLINE_S)


def readiness() -> tuple[int, dict[str, str]]:
    answer = get("/readyz")
    checks = {
        name: result
        for name, result in answer.json()["checks"].items()
        if name.startswith("users ")
    }
    return answer.status_code, checks


def test_a_started_service_is_ready(keeper) -> None:
    eventually(lambda: readiness()[0] == 200)
    assert set(readiness()[1]) == {
        "users started",
        "users broker",
        "users consumer",
        "users database",
    }


def test_a_service_without_its_database_is_alive_but_not_ready(
    keeper, superuser
) -> None:
    superuser("ALTER ROLE users NOLOGIN")
    superuser(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'users'"
    )
    try:
        eventually(
            lambda: readiness() == (503, {**readiness()[1], "users database": "away"})
        )
        assert get("/healthz").status_code == 200
    finally:
        superuser("ALTER ROLE users LOGIN")
    eventually(lambda: readiness()[0] == 200)


def test_a_service_without_its_broker_is_alive_but_not_ready(keeper, servers) -> None:
    servers.rabbitmqctl("suspend_listeners")
    try:
        eventually(lambda: readiness()[1]["users broker"] == "away")
        assert readiness()[0] == 503
        assert get("/healthz").status_code == 200
    finally:
        servers.rabbitmqctl("resume_listeners")
    eventually(lambda: readiness()[0] == 200)


def test_readyz_accepts_concurrent_requests(keeper) -> None:
    threads = [eventlet.spawn(readiness) for _ in range(10)]
    assert {thread.wait()[0] for thread in threads} == {200}


def test_metrics_include_handled_calls(keeper, rpc) -> None:
    rpc.users.nothing()
    families = {
        family.name: family
        for family in text_string_to_metric_families(get("/metrics").text)
    }
    labels = [sample.labels for sample in families["shop_worker_seconds"].samples]
    assert {"service": "users", "method": "nothing", "outcome": "done"} in labels

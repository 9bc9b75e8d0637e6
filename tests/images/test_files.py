"""Dockerfile and compose.yaml, as hadolint and docker compose read them; they need no engine."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.images.conftest import CHECKOUT
from tests.images.test_images import NAMES, SERVICES, SERVICES_WITH_TABLES, VERSION

TOOLS = CHECKOUT / ".tools" / "images" / "bin"
PROMISES = {
    "pull_policy": "build",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
}


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """compose.yaml, all anchors resolved, by docker compose itself."""
    services: dict[str, Any] = json.loads(run(str(TOOLS / "docker-compose"), "config", "--format=json"))
    return services["services"]


def test_hadolint_finds_nothing() -> None:
    assert run(str(TOOLS / "hadolint"), "--no-color", "Dockerfile") == ""


def test_compose_builds_and_hardens_what_is_ours(compose: dict[str, Any]) -> None:
    assert set(compose) == {*NAMES, "postgres", "rabbitmq"}
    for name, image in NAMES.items():
        service = compose[name]
        assert service["image"] == f"neversleeps/{image}:{VERSION}"
        assert service["build"]["target"] == name
        assert PROMISES.items() <= service.items()


def test_compose_starts_all_in_order(compose: dict[str, Any]) -> None:
    for server in ("postgres", "rabbitmq"):
        assert compose["migrations"]["depends_on"][server]["condition"] == "service_healthy"
        assert compose[server]["healthcheck"]["test"]
    for name in SERVICES:
        assert compose[name]["depends_on"]["migrations"]["condition"] == "service_completed_successfully"
        assert "http://127.0.0.1:8001/readyz" in compose[name]["healthcheck"]["test"][-1]


def test_compose_tells_each_service_of_its_own_database_alone(compose: dict[str, Any]) -> None:
    for name in SERVICES:
        own = "TOKEN_SECRET" if name == "gateway" else f"{name.upper()}_DB_URI"
        assert set(compose[name]["environment"]) == {"AMQP_URI", own}
    uris = {f"{name.upper()}_{kind}" for name in SERVICES_WITH_TABLES for kind in ("DB_URI", "DB_OWNER_URI")}
    assert set(compose["migrations"]["environment"]) == {"AMQP_URI"} | uris


def test_compose_publishes_the_gateway_alone_and_on_this_machine(compose: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in compose.items() if "ports" in service}
    assert list(published) == ["gateway"]
    [port] = published["gateway"]
    assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "8000", 8000)


def test_make_images_says_what_it_lacks(tmp_path: Path) -> None:
    for program in ("bash", "dirname", "sed"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    tried = subprocess.run(
        [CHECKOUT / "dev/images/build.sh"], env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert (tried.returncode, tried.stdout) == (1, "")
    assert tried.stderr == "images: neither docker nor buildah is here: install one of them\n"

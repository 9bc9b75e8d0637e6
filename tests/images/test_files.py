"""Dockerfile and compose.yaml, as hadolint and docker compose read them, without an engine."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from notifications.domain import LOCALES
from tests.images.conftest import CHECKOUT
from tests.images.test_images import NAMES, SERVICES, SERVICES_WITH_TABLES

TOOLS = CHECKOUT / ".tools" / "images" / "bin"
WITH_AMOUNTS = ("billing", "notifications", "gateway")
HARDENING = {
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
def project(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return compose.yaml as docker compose resolves it, with random passwords."""
    file = tmp_path_factory.mktemp("compose") / "env"
    run(str(CHECKOUT / "dev/images/passwords.sh"), str(file))
    docker_compose = (str(TOOLS / "docker-compose"), "--env-file", str(file))
    found: dict[str, Any] = json.loads(run(*docker_compose, "config", "--format=json"))
    return found


@pytest.fixture
def compose(project: dict[str, Any]) -> dict[str, Any]:
    services: dict[str, Any] = project["services"]
    return services


def test_hadolint_finds_nothing() -> None:
    assert run(str(TOOLS / "hadolint"), "--no-color", "Dockerfile") == ""


def test_compose_builds_and_hardens_the_suites_services(
    compose: dict[str, Any],
) -> None:
    assert set(compose) == {*NAMES, "postgres", "databases", "rabbitmq"}
    assert HARDENING.items() <= compose["databases"].items()
    for name, image in NAMES.items():
        service = compose[name]
        assert service["image"] == f"neversleeps/{image}:compose"
        assert service["build"]["target"] == name
        assert HARDENING.items() <= service.items()


def test_compose_starts_all_services_in_order(compose: dict[str, Any]) -> None:
    for server, first in (("postgres", "databases"), ("rabbitmq", "migrations")):
        assert compose[first]["depends_on"][server]["condition"] == "service_healthy"
        assert compose[server]["healthcheck"]["test"]
    databases = compose["migrations"]["depends_on"]["databases"]
    assert databases["condition"] == "service_completed_successfully"
    for name in SERVICES:
        migrations = compose[name]["depends_on"]["migrations"]
        assert migrations["condition"] == "service_completed_successfully"
        assert '"127.0.0.1", 8001' in compose[name]["healthcheck"]["test"][-1]


def test_compose_gives_a_service_only_its_own_database(
    compose: dict[str, Any],
) -> None:
    broker = {"AMQP_URI", "AMQP_USER_RESTRICTED"}
    for name in SERVICES:
        own = "TOKEN_SECRET" if name == "gateway" else f"{name.upper()}_DB_URI"
        amounts = {"CURRENCY"} if name in WITH_AMOUNTS else set()
        assert set(compose[name]["environment"]) == {*broker, own, *amounts}
        assert urlsplit(compose[name]["environment"]["AMQP_URI"]).username == name
    expected = {*broker, "CURRENCY"}
    for name in SERVICES_WITH_TABLES:
        expected |= {f"{name.upper()}_DB_URI", f"{name.upper()}_DB_OWNER_URI"}
    assert set(compose["migrations"]["environment"]) == expected


def test_the_images_keep_the_locales_of_letters() -> None:
    kept = re.findall(r"! -name (\w+)\.dat", (CHECKOUT / "Dockerfile").read_text())
    assert sorted(kept) == sorted(["root", *LOCALES])


def test_compose_without_passwords_names_the_script(tmp_path: Path) -> None:
    empty = tmp_path / "env"
    empty.touch()
    attempt = subprocess.run(
        [TOOLS / "docker-compose", "--env-file", empty, "config"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert attempt.returncode != 0
    assert "run dev/images/passwords.sh first" in attempt.stderr


def test_the_broker_of_compose_loads_its_users_and_permissions(
    project: dict[str, Any],
) -> None:
    configs = project["services"]["rabbitmq"]["configs"]
    files = {each["source"]: each["target"] for each in configs}
    assert files["load_definitions"].startswith("/etc/rabbitmq/conf.d/")
    loaded = project["configs"]["load_definitions"]["content"].splitlines()
    assert f"load_definitions = {files['definitions']}" in loaded
    assert project["configs"]["definitions"]["environment"] == "RABBITMQ_DEFINITIONS"


def test_compose_publishes_only_the_gateway_on_loopback(
    compose: dict[str, Any],
) -> None:
    published = [name for name, service in compose.items() if "ports" in service]
    assert published == ["gateway"]
    [port] = compose["gateway"]["ports"]
    assert port["host_ip"] == "127.0.0.1"
    assert port["published"] == "8000"
    assert port["target"] == 8000


def test_compose_creates_databases_in_the_servers_network(
    compose: dict[str, Any],
) -> None:
    """Its script is copied into the image."""
    databases = compose["databases"]
    assert databases["network_mode"] == "service:postgres"
    assert databases["environment"]["PGHOST"] == "127.0.0.1"
    assert (CHECKOUT / databases["build"]["context"] / "databases.sh").exists()
    assert "COPY --chmod=755 databases.sh " in databases["build"]["dockerfile_inline"]


BUILDER = """#!/bin/sh
[ "$1" = build ] || exit 0
printf '%s\\n' "$BUILDX_NO_DEFAULT_ATTESTATIONS" "$@" >>"$SEEN"
for word in "$@"; do
  case $word in
  id=pip-conf,src=*)
    cat "${word#id=pip-conf,src=}" >"$SEEN.conf"
    echo "$word" >"$SEEN.secret" ;;
  esac
done
"""


@pytest.mark.parametrize("builder", ["docker", "buildah"])
def test_a_private_package_index_is_in_no_layer(tmp_path: Path, builder: str) -> None:
    """Its URL may contain a password, and the history shows arguments of a build."""
    url = "https://someone:a-password@packages.example.org/simple"
    seen = build_images(
        tmp_path, builder, PIP_INDEX_URL=url, PIP_CERT="/etc/our-ca.pem"
    )
    words = seen.read_text().splitlines()
    assert words.count("--target") == len(NAMES)
    # `kind load` does not accept attestations.
    assert words[0] == "1"
    assert "a-password" not in seen.read_text()
    assert "id=pip-ca,src=/etc/our-ca.pem" in words
    settings = Path(f"{seen}.conf").read_text().splitlines()
    assert settings == ["[global]", f"index-url = {url}", "cert = /etc/pip-ca.pem"]
    secret = Path(f"{seen}.secret").read_text().strip().partition("src=")[2]
    assert not Path(secret).exists()
    dockerfile = (CHECKOUT / "Dockerfile").read_text()
    mounts = re.findall(r"--mount=type=secret,id=(\S+),target=(\S+)", dockerfile)
    assert dict(mounts) == {"pip-conf": "/etc/pip.conf", "pip-ca": "/etc/pip-ca.pem"}


def build_images(folder: Path, builder: str, **settings: str) -> Path:
    """Run `make images` with a fake builder; return the file with its arguments."""
    program = folder / builder
    program.write_text(BUILDER)
    program.chmod(0o755)
    seen = folder / "seen"
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SEEN": str(seen),
        **settings,
    }
    subprocess.run(
        [CHECKOUT / "dev/images/build.sh"],
        env=environment,
        check=True,
        capture_output=True,
    )
    return seen


def test_without_secrets_images_are_built_without_them(tmp_path: Path) -> None:
    assert "--secret" not in build_images(tmp_path, "docker").read_text().splitlines()


def test_make_images_names_the_missing_program(tmp_path: Path) -> None:
    for program in ("bash", "dirname", "sed"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    attempt = subprocess.run(
        [CHECKOUT / "dev/images/build.sh"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (attempt.returncode, attempt.stdout) == (1, "")
    message = "images: neither docker nor buildah is installed: install one of them\n"
    assert attempt.stderr == message

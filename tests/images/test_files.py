"""Dockerfile and compose.yaml, as hadolint and docker compose read them; they need no engine."""

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
def project(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """compose.yaml with random passwords, all anchors resolved, by docker compose itself."""
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


def test_compose_builds_and_hardens_what_is_ours(compose: dict[str, Any]) -> None:
    assert set(compose) == {*NAMES, "postgres", "databases", "rabbitmq"}
    assert PROMISES.items() <= compose["databases"].items()
    for name, image in NAMES.items():
        service = compose[name]
        assert service["image"] == f"neversleeps/{image}:compose"
        assert service["build"]["target"] == name
        assert PROMISES.items() <= service.items()


def test_compose_starts_all_in_order(compose: dict[str, Any]) -> None:
    for server, first in (("postgres", "databases"), ("rabbitmq", "migrations")):
        assert compose[first]["depends_on"][server]["condition"] == "service_healthy"
        assert compose[server]["healthcheck"]["test"]
    databases = compose["migrations"]["depends_on"]["databases"]
    assert databases["condition"] == "service_completed_successfully"
    for name in SERVICES:
        assert (
            compose[name]["depends_on"]["migrations"]["condition"]
            == "service_completed_successfully"
        )
        assert '"127.0.0.1", 8001' in compose[name]["healthcheck"]["test"][-1]


def test_compose_tells_each_service_of_its_own_database_alone(
    compose: dict[str, Any],
) -> None:
    broker = {"AMQP_URI", "AMQP_USER_RESTRICTED"}
    for name in SERVICES:
        own = "TOKEN_SECRET" if name == "gateway" else f"{name.upper()}_DB_URI"
        amounts = {"CURRENCY"} if name in WITH_AMOUNTS else set()
        assert set(compose[name]["environment"]) == {*broker, own, *amounts}
        assert urlsplit(compose[name]["environment"]["AMQP_URI"]).username == name
    uris = {
        f"{name.upper()}_{kind}"
        for name in SERVICES_WITH_TABLES
        for kind in ("DB_URI", "DB_OWNER_URI")
    }
    assert set(compose["migrations"]["environment"]) == {*broker, "CURRENCY"} | uris


def test_the_images_keep_the_locales_in_which_letters_are_written() -> None:
    kept = re.findall(r"! -name (\w+)\.dat", (CHECKOUT / "Dockerfile").read_text())
    assert sorted(kept) == sorted(["root", *LOCALES])


def test_compose_asks_for_passwords_first(tmp_path: Path) -> None:
    empty = tmp_path / "env"
    empty.touch()
    tried = subprocess.run(
        [TOOLS / "docker-compose", "--env-file", empty, "config"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert tried.returncode != 0
    assert "run dev/images/passwords.sh first" in tried.stderr


def test_the_broker_of_compose_loads_its_users_and_permissions(
    project: dict[str, Any],
) -> None:
    files = {
        each["source"]: each["target"]
        for each in project["services"]["rabbitmq"]["configs"]
    }
    assert files["load_definitions"].startswith("/etc/rabbitmq/conf.d/")
    loaded = project["configs"]["load_definitions"]["content"].splitlines()
    assert f"load_definitions = {files['definitions']}" in loaded
    assert project["configs"]["definitions"]["environment"] == "RABBITMQ_DEFINITIONS"


def test_compose_publishes_the_gateway_alone_and_on_this_machine(
    compose: dict[str, Any],
) -> None:
    published = {
        name: service["ports"]
        for name, service in compose.items()
        if "ports" in service
    }
    assert list(published) == ["gateway"]
    [port] = published["gateway"]
    assert (port["host_ip"], port["published"], port["target"]) == (
        "127.0.0.1",
        "8000",
        8000,
    )


def test_the_databases_of_compose_are_made_beside_the_server_by_a_copied_script(
    compose,
) -> None:
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
def test_a_package_index_of_ones_own_stands_in_no_layer(
    tmp_path: Path, builder: str
) -> None:
    """An argument of the build would be in its history. Such a URL may have a password in it."""
    (tmp_path / builder).write_text(BUILDER)
    (tmp_path / builder).chmod(0o755)
    seen = tmp_path / "seen"
    url = "https://someone:a-password@packages.example.org/simple"
    given = {
        "BUILDER": builder,
        "PIP_INDEX_URL": url,
        "PIP_CERT": "/etc/our-ca.pem",
        "SEEN": str(seen),
    }
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **given}
    subprocess.run(
        [CHECKOUT / "dev/images/build.sh"],
        env=environment,
        check=True,
        capture_output=True,
    )
    words = seen.read_text().splitlines()
    assert words.count("--target") == len(NAMES)
    assert words[0] == "1", "no attestations, for `kind load`"
    assert "a-password" not in seen.read_text()
    assert "id=pip-ca,src=/etc/our-ca.pem" in words
    settings = Path(f"{seen}.conf").read_text().splitlines()
    assert settings == ["[global]", f"index-url = {url}", "cert = /etc/pip-ca.pem"]
    secret = Path(f"{seen}.secret").read_text().strip().partition("src=")[2]
    assert not Path(secret).exists()
    mounts = re.findall(
        r"--mount=type=secret,id=(\S+),target=(\S+)",
        (CHECKOUT / "Dockerfile").read_text(),
    )
    assert dict(mounts) == {"pip-conf": "/etc/pip.conf", "pip-ca": "/etc/pip-ca.pem"}


def test_images_are_built_without_secrets_where_there_are_none(tmp_path: Path) -> None:
    (tmp_path / "docker").write_text(BUILDER)
    (tmp_path / "docker").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SEEN": str(tmp_path / "seen"),
    }
    subprocess.run(
        [CHECKOUT / "dev/images/build.sh"],
        env=environment,
        check=True,
        capture_output=True,
    )
    assert "--secret" not in (tmp_path / "seen").read_text().splitlines()


def test_make_images_says_what_it_lacks(tmp_path: Path) -> None:
    for program in ("bash", "dirname", "sed"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    tried = subprocess.run(
        [CHECKOUT / "dev/images/build.sh"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (tried.returncode, tried.stdout) == (1, "")
    assert (
        tried.stderr
        == "images: neither docker nor buildah is installed: install one of them\n"
    )

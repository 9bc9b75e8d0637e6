"""Inputs of compose.yaml: random passwords and the permissions of the broker's users."""

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from dev import broker
from dev.cli import SERVICES
from tests.proxies import DEAD_PROXY

COMPOSE = broker.CHECKOUT / "compose.yaml"
CHART = broker.CHECKOUT / "charts" / "shop"
PRODUCT = (*SERVICES, "chassis", "audit", "replay")


@contextmanager
def responding_with(status: HTTPStatus) -> Iterator[int]:
    """Run a server that responds to every request with this status. Yield its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def make(file: Path) -> dict[str, str]:
    """Return the variables that passwords.sh writes.

    CDPATH contains another folder with the same name.
    """
    other = file.parent / "other-checkout"
    (other / "dev/images").mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "CDPATH": str(other)}
    command = ["dev/images/passwords.sh", str(file)]
    subprocess.run(command, cwd=broker.CHECKOUT, env=environment, check=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    pairs = (line.split("=", 1) for line in file.read_text().splitlines())
    return {name: value.strip("'") for name, value in pairs}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "env"


def test_every_password_of_compose_is_random(file) -> None:
    made = make(file)
    required = r"\$\{(\w+):\?run dev/images/passwords.sh first\}"
    needed = set(re.findall(required, COMPOSE.read_text()))
    assert len(needed) > 10
    assert needed <= made.keys()
    optional = set(re.findall(r"\$\{(\w+)(?!\w|:\?)", COMPOSE.read_text()))
    assert optional == {"CURRENCY", "GATEWAY_PORT"}
    public = {"RABBITMQ_DEFINITIONS", "COMPOSE_PROJECT_NAME"}
    secrets = {name: value for name, value in made.items() if name not in public}
    assert len({*secrets.values()}) == len(secrets)
    assert all(re.fullmatch("[0-9a-f]{48}", secret) for secret in secrets.values())


def test_compose_contains_no_password() -> None:
    for user, password in re.findall(r"//(\w+):(.+?)@", COMPOSE.read_text()):
        variable = password[2:].partition(":")[0]
        required = f"${{{variable}:?run dev/images/passwords.sh first}}"
        assert password == required, user


def test_the_broker_loads_permissions_and_passwords(
    file,
) -> None:
    made = make(file)
    users = broker.users(broker.BUS)
    passwords = {user: made[f"{user.upper()}_AMQP_PASSWORD"] for user in users}
    wanted = broker.definitions(passwords, broker.BUS)
    found = json.loads(made["RABBITMQ_DEFINITIONS"])
    earlier = found["users"].pop()
    assert found == wanted
    assert earlier == {"name": "shop", "password_hash": "", "tags": []}, (
        "no password matches"
    )


def test_passwords_stay_and_permissions_are_updated(file) -> None:
    first = make(file)
    file.write_text(
        "".join(f"{name}={value}\n" for name, value in first.items() if name[0] != "R")
    )
    with file.open("a") as more:
        more.write("RABBITMQ_DEFINITIONS='{}'\nCOMPOSE_PROJECT_NAME=mine\n")
    assert make(file) == {**first, "COMPOSE_PROJECT_NAME": "mine"}


def test_each_checkout_has_a_project_name_that_stays(
    tmp_path: Path,
) -> None:
    names = [
        make(tmp_path / file)["COMPOSE_PROJECT_NAME"]
        for file in ("one", "other", "one")
    ]
    assert all(re.fullmatch("shop-[0-9a-f]{6}", name) for name in names)
    assert names[0] == names[2] != names[1]
    assert re.findall("^name:", COMPOSE.read_text(), re.MULTILINE) == []


def test_volumes_of_an_earlier_version_stay_in_use(file) -> None:
    file.write_text("POSTGRES_PASSWORD=of-an-earlier-version\n")
    assert make(file)["COMPOSE_PROJECT_NAME"] == "shop"


def test_all_users_of_the_compose_broker_are_restricted() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"].values()
    users = [
        each["environment"]
        for each in services
        if "AMQP_URI" in each.get("environment", {})
    ]
    assert len(users) == len((*SERVICES, broker.MIGRATIONS))
    assert {each["AMQP_USER_RESTRICTED"] for each in users} == {"true"}


def test_compose_mounts_no_file_of_the_checkout() -> None:
    """The server is another user, which may not be allowed to read a file of the checkout."""
    compose = yaml.safe_load(COMPOSE.read_text())
    mounted = [
        mount
        for service in compose["services"].values()
        for mount in service.get("volumes", [])
    ]
    assert {mount.partition(":")[0] for mount in mounted} == set(compose["volumes"])
    assert [config for config in compose["configs"].values() if "file" in config] == []
    assert "secrets" not in compose


def test_the_health_check_of_compose_bypasses_proxies() -> None:
    service = yaml.safe_load(COMPOSE.read_text())["x-service"]
    program, *arguments = service["healthcheck"]["test"][1:]
    assert program == "python"
    with (
        responding_with(HTTPStatus.OK) as ready,
        responding_with(HTTPStatus.SERVICE_UNAVAILABLE) as unavailable,
    ):
        for port, code in ((ready, 0), (unavailable, 1)):
            command = [argument.replace("8001", str(port)) for argument in arguments]
            done = subprocess.run([sys.executable, *command], env=DEAD_PROXY)
            assert done.returncode == code


def test_the_development_server_is_outside_images_compose_and_chart() -> None:
    """It kills processes. Images contain only these folders."""
    lines = (broker.CHECKOUT / ".dockerignore").read_text().splitlines()
    assert lines[lines.index("*") + 1] == "!requirements/product.lock"
    assert not any(line.startswith("!dev") for line in lines)
    sources = re.findall(
        r"^COPY (?:--from=build )?(.+) \S+$",
        (broker.CHECKOUT / "Dockerfile").read_text(),
        re.MULTILINE,
    )
    copied = {
        source.removeprefix("/app/") for line in sources for source in line.split()
    }
    assert "gateway" in copied
    assert not {source for source in copied if source.startswith("dev")}
    files = [path for path in CHART.rglob("*") if path.is_file()]
    for path in (COMPOSE, broker.CHECKOUT / "config.yaml", *files):
        text = path.read_text()
        assert not re.search(r"dev[./]page|/dev/processes|PAGE_PORT", text), path


def test_no_product_code_imports_the_development_server() -> None:
    command = ["git", "grep", "-lE", r"^\s*(from|import) dev\b", "--", *PRODUCT]
    found = subprocess.run(command, cwd=broker.CHECKOUT, capture_output=True, text=True)
    assert [path for path in found.stdout.split() if "/tests/" not in path] == []


def test_the_template_of_the_definitions_is_up_to_date() -> None:
    assert broker.TEMPLATE.read_text() == broker.template(), "make specs"

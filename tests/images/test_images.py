"""What is in the images, how they say they are run, and that the shop sells an order with them."""

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import requests
from psycopg2.extensions import parse_dsn

from conftest import SERVICES_WITH_TABLES, eventually, in_uri, loopback
from dev.broker import MIGRATIONS
from dev.servers import Servers
from tests.images.conftest import CHECKOUT
from tests.images.workshop import BASE, START_S, Container, Workshop
from tests.system.shopper import Shopper

NAMES = {
    "users": "user-service-07",
    "billing": "billing-service-07",
    "orders": "order-service-07",
    "notifications": "notification-service-07",
    "gateway": "gateway-service-07",
    "migrations": "migrations-07",
}
SERVICES = [name for name in NAMES if name != "migrations"]
CODE = {name: {name} for name in SERVICES} | {
    "migrations": {*SERVICES_WITH_TABLES, "audit", "replay"}
}
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
VERSION, LICENSE = PROJECT["version"], PROJECT["license"]
LICENSES = ("LICENSE", "NOTICE")
ENVIRONMENT = {
    "GATEWAY_HOST": "::",
    "GATEWAY_PORT": "8000",
    "HEALTH_HOST": "::",
    "HEALTH_PORT": "8001",
    "LOG_FORMAT": "json",
    "PYTHONUNBUFFERED": "1",
}
# As OpenShift chooses one: of no /etc/passwd, in the group 0.
FOREIGN = "1000650000:0"
COMPILERS = re.compile(
    r"(.*-)?(cc|c\+\+|gcc|g\+\+|clang|tcc|as|ld|make|rustc|cargo|go)(-[\d.]+)?"
)
# An image must have less than 200 MB. The Dockerfile's default base, which can't be had here, has some
# 125 MB unpacked, debootstrap's more: so what an image adds is measured.
OWN_MB = 75
LABELS = "org.opencontainers.image."
STOP_S = 10

each_image = pytest.mark.parametrize("name", NAMES)
each_service = pytest.mark.parametrize("name", SERVICES)


def reference(name: str) -> str:
    return f"neversleeps/{NAMES[name]}:{VERSION}"


def files(folder: Path) -> Iterator[Path]:
    """All files below, links not followed."""
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names)


def mb(folder: Path) -> float:
    """What the files below take, each counted once however many names it has."""
    found = [path.lstat() for path in files(folder)]
    return sum({each.st_ino: each.st_size for each in found}.values()) / 1e6


@each_image
def test_an_image_says_how_it_is_run(workshop: Workshop, name: str) -> None:
    config = workshop.config(reference(name))
    run = ["nameko", "run", "--config", "config.yaml", f"{name}.service"]
    assert config["User"] == "10001:10001"
    assert config["WorkingDir"] == "/app"
    assert config["Cmd"] == (
        ["python", "-m", "chassis.migrate"] if name == "migrations" else run
    )
    assert "Entrypoint" not in config
    assert (
        ENVIRONMENT.items()
        <= dict(line.split("=", 1) for line in config["Env"]).items()
    )
    assert set(config["ExposedPorts"]) == {"8001/tcp"} | (
        {"8000/tcp"} if name == "gateway" else set()
    )
    labels = {
        key.removeprefix(LABELS): value for key, value in config["Labels"].items()
    }
    assert labels["title"] == NAMES[name]
    assert labels["version"] == VERSION
    assert labels["base.name"] == BASE
    assert labels["licenses"] == LICENSE


def test_registry_namespace_and_tag_are_chosen_by_who_builds(
    workshop: Workshop,
) -> None:
    said = workshop.make_images(
        REGISTRY="registry.example.org", NAMESPACE="shop", TAG="rc1"
    )
    for name in NAMES.values():
        assert f"  registry.example.org/shop/{name}:rc1\n" in said
    assert (
        workshop.config("registry.example.org/shop/migrations-07:rc1")["Labels"][
            f"{LABELS}version"
        ]
        == VERSION
    )


@each_image
def test_an_image_holds_its_own_code_alone_compiled_and_not_its_own_to_change(
    workshop: Workshop, name: str
) -> None:
    app = workshop.root(reference(name)) / "app"
    assert not list(app.rglob("tests"))
    assert {path.name for path in app.iterdir()} == {
        "chassis",
        "config.yaml",
        *LICENSES,
    } | CODE[name]
    for file in LICENSES:
        assert (app / file).read_bytes() == (CHECKOUT / file).read_bytes()
    for path in files(app):
        assert path.stat().st_uid == 0
        assert path.stat().st_mode & 0o777 in (0o644, 0o755)
        if path.suffix == ".py":
            assert list(path.parent.glob(f"__pycache__/{path.stem}.*.pyc")), path


@each_image
def test_an_image_holds_neither_a_compiler_nor_what_installs(
    workshop: Workshop, name: str
) -> None:
    root = workshop.root(reference(name))
    programs = [
        path.name
        for place in ("usr/bin", "usr/local/bin", "venv/bin")
        for path in files(root / place)
    ]
    assert {"nameko", "env"} <= set(programs)
    assert not [program for program in programs if COMPILERS.fullmatch(program)]
    assert not [
        path for path in files(root / "venv") if {"pip", "tests"} & {*path.parts}
    ]
    assert not (root / "root/.cache").exists()
    assert not (root / "product.lock").exists()


@each_image
def test_an_image_is_small(
    workshop: Workshop, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, base = mb(workshop.root(reference(name))), mb(workshop.root(BASE))
    with capsys.disabled():
        print(f" {name}: {whole - base:.0f} MB on a base of {base:.0f} MB ", end="")  # noqa: T201 - the figures are wanted
    assert 10 < whole - base < OWN_MB


@each_service
def test_a_service_cannot_import_another_one(
    start: Callable[..., Container], name: str
) -> None:
    found = f"[name for name in {SERVICES} if importlib.util.find_spec(name)]"
    tried = start(
        reference(name),
        "python",
        "-c",
        f"import importlib.util, {name}.service; print({found})",
    )
    assert tried.wait() == 0, tried.says()
    assert tried.says() == f"['{name}']\n"


def test_a_container_can_write_nothing(start: Callable[..., Container]) -> None:
    """So the other tests tell the truth: nothing needs a writable folder, not even /tmp."""
    tried = start(
        reference("users"),
        "bash",
        "-c",
        "id -u; id -g; for d in / /app /tmp /dev/shm; do >$d/x; done",
    )
    assert tried.wait() == 1
    assert tried.says().startswith("10001\n10001\n")
    assert tried.says().count("Read-only file system") == 4


def test_a_foreign_user_has_neither_a_name_nor_a_home(
    start: Callable[..., Container],
) -> None:
    """Otherwise the tests as this user would not show that the suite needs neither."""
    script = "import os, pwd; print(os.getuid(), 'HOME' in os.environ); pwd.getpwuid(os.getuid())"
    tried = start(reference("users"), "python", "-c", script, user=FOREIGN)
    assert tried.wait() == 1
    assert tried.says().startswith("1000650000 False\n")
    assert "uid not found: 1000650000" in tried.says()


@pytest.fixture(scope="module")
def environment_of(servers: Servers) -> Callable[[str], dict[str, str]]:
    """The environment of a user of servers whose databases compose.yaml's script has made."""
    superuser = parse_dsn(servers.superuser_dsn())
    connection = psycopg2.connect(**superuser)
    connection.autocommit = True
    with connection.cursor() as cursor:
        for name in SERVICES_WITH_TABLES:
            for what in (f"DATABASE {name}", f"ROLE {name}", f"ROLE {name}_owner"):
                cursor.execute(f"DROP {what}")
    connection.close()
    address = {
        "PGHOST": superuser["host"],
        "PGPORT": superuser["port"],
        "PGPASSWORD": superuser["password"],
    }
    passwords = {
        f"{name.upper()}_{variable}_PASSWORD": servers.passwords[f"postgresql:{role}"]
        for name in SERVICES_WITH_TABLES
        for role, variable in ((name, "DB"), (f"{name}_owner", "DB_OWNER"))
    }
    environment = {
        **os.environ,
        **address,
        **passwords,
        "POSTGRES_PASSWORD": superuser["password"],
    }
    subprocess.run([CHECKOUT / "dev/images/databases.sh"], env=environment, check=True)
    return servers.env


def test_migrations_end_with_one_line_where_a_server_is_away(
    start: Callable[..., Container], environment_of: Callable[[str], dict[str, str]]
) -> None:
    databases = environment_of(MIGRATIONS)
    for gone in ("AMQP_URI", "USERS_DB_OWNER_URI"):
        elsewhere = re.sub(r"127.0.0.1:\d+", "127.0.0.1:1", databases[gone])
        tried = start(reference("migrations"), **{**databases, gone: elsewhere})
        assert tried.wait() == 1
        lines = [
            line
            for line in tried.says().splitlines()
            if not line.endswith(" are ready")
        ]
        assert [line.partition(": ")[0] for line in lines] == ["config.yaml"], (
            tried.says()
        )


@pytest.mark.parametrize("user", ["", FOREIGN], ids=["own user", "foreign user"])
def test_the_images_sell_an_order_and_end_on_sigterm(
    start: Callable[..., Container],
    environment_of: Callable[[str], dict[str, str]],
    servers: Servers,
    user: str,
) -> None:
    start = partial(start, user=user)
    databases = environment_of(MIGRATIONS)
    migrations = start(reference("migrations"), **databases)
    assert migrations.wait() == 0, migrations.says()
    running = {}
    for name in SERVICES:
        ports = {
            "GATEWAY_PORT" if name == "gateway" else "HEALTH_PORT": str(
                servers.ports[name]
            )
        }
        if name == "gateway":
            ports |= {"HEALTH_PORT": "0", "GATEWAY_HEALTH_PUBLIC": "true"}
            ports["TOKEN_SECRET"] = "a secret of this test's, long enough"
        running[name] = start(reference(name), **environment_of(name), **ports)
    for name, container in running.items():
        eventually(
            lambda name=name, container=container: is_ready(servers, name, container),
            START_S,
        )

    shopper = Shopper(f"http://127.0.0.1:{servers.ports['gateway']}")
    assert [
        shopper.get(path).status_code for path in ("/docs", "/docs/swagger-ui.css")
    ] == [200] * 2
    assert shopper.deposit("10.00").status_code == 201
    assert shopper.ended_order("9.99")["status"] == "paid"
    assert shopper.letters(1)[0]["kind"] == "happiness"

    commands = {
        "audit": "differences: none\n",
        "replay --dry-run": "0 already in flight\n",
        "chassis.dead list": ": 0 dead-lettered\n",
    }
    for command, end in commands.items():
        look = start(
            reference("migrations"), "python", "-m", *command.split(), **databases
        )
        assert look.wait() == 0, look.says()
        assert look.says().endswith(end)

    for container in running.values():
        container.terminate()
    codes = {name: container.wait(STOP_S) for name, container in running.items()}
    assert codes == dict.fromkeys(SERVICES, 0)
    for container in running.values():
        lines: list[dict[str, Any]] = [
            json.loads(line) for line in container.says().splitlines()
        ]
        assert lines


def is_ready(servers: Servers, name: str, container: Container) -> bool:
    assert not container.ended(), container.says()
    try:
        urls = [
            f"http://{in_uri(host)}:{servers.ports[name]}/readyz" for host in loopback()
        ]
        return {requests.get(url, timeout=10).status_code for url in urls} == {200}
    except requests.ConnectionError:
        return False


def test_the_bytecode_is_taken_whatever_the_time_of_its_source(
    workshop: Workshop,
) -> None:
    """Bit 0 without bit 1: by hash, unchecked. Nobody could write a fresh one."""
    root = workshop.root(reference("users"))
    compiled = [
        path
        for folder in ("app", "venv")
        for path in files(root / folder)
        if path.suffix == ".pyc"
    ]
    assert len(compiled) > 500
    assert {path.read_bytes()[4] for path in compiled} == {1}

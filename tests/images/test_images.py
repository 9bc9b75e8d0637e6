"""The content of the images, their settings, and an order that they sell."""

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

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
# A user as OpenShift chooses it: without an entry in /etc/passwd, in group 0.
FOREIGN = "1000650000:0"
COMPILERS = re.compile(
    r"(.*-)?(cc|c\+\+|gcc|g\+\+|clang|tcc|as|ld|make|rustc|cargo|go)(-[\d.]+)?"
)
# An image must have less than 200 MB. The Dockerfile's default base has some 125 MB unpacked. It is
# not available here, and debootstrap's base is larger. Therefore the test measures only the size on
# top of the base.
MAX_OWN_MB = 75
LABELS = "org.opencontainers.image."
STOP_S = 10

each_image = pytest.mark.parametrize("name", NAMES)
each_service = pytest.mark.parametrize("name", SERVICES)


def reference(name: str) -> str:
    return f"neversleeps/{NAMES[name]}:{VERSION}"


def files(folder: Path) -> Iterator[Path]:
    """Yield all files in a folder, without following links."""
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names)


def mb(folder: Path) -> float:
    """Return the size of the files in a folder in MB. A file with several links counts once."""
    found = [path.lstat() for path in files(folder)]
    return sum({each.st_ino: each.st_size for each in found}.values()) / 1e6


@each_image
def test_an_image_has_its_settings_and_labels(workshop: Workshop, name: str) -> None:
    config = workshop.config(reference(name))
    command = ["nameko", "run", "--config", "config.yaml", f"{name}.service"]
    ports = {"8001/tcp"}
    if name == "migrations":
        command = ["python", "-m", "chassis.migrate"]
    if name == "gateway":
        ports.add("8000/tcp")
    assert config["User"] == "10001:10001"
    assert config["WorkingDir"] == "/app"
    assert config["Cmd"] == command
    assert "Entrypoint" not in config
    environment = dict(line.split("=", 1) for line in config["Env"])
    assert ENVIRONMENT.items() <= environment.items()
    assert set(config["ExposedPorts"]) == ports
    given = config["Labels"].items()
    labels = {key.removeprefix(LABELS): value for key, value in given}
    assert labels["title"] == NAMES[name]
    assert labels["version"] == VERSION
    assert labels["base.name"] == BASE
    assert labels["licenses"] == LICENSE


def test_a_build_can_choose_registry_namespace_and_tag(workshop: Workshop) -> None:
    registry = "registry.example.org"
    output = workshop.make_images(REGISTRY=registry, NAMESPACE="shop", TAG="rc1")
    for name in NAMES.values():
        assert f"  registry.example.org/shop/{name}:rc1\n" in output
    config = workshop.config("registry.example.org/shop/migrations-07:rc1")
    assert config["Labels"][f"{LABELS}version"] == VERSION


@each_image
def test_an_image_contains_only_its_own_compiled_read_only_code(
    workshop: Workshop, name: str
) -> None:
    app = workshop.root(reference(name)) / "app"
    assert not list(app.rglob("tests"))
    expected = {"chassis", "config.yaml", *LICENSES, *CODE[name]}
    assert {path.name for path in app.iterdir()} == expected
    for file in LICENSES:
        assert (app / file).read_bytes() == (CHECKOUT / file).read_bytes()
    for path in files(app):
        assert path.stat().st_uid == 0
        assert path.stat().st_mode & 0o777 in (0o644, 0o755)
        if path.suffix == ".py":
            assert list(path.parent.glob(f"__pycache__/{path.stem}.*.pyc")), path


@each_image
def test_an_image_contains_no_compiler_and_no_installer(
    workshop: Workshop, name: str
) -> None:
    root = workshop.root(reference(name))
    folders = ("usr/bin", "usr/local/bin", "venv/bin")
    programs = {path.name for folder in folders for path in files(root / folder)}
    assert {"nameko", "env"} <= programs
    assert not [program for program in programs if COMPILERS.fullmatch(program)]
    for path in files(root / "venv"):
        assert not {"pip", "tests"} & {*path.parts}, path
    assert not (root / "root/.cache").exists()
    assert not (root / "product.lock").exists()


@each_image
def test_an_image_is_small(
    workshop: Workshop, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = mb(workshop.root(BASE))
    own = mb(workshop.root(reference(name))) - base
    with capsys.disabled():
        figure = f" {name}: {own:.0f} MB on a base of {base:.0f} MB "
        print(figure, end="")  # noqa: T201 - a figure for the reader
    assert 10 < own < MAX_OWN_MB


@each_service
def test_a_service_cannot_import_another_one(
    start: Callable[..., Container], name: str
) -> None:
    found = f"[name for name in {SERVICES} if importlib.util.find_spec(name)]"
    script = f"import importlib.util, {name}.service; print({found})"
    container = start(reference(name), "python", "-c", script)
    assert container.wait() == 0, container.output()
    assert container.output() == f"['{name}']\n"


def test_a_container_can_write_nothing(start: Callable[..., Container]) -> None:
    """Therefore the other tests show that nothing needs a writable folder, even /tmp."""
    script = "id -u; id -g; for d in / /app /tmp /dev/shm; do >$d/x; done"
    container = start(reference("users"), "bash", "-c", script)
    assert container.wait() == 1
    assert container.output().startswith("10001\n10001\n")
    assert container.output().count("Read-only file system") == 4


def test_a_foreign_user_has_neither_a_name_nor_a_home(
    start: Callable[..., Container],
) -> None:
    """The tests as this user show that the suite needs neither."""
    script = (
        "import os, pwd; "
        "print(os.getuid(), 'HOME' in os.environ); "
        "pwd.getpwuid(os.getuid())"
    )
    container = start(reference("users"), "python", "-c", script, user=FOREIGN)
    assert container.wait() == 1
    assert container.output().startswith("1000650000 False\n")
    assert "uid not found: 1000650000" in container.output()


@pytest.fixture(scope="module")
def environment_of(servers: Servers) -> Callable[[str], dict[str, str]]:
    """Create the databases by compose.yaml's script.

    Return a function from a user of the broker to its environment.
    """
    superuser = parse_dsn(servers.superuser_dsn())
    connection = psycopg2.connect(**superuser)
    connection.autocommit = True
    passwords = {}
    with connection.cursor() as cursor:
        for name in SERVICES_WITH_TABLES:
            cursor.execute(f"DROP DATABASE {name}")
            for role, variable in ((name, "DB"), (f"{name}_owner", "DB_OWNER")):
                cursor.execute(f"DROP ROLE {role}")
                password = servers.passwords[f"postgresql:{role}"]
                passwords[f"{name.upper()}_{variable}_PASSWORD"] = password
    connection.close()
    environment = {
        **os.environ,
        "PGHOST": superuser["host"],
        "PGPORT": superuser["port"],
        "PGPASSWORD": superuser["password"],
        "POSTGRES_PASSWORD": superuser["password"],
        **passwords,
    }
    subprocess.run([CHECKOUT / "dev/images/databases.sh"], env=environment, check=True)
    return servers.env


def test_migrations_end_with_one_line_if_a_server_is_unavailable(
    start: Callable[..., Container], environment_of: Callable[[str], dict[str, str]]
) -> None:
    environment = environment_of(MIGRATIONS)
    for variable in ("AMQP_URI", "USERS_DB_OWNER_URI"):
        closed = re.sub(r"127.0.0.1:\d+", "127.0.0.1:1", environment[variable])
        container = start(reference("migrations"), **{**environment, variable: closed})
        assert container.wait() == 1
        output = container.output()
        lines = [
            line for line in output.splitlines() if not line.endswith(" are ready")
        ]
        assert [line.partition(": ")[0] for line in lines] == ["config.yaml"], output


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
    assert migrations.wait() == 0, migrations.output()
    running = {}
    for name in SERVICES:
        settings = {"HEALTH_PORT": str(servers.ports[name])}
        if name == "gateway":
            settings = {
                "GATEWAY_PORT": str(servers.ports[name]),
                "HEALTH_PORT": "0",
                "GATEWAY_HEALTH_PUBLIC": "true",
                "TOKEN_SECRET": "a secret of this test's, long enough",
            }
        running[name] = start(reference(name), **environment_of(name), **settings)
    for name, container in running.items():
        eventually(partial(is_ready, servers, name, container), START_S)

    shopper = Shopper(f"http://127.0.0.1:{servers.ports['gateway']}")
    for path in ("/", "/page/app.js", "/docs", "/docs/swagger-ui.css"):
        assert shopper.get(path).status_code == 200
    assert shopper.deposit("10.00").status_code == 201
    assert shopper.ended_order("9.99")["status"] == "paid"
    assert shopper.letters(1)[0]["kind"] == "happiness"

    commands = {
        "audit": "differences: none\n",
        "replay --dry-run": "0 already in flight\n",
        "chassis.dead list": ": 0 dead-lettered\n",
    }
    for command, end in commands.items():
        module = ("python", "-m", *command.split())
        job = start(reference("migrations"), *module, **databases)
        assert job.wait() == 0, job.output()
        assert job.output().endswith(end)

    for container in running.values():
        container.terminate()
    codes = {name: container.wait(STOP_S) for name, container in running.items()}
    assert codes == dict.fromkeys(SERVICES, 0)
    for container in running.values():
        lines = [json.loads(line) for line in container.output().splitlines()]
        assert lines


def is_ready(servers: Servers, name: str, container: Container) -> bool:
    assert not container.ended(), container.output()
    port = servers.ports[name]
    urls = [f"http://{in_uri(host)}:{port}/readyz" for host in loopback()]
    try:
        return {requests.get(url, timeout=10).status_code for url in urls} == {200}
    except requests.ConnectionError:
        return False


def test_bytecode_is_used_without_comparing_times(workshop: Workshop) -> None:
    """The flags have bit 0 and not bit 1 (PEP 552): validation by hash, unchecked.

    A read-only container could not write fresh bytecode.
    """
    root = workshop.root(reference("users"))
    found = [path for folder in ("app", "venv") for path in files(root / folder)]
    compiled = [path for path in found if path.suffix == ".pyc"]
    assert len(compiled) > 500
    assert {path.read_bytes()[4] for path in compiled} == {1}

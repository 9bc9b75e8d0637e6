"""The sixth service of docs/adding-a-service.md, made by following it in a copy of this repository."""

import doctest
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest
import requests
import yaml
from nameko.standalone.rpc import ClusterRpcProxy

from conftest import eventually
from dev.cli import QUIET, Suite
from tests.chart.environment import data
from tests.chart.helm import NAMESPACE, NEWEST, RELEASE, helm
from tests.docs.markdown import ROOT, Block, blocks
from tests.mutants import Change, copy_to
from tests.system.shopper import Shopper

STEPS = blocks(ROOT / "docs" / "adding-a-service.md")
[SESSION] = [step for step in STEPS if ">>> " in step.text]
TEXTS = {
    "README.md",
    "CHANGELOG.md",
    "charts/shop/README.md",
    "charts/shop/files/shop.postman_collection.json",
    "charts/shop/files/bus.yaml",  # made by `make specs`
    "charts/shop/files/bus-previous.yaml",
    "dev/images/definitions.json",
}
BIN = Path(sys.executable).parent
TIMEOUT_S = 300
START_S = 90


def follow(step: Block, root: Path) -> None:
    """Write the file that the block is, or change the lines that it shows."""
    path = root / step.path
    if step.language == "diff":
        sides = {" -": "", " +": ""}
        for line in step.text.splitlines(keepends=True):
            for side in sides:
                sides[side] += line[1:] if line[0] in side else ""
        Change(step.path, sides[" -"], sides[" +"]).apply(root)
    else:
        assert not path.exists(), f"{step} would overwrite {step.path}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(step.text)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with a sixth service."""
    root = copy_to(tmp_path_factory.mktemp("sixth"))
    (root / ".tools").symlink_to(ROOT / ".tools")
    if (ROOT / ".mypy_cache").exists():  # mypy need not read the libraries again
        shutil.copytree(ROOT / ".mypy_cache", root / ".mypy_cache")
    for step in STEPS:
        if step.path:
            follow(step, root)
    for made in ("dev.specs.asyncapi", "dev.bus"):  # what `make specs` does
        subprocess.run(
            [BIN / "python", "-W", "ignore", "-m", made],
            cwd=root,
            check=True,
            timeout=TIMEOUT_S,
        )
    return root


def test_every_step_names_its_file() -> None:
    """What has none is the SQL for a server of one's own, and the terminal at the end."""
    assert {step.language for step in STEPS if not step.path} == {"sql", ""}


def test_each_file_that_names_all_services_is_told_of() -> None:
    """But for what is about the five: tests, what measures and breaks them, clients and their document."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    folders = "tests|audit|bench|docs|gateway|notifications|postman|replay|specs"
    about_the_five = re.compile(rf"(.*/)?({folders})/")
    others = [name for name in listed.stdout.split() if not about_the_five.match(name)]
    naming = {name for name in others if names_all(ROOT / name)} - TEXTS
    changed = {step.path for step in STEPS if step.language == "diff"}
    assert naming == {name for name in changed if not about_the_five.match(name)}


def names_all(path: Path) -> bool:
    text = path.read_text(errors="ignore") if path.exists() else ""
    return all(
        re.search(rf"\b{name}\b", text)
        for name in ("users", "billing", "orders", "notifications")
    )


@pytest.mark.parametrize(
    "command",
    [
        "lint-imports",
        "ruff check points",
        "ruff format --check points",
        "mypy --package points",
        "python dev/size.py users billing orders notifications points gateway chassis",
        "pytest -q points chassis/tests/interface/test_migrations.py::test_migrations_equal_models",
    ],
)
def test_linters_and_tests_pass_over_the_copy(copy: Path, command: str) -> None:
    program, *arguments = command.split()
    done = subprocess.run(
        [BIN / program, *arguments],
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def chart(copy: Path) -> list[dict[str, Any]]:
    """What helm makes of the copy's chart, for a broker that is there."""
    values = [
        "rabbitmq.enabled=false",
        "externalRabbitmq.host=localhost",
        "externalRabbitmq.makeDefinitions=true",
    ]
    arguments = [part for value in values for part in ("--set", value)]
    told = helm(
        NEWEST,
        "template",
        RELEASE,
        copy / "charts" / "shop",
        "--namespace",
        NAMESPACE,
        *arguments,
    )
    return [each for each in yaml.safe_load_all(told) if each]


def test_the_chart_deploys_it(chart: list[dict[str, Any]]) -> None:
    deployed = {
        each["metadata"]["name"] for each in chart if each["kind"] == "Deployment"
    }
    assert "shop-points" in deployed
    [migrations] = [each for each in chart if each["kind"] == "Job"]
    assert "POINTS_DB_OWNER_URI" in json.dumps(migrations)


def test_the_document_of_the_bus_tells_of_it(copy: Path) -> None:
    operations = yaml.safe_load((copy / "docs" / "asyncapi.yaml").read_text())[
        "operations"
    ]
    assert {"points.balance", "points.handle_order_paid"} <= operations.keys()


def test_compose_and_the_images_know_it(copy: Path) -> None:
    assert "points" in yaml.safe_load((copy / "compose.yaml").read_text())["services"]
    assert "FROM runtime AS points\n" in (copy / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def database(suite: Suite) -> dict[str, str]:
    """The variables that name its database, made as the document says."""
    [sql] = [step.text for step in STEPS if step.language == "sql"]
    connection = psycopg2.connect(suite.servers.superuser_dsn())
    connection.autocommit = True
    with connection.cursor() as cursor:
        for statement in sql.split(";")[:-1]:
            cursor.execute(statement)
    connection.close()
    place = f"127.0.0.1:{suite.ports['postgresql']}/points"
    return {
        "POINTS_DB_URI": f"postgresql+psycopg2://points:points@{place}",
        "POINTS_DB_OWNER_URI": f"postgresql+psycopg2://points_owner:points_owner@{place}",
    }


@pytest.fixture(scope="module")
def broker(suite: Suite, chart: list[dict[str, Any]]) -> dict[str, str]:
    """The variable that names the broker, for the user that the chart makes for it."""
    secret = data(chart, "Secret", "shop-rabbitmq")
    assert secret is not None
    definitions = json.loads(secret["definitions.json"])
    for kind, key in (
        ("users", "name"),
        ("permissions", "user"),
        ("topic_permissions", "user"),
    ):
        definitions[kind] = [
            each for each in definitions[kind] if each[key] == "points"
        ]
    file = suite.servers.state / "rabbitmq" / "definitions.json"
    file.write_text(json.dumps(definitions))
    suite.servers.rabbitmqctl("import_definitions", str(file))
    place = f"127.0.0.1:{suite.ports['rabbitmq']}"
    return {"AMQP_URI": f"amqp://points:{secret['points-password']}@{place}/"}


@pytest.fixture(scope="module")
def points(
    copy: Path,
    variables: dict[str, str],
    suite: Suite,
    database: dict[str, str],
    broker: dict[str, str],
) -> Iterator[str]:
    """The URL at which the sixth service tells its health: migrated, running, ready."""
    environment = {
        **variables,
        **QUIET,
        **suite.env(),
        **database,
        "LOG_FORMAT": "json",
    }
    migrate = [BIN / "python", "-m", "chassis.migrate", "points"]
    subprocess.run(migrate, cwd=copy, env=environment, check=True, timeout=TIMEOUT_S)
    log = copy / "points.log"
    with log.open("w") as output:
        running = subprocess.Popen(
            [
                "setpriv",
                "--pdeathsig",
                "TERM",
                BIN / "nameko",
                "run",
                "--config",
                "config.yaml",
                "points.service",
            ],
            cwd=copy,
            env=environment | broker,
            stdout=output,
            stderr=output,
        )
    try:
        told = eventually(
            lambda: "readyz" in log.read_text() and log.read_text(), START_S
        )
        [url] = [
            line["url"] for line in map(json.loads, told.splitlines()) if "url" in line
        ]
        eventually(lambda: requests.get(url, timeout=10).ok, START_S)
        yield url
    finally:
        running.terminate()
        running.wait(timeout=60)


def test_it_runs_beside_the_others_and_an_order_earns_points(
    suite: Suite, points: str
) -> None:
    shopper = Shopper(suite.url)
    shopper.deposit("100.00")
    shopper.ended_order("30.10")  # paid
    shopper.ended_order("99.00")  # rejected: too little money
    with ClusterRpcProxy({"AMQP_URI": suite.env()["AMQP_URI"]}, timeout=20) as rpc:
        eventually(
            lambda: (
                rpc.points.balance(user_id=shopper.id) == {"points": 30, "orders": 1}
            )
        )
        time.sleep(0.5)
        assert rpc.points.balance(user_id=shopper.id) == {"points": 30, "orders": 1}
        assert rpc.points.balance(user_id="x")["status"] == "invalid"
        [example] = doctest.DocTestParser().get_examples(SESSION.text)
        assert (
            f"{eval(example.source, {'n': SimpleNamespace(rpc=rpc)})}\n" == example.want
        )
    assert requests.get(points, timeout=10).json()["status"] == "ready"

"""Follows docs/adding-a-service.md in a copy of this repository, and runs the new service."""

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
from tests.mutants import copy_to
from tests.mutation import ReplaceInFile
from tests.system.shopper import Shopper

STEPS = blocks(ROOT / "docs" / "adding-a-service.md")
[SESSION] = [step for step in STEPS if ">>> " in step.text]
# Files that name all services and need no change by hand: texts, and files that commands write.
UNCHANGED = {
    "README.md",
    "CHANGELOG.md",
    "charts/shop/README.md",
    "charts/shop/files/shop.postman_collection.json",
    "charts/shop/files/bus.yaml",
    "charts/shop/files/bus-previous.yaml",
    "dev/images/definitions.json",
    "dev/style_report.py",  # compares the five services in two revisions
}
BIN = Path(sys.executable).parent
TIMEOUT_S = 300
START_S = 90


def follow(step: Block, root: Path) -> None:
    """Apply the diff in the block, or write the block as a new file."""
    path = root / step.path
    if step.language == "diff":
        lines = step.text.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] in " -")
        new = "".join(line[1:] for line in lines if line[0] in " +")
        ReplaceInFile(step.path, old, new).apply(root)
    else:
        assert not path.exists(), f"{step} would overwrite {step.path}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(step.text)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the repository with a sixth service."""
    root = copy_to(tmp_path_factory.mktemp("sixth"))
    (root / ".tools").symlink_to(ROOT / ".tools")
    # With the cache, mypy need not read the libraries again.
    if (ROOT / ".mypy_cache").exists():
        shutil.copytree(ROOT / ".mypy_cache", root / ".mypy_cache")
    for step in STEPS:
        if step.path:
            follow(step, root)
    # The commands of `make specs`.
    for module in ("dev.specs.asyncapi", "dev.bus"):
        command = [BIN / "python", "-W", "ignore", "-m", module]
        subprocess.run(command, cwd=root, check=True, timeout=TIMEOUT_S)
    return root


def test_every_step_names_its_file() -> None:
    """The exceptions are the SQL for an existing server, and the terminal at the end."""
    assert {step.language for step in STEPS if not step.path} == {"sql", ""}


def test_the_steps_change_each_file_that_names_all_services() -> None:
    """Some folders are about the five services only: tests, benchmark, chaos, clients."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    folders = "tests|audit|bench|docs|gateway|notifications|postman|replay|specs"
    about_the_five = re.compile(rf"(.*/)?({folders})/")
    others = [name for name in listed.stdout.split() if not about_the_five.match(name)]
    naming = {name for name in others if names_all(ROOT / name)} - UNCHANGED
    changed = {step.path for step in STEPS if step.language == "diff"}
    assert naming == {name for name in changed if not about_the_five.match(name)}


def names_all(path: Path) -> bool:
    text = path.read_text(errors="ignore") if path.exists() else ""
    services = ("users", "billing", "orders", "notifications")
    return all(re.search(rf"\b{name}\b", text) for name in services)


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
def test_linters_and_tests_pass_in_the_copy(copy: Path, command: str) -> None:
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
    """Return the objects of the copy's chart, for an existing broker."""
    values = [
        "rabbitmq.enabled=false",
        "externalRabbitmq.host=localhost",
        "externalRabbitmq.makeDefinitions=true",
    ]
    folder = copy / "charts" / "shop"
    options = ("--namespace", NAMESPACE, "--set", ",".join(values))
    manifest = helm(NEWEST, "template", RELEASE, folder, *options)
    return [each for each in yaml.safe_load_all(manifest) if each]


def test_the_chart_deploys_it(chart: list[dict[str, Any]]) -> None:
    deployments = [each for each in chart if each["kind"] == "Deployment"]
    assert "shop-points" in {each["metadata"]["name"] for each in deployments}
    [migrations] = [each for each in chart if each["kind"] == "Job"]
    assert "POINTS_DB_OWNER_URI" in json.dumps(migrations)


def test_the_asyncapi_document_describes_it(copy: Path) -> None:
    document = yaml.safe_load((copy / "docs" / "asyncapi.yaml").read_text())
    operations = document["operations"].keys()
    assert {"points.balance", "points.handle_order_paid"} <= operations


def test_compose_and_the_images_contain_it(copy: Path) -> None:
    assert "points" in yaml.safe_load((copy / "compose.yaml").read_text())["services"]
    assert "FROM runtime AS points\n" in (copy / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def database(suite: Suite) -> dict[str, str]:
    """Create its database as the document says; return the variables with its URIs."""
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
    """Import the chart's definitions of its user; return the variable with its URI."""
    secret = data(chart, "Secret", "shop-rabbitmq")
    assert secret is not None
    definitions = json.loads(secret["definitions.json"])
    names = {"users": "name", "permissions": "user", "topic_permissions": "user"}
    for kind, key in names.items():
        own = [each for each in definitions[kind] if each[key] == "points"]
        definitions[kind] = own
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
    """Migrate and run the sixth service; return the URL of its readiness."""
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
    # The service ends with the tests.
    command = ["setpriv", "--pdeathsig", "TERM", BIN / "nameko"]
    command += ["run", "--config", "config.yaml", "points.service"]
    with log.open("w") as output:
        running = subprocess.Popen(
            command,
            cwd=copy,
            env=environment | broker,
            stdout=output,
            stderr=output,
        )
    try:
        eventually(lambda: "readyz" in log.read_text(), START_S)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        [url] = [line["url"] for line in lines if "url" in line]
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
    shopper.ended_order("30.10")
    # Rejected, because there is not enough money. It earns no points.
    shopper.ended_order("99.00")
    earned = {"points": 30, "orders": 1}
    with ClusterRpcProxy({"AMQP_URI": suite.env()["AMQP_URI"]}, timeout=20) as rpc:
        eventually(lambda: rpc.points.balance(user_id=shopper.id) == earned)
        time.sleep(0.5)
        assert rpc.points.balance(user_id=shopper.id) == earned
        assert rpc.points.balance(user_id="x")["status"] == "invalid"
        [example] = doctest.DocTestParser().get_examples(SESSION.text)
        result = eval(example.source, {"n": SimpleNamespace(rpc=rpc)})
        assert f"{result}\n" == example.want
    assert requests.get(points, timeout=10).json()["status"] == "ready"

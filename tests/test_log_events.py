"""Each log line of the product is a named event, and docs/operations.md lists all names.

Tests and documents refer to these names only, so a name that does not exist is an error there too.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dev.broker import CHECKOUT

PARTS = (
    "users",
    "billing",
    "orders",
    "notifications",
    "gateway",
    "chassis",
    "audit",
    "replay",
)
LEVELS = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "exception": "error",
    "critical": "critical",
}
NAME = re.compile(r"[a-z]+(_[a-z]+)*")
TABLE = "## Log events"
OPERATIONS = CHECKOUT / "docs" / "operations.md"
DOCUMENTS = [CHECKOUT / "README.md", *sorted(CHECKOUT.glob("docs/**/*.md"))]
# Names of other programs in the documents.
FOREIGN = {
    # PgBouncer, PostgreSQL and SQLAlchemy
    *("default_pool_size", "ignore_startup_parameters", "server_lifetime"),
    *("pg_wal", "pg_db_role_setting", "xact_start", "sql_standard", "bytea_output"),
    *("extra_float_digits", "lc_messages", "idle_session_timeout", "row_security"),
    *("standard_conforming_strings", "transaction_timeout", "pool_pre_ping"),
    # rabbitmqctl, Prometheus and Linux
    *("set_permissions", "set_topic_permissions", "set_user_limits"),
    *("process_cpu_seconds_total", "process_resident_memory_bytes", "pipe_write"),
}


@dataclass(frozen=True)
class LogCall:
    """A call of a method of `log`."""

    place: str
    part: str
    name: ast.expr | None
    levels: frozenset[str]


def product_files() -> list[Path]:
    files = [file for part in PARTS for file in (CHECKOUT / part).rglob("*.py")]
    return [file for file in files if "tests" not in file.relative_to(CHECKOUT).parts]


def log_calls(file: Path) -> Iterator[LogCall]:
    """Yield the calls such as `log.info(name)` and `log.log(level, name)`."""
    path = file.relative_to(CHECKOUT)
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(ast.Name("log"), method), args=arguments):
                is_fixed = method in LEVELS
                levels = (
                    {LEVELS[method]} if is_fixed else set(_levels(arguments[0], tree))
                )
                assert levels, f"{path}:{node.lineno}: the level is unknown"
                index = 0 if is_fixed else 1
                name = arguments[index] if len(arguments) > index else None
                place = f"{path}:{node.lineno}"
                yield LogCall(place, path.parts[0], name, frozenset(levels))


def _levels(expression: ast.expr, tree: ast.Module) -> Iterator[str]:
    """Yield the levels in an expression such as `logging.DEBUG`, or in a variable's value."""
    for node in ast.walk(expression):
        match node:
            case ast.Attribute(ast.Name("logging"), level) if level.lower() in LEVELS:
                yield level.lower()
            case ast.Name(variable) if variable != "logging":
                for assigned in ast.walk(tree):
                    match assigned:
                        case ast.Assign([ast.Name(target)], value) if (
                            target == variable
                        ):
                            yield from _levels(value, tree)


CALLS = [call for file in product_files() for call in log_calls(file)]
NAMES = {call.name.value for call in CALLS if isinstance(call.name, ast.Constant)}


def table() -> dict[str, tuple[str, str]]:
    """Return the levels and the services of each event in docs/operations.md."""
    section = OPERATIONS.read_text().partition(f"\n{TABLE}\n")[2].partition("\n## ")[0]
    rows = re.findall(
        r"^\| `(\w+)` \| ([\w, ]+) \| ([\w, ]+) \|", section, re.MULTILINE
    )
    assert len({name for name, _, _ in rows}) == len(rows), "an event is listed twice"
    return {name: (levels, services) for name, levels, services in rows}


def test_each_log_call_has_a_literal_name() -> None:
    assert len(CALLS) > 30
    for call in CALLS:
        assert isinstance(call.name, ast.Constant), call.place
        assert NAME.fullmatch(str(call.name.value)), call.place


def test_each_logger_is_named_log() -> None:
    """Otherwise its calls would not be found here."""
    for file in product_files():
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Assign(targets=[target], value=value) if (
                    "getLogger" in ast.dump(value)
                ):
                    assert ast.unparse(target) == "log", file
                case ast.Call(func=ast.Attribute(ast.Name("logging"), method)):
                    assert method not in {*LEVELS, "log"}, file


def test_the_table_lists_each_event_with_its_levels() -> None:
    levels = {
        name: {
            level
            for call in CALLS
            if isinstance(call.name, ast.Constant) and call.name.value == name
            for level in call.levels
        }
        for name in NAMES
    }
    assert {name: ", ".join(sorted(found)) for name, found in levels.items()} == {
        name: found for name, (found, _) in table().items()
    }


def test_the_table_names_the_service_of_each_event() -> None:
    for call in CALLS:
        if call.part != "chassis" and isinstance(call.name, ast.Constant):
            services = table()[str(call.name.value)][1].split(", ")
            assert call.part in services, call.place


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_each_name_in_a_document_exists(document: Path, known_names: set[str]) -> None:
    """The documents quote names of events, metrics, settings and so on. None may be outdated."""
    quoted = re.findall(r"`(?!test_)([a-z]+(?:_[a-z]+)+)`", document.read_text())
    assert set(quoted) - FOREIGN - known_names == set()


@pytest.fixture(scope="module")
def known_names() -> set[str]:
    """Return all words in the files of the project, without those of test modules and documents."""
    names: set[str] = set()
    for file in project_files("*.py", "*.yaml", "*.ini", "*.toml", "*.sh", "Makefile"):
        if not file.name.startswith("test_"):
            names.update(re.findall(r"\w+", file.read_text()))
    return names


def test_each_name_in_a_test_exists() -> None:
    """Otherwise a test that expects no such event would always pass."""
    found = {
        name for file in project_files("*/test_*.py") for name in expected_events(file)
    }
    assert len(found) > 5
    assert found <= NAMES


def expected_events(file: Path) -> Iterator[str]:
    """Yield the names that a test compares with log lines."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Compare) and "caplog" in ast.unparse(node):
            constants = [
                each for each in ast.walk(node) if isinstance(each, ast.Constant)
            ]
            texts = [str(constant.value) for constant in constants]
            yield from (text for text in texts if NAME.fullmatch(text) and "_" in text)


def project_files(*patterns: str) -> list[Path]:
    """Return the tracked files whose names match a pattern."""
    command = ["git", "ls-files", "-z", *patterns]
    listed = subprocess.check_output(command, cwd=CHECKOUT, text=True)
    files = [CHECKOUT / name for name in listed.split("\0") if name]
    return [file for file in files if file.exists()]

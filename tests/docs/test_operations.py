"""Runs the commands of docs/operations.md in their order on a running suite."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import kombu
import pytest
import requests
import yaml

from conftest import eventually
from dev.cli import SERVICES, Suite
from tests.docs.conftest import Terminal
from tests.docs.markdown import DOCUMENTS, ROOT, blocks
from tests.system.shopper import Shopper

FILE = ROOT / "docs" / "operations.md"
HEALTH, STATUSES, REQUEST_ID, DEAD_LETTER, BACKUP, RESTORE, REPLAY, OLDER_ORDERS = (
    block.text for block in blocks(FILE) if block.language == "bash"
)
QUEUE = "evt-orders-order_paid--notifications.handle_order_paid"
PROMETHEUS_OWN = {"up": {"job"}}


def buy(suite: Suite) -> None:
    """Sign a user up, place a paid and a rejected order, and wait for both letters."""
    shopper = Shopper(suite.url)
    shopper.deposit("100.00")
    assert shopper.ended_order("30.10")["status"] == "paid"
    assert shopper.ended_order("99.00")["status"] == "rejected"
    shopper.letters(2)


def fail_a_request(suite: Suite) -> None:
    """Make a request of the gateway fail, because billing is unavailable."""
    shopper = Shopper(suite.url)
    suite.supervisor.halt("billing")
    assert shopper.get("/account").status_code == 504
    suite.supervisor.start("billing")
    eventually(suite.ready)


def clean_outbox(terminal: Terminal, name: str) -> None:
    """Delete all sent events from the outbox of a service, as it does in the long run."""
    delete = '-c "DELETE FROM outbox WHERE sent_at IS NOT NULL"'
    command = f'psql -qAt {delete} -c "SELECT count(*) FROM outbox" $(owner {name})'
    eventually(lambda: terminal.run(command) == "0\n")


@dataclass
class Operated:
    """The output of an operator's commands, by block, and a terminal to run more."""

    terminal: Terminal
    printed: dict[str, str]
    metrics: str


@pytest.fixture(scope="module")
def operated(suite: Suite, variables: dict[str, str]) -> Operated:
    """Run all blocks: checks, a dead letter, backups, a restore and a replay.

    Databases are restored to different times. A replay makes them consistent.
    """
    terminal = Terminal(variables)
    printed = {}
    buy(suite)
    fail_a_request(suite)
    for block in (HEALTH, STATUSES, REQUEST_ID):
        printed[block] = terminal.run(block)
    with kombu.Connection(suite.env()["AMQP_URI"]) as connection:
        connection.Producer().publish(
            b"{", routing_key=QUEUE, content_type="application/json"
        )
    eventually(lambda: f"{QUEUE}: 1 dead-lettered" in terminal.run("make dead"))
    printed[DEAD_LETTER] = terminal.run(DEAD_LETTER)
    eventually(lambda: f"{QUEUE}: 1 dead-lettered" in terminal.run("make dead"))
    metrics = "".join(
        requests.get(url(suite, name), timeout=10).text for name in SERVICES
    )
    terminal.run(f"{BACKUP}BEFORE=$BACKUP")
    # The restore loses these letters. Only the tables still contain their events.
    buy(suite)
    clean_outbox(terminal, "users")
    clean_outbox(terminal, "orders")
    # The restore loses these letters too. The outbox still contains their events.
    buy(suite)
    terminal.run(BACKUP)
    # The restore loses these orders.
    buy(suite)
    terminal.run("make down\nmake migrate")
    terminal.run(f"{RESTORE}BACKUP=$BEFORE restore notifications\nrestore orders")
    terminal.run("make up")
    printed["restored"] = terminal.run("make audit FLAGS=--settled || true")
    printed[REPLAY] = terminal.run(REPLAY)
    printed[OLDER_ORDERS] = terminal.run(OLDER_ORDERS)
    return Operated(terminal, printed, metrics)


def url(suite: Suite, name: str) -> str:
    return f"http://127.0.0.1:{suite.ports[name]}/metrics"


def test_health_and_metrics_are_printed(operated: Operated) -> None:
    printed = operated.printed[HEALTH]
    assert '"status": "ready"' in printed
    assert "shop_oldest_pending_seconds 0.0" in printed


def test_responses_are_counted_by_status(operated: Operated) -> None:
    assert re.search(r'^ +\d+ "status": 201$', operated.printed[STATUSES], re.MULTILINE)


def test_a_request_is_found_by_its_id(operated: Operated) -> None:
    line = r'"path": "/account", "status": 401, .*what-was-that'
    assert re.search(line, operated.printed[REQUEST_ID])


def test_a_dead_letter_is_listed_and_redriven(operated: Operated) -> None:
    printed = operated.printed[DEAD_LETTER]
    listed = printed.index(f"{QUEUE}: 1 dead-lettered")
    assert listed < printed.index(f"{QUEUE}: 1 redriven")


def test_the_audit_reports_rows_lost_by_a_restore(operated: Operated) -> None:
    printed = operated.printed["restored"]
    for name, side in (
        ("letters", "found []"),
        ("ledger", "expected []"),
        ("recipients", "found []"),
    ):
        line = rf"^{name}: .*{re.escape(side)}"
        assert re.search(line, printed, re.MULTILINE), printed


def test_a_dry_run_reports_the_events_that_a_replay_publishes(
    operated: Operated,
) -> None:
    printed = operated.printed[REPLAY]
    counts = r"orders: \d+ checked, (\d+) without letter, (\d+)"
    [dry] = re.findall(f"{counts} to replay", printed)
    [done] = re.findall(f"{counts} replayed", printed)
    assert dry == done == ("4", "4")


def test_restored_databases_become_consistent(operated: Operated) -> None:
    """The malformed event stays dead-lettered."""

    def differences() -> list[str]:
        printed = operated.terminal.run("make audit FLAGS=--settled || true")
        lines = printed.splitlines()
        return [line for line in lines if re.match(r"(?!make)[\w-]+: ", line)]

    expected = [f"dead-lettered: {QUEUE}.dead: 1 events", "differences: 1"]
    with suppress(AssertionError):
        eventually(lambda: differences() == expected, 30)
    assert differences() == expected


METRIC = re.compile(r"^(\w+)(?:\{(.*)\})? \S+$", re.MULTILINE)
SELECTOR = re.compile(r"\b(up|shop_\w+|process_\w+)(?:\{([^}]*)\})?")


@pytest.fixture
def labels_of(operated: Operated) -> Callable[[str], set[str]]:
    """Return a function from a metric to its labels, with and without values.

    An unknown metric has no labels.
    """
    found = dict(PROMETHEUS_OWN)
    for name, labels in METRIC.findall(operated.metrics):
        of_metric = found.setdefault(name, {"job"})
        for label, value in re.findall(r'(\w+)="([^"]*)"', labels):
            of_metric |= {label, f'{label}="{value}"'}
    return lambda name: found.get(name, set())


def test_alerts_use_existing_metrics_and_labels(
    labels_of: Callable[[str], set[str]],
) -> None:
    [block] = [block for block in blocks(FILE) if block.language == "yaml"]
    for rule in yaml.safe_load(block.text)["groups"][0]["rules"]:
        selected = SELECTOR.findall(rule["expr"])
        assert selected, rule
        for name, labels in selected:
            known = labels_of(name)
            assert known, name
            for label, sign, value in re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', labels):
                assert label in known, rule
                assert sign != "=" or f'{label}="{value}"' in known, rule
        for labels in re.findall(r"by \(([^)]*)\)", rule["expr"]):
            assert set(labels.split(", ")) <= labels_of(selected[0][0]), rule


def test_each_alert_has_a_row_with_its_remedy() -> None:
    text = FILE.read_text()
    alerts = re.findall(r"- alert: (\w+)", text)
    assert alerts
    assert [alert for alert in alerts if f"\n| {alert} | " not in text] == []


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_documented_metrics_exist(
    labels_of: Callable[[str], set[str]], file: Path
) -> None:
    for name in re.findall(r"`(shop_\w+)", file.read_text()):
        assert labels_of(name) or labels_of(f"{name}_count"), name

"""The commands of docs/operations.md beside a running suite, in their order, and their effects."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import kombu
import pytest
import requests
import yaml

from conftest import eventually
from dev.cli import SERVICES, Suite
from tests.docs.conftest import Terminal
from tests.docs.markdown import ROOT, TOLD, blocks
from tests.system.shopper import Shopper

FILE = ROOT / "docs" / "operations.md"
HEALTH, STATUSES, REQUEST_ID, PARKED, BACKUP, RESTORE, REPLAY, OLDER_ORDERS = (
    block.text for block in blocks(FILE) if block.language == "bash"
)
QUEUE = "evt-orders-order_paid--notifications.handle_order_paid"
PROMETHEUS_OWN = {"up": {"job"}}


def buy(suite: Suite) -> None:
    """A new user with an order that is paid and one that is not, and the letters of both."""
    shopper = Shopper(suite.url)
    shopper.deposit("100.00")
    assert [shopper.ended_order(price)["status"] for price in ("30.10", "99.00")] == [
        "paid",
        "rejected",
    ]
    shopper.letters(2)


def ask_in_vain(suite: Suite) -> None:
    """A worker of the gateway fails: billing is away."""
    shopper = Shopper(suite.url)
    suite.supervisor.halt("billing")
    assert shopper.get("/account").status_code == 504
    suite.supervisor.start("billing")
    eventually(suite.ready)


def forget_what_was_sent(terminal: Terminal, name: str) -> None:
    """Time passes: the outbox of a service is cleaned, all of it."""
    clean = '-c "DELETE FROM outbox WHERE sent_at IS NOT NULL" -c "SELECT count(*) FROM outbox"'
    eventually(lambda: terminal.run(f"psql -qAt {clean} $(owner {name})") == "0\n")


@dataclass
class Operated:
    """What an operator has seen, and a terminal to see more."""

    terminal: Terminal
    printed: dict[str, str]
    metrics: str


@pytest.fixture(scope="module")
def operated(suite: Suite, variables: dict[str, str]) -> Operated:
    """All has been looked at, an event was parked, databases were restored and brought together again."""
    terminal = Terminal(variables)
    printed = {}
    buy(suite)
    ask_in_vain(suite)
    for block in (HEALTH, STATUSES, REQUEST_ID):
        printed[block] = terminal.run(block)
    with kombu.Connection(suite.env()["AMQP_URI"]) as connection:
        connection.Producer().publish(
            b"{", routing_key=QUEUE, content_type="application/json"
        )
    eventually(lambda: f"{QUEUE}: 1 dead-lettered" in terminal.run("make dead"))
    printed[PARKED] = terminal.run(PARKED)
    eventually(lambda: f"{QUEUE}: 1 dead-lettered" in terminal.run("make dead"))
    metrics = "".join(
        requests.get(url(suite, name), timeout=10).text for name in SERVICES
    )
    terminal.run(f"{BACKUP}BEFORE=$BACKUP")
    buy(suite)  # letters that will be lost, with events that only the tables still hold
    forget_what_was_sent(terminal, "users")
    forget_what_was_sent(terminal, "orders")
    buy(suite)  # letters that will be lost, with events that the outbox still has
    terminal.run(BACKUP)
    buy(suite)  # orders that will be lost
    terminal.run("make down\nmake migrate")
    terminal.run(f"{RESTORE}BACKUP=$BEFORE restore notifications\nrestore orders")
    terminal.run("make up")
    printed["restored"] = terminal.run("make audit FLAGS=--settled || true")
    printed[REPLAY] = terminal.run(REPLAY)
    printed[OLDER_ORDERS] = terminal.run(OLDER_ORDERS)
    return Operated(terminal, printed, metrics)


def url(suite: Suite, name: str) -> str:
    return f"http://127.0.0.1:{suite.ports[name]}/metrics"


def test_health_and_metrics_are_told(operated: Operated) -> None:
    told = operated.printed[HEALTH]
    assert '"status": "ready"' in told
    assert "shop_oldest_pending_seconds 0.0" in told


def test_answers_are_counted_by_their_status(operated: Operated) -> None:
    assert re.search(r'^ +\d+ "status": 201$', operated.printed[STATUSES], re.MULTILINE)


def test_a_request_is_found_by_its_id(operated: Operated) -> None:
    assert re.search(
        r'"path": "/account", "status": 401, .*what-was-that',
        operated.printed[REQUEST_ID],
    )


def test_a_parked_event_is_shown_and_moved_back(operated: Operated) -> None:
    told = operated.printed[PARKED]
    assert told.index(f"{QUEUE}: 1 dead-lettered") < told.index(f"{QUEUE}: 1 redriven")


def test_the_audit_tells_what_a_restore_has_forgotten(operated: Operated) -> None:
    told = operated.printed["restored"]
    for name, side in (
        ("letters", "found []"),
        ("ledger", "expected []"),
        ("recipients", "found []"),
    ):
        assert re.search(rf"^{name}: .*{re.escape(side)}", told, re.MULTILINE), told


def test_a_replay_tells_first_and_then_replays_the_same(operated: Operated) -> None:
    told = operated.printed[REPLAY]
    [dry] = re.findall(
        r"orders: \d+ checked, (\d+) without letter, (\d+) to replay", told
    )
    [done] = re.findall(
        r"orders: \d+ checked, (\d+) without letter, (\d+) replayed", told
    )
    assert dry == done == ("4", "4")


def test_what_was_restored_comes_together_again(operated: Operated) -> None:
    """But for the event that can't be read, which stays parked."""

    def differences() -> list[str]:
        told = operated.terminal.run("make audit FLAGS=--settled || true")
        return [line for line in told.splitlines() if re.match(r"(?!make)\w+: ", line)]

    wanted = [f"dead-lettered: {QUEUE}.dead: 1 events", "differences: 1"]
    with suppress(AssertionError):
        eventually(lambda: differences() == wanted, 30)
    assert differences() == wanted


@pytest.fixture
def shown(operated: Operated) -> Callable[[str], set[str]]:
    """The labels, with their values, that a metric has somewhere; none of a metric that nobody shows."""
    told = dict(PROMETHEUS_OWN)
    for name, labels in re.findall(
        r"^(\w+)(?:\{(.*)\})? \S+$", operated.metrics, re.MULTILINE
    ):
        pairs = re.findall(r'(\w+)="([^"]*)"', labels)
        told.setdefault(name, {"job"}).update(
            [name for name, _ in pairs], [f'{n}="{v}"' for n, v in pairs]
        )
    return lambda name: told.get(name, set())


def test_alarms_go_by_metrics_and_labels_that_there_are(
    shown: Callable[[str], set[str]],
) -> None:
    [block] = [block for block in blocks(FILE) if block.language == "yaml"]
    for rule in yaml.safe_load(block.text)["groups"][0]["rules"]:
        selected = re.findall(
            r"\b(up|shop_\w+|process_\w+)(?:\{([^}]*)\})?", rule["expr"]
        )
        assert selected, rule
        for name, labels in selected:
            assert shown(name), name
            for label, sign, value in re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', labels):
                assert label in shown(name), rule
                assert sign != "=" or f'{label}="{value}"' in shown(name), rule
        for labels in re.findall(r"by \(([^)]*)\)", rule["expr"]):
            assert set(labels.split(", ")) <= shown(selected[0][0]), rule


def test_each_alarm_says_what_to_do() -> None:
    alarms = re.findall(r"- alert: (\w+)", FILE.read_text())
    assert alarms
    assert [
        alarm for alarm in alarms if f"\n| {alarm} | " not in FILE.read_text()
    ] == []


@pytest.mark.parametrize("file", TOLD, ids=lambda file: file.name)
def test_metrics_that_a_document_names_are_shown(
    shown: Callable[[str], set[str]], file
) -> None:
    for name in re.findall(r"`(shop_\w+)", file.read_text()):
        assert shown(name) or shown(f"{name}_count"), name

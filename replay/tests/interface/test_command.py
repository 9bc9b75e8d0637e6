"""The findings, the output and the writes of `python -m replay`, without running services."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from audit.tests.interface.sample_data import INSERTS, insert_shoppers, order, user
from conftest import eventually
from dev.cli import QUIET
from replay.missing import CHUNK_ROWS, find_missing
from replay.options import Options
from replay.run import MAX_SHOWN
from replay.sources import ORDERS

SENT_LONG_AGO = "UPDATE outbox SET sent_at = now() - interval '91 s'"
REJECTED = order(1, 10)
MEASURED = (
    "import resource, sys; from replay.__main__ import main; code = main(['--settled']);"
    " print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
)
# A chunk of rows and a batch of events. All rows would need many times as much.
MAX_GROWTH_MB = 10


@pytest.fixture(autouse=True)
def _empty_outboxes(sql) -> Iterator[None]:
    """Delete the events afterwards, so that services of later tests do not find them."""
    yield
    for service in ("users", "orders"):
        sql(service, "DELETE FROM outbox")


@pytest.fixture
def shoppers(clean, sql) -> None:
    """Insert two shoppers with ten orders each, whose events were sent and deleted."""
    insert_shoppers(sql, shoppers=2, orders=10)
    sql("orders", "DELETE FROM outbox")


@pytest.fixture
def events(sql) -> Callable[[str], dict[str, str]]:
    """Return a function that gives the unsent events of a service: {id of order or user: type}."""

    def read(service: str) -> dict[str, str]:
        query = "SELECT payload ->> %s, type FROM outbox WHERE sent_at IS NULL"
        rows = sql(service, query, [f"{service.removesuffix('s')}_id"])
        assert len(rows) == len(dict(rows))
        return dict(rows)

    return read


def test_without_a_missing_effect_it_counts_the_rows(shoppers, replay, sql) -> None:
    code, out, err = replay("--since", "2020-01-01 00:00:00+00")
    assert (code, err) == (0, "")
    assert out.splitlines()[1:] == [
        "users: 2 checked, 0 without account, 0 without recipient, 0 replayed,"
        " 0 already in flight",
        "orders: 20 checked, 0 without letter, 0 replayed, 0 already in flight",
    ]
    assert (
        sql("orders", "SELECT FROM outbox") == sql("users", "SELECT FROM outbox") == []
    )


def test_only_the_orders_without_a_letter_are_replayed(
    shoppers, replay, sql, events
) -> None:
    lost = [order(1, 3), REJECTED]
    sql("notifications", "DELETE FROM letters WHERE order_id = ANY(%s::uuid[])", [lost])
    code, out, _ = replay()
    assert code == 0
    _, _, summary, *ids = out.splitlines()
    assert (
        summary
        == "orders: 20 checked, 2 without letter, 2 replayed, 0 already in flight"
    )
    assert sorted(ids) == sorted(f"  {id_} has no letter" for id_ in lost)
    assert events("orders") == {order(1, 3): "order_paid", REJECTED: "order_rejected"}
    assert events("users") == {}


def test_a_user_without_an_account_or_a_recipient_has_one_event(
    shoppers, replay, sql, events
) -> None:
    sql("billing", "DELETE FROM accounts")
    sql("notifications", "DELETE FROM recipients WHERE user_id = %s", [user(2)])
    code, out, _ = replay()
    assert code == 0
    _, summary, *ids, _ = out.splitlines()
    counts = "2 checked, 2 without account, 1 without recipient, 2 replayed, 0 already in flight"
    assert summary == f"users: {counts}"
    lines = [
        f"  {user(1)} has no account",
        f"  {user(2)} has no account and no recipient",
    ]
    assert sorted(ids) == sorted(lines)
    assert events("users") == dict.fromkeys((user(1), user(2)), "user_created")


def test_the_order_of_an_unknown_user_has_no_letter_and_is_not_replayed(
    shoppers, replay, sql, events
) -> None:
    sql("orders", "ALTER TABLE orders DISABLE TRIGGER ended_orders_stay")
    sql("orders", "UPDATE orders SET reason = 'unknown-user' WHERE id = %s", [REJECTED])
    sql("orders", "ALTER TABLE orders ENABLE TRIGGER ended_orders_stay")
    sql("notifications", "DELETE FROM letters WHERE order_id = %s", [REJECTED])
    assert "orders: 19 checked, 0 without letter" in replay("--settled")[1]
    assert events("orders") == {}


def test_a_pending_order_is_not_replayed(shoppers, replay, sql, events) -> None:
    id_ = "ffffffff-0000-7000-9000-000000000000"
    times = "now(), now() - interval '1 hour'"
    values = f"'{id_}', '{user(1)}', '-', 7, 'pending', NULL, '-', 0, {times}"
    sql("orders", f"INSERT INTO orders SELECT {values}")
    assert replay("--settled")[0] == 0
    assert events("orders") == {}


def test_nothing_from_before_since_is_replayed(shoppers, replay, sql, events) -> None:
    """The default is yesterday's midnight."""
    insert_shoppers(sql, shoppers=1, orders=1, first=3, ago="3 days")
    sql("orders", "DELETE FROM outbox")
    sql("notifications", "DELETE FROM letters")
    sql("notifications", "DELETE FROM recipients")
    replay()
    assert len(events("orders")) == 20
    assert events("users").keys() == {user(1), user(2)}
    replay("--since=-infinity")
    assert len(events("orders")) == 21
    assert events("users").keys() == {user(1), user(2), user(3)}


def test_since_is_inclusive_to_the_microsecond(shoppers, replay, sql, events) -> None:
    sql("notifications", "DELETE FROM letters")
    [(at, later)] = sql(
        "orders", "SELECT DISTINCT ended_at, ended_at + interval '1 us' FROM orders"
    )
    replay("--since", str(later))
    assert events("orders") == {}
    replay("--since", str(at))
    assert len(events("orders")) == 20


def test_young_rows_are_replayed_only_if_settled(shoppers, replay, sql, events) -> None:
    insert_shoppers(sql, shoppers=1, orders=2, first=3, ago="30 s")
    sql("orders", "DELETE FROM outbox")
    for service, table in (("billing", "accounts"), ("notifications", "letters")):
        sql(service, f"DELETE FROM {table} WHERE user_id = %s", [user(3)])
    assert replay("--dry-run")[0] == 0
    assert replay()[0] == 0
    assert events("orders") == events("users") == {}
    replay("--settled")
    assert (len(events("orders")), len(events("users"))) == (2, 1)


def test_a_dry_run_reports_the_same_and_changes_nothing(
    shoppers, replay, sql, events
) -> None:
    insert_shoppers(sql, shoppers=1, orders=10, first=3)
    sql("orders", SENT_LONG_AGO)
    sql("notifications", "DELETE FROM letters")
    sql("billing", "DELETE FROM accounts")
    before = [
        sql(name, "SELECT *, xmin FROM outbox ORDER BY event_id")
        for name in ("users", "orders")
    ]
    code, planned, _ = replay("--dry-run")
    assert code == 1
    assert (
        "orders: 30 checked, 30 without letter, 30 to replay, 0 already in flight"
        in planned
    )
    after = [
        sql(name, "SELECT *, xmin FROM outbox ORDER BY event_id")
        for name in ("users", "orders")
    ]
    assert after == before
    code, done, _ = replay()
    assert code == 0
    assert done == planned.replace("to replay", "replayed")
    assert len(events("orders")) == 30


def test_an_event_in_the_outbox_is_marked_as_unsent(
    shoppers, replay, sql, events
) -> None:
    """A second row would be a difference for the audit."""
    insert_shoppers(sql, shoppers=1, orders=10, first=3)
    sql("orders", SENT_LONG_AGO)
    sql("notifications", "DELETE FROM letters")
    kept = sql("orders", "SELECT event_id, payload FROM outbox ORDER BY event_id")
    assert "30 replayed, 0 already in flight" in replay()[1]
    assert len(events("orders")) == 30
    query = """
        SELECT event_id, payload
        FROM outbox
        WHERE event_id = ANY(%s::uuid[])
        ORDER BY event_id
    """
    assert sql("orders", query, [[id_ for id_, _ in kept]]) == kept


@pytest.mark.parametrize("sent_at", ["NULL", "now() - interval '30 s'"])
def test_an_event_in_flight_stays_unchanged(shoppers, replay, sql, sent_at) -> None:
    insert_shoppers(sql, shoppers=1, orders=10, first=3)
    sql("orders", f"UPDATE outbox SET sent_at = {sent_at}")
    sql("notifications", "DELETE FROM letters WHERE user_id = %s", [user(3)])
    before = sql("orders", "SELECT *, xmin FROM outbox ORDER BY event_id")
    assert replay("--dry-run")[0] == 1
    code, out, _ = replay()
    assert code == 0
    assert (
        "orders: 30 checked, 10 without letter, 0 replayed, 10 already in flight" in out
    )
    assert sql("orders", "SELECT *, xmin FROM outbox ORDER BY event_id") == before


def test_another_event_of_the_same_user_stays_unchanged(
    shoppers, replay, sql, events
) -> None:
    """It does not replace the missing event."""
    sql(
        "users",
        "INSERT INTO outbox SELECT gen_random_uuid(), 'user_renamed',"
        " jsonb_build_object('user_id', id), '-', now(), now() - interval '1 hour' FROM users",
    )
    sql("billing", "DELETE FROM accounts")
    replay()
    assert events("users") == dict.fromkeys((user(1), user(2)), "user_created")


def test_a_second_replay_changes_nothing_more(shoppers, replay, sql) -> None:
    sql("notifications", "DELETE FROM letters")
    sql("billing", "DELETE FROM accounts")
    replay()
    first = [
        sql(name, "SELECT *, xmin FROM outbox ORDER BY event_id")
        for name in ("users", "orders")
    ]
    code, out, _ = replay()
    assert code == 0
    assert re.findall(r"(\d+) replayed, (\d+) already in flight", out) == [
        ("0", "2"),
        ("0", "20"),
    ]
    second = [
        sql(name, "SELECT *, xmin FROM outbox ORDER BY event_id")
        for name in ("users", "orders")
    ]
    assert second == first


def test_two_replays_at_once_write_one_event_for_each_order(
    shoppers, start_replay, sql, events, owner
) -> None:
    """Both find the same orders without a letter before one of them can write."""
    sql("notifications", "DELETE FROM letters")
    # Others may read the table, not write it.
    owner.cursor().execute("LOCK TABLE outbox IN SHARE MODE")
    both = [start_replay("--settled"), start_replay("--settled")]
    eventually(
        lambda: (
            sql("orders", "SELECT count(*) FROM pg_locks WHERE NOT granted") == [(2,)]
        )
    )
    owner.commit()
    printed = "".join(each.wait() for each in both)
    assert sorted(re.findall(r"orders: .* (\d+) replayed", printed)) == ["0", "20"]
    assert len(events("orders")) == 20
    assert sql("orders", "SELECT count(*) FROM outbox") == [(20,)]


def test_an_event_deleted_during_the_replay_is_inserted_again(
    shoppers, start_replay, sql, events, owner
) -> None:
    insert_shoppers(sql, shoppers=1, orders=10, first=3)
    sql("notifications", "DELETE FROM letters")
    owner.cursor().execute("LOCK TABLE outbox IN SHARE MODE")
    started = start_replay("--settled")
    eventually(
        lambda: (
            sql("orders", "SELECT count(*) FROM pg_locks WHERE NOT granted") == [(1,)]
        )
    )
    owner.cursor().execute("DELETE FROM outbox")
    owner.commit()
    assert "30 replayed" in started.wait()
    assert len(events("orders")) == 30


def test_a_letter_written_during_the_replay_is_not_missing(clean, config, sql) -> None:
    insert_shoppers(sql, shoppers=1, orders=2 * CHUNK_ROWS)
    sql("notifications", "DELETE FROM letters")
    chunks = find_missing(
        config, ORDERS, Options("-infinity", settled=False, dry_run=True)
    )
    assert len(next(chunks)[1]) == CHUNK_ROWS
    *_, insert_letters = INSERTS["notifications"]
    sql(
        "notifications",
        insert_letters,
        {"first": 1, "last": 1, "orders": 2 * CHUNK_ROWS, "ago": "0 s"},
    )
    assert [len(found) for _, found in chunks] == [0]


def test_the_first_are_printed_and_all_are_replayed(
    shoppers, replay, sql, events
) -> None:
    insert_shoppers(sql, shoppers=1, orders=2500, first=3)  # more than one batch
    sql("orders", SENT_LONG_AGO)
    sql("notifications", "DELETE FROM letters")
    code, out, _ = replay()
    assert code == 0
    assert (
        "orders: 2520 checked, 2520 without letter, 2520 replayed, 0 already in flight"
        in out
    )
    assert len(re.findall("has no letter", out)) == MAX_SHOWN
    assert out.splitlines()[-1] == "  ... and 2500 more"
    assert len(events("orders")) == 2520


@pytest.mark.parametrize(
    ("flags", "settings", "message"),
    [
        ([], {"DB_URIS": {}}, "USERS_DB_URI is missing"),
        (
            [],
            {"DB_URIS": {"users:Base": "postgresql+psycopg2://a:b@127.0.0.1:9/c"}},
            "Connection refused",
        ),
        (["--since", "no time"], {}, "invalid input syntax"),
    ],
)
def test_an_error_is_reported_in_one_line(
    clean, replay, flags, settings, message
) -> None:
    code, out, err = replay(*flags, **settings)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_memory_does_not_grow_with_the_tables(clean, sql, environment) -> None:
    def peak_mb() -> float:
        done = subprocess.run(
            [sys.executable, "-c", MEASURED],
            env={**environment, **QUIET},
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout.splitlines()[-1]) / 1024

    insert_shoppers(sql, shoppers=1, orders=1000)
    sql("notifications", "DELETE FROM letters")
    small = peak_mb()
    insert_shoppers(sql, shoppers=300, orders=200, first=2)
    sql("notifications", "DELETE FROM letters")
    assert peak_mb() - small < MAX_GROWTH_MB
    assert sql("orders", "SELECT count(*) FROM outbox WHERE sent_at IS NULL") == [
        (61_000,)
    ]

"""The SQL of orders in concurrent transactions, in a real database. No service is running."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta

import pytest
from sqlalchemy import Connection, create_engine

from orders import store

LEASE = timedelta(seconds=30)
# A statement that waits longer for another transaction fails.
LOCK_TIMEOUT_MS = 2000
# If a table is small or its statistics are old, PostgreSQL may join row by row. Then it executes a
# subquery once for each row of the table.
DISABLED = ("hashjoin", "mergejoin", "hashagg", "sort", "seqscan", "material")
PLANS = {
    "as planned": "",
    "row by row": "".join(f" -c enable_{name}=off" for name in DISABLED),
}


@pytest.fixture(params=PLANS.values(), ids=PLANS)
def connections(request, config, clean) -> Iterator[list[Connection]]:
    """Three concurrent transactions."""
    options = {"options": f"-c lock_timeout={LOCK_TIMEOUT_MS}{request.param}"}
    engine = create_engine(config["DB_URIS"]["orders:Base"], connect_args=options)
    with ExitStack() as stack:
        yield [stack.enter_context(engine.connect()) for _ in range(3)]
    engine.dispose()


@pytest.fixture
def due(sql, clean) -> set[str]:
    """The ids of ten pending orders that are due."""
    rows = sql(
        "orders",
        """
        INSERT INTO orders (id, user_id, key, price_minor, request_id, next_attempt_at)
        SELECT gen_random_uuid(), gen_random_uuid(), 'k', 1, 'r', now() - n * interval '1 s'
        FROM generate_series(1, 10) AS n
        RETURNING id::text
        """,
    )
    return {id_ for (id_,) in rows}


def test_concurrent_sweepers_share_the_due_orders_without_waiting(
    connections, due
) -> None:
    first, second, third = (
        [str(row.id) for row in store.claim_due(s, 4, LEASE)] for s in connections
    )
    assert [len(first), len(second), len(third)] == [4, 4, 2]
    assert {*first, *second, *third} == due


def test_a_claimed_order_is_due_again_only_after_its_lease(connections, due) -> None:
    first, second, _ = connections
    assert len(store.claim_due(first, 10, LEASE)) == 10
    first.commit()
    assert store.claim_due(second, 10, LEASE) == []
    second.rollback()
    store.schedule_retries(first, dict.fromkeys(due, -1.0))
    first.commit()
    assert [row.attempts for row in store.claim_due(second, 10, LEASE)] == [2] * 10

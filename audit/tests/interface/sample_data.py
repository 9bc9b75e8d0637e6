"""Consistent rows of shoppers and their orders for the four databases.

Each shopper deposits 10,000.00 and places `orders` orders. Every tenth order is rejected. The
rows are an hour old by default, so nothing is in flight.
"""

from collections.abc import Callable
from typing import Any

PRICE = 7
USER = "('00000000-0000-7000-8000-' || lpad(to_hex({}), 12, '0'))::uuid"
ORDER = "('00000000-0000-7000-9000-' || lpad(to_hex({} * 1000000 + {}), 12, '0'))::uuid"
USER_ID, ORDER_ID = USER.format("n"), ORDER.format("n", "k")
SHOPPERS = "generate_series(%(first)s, %(last)s) AS n"
ORDERS = f"{SHOPPERS}, generate_series(1, %(orders)s) AS k"
THEN = "now() - %(ago)s::interval"
ADDRESS = "n || '@example.org'"


def by_tens(tenth: str, others: str) -> str:
    """Return SQL for a value of every tenth order, and another of the others."""
    return f"CASE k %% 10 WHEN 0 THEN {tenth} ELSE {others} END"


STATUS, OUTCOME = by_tens("'rejected'", "'paid'"), by_tens("'refused'", "'done'")
KIND = by_tens("'grief'", "'happiness'")
REASON = by_tens("'insufficient-funds'", "NULL")
INSERTS = {
    "users": [
        f"""
        INSERT INTO users
        SELECT {USER_ID}, 'u' || n, 'u' || n, {ADDRESS}, {ADDRESS}, 'en', '-', {THEN}
        FROM {SHOPPERS}
        """
    ],
    "notifications": [
        f"""
        INSERT INTO recipients
        SELECT {USER_ID}, 'u' || n, {ADDRESS}, 'en'
        FROM {SHOPPERS}
        """,
        f"""
        INSERT INTO letters
        SELECT
          gen_random_uuid(), {KIND}, {ORDER_ID}, {USER_ID}, {ADDRESS}, 'Your order', '-',
          'stored', {THEN}
        FROM {ORDERS}
        """,
    ],
    "billing": [
        f"""
        INSERT INTO accounts
        SELECT
          {USER_ID}, 1000000 - {PRICE} * (%(orders)s - %(orders)s / 10), %(orders)s + 1
        FROM {SHOPPERS}
        """,
        f"""
        INSERT INTO operations
        SELECT
          gen_random_uuid(), 'shell:' || n, {USER_ID}, 1, 'deposit', 1000000, 'done', NULL,
          1000000, {THEN}
        FROM {SHOPPERS}
        """,
        f"""
        INSERT INTO operations
        SELECT
          gen_random_uuid(), 'order:' || {ORDER_ID}, {USER_ID}, k + 1, 'withdrawal',
          {PRICE}, {OUTCOME}, {REASON}, 1000000 - {PRICE} * (k - k / 10), {THEN}
        FROM {ORDERS}
        """,
    ],
    "orders": [
        f"""
        INSERT INTO orders
        SELECT
          {ORDER_ID}, {USER_ID}, k, {PRICE}, {STATUS}, {REASON}, '-', 0, {THEN}, {THEN},
          {THEN}
        FROM {ORDERS}
        """,
        f"""
        INSERT INTO outbox
        SELECT
          gen_random_uuid(), 'order_' || {STATUS},
          jsonb_build_object('order_id', {ORDER_ID}), '-', now(), now()
        FROM {ORDERS}
        """,
    ],
}


def insert_shoppers(
    sql: Callable[..., Any],
    shoppers: int,
    orders: int,
    *,
    first: int = 1,
    ago: str = "1 hour",
) -> None:
    """Insert rows of new shoppers, with numbers from `first` on."""
    parameters = {
        "first": first,
        "last": first + shoppers - 1,
        "orders": orders,
        "ago": ago,
    }
    for service, statements in INSERTS.items():
        for statement in statements:
            sql(service, statement, parameters)


def user(n: int) -> str:
    """Return the id of a shopper, counted from 1."""
    return f"00000000-0000-7000-8000-{n:012x}"


def order(n: int, k: int) -> str:
    """Return the id of a shopper's order. Both are counted from 1; order 10 was rejected."""
    return f"00000000-0000-7000-9000-{n * 1_000_000 + k:012x}"

"""A story of shoppers and orders as the four databases hold it when all is well, made by SQL.

Each shopper puts 10,000.00 on an account and orders `orders` times; every tenth order is rejected.
It happened an hour ago, unless told otherwise, so nothing is on its way.
"""

from collections.abc import Callable
from typing import Any

PRICE = 7
USER = "('00000000-0000-7000-8000-' || lpad(to_hex({}), 12, '0'))::uuid"
ORDER = "('00000000-0000-7000-9000-' || lpad(to_hex({} * 1000000 + {}), 12, '0'))::uuid"
N, K = USER.format("n"), ORDER.format("n", "k")
SHOPPERS = "generate_series(%(first)s, %(last)s) AS n"
ORDERS = f"{SHOPPERS}, generate_series(1, %(orders)s) AS k"
THEN = "now() - %(ago)s::interval"
ADDRESS = "n || '@example.org'"


def by_tens(tenth: str, others: str) -> str:
    """SQL: what every tenth order has, and what the others have."""
    return f"CASE k %% 10 WHEN 0 THEN {tenth} ELSE {others} END"


STATUS, OUTCOME = by_tens("'rejected'", "'paid'"), by_tens("'refused'", "'done'")
KIND = by_tens("'grief'", "'happiness'")
WHY = by_tens("'insufficient-funds'", "NULL")
STORY = {
    "users": [
        f"INSERT INTO users SELECT {N}, 'u' || n, 'u' || n, {ADDRESS}, {ADDRESS}, 'en', '-',"
        f" {THEN} FROM {SHOPPERS}"
    ],
    "notifications": [
        f"INSERT INTO recipients SELECT {N}, 'u' || n, {ADDRESS}, 'en' FROM {SHOPPERS}",
        f"INSERT INTO letters SELECT gen_random_uuid(), {KIND},"
        f" {K}, {N}, {ADDRESS}, 'Your order', '-', 'stored', {THEN} FROM {ORDERS}",
    ],
    "billing": [
        f"INSERT INTO accounts SELECT {N}, 1000000 - {PRICE} * (%(orders)s - %(orders)s / 10), %(orders)s + 1"
        f" FROM {SHOPPERS}",
        f"INSERT INTO operations SELECT gen_random_uuid(), 'shell:' || n, {N}, 1, 'deposit', 1000000,"
        f" 'done', NULL, 1000000, {THEN} FROM {SHOPPERS}",
        f"INSERT INTO operations SELECT gen_random_uuid(), 'order:' || {K}, {N}, k + 1, 'withdrawal',"
        f" {PRICE}, {OUTCOME}, {WHY},"
        f" 1000000 - {PRICE} * (k - k / 10), {THEN} FROM {ORDERS}",
    ],
    "orders": [
        f"INSERT INTO orders SELECT {K}, {N}, k, {PRICE}, {STATUS},"
        f" {WHY}, '-', 0, {THEN}, {THEN}, {THEN} FROM {ORDERS}",
        f"INSERT INTO outbox SELECT gen_random_uuid(), 'order_' || {STATUS},"
        f" jsonb_build_object('order_id', {K}), '-', now(), now() FROM {ORDERS}",
    ],
}


def tell(
    sql: Callable[..., Any],
    shoppers: int,
    orders: int,
    *,
    first: int = 1,
    ago: str = "1 hour",
) -> None:
    """Write the story into the tables, which have none of these shoppers, counted from `first`."""
    facts = {"first": first, "last": first + shoppers - 1, "orders": orders, "ago": ago}
    for service, statements in STORY.items():
        for statement in statements:
            sql(service, statement, facts)


def user(n: int) -> str:
    """The id of a shopper, counted from 1."""
    return f"00000000-0000-7000-8000-{n:012x}"


def order(n: int, k: int) -> str:
    """The id of a shopper's order, both counted from 1; the tenth was rejected."""
    return f"00000000-0000-7000-9000-{n * 1_000_000 + k:012x}"

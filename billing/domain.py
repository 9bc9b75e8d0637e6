"""The rules of billing, as pure functions: what happens to a batch of requests.

Amounts are in minor units of the currency, such as cents.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

MAX_AMOUNT_MINOR = 10_000_000_00
MAX_BALANCE_MINOR = 10_000_000_000_00

Kind = Literal["deposit", "withdrawal"]
DEPOSIT: Kind = "deposit"
WITHDRAWAL: Kind = "withdrawal"

INSUFFICIENT_FUNDS = "insufficient-funds"
BALANCE_LIMIT = "balance-limit"
CANCELLED = "cancelled"
UNKNOWN_USER = "unknown-user"


class Unit(NamedTuple):
    """The unit of amounts: a currency, and how many of their digits stand after the point."""

    currency: str
    exponent: int


@dataclass(frozen=True, slots=True)
class Account:
    """An account's state: its balance, and the number of its last operation (0: none yet)."""

    user_id: str
    balance_minor: int = 0
    last_seq: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """A request to move money. `id` names the operation that it may become; `ref` says whose it is and
    makes it happen at most once. A cancelling request records a withdrawal as refused."""

    id: str
    ref: str
    user_id: str
    kind: Kind
    amount_minor: int
    at: datetime
    cancels: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """An entry of the ledger: done or, with a reason, refused; final either way."""

    id: str
    ref: str
    user_id: str
    seq: int
    kind: Kind
    amount_minor: int
    status: Literal["done", "refused"]
    reason: str | None
    balance_after_minor: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Conflict:
    """The ref is taken by an operation with another user, kind or amount; nothing changed."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """What a batch comes to: an outcome for each request in order, and what is new because of it."""

    outcomes: list[Operation | Conflict]
    operations: list[Operation]
    accounts: list[Account]


def ref_of(item: Mapping[str, Any]) -> str:
    """The ref of a movement: for an order, by a user's own idempotency key, or by someone's hand.

    The prefixes keep them apart: no client's key is ever an order's, or another user's.
    """
    if "order_id" in item:
        return f"order:{item['order_id']}"
    if "key" in item:
        return f"key:{item['user_id']}:{item['key']}"
    return f"shell:{item['ref']}"


def order_id_of(ref: str) -> str | None:
    """The order a withdrawal is for, or None."""
    return ref.removeprefix("order:") if ref.startswith("order:") else None


def decide(
    accounts: Mapping[str, Account],
    recorded: Mapping[str, Operation],
    requests: Iterable[Request],
) -> Decisions:
    """Go through `requests` in order and say what happens to each.

    `accounts` (by user id) are those of the batch, locked; `recorded` (by ref) the operations that
    stand under the requests' refs already. A user without an account is unknown. The decision over
    a batch is the same as the decisions one by one.
    """
    state = dict(accounts)
    known = dict(recorded)
    outcomes: list[Operation | Conflict] = []
    operations: list[Operation] = []
    for request in requests:
        operation = known.get(request.ref)
        if operation is None:
            operation = _settle(state.get(request.user_id), request)
            known[request.ref] = operation
            operations.append(operation)
            if request.user_id in state:
                state[request.user_id] = Account(
                    user_id=request.user_id,
                    balance_minor=operation.balance_after_minor,
                    last_seq=operation.seq,
                )
        outcomes.append(operation if _is_for(operation, request) else Conflict())
    return Decisions(
        outcomes=outcomes,
        operations=operations,
        accounts=[
            account
            for user_id, account in state.items()
            if account != accounts[user_id]
        ],
    )


def difference(account: Account, ledger: Account, wrong: int) -> str | None:
    """How an account differs from its ledger, `wrong` operations of which do not follow; None: not at all."""
    if account == ledger and not wrong:
        return None
    stored, due = (
        f"{a.balance_minor} after operation {a.last_seq}" for a in (account, ledger)
    )
    return f"{account.user_id}: {stored}, the ledger comes to {due}, wrong operations: {wrong}"


def unit_difference(books: Unit | None, wanted: Unit) -> str:
    """The line for an operator whose CURRENCY is not the currency of the books.

    `books` is None for operations of an earlier version, which have no unit. Their amounts have two
    digits.
    """
    found = (
        f"in {books.currency} with {books.exponent}"
        if books
        else "of an earlier version, with 2"
    )
    return (
        f"billing: CURRENCY is {wanted.currency} with {wanted.exponent} digits after the point,"
        f" the books are {found}: see Another currency in docs/operations.md"
    )


def _settle(account: Account | None, request: Request) -> Operation:
    reason = UNKNOWN_USER if account is None else _refusal(account, request)
    before = account or Account(
        request.user_id, last_seq=-1
    )  # -1: its operation gets number 0
    signed_amount = (
        request.amount_minor if request.kind == DEPOSIT else -request.amount_minor
    )
    return Operation(
        id=request.id,
        ref=request.ref,
        user_id=request.user_id,
        seq=before.last_seq + 1,
        kind=request.kind,
        amount_minor=request.amount_minor,
        status="refused" if reason else "done",
        reason=reason,
        balance_after_minor=before.balance_minor + (0 if reason else signed_amount),
        created_at=request.at,
    )


def _refusal(account: Account, request: Request) -> str | None:
    if request.cancels:
        return CANCELLED
    if request.kind == WITHDRAWAL and request.amount_minor > account.balance_minor:
        return INSUFFICIENT_FUNDS
    if (
        request.kind == DEPOSIT
        and account.balance_minor + request.amount_minor > MAX_BALANCE_MINOR
    ):
        return BALANCE_LIMIT
    return None


def _is_for(operation: Operation, request: Request) -> bool:
    return (request.user_id, request.kind, request.amount_minor) == (
        operation.user_id,
        operation.kind,
        operation.amount_minor,
    )

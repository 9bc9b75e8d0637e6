"""The rules of billing, as pure functions. They turn a batch of requests into operations.

Amounts are in minor units of the currency, such as cents.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

MAX_AMOUNT_MINOR = 10_000_000_00
MAX_BALANCE_MINOR = 10_000_000_000_00

Kind = Literal["deposit", "withdrawal"]
Reason = Literal["insufficient-funds", "balance-limit", "cancelled", "unknown-user"]


class BooksCurrency(NamedTuple):
    """The currency of the books, and its exponent: the number of decimal places."""

    currency: str
    exponent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The balance of a user, and the `seq` of the account's last operation."""

    user_id: str
    balance_minor: int = 0
    last_seq: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PostingRequest:
    """A request to deposit, to withdraw, or to cancel a withdrawal.

    `id` becomes the id of the operation, if a new one is recorded. `ref` identifies the request:
    one ref has at most one operation. A request that `cancels` is recorded as a refused withdrawal.
    """

    id: str
    ref: str
    user_id: str
    kind: Kind
    amount_minor: int
    requested_at: datetime
    cancels: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An entry of the ledger: done, or refused with a reason. It never changes.

    `seq` numbers the operations of an account from 1. It is 0 if the user has no account.
    """

    id: str
    ref: str
    user_id: str
    seq: int
    kind: Kind
    amount_minor: int
    status: Literal["done", "refused"]
    reason: Reason | None
    balance_after_minor: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Conflict:
    """The outcome of a request whose ref has an operation with another user, kind or amount."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """The outcomes of a batch in request order, and its changes to the books."""

    outcomes: list[Operation | Conflict]
    new_operations: list[Operation]
    changed_accounts: list[Account]


def ref_of(item: Mapping[str, Any]) -> str:
    """Return the ref that identifies a request.

    It is made from the id of an order, the idempotency key of a client, or the text of an operator
    in the shell. The prefix keeps the three apart, so no client can choose the ref of an order.
    The user id in it keeps the keys of users apart.
    """
    if "order_id" in item:
        return f"order:{item['order_id']}"
    if "key" in item:
        return f"key:{item['user_id']}:{item['key']}"
    return f"shell:{item['ref']}"


def order_id_of(ref: str) -> str | None:
    """Return the id of the order that a withdrawal is for, or None."""
    return ref.removeprefix("order:") if ref.startswith("order:") else None


def decide(
    accounts: Mapping[str, Account],
    recorded: Mapping[str, Operation],
    requests: Iterable[PostingRequest],
) -> Decisions:
    """Decide on `requests` in order. A batch has the same result as its requests one by one.

    `accounts` are those of the users in the batch, by user id. A user without one is unknown.
    `recorded` are the operations in the ledger that have a ref of `requests`, by ref.
    """
    current = dict(accounts)
    known = dict(recorded)
    outcomes: list[Operation | Conflict] = []
    new_operations: list[Operation] = []
    for request in requests:
        operation = known.get(request.ref)
        if operation is None:
            account = current.get(request.user_id)
            operation = _decide_one(account, request)
            known[request.ref] = operation
            new_operations.append(operation)
            if account:
                current[account.user_id] = Account(
                    user_id=account.user_id,
                    balance_minor=operation.balance_after_minor,
                    last_seq=operation.seq,
                )
        outcomes.append(operation if _matches(operation, request) else Conflict())
    return Decisions(
        outcomes=outcomes,
        new_operations=new_operations,
        changed_accounts=[
            account
            for user_id, account in current.items()
            if account != accounts[user_id]
        ],
    )


def _decide_one(account: Account | None, request: PostingRequest) -> Operation:
    """Decide on a request whose ref has no operation yet."""
    reason = _refusal_reason(account, request)
    balance_minor = account.balance_minor if account else 0
    if reason is None:
        is_deposit = request.kind == "deposit"
        balance_minor += request.amount_minor if is_deposit else -request.amount_minor
    return Operation(
        id=request.id,
        ref=request.ref,
        user_id=request.user_id,
        seq=account.last_seq + 1 if account else 0,
        kind=request.kind,
        amount_minor=request.amount_minor,
        status="refused" if reason else "done",
        reason=reason,
        balance_after_minor=balance_minor,
        created_at=request.requested_at,
    )


def _refusal_reason(account: Account | None, request: PostingRequest) -> Reason | None:
    """Return why the request is refused, or None."""
    if account is None:
        return "unknown-user"
    if request.cancels:
        return "cancelled"
    if request.kind == "deposit":
        is_over_limit = account.balance_minor + request.amount_minor > MAX_BALANCE_MINOR
        return "balance-limit" if is_over_limit else None
    return (
        "insufficient-funds" if request.amount_minor > account.balance_minor else None
    )


def _matches(operation: Operation, request: PostingRequest) -> bool:
    """Return whether the operation has the request's user, kind and amount."""
    return (request.user_id, request.kind, request.amount_minor) == (
        operation.user_id,
        operation.kind,
        operation.amount_minor,
    )


def describe_difference(
    stored: Account, computed: Account, invalid_operations: int
) -> str | None:
    """Return a line on how an account differs from its ledger, or None if it does not.

    `computed` is the account that follows from the operations. `invalid_operations` counts the
    operations whose `seq` or balance does not follow from the previous operation.
    """
    if stored == computed and not invalid_operations:
        return None
    return (
        f"{stored.user_id}: the account has {stored.balance_minor}"
        f" after operation {stored.last_seq},"
        f" the ledger comes to {computed.balance_minor}"
        f" after operation {computed.last_seq},"
        f" invalid operations: {invalid_operations}"
    )


def currency_error(stored: BooksCurrency | None, configured: BooksCurrency) -> str:
    """Return the line for an operator who has set CURRENCY to another currency than the stored one.

    `stored` is None for operations of an earlier version, which did not store a currency. Their
    amounts have two digits after the point.
    """
    found = (
        f"in {stored.currency} with {stored.exponent}"
        if stored
        else "of an earlier version, with 2"
    )
    return (
        f"billing: CURRENCY is {configured.currency} with {configured.exponent} digits after the"
        f" point, the books are {found}: see Another currency in docs/operations.md"
    )

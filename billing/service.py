"""billing, top to bottom: what it needs, what it answers, what it listens to."""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import uuid_utils
from marshmallow import Schema
from prometheus_client import Gauge
from sqlalchemy import Connection

from billing import domain, models, store
from billing.books import Books
from billing.domain import Conflict, Operation, Request
from billing.exceptions import RefTaken
from billing.schemas import (
    Movement,
    OfUser,
    OperationOut,
    OrderWithdrawal,
    StatementQuery,
    Withdrawal,
)
from chassis.errors import DeadlineExceeded, InternalError, Unavailable
from chassis.events import event_handler
from chassis.outcomes import Outcome, Outcomes, map_valid_items, page, validated
from chassis.rpc import RpcProxy, rpc
from chassis.timers import timer

OPERATION = OperationOut()
DEPOSIT, WITHDRAWAL, CANCELLATION = Movement(), Withdrawal(), OrderWithdrawal()
ACCOUNT_QUERY = OfUser()
UNAVAILABLE: Outcome = {
    "status": "unavailable"
}  # users can't be asked now: nothing is decided
AUDIT_EVERY_S = 3600
AUDIT_BATCH = 200  # accounts
MAX_TOLD = 100  # differences
AUDIT_DIFFERENCES = Gauge(
    "shop_audit_differences", "Found by billing's last audit of itself."
)
AUDITED_AT = Gauge("shop_audit_timestamp_seconds", "When that audit ended.")
MAX_SETTLEMENTS = 5  # of one batch
ASK_USERS_S = (
    1.0  # well within every caller's deadline: the batch holds other users' items too
)


class Service:
    """Accounts and their ledger.

    The `*_many` methods take a list of items and answer a list of outcomes in that order: the
    operation (`status` done or refused, with a `reason`), or {"status": "conflict"} where the ref
    stands for something else, {"status": "invalid", "errors": ...}, {"status": "unavailable"}.
    """

    name = "billing"

    db = Books(models.Base)
    users = RpcProxy("users", ["get_many"], limit_s=ASK_USERS_S)

    @rpc
    def deposit_many(self, items: Outcomes) -> Outcomes:
        """Put money on accounts; an item is {user_id, amount_minor, key or ref}."""
        return self._move(items, DEPOSIT, domain.DEPOSIT)

    @rpc
    def deposit(self, **item: Any) -> Outcome:
        """Put money on an account: `user_id`, `amount_minor`, `ref` (or `key`)."""
        return self.deposit_many([item])[0]

    @rpc
    def withdraw_many(self, items: Outcomes) -> Outcomes:
        """Take money off accounts; an item is {user_id, amount_minor, order_id or key or ref}."""
        return self._move(items, WITHDRAWAL, domain.WITHDRAWAL)

    @rpc
    def withdraw(self, **item: Any) -> Outcome:
        """Take money off an account: `user_id`, `amount_minor`, `order_id` (or `key` or `ref`)."""
        return self.withdraw_many([item])[0]

    @rpc
    def cancel_many(self, items: Outcomes) -> Outcomes:
        """Store that withdrawals for orders are refused, unless they are done: each answers which."""
        return self._move(items, CANCELLATION, domain.WITHDRAWAL, cancels=True)

    @rpc
    def cancel(self, **item: Any) -> Outcome:
        """Make sure that a withdrawal never happens: `order_id`, `user_id`, `amount_minor`."""
        return self.cancel_many([item])[0]

    @rpc
    @validated(ACCOUNT_QUERY)
    def open_account(self, user_id: str, **_: Any) -> Outcome:
        """Open a user's account (`user_id`) by hand, without asking users; the account."""
        self._open([user_id])
        return self.account(user_id=user_id)

    @rpc
    def account_many(self, items: Outcomes) -> Outcomes:
        """The accounts of users. An item is {user_id}.

        {"status": "open", user_id, balance_minor, currency, exponent}, or a status of unknown-user,
        unavailable, invalid.
        """
        return map_valid_items(ACCOUNT_QUERY, items, self._accounts)

    @rpc
    def account(self, **item: Any) -> Outcome:
        """One user's account: `user_id`."""
        return self.account_many([item])[0]

    @rpc
    @validated(StatementQuery())
    def statement(self, user_id: str, limit: int, after: str | None) -> Outcome:
        """A user's operations: `user_id`, `limit` (1 to 100), `after` (a previous answer's `next`).

        {"items": [operation, ...] newest first, "next": ...}
        """
        with self.db.autocommit() as connection:
            rows = store.statement(connection, user_id, limit + 1, after)
        return page(OPERATION.dump(rows, many=True), limit, "seq")

    @timer(interval=AUDIT_EVERY_S)
    @rpc
    def audit(self) -> Outcome:
        """Whether each account is what its ledger comes to.

        {"status": "balanced" or "differs", "accounts": n, "operations": n, "balance_minor": sum,
        "differences": [line, ...]} (100 at most).
        """
        seen = Counter(accounts=0, operations=0, balance_minor=0)
        lines: list[str] = []
        wrong = 0
        with self.db.transaction() as connection:
            for account, ledger, wrong_operations in store.ledgers(
                connection, AUDIT_BATCH
            ):
                seen.update(
                    accounts=1,
                    operations=ledger.last_seq,
                    balance_minor=account.balance_minor,
                )
                if line := domain.difference(account, ledger, wrong_operations):
                    wrong += 1
                    if len(lines) < MAX_TOLD:
                        lines.append(line)
        AUDIT_DIFFERENCES.set(wrong)
        AUDITED_AT.set_to_current_time()
        return {
            "status": "differs" if wrong else "balanced",
            **seen,
            "differences": lines,
        }

    @event_handler("users", "user_created")
    def handle_user_created(self, events: list[dict[str, Any]]) -> None:
        """Open the new users' accounts."""
        self._open([event["user_id"] for event in events])

    def _move(
        self,
        items: Outcomes,
        schema: Schema,
        kind: domain.Kind,
        *,
        cancels: bool = False,
    ) -> Outcomes:
        """Settle together what is right of the items, answer all in order."""

        def settle(right: Outcomes) -> Iterable[Outcome]:
            return map(
                _out, self._settle([_request(item, kind, cancels) for item in right])
            )

        return map_valid_items(schema, items, settle)

    def _settle(self, requests: Sequence[Request]) -> list[Operation | Conflict | None]:
        """The outcome of each request; None where it can't be decided now. Raises Unavailable."""
        for _ in range(MAX_SETTLEMENTS):
            with suppress(
                RefTaken
            ):  # a committed transaction took it: the next attempt finds it
                return self._try_to_settle(requests)
        # Nothing is committed.
        raise Unavailable("billing is busy: other requests take the same refs")

    def _try_to_settle(
        self, requests: Sequence[Request]
    ) -> list[Operation | Conflict | None]:
        user_ids = {request.user_id for request in requests}
        with self.db.transaction() as connection:
            accounts = store.accounts(connection, user_ids, lock=True)
            missing = user_ids - accounts.keys()
            if not missing:
                return list(_record(connection, accounts, requests))
        undecided = self._open_missing(missing)
        decidable = [r for r in requests if r.user_id not in undecided]
        with self.db.transaction() as connection:
            accounts = store.accounts(connection, user_ids, lock=True)
            decided = iter(_record(connection, accounts, decidable))
        return [None if r.user_id in undecided else next(decided) for r in requests]

    def _open_missing(self, user_ids: set[str]) -> set[str]:
        """Open accounts whose `user_created` is still on its way. Those of users nobody knows stay
        missing; returned are those that can't be decided, because users does not answer."""
        try:
            known = self.users.get_many(user_ids=sorted(user_ids))
        except (DeadlineExceeded, Unavailable, InternalError):
            return user_ids
        self._open([user["id"] for user in known if user])
        return set()

    def _open(self, user_ids: Sequence[str]) -> None:
        with self.db.autocommit() as connection:
            store.open_accounts(connection, user_ids)

    def _read_accounts(self, user_ids: set[str]) -> dict[str, domain.Account]:
        with self.db.autocommit() as connection:
            return store.accounts(connection, user_ids)

    def _accounts(self, items: Outcomes) -> Outcomes:
        user_ids = {item["user_id"] for item in items}
        accounts = self._read_accounts(user_ids)
        undecided: set[str] = set()
        if missing := user_ids - accounts.keys():
            undecided = self._open_missing(missing)
            accounts |= self._read_accounts(missing)
        return [
            self._account_out(item["user_id"], accounts, undecided) for item in items
        ]

    def _account_out(
        self, user_id: str, accounts: dict[str, domain.Account], undecided: set[str]
    ) -> Outcome:
        if account := accounts.get(user_id):
            return {
                "status": "open",
                "user_id": user_id,
                "balance_minor": account.balance_minor,
                **self.db.unit._asdict(),
            }
        return UNAVAILABLE if user_id in undecided else {"status": domain.UNKNOWN_USER}


def _request(item: dict[str, Any], kind: domain.Kind, cancels: bool) -> Request:
    return Request(
        id=str(uuid_utils.uuid7()),
        ref=domain.ref_of(item),
        user_id=item["user_id"],
        kind=kind,
        amount_minor=item["amount_minor"],
        at=datetime.now(UTC),
        cancels=cancels,
    )


def _record(
    connection: Connection,
    accounts: dict[str, domain.Account],
    requests: Sequence[Request],
) -> list[Operation | Conflict]:
    """Decide over a batch whose accounts are locked, and write what is new."""
    decisions = domain.decide(
        accounts,
        recorded=store.recorded(connection, {request.ref for request in requests}),
        requests=requests,
    )
    if decisions.operations:
        store.write(connection, decisions.operations, decisions.accounts)
    return decisions.outcomes


def _out(result: Operation | Conflict | None) -> Outcome:
    if result is None:
        return UNAVAILABLE
    return (
        {"status": "conflict"}
        if isinstance(result, Conflict)
        else OPERATION.dump(result)
    )

"""The service billing: dependencies, RPC methods, events, then the steps of posting."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import uuid_utils
from marshmallow import Schema
from prometheus_client import Gauge
from sqlalchemy import Connection

from billing import domain, models, schemas, store
from billing.database import BillingDatabase
from billing.domain import Account, Conflict, Operation, PostingRequest
from billing.exceptions import RefTaken
from chassis.errors import FAULTS, Unavailable
from chassis.events import event_handler
from chassis.outcomes import (
    Items,
    Outcome,
    Outcomes,
    merge_outcomes,
    page,
    validate_items,
    validated,
)
from chassis.rpc import RpcProxy, rpc
from chassis.timers import timer

DEPOSIT = schemas.Deposit()
WITHDRAWAL = schemas.Withdrawal()
CANCELLATION = schemas.Cancellation()
USER_REQUEST = schemas.UserRequest()
OPERATION = schemas.OperationOut()
# None means undecided: the service `users` is unavailable, so billing cannot verify that the user
# exists.
PostingOutcome = Operation | Conflict | None
UNAVAILABLE: Outcome = {"status": "unavailable"}
# Short, because the whole batch waits, and most of its users already have an account.
USERS_TIMEOUT_S = 1.0
MAX_POST_ATTEMPTS = 5
AUDIT_INTERVAL_S = 3600
AUDIT_BATCH_SIZE = 200  # accounts
MAX_LISTED_DIFFERENCES = 100
AUDIT_DIFFERENCES = Gauge(
    "shop_audit_differences",
    "Accounts that differed from their operations in billing's last audit.",
)
AUDITED_AT = Gauge(
    "shop_audit_timestamp_seconds", "Unix time at which billing's last audit ended."
)


class Service:
    """Keeps accounts and their ledger.

    A method `*_many` returns a list of outcomes, one for each item, in order. The outcome of a
    deposit, a withdrawal or a cancellation is the operation in the ledger: done, or refused with a
    `reason`. Other outcomes are {"status": "conflict"} if the operation ref already belongs to an
    operation with another user, kind or amount, {"status": "invalid", "errors": ...} and
    {"status": "unavailable"}.

    One argument identifies an item: `key` (a client's idempotency key), `ref` (an operator's text)
    or `order_id`. `domain.ref_of` makes the operation ref from it.
    """

    name = "billing"

    db = BillingDatabase(models.Base)
    users = RpcProxy("users", ["get_many"], limit_s=USERS_TIMEOUT_S)

    @rpc
    def deposit_many(self, items: Items) -> Outcomes:
        """Deposit money. An item is {user_id, amount_minor, key or ref}."""
        return self._post(items, DEPOSIT, "deposit")

    @rpc
    def deposit(self, **item: Any) -> Outcome:
        """Deposit money: `user_id`, `amount_minor`, `ref` (or `key`)."""
        return self.deposit_many([item])[0]

    @rpc
    def withdraw_many(self, items: Items) -> Outcomes:
        """Withdraw money. An item is {user_id, amount_minor, order_id or key or ref}."""
        return self._post(items, WITHDRAWAL, "withdrawal")

    @rpc
    def withdraw(self, **item: Any) -> Outcome:
        """Withdraw money: `user_id`, `amount_minor`, `order_id` (or `key` or `ref`)."""
        return self.withdraw_many([item])[0]

    @rpc
    def cancel_many(self, items: Items) -> Outcomes:
        """Cancel withdrawals for orders. An item is {user_id, amount_minor, order_id}.

        A cancelled withdrawal is stored as refused, so a late withdrawal for the order moves no
        money. A withdrawal that is already done stays done.
        """
        return self._post(items, CANCELLATION, "withdrawal", cancels=True)

    @rpc
    def cancel(self, **item: Any) -> Outcome:
        """Cancel the withdrawal for an order: `order_id`, `user_id`, `amount_minor`."""
        return self.cancel_many([item])[0]

    @rpc
    @validated(USER_REQUEST)
    def open_account(self, user_id: str, **_: Any) -> Outcome:
        """Open a user's account without a call to the service `users`. Returns the account."""
        self._open_accounts([user_id])
        return self.account(user_id=user_id)

    @rpc
    def account_many(self, items: Items) -> Outcomes:
        """Return the accounts of users. An item is {user_id}.

        The outcome is {"status": "open", user_id, balance_minor, currency, exponent}, or it has
        the status unknown-user, unavailable or invalid.
        """
        valid, invalid = validate_items(USER_REQUEST, items)
        return merge_outcomes(invalid, self._load_or_open_accounts(valid))

    @rpc
    def account(self, **item: Any) -> Outcome:
        """Return the account of a user: `user_id`."""
        return self.account_many([item])[0]

    @rpc
    @validated(schemas.StatementQuery())
    def statement(self, user_id: str, limit: int, after: str | None) -> Outcome:
        """List a user's operations: `user_id`, `limit` (1 to 100), `after` (the `next` of a page).

        Returns {"items": [operation, ...], "next": ...}, newest first.
        """
        with self.db.autocommit() as connection:
            operations = store.load_page(connection, user_id, limit + 1, after)
        return page(OPERATION.dump(operations, many=True), limit, "seq")

    @rpc
    @validated(schemas.WithdrawalQuery())
    def get_withdrawal(self, user_id: str, **item: str) -> Outcome | None:
        """Return the operation of the withdrawal for an order: `order_id`, `user_id`.

        None if billing has not recorded it, or it belongs to another user.
        """
        ref = domain.ref_of(item)
        with self.db.autocommit() as connection:
            found = store.load_operations(connection, [ref]).get(ref)
        return OPERATION.dump(found) if found and found.user_id == user_id else None

    @timer(interval=AUDIT_INTERVAL_S)
    @rpc
    def audit(self) -> Outcome:
        """Compare each account with its operations.

        Returns {"status": "balanced" or "differs", "accounts": n, "operations": n,
        "balance_minor": sum, "differences": [line, ...]} with at most 100 lines.
        """
        # The last_seq of a computed account is the count of its operations.
        totals = Counter(accounts=0, operations=0, balance_minor=0)
        lines: list[str] = []
        differences = 0
        with self.db.transaction() as connection:
            for stored, computed, invalid_operations in store.load_ledgers(
                connection, AUDIT_BATCH_SIZE
            ):
                totals.update(
                    accounts=1,
                    operations=computed.last_seq,
                    balance_minor=stored.balance_minor,
                )
                if line := domain.describe_difference(
                    stored, computed, invalid_operations
                ):
                    differences += 1
                    if differences <= MAX_LISTED_DIFFERENCES:
                        lines.append(line)
        AUDIT_DIFFERENCES.set(differences)
        AUDITED_AT.set_to_current_time()
        return {
            "status": "differs" if differences else "balanced",
            **totals,
            "differences": lines,
        }

    @event_handler("users", "user_created")
    def handle_user_created(self, events: list[dict[str, Any]]) -> None:
        """Open the accounts of new users."""
        self._open_accounts([event["user_id"] for event in events])

    def _post(
        self,
        items: Items,
        schema: Schema,
        kind: domain.Kind,
        *,
        cancels: bool = False,
    ) -> Outcomes:
        """Post all valid items in one transaction. Return outcomes in request order."""
        valid, invalid = validate_items(schema, items)
        requests = [
            PostingRequest(
                id=str(uuid_utils.uuid7()),
                ref=domain.ref_of(item),
                user_id=item["user_id"],
                kind=kind,
                amount_minor=item["amount_minor"],
                requested_at=datetime.now(UTC),
                cancels=cancels,
            )
            for item in valid
        ]
        return merge_outcomes(
            invalid, [_serialize_outcome(each) for each in self._post_batch(requests)]
        )

    def _post_batch(
        self, requests: Sequence[PostingRequest]
    ) -> Sequence[PostingOutcome]:
        """Post a batch. Retry it if another transaction uses one of its refs at the same time.

        The locks of accounts do not exclude this: the two requests may name different users, or a
        user who has no account to lock. An attempt that fails commits nothing. The next one finds
        the operation of the other transaction.
        """
        for _ in range(MAX_POST_ATTEMPTS):
            with suppress(RefTaken):
                return self._try_to_post(requests)
        raise Unavailable("billing is busy: other requests use the same refs")

    def _try_to_post(
        self, requests: Sequence[PostingRequest]
    ) -> Sequence[PostingOutcome]:
        """Lock the accounts, then decide and insert. If accounts are missing, open them first.

        No transaction is open during the call to the service `users`.
        """
        user_ids = {request.user_id for request in requests}
        with self.db.transaction() as connection:
            accounts = store.load_accounts(connection, user_ids, lock=True)
            missing = user_ids - accounts.keys()
            if not missing:
                return _decide_and_insert(connection, accounts, requests)
        unverified = self._open_missing_accounts(missing)
        decidable = [r for r in requests if r.user_id not in unverified]
        with self.db.transaction() as connection:
            accounts = store.load_accounts(connection, user_ids, lock=True)
            outcomes = _decide_and_insert(connection, accounts, decidable)
        decided = {
            r.id: outcome for r, outcome in zip(decidable, outcomes, strict=True)
        }
        return [decided.get(request.id) for request in requests]

    def _open_missing_accounts(self, user_ids: set[str]) -> set[str]:
        """Open the accounts of users whose `user_created` has not arrived yet.

        Returns the ids that could not be verified, because the service `users` is unavailable. If
        any other id still has no account, no such user exists.
        """
        try:
            found = self.users.get_many(user_ids=sorted(user_ids))
        except FAULTS:
            return user_ids
        self._open_accounts([user["id"] for user in found if user])
        return set()

    def _open_accounts(self, user_ids: Sequence[str]) -> None:
        with self.db.autocommit() as connection:
            store.open_accounts(connection, user_ids)

    def _load_or_open_accounts(self, items: Items) -> Outcomes:
        """Load the accounts. If some are missing, open them and load them again."""
        user_ids = {item["user_id"] for item in items}
        unverified: set[str] = set()
        accounts = self._load_accounts(user_ids)
        if missing := user_ids - accounts.keys():
            unverified = self._open_missing_accounts(missing)
            accounts |= self._load_accounts(missing)
        return [
            self._serialize_account(item["user_id"], accounts, unverified)
            for item in items
        ]

    def _load_accounts(self, user_ids: set[str]) -> dict[str, Account]:
        with self.db.autocommit() as connection:
            return store.load_accounts(connection, user_ids)

    def _serialize_account(
        self, user_id: str, accounts: dict[str, Account], unverified: set[str]
    ) -> Outcome:
        if account := accounts.get(user_id):
            return {
                "status": "open",
                "user_id": user_id,
                "balance_minor": account.balance_minor,
                **self.db.currency._asdict(),
            }
        return UNAVAILABLE if user_id in unverified else {"status": "unknown-user"}


def _decide_and_insert(
    connection: Connection,
    accounts: dict[str, Account],
    requests: Sequence[PostingRequest],
) -> Sequence[PostingOutcome]:
    """Decide on a batch whose accounts are locked, and insert its new operations."""
    decisions = domain.decide(
        accounts,
        store.load_operations(connection, {request.ref for request in requests}),
        requests,
    )
    if decisions.new_operations:
        store.insert_operations(
            connection, decisions.new_operations, decisions.changed_accounts
        )
    return decisions.outcomes


def _serialize_outcome(outcome: PostingOutcome) -> Outcome:
    if outcome is None:
        return UNAVAILABLE
    if isinstance(outcome, Conflict):
        return {"status": "conflict"}
    return OPERATION.dump(outcome)

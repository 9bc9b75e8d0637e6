"""The service orders: dependencies, RPC methods, timers, then the steps of placing an order."""

import logging
import random
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, ClassVar

import uuid_utils
from prometheus_client import Gauge

from chassis.db import Database
from chassis.logs import current_request_id
from chassis.outbox import Outbox
from chassis.outcomes import (
    Items,
    Outcome,
    Outcomes,
    check_list,
    merge_outcomes,
    page,
    validate_items,
    validated,
)
from chassis.rpc import CallId, RpcProxy, rpc
from chassis.schemas import is_id
from chassis.timers import timer
from orders import domain, models, schemas, store
from orders.events import settlement_event
from orders.store import Order

log = logging.getLogger(__name__)

NEW_ORDER = schemas.NewOrder()
ORDER = schemas.OrderOut()
HISTORY = schemas.HistoryOut()
CONFLICT: Outcome = {"status": "conflict"}
SWEEP_INTERVAL_S = 1
MAX_SWEPT = 200  # orders
# A sweep claims orders for this time. If it crashes, they are due again afterwards.
LEASE = timedelta(seconds=30)
# Sweeps read only orders that became due within this time. A longer search reads index entries of
# settled orders, which PostgreSQL keeps while an old snapshot is open. `measure` finds the orders
# that this misses. It must be longer than any transaction that sets next_attempt_at, or a sweep
# could miss an order that is committed late.
LOOKBACK = timedelta(seconds=10)
MEASURE_INTERVAL_S = 15
OLDEST_PENDING = Gauge(
    "shop_oldest_pending_seconds", "Age of the oldest pending order."
)


class Service:
    """Places orders and settles them.

    A new order is stored as pending. Then billing withdraws its price, which settles the order:
    it becomes paid or rejected, and its event is emitted. The sweeper retries orders that a crash
    or an outage left pending.
    """

    name = "orders"

    db = Database(models.Base)
    outbox = Outbox()
    call_id = CallId()
    billing = RpcProxy(
        "billing", batched=["withdraw", "cancel"], timeout_setting="WITHDRAW_TIMEOUT_S"
    )
    # Whether the next sweep searches all pending orders, because one may have been due for longer
    # than LOOKBACK.
    search_all: ClassVar[bool] = True

    @rpc
    def place_many(self, items: Items) -> Outcomes:
        """Place orders. An item is {user_id, price_minor, key, request_id}.

        An outcome is the order with its current status: pending, paid or rejected. It is
        {"status": "conflict"} if the key belongs to an order with another price, and
        {"status": "invalid", "errors": ...} for an invalid item.
        """
        valid, invalid = validate_items(NEW_ORDER, items)
        return merge_outcomes(invalid, self._place(valid))

    @rpc
    def place(self, **item: Any) -> Outcome:
        """Place an order: `user_id`, `price_minor`, `key`.

        Without a key, each call places a new order. The id of the call is its key then, so a
        redelivery of the same call places no second order.
        """
        item = {"key": self.call_id, "request_id": current_request_id(), **item}
        return self.place_many([item])[0]

    @rpc
    def get(self, order_id: str, user_id: str | None = None) -> Outcome | None:
        """Return an order, or None. With `user_id`, only an order of this user is found."""
        [order] = self.get_many([order_id])
        return order if order and user_id in (None, order["user_id"]) else None

    @rpc
    def get_many(self, order_ids: Sequence[str]) -> Sequence[Outcome | None]:
        """Return the orders with these ids, in order. An unknown id has None."""
        check_list(order_ids, "order_ids")
        valid = [id_ for id_ in order_ids if is_id(id_)]
        with self.db.autocommit() as connection:
            orders = store.load_by_ids(connection, valid)
        return [
            ORDER.dump(orders[id_]) if is_id(id_) and id_ in orders else None
            for id_ in order_ids
        ]

    @rpc
    @validated(schemas.HistoryQuery())
    def get_history(self, **query: str) -> Outcome | None:
        """Return an order with its attempts and its publication: `order_id`, `user_id`.

        None if the user has no such order. Settled orders keep the count of their attempts.
        """
        with self.db.autocommit() as connection:
            order = store.load_history(connection, **query)
        return HISTORY.dump(order) if order else None

    @rpc
    @validated(schemas.OrderQuery())
    def list(self, user_id: str, limit: int, after: str | None) -> Outcome:
        """List a user's orders: `user_id`, `limit` (1 to 100), `after` (the `next` of a page).

        Returns {"items": [order, ...], "next": ...}, newest first.
        """
        with self.db.autocommit() as connection:
            orders = store.load_page(connection, user_id, limit + 1, after)
        return page(ORDER.dump(orders, many=True), limit, "id")

    @timer(interval=SWEEP_INTERVAL_S)
    def sweep(self) -> None:
        """Retry the pending orders that are due. Cancel the withdrawals of overdue ones."""
        lookback = None if Service.search_all else LOOKBACK
        # Reset before the search: `measure` may set it again meanwhile.
        Service.search_all = False
        with self.db.autocommit() as connection:
            due = store.claim_due(connection, MAX_SWEPT, LEASE, lookback)
        # A full claim may have left due orders behind.
        Service.search_all = Service.search_all or len(due) == MAX_SWEPT
        if not due:
            return
        log.info("pending_orders_claimed", extra={"orders": len(due)})
        recent = [order for order in due if not domain.is_overdue(order.age)]
        overdue = [order for order in due if domain.is_overdue(order.age)]
        self._settle(recent, self.billing.withdraw.many(_withdrawals(recent)))
        self._settle(overdue, self.billing.cancel.many(_withdrawals(overdue)))
        with self.db.autocommit() as connection:
            store.schedule_retries(
                connection,
                {
                    order.id: domain.retry_delay_s(order.attempts, random.random())
                    for order in due
                },
            )

    @timer(interval=MEASURE_INTERVAL_S, eager=True)
    def measure(self) -> None:
        """Set the metric of the oldest pending order, and detect orders that sweeps missed."""
        with self.db.autocommit() as connection:
            oldest_s, has_missed = store.measure_pending(connection, LOOKBACK)
        OLDEST_PENDING.set(oldest_s)
        Service.search_all = Service.search_all or has_missed

    def _place(self, items: Items) -> Outcomes:
        """Store the new orders before any money moves, then withdraw their prices and settle."""
        if not items:
            return []
        wanted = [{"id": str(uuid_utils.uuid7()), **item} for item in items]
        with self.db.autocommit() as connection:
            new = store.insert_new(connection, wanted, domain.FIRST_RETRY_AFTER)
            # If all are new, none has to be loaded.
            orders = (
                new
                if len(new) == len(wanted)
                else store.load_by_user_keys(connection, wanted)
            )
        outcomes = self.billing.withdraw.many(_withdrawals(new.values()))
        for order in self._settle(new.values(), outcomes):
            orders[order.user_id, order.key] = order
        found = [orders[item["user_id"], item["key"]] for item in items]
        # A key that belongs to an order with another price is a conflict.
        return [
            ORDER.dump(order) if order.price_minor == item["price_minor"] else CONFLICT
            for order, item in zip(found, items, strict=True)
        ]

    def _settle(
        self, orders: Collection[Order], outcomes: Sequence[Any]
    ) -> Collection[Order]:
        """Settle the orders whose outcome is known, and return them. The others stay pending.

        `outcomes` has, for each order, the outcome from billing or the fault of the call.
        """
        settlements: dict[str, domain.Settlement] = {}
        for order, outcome in zip(orders, outcomes, strict=True):
            if settlement := domain.settlement_of(order.id, outcome):
                settlements[order.id] = settlement
            elif domain.is_defective_request(outcome):
                log.error(
                    "billing_request_rejected",
                    extra={"order_id": order.id, "outcome": outcome},
                )
        if unknown := len(orders) - len(settlements):
            log.warning("order_outcomes_unknown", extra={"orders": unknown})
        if not settlements:
            return []
        events = [
            settlement_event(order, settlements[order.id])
            for order in orders
            if order.id in settlements
        ]
        with self.db.autocommit() as connection:
            settled = store.settle(
                connection, self.outbox, list(settlements.values()), events
            )
            if len(settled) == len(settlements):
                return settled
            # A concurrent attempt has settled the others. Load all as they are stored.
            return store.load_by_ids(connection, list(settlements)).values()


def _withdrawals(orders: Collection[Order]) -> Items:
    """Build the items that billing withdraws or cancels.

    The id of an order identifies its withdrawal. So a retry never withdraws twice.
    """
    return [
        {
            "order_id": order.id,
            "user_id": order.user_id,
            "amount_minor": order.price_minor,
            "request_id": order.request_id,
        }
        for order in orders
    ]

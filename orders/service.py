"""orders, top to bottom: what it needs, what it answers, what it does by the clock."""

import logging
import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, ClassVar

import uuid_utils
from prometheus_client import Gauge

from chassis.db import Database
from chassis.logs import current_request_id
from chassis.outbox import Outbox
from chassis.outcomes import Outcome, Outcomes, map_valid_items, page, validated
from chassis.rpc import CallId, RpcProxy, rpc
from chassis.schemas import is_id
from chassis.timers import timer
from orders import domain, models, store
from orders.events import order_ended
from orders.schemas import NewOrder, OrderOut, OrderQuery

log = logging.getLogger(__name__)

ORDER, NEW_ORDER = OrderOut(), NewOrder()
SWEEP_EVERY_S = 1
SWEEP_AT_MOST = 200
MEASURE_EVERY_S = 15
OLDEST_PENDING = Gauge(
    "shop_oldest_pending_seconds", "Age of the oldest pending order."
)
LEASE = timedelta(seconds=30)  # a sweeper that dies gives its orders back after this
REACH = timedelta(
    seconds=10
)  # longer than a statement takes, from its now() to its commit


class Service:
    """Orders, settled in two stages: billing takes the money, then the user gets a letter."""

    name = "orders"

    db = Database(models.Base)
    outbox = Outbox()
    call_id = CallId()
    billing = RpcProxy(
        "billing", batched=["withdraw", "cancel"], timeout="WITHDRAW_TIMEOUT_S"
    )
    is_behind: ClassVar[bool] = (
        True  # whether an order may have been due for REACH or longer
    )

    @rpc
    def place_many(self, items: Outcomes) -> Outcomes:
        """Place orders; an item is {user_id, price_minor, key, request_id}.

        Answers in that order: the order as it stands (`status` pending, paid or rejected), or `status`
        conflict, where the key stands for an order with another price, or invalid, with `errors`.
        """
        return map_valid_items(NEW_ORDER, items, self._place)

    @rpc
    def place(self, **item: Any) -> Outcome:
        """Place an order: `user_id`, `price_minor`, `key`.

        Without a key it is the call's own id: another call is another order, the same one delivered
        again is not.
        """
        item = {"key": self.call_id, "request_id": current_request_id(), **item}
        return self.place_many([item])[0]

    @rpc
    def get(self, order_id: str, user_id: str | None = None) -> Outcome | None:
        """The order with this id (of this user, where one is given), or None."""
        if not is_id(order_id):
            return None
        with self.db.autocommit() as connection:
            order = store.by_ids(connection, [order_id]).get(order_id)
        return ORDER.dump(order) if order and user_id in (None, order.user_id) else None

    @rpc
    @validated(OrderQuery())
    def list(self, user_id: str, limit: int, after: str | None) -> Outcome:
        """A user's orders: `user_id`, `limit` (1 to 100), `after` (a previous answer's `next`).

        {"items": [order, ...] newest first, "next": ...}
        """
        with self.db.autocommit() as connection:
            rows = store.of_user(connection, user_id, limit + 1, after)
        return page(ORDER.dump(rows, many=True), limit, "id")

    @timer(interval=SWEEP_EVERY_S)
    def sweep(self) -> None:
        """Finish what a crash or a part that was away left pending, for as long as it takes."""
        reach = None if Service.is_behind else REACH
        Service.is_behind = False  # `measure` may set it while this waits
        with self.db.autocommit() as connection:
            due = store.claim_due(connection, SWEEP_AT_MOST, LEASE, reach)
        Service.is_behind |= len(due) == SWEEP_AT_MOST
        if not due:
            return
        log.info("pending_orders_claimed", extra={"orders": len(due)})
        self._settle([order for order in due if not domain.is_overdue(order.age)])
        self._settle(
            [order for order in due if domain.is_overdue(order.age)], cancel=True
        )
        with self.db.autocommit() as connection:
            store.postpone(
                connection,
                {
                    order.id: domain.wait_s(order.attempts, random.random())
                    for order in due
                },
            )

    @timer(interval=MEASURE_EVERY_S, eager=True)
    def measure(self) -> None:
        """Show the age of the oldest pending order, and notice orders that the sweeper missed."""
        with self.db.autocommit() as connection:
            oldest_s, is_behind = store.measure_pending(connection, REACH)
        OLDEST_PENDING.set(oldest_s)
        Service.is_behind |= is_behind

    def _place(self, items: Outcomes) -> Outcomes:
        """Store the orders before any money moves, settle the new ones, answer each as it stands."""
        if not items:
            return []
        wanted = [{"id": str(uuid_utils.uuid7()), **item} for item in items]
        with self.db.autocommit() as connection:
            new = store.insert_new(connection, wanted, domain.FIRST_LOOK)
            stored = (
                store.by_keys(connection, wanted) if len(new) < len(wanted) else new
            )
        stored |= {
            (order.user_id, order.key): order for order in self._settle([*new.values()])
        }
        return [_out(stored[item["user_id"], item["key"]], item) for item in items]

    def _settle(
        self, orders: Sequence[store.Order], *, cancel: bool = False
    ) -> Sequence[store.Order]:
        """Have billing withdraw the prices (or cancel the withdrawals), and end the orders as it answers.

        Returns those that have ended. The order's id keys the withdrawal: it can always be repeated.
        """
        verb = self.billing.cancel if cancel else self.billing.withdraw
        answers = verb.many(
            [
                {
                    "order_id": order.id,
                    "user_id": order.user_id,
                    "amount_minor": order.price_minor,
                    "request_id": order.request_id,
                }
                for order in orders
            ]
        )
        endings: list[tuple[store.Order, domain.Ending]] = []
        for order, answer in zip(orders, answers, strict=True):
            if ending := domain.ending(order.id, answer):
                endings.append((order, ending))
            elif domain.is_misunderstood(answer):
                log.error(
                    "billing_request_rejected",
                    extra={"order_id": order.id, "outcome": answer},
                )
        if len(endings) < len(orders):
            log.warning(
                "order_outcomes_unknown", extra={"orders": len(orders) - len(endings)}
            )
        return self._end(endings) if endings else []

    def _end(
        self, endings: Sequence[tuple[store.Order, domain.Ending]]
    ) -> Sequence[store.Order]:
        """The one transition of each order, and its event with it."""
        events = [order_ended(order, ending.reason) for order, ending in endings]
        with self.db.autocommit() as connection:
            ended = store.end(
                connection, self.outbox, [ending for _, ending in endings], events
            )
            if len(ended) == len(endings):
                return ended
            # The sweeper, or the first attempt, was quicker with some of them.
            return [
                *store.by_ids(connection, [order.id for order, _ in endings]).values()
            ]


def _out(order: store.Order, item: Outcome) -> Outcome:
    return (
        ORDER.dump(order)
        if order.price_minor == item["price_minor"]
        else {"status": "conflict"}
    )

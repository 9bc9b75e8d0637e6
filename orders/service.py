"""orders, top to bottom: what it needs, what it answers, what it does by the clock."""

import logging
import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import uuid_utils
from marshmallow import ValidationError
from nameko.timer import timer

from chassis.db import Database
from chassis.logs import current_request_id
from chassis.outbox import Outbox
from chassis.rpc import RpcProxy, rpc
from chassis.schemas import is_id, page, split_valid
from orders import domain, models, store
from orders.schemas import NewOrder, OrderOut, OrderQuery

log = logging.getLogger(__name__)

Outcome = dict[str, Any]
Outcomes = list[Outcome]  # named here: inside the class `list` is a method
SWEEP_EVERY_S = 1
SWEEP_AT_MOST = 200
LEASE = timedelta(seconds=30)  # a sweeper that dies gives its orders back after this


class Service:
    """Orders, settled in two stages: billing takes the money, then the user gets a letter."""

    name = "orders"

    db = Database(models.Base)
    outbox = Outbox(models.Outbox)
    billing = RpcProxy("billing", batched=["withdraw", "cancel"], timeout="WITHDRAW_TIMEOUT_S")

    @rpc
    def place_many(self, items: Outcomes) -> Outcomes:
        """Place orders; an item is {user_id, price_minor, key, request_id}.

        Answers in that order: the order as it stands (`status` pending, paid or rejected), or
        {"status": "conflict"} where the key stands for an order with another price, or
        {"status": "invalid", "errors": ...}.
        """
        right, outcomes = split_valid(NewOrder(), items)
        wanted = [{"id": str(uuid_utils.uuid7()), **item} for _, item in right]
        orders, new = self._store(wanted)
        self._settle([order for order in {o["id"]: o for o in orders}.values() if order["id"] in new])
        orders = self._as_they_stand(orders)
        for (position, item), order in zip(right, orders, strict=True):
            outcomes[position] = _out(order, item)
        return [outcomes[position] for position in range(len(items))]

    @rpc
    def place(self, **item: Any) -> Outcome:
        """Place an order: `user_id`, `price_minor`, `key` (made if not given)."""
        item = {"key": str(uuid_utils.uuid7()), "request_id": current_request_id(), **item}
        return self.place_many([item])[0]

    @rpc
    def get(self, order_id: str, user_id: str | None = None) -> Outcome | None:
        """The order with this id (of this user, where one is given), or None."""
        if not is_id(order_id):
            return None
        with self.db.get_session(close_on_exit=True) as session:
            order = store.by_ids(session, [order_id]).get(order_id)
        if order is None or user_id not in (None, order["user_id"]):
            return None
        return _dump(order)

    @rpc
    def list(self, **query: Any) -> Outcome:
        """{"items": [order, ...] newest first, "next": ...}; `user_id`, `limit` (1 to 100), `after`
        (a previous answer's `next`)."""
        try:
            query = OrderQuery().load(query)
        except ValidationError as exc:
            return {"status": "invalid", "errors": exc.messages}
        limit = query["limit"]
        with self.db.get_session(close_on_exit=True) as session:
            rows = store.of_user(session, query["user_id"], limit + 1, query["after"])
        return page(OrderOut(many=True).dump(rows), limit, "id")

    @timer(interval=SWEEP_EVERY_S)
    def sweep(self) -> None:
        """Finish what a crash or a part that was away left pending, for as long as it takes."""
        with self.db.get_session(close_on_exit=True) as session:
            due = store.claim_due(session, SWEEP_AT_MOST, LEASE)
        if not due:
            return
        log.info("settling what is pending", extra={"orders": len(due)})
        self._settle([order for order in due if not domain.is_overdue(order["age"])])
        self._settle([order for order in due if domain.is_overdue(order["age"])], cancel=True)
        waits = {o["id"]: domain.wait_s(o["attempts"], random.random()) for o in due}
        with self.db.get_session(close_on_exit=True) as session:
            store.postpone(session, waits)

    def _store(self, wanted: Sequence[Outcome]) -> tuple[Sequence[store.Row], set[str]]:
        """Store the orders before any money moves: all as they stand, and the ids of the new ones.

        An order whose key is taken is the one that has it.
        """
        if not wanted:
            return [], set()
        with self.db.get_session(close_on_exit=True) as session:
            new = store.insert_new(session, wanted, domain.FIRST_LOOK)
            stored = store.by_keys(session, wanted)
        return [stored[order["user_id"], order["key"]] for order in wanted], new

    def _settle(self, orders: Sequence[store.Row], *, cancel: bool = False) -> None:
        """Have billing withdraw the prices (or promise never to), and end the orders by its word.

        The order's id keys the withdrawal, so this can be repeated at any time.
        """
        verb = self.billing.cancel if cancel else self.billing.withdraw
        answers = verb.many([_withdrawal(order) for order in orders])
        endings = [domain.ending(o["id"], a) for o, a in zip(orders, answers, strict=True)]
        certain = [ending for ending in endings if ending]
        if len(certain) < len(orders):
            log.warning("outcome unknown", extra={"orders": len(orders) - len(certain)})
        if certain:
            self._end(certain)

    def _end(self, endings: Sequence[domain.Ending]) -> None:
        """The one transition of an order, with its event in the same transaction."""
        with self.db.get_session(close_on_exit=True) as session:
            ended = store.end(session, endings)
            paid = [order for order in ended if order["status"] == "paid"]
            rejected = [order for order in ended if order["status"] == "rejected"]
            self.outbox.add(session, "order_paid", [_fact(order) for order in paid])
            self.outbox.add(
                session,
                "order_rejected",
                [{**_fact(order), "reason": order["reason"]} for order in rejected],
            )

    def _as_they_stand(self, orders: Sequence[store.Row]) -> Sequence[store.Row]:
        ids = [order["id"] for order in orders]
        with self.db.get_session(close_on_exit=True) as session:
            now = store.by_ids(session, ids)
        return [now[id_] for id_ in ids]


def _withdrawal(order: store.Row) -> Outcome:
    return {
        "user_id": order["user_id"],
        "amount_minor": order["price_minor"],
        "order_id": order["id"],
        "request_id": order["request_id"],
    }


def _fact(order: store.Row) -> Outcome:
    return {
        "order_id": order["id"],
        "user_id": order["user_id"],
        "price_minor": order["price_minor"],
        "request_id": order["request_id"],
    }


def _out(order: store.Row, item: Outcome) -> Outcome:
    return _dump(order) if order["price_minor"] == item["price_minor"] else {"status": "conflict"}


def _dump(order: store.Row) -> Outcome:
    out: Outcome = OrderOut().dump(order)
    return out

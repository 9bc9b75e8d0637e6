"""The events that orders emits."""

from chassis.outbox import NewEvent
from orders.domain import Settlement
from orders.store import Order


def settlement_event(order: Order, settlement: Settlement) -> NewEvent:
    """Build `order_paid` or `order_rejected`, by the status of the settlement.

    An event is a pair: its type and its payload.
    """
    fields = {
        "order_id": order.id,
        "user_id": order.user_id,
        "price_minor": order.price_minor,
        "request_id": order.request_id,
    }
    if settlement.status == "rejected":
        return "order_rejected", {**fields, "reason": settlement.reason}
    return "order_paid", fields

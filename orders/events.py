"""The events that orders emits."""

from chassis.outbox import Event
from orders.store import Order


def order_settled(order: Order, reason: str | None) -> Event:
    """Build `order_rejected` for an order with a `reason`, and `order_paid` for others.

    An event is a pair: its type and its payload.
    """
    fields = {
        "order_id": order.id,
        "user_id": order.user_id,
        "price_minor": order.price_minor,
        "request_id": order.request_id,
    }
    if reason:
        return "order_rejected", {**fields, "reason": reason}
    return "order_paid", fields

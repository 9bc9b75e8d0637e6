"""The events of orders."""

from chassis.outbox import Event
from orders.store import Order


def order_ended(order: Order, reason: str | None) -> Event:
    """Build `order_paid` or, where there is a `reason`, `order_rejected`."""
    fact = {
        "order_id": order.id,
        "user_id": order.user_id,
        "price_minor": order.price_minor,
        "request_id": order.request_id,
    }
    return (
        ("order_rejected", {**fact, "reason": reason})
        if reason
        else ("order_paid", fact)
    )

"""The arguments and outcomes of the RPC methods of orders. Prices are in minor units."""

from marshmallow import Schema, fields

from chassis.schemas import AmountMinor, Id, PageRequest, Text, Utc
from orders.domain import MAX_PRICE_MINOR


class NewOrder(Schema):
    """An order to place. The idempotency key is unique among the orders of a user."""

    user_id = Id(required=True)
    price_minor = AmountMinor(MAX_PRICE_MINOR, required=True)
    key = Text(1, 255, required=True)
    request_id = Text(1, 128, required=True)


class OrderQuery(PageRequest):
    """A page of a user's orders. `after` is the id of an order."""

    user_id = Id(required=True)


class HistoryQuery(Schema):
    """One order of a user."""

    order_id = Id(required=True)
    user_id = Id(required=True)


# An order. Its status is pending, paid, or rejected with a reason.
OrderOut = Schema.from_dict(
    {
        "id": fields.String(),
        "user_id": fields.String(),
        "price_minor": fields.Integer(),
        "status": fields.String(),
        "reason": fields.String(),
        "created_at": Utc(),
        "ended_at": Utc(),
    },
    name="OrderOut",
)

# An order with the sweeper's attempts and the publication of its event. `published_at` is null
# before the publication, and if it is unknown.
HistoryOut = OrderOut.from_dict(
    {
        "attempts": fields.Integer(),
        "last_attempt_at": Utc(),
        "published_at": Utc(),
        "is_publication_unknown": fields.Boolean(),
    },
    name="HistoryOut",
)

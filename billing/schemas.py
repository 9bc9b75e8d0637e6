"""What crosses the wire to and from billing. Amounts are integers in minor units."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from billing import domain
from chassis.schemas import AmountMinor, Id, PageRequest, Text, Utc


class OfUser(Schema):
    """What concerns a user's account; alone, the account is asked for."""

    user_id = Id(required=True)
    request_id = fields.String()


class Movement(OfUser):
    """A deposit or a withdrawal. Exactly one of `key` (a client's idempotency key), `ref` (a text of
    someone who does it by hand) and, for a withdrawal, `order_id` says whose it is."""

    names: tuple[str, ...] = ("key", "ref")

    amount_minor = AmountMinor(domain.MAX_AMOUNT_MINOR, required=True)
    key = Text(1, 255)
    ref = Text(1, 255)

    @validates_schema
    def has_one_name(self, data: dict[str, Any], **kwargs: Any) -> None:
        if sum(name in data for name in self.names) != 1:
            raise ValidationError(
                f"Give exactly one of {', '.join(self.names)}.", "ref"
            )


class Withdrawal(Movement):
    """A withdrawal may be for an order."""

    names = ("key", "ref", "order_id")

    order_id = Id()


class OrderWithdrawal(OfUser):
    """A withdrawal for an order that must never happen."""

    amount_minor = AmountMinor(domain.MAX_AMOUNT_MINOR, required=True)
    order_id = Id(required=True)


class StatementQuery(PageRequest):
    """A page of an account's statement; `after` is the number of an operation."""

    user_id = Id(required=True)
    after: fields.Field[Any] = fields.String(
        load_default=None,
        allow_none=True,
        validate=validate.Regexp(
            r"\A[1-9][0-9]{0,17}\Z", error="Not a cursor of this list."
        ),
    )


class OperationOut(Schema):
    """An entry of the ledger: `status` is done or refused, `reason` says why it was refused."""

    id = fields.String()
    ref = fields.String()
    user_id = fields.String()
    seq = fields.Integer()
    kind = fields.String()
    amount_minor = fields.Integer()
    status = fields.String()
    reason = fields.String()
    order_id = fields.Function(lambda operation: domain.order_id_of(operation.ref))
    balance_after_minor = fields.Integer()
    created_at = Utc()

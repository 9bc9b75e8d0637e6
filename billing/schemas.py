"""The arguments and outcomes of the RPC methods of billing. Amounts are in minor units."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from billing import domain
from chassis.schemas import AmountMinor, Id, PageRequest, Text, Utc


class UserRequest(Schema):
    """A request about a user's account."""

    user_id = Id(required=True)
    request_id = fields.String()


class Deposit(UserRequest):
    """A deposit, with exactly one of the fields that identify it. `Withdrawal` extends it.

    `key` is the idempotency key of a client, and `ref` is a text that an operator chooses.
    """

    identifiers: tuple[str, ...] = ("key", "ref")

    amount_minor = AmountMinor(domain.MAX_AMOUNT_MINOR, required=True)
    key = Text(1, 255)
    ref = Text(1, 255)

    @validates_schema
    def has_one_identifier(self, data: dict[str, Any], **kwargs: Any) -> None:
        if len(data.keys() & set(self.identifiers)) != 1:
            raise ValidationError(
                f"Give exactly one of {', '.join(self.identifiers)}.", "ref"
            )


class Withdrawal(Deposit):
    """A withdrawal. It may also be identified by the order that it is for."""

    identifiers = ("key", "ref", "order_id")

    order_id = Id()


class WithdrawalQuery(UserRequest):
    """The withdrawal for an order."""

    order_id = Id(required=True)


class Cancellation(WithdrawalQuery):
    """The cancellation of the withdrawal for an order."""

    amount_minor = AmountMinor(domain.MAX_AMOUNT_MINOR, required=True)


class StatementQuery(PageRequest):
    """A page of an account's operations. `after` is the `seq` of an operation."""

    user_id = Id(required=True)
    after: fields.Field[Any] = fields.String(
        load_default=None,
        allow_none=True,
        validate=validate.Regexp(
            r"\A[1-9][0-9]{0,17}\Z", error="Not a cursor of this list."
        ),
    )


# An entry of the ledger. Its status is done, or refused with a reason.
OperationOut = Schema.from_dict(
    {
        "id": fields.String(),
        "ref": fields.String(),
        "user_id": fields.String(),
        "seq": fields.Integer(),
        "kind": fields.String(),
        "amount_minor": fields.Integer(),
        "status": fields.String(),
        "reason": fields.String(),
        "order_id": fields.Function(
            lambda operation: domain.order_id_of(operation.ref)
        ),
        "balance_after_minor": fields.Integer(),
        "created_at": Utc(),
    },
    name="OperationOut",
)

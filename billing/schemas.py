"""The arguments and outcomes of the RPC methods of billing. Amounts are in minor units."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from billing import domain
from chassis.schemas import AmountMinor, Id, PageRequest, Text, Utc


class AccountQuery(Schema):
    """The account of a user."""

    user_id = Id(required=True)
    request_id = fields.String()


class Movement(AccountQuery):
    """A deposit or a withdrawal, with exactly one of the fields that identify it.

    `key` is the idempotency key of a client, and `ref` is a text that an operator chooses.
    """

    names: tuple[str, ...] = ("key", "ref")

    amount_minor = AmountMinor(domain.MAX_AMOUNT_MINOR, required=True)
    key = Text(1, 255)
    ref = Text(1, 255)

    @validates_schema
    def has_one_name(self, data: dict[str, Any], **kwargs: Any) -> None:
        if len(data.keys() & set(self.names)) != 1:
            raise ValidationError(
                f"Give exactly one of {', '.join(self.names)}.", "ref"
            )


class Withdrawal(Movement):
    """A withdrawal. It may also be identified by the order that it is for."""

    names = ("key", "ref", "order_id")

    order_id = Id()


class WithdrawalQuery(AccountQuery):
    """The withdrawal for an order."""

    order_id = Id(required=True)


class OrderWithdrawal(WithdrawalQuery):
    """The withdrawal for an order, to be cancelled."""

    amount_minor = AmountMinor(domain.MAX_AMOUNT_MINOR, required=True)


class StatementQuery(PageRequest):
    """A page of an account's operations. `after` is the number of an operation."""

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

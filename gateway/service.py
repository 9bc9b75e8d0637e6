"""gateway, top to bottom: whom it asks, and its routes."""

from contextlib import suppress
from typing import Any
from urllib.parse import quote

import eventlet
import uuid_utils

from chassis.errors import DeadlineExceeded, Unavailable
from chassis.outcomes import Outcome
from chassis.rpc import RpcProxy
from chassis.schemas import is_id
from gateway import money, problems, schemas
from gateway.reading import Request
from gateway.tokens import Tokens
from gateway.web import http

CONFIRM_S = 1.0  # for billing to say the currency of its books; orders are taken without it, too

Answer = tuple[int, dict[str, Any]] | tuple[int, dict[str, Any], dict[str, str]]


class Service:
    """The HTTP API."""

    name = "gateway"

    users = RpcProxy("users", ["create", "authenticate", "get"])
    billing = RpcProxy(
        "billing", ["statement"], batched=["deposit", "withdraw", "account"]
    )
    orders = RpcProxy("orders", ["get", "list"], batched=["place"])
    notifications = RpcProxy("notifications", ["send", "list"])
    tokens = Tokens()

    @http("POST", "/users", body=schemas.SignUp(), public=True)
    def sign_up(self, request: Request) -> Answer:
        """Create a user; the answer carries a token."""
        outcome = self.users.create(
            id=str(uuid_utils.uuid7()),  # makes it safe to deliver twice
            **{"locale": schemas.accepted_locale(request.accept_language)}
            | request.body,
        )
        if outcome["status"] == "taken":
            raise problems.Problem(
                409,
                "taken",
                "The username or the address is taken",
                errors=outcome["errors"],
            )
        user = schemas.USER.dump(_valid(outcome)["user"])
        return 201, {**user, **self.tokens.issue(user["id"])}, {"Location": "/users/me"}

    @http("POST", "/tokens", body=schemas.Login(), public=True)
    def log_in(self, request: Request) -> Answer:
        """A token for a username and password."""
        user = self.users.authenticate(**request.body)
        if user is None:
            raise problems.unauthorized("Username or password is wrong.")
        return 201, self.tokens.issue(user["id"])

    @http("GET", "/users/me")
    def profile(self, request: Request) -> Answer:
        """Who is asking."""
        user = self.users.get(user_id=request.user_id)
        if user is None:
            raise problems.unauthorized("This user is no more.")
        return 200, schemas.USER.dump(user)

    @http("GET", "/account")
    def account(self, request: Request) -> Answer:
        """The balance."""
        return 200, schemas.ACCOUNT.dump(
            _valid(self.billing.account(user_id=request.user_id))
        )

    @http("GET", "/account/operations", query=schemas.Page())
    def statement(self, request: Request) -> Answer:
        """The operations, newest first."""
        return _page(
            schemas.OPERATION,
            self.billing.statement(user_id=request.user_id, **request.query),
        )

    @http("POST", "/account/deposits", body=schemas.NewMovement())
    def deposit(self, request: Request) -> Answer:
        """Put money on the account."""
        self._confirm_currency(request.user_id)
        return _moved(
            self.billing.deposit(
                user_id=request.user_id, key=request.key, **request.body
            )
        )

    @http("POST", "/account/withdrawals", body=schemas.NewMovement())
    def withdraw(self, request: Request) -> Answer:
        """Take money off the account."""
        self._confirm_currency(request.user_id)
        return _moved(
            self.billing.withdraw(
                user_id=request.user_id, key=request.key, **request.body
            )
        )

    @http("POST", "/orders", body=schemas.NewOrder())
    def place_order(self, request: Request) -> Answer:
        """Place an order and pay it: 201 once it has ended, 202 while the outcome is open."""
        self._confirm_currency(request.user_id)
        outcome = self.orders.place(
            user_id=request.user_id, key=request.key, **request.body
        )
        order = schemas.ORDER.dump(_valid(outcome))
        status = 202 if order["status"] == "pending" else 201
        return status, order, {"Location": quote(f"/orders/{order['id']}")}

    @http("GET", "/orders", query=schemas.Page())
    def list_orders(self, request: Request) -> Answer:
        """The orders, newest first."""
        return _page(
            schemas.ORDER, self.orders.list(user_id=request.user_id, **request.query)
        )

    @http("GET", "/orders/<order_id>")
    def get_order(self, request: Request) -> Answer:
        """One order; someone else's does not exist."""
        order_id = request.path["order_id"]
        order = is_id(order_id) and self.orders.get(
            order_id=order_id, user_id=request.user_id
        )
        if not order:
            raise problems.not_found()
        return 200, schemas.ORDER.dump(order)

    @http("POST", "/notifications", body=schemas.NewMessage())
    def send_message(self, request: Request) -> Answer:
        """A message to one's own address; its id makes it safe to deliver twice."""
        letter = self.notifications.send(
            id=str(uuid_utils.uuid7()), user_id=request.user_id, **request.body
        )
        return 201, schemas.LETTER.dump(_valid(letter))

    @http("GET", "/notifications", query=schemas.Page())
    def list_notifications(self, request: Request) -> Answer:
        """The letters, newest first."""
        return _page(
            schemas.LETTER,
            self.notifications.list(user_id=request.user_id, **request.query),
        )

    def _confirm_currency(self, user_id: str) -> None:
        """Ask billing for an account, once, before this process sends it an amount.

        Raises RuntimeError where the amounts of its books mean something else. While billing does not
        answer, nothing is confirmed: it then books nothing, and orders stay pending.
        """
        if money.currency not in money.confirmed:
            with (
                suppress(DeadlineExceeded, Unavailable),
                eventlet.Timeout(
                    CONFIRM_S, Unavailable("billing does not say its currency")
                ),
            ):
                account = self.billing.account(user_id=user_id)
                if account["status"] == "open":
                    _valid(account)


def _valid(outcome: Outcome) -> Outcome:
    """`outcome`, unless it says that the request could not be done as it is."""
    match outcome.get("status"):
        case "invalid":
            errors = outcome["errors"]  # under the names the client knows
            raise problems.invalid(
                {"cursor" if name == "after" else name: errors[name] for name in errors}
            )
        case "conflict":
            raise problems.key_reused()
        case "unavailable":  # the callee could not decide, and changed nothing
            raise problems.unavailable(problems.NOTHING_DONE)
        case "unknown-user":
            raise problems.unauthorized("This user is no more.")
        case "open" if (outcome["currency"], outcome["exponent"]) != (
            money.currency,
            money.digits(),
        ):
            raise RuntimeError(
                f"CURRENCY is {money.currency} with {money.digits()} digits after the point, billing's books"
                f" are in {outcome['currency']} with {outcome['exponent']}"
            )
        case "open":
            money.confirmed.add(money.currency)
    return outcome


def _page(view: schemas.View, outcome: Outcome) -> Answer:
    return 200, schemas.page_of(view, _valid(outcome))


def _moved(outcome: Outcome) -> Answer:
    """The operation that was done; one that was refused is a problem with the reason as its type."""
    operation = schemas.OPERATION.dump(_valid(outcome))
    if operation["status"] == "refused":
        raise problems.Problem(
            409,
            operation["reason"],
            operation["reason"].replace("-", " ").capitalize(),
            operation=operation,
        )
    return 201, operation

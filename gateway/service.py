"""The routes of the HTTP API, and the services that they call."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import eventlet
import uuid_utils

from chassis.errors import DeadlineExceeded, InternalError, Unavailable
from chassis.outcomes import Outcome
from chassis.rpc import RpcProxy
from chassis.schemas import is_id
from chassis.timers import timer
from gateway import money, problems, schemas, story
from gateway.routes import ApiRequest, Waiting, route
from gateway.tokens import Tokens

# Status, data, and headers if there are any.
ApiResponse = tuple[int, dict[str, Any]] | tuple[int, dict[str, Any], dict[str, str]]
# Short, because a story without the part is better than none.
STORY_TIMEOUT_S = 1.0


class Service:
    """The HTTP API."""

    name = "gateway"

    users = RpcProxy("users", ["create", "authenticate", "get"])
    billing = RpcProxy(
        "billing",
        ["statement", "get_withdrawal"],
        batched=["deposit", "withdraw", "account"],
    )
    orders = RpcProxy(
        "orders", ["get", "get_many", "get_history", "list"], batched=["place"]
    )
    notifications = RpcProxy("notifications", ["send", "list", "get_letter"])
    tokens = Tokens()
    waiting = Waiting()

    # The first line of each handler's docstring is its summary in the OpenAPI document.

    @route("POST", "/users", body=schemas.SignUp(), public=True)
    def sign_up(self, request: ApiRequest) -> ApiResponse:
        """Create a user and a token."""
        outcome = self.users.create(
            # The id makes redelivery idempotent.
            id=str(uuid_utils.uuid7()),
            **{"locale": schemas.accepted_locale(request.accept_language)}
            | request.body,
        )
        if outcome["status"] == "taken":
            raise problems.Problem(
                409,
                "taken",
                "The username or the email address is in use. Choose another one.",
                errors=outcome["errors"],
            )
        user = schemas.USER.dump(_accepted(outcome)["user"])
        return 201, {**user, **self.tokens.issue(user["id"])}, {"Location": "/users/me"}

    @route("POST", "/tokens", body=schemas.Login(), public=True)
    def log_in(self, request: ApiRequest) -> ApiResponse:
        """Create a token for a username and password."""
        if (user := self.users.authenticate(**request.body)) is None:
            raise problems.unauthorized("Username or password is wrong.")
        return 201, self.tokens.issue(user["id"])

    @route("GET", "/users/me")
    def profile(self, request: ApiRequest) -> ApiResponse:
        """Get the user of the token."""
        if (user := self.users.get(user_id=request.user_id)) is None:
            raise problems.unauthorized("This user no longer exists.")
        return 200, schemas.USER.dump(user)

    @route("GET", "/account")
    def account(self, request: ApiRequest) -> ApiResponse:
        """Get the balance."""
        return 200, schemas.ACCOUNT.dump(
            _accepted(self.billing.account(user_id=request.user_id))
        )

    @route("GET", "/account/operations", query=schemas.Page())
    def statement(self, request: ApiRequest) -> ApiResponse:
        """List the operations, newest first."""
        return 200, schemas.page_of(
            schemas.OPERATION,
            _accepted(self.billing.statement(user_id=request.user_id, **request.query)),
        )

    @route("POST", "/account/deposits", body=schemas.NewMovement())
    def deposit(self, request: ApiRequest) -> ApiResponse:
        """Deposit money."""
        self._confirm_currency(request.user_id)
        return _operation_response(
            self.billing.deposit(
                user_id=request.user_id, key=request.key, **request.body
            )
        )

    @route("POST", "/account/withdrawals", body=schemas.NewMovement())
    def withdraw(self, request: ApiRequest) -> ApiResponse:
        """Withdraw money."""
        self._confirm_currency(request.user_id)
        return _operation_response(
            self.billing.withdraw(
                user_id=request.user_id, key=request.key, **request.body
            )
        )

    @route("POST", "/orders", body=schemas.NewOrder())
    def place_order(self, request: ApiRequest) -> ApiResponse:
        """Place an order and pay it: 201 if it is settled, 202 while it is pending."""
        self._confirm_currency(request.user_id)
        order = schemas.ORDER.dump(
            _accepted(
                self.orders.place(
                    user_id=request.user_id, key=request.key, **request.body
                )
            )
        )
        status = 202 if order["status"] == "pending" else 201
        return status, order, {"Location": quote(f"/orders/{order['id']}")}

    @route("GET", "/orders", query=schemas.Page())
    def list_orders(self, request: ApiRequest) -> ApiResponse:
        """List the orders, newest first."""
        return 200, schemas.page_of(
            schemas.ORDER,
            _accepted(self.orders.list(user_id=request.user_id, **request.query)),
        )

    @route("GET", "/orders/<order_id>", supports_wait=True)
    def get_order(self, request: ApiRequest) -> ApiResponse:
        """Get one order. The order of another user is not found."""
        order = is_id(request.path["order_id"]) and self.orders.get(
            order_id=request.path["order_id"], user_id=request.user_id
        )
        if not order:
            raise problems.not_found()
        return 200, schemas.ORDER.dump(order)

    @route("GET", "/orders/<order_id>/story")
    def get_story(self, request: ApiRequest) -> ApiResponse:
        """Get the steps of an order with their times."""
        query = {"order_id": request.path["order_id"], "user_id": request.user_id}
        if not is_id(query["order_id"]):
            raise problems.not_found()
        # The letter is read first and the operation last. So all steps before a done one are done,
        # except event_published: its time is stored after it was sent, perhaps after the letter.
        letter = _part_of_story(self.notifications.get_letter, query)
        if (history := self.orders.get_history(**query)) is None:
            raise problems.not_found()
        operation = _part_of_story(self.billing.get_withdrawal, query)
        return 200, story.compose(history, operation, letter)

    @timer(interval=1)
    def report_settled_orders(self) -> None:
        """Read the orders that requests wait for, and answer the requests of settled ones."""
        if order_ids := self.waiting.order_ids():
            orders = self.orders.get_many(order_ids=order_ids)
            self.waiting.report(
                schemas.ORDER.dump(order)
                for order in orders
                if order and order["status"] != "pending"
            )

    @route("POST", "/notifications", body=schemas.NewMessage())
    def send_message(self, request: ApiRequest) -> ApiResponse:
        """Send a message to the user's own address."""
        return 201, schemas.LETTER.dump(
            _accepted(
                self.notifications.send(
                    # The id makes redelivery idempotent.
                    id=str(uuid_utils.uuid7()),
                    user_id=request.user_id,
                    **request.body,
                )
            )
        )

    @route("GET", "/notifications", query=schemas.Page())
    def list_notifications(self, request: ApiRequest) -> ApiResponse:
        """List the letters, newest first."""
        return 200, schemas.page_of(
            schemas.LETTER,
            _accepted(
                self.notifications.list(user_id=request.user_id, **request.query)
            ),
        )

    def _confirm_currency(self, user_id: str) -> None:
        """Compare the currency with billing's, once, before this process sends an amount.

        Raises RuntimeError if the amounts of its books are in another unit. If billing does not
        reply, nothing is confirmed. It posts nothing then, and orders stay pending.
        """
        if money.currency not in money.confirmed:
            with (
                suppress(DeadlineExceeded, Unavailable),
                # In seconds. Without a reply, orders are accepted.
                eventlet.Timeout(
                    1.0, Unavailable("billing did not report its currency")
                ),
            ):
                account = self.billing.account(user_id=user_id)
                if account["status"] == "open":
                    _accepted(account)


def _accepted(outcome: Outcome) -> Outcome:
    """Return an outcome that permits the request. Raises Problem for any other."""
    match outcome.get("status"):
        case "invalid":
            # By the names that the client knows.
            raise problems.invalid(
                {
                    "cursor" if name == "after" else name: messages
                    for name, messages in outcome["errors"].items()
                }
            )
        case "conflict":
            raise problems.key_reused()
        # The callee could not decide, and changed nothing.
        case "unavailable":
            raise problems.unavailable()
        case "unknown-user":
            raise problems.unauthorized("This user no longer exists.")
        case "open" if (outcome["currency"], outcome["exponent"]) != (
            money.currency,
            money.digits(),
        ):
            raise RuntimeError(
                f"CURRENCY is {money.currency} with {money.digits()} digits after the"
                f" point, billing's books are in {outcome['currency']} with"
                f" {outcome['exponent']}"
            )
        case "open":
            money.confirmed.add(money.currency)
    return outcome


def _part_of_story(
    method: Callable[..., Outcome | None], query: dict[str, str]
) -> Outcome | None:
    """Call a method. Return None if its service is unavailable, and {} if it returns nothing."""
    with (
        suppress(DeadlineExceeded, Unavailable, InternalError),
        eventlet.Timeout(STORY_TIMEOUT_S, Unavailable("no part of a story in time")),
    ):
        return method(**query) or {}
    return None


def _operation_response(outcome: Outcome) -> ApiResponse:
    """Return the operation, or raise a problem with the reason of its refusal as type."""
    operation = schemas.OPERATION.dump(_accepted(outcome))
    if operation["status"] == "refused":
        raise problems.Problem(
            409,
            operation["reason"],
            f"Refused: {operation['reason'].replace('-', ' ')}. A retry with the same"
            " Idempotency-Key gets this operation again.",
            operation=operation,
        )
    return 201, operation

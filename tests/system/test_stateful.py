"""For any requests of a few users in any order, the shop does what a model of thirty lines does.

Hypothesis generates the stories. For a story that fails it prints a program that reproduces it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, note, settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from conftest import eventually
from tests.system.shopper import Shopper, assert_problem

EXAMPLES, STEPS = 20, 30
ORDER_S = 30.0  # a pending order ends within this time
SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    # Without Phase.shrink, which would start hundreds of stories.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

amounts = st.sampled_from([1, 99, 500, 1000, 2500])  # in cents
verbs = st.sampled_from(["deposit", "deposit", "withdraw", "order", "order"])
# Forms of a key, which may be the id of another order or user.
forms = st.sampled_from(["{}", '"{}"', "order:{}", "key:{}", "shell:{}"])
limits = st.sampled_from([1, 2, 7, 100])


@dataclass
class Book:
    """The expected statement, orders and letters of a user."""

    shopper: Shopper
    balance: int = 0
    statement: list[tuple[Any, ...]] = field(default_factory=list)
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Requests by place and key.
    requests: dict[tuple[str, str], tuple[Any, ...]] = field(default_factory=dict)

    def move(self, kind: str, amount: int, order_id: str | None = None) -> str | None:
        """Record a movement. Return why it is refused, or None."""
        change = amount if kind == "deposit" else -amount
        reason = "insufficient-funds" if self.balance + change < 0 else None
        self.balance += 0 if reason else change
        status = "refused" if reason else "done"
        self.statement.append(
            (kind, euros(amount), status, reason, order_id, euros(self.balance))
        )
        return reason


def euros(minor: int) -> str:
    return f"{minor // 100}.{minor % 100:02}"


class Shop(RuleBasedStateMachine):
    """Users who deposit, withdraw and order, with all kinds of keys and retries."""

    users = Bundle("users")
    requests = Bundle("requests")  # (verb, amount, key) as they were sent
    names = Bundle("names")  # keys, and ids of orders and users

    def __init__(self, new_shopper: Callable[[], Shopper]) -> None:
        super().__init__()
        self._new_shopper = new_shopper
        self._books: list[Book] = []

    @initialize(target=users)
    def two_users_sign_up(self) -> Any:
        return multiple(self._sign_up(), self._sign_up())

    @precondition(lambda self: len(self._books) < 4)
    @rule(target=users)
    def sign_up(self) -> Book:
        return self._sign_up()

    @rule(target=names, text=st.sampled_from(["k", "K", "k-1"]))
    def make_up_a_key(self, text: str) -> str:
        return text

    @rule(target=names, book=users)
    def learn_the_id_of_a_user(self, book: Book) -> str:
        return book.shopper.id

    @precondition(lambda self: any(book.orders for book in self._books))
    @rule(target=names, data=st.data())
    def learn_the_id_of_an_order(self, data: st.DataObject) -> str:
        return data.draw(
            st.sampled_from([id_ for book in self._books for id_ in book.orders])
        )

    @rule(
        target=requests, book=users, verb=verbs, amount=amounts, name=names, form=forms
    )
    def ask_with_a_key(
        self, book: Book, verb: str, amount: int, name: str, form: str
    ) -> Any:
        return self._ask(book, verb, amount, form.format(name))

    @rule(book=users, verb=verbs, amount=amounts)
    def ask_without_a_key(self, book: Book, verb: str, amount: int) -> None:
        self._ask(book, verb, amount, None)

    @rule(book=users, request=requests)
    def ask_again(self, book: Book, request: tuple[str, int, str]) -> None:
        """Let the same user retry, or another user use the same key."""
        self._ask(book, *request)

    @rule(book=users, request=requests, verb=verbs, amount=amounts)
    def ask_for_something_else_with_the_same_key(
        self, book: Book, request: tuple[str, int, str], verb: str, amount: int
    ) -> None:
        self._ask(book, verb, amount, request[2])

    @rule(book=users, limit=limits)
    def read_all(self, book: Book, limit: int) -> None:
        shopper = book.shopper
        assert shopper.balance == euros(book.balance)
        assert [
            seen(o) for o in shopper.all("/account/operations", limit)
        ] == book.statement[::-1]
        assert shopper.all("/orders", limit) == list(book.orders.values())[::-1]

    @rule(book=users, other=users)
    def look_at_orders_one_by_one(self, book: Book, other: Book) -> None:
        for id_, order in list(book.orders.items())[-3:]:
            assert book.shopper.get(f"/orders/{id_}").json() == order
            if other is not book:
                assert_problem(other.shopper.get(f"/orders/{id_}"), 404)

    def teardown(self) -> None:
        for book in self._books:
            self.read_all(book, 100)
            eventually(
                lambda book=book: (
                    len(book.shopper.all("/notifications")) >= len(book.orders)
                )
            )
            letters = book.shopper.all("/notifications")
            kinds = {"paid": "happiness", "rejected": "grief"}
            expected = [
                (id_, kinds[order["status"]]) for id_, order in book.orders.items()
            ]
            assert sorted(
                (letter["order_id"], letter["kind"]) for letter in letters
            ) == sorted(expected)
            assert {letter["to"] for letter in letters} <= {book.shopper.user["email"]}

    def _sign_up(self) -> Book:
        book = Book(self._new_shopper())
        self._books.append(book)
        return book

    def _ask(
        self, book: Book, verb: str, amount: int, key: str | None
    ) -> tuple[str, int, str | None]:
        """Send a request, and assert that the outcome is that of the book."""
        response = getattr(book.shopper, verb)(euros(amount), key)
        name, status = book.shopper.user["username"], response.status_code
        note(f"{name}: {verb} {euros(amount)}, key {key}: {status}")
        place = "orders" if verb == "order" else "account"
        named = (place, (key or "").strip('"'))
        before = book.requests.get(named) if key else None
        if before and before[:2] != (verb, amount):
            assert_problem(response, 422, "Idempotency-Key")
            return verb, amount, key
        check = self._ordered if verb == "order" else self._moved
        outcome = check(book, verb, amount, response, before)
        if key:
            book.requests.setdefault(named, (verb, amount, outcome))
        return verb, amount, key

    def _moved(
        self, book: Book, verb: str, amount: int, response: Any, before: Any
    ) -> Any:
        """Return the operation: a new one as in the book, or that of `before`."""
        body = response.json()
        operation = body.get("operation", body)
        if before is None:
            book.move("deposit" if verb == "deposit" else "withdrawal", amount)
            assert seen(operation) == book.statement[-1]
        else:
            assert operation == before[2]
        assert response.status_code == (201 if operation["status"] == "done" else 409)
        return operation

    def _ordered(
        self, book: Book, verb: str, amount: int, response: Any, before: Any
    ) -> Any:
        """Return the order's id: of a new order that ends as in the book, or that of `before`."""
        assert response.status_code in ((201, 202) if before is None else (201,))
        order = response.json()
        if before is not None:
            assert order == book.orders[before[2]]
            return before[2]
        if order["status"] == "pending":
            order = book.shopper.settled(order["id"], ORDER_S).json()
        assert order["id"] not in {id_ for other in self._books for id_ in other.orders}
        reason = book.move("withdrawal", amount, order["id"])
        expected = (euros(amount), "rejected" if reason else "paid", reason)
        assert (order["price"], order["status"], order["reason"]) == expected
        book.orders[order["id"]] = order
        return order["id"]


def seen(operation: dict[str, Any]) -> tuple[Any, ...]:
    """Return an operation in the form of the book."""
    names = ("kind", "amount", "status", "reason", "order_id", "balance_after")
    return tuple(operation[name] for name in names)


def test_the_shop_does_what_the_model_says(new_shopper) -> None:
    run_state_machine_as_test(lambda: Shop(new_shopper), settings=SETTINGS)

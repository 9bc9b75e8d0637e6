"""Users of the shop. They retry failed requests with the same key, and record every response.

They wait for their pending orders with `Prefer: wait`.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from itertools import count
from typing import Any

import eventlet
import requests
from eventlet.greenpool import GreenPool
from requests.adapters import HTTPAdapter

from dev.failure import Failure

Resource = dict[str, Any]  # an order or an operation, as in a response
PASSWORD = "correct horse battery"
MAX_RESPONSE_S = 30.0  # longer than any deadline of the suite
RETRY_TIMEOUT_S = 240.0  # for all attempts of one request
RETRY_DELAY_S = (0.2, 1.0)
# Shorter than MAX_RESPONSE_S by more than the gateway's own timeout.
WAIT = {"Prefer": "wait=20"}
RETRYABLE_STATUSES = (503, 504)
NO_RESPONSE = 0  # the status of an attempt without a response
STATEMENT, ORDERS, LETTERS = "/account/operations", "/orders", "/notifications"
STILL_WAITING = Failure(
    f"clients wait for settled orders for more than {MAX_RESPONSE_S:g} s"
)
PATHS = {
    "order": ORDERS,
    "deposit": "/account/deposits",
    "withdrawal": "/account/withdrawals",
}
ROUTES = {
    "/users",
    "/users/me",
    "/tokens",
    "/account",
    STATEMENT,
    LETTERS,
    *PATHS.values(),
}
LETTER_OF = {"paid": "happiness", "rejected": "grief"}
MAX_RESUBMITTED = 100  # requests that are sent again at the end


@dataclass(kw_only=True)
class Submission:
    """An order, deposit or withdrawal that a user has requested, with all responses."""

    kind: str  # order, deposit, withdrawal
    key: str
    cents: int
    responses: list[Resource] = field(default_factory=list)

    @property
    def best_response(self) -> Resource | None:
        """Return a final response, or else a pending one, or None."""
        return min(
            self.responses,
            key=lambda response: response["status"] == "pending",
            default=None,
        )

    @property
    def is_pending(self) -> bool:
        """Whether the order is pending by all responses."""
        best = self.best_response
        return best is not None and best["status"] == "pending"

    def add_stored(self, stored: Mapping[str, Resource]) -> None:
        """Record its stored state like a response: no later response may contradict it."""
        best = self.best_response
        if best and (item := stored.get(best["id"])):
            self.responses.append(item)


@dataclass(kw_only=True)
class User:
    """A user, the user's token and requests."""

    username: str
    token: str = ""
    id: str = ""
    submissions: list[Submission] = field(default_factory=list)

    @property
    def email(self) -> str:
        return f"{self.username}@example.org"

    def submitted(self, *kinds: str) -> list[Submission]:
        return [each for each in self.submissions if each.kind in kinds]


@dataclass(frozen=True)
class Response:
    """The result of one attempt.

    Without a response, the status is NO_RESPONSE and the body has the error. The body is empty if
    it is not a JSON object.
    """

    status: int
    body: dict[str, Any]
    headers: Any = field(default_factory=dict)


class Clients:
    """All clients of one part. `broken` describes responses that break a promise."""

    def __init__(self, url: str, name: str, rng: random.Random) -> None:
        self.url = url
        self.name = name
        self.rng = rng
        self.users: list[User] = []
        self.broken: list[str] = []
        self.responses: Counter[tuple[str, int]] = Counter()  # by route and status
        self.failures: Counter[str] = Counter()
        self.longest_s = 0.0  # of all requests that do not wait for an order
        self.retries = 0
        self.waiting = 0  # clients whose request waits for an order
        self._pool = GreenPool(1000)
        self._waiters = GreenPool(2000)
        self._errors: list[Exception] = []
        self._numbers = count(1)
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy
        adapter = HTTPAdapter(pool_connections=1, pool_maxsize=2000)
        self._session.mount("http://", adapter)

    @property
    def orders(self) -> int:
        return sum(len(user.submitted("order")) for user in self.users)

    @property
    def in_flight(self) -> int:
        return int(self._pool.running())

    # One request

    def attempt(
        self, method: str, path: str, user: User | None = None, **options: Any
    ) -> Response:
        """Send a request once."""
        request_id = f"{self.name}-{next(self._numbers)}"
        headers = {"X-Request-Id": request_id, **options.pop("headers", {})}
        if user and user.token:
            headers["Authorization"] = f"Bearer {user.token}"
        started = time.monotonic()
        response = self._send(method, path, headers=headers, **options)
        if "Prefer" not in headers:
            self.longest_s = max(self.longest_s, time.monotonic() - started)
        self.responses[_route(method, path), response.status] += 1
        is_retryable = response.status in RETRYABLE_STATUSES
        if is_retryable and "Retry-After" not in response.headers:
            status = response.status
            self.broken.append(f"{method} {path}: {status} without Retry-After")
        return response

    def _send(self, method: str, path: str, **options: Any) -> Response:
        try:
            # It returns when the whole body has arrived.
            response = self._session.request(
                method, self.url + path, timeout=MAX_RESPONSE_S, **options
            )
        except (requests.RequestException, OSError) as error:
            self.failures[type(error).__name__] += 1
            return Response(NO_RESPONSE, {"error": str(error)})
        body = self._body(f"{method} {path}", response)
        return Response(response.status_code, body, response.headers)

    def _body(self, request: str, response: requests.Response) -> dict[str, Any]:
        try:
            body = response.json()
        except requests.JSONDecodeError:
            body = None
        if isinstance(body, dict):
            return body
        found = f"{response.status_code} without a JSON object"
        self.broken.append(f"{request}: {found}: {response.content[:200]!r}")
        return {}

    def request(
        self, method: str, path: str, user: User | None = None, **options: Any
    ) -> Response:
        """Send a request and retry it until it has a response."""
        deadline = time.monotonic() + RETRY_TIMEOUT_S
        while True:
            response = self.attempt(method, path, user, **options)
            if response.status not in (NO_RESPONSE, *RETRYABLE_STATUSES):
                return response
            if time.monotonic() > deadline:
                problem = f"no response in {RETRY_TIMEOUT_S:g} s: {response}"
                self.broken.append(f"{method} {path}: {problem}")
                return response
            self.retries += 1
            eventlet.sleep(self.rng.uniform(*RETRY_DELAY_S))

    # Actions of a user

    def sign_up(self) -> User:
        """Sign up a new user. If the connection was lost, log in to find out the outcome."""
        user = User(username=f"{self.name}-{next(self._numbers)}")
        body = {"username": user.username, "email": user.email, "password": PASSWORD}
        retries = self.retries
        response = self.request("POST", "/users", json=body)
        if response.status == 409 and self.retries > retries:
            credentials = {"username": user.username, "password": PASSWORD}
            response = self.request("POST", "/tokens", json=credentials)
        user.token = response.body.get("access_token", "")
        if response.status != 201 or not user.token:
            found = f"{response.status}: {response.body}"
            self.broken.append(f"the response to {user.username}'s sign-up is {found}")
            return user
        profile = self.request("GET", "/users/me", user)
        user.id = profile.body.get("id", "")
        signed_up_id = response.body.get("id", user.id)
        if signed_up_id != user.id:
            self.broken.append(
                f"{user.username} has the id {signed_up_id} at sign-up, later {user.id}"
            )
        self.users.append(user)
        return user

    def submit(self, user: User, kind: str, cents: int, key: str = "") -> Submission:
        """Request an order, deposit or withdrawal and wait for its response."""
        key = key or f"{self.name}-{next(self._numbers)}"
        submission = Submission(kind=kind, key=key, cents=cents)
        user.submissions.append(submission)
        self.resubmit(user, submission)
        return submission

    def resubmit(self, user: User, submission: Submission) -> None:
        """Send the request with its key. The response must not contradict an earlier one."""
        earlier = submission.best_response  # concurrent responses have no order
        self._record(submission, earlier, self.post(user, submission))

    def post(self, user: User, submission: Submission) -> Response:
        """Send the request of a submission, with retries."""
        amount = "price" if submission.kind == "order" else "amount"
        euros, cents = divmod(submission.cents, 100)
        return self.request(
            "POST",
            PATHS[submission.kind],
            user,
            json={amount: f"{euros}.{cents:02d}"},
            headers={"Idempotency-Key": submission.key},
        )

    def _record(
        self, submission: Submission, earlier: Resource | None, response: Response
    ) -> None:
        name = f"{submission.kind} {submission.key}"
        is_refused = response.status == 409 and "operation" in response.body
        is_accepted = response.status in (201, 202) and response.body
        if not is_accepted and not is_refused:
            found = f"{response.status}: {response.body}"
            self.broken.append(f"the response to {name} is {found}")
            return
        resource = response.body["operation"] if is_refused else response.body
        self._add(submission, earlier, resource)

    def _add(
        self, submission: Submission, earlier: Resource | None, resource: Resource
    ) -> None:
        """Add the state in a response to a submission. It must not contradict an earlier one."""
        name = f"{submission.kind} {submission.key}"
        if earlier and (difference := contradiction(earlier, resource)):
            self.broken.append(f"{name}: {difference}")
        submission.responses.append(resource)

    # Load

    def add_users(self, number: int, cents: int = 300_00) -> list[User]:
        """Sign up users and deposit money for each."""
        return list(GreenPool(8).imap(self._add_user, [cents] * number))

    def _add_user(self, cents: int) -> User:
        user = self.sign_up()
        if user.token:
            self.submit(user, "deposit", cents)
        return user

    def act(self) -> None:
        """Do something random, mostly place an order."""
        dice = self.rng.random()
        user = self.rng.choice(self.users)
        if dice < 0.75:
            self.order(user)
        elif dice < 0.95:
            kind = self.rng.choice(["deposit", "withdrawal"])
            self.submit(user, kind, self._cents())
        else:
            self._add_user(300_00)

    def order(self, user: User | None = None, waiters: int = 1) -> Submission:
        """Place an order for a random price, sometimes above the balance.

        If it is pending, this many clients wait for it concurrently. `compare` waits for them.
        """
        user = user or self.rng.choice(self.users)
        order = self.submit(user, "order", self._cents())
        if order.is_pending:
            for _ in range(waiters):
                self._waiters.spawn(self._run, self.await_settled, user, order)
        return order

    def place_settled_order(self, user: User, cents: int) -> None:
        """Place an order and wait until it is no longer pending."""
        order = self.submit(user, "order", cents)
        if order.is_pending:
            self.await_settled(user, order)

    def await_settled(self, user: User, order: Submission) -> None:
        """Wait with `Prefer: wait` until a pending order has settled, and record all responses."""
        path = f"{ORDERS}/{order.responses[-1]['id']}"
        while order.is_pending:
            earlier = order.best_response
            self.waiting += 1
            response = self.request("GET", path, user, headers=WAIT)
            self.waiting -= 1
            if response.status != HTTPStatus.OK:
                self.broken.append(f"the wait for order {order.key} got {response}")
                return
            self._add(order, earlier, response.body)
            if order.is_pending and "Preference-Applied" not in response.headers:
                eventlet.sleep(self.rng.uniform(*RETRY_DELAY_S))

    def _cents(self) -> int:
        return self.rng.randint(1, 40_00)

    def spawn(self, act: Callable[..., object], *arguments: Any) -> None:
        """Run a client's action concurrently. `finish` waits for it."""
        self._pool.spawn(self._run, act, *arguments)

    def _run(self, act: Callable[..., object], *arguments: Any) -> None:
        try:
            act(*arguments)
        except Exception as error:
            self._errors.append(error)  # `finish` raises it

    def wave(self, orders: int) -> None:
        """Start a number of orders and some other requests. Do not wait for them."""
        for _ in range(orders):
            self.spawn(self.order)
        for _ in range(max(1, orders // 4)):
            self.spawn(self.act)

    @contextmanager
    def background_load(self, per_s: float = 20) -> Iterator[None]:
        """Start requests at this rate inside, even if earlier ones have no response yet."""
        running = [True]
        self.spawn(self._generate_load, running, per_s)
        try:
            yield
        finally:
            running.clear()

    def _generate_load(self, running: list[bool], per_s: float) -> None:
        while running:
            self.spawn(self.act)
            eventlet.sleep(self.rng.uniform(0, 2 / per_s))

    def finish(self) -> None:
        """Wait until every action has ended. Raise the first error of an action.

        Clients that wait for a pending order may go on.
        """
        self._end(self._pool)

    def _end(self, pool: GreenPool) -> None:
        pool.waitall()
        if self._errors:
            raise self._errors[0]

    def stop(self) -> None:
        """Stop all actions and close all connections."""
        for pool in (self._pool, self._waiters):
            while running := pool.coroutines_running:
                next(iter(running)).kill()
        self._session.close()

    # The final state, compared with all responses

    def compare(self) -> list[str]:
        """Compare all responses with the final state. Return all that is broken.

        No order is pending, so each client that waits for one must get its response now.
        """
        with eventlet.Timeout(MAX_RESPONSE_S, STILL_WAITING):
            self._end(self._waiters)
        for user in self.users:
            self.broken += [f"{user.username}: {line}" for line in self._compare(user)]
        submissions = [(user, each) for user in self.users for each in user.submissions]
        number = min(len(submissions), MAX_RESUBMITTED)
        chosen = self.rng.sample(submissions, number)
        for _ in GreenPool(8).starmap(self.resubmit, chosen):
            pass
        return self.broken

    def _compare(self, user: User) -> Iterator[str]:
        orders = self._all(user, ORDERS)
        operations = [o for o in self._all(user, STATEMENT) if o["order_id"] is None]
        yield from differences(user.submitted("order"), orders)
        yield from differences(user.submitted("deposit", "withdrawal"), operations)
        if not self._has_letters(user, orders):
            yield f"the letters do not match the {len(orders)} orders"
        balance = self.request("GET", "/account", user).body.get("balance")
        stored = {item["id"]: item for item in (*orders, *operations)}
        cents = _sum(user.submissions, stored)
        if balance is None or _cents_of(balance) != cents:
            yield f"the balance is {balance}, the sum of all requests {cents} cents"
        for submission in user.submissions:
            submission.add_stored(stored)

    def _has_letters(self, user: User, orders: Iterable[Resource]) -> bool:
        """Return whether the user has exactly one letter for each order."""
        letters = self._all(user, LETTERS)
        found = [(it["order_id"], it["kind"]) for it in letters if it["order_id"]]
        expected = [(it["id"], LETTER_OF.get(it["status"], "")) for it in orders]
        return sorted(found) == sorted(expected)

    def _all(self, user: User, path: str) -> list[Resource]:
        """Return the items of all pages."""
        items: list[Resource] = []
        page = partial(self.request, "GET", path, user)
        cursor: dict[str, str] = {}
        while True:
            response = page(params={"limit": 100, **cursor})
            if response.status != 200 or not response.body:
                found = f"{response.status}: {response.body}"
                raise Failure(f"the response of {path} is {found}")
            items += response.body["items"]
            if response.body["next_cursor"] is None:
                return items
            cursor = {"cursor": response.body["next_cursor"]}


def _route(method: str, path: str) -> str:
    return f"{method} {path if path in ROUTES else path.rpartition('/')[0] + '/{id}'}"


def contradiction(earlier: Resource, later: Resource) -> str | None:
    """Return how a later response contradicts an earlier one to the same request, or None.

    Only a pending order may change, and only once.
    """
    if earlier.get("status") == "pending":
        fixed = ("id", "price", "created_at")
        is_same = all(later.get(name) == earlier.get(name) for name in fixed)
    else:
        is_same = later == earlier
    return None if is_same else f"the response was {earlier}, then {later}"


def differences(submissions: list[Submission], stored: list[Resource]) -> Iterator[str]:
    """Yield differences between the responses to requests and the stored resources."""
    by_id = {item["id"]: item for item in stored}
    for submission in submissions:
        name = f"{submission.kind} {submission.key}"
        best = submission.best_response
        if best is None:
            yield f"{name} never had a response"
        elif best["id"] not in by_id:
            yield f"{name} was acknowledged and is lost: {best}"
        elif difference := contradiction(best, by_id[best["id"]]):
            yield f"{name}: {difference}"
    if len(stored) != len(submissions):
        yield f"{len(stored)} are stored for {len(submissions)} requests"
    for item in stored:
        if item["status"] == "pending":
            yield f"order {item['id']} is still pending"


def _sum(submissions: Iterable[Submission], stored: Mapping[str, Resource]) -> int:
    """Return the sum of all effective orders, deposits and withdrawals, in cents."""
    signs = {"deposit": 1, "withdrawal": -1, "order": -1}
    total = 0
    for submission in submissions:
        best = submission.best_response
        if best and stored.get(best["id"], best)["status"] in ("done", "paid"):
            total += signs[submission.kind] * submission.cents
    return total


def _cents_of(amount: str) -> int:
    return int(amount.replace(".", ""))

"""Users of the shop who repeat what fails, with the same key, until it is answered; and who remember
every answer."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import eventlet
import requests
from eventlet.greenpool import GreenPool
from requests.adapters import HTTPAdapter

from dev.failure import Failure

Answer = dict[str, Any]
PASSWORD = "correct horse battery"  # noqa: S105 - of users that live as long as a test
CUT_OFF_S = 30.0  # longer than any deadline of the suite
PATIENCE_S = 240.0  # for all repetitions of one request
AGAIN_S = (0.2, 1.0)
AGAIN = (503, 504)  # the answers that ask for a repetition
STATEMENT, ORDERS, LETTERS = "/account/operations", "/orders", "/notifications"
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
MOST_AGAIN = 100  # requests that are made once more at the end


@dataclass
class Asked:
    """One thing a user asked for, with all answers to it."""

    kind: str  # order, deposit, withdrawal
    key: str
    cents: int
    told: list[Answer] = field(default_factory=list)

    @property
    def certain(self) -> Answer | None:
        """The answer that says most: one that tells the end, if there is one."""
        return min(
            self.told, key=lambda told: told["status"] == "pending", default=None
        )

    def learn(self, stored: Mapping[str, Answer]) -> None:
        """What is stored for it by now is an answer, too: no later one may contradict it."""
        if self.certain and (item := stored.get(self.certain["id"])):
            self.told.append(item)


@dataclass
class User:
    """A user, the user's token and requests."""

    username: str
    token: str = ""
    id: str = ""
    asked: list[Asked] = field(default_factory=list)

    @property
    def email(self) -> str:
        return f"{self.username}@example.org"

    def of(self, *kinds: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.kind in kinds]


@dataclass(frozen=True)
class Reply:
    """What came back of one attempt; status 0 where it was cut off, with the words for it. The body is
    empty where it is no JSON object."""

    status: int
    body: dict[str, Any]
    headers: Any = field(default_factory=dict)


class Clients:
    """All clients of one part. `broken` says in words which promise an answer has broken."""

    def __init__(self, url: str, name: str, chance: random.Random) -> None:
        self.url = url
        self.name = name
        self.chance = chance
        self.users: list[User] = []
        self.broken: list[str] = []
        self.answers: Counter[tuple[str, int]] = Counter()  # by route and status
        self.failures: Counter[str] = Counter()
        self.longest_s = 0.0
        self.retries = 0
        self._pool = GreenPool(1000)
        self._failed: list[Exception] = []
        self._numbers = count(1)
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy
        self._session.mount(
            "http://", HTTPAdapter(pool_connections=1, pool_maxsize=256)
        )

    @property
    def orders(self) -> int:
        return sum(len(user.of("order")) for user in self.users)

    @property
    def under_way(self) -> int:
        return int(self._pool.running())

    # One request

    def attempt(
        self, method: str, path: str, user: User | None = None, **options: Any
    ) -> Reply:
        """One request, once."""
        headers = {
            "X-Request-Id": f"{self.name}-{next(self._numbers)}",
            **options.pop("headers", {}),
        }
        if user and user.token:
            headers["Authorization"] = f"Bearer {user.token}"
        started = time.monotonic()
        try:
            answer = self._session.request(  # returns when the whole body is there
                method, self.url + path, headers=headers, timeout=CUT_OFF_S, **options
            )
        except (
            requests.RequestException,
            OSError,
        ) as exc:  # cut off: its outcome is unknown
            reply = Reply(0, {"error": str(exc)})
            self.failures[type(exc).__name__] += 1
        else:
            reply = Reply(
                answer.status_code,
                self._body(f"{method} {path}", answer),
                answer.headers,
            )
        self.longest_s = max(self.longest_s, time.monotonic() - started)
        self.answers[_route(method, path), reply.status] += 1
        if reply.status in AGAIN and "Retry-After" not in reply.headers:
            self.broken.append(f"{method} {path}: {reply.status} without Retry-After")
        return reply

    def _body(self, request: str, answer: requests.Response) -> dict[str, Any]:
        try:
            body = answer.json()
        except requests.JSONDecodeError:
            body = None
        if isinstance(body, dict):
            return body
        self.broken.append(
            f"{request}: {answer.status_code} without a JSON object: {answer.content[:200]!r}"
        )
        return {}

    def insist(
        self, method: str, path: str, user: User | None = None, **options: Any
    ) -> Reply:
        """The request, repeated until it has an answer."""
        until = time.monotonic() + PATIENCE_S
        while (reply := self.attempt(method, path, user, **options)).status in (
            0,
            *AGAIN,
        ):
            if time.monotonic() > until:
                self.broken.append(
                    f"{method} {path}: no answer in {PATIENCE_S:g} s: {reply}"
                )
                break
            self.retries += 1
            eventlet.sleep(self.chance.uniform(*AGAIN_S))
        return reply

    # What a user does

    def sign_up(self) -> User:
        """A new user. Whether a sign-up that was cut off was done, logging in tells."""
        user = User(f"{self.name}-{next(self._numbers)}")
        body = {"username": user.username, "email": user.email, "password": PASSWORD}
        retries = self.retries
        reply = self.insist("POST", "/users", json=body)
        if reply.status == 409 and self.retries > retries:
            credentials = {"username": user.username, "password": PASSWORD}
            reply = self.insist("POST", "/tokens", json=credentials)
        user.token = reply.body.get("access_token", "")
        if reply.status != 201 or not user.token:
            self.broken.append(
                f"the sign-up of {user.username} is answered {reply.status}: {reply.body}"
            )
            return user
        profile = self.insist("GET", "/users/me", user)
        user.id = profile.body.get("id", "")
        if reply.body.get("id", user.id) != user.id:
            self.broken.append(
                f"{user.username} signed up as {reply.body['id']} and is {user.id}"
            )
        self.users.append(user)
        return user

    def ask(self, user: User, kind: str, cents: int, key: str = "") -> Asked:
        """A new order, deposit or withdrawal; returns when it has its answer."""
        asked = Asked(kind, key or f"{self.name}-{next(self._numbers)}", cents)
        user.asked.append(asked)
        self.repeat(user, asked)
        return asked

    def repeat(self, user: User, asked: Asked) -> None:
        """The same request with the same key; its answer must not contradict an earlier one."""
        earlier = asked.certain  # of answers that come at once none is the earlier one
        self._note(asked, earlier, self.request(user, asked))

    def request(self, user: User, asked: Asked) -> Reply:
        """The request as it stands, and its answer."""
        amount = "price" if asked.kind == "order" else "amount"
        return self.insist(
            "POST",
            PATHS[asked.kind],
            user,
            json={amount: f"{asked.cents // 100}.{asked.cents % 100:02d}"},
            headers={"Idempotency-Key": asked.key},
        )

    def _note(self, asked: Asked, earlier: Answer | None, reply: Reply) -> None:
        refused = reply.status == 409 and "operation" in reply.body
        if not (reply.status in (201, 202) and reply.body) and not refused:
            self.broken.append(
                f"{asked.kind} {asked.key} is answered {reply.status}: {reply.body}"
            )
            return
        told = reply.body["operation"] if refused else reply.body
        if earlier and (difference := contradiction(earlier, told)):
            self.broken.append(f"{asked.kind} {asked.key}: {difference}")
        asked.told.append(told)

    # Load

    def join(self, number: int, cents: int = 300_00) -> list[User]:
        """So many new users with money."""
        return list(GreenPool(8).imap(self._join, [cents] * number))

    def _join(self, cents: int) -> User:
        user = self.sign_up()
        if user.token:
            self.ask(user, "deposit", cents)
        return user

    def act(self) -> None:
        """Something by chance, mostly an order."""
        dice = self.chance.random()
        user = self.chance.choice(self.users)
        if dice < 0.75:
            self.order(user)
        elif dice < 0.95:
            self.ask(user, self.chance.choice(["deposit", "withdrawal"]), self._cents())
        else:
            self._join(300_00)

    def order(self, user: User | None = None) -> Asked:
        """An order of a user (by chance, if none is given), at times for more than the balance."""
        return self.ask(user or self.chance.choice(self.users), "order", self._cents())

    def ended_order(self, user: User, cents: int) -> None:
        """An order; returns when it has ended."""
        asked = self.ask(user, "order", cents)
        while asked.certain and asked.certain["status"] == "pending":
            eventlet.sleep(AGAIN_S[0])
            self.repeat(user, asked)

    def _cents(self) -> int:
        return self.chance.randint(1, 40_00)

    def spawn(self, act: Callable[..., object], *arguments: Any) -> None:
        """Let a client do something beside the others; `finish` waits for it."""
        self._pool.spawn(self._do, act, *arguments)

    def _do(self, act: Callable[..., object], *arguments: Any) -> None:
        try:
            act(*arguments)
        except Exception as exc:
            self._failed.append(exc)  # `finish` raises it

    def wave(self, orders: int) -> None:
        """So many orders at once, and some other requests; returns while they are under way."""
        for _ in range(orders):
            self.spawn(self.order)
        for _ in range(max(1, orders // 4)):
            self.spawn(self.act)

    @contextmanager
    def arrivals(self, per_s: float = 20) -> Iterator[None]:
        """So many requests a second begin inside, however many still wait for their answers."""
        going = [True]
        self.spawn(self._arrive, going, per_s)
        try:
            yield
        finally:
            going.clear()

    def _arrive(self, going: list[bool], per_s: float) -> None:
        while going:
            self.spawn(self.act)
            eventlet.sleep(self.chance.uniform(0, 2 / per_s))

    def finish(self) -> None:
        """Returns when every request has its answer; raises what went wrong with one of them."""
        self._pool.waitall()
        if self._failed:
            raise self._failed[0]

    def stop(self) -> None:
        """Nobody asks for anything any more."""
        while under_way := self._pool.coroutines_running:
            next(iter(under_way)).kill()
        self._session.close()

    # The records, compared with what the shop tells in the end

    def compare(self) -> list[str]:
        """What the users were told, and is not so; all that is broken."""
        for user in self.users:
            self.broken += [f"{user.username}: {line}" for line in self._compare(user)]
        repeated = [(user, asked) for user in self.users for asked in user.asked]
        chosen = self.chance.sample(repeated, min(len(repeated), MOST_AGAIN))
        for _ in GreenPool(8).starmap(self.repeat, chosen):
            pass
        return self.broken

    def _compare(self, user: User) -> Iterator[str]:
        orders = self._all(user, ORDERS)
        operations = [o for o in self._all(user, STATEMENT) if o["order_id"] is None]
        yield from differences(user.of("order"), orders)
        yield from differences(user.of("deposit", "withdrawal"), operations)
        ended = {order["id"]: order["status"] for order in orders}
        letters = [
            (item["order_id"], item["kind"])
            for item in self._all(user, LETTERS)
            if item["order_id"]
        ]
        if sorted(letters) != sorted(
            (id_, LETTER_OF.get(status, "")) for id_, status in ended.items()
        ):
            yield f"{len(letters)} letters do not match {len(ended)} orders"
        balance = self.insist("GET", "/account", user).body.get("balance")
        stored = {item["id"]: item for item in (*orders, *operations)}
        cents = _sum(user.asked, stored)
        if balance is None or _cents_of(balance) != cents:
            yield f"the balance is {balance}, what was asked for comes to {cents} cents"
        for asked in user.asked:
            asked.learn(stored)

    def _all(self, user: User, path: str) -> list[Answer]:
        items: list[Answer] = []
        page = partial(self.insist, "GET", path, user)
        cursor: dict[str, str] = {}
        while True:
            reply = page(params={"limit": 100, **cursor})
            if reply.status != 200 or not reply.body:
                raise Failure(f"{path} is answered {reply.status}: {reply.body}")
            items += reply.body["items"]
            if reply.body["next_cursor"] is None:
                return items
            cursor = {"cursor": reply.body["next_cursor"]}


def _route(method: str, path: str) -> str:
    return f"{method} {path if path in ROUTES else path.rpartition('/')[0] + '/{id}'}"


def contradiction(earlier: Answer, later: Answer) -> str | None:
    """How a later answer to the same request contradicts an earlier one: only a pending order may
    change, and only once."""
    if earlier.get("status") != "pending":
        return None if later == earlier else f"told {earlier}, then {later}"
    same = ("id", "price", "created_at")
    if [later.get(name) for name in same] != [earlier.get(name) for name in same]:
        return f"told {earlier}, then {later}"
    return None


def differences(asked: list[Asked], stored: list[Answer]) -> Iterator[str]:
    """What was told and is not stored so; and what is stored and was never asked for."""
    by_id = {item["id"]: item for item in stored}
    for one in asked:
        told = one.certain
        if told is None:
            yield f"{one.kind} {one.key} never had an answer"
        elif told["id"] not in by_id:
            yield f"{one.kind} {one.key} was acknowledged and is lost: {told}"
        elif difference := contradiction(told, by_id[told["id"]]):
            yield f"{one.kind} {one.key}: {difference}"
    if len(stored) != len(asked):
        yield f"{len(stored)} are stored of {len(asked)} that were asked for"
    yield from (
        f"order {item['id']} is still pending"
        for item in stored
        if item["status"] == "pending"
    )


def _sum(asked: Iterable[Asked], stored: Mapping[str, Answer]) -> int:
    """What the orders, deposits and withdrawals that were done come to, in cents."""
    effects = {"deposit": 1, "withdrawal": -1, "order": -1}
    known = [
        (one, stored.get(told["id"], told)) for one in asked if (told := one.certain)
    ]
    return sum(
        effects[one.kind] * one.cents
        for one, told in known
        if told["status"] in ("done", "paid")
    )


def _cents_of(amount: str) -> int:
    return int(amount.replace(".", ""))

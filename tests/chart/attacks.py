"""What a stolen account of the broker tries, each attempt on a channel of its own.

An attempt is refused where the broker says so. Attempts that the user's permissions allow on purpose
are its own tasks, and are not made: some would destroy what the tests need.
"""

import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import amqp
import kombu

from dev import bus

BUILT_IN = ("amq.direct", "amq.topic", "amq.fanout", "amq.headers")
RPC = "nameko-rpc"
EVENTS = {
    "users.events": ("user_created",),
    "orders.events": ("order_paid", "order_rejected"),
}
METHODS = bus.methods()
Act = Callable[[Any], None]


@dataclass(frozen=True)
class Attempt:
    """One thing to try, and how the broker refuses it."""

    name: str
    act: Act
    refusal: type[amqp.AMQPError] = amqp.AccessRefused


class Account:
    """A stolen account: its user's name, and how it connects."""

    def __init__(self, user: str, uri: str) -> None:
        self.user = user
        self.may = bus.bus()["users"][user]
        self._connection = kombu.Connection(uri)

    def channel(self) -> Any:
        """A new channel, on a new connection where the last one is closed."""
        if not self._connection.connected:
            self._connection.connect()
        return self._connection.channel()

    def close(self) -> None:
        self._connection.release()

    def is_refused(self, attempt: Attempt) -> bool:
        channel = self.channel()
        try:
            attempt.act(channel)
        except attempt.refusal:
            return True
        channel.close()
        return False

    def has(self, right: str, name: str) -> bool:
        """Whether it may configure, write or read what has this name."""
        return re.fullmatch(self.may[right], name) is not None

    def has_key(self, right: str, exchange: str, key: str) -> bool:
        """Whether it may write or read the exchange with this routing key."""
        topics = self.may["topics"].get(exchange)
        is_permitted = topics is None or re.fullmatch(topics[right], key) is not None
        return self.has(right, exchange) and is_permitted

    @property
    def own_queue(self) -> str:
        """A name for a new queue. `users` may declare the queue of its requests only, which is there."""
        stems = {
            "migrations": "evt-attack--",
            "operator": bus.SHELL_REPLIES,
            "users": "rpc-users-",
        }
        return f"{stems.get(self.user, f'rpc.reply-{self.user}-')}{uuid.uuid4()}"

    @property
    def own_exchange(self) -> str:
        """A name for a new exchange: permissions are for queues and exchanges alike."""
        return "rpc-users" if self.user == "users" else self.own_queue


def publish(
    channel: Any,
    exchange: str,
    key: str,
    body: bytes = b"{}",
    headers: Any = None,
    **properties: Any,
) -> None:
    """With a confirm: the broker refuses at once or not at all."""
    channel.confirm_select()
    properties = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        **properties,
    }
    message = amqp.Message(body, application_headers=headers or {}, **properties)
    channel.basic_publish(message, exchange, key)
    channel.wait([amqp.spec.Basic.Ack, amqp.spec.Basic.Nack, amqp.spec.Channel.Close])


def attempts(
    account: Account, queues: Iterable[str], reply_keys: Iterable[str]
) -> Iterator[Attempt]:
    """Everything that bus.yaml does not permit this account.

    dev/tests/unit/test_bus.py says what that may permit. `queues` are all that exist, and `reply_keys`
    the routing keys of all services' replies.
    """
    yield from _on_exchanges(account)
    yield from _on_queues(account, queues)
    yield from _dead_letters(account)
    yield from _requests(account)
    yield from _events(account)
    yield from _by_queue_name(account, queues)
    yield from _replies(account, reply_keys)
    as_another = partial(_publish_as_another, account)
    yield Attempt("publish as another user", as_another, amqp.PreconditionFailed)


def _on_exchanges(account: Account) -> Iterator[Attempt]:
    """Delete, change, rebind or read an exchange that others use."""
    own = account.own_exchange
    shared = bus.bus()["exchanges"]
    for name in shared:
        if not account.has("configure", name):
            yield Attempt(f"delete {name}", lambda c, n=name: c.exchange_delete(n))
            for type_ in ("fanout", "headers"):
                yield Attempt(
                    f"declare {name} as {type_}",
                    partial(_declare_exchange, name, type_, None),
                )
        if not (account.has("configure", own) and account.has("write", name)):
            alternate = {"alternate-exchange": name}
            yield Attempt(
                f"alternate exchange {name}",
                partial(_declare_exchange, own, "topic", alternate),
            )
    for name in (*shared, "amq.topic"):
        for source in shared:
            if not (
                account.has("write", name) and account.has_key("read", source, "attack")
            ):
                yield Attempt(
                    f"bind {name} to {source}", partial(_bind_exchange, name, source)
                )
                yield Attempt(
                    f"unbind {name} from {source}",
                    partial(_unbind_exchange, name, source),
                )


def _on_queues(account: Account, queues: Iterable[str]) -> Iterator[Attempt]:
    """Delete, change, purge, bind or read a queue of others."""
    for name in queues:
        if not account.has("configure", name):
            yield Attempt(f"delete {name}", lambda c, n=name: c.queue_delete(n))
            yield Attempt(
                f"declare {name}", lambda c, n=name: c.queue_declare(n, durable=False)
            )
        if not account.has("read", name):
            yield Attempt(f"purge {name}", lambda c, n=name: c.queue_purge(n))
            yield Attempt(f"get from {name}", lambda c, n=name: c.basic_get(n))
            yield Attempt(
                f"consume {name}", lambda c, n=name: c.basic_consume(n, no_ack=True)
            )
        for exchange, key in ((RPC, "users.*"), ("users.events", "user_created")):
            if not (
                account.has("write", name) and account.has_key("read", exchange, key)
            ):
                yield Attempt(
                    f"bind {name} to {exchange}", partial(_bind, name, exchange, key)
                )
                yield Attempt(
                    f"unbind {name} from {exchange}",
                    partial(_unbind, name, exchange, key),
                )


def _dead_letters(account: Account) -> Iterator[Attempt]:
    """A queue of its own that dead-letters into an exchange that it may not write to."""
    own = account.own_queue
    for name in ("", *bus.bus()["exchanges"], *BUILT_IN):
        if not (
            account.has("configure", own)
            and account.has("write", name or bus.DEFAULT_EXCHANGE)
        ):
            arguments = {"x-dead-letter-exchange": name, "x-message-ttl": 0}
            yield Attempt(
                f"dead-letter into {name or 'any queue'}",
                partial(_declare, own, arguments),
            )


def _requests(account: Account) -> Iterator[Attempt]:
    """Call a method that it has no business with; methods that there are not, too."""
    for key in (*METHODS, *(f"{name}.attack" for name in bus.SERVICES), "#", ""):
        if not account.has_key("write", RPC, key):
            yield Attempt(f"call {key}", lambda c, k=key: publish(c, RPC, k))
    for key in ("#", "*.*", "#.#", *(f"{name}.*" for name in bus.SERVICES)):
        if not account.has_key("read", RPC, key):
            yield from _bind_to(account, key)


def _events(account: Account) -> Iterator[Attempt]:
    """Publish events of others; by the exchange of their own moves as well."""
    for exchange, types in EVENTS.items():
        if not account.has("write", exchange):
            yield from (
                Attempt(
                    f"publish {type_}", lambda c, e=exchange, t=type_: publish(c, e, t)
                )
                for type_ in types
            )
    for name in bus.SERVICES:
        for handler in bus.service(name).handlers:
            moves, key = handler.moves.name, handler.queue.name
            if not account.has("write", moves):
                yield Attempt(
                    f"move into {key}", lambda c, m=moves, k=key: publish(c, m, k)
                )


def _by_queue_name(account: Account, queues: Iterable[str]) -> Iterator[Attempt]:
    """Publish to a queue by the default exchange."""
    if not account.has("write", bus.DEFAULT_EXCHANGE):
        for name in queues:
            yield Attempt(f"publish to {name}", lambda c, n=name: publish(c, "", n))
    for exchange in BUILT_IN:
        yield Attempt(
            f"publish to {exchange}", lambda c, e=exchange: publish(c, e, "key")
        )


def _replies(account: Account, reply_keys: Iterable[str]) -> Iterator[Attempt]:
    """Get a copy of the replies to others."""
    for key in reply_keys:
        if not account.has_key("read", RPC, key):
            yield from _bind_to(account, key)


def _bind_to(account: Account, key: str) -> Iterator[Attempt]:
    """Bind a queue of its own, a new one or the one that is there."""
    yield Attempt(f"bind to {key}", partial(_bind_new, account.own_queue, key))
    if account.has("write", f"rpc-{account.user}"):
        yield Attempt(
            f"bind its queue to {key}", partial(_bind, f"rpc-{account.user}", RPC, key)
        )


def _publish_as_another(account: Account, channel: Any) -> None:
    """The broker takes `user_id` from the owner of the connection alone."""
    exchange, key = {
        "users": ("users.events", "user_created"),
        "orders": ("orders.events", "order_paid"),
        "gateway": (RPC, "users.get"),
        "migrations": ("", "no-such-queue"),
        "operator": (RPC, "users.get"),
    }.get(account.user, (RPC, "users.get_many"))
    publish(channel, exchange, key, user_id="somebody")


def _declare_exchange(name: str, type_: str, arguments: Any, channel: Any) -> None:
    channel.exchange_declare(
        name, type_, durable=True, auto_delete=False, arguments=arguments
    )


def _declare(name: str, arguments: dict[str, Any], channel: Any) -> None:
    channel.queue_declare(name, auto_delete=True, arguments=arguments)


def _bind_exchange(name: str, source: str, channel: Any) -> None:
    channel.exchange_bind(name, source, "attack")


def _unbind_exchange(name: str, source: str, channel: Any) -> None:
    channel.exchange_unbind(name, source, "attack")


def _bind(name: str, exchange: str, key: str, channel: Any) -> None:
    channel.queue_bind(name, exchange, key)


def _unbind(name: str, exchange: str, key: str, channel: Any) -> None:
    channel.queue_unbind(name, exchange, key)


def _bind_new(queue: str, key: str, channel: Any) -> None:
    channel.queue_declare(queue, auto_delete=True)
    channel.queue_bind(queue, RPC, key)


def detours(account: Account, method: str, body: bytes) -> Iterator[Attempt]:
    """Requests that reach a service past the check of their routing key, if anything lets them."""
    own, exchange = account.own_queue, account.own_exchange
    request = {"reply_to": str(uuid.uuid4()), "correlation_id": str(uuid.uuid4())}
    send = partial(publish, body=body, **request)
    queue = f"rpc-{method.partition('.')[0]}"
    moves = bus.moves_exchange(account.user).name
    permitted = _permitted_key(account)

    def dead_letter(target: str, key: str, channel: Any) -> None:
        name = f"{own}-to-{target}"
        arguments = {
            "x-dead-letter-exchange": target,
            "x-dead-letter-routing-key": key,
            "x-message-ttl": 0,
            "x-expires": 60_000,
        }
        channel.queue_declare(name, auto_delete=False, arguments=arguments)
        send(channel, *_way_into(account, channel, name))

    def alternate(channel: Any) -> None:
        arguments = {"alternate-exchange": RPC}
        channel.exchange_declare(
            exchange, "topic", auto_delete=False, arguments=arguments
        )
        send(channel, exchange, method)
        channel.exchange_delete(exchange)

    def bound(channel: Any) -> None:
        channel.exchange_declare(exchange, "topic", auto_delete=False)
        channel.exchange_bind(RPC, exchange, "#")
        send(channel, exchange, method)
        channel.exchange_delete(exchange)

    def bound_moves(channel: Any) -> None:
        channel.exchange_bind(RPC, moves, method)
        send(channel, moves, method)
        channel.exchange_unbind(RPC, moves, method)

    yield Attempt("a direct call", lambda c: send(c, RPC, method))
    yield Attempt("a dead letter", partial(dead_letter, RPC, method))
    yield Attempt(
        "a dead letter by the default exchange", partial(dead_letter, "", queue)
    )
    yield Attempt("an alternate exchange", alternate)
    yield Attempt("a bound exchange", bound)
    yield Attempt("the exchange of its moves", bound_moves)
    yield Attempt("the default exchange", lambda c: send(c, "", queue))
    for header in ("CC", "BCC"):
        copies = {header: [method]}
        yield Attempt(
            f"the header {header}",
            lambda c, h=copies: send(c, RPC, permitted, headers=h),
        )


def _permitted_key(account: Account) -> str:
    """A routing key for a request or a reply that it may publish."""
    calls = [method for method in METHODS if account.has_key("write", RPC, method)]
    return calls[0] if calls else str(uuid.uuid4())


def _way_into(account: Account, channel: Any, queue: str) -> tuple[str, str]:
    """An exchange and a routing key by which it can publish into a queue of its own."""
    if account.has("write", bus.DEFAULT_EXCHANGE):
        return "", queue
    own = f"{queue}-in"
    channel.exchange_declare(own, "fanout", auto_delete=True)
    channel.queue_bind(queue, own, "")
    return own, ""

"""Attacks with a stolen account of the broker, each on a new channel.

The broker must refuse each attempt. Operations that the user's permissions allow on purpose are not
attempted: some would destroy queues that the tests need.
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
    """One operation to try, and the exception by which the broker refuses it."""

    name: str
    act: Act
    refusal: type[amqp.AMQPError] = amqp.AccessRefused


class Account:
    """A stolen account of the broker, its permissions and its connection."""

    def __init__(self, user: str, uri: str) -> None:
        self.user = user
        self.may = bus.bus()["users"][user]
        self._connection = kombu.Connection(uri)

    def channel(self) -> Any:
        """Open a channel, on a new connection if the last one is closed."""
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
        """Return whether it may configure, write or read this queue or exchange."""
        return re.fullmatch(self.may[right], name) is not None

    def has_key(self, right: str, exchange: str, key: str) -> bool:
        """Return whether it may write or read the exchange with this routing key."""
        topics = self.may["topics"].get(exchange)
        is_permitted = topics is None or re.fullmatch(topics[right], key) is not None
        return self.has(right, exchange) and is_permitted

    def new_queue_name(self) -> str:
        """Return an unused queue name that the account may declare, if there is one.

        `users` may declare only its request queue, which exists.
        """
        stems = {
            "migrations": "evt-attack--",
            "operator": bus.SHELL_REPLIES,
            "users": "rpc-users-",
        }
        return f"{stems.get(self.user, f'rpc.reply-{self.user}-')}{uuid.uuid4()}"

    def new_exchange_name(self) -> str:
        """Return a name for a new exchange.

        The same permissions apply to names of queues and of exchanges.
        """
        return "rpc-users" if self.user == "users" else self.new_queue_name()


def publish(
    channel: Any,
    exchange: str,
    key: str,
    body: bytes = b"{}",
    headers: Any = None,
    **properties: Any,
) -> None:
    """Publish with a publisher confirm, so that a refusal is raised here."""
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
    """Yield all operations that bus.yaml does not permit this account.

    dev/tests/unit/test_bus.py checks the permissions in bus.yaml. `queues` are all existing queues,
    `reply_keys` the routing keys of all services' replies.
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
    own = account.new_exchange_name()
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
            can_read = account.has_key("read", source, "attack")
            if not (account.has("write", name) and can_read):
                bind = partial(_bind_exchange, name, source)
                unbind = partial(_unbind_exchange, name, source)
                yield Attempt(f"bind {name} to {source}", bind)
                yield Attempt(f"unbind {name} from {source}", unbind)


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
            can_read = account.has_key("read", exchange, key)
            if not (account.has("write", name) and can_read):
                bind = partial(_bind, name, exchange, key)
                unbind = partial(_unbind, name, exchange, key)
                yield Attempt(f"bind {name} to {exchange}", bind)
                yield Attempt(f"unbind {name} from {exchange}", unbind)


def _dead_letters(account: Account) -> Iterator[Attempt]:
    """Declare a queue that dead-letters into an exchange without permission to write."""
    own = account.new_queue_name()
    for name in ("", *bus.bus()["exchanges"], *BUILT_IN):
        can_write = account.has("write", name or bus.DEFAULT_EXCHANGE)
        if not (account.has("configure", own) and can_write):
            arguments = {"x-dead-letter-exchange": name, "x-message-ttl": 0}
            yield Attempt(
                f"dead-letter into {name or 'any queue'}",
                partial(_declare, own, arguments),
            )


def _requests(account: Account) -> Iterator[Attempt]:
    """Call methods without permission, unknown methods too."""
    for key in (*METHODS, *(f"{name}.attack" for name in bus.SERVICES), "#", ""):
        if not account.has_key("write", RPC, key):
            yield Attempt(f"call {key}", _publishes(RPC, key))
    for key in ("#", "*.*", "#.#", *(f"{name}.*" for name in bus.SERVICES)):
        if not account.has_key("read", RPC, key):
            yield from _bind_to(account, key)


def _events(account: Account) -> Iterator[Attempt]:
    """Publish events of other services, to their exchanges for moves as well."""
    for exchange, types in EVENTS.items():
        if not account.has("write", exchange):
            for type_ in types:
                yield Attempt(f"publish {type_}", _publishes(exchange, type_))
    for name in bus.SERVICES:
        for handler in bus.service(name).handlers:
            moves, queue = handler.moves_exchange.name, handler.queue.name
            if not account.has("write", moves):
                yield Attempt(f"move into {queue}", _publishes(moves, queue))


def _by_queue_name(account: Account, queues: Iterable[str]) -> Iterator[Attempt]:
    """Publish to a queue by the default exchange, and to the other built-in ones."""
    if not account.has("write", bus.DEFAULT_EXCHANGE):
        for name in queues:
            yield Attempt(f"publish to {name}", _publishes("", name))
    for exchange in BUILT_IN:
        yield Attempt(f"publish to {exchange}", _publishes(exchange, "key"))


def _replies(account: Account, reply_keys: Iterable[str]) -> Iterator[Attempt]:
    """Get a copy of the replies to others."""
    for key in reply_keys:
        if not account.has_key("read", RPC, key):
            yield from _bind_to(account, key)


def _bind_to(account: Account, key: str) -> Iterator[Attempt]:
    """Bind a new queue, and the account's request queue, to a routing key of requests."""
    new, own = account.new_queue_name(), f"rpc-{account.user}"
    yield Attempt(f"bind to {key}", partial(_bind_new, new, key))
    if account.has("write", own):
        yield Attempt(f"bind its queue to {key}", partial(_bind, own, RPC, key))


def _publishes(exchange: str, key: str) -> Act:
    """Return an operation that publishes a message."""
    return lambda channel: publish(channel, exchange, key)


def _publish_as_another(account: Account, channel: Any) -> None:
    """Publish with a false `user_id`: the broker must compare it with the connection."""
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
    """Yield ways to send a request that bypass the broker's check of its routing key."""
    own, exchange = account.new_queue_name(), account.new_exchange_name()
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
    """Return a routing key of a request or reply that the account may publish."""
    calls = [method for method in METHODS if account.has_key("write", RPC, method)]
    return calls[0] if calls else str(uuid.uuid4())


def _way_into(account: Account, channel: Any, queue: str) -> tuple[str, str]:
    """Return an exchange and routing key by which the account reaches its own queue."""
    if account.has("write", bus.DEFAULT_EXCHANGE):
        return "", queue
    own = f"{queue}-in"
    channel.exchange_declare(own, "fanout", auto_delete=True)
    channel.queue_bind(queue, own, "")
    return own, ""

"""Write the permissions on the broker from the code of the services: `python -m dev.bus`.

It writes charts/shop/files/bus.yaml, from which the chart and `make up` create the users of the
broker. A user has patterns for the names that it may configure, write and read, and patterns for
the routing keys of topic exchanges. Each pattern must match a whole name.

The names are Nameko's. Requests go over the exchange nameko-rpc to the queue rpc-<service>. Replies
go back over it to rpc.reply-<service>-<UUID>, with a UUID as their key that begins with a digest of
the caller's name (chassis/rpc.py). Events go over <service>.events to
evt-<source>-<event>--<listener>.<method>. Failed ones go over evt-moves--<listener>.direct into the
same queue or its `.dead` queue.

A consumer declares and binds its queue: it needs configure and write on the queue, read on the
exchange. Write on the default exchange reaches every queue, because RabbitMQ checks nothing else
there. So only migrations have it. Configure on an exchange includes its deletion. So only
migrations and the operator have it.
"""

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from nameko.containers import ServiceContainer
from nameko.rpc import Rpc, get_rpc_exchange
from nameko.standalone.events import get_event_exchange

from chassis.events import EventHandler, moves_exchange
from chassis.outbox import Outbox
from chassis.rpc import ReplyListener, RpcProxy, reply_prefix
from dev.broker import BUS, TEMPLATE, template
from dev.cli import SERVICES

FILE = BUS
HEADER = (
    "# Written by `make specs` from the services' code (dev/bus.py), "
    "for the chart and for `make up`.\n"
)
CONFIG: dict[str, Any] = {
    "AMQP_URI": "memory://",
    "WORKERS": dict.fromkeys(SERVICES, 1),
}
UUID = "[0-9a-f-]{36}"
UUID_REST = "[0-9a-f-]{28}"  # after the 8 digits of a service
DEFAULT_EXCHANGE = "amq.default"
SHELL_REPLIES = "rpc.reply-standalone_rpc_proxy-"  # of stock `nameko shell`


@dataclass(frozen=True, kw_only=True)
class Service:
    """The use that a service makes of the bus, read from its code.

    methods      its own RPC methods
    calls        methods of other services, by service
    emits        whether it emits events
    has_replies  whether it receives RPC replies
    """

    name: str
    methods: list[str]
    calls: dict[str, list[str]]
    handlers: list[EventHandler]
    emits: bool
    has_replies: bool

    @property
    def queues(self) -> list[str]:
        """Return the queues that it consumes or publishes to."""
        names = [f"rpc-{self.name}"] if self.methods else []
        for handler in self.handlers:
            names += [handler.queue.name, handler.dead_letter_queue]
        return names

    @property
    def sources(self) -> dict[str, list[str]]:
        """Return the events that it consumes, by the service that emits them."""
        found: dict[str, list[str]] = {}
        for handler in self.handlers:
            found.setdefault(handler.source_service, []).append(handler.event_type)
        return found


def service(name: str) -> Service:
    """Return the use that the service of this name makes of the bus."""
    module = importlib.import_module(f"{name}.service")
    container = ServiceContainer(module.Service, CONFIG)
    entrypoints, dependencies = container.entrypoints, container.dependencies
    calls: dict[str, list[str]] = {}
    for proxy in dependencies:
        if isinstance(proxy, RpcProxy):
            batched = [f"{verb}_many" for verb in proxy.batched]
            calls.setdefault(proxy.service, []).extend([*proxy.methods, *batched])
    handlers = [each for each in entrypoints if isinstance(each, EventHandler)]
    for handler in handlers:
        handler.setup()
    methods = [each.method_name for each in entrypoints if isinstance(each, Rpc)]
    listeners = [e for e in container.extensions if isinstance(e, ReplyListener)]
    return Service(
        name=name,
        methods=sorted(methods),
        calls=calls,
        handlers=sorted(handlers, key=lambda handler: handler.queue.name),
        emits=any(isinstance(each, Outbox) for each in dependencies),
        has_replies=bool(listeners),
    )


def methods() -> list[str]:
    """Return all RPC methods, as the routing keys of their requests."""
    return [f"{name}.{verb}" for name in SERVICES for verb in service(name).methods]


def permissions(each: Service) -> dict[str, Any]:
    """Return the permissions of a service's own user."""
    replies = [f"rpc.reply-{each.name}-*"] if each.has_replies else []
    moves = [moves_exchange(each.name).name] if each.handlers else []
    own = [f"{each.name}.events"] if each.emits else []
    sources = [f"{source}.events" for source in each.sources]
    requests = sorted(
        f"{callee}.{verb}" for callee, verbs in each.calls.items() for verb in verbs
    )
    rpc_write = [*map(literal, requests)]
    rpc_read = []
    if each.methods:
        rpc_write.append(UUID)
        rpc_read.append(literal(f"{each.name}.*"))
    if each.has_replies:
        rpc_read.append(f"{reply_prefix(each.name)}{UUID_REST}")
    topics = {"nameko-rpc": topic(write=rpc_write, read=rpc_read)}
    topics |= {exchange: topic(write=["[a-z_]+"], read=[]) for exchange in own}
    topics |= {
        f"{name}.events": topic(write=[], read=types)
        for name, types in each.sources.items()
    }
    return {
        "configure": names([*each.queues, *replies]),
        "write": names(["nameko-rpc", *each.queues, *replies, *own, *moves]),
        "read": names(["nameko-rpc", *each.queues, *replies, *sources, *moves]),
        "topics": topics,
    }


def migrations() -> dict[str, Any]:
    """Return the permissions of the user that declares queues and redrives dead letters.

    It also declares and deletes scratch queues, whose names begin like those of event queues.
    """
    return {
        "configure": names(["nameko-rpc", "*.events", "evt-*--*"]),
        "write": names([DEFAULT_EXCHANGE, "evt-*--*"]),
        "read": names(["*.events", "evt-*--*"]),
        "topics": {},
    }


def operator(services: Iterable[Service]) -> dict[str, Any]:
    """Return the permissions of `nameko shell`, which may call every method.

    Nameko declares the exchange.
    """
    requests = [
        literal(f"{each.name}.{verb}") for each in services for verb in each.methods
    ]
    own = names(["nameko-rpc", f"{SHELL_REPLIES}*"])
    topics = {"nameko-rpc": topic(write=requests, read=[UUID])}
    return {"configure": own, "write": own, "read": own, "topics": topics}


def exchanges(services: Sequence[Service]) -> dict[str, str]:
    """Return the type of each exchange. All are durable."""
    found = [get_rpc_exchange(CONFIG)]
    found += [get_event_exchange(each.name, CONFIG) for each in services if each.emits]
    found += [moves_exchange(each.name) for each in services if each.handlers]
    return {exchange.name: exchange.type for exchange in found}


def literal(name: str) -> str:
    """Return a pattern for one name. re.escape() would also escape hyphens."""
    return name.replace(".", r"\.").replace("*", r"\*")


def names(found: Iterable[str]) -> str:
    """Return a pattern for names. A `*` matches any text."""
    return "|".join(literal(name).replace(r"\*", ".+") for name in found)


def topic(write: Iterable[str], read: Iterable[str]) -> dict[str, str]:
    return {"write": "|".join(write), "read": "|".join(read)}


def bus() -> dict[str, Any]:
    """Return the content of bus.yaml."""
    services = [service(name) for name in SERVICES]
    users = {each.name: permissions(each) for each in services}
    users |= {"migrations": migrations(), "operator": operator(services)}
    return {"exchanges": exchanges(services), "users": users}


def text() -> str:
    return HEADER + yaml.safe_dump(bus(), sort_keys=False, width=110)


def main() -> None:
    FILE.write_text(text())
    TEMPLATE.write_text(template())


if __name__ == "__main__":
    main()

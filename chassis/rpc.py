"""RPC with deadlines, in Nameko's wire format: `nameko shell` and stock services can take part.

`RpcProxy` calls other services. Each call ends before its deadline, with a reply or a fault of
`chassis.errors`. `rpc` declares a method that others may call. An exception of the method becomes
a fault without SQL or a traceback. A malformed request is logged and does not stop the service.

    class Service:
        name = "orders"

        billing = RpcProxy("billing", ["statement"], batched=["withdraw"])

        @rpc
        def pay(self, order_id, user_id, amount_minor):
            return self.billing.withdraw(user_id=user_id, amount_minor=amount_minor)
"""

import hashlib
import logging
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import inf
from types import SimpleNamespace
from typing import Any

import eventlet
import nameko.rpc
from nameko.exceptions import (
    BadRequest,
    MalformedRequest,
    MethodNotFound,
    deserialize,
    serialize,
)
from nameko.extensions import DependencyProvider

from chassis import metrics
from chassis.broker import PUBLISHING_BLOCKED, OutgoingMessage, encode_json
from chassis.coalescer import Coalescer, PendingItem
from chassis.consumer import QueueConsumer
from chassis.deadlines import TIMEOUT, call_timeout_s
from chassis.errors import (
    FAULTS,
    DeadlineExceeded,
    InternalError,
    Unavailable,
    first_line,
    to_fault,
)
from chassis.lifecycle import Lifecycle
from chassis.logs import (
    CLIENT,
    REQUEST_ID,
    bind_request_id,
    current_client,
    current_request_id,
)
from chassis.publishers import TransientPublisher
from chassis.schemas import is_id
from chassis.settings import SECONDS, read

log = logging.getLogger(__name__)

# The key of the call's id in Nameko's context data.
CORRELATION_ID = "correlation_id"
# The time to live of a reply. It is longer than the timeout of any caller.
REPLY_EXPIRES_MS = "60000"
# The broker adds this header to a message that it dead-letters.
X_DEATH = "x-death"


class NotReceived(Unavailable):
    """The callee did not receive the call, or does not have the method. It did nothing.

    A service never sends this fault to its own caller, see `RpcConsumer._serialize_fault`.
    """


class RpcConsumer(nameko.rpc.RpcConsumer):
    """Receives the requests of a service, and publishes the replies."""

    queue_consumer = QueueConsumer()
    publisher = TransientPublisher()

    def handle_message(self, body: Any, message: Any) -> None:
        method = message.delivery_info["routing_key"]
        if reason := self._reason_to_drop(message):
            log.error("request_dropped", extra={"method": method, "error": reason})
            self.queue_consumer.ack_message(message)
            return
        try:
            self.get_provider_for_method(method).handle_message(body, message)
        except Exception as exc:
            log.warning(
                "request_malformed", extra={"method": method, "error": first_line(exc)}
            )
            self.handle_result(message, None, sys.exc_info())

    def _reason_to_drop(self, message: Any) -> str:
        """Return why a request must not be executed, or "". A dropped request gets no reply.

        The broker checks permissions for routing keys only when a message is published to the
        exchange of requests. Dead-lettering and bindings between exchanges bypass this check. The
        broker may close the connection if the routing key of a reply is not a UUID.
        """
        if message.delivery_info["exchange"] != self.queue.exchange.name:
            return "published to another exchange"
        if X_DEATH in message.headers:
            return "dead-lettered"
        return (
            ""
            if is_id(message.properties.get("reply_to"))
            else "reply_to is not a UUID"
        )

    def handle_result(
        self, message: Any, result: Any, exc_info: Any
    ) -> tuple[Any, Any]:
        self.publisher.publish(
            OutgoingMessage(
                exchange=self.queue.exchange.name,
                routing_key=str(message.properties["reply_to"]),
                body=self._reply_body(result, exc_info and exc_info[1]),
                properties={
                    "correlation_id": message.properties.get("correlation_id"),
                    "expiration": REPLY_EXPIRES_MS,
                },
            )
        )
        # Yield, so that the publisher writes the reply first. The caller need not wait for the ack
        # and the log line.
        eventlet.sleep(0)
        self.queue_consumer.ack_message(message)
        return result, exc_info

    def _reply_body(self, result: Any, exc: Exception | None) -> bytes:
        try:
            return encode_json(
                {"result": result, "error": exc and self._serialize_fault(exc)}
            )
        except (TypeError, ValueError, RecursionError) as unserializable:
            log.exception("result_unserializable")
            return self._reply_body(None, unserializable)

    def _serialize_fault(self, exc: Exception) -> dict[str, Any]:
        """Return the fault for the caller, in Nameko's format."""
        if isinstance(exc, BadRequest):
            # The caller's mistake. Callers that use stock Nameko know only its own exceptions.
            return serialize(exc)
        fault = to_fault(exc, self.container.service_name)
        if isinstance(fault, NotReceived):
            # This service may have done something before its own call failed.
            fault = Unavailable(*fault.args)
        return serialize(fault)


class Rpc(nameko.rpc.Rpc):
    """`@rpc`: a method that other services and `nameko shell` may call."""

    rpc_consumer = RpcConsumer()

    def handle_message(self, body: Any, message: Any) -> None:
        request = body if isinstance(body, dict) else {}
        if not (
            isinstance(request.get("args"), list)
            and isinstance(request.get("kwargs"), dict)
        ):
            raise MalformedRequest('A request is {"args": [...], "kwargs": {...}}')
        super().handle_message(request, message)

    def unpack_message_headers(self, message: Any) -> dict[str, Any]:
        return {
            **super().unpack_message_headers(message),
            CORRELATION_ID: message.properties.get("correlation_id"),
        }


rpc = Rpc.decorator


class CallId(DependencyProvider):
    """Injects the id of the current call. A redelivered request has the same one."""

    def get_dependency(self, worker_ctx: Any) -> str:
        call_id = worker_ctx.data.get(CORRELATION_ID)
        return call_id if is_id(call_id) else str(uuid.uuid4())


def reply_prefix(service: str) -> str:
    """Return the prefix of a service's reply keys: 8 hexadecimal digits of a digest of its name.

    A reply key is the routing key of a caller's replies. It is a UUID, as in Nameko, with this
    prefix as its first digits. So the broker's permissions can distinguish services.
    """
    return hashlib.sha256(service.encode()).hexdigest()[:8]


class ReplyListener(nameko.rpc.ReplyListener):
    """Receives the replies, and passes each to its caller."""

    queue_consumer = QueueConsumer()
    publisher = TransientPublisher()

    def setup(self) -> None:
        super().setup()
        service = self.container.service_name
        self.routing_key = f"{reply_prefix(service)}{self.queue.routing_key[8:]}"
        self.queue.routing_key = self.routing_key
        self.queue.name = nameko.rpc.RPC_REPLY_QUEUE_TEMPLATE.format(
            service, self.routing_key
        )
        self.publisher.on_returned = self.fail

    def forget(self, correlation_id: str) -> None:
        """Ignore a reply that arrives after the end of its call."""
        self._reply_events.pop(correlation_id, None)

    def fail(
        self, correlation_id: str, reason: str = "the service has never run"
    ) -> None:
        """End a call with NotReceived.

        The default reason is that of a request that the broker returned: no queue is bound for it.
        """
        if event := self._reply_events.pop(correlation_id, None):
            event.send_exception(NotReceived(reason))


class RpcProxy(Lifecycle, DependencyProvider):
    """Injects the methods of another service: `self.billing.statement(user_id=...)`.

    Only the methods in `methods` and `batched` can be called, by keyword arguments. The broker's
    permissions are made from these lists (dev/bus.py). The items of a method in `batched`, such as
    `withdraw`, go through a coalescer to `withdraw_many(items=[...])`, which returns an outcome for
    each item. Each item has its own `request_id`.

    `timeout_setting` names the setting that limits each call, in seconds. `limit_s` and the
    deadline of the current work can make the limit shorter.

    At most half of the caller's workers wait for one service. Further calls fail at once. So a
    service that is slow or dead leaves the other workers free.

    While the broker is unavailable, calls fail at once, and requests are withdrawn if they are not
    yet written to the socket. A request that is written may be executed, so its call continues.

    Raises DeadlineExceeded, Unavailable or InternalError (chassis.errors). NotReceived is the kind
    of Unavailable after which the callee certainly did nothing.
    """

    replies = ReplyListener()
    publisher = TransientPublisher()

    def __init__(
        self,
        service: str,
        methods: Sequence[str] = (),
        *,
        batched: Sequence[str] = (),
        timeout_setting: str = "RPC_TIMEOUT_S",
        limit_s: float = inf,
    ) -> None:
        self.service = service
        self.methods = methods
        self.batched = batched
        self.timeout_setting = timeout_setting
        self.limit_s = limit_s

    def check(self) -> None:
        self.timeout_s = min(
            read(self.container.config, self.timeout_setting, SECONDS), self.limit_s
        )

    def setup(self) -> None:
        self._waiting_workers = 0
        self._max_waiting_workers = max(self.container.max_workers // 2, 1)
        spawn = partial(self.container.spawn_managed_thread, identifier="coalescer")
        self._coalescers = {
            name: Coalescer(partial(self._call_many, f"{name}_many"), spawn)
            for name in self.batched
        }
        self._methods = SimpleNamespace(
            **{name: MethodProxy(self, name) for name in (*self.methods, *self.batched)}
        )

    def get_dependency(self, worker_ctx: Any) -> SimpleNamespace:
        return self._methods

    @contextmanager
    def limit_concurrency(self) -> Iterator[None]:
        """Count one waiting worker.

        Raises NotReceived if the limit is reached or nothing can be published. Turns
        DeadlineExceeded into Unavailable while the broker blocks publishing: the reply is blocked
        too.
        """
        if reason := self.publisher.unavailable_reason:
            raise NotReceived(reason)
        if self._waiting_workers >= self._max_waiting_workers:
            raise NotReceived(
                f"{self._waiting_workers} workers wait for {self.service}"
            )
        self._waiting_workers += 1
        try:
            yield
        except DeadlineExceeded as exc:
            if self.publisher.is_blocked:
                raise Unavailable(PUBLISHING_BLOCKED) from exc
            raise
        finally:
            self._waiting_workers -= 1

    def submit(self, method: str, item: dict[str, Any]) -> PendingItem:
        """Queue one item of a batched method."""
        return self._coalescers[method].submit(
            {REQUEST_ID: current_request_id(), **item}, call_timeout_s(self.timeout_s)
        )

    def call(self, method: str, kwargs: dict[str, Any]) -> Any:
        """Call a method, and return the result of its reply."""
        timeout_s = call_timeout_s(self.timeout_s)
        return self._call(method, kwargs, timeout_s, timeout_s)

    def _call_many(
        self,
        method: str,
        items: Sequence[Any],
        callee_timeout_s: float,
        reply_timeout_s: float,
    ) -> Any:
        """Call a `..._many` method with a batch of items, under the request id of the first."""
        metrics.BATCH_ITEMS.labels(self.service, method).observe(len(items))
        bind_request_id(items[0])
        return self._call(
            method, {"items": list(items)}, callee_timeout_s, reply_timeout_s
        )

    def _call(
        self,
        method: str,
        kwargs: dict[str, Any],
        callee_timeout_s: float,
        reply_timeout_s: float,
    ) -> Any:
        """Publish a request, and wait for the reply.

        The callee gets `callee_timeout_s` as its deadline. The wait ends after `reply_timeout_s`.
        """
        name = f"{self.service}.{method}"
        body = encode_json({"args": [], "kwargs": kwargs})
        correlation_id = str(uuid.uuid4())
        reply = self.replies.get_reply_event(correlation_id)
        queued = self.publisher.publish(
            OutgoingMessage(
                exchange=self.replies.queue.exchange.name,
                routing_key=name,
                body=body,
                headers={
                    f"nameko.{REQUEST_ID}": current_request_id(),
                    f"nameko.{TIMEOUT}": callee_timeout_s,
                    # "" for a batch, whose items belong to many clients.
                    f"nameko.{CLIENT}": current_client(),
                },
                properties={
                    "correlation_id": correlation_id,
                    "reply_to": self.replies.routing_key,
                    # In milliseconds.
                    "expiration": str(int(reply_timeout_s * 1000)),
                },
            ),
            on_unsent=partial(self.replies.fail, correlation_id),
        )
        try:
            with (
                metrics.RPC_CALLS.labels(self.service, method).time(),
                eventlet.Timeout(
                    reply_timeout_s,
                    DeadlineExceeded(
                        f"{name} did not reply in {reply_timeout_s:.1f} s"
                    ),
                ),
            ):
                return self._result(reply.wait(), name)
        finally:
            # Has no effect on a request that is already written.
            queued.withdraw()
            self.replies.forget(correlation_id)

    def _result(self, reply: dict[str, Any], name: str) -> Any:
        """Return the result of a reply, or raise its fault.

        An exception of a stock service becomes InternalError, so that internals do not leak. A
        missing method becomes NotReceived: the service is of an earlier version, as during an
        upgrade.
        """
        try:
            if not reply["error"]:
                return reply["result"]
            fault = deserialize(reply["error"])
        except (AttributeError, TypeError, KeyError):
            raise InternalError(f"{self.service} sent a malformed reply") from None
        if isinstance(fault, FAULTS):
            raise fault
        log.error("rpc_call_failed", extra={"call": name, "error": first_line(fault)})
        # Not of a call that a stock service has made itself.
        if isinstance(fault, MethodNotFound) and fault.args == (name.split(".")[1],):
            raise NotReceived(f"{self.service} does not have this method")
        raise InternalError(f"{self.service} failed")


class MethodProxy:
    """One method of another service."""

    def __init__(self, proxy: RpcProxy, name: str) -> None:
        self._proxy = proxy
        self._name = name

    def __call__(self, **kwargs: Any) -> Any:
        """Call the method, and return its result."""
        with self._proxy.limit_concurrency():
            if self._name in self._proxy.batched:
                return self._proxy.submit(self._name, kwargs).result()
            return self._proxy.call(self._name, kwargs)

    def many(self, items: Sequence[dict[str, Any]]) -> list[Any]:
        """Call a batched method for several items. Return an outcome or a fault for each."""
        try:
            with self._proxy.limit_concurrency():
                pending = [self._proxy.submit(self._name, item) for item in items]
                return [_outcome_or_fault(each) for each in pending]
        except Unavailable as fault:
            return [fault] * len(items)


def _outcome_or_fault(pending: PendingItem) -> Any:
    try:
        return pending.result()
    except FAULTS as fault:
        return fault

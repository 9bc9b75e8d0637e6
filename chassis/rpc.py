"""RPC with a deadline, on Nameko's own wire format: `nameko shell` and stock services take part.

`RpcProxy` calls: each call ends within its time by an answer or a fault of `chassis.errors`.
`rpc` answers: an exception of the service becomes a fault without SQL or stack; a request that
can't be right is refused and logged, and the service lives.
"""

import hashlib
import logging
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import inf
from time import monotonic
from types import SimpleNamespace
from typing import Any

import eventlet
from nameko.exceptions import BadRequest, MalformedRequest, deserialize, serialize
from nameko.extensions import DependencyProvider
from nameko.rpc import RPC_REPLY_QUEUE_TEMPLATE, get_rpc_exchange
from nameko.rpc import ReplyListener as NamekoReplyListener
from nameko.rpc import Rpc as NamekoRpc
from nameko.rpc import RpcConsumer as NamekoRpcConsumer

from chassis import metrics
from chassis.broker import PUBLISHING_BLOCKED, OutgoingMessage, encode_json
from chassis.coalescer import Coalescer, PendingItem
from chassis.consumer import QueueConsumer
from chassis.deadlines import TIMEOUT, time_for_a_call
from chassis.errors import (
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

CALL_ID = "correlation_id"  # the key in nameko's context data
REPLY_EXPIRES_MS = "60000"  # longer than any caller waits
DEATHS = "x-death"  # the broker's own header of a message that it has moved


class NotReceived(Unavailable):
    """The callee never got the call, so it did nothing. Not sent on: see RpcConsumer._error."""


class RpcConsumer(NamekoRpcConsumer):
    """Takes the requests of a service, and sends the answers."""

    queue_consumer = QueueConsumer()
    publisher = TransientPublisher()

    def setup(self) -> None:
        super().setup()
        self._exchange = get_rpc_exchange(self.container.config).name

    def handle_message(self, body: Any, message: Any) -> None:
        method = message.delivery_info["routing_key"]
        if fault := self._fault(message):
            log.error(
                "request_dropped",
                extra={"method": method, "error": fault},
            )
            self.queue_consumer.ack_message(message)
            return
        try:
            self.get_provider_for_method(method).handle_message(body, message)
        except Exception as exc:
            log.warning(
                "request_malformed",
                extra={"method": method, "error": first_line(exc)},
            )
            self.handle_result(message, None, sys.exc_info())

    def _fault(self, message: Any) -> str:
        """Return why a request must not be executed, or "". Such a request gets no reply.

        The broker checks who may publish a routing key to the exchange of requests, and checks it
        only there. A request that reached the queue in another way was checked by nobody: dead-
        lettered from a queue, or passed on by another exchange. The broker may refuse a reply to a key
        that is no UUID, and closes the connection then.
        """
        if message.delivery_info["exchange"] != self._exchange:
            return "published to another exchange"
        if DEATHS in message.headers:
            return "dead-lettered"
        if not is_id(message.properties.get("reply_to")):
            return "reply_to is not a UUID"
        return ""

    def handle_result(
        self, message: Any, result: Any, exc_info: Any
    ) -> tuple[Any, Any]:
        self.publisher.publish(
            OutgoingMessage(
                exchange=self._exchange,
                routing_key=str(message.properties["reply_to"]),
                body=self._answer(result, exc_info and exc_info[1]),
                properties={
                    "correlation_id": message.properties.get("correlation_id"),
                    "expiration": REPLY_EXPIRES_MS,
                },
            )
        )
        eventlet.sleep(
            0
        )  # it goes out now: the caller waits for it, nobody for the ack and the log line
        self.queue_consumer.ack_message(message)
        return result, exc_info

    def _answer(self, result: Any, exc: Exception | None) -> bytes:
        try:
            return encode_json({"result": result, "error": exc and self._error(exc)})
        except (TypeError, ValueError, RecursionError) as unserializable:
            log.exception("result_unserializable")
            return self._answer(None, unserializable)

    def _error(self, exc: Exception) -> dict[str, Any]:
        if isinstance(
            exc, BadRequest
        ):  # the caller's mistake: Nameko's own words for it
            return serialize(exc)
        fault = to_fault(exc, self.container.service_name)
        # This service may have done something before its own call failed.
        return serialize(
            Unavailable(*fault.args) if isinstance(fault, NotReceived) else fault
        )


class Rpc(NamekoRpc):
    """`@rpc`: a method that other services and `nameko shell` may call."""

    rpc_consumer = RpcConsumer()

    def handle_message(self, body: Any, message: Any) -> None:
        body = body if isinstance(body, dict) else {}
        if not isinstance(body.get("args"), list) or not isinstance(
            body.get("kwargs"), dict
        ):
            raise MalformedRequest('A request is {"args": [...], "kwargs": {...}}')
        super().handle_message(body, message)

    def unpack_message_headers(self, message: Any) -> dict[str, Any]:
        return {
            **super().unpack_message_headers(message),
            CALL_ID: message.properties.get("correlation_id"),
        }


rpc = Rpc.decorator


class CallId(DependencyProvider):
    """Injects the id of the RPC at hand, which stays the same when the request is delivered again."""

    def get_dependency(self, worker_ctx: Any) -> str:
        call_id = worker_ctx.data.get(CALL_ID)
        return call_id if is_id(call_id) else str(uuid.uuid4())


def reply_prefix(service: str) -> str:
    """How the reply keys of a service begin, so that the broker's permissions can tell them apart.

    They stay UUIDs, as Nameko's: 8 of their 32 digits are a digest of the service's name.
    """
    return hashlib.sha256(service.encode()).hexdigest()[:8]


class ReplyListener(NamekoReplyListener):
    """Receives the answers, and knows who waits for them."""

    routing_key: str
    queue_consumer = QueueConsumer()
    publisher = TransientPublisher()

    def setup(self) -> None:
        super().setup()
        service = self.container.service_name
        self.routing_key = f"{reply_prefix(service)}{self.routing_key[8:]}"
        self.queue.routing_key = self.routing_key
        self.queue.name = RPC_REPLY_QUEUE_TEMPLATE.format(service, self.routing_key)
        self.publisher.on_returned.append(self.fail)

    def forget(self, correlation_id: str) -> None:
        self._reply_events.pop(correlation_id, None)

    def fail(
        self, correlation_id: str, reason: str = "no such service has ever run"
    ) -> None:
        """End the wait for an answer: the callee never got the call."""
        if event := self._reply_events.pop(correlation_id, None):
            event.send_exception(NotReceived(reason))


class RpcProxy(Lifecycle, DependencyProvider):
    """Calls to one service: `billing = RpcProxy("billing", ["statement"], batched=["withdraw"])`.

    Only the methods that are named can be called. The permissions on the broker are made from them
    (dev/bus.py). `self.billing.statement(user_id=...)` is one call. A verb in `batched` goes out through a
    coalescer as `verb_many(items=[{...}, ...])`, which answers a list of outcomes in that order;
    each item carries its own `request_id`. `timeout` names the setting that bounds every call. A
    shorter `limit_s` and the deadline of the work at hand may bound it further.

    Half of the caller's workers may wait for one service; more calls are Unavailable at once, so that
    one that is dead or slow leaves the other half to what goes without it.

    While the broker is unavailable, calls fail at once: a request that is not yet written to the
    socket is withdrawn first. A written one may be executed, so its call ends by its deadline.

    Raises DeadlineExceeded, Unavailable, InternalError (chassis.errors). NotReceived is the
    Unavailable after which it is certain that the callee did nothing.
    """

    replies = ReplyListener()
    publisher = TransientPublisher()

    def __init__(
        self,
        service: str,
        methods: Sequence[str] = (),
        *,
        batched: Sequence[str] = (),
        timeout: str = "RPC_TIMEOUT_S",
        limit_s: float = inf,
    ) -> None:
        self.service = service
        self.methods = methods
        self.batched = batched
        self.timeout = timeout
        self.limit_s = limit_s

    def check(self) -> None:
        self.timeout_s = min(
            read(self.container.config, self.timeout, SECONDS), self.limit_s
        )

    def setup(self) -> None:
        self._exchange = get_rpc_exchange(self.container.config).name
        self._waiting = 0
        self._may_wait = max(self.container.max_workers // 2, 1)
        spawn = partial(self.container.spawn_managed_thread, identifier="coalescer")
        self._coalescers = {
            verb: Coalescer(partial(self._call_many, verb), spawn)
            for verb in self.batched
        }
        self._methods = (
            SimpleNamespace(  # what a service method sees of the other service
                **{
                    name: MethodProxy(self, name)
                    for name in (*self.methods, *self.batched)
                }
            )
        )

    def get_dependency(self, worker_ctx: Any) -> SimpleNamespace:
        return self._methods

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Counts one waiting worker. A call that timed out while the broker takes no messages is Unavailable,
        like those that are refused at once: its answer could not have been sent either."""
        if reason := self.publisher.unavailable_reason:
            raise NotReceived(reason)
        if self._waiting >= self._may_wait:
            raise NotReceived(f"{self._waiting} calls wait for {self.service}")
        self._waiting += 1
        try:
            yield
        except DeadlineExceeded as late:
            if self.publisher.is_blocked:
                raise Unavailable(PUBLISHING_BLOCKED) from late
            raise
        finally:
            self._waiting -= 1

    def submit(self, verb: str, item: dict[str, Any]) -> PendingItem:
        """Queue one item of a batched verb."""
        item = {REQUEST_ID: current_request_id(), **item}
        return self._coalescers[verb].submit(item, time_for_a_call(self.timeout_s))

    def call(self, method: str, kwargs: dict[str, Any]) -> Any:
        """One request and its answer."""
        timeout_s = time_for_a_call(self.timeout_s)
        return self._call(method, kwargs, timeout_s, timeout_s)

    def _call_many(
        self,
        verb: str,
        items: Sequence[Any],
        callee_timeout_s: float,
        reply_timeout_s: float,
    ) -> Any:
        """One call for a batch."""
        method = f"{verb}_many"
        metrics.BATCH_ITEMS.labels(self.service, method).observe(len(items))
        bind_request_id(
            items[0]
        )  # a lone call's own id; a batch goes by that of its first
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
        """Tells the callee to be done in `callee_timeout_s` seconds, waits for `reply_timeout_s`."""
        body = encode_json({"args": [], "kwargs": kwargs})
        correlation_id = str(uuid.uuid4())
        answer = self.replies.get_reply_event(correlation_id)
        started = monotonic()
        queued = self.publisher.publish(
            OutgoingMessage(
                exchange=self._exchange,
                routing_key=f"{self.service}.{method}",
                body=body,
                headers={
                    f"nameko.{REQUEST_ID}": current_request_id(),
                    f"nameko.{TIMEOUT}": callee_timeout_s,
                    f"nameko.{CLIENT}": current_client(),  # "" for a batch, which is of many clients
                },
                properties={
                    "correlation_id": correlation_id,
                    "reply_to": self.replies.routing_key,
                    "expiration": str(int(reply_timeout_s * 1000)),  # milliseconds
                },
            ),
            on_unsent=partial(self.replies.fail, correlation_id),
        )
        try:
            with eventlet.Timeout(
                reply_timeout_s,
                DeadlineExceeded(
                    f"{self.service}.{method} did not answer in {reply_timeout_s:.1f} s"
                ),
            ):
                return self._unpack(answer.wait(), method)
        finally:
            queued.claim()  # nobody waits for it any more
            self.replies.forget(correlation_id)
            metrics.RPC_CALLS.labels(self.service, method).observe(
                monotonic() - started
            )

    def _unpack(self, body: dict[str, Any], method: str) -> Any:
        """Return the result or raise the fault. A stock service may tell more than callers may see."""
        try:
            if not body["error"]:
                return body["result"]
            fault = deserialize(body["error"])
        except (AttributeError, TypeError, KeyError):
            raise InternalError(
                f"{self.service} answered with what is no answer"
            ) from None
        if isinstance(fault, DeadlineExceeded | Unavailable | InternalError):
            raise fault
        log.error(
            "rpc_call_failed",
            extra={"call": f"{self.service}.{method}", "error": first_line(fault)},
        )
        raise InternalError(f"{self.service} failed")


class MethodProxy:
    """One method of another service."""

    def __init__(self, proxy: RpcProxy, name: str) -> None:
        self._proxy = proxy
        self._name = name

    def __call__(self, **kwargs: Any) -> Any:
        """Call with keyword arguments; the answer."""
        with self._proxy.turn():
            if self._name in self._proxy.batched:
                return self._proxy.submit(self._name, kwargs).result()
            return self._proxy.call(self._name, kwargs)

    def many(self, items: Sequence[dict[str, Any]]) -> list[Any]:
        """The outcomes of a batched verb for several items; a fault is the item's own outcome."""
        try:
            with self._proxy.turn():
                calls = [self._proxy.submit(self._name, item) for item in items]
                return [_outcome(call) for call in calls]
        except Unavailable as crowded:
            return [crowded] * len(items)


def _outcome(call: PendingItem) -> Any:
    try:
        return call.result()
    except (DeadlineExceeded, Unavailable, InternalError) as fault:
        return fault

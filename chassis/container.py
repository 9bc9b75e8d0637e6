"""The container of a service: its start, its stop, and the log line of each worker."""

import gc
import logging
import sys
from time import monotonic
from typing import Any

import eventlet
from nameko.containers import ServiceContainer, get_service_name
from nameko.exceptions import BadRequest, ConfigurationError

from chassis import health, metrics
from chassis.broker import (
    CONNECTION_ERRORS,
    PUBLISHING_BLOCKED,
    broker_settings,
    connect,
)
from chassis.broker_checks import check_broker_user
from chassis.deadlines import bind_deadline
from chassis.errors import Unavailable, first_line, is_transient
from chassis.lifecycle import Lifecycle
from chassis.logs import bind_client, bind_request_id
from chassis.publishers import TransientPublisher
from chassis.settings import ADDRESS, COUNT, SECONDS, SWITCH, read

log = logging.getLogger(__name__)

# Services allocate many temporary objects and few cycles. The default thresholds of the
# garbage collector (700, 10, 10) would waste CPU.
GC_THRESHOLDS = (20_000, 20, 20)
# Each attempt leaves lines in the broker's log.
PERMISSION_RETRY_S = 2.0

# The containers of this process that are stopping.
_stopping: set["Container"] = set()


class Container(ServiceContainer):
    """Nameko's container with checked settings, health checks and an orderly stop.

    config.yaml names it as SERVICE_CONTAINER_CLS. chassis.lifecycle lists the steps of a start.
    A missing or wrong setting ends the process with one line. Health requests are answered while
    the service waits for its broker and its database.

    At the stop /readyz answers 503 first. Then the service accepts no more work, and finishes and
    acks the work in progress. After STOP_TIMEOUT_S the rest is abandoned: the broker delivers its
    messages again, and clients retry.
    """

    def __init__(self, service_cls: type, config: dict[str, Any]) -> None:
        try:
            # Nameko's extensions read the broker's settings while they are bound.
            config = broker_settings(config)
            workers = read(config, f"WORKERS.{get_service_name(service_cls)}", COUNT)
            super().__init__(service_cls, {**config, "max_workers": workers})
            read(self.config, "HEALTH_ADDRESS", ADDRESS)
            self._stop_timeout_s = read(self.config, "STOP_TIMEOUT_S", SECONDS)
            self._must_be_restricted = read(self.config, "AMQP_USER_RESTRICTED", SWITCH)
            self._with_lifecycle = [
                each for each in self.extensions if isinstance(each, Lifecycle)
            ]
            for extension in self._with_lifecycle:
                extension.check()
        except ConfigurationError as exc:
            # Nameko would print the error and exit with code 0.
            sys.exit(f"config.yaml: {exc}")
        self._is_up = False
        self._is_stopping = False

    def start(self) -> None:
        for extension in self._with_lifecycle:
            extension.open()
        health.serve(self.config["HEALTH_ADDRESS"])
        health.add_check(self.service_name, "started", self._check_started)
        health.add_check(self.service_name, "broker", self._check_broker)
        self._check_broker_user()
        super().start()
        self._is_up = True
        gc.set_threshold(*GC_THRESHOLDS)
        log.info("service_started", extra={"service": self.service_name})

    def stop(self) -> None:
        health.remove_checks(self.service_name)
        if not self._is_up:
            # It waits for its broker or its database, and has no work to finish.
            # Nameko stops all services of a process at the same moment.
            eventlet.sleep(0)
            while _stopping:
                eventlet.sleep(0.1)
            raise SystemExit(0)
        if self._is_stopping:
            # Nameko's extensions can be stopped only once.
            self._died.wait()
            return
        self._is_stopping = True
        _stopping.add(self)
        try:
            with eventlet.Timeout(self._stop_timeout_s):
                for extension in self._with_lifecycle:
                    extension.drain()
                super().stop()
        except eventlet.Timeout:
            log.error("shutdown_timed_out", extra={"service": self.service_name})
            self.kill()
        finally:
            _stopping.discard(self)
        log.info("service_stopped", extra={"service": self.service_name})

    def _check_broker_user(self) -> None:
        """Warn if the broker's user has too many rights.

        With AMQP_USER_RESTRICTED, wait until the rights are withdrawn, as by an import of the
        right definitions. The service does nothing else meanwhile.
        """
        while True:
            try:
                return check_broker_user(self.config, self.service_name)
            except (ConfigurationError, *CONNECTION_ERRORS) as exc:
                log.warning(
                    "broker_permissions_unconfirmed",
                    extra={"service": self.service_name, "error": first_line(exc)},
                )
            if not self._must_be_restricted:
                return None
            eventlet.sleep(PERMISSION_RETRY_S)

    def _check_started(self) -> None:
        if not self._is_up:
            raise ConnectionError(
                "still starting: waiting for the broker, its permissions or the database"
            )

    def _check_broker(self) -> None:
        for extension in self.extensions:
            if isinstance(extension, TransientPublisher) and extension.is_blocked:
                raise Unavailable(PUBLISHING_BLOCKED)
        # A connection for this check alone: the broker would close an idle one that sends no
        # heartbeats.
        connect(self.config).transport.establish_connection().close()

    def _run_worker(self, worker_ctx: Any, handle_result: Any) -> None:
        """Bind the caller's request id, client and deadline to the worker's greenthread."""
        worker_ctx.started = monotonic()
        # Nameko fails for a caller's call stack that is not a list of strings.
        worker_ctx._parent_call_id_stack = []
        worker_ctx.data["request_id"] = bind_request_id(worker_ctx.data)
        bind_client(worker_ctx.data)
        bind_deadline(worker_ctx.data)
        super()._run_worker(worker_ctx, handle_result)

    def _worker_result(self, worker_ctx: Any, result: Any, exc_info: Any) -> None:
        """Measure and log what the worker did."""
        seconds = monotonic() - worker_ctx.started
        entrypoint = worker_ctx.entrypoint
        # `expected_exceptions` may be a class or a tuple; isinstance accepts nested tuples.
        outcome = "done"
        if exc_info:
            outcome = (
                "refused"
                if isinstance(exc_info[1], (BadRequest, entrypoint.expected_exceptions))
                else "failed"
            )
        metrics.HANDLED.labels(
            self.service_name, entrypoint.method_name, outcome
        ).observe(seconds)
        fields = {
            "service": self.service_name,
            "method": entrypoint.method_name,
            "ms": round(seconds * 1000, 1),
        }
        if outcome != "failed":
            level = (
                logging.DEBUG if getattr(entrypoint, "quiet", False) else logging.INFO
            )
            log.log(level, "entrypoint_handled", extra=fields)
        elif is_transient(exc_info[1]):
            log.warning(
                "dependency_unavailable",
                extra={**fields, "error": first_line(exc_info[1])},
            )
        else:
            log.error("entrypoint_failed", extra=fields, exc_info=exc_info)
        super()._worker_result(worker_ctx, result, exc_info)

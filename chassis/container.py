"""A service's life: settings are checked, health answers at once, then it waits for what it needs."""

import gc
import logging
import sys
from time import monotonic
from typing import Any

import eventlet
from nameko.constants import CALL_ID_STACK_CONTEXT_KEY
from nameko.containers import ServiceContainer, get_service_name
from nameko.exceptions import BadRequest, ConfigurationError

from chassis import health, metrics
from chassis.broker import CONNECTION_ERRORS, broker_settings, connect
from chassis.broker_user import check_broker_user
from chassis.deadlines import bind_deadline
from chassis.errors import Unavailable, first_line, is_transient
from chassis.lifecycle import Lifecycle
from chassis.logs import bind_client, bind_request_id
from chassis.publishers import TransientPublisher
from chassis.settings import ADDRESS, COUNT, SECONDS, SWITCH, read

log = logging.getLogger(__name__)

# A service makes much that lives shortly, and few cycles: the default (700, 10, 10) looks for them in vain.
GC_THRESHOLDS = (20_000, 20, 20)
CHECK_AGAIN_S = 2.0  # each attempt leaves lines in the broker's log


_stopping: set["Container"] = set()  # of this process


class Container(ServiceContainer):
    """Nameko's, named in config.yaml as SERVICE_CONTAINER_CLS.

    Before anything starts, each extension's `check()` reads its settings: a missing or wrong one ends
    the process with one line. Then each `open()` runs (a web server answers health questions while the
    rest waits for broker and database). At the stop /readyz answers 503 first; then each `drain()` runs,
    and then nameko's own stop: nothing new is taken, what is under way is finished and acked. What is not
    finished after STOP_TIMEOUT_S is given up: the broker delivers it again, a client repeats it.
    """

    def __init__(self, service_cls: type, config: dict[str, Any]) -> None:
        try:
            config = broker_settings(
                config
            )  # nameko's extensions look at these while they are bound
            super().__init__(
                service_cls,
                {
                    **config,
                    "max_workers": read(
                        config, f"WORKERS.{get_service_name(service_cls)}", COUNT
                    ),
                },
            )
            read(self.config, "HEALTH_ADDRESS", ADDRESS)
            self._stop_timeout_s = read(self.config, "STOP_TIMEOUT_S", SECONDS)
            self._must_be_restricted = read(self.config, "AMQP_USER_RESTRICTED", SWITCH)
            self._with_lifecycle = [
                each for each in self.extensions if isinstance(each, Lifecycle)
            ]
            for extension in self._with_lifecycle:
                extension.check()
        except ConfigurationError as exc:
            sys.exit(f"config.yaml: {exc}")  # nameko would print it and exit with 0
        self._is_up = False
        self._is_stopping = False

    def start(self) -> None:
        for extension in self._with_lifecycle:
            extension.open()
        health.serve(self.config["HEALTH_ADDRESS"])
        health.add_check(self.service_name, "started", self._started)
        health.add_check(self.service_name, "broker", self._ping_broker)
        self._check_broker_user()
        super().start()
        self._is_up = True
        gc.set_threshold(*GC_THRESHOLDS)
        log.info("service_started", extra={"service": self.service_name})

    def stop(self) -> None:
        health.remove_checks(self.service_name)
        if (
            not self._is_up
        ):  # it still waits for broker or database: there is nothing to finish
            self._exit()
        if self._is_stopping:  # asked twice: nameko's extensions stop once only
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
            log.error(
                "shutdown_timed_out",
                extra={"service": self.service_name},
            )
            self.kill()
        _stopping.discard(self)
        log.info("service_stopped", extra={"service": self.service_name})

    def _exit(self) -> None:
        """End the process, when the other services in it have finished."""
        eventlet.sleep(0)  # they are told to stop at the same moment
        while _stopping:
            eventlet.sleep(0.1)
        raise SystemExit(0)

    def _check_broker_user(self) -> None:
        """Warn if the broker's user may do too much. With AMQP_USER_RESTRICTED, wait until it may not.

        Nothing of the service runs meanwhile. An import of the right definitions ends the wait.
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
            eventlet.sleep(CHECK_AGAIN_S)

    def _started(self) -> None:
        if not self._is_up:
            raise ConnectionError(
                "it waits for its broker, its permissions there or its database"
            )

    def _ping_broker(self) -> None:
        if any(
            extension.is_blocked
            for extension in self.extensions
            if isinstance(extension, TransientPublisher)
        ):
            raise Unavailable("the broker takes no messages")
        # A connection of its own: the broker would close one that idles, for its missing heartbeats.
        connect(self.config).transport.establish_connection().close()

    def spawn_worker(
        self,
        entrypoint: Any,
        args: Any,
        kwargs: Any,
        context_data: Any = None,
        handle_result: Any = None,
    ) -> Any:
        """Without the sender's call stack: of one that is no list of texts Nameko's would die."""
        return super().spawn_worker(
            entrypoint,
            args,
            kwargs,
            context_data={**(context_data or {}), CALL_ID_STACK_CONTEXT_KEY: []},
            handle_result=handle_result,
        )

    def _run_worker(self, worker_ctx: Any, handle_result: Any) -> None:
        """Every log line of the worker carries its request id; a line tells what it did."""
        worker_ctx.started = monotonic()
        worker_ctx.data["request_id"] = bind_request_id(worker_ctx.data)
        bind_client(worker_ctx.data)
        bind_deadline(worker_ctx.data)
        super()._run_worker(worker_ctx, handle_result)

    def _worker_result(self, worker_ctx: Any, result: Any, exc_info: Any) -> None:
        seconds = monotonic() - worker_ctx.started
        refused = exc_info and isinstance(
            exc_info[1],
            (
                BadRequest,
                worker_ctx.entrypoint.expected_exceptions,
            ),  # it looks into tuples
        )
        outcome = "refused" if refused else "failed" if exc_info else "done"
        method = worker_ctx.entrypoint.method_name
        metrics.HANDLED.labels(self.service_name, method, outcome).observe(seconds)
        fields = {
            "service": self.service_name,
            "method": method,
            "ms": round(seconds * 1000, 1),
        }
        if outcome != "failed":
            quiet = getattr(worker_ctx.entrypoint, "quiet", False)
            log.log(
                logging.DEBUG if quiet else logging.INFO,
                "entrypoint_handled",
                extra=fields,
            )
        elif is_transient(exc_info[1]):
            log.warning(
                "dependency_unavailable",
                extra={**fields, "error": first_line(exc_info[1])},
            )
        else:
            log.error("entrypoint_failed", extra=fields, exc_info=exc_info)
        super()._worker_result(worker_ctx, result, exc_info)

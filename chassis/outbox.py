"""The transactional outbox.

An event is written in the transaction of the state that it tells of, and a relay publishes it. Nothing
is announced that did not happen, and nothing that happened is kept quiet.
"""

import logging
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from time import monotonic, time
from typing import Any

import eventlet
import uuid_utils
from nameko.exceptions import ConfigurationError
from nameko.extensions import DependencyProvider
from sqlalchemy import (
    Column,
    Connection,
    CursorResult,
    DateTime,
    Index,
    MetaData,
    String,
    Table,
    Text,
    TextClause,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

from chassis import metrics
from chassis.broker import OutgoingMessage
from chassis.db import OLDEST_S, Database, recordset
from chassis.errors import first_line, is_transient
from chassis.lifecycle import Lifecycle
from chassis.logs import REQUEST_ID, clean_request_id, current_request_id
from chassis.loops import LoopWatch
from chassis.publishers import ConfirmedPublisher
from chassis.schemas import utc
from chassis.settings import SECONDS, read

log = logging.getLogger(__name__)

Event = tuple[str, dict[str, Any]]  # its type and its fact
BATCH = 200
POLL_S = 1.0  # the safety net: a relay is woken after each commit
PAUSE_S = 0.1  # between the starts of batches that are not full: each costs, and nobody waits for an event
REACH_S = 1.0  # a pass begins so long before the previous one: clocks differ
FIRST = str(uuid.UUID(int=0))
MEASURE_EVERY_S = 5.0
CLEAN_EVERY_S = 15.0
CLEAN_AT_MOST = 5000  # within the statement's time limit

COLUMNS = "event_id, type, payload, request_id"
COLUMN_TYPES = "event_id uuid, type text, payload jsonb, request_id text"  # for json_to_recordset()
INSERT = text(
    f"INSERT INTO outbox ({COLUMNS}) SELECT {COLUMNS} FROM json_to_recordset(:rows) AS new ({COLUMN_TYPES})"
)
# ARRAY() runs its query once; IN may run it again for each row, and take more than `limit`.
TAKE = text(
    "UPDATE outbox SET sent_at = now() WHERE event_id = ANY(ARRAY(SELECT event_id FROM outbox"
    " WHERE sent_at IS NULL AND event_id > CAST(:after AS uuid) ORDER BY event_id LIMIT :limit"
    " FOR UPDATE SKIP LOCKED)) RETURNING event_id, type, payload::text, request_id"
)
KEEP = text(
    "UPDATE outbox SET sent_at = NULL WHERE event_id = ANY(CAST(:ids AS uuid[]))"
)
CLEAN = text(
    "DELETE FROM outbox WHERE event_id IN (SELECT event_id FROM outbox WHERE sent_at < now() - :retention"
    " LIMIT :limit)"
)
MEASURE = text(
    f"SELECT count(*), {OLDEST_S}, count(*) FILTER (WHERE event_id <= CAST(:position AS uuid))"
    " FROM outbox WHERE sent_at IS NULL"
)


def outbox_table(metadata: MetaData) -> Table:
    """The table `outbox`; each service that emits events has one: `outbox_table(Base.metadata)`.

    The relay reads its index, which has only what is unsent, in order of writing.
    """
    return Table(
        "outbox",
        metadata,
        Column("event_id", UUID(as_uuid=False), primary_key=True),
        Column("type", String(64), nullable=False),
        Column("payload", JSONB, nullable=False),
        Column("request_id", Text, nullable=False),
        Column(
            "created_at",
            DateTime(timezone=True),
            nullable=False,
            server_default=func.now(),
        ),
        Column("sent_at", DateTime(timezone=True)),
        Index("outbox_unsent", "event_id", postgresql_where=text("sent_at IS NULL")),
    )


class Outbox(Lifecycle, DependencyProvider):
    """`outbox = Outbox()`: `self.outbox.stage(connection, [("order_paid", {...}), ...])`.

    The relay is a greenthread of the service. It takes unsent rows with FOR UPDATE SKIP LOCKED and
    keeps them locked while they are published, so several copies of a service share the work and a
    dead one gives its rows back at once. An event may be published twice; it is never lost.

    A pass is a series of batches that ends with one that is not full. It begins at a position:
    index entries of published events stay until the oldest snapshot is closed, and a scan from the
    start reads all of them. The position is below every event that this copy has not committed yet.
    Other unsent events can be below it: those of a copy that died or whose clock is behind, those
    of a replay, and those without a queue. `_measure` notices them, and the next pass begins at
    FIRST.
    """

    publisher = ConfirmedPublisher()

    def check(self) -> None:
        config = self.container.config
        self.retention_s = read(config, "OUTBOX_RETENTION_S", SECONDS)
        if read(config, "CONFIRM_TIMEOUT_S", SECONDS) >= read(
            config, "DB_STATEMENT_TIMEOUT_S", SECONDS
        ):
            raise ConfigurationError(
                "CONFIRM_TIMEOUT_S is wrong: it must be below DB_STATEMENT_TIMEOUT_S"
            )

    def setup(self) -> None:
        [self._database] = [
            d for d in self.container.dependencies if isinstance(d, Database)
        ]
        self._wakeup = eventlet.Event()
        self._unfinished: dict[Any, str] = {}  # by worker: an id below its events
        self._stopping = False
        self._after = FIRST  # where the next batch begins
        self._position = self._next_position = _recent_id()
        self._is_behind = False

    def start(self) -> None:
        self._watch = LoopWatch(self.container.service_name, "outbox")
        self._thread = self.container.spawn_managed_thread(
            self._run, identifier="outbox relay"
        )

    def stop(self) -> None:
        self._stopping = True
        self._wake()
        self._thread.wait()

    def get_dependency(self, worker_ctx: Any) -> "OutboxWriter":
        return OutboxWriter(
            lambda: self._unfinished.setdefault(worker_ctx, _recent_id())
        )

    def worker_result(
        self, worker_ctx: Any, result: Any = None, exc_info: Any = None
    ) -> None:
        """Runs when the answer is on its way to the caller: the relay never delays one."""
        if self._unfinished.pop(worker_ctx, None):
            self._wake()

    def _wake(self) -> None:
        if not self._wakeup.ready():
            self._wakeup.send()

    def _run(self) -> None:
        next_measuring = next_cleaning = 0.0
        while True:
            earliest_next = monotonic() + PAUSE_S
            taken = self._try(self._relay_batch)
            if self._stopping:
                return
            if taken != BATCH:
                self._wakeup.wait(timeout=POLL_S)
                eventlet.sleep(
                    0 if self._stopping else max(0, earliest_next - monotonic())
                )
                self._wakeup = eventlet.Event()
            if monotonic() >= next_measuring:
                self._try(self._measure)
                next_measuring = monotonic() + MEASURE_EVERY_S
            if monotonic() >= next_cleaning:
                left = self._try(self._clean)
                next_cleaning = monotonic() + (0 if left else CLEAN_EVERY_S)
            if taken != BATCH:
                self._begin_pass()

    def _begin_pass(self) -> None:
        """Go back to the position, or to the start of the table.

        The position moves when the pass has ended. After a pass that failed it stays, and a pass
        from the start that takes too long is not repeated before `_measure` asks for it again.
        """
        self._next_position = min([_recent_id(), *self._unfinished.values()])
        self._after = FIRST if self._is_behind else self._position
        self._is_behind = False

    def _try(self, step: Callable[[], int]) -> int:
        """How many rows `step` did; 0 where the database or the broker is away."""
        try:
            with self._watch.step():
                return step()
        except Exception as exc:
            if not is_transient(exc):
                raise
            log.warning(
                "outbox_relay_paused",
                extra={
                    "service": self.container.service_name,
                    "error": first_line(exc),
                },
            )
            eventlet.sleep(POLL_S)
            return 0

    def _relay_batch(self) -> int:
        """Publish what waits, BATCH at most; how many were taken from the table."""
        self.publisher.connect()  # without a broker the rows would be written again at each poll
        with (
            self._database.transaction() as connection
        ):  # a failure rolls it back: nothing is marked as sent
            rows = sorted(
                connection.execute(TAKE, {"after": self._after, "limit": BATCH}),
                key=attrgetter("event_id"),
            )
            routed = (
                self.publisher.publish([self._message(row) for row in rows])
                if rows
                else []
            )
            kept = [
                row.event_id
                for row, is_routed in zip(rows, routed, strict=True)
                if not is_routed
            ]
            if kept:
                connection.execute(KEEP, {"ids": kept})
        if kept:  # tried again when `_measure` has noticed them
            log.warning(
                "events_without_queue",
                extra={"count": len(kept)},
            )
        if len(rows) == BATCH:
            self._after = rows[-1].event_id
        else:
            self._position = self._next_position
        metrics.OUTBOX_PUBLISHED.labels(self.container.service_name).inc(
            len(rows) - len(kept)
        )
        return len(rows)

    def _message(self, row: Any) -> OutgoingMessage:
        return OutgoingMessage(
            exchange=f"{self.container.service_name}.events",
            routing_key=row.type,
            body=row.payload.encode(),
            headers={f"nameko.{REQUEST_ID}": row.request_id},
            properties={"message_id": row.event_id},
        )

    def _clean(self) -> int:
        """Delete events sent long ago, CLEAN_AT_MOST at a time; more than 0 where some may be left."""
        with self._database.autocommit() as connection:
            deleted: int = connection.execute(
                CLEAN,
                {
                    "retention": timedelta(seconds=self.retention_s),
                    "limit": CLEAN_AT_MOST,
                },
            ).rowcount
        return deleted // CLEAN_AT_MOST

    def _measure(self) -> int:
        """Show the unsent events, and notice those below the position; each copy counts all."""
        with self._database.autocommit() as connection:
            unsent, oldest_s, below = connection.execute(
                MEASURE,
                {"position": self._position},
            ).one()
        self._is_behind = below > 0
        metrics.OUTBOX_UNSENT.labels(self.container.service_name).set(unsent)
        metrics.OUTBOX_OLDEST.labels(self.container.service_name).set(oldest_s)
        return 0


class OutboxWriter:
    """The outbox as service methods use it."""

    def __init__(self, note_unfinished: Callable[[], object]) -> None:
        self._note_unfinished = note_unfinished

    def stage(
        self,
        connection: Connection,
        events: Sequence[Event],
        statement: TextClause = INSERT,
        changes: Sequence[dict[str, Any]] | None = None,
    ) -> CursorResult[Any]:
        """Write events to the outbox, in the connection's transaction.

        The relay publishes them after the commit. A `statement` of the service can change its state
        and insert the events in one round trip. Its parameter `rows` has the columns of COLUMN_TYPES
        and those of `changes`, which has one dictionary for each event.
        """
        self._note_unfinished()
        rows = [event_row(event) for event in events]
        if changes is not None:
            rows = [
                {**change, **row} for change, row in zip(changes, rows, strict=True)
            ]
        return connection.execute(statement, {"rows": recordset(rows)})


def _recent_id() -> str:
    """An id below all ids of the last REACH_S seconds; a uuid7 begins with its milliseconds."""
    return str(uuid.UUID(int=int((time() - REACH_S) * 1000) << 80))


def event_row(event: Event) -> dict[str, Any]:
    """The row (COLUMN_TYPES) of an event.

    A fact is flat and holds plain scalars. `event_id` and `version` are added, and `occurred_at` if the
    fact has none. A `request_id` in the fact goes into the message's headers.
    """
    event_type, fact = event[0], dict(event[1])
    event_id = str(uuid_utils.uuid7())
    request_id = clean_request_id(fact.pop(REQUEST_ID, None) or current_request_id())
    return {
        "event_id": event_id,
        "type": event_type,
        "payload": {
            "event_id": event_id,
            "version": 1,
            "occurred_at": utc(datetime.now(UTC)),
            **fact,
        },
        "request_id": request_id,
    }

"""The transactional outbox: events are written in the transaction of their change, then published.

So every event describes a committed change, and every committed change gets its event. The order
of events is not guaranteed. An event may be published twice.

    with self.db.transaction() as connection:
        store.insert(connection, order)
        self.outbox.stage(connection, [("order_paid", {"order_id": order.id})])
"""

import logging
import threading
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
from chassis.db import OLDEST_AGE_SQL, Database, rows_as_json
from chassis.errors import first_line, is_transient
from chassis.lifecycle import Lifecycle
from chassis.logs import REQUEST_ID, clean_request_id, current_request_id
from chassis.loops import LoopWatch
from chassis.publishers import ConfirmedPublisher
from chassis.schemas import utc
from chassis.settings import SECONDS, read

log = logging.getLogger(__name__)

# An event's type and its fields.
NewEvent = tuple[str, dict[str, Any]]

MAX_BATCH = 200
# Without a wake-up, the relay reads the table this often. Each commit of this copy wakes it.
POLL_S = 1.0
# The minimum between the starts of two batches, if the first is not full. A batch has a cost, and
# no client waits for it.
PAUSE_S = 0.1
# The position of the relay stays this far behind the clock, because clocks of copies differ.
POSITION_LAG_S = 1.0
MIN_ID = str(uuid.UUID(int=0))
MEASURE_EVERY_S = 5.0
CLEAN_EVERY_S = 15.0
# Events that one statement deletes, within its time limit.
MAX_DELETED = 5000

COLUMNS = "event_id, type, payload, request_id"
COLUMN_TYPES = "event_id uuid, type text, payload jsonb, request_id text"

# Insert events that were made by `event_row`.
INSERT = text(f"""
    INSERT INTO outbox ({COLUMNS})
    SELECT {COLUMNS}
    FROM json_to_recordset(:rows) AS new ({COLUMN_TYPES})
""")

# Mark the next unsent events as sent, and return them. ARRAY() runs its query once. IN may run it
# again for each row, and then mark more than `limit`.
TAKE_UNSENT = text("""
    UPDATE outbox
    SET sent_at = now()
    WHERE event_id = ANY(ARRAY(
        SELECT event_id
        FROM outbox
        WHERE sent_at IS NULL AND event_id > CAST(:after AS uuid)
        ORDER BY event_id
        LIMIT :limit
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING event_id, type, payload::text, request_id
""")

# Mark events as unsent again.
MARK_UNSENT = text("""
    UPDATE outbox
    SET sent_at = NULL
    WHERE event_id = ANY(CAST(:ids AS uuid[]))
""")

# Delete some of the events that were sent long ago.
DELETE_SENT = text("""
    DELETE FROM outbox
    WHERE event_id IN (
        SELECT event_id
        FROM outbox
        WHERE sent_at < now() - :retention
        LIMIT :limit
    )
""")

# Count the unsent events of all copies, and the ones that this copy's relay does not see.
MEASURE_UNSENT = text(f"""
    SELECT
        count(*),
        {OLDEST_AGE_SQL},
        count(*) FILTER (WHERE event_id <= CAST(:position AS uuid))
    FROM outbox
    WHERE sent_at IS NULL
""")


def outbox_table(metadata: MetaData) -> Table:
    """Declare the table `outbox` of a service: `outbox_table(Base.metadata)`.

    Its index contains only unsent events, in the order of their ids.
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


class OutboxWriter:
    """The outbox as service methods use it."""

    def __init__(self, note_uncommitted: Callable[[], object]) -> None:
        self._note_uncommitted = note_uncommitted

    def stage(
        self,
        connection: Connection,
        events: Sequence[NewEvent],
        statement: TextClause = INSERT,
        changes: Sequence[dict[str, Any]] | None = None,
    ) -> CursorResult[Any]:
        """Write events to the outbox, in the connection's transaction.

        The relay publishes them after the commit. A `statement` of the service can change its state
        and insert the events in one round trip. Its parameter `rows` then has the columns of
        COLUMN_TYPES and those of `changes`, which has one dictionary for each event.
        """
        self._note_uncommitted()
        rows = [
            {**change, **event_row(event)}
            for change, event in zip(
                [{}] * len(events) if changes is None else changes, events, strict=True
            )
        ]
        return connection.execute(statement, {"rows": rows_as_json(rows)})


class Outbox(Lifecycle, DependencyProvider):
    """Injects an OutboxWriter, and runs the relay: a greenthread that publishes the events.

    In one transaction, the relay marks unsent rows as sent and publishes their events. The commit
    follows the broker's confirms. Locked rows are skipped, so the copies of a service share the
    work. If a copy dies, its rows are unlocked at once.

    The relay reads the table in passes, in the order of ids. A pass begins at a position and not
    at the start: PostgreSQL keeps index entries of sent events until the oldest snapshot is closed,
    and a scan from the start reads all of them. The position is below all events that this copy has
    not yet committed. Other unsent events may be below it: those of a copy that died or whose clock
    is behind, of a replay, or without a queue. `_measure` finds them, and the next pass then begins
    at MIN_ID.
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
            each for each in self.container.dependencies if isinstance(each, Database)
        ]
        self._wakeup = threading.Event()
        self._stopping = False
        # By worker context, an id below the events that the worker has not yet committed.
        self._uncommitted: dict[Any, str] = {}
        # The ids after which the next batch, this pass and the next pass begin.
        self._after = MIN_ID
        self._position = self._next_position = _id_of_recent_past()
        self._has_missed_events = False

    def start(self) -> None:
        self._watch = LoopWatch(self.container.service_name, "outbox")
        self._thread = self.container.spawn_managed_thread(
            self._run, identifier="outbox relay"
        )

    def stop(self) -> None:
        self._stopping = True
        self._wakeup.set()
        self._thread.wait()

    def get_dependency(self, worker_ctx: Any) -> OutboxWriter:
        return OutboxWriter(
            lambda: self._uncommitted.setdefault(worker_ctx, _id_of_recent_past())
        )

    def worker_result(
        self, worker_ctx: Any, result: Any = None, exc_info: Any = None
    ) -> None:
        """Wake the relay. The reply of the worker is sent before that, and is not delayed."""
        if self._uncommitted.pop(worker_ctx, None):
            self._wakeup.set()

    def _run(self) -> None:
        next_measure = next_clean = 0.0
        while True:
            earliest_next = monotonic() + PAUSE_S
            is_full = self._try(self._relay_batch) == MAX_BATCH
            if self._stopping:
                return
            if not is_full:
                self._wait(earliest_next)
            if monotonic() >= next_measure:
                self._try(self._measure)
                next_measure = monotonic() + MEASURE_EVERY_S
            if monotonic() >= next_clean:
                has_more = self._try(self._clean)
                next_clean = monotonic() + (0 if has_more else CLEAN_EVERY_S)
            if not is_full:
                self._begin_pass()

    def _try(self, step: Callable[[], int | None]) -> int:
        """Run a step. Return its result, or 0 if it has none or after a transient error."""
        try:
            with self._watch.step():
                return step() or 0
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

    def _wait(self, earliest_next: float) -> None:
        """Wait for a wake-up, at most POLL_S, and until the time `earliest_next`."""
        self._wakeup.wait(timeout=POLL_S)
        if not self._stopping:
            eventlet.sleep(max(0, earliest_next - monotonic()))
        self._wakeup.clear()

    def _begin_pass(self) -> None:
        """Go back to the position, or to the start of the table if events were missed.

        The position moves at the end of a successful pass. A failed pass from the start is not
        repeated before `_measure` finds missed events again.
        """
        self._next_position = min([_id_of_recent_past(), *self._uncommitted.values()])
        self._after = MIN_ID if self._has_missed_events else self._position
        self._has_missed_events = False

    def _relay_batch(self) -> int:
        """Publish at most MAX_BATCH unsent events. Return the number of rows."""
        # Without a broker, the rows would be written and rolled back each time.
        self.publisher.check_available()
        # After a failure, the rollback leaves all events unsent.
        with self._database.transaction() as connection:
            taken = connection.execute(
                TAKE_UNSENT, {"after": self._after, "limit": MAX_BATCH}
            )
            rows = sorted(taken, key=attrgetter("event_id"))
            unrouted = self._publish(rows)
            if unrouted:
                log.warning("events_without_queue", extra={"count": len(unrouted)})
                connection.execute(MARK_UNSENT, {"ids": unrouted})
        metrics.OUTBOX_PUBLISHED.labels(self.container.service_name).inc(
            len(rows) - len(unrouted)
        )
        if len(rows) == MAX_BATCH:
            self._after = rows[-1].event_id
        else:
            self._position = self._next_position
        return len(rows)

    def _publish(self, rows: Sequence[Any]) -> list[str]:
        """Publish events. Return the ids of those that no queue has received."""
        routed = self.publisher.publish([self._message(row) for row in rows])
        return [
            row.event_id
            for row, is_routed in zip(rows, routed, strict=True)
            if not is_routed
        ]

    def _message(self, row: Any) -> OutgoingMessage:
        return OutgoingMessage(
            exchange=f"{self.container.service_name}.events",
            routing_key=row.type,
            body=row.payload.encode(),
            headers={f"nameko.{REQUEST_ID}": row.request_id},
            properties={"message_id": row.event_id},
        )

    def _clean(self) -> bool:
        """Delete MAX_DELETED events that were sent long ago. Return whether more may remain."""
        parameters = {
            "retention": timedelta(seconds=self.retention_s),
            "limit": MAX_DELETED,
        }
        with self._database.autocommit() as connection:
            return connection.execute(DELETE_SENT, parameters).rowcount == MAX_DELETED

    def _measure(self) -> None:
        """Update the metrics of unsent events, and look for events below the position."""
        service = self.container.service_name
        with self._database.autocommit() as connection:
            unsent, oldest_s, below = connection.execute(
                MEASURE_UNSENT, {"position": self._position}
            ).one()
        self._has_missed_events = below > 0
        metrics.OUTBOX_UNSENT.labels(service).set(unsent)
        metrics.OUTBOX_OLDEST.labels(service).set(oldest_s)


def _id_of_recent_past() -> str:
    """Return an id below all ids of the last POSITION_LAG_S seconds.

    A UUID of version 7 begins with the milliseconds of its time (RFC 9562, 5.7).
    """
    milliseconds = int((time() - POSITION_LAG_S) * 1000)
    return str(uuid.UUID(int=milliseconds << 80))


def event_row(event: NewEvent) -> dict[str, Any]:
    """Return the row of an event, with the columns of COLUMN_TYPES.

    The event's fields are flat, with plain scalars. `event_id` and `version` are added, and
    `occurred_at` if it is missing. The field `request_id` becomes a header of the message.
    """
    event_type, fields = event[0], dict(event[1])
    event_id = str(uuid_utils.uuid7())
    request_id = clean_request_id(fields.pop(REQUEST_ID, None) or current_request_id())
    return {
        "event_id": event_id,
        "type": event_type,
        "payload": {
            "event_id": event_id,
            "version": 1,
            "occurred_at": utc(datetime.now(UTC)),
            **fields,
        },
        "request_id": request_id,
    }

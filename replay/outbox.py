"""Writes events into an outbox again, where the relay of the service finds them."""

from collections.abc import Sequence
from typing import Any

from audit.checks import OVERDUE
from audit.snapshots import NO_LIMITS
from chassis.db import rows_as_json
from chassis.logs import REQUEST_ID
from chassis.outbox import COLUMN_TYPES, COLUMNS, event_row
from chassis.schemas import utc
from replay.missing import Missing
from replay.options import Options
from replay.sources import Source

Key = tuple[str, str]  # an event's type, and the id of its order or user

ADVISORY_LOCK_ID = 7369_002  # chassis has others
# Replays write one after another.
LOCK = """
    SET LOCAL lock_timeout = '60s';
    SELECT pg_advisory_xact_lock(%s)
"""
# An event that was sent a short time ago may still be in a queue or in its handler.
IS_LOST = f"sent_at IS NOT NULL AND {OVERDUE.format('sent_at', 90)}"
# All events in the outbox about these users or orders.
FIND = f"""
    SELECT type, payload ->> %(id_name)s, event_id, {IS_LOST}
    FROM outbox
    WHERE payload ->> %(id_name)s = ANY(%(ids)s)
"""
# The relay publishes them again. The service may have deleted some of them.
MARK_UNSENT = """
    UPDATE outbox
    SET sent_at = NULL
    WHERE event_id = ANY(%s::uuid[])
    RETURNING event_id
"""
# New events, from a JSON array.
INSERT = f"""
    INSERT INTO outbox ({COLUMNS})
    SELECT {COLUMNS}
    FROM json_to_recordset(%s) AS new ({COLUMN_TYPES})
"""


def write(
    connection: Any, source: Source, found: Sequence[Missing], options: Options
) -> int:
    """Write the events of these rows into the outbox, in one transaction; return their number.

    An event has one row. If the outbox still has it, it is marked as unsent, else it is inserted.
    An event in flight stays unchanged. A lock serializes replays, so that the second one finds
    the rows of the first. With `dry_run` it only counts. Raises psycopg2.Error.
    """
    new_rows = [_row(source, missing) for missing in found]
    rows = {_key(row, source): row for row in new_rows}
    with connection, connection.cursor() as cursor:
        cursor.execute(NO_LIMITS)
        if not options.dry_run:
            cursor.execute(LOCK, [ADVISORY_LOCK_ID])
        ids = [missing.row.id for missing in found]
        lost, in_flight = _stored_events(cursor, source, ids, options.settled)
        replayed = {key: row for key, row in rows.items() if key not in in_flight}
        if not options.dry_run:
            lost_ids = [lost[key] for key in replayed if key in lost]
            cursor.execute(MARK_UNSENT, [lost_ids])
            marked = {event_id for (event_id,) in cursor}
            new = [row for key, row in replayed.items() if lost.get(key) not in marked]
            cursor.execute(INSERT, [rows_as_json(new)])
    return len(replayed)


def _stored_events(
    cursor: Any, source: Source, ids: list[str], settled: bool
) -> tuple[dict[Key, str], set[Key]]:
    """Return the ids of lost events by key, and the keys of those in flight, for these rows."""
    lost: dict[Key, str] = {}
    in_flight: set[Key] = set()
    cursor.execute(FIND, {"id_name": source.id_name, "ids": ids, "settled": settled})
    for event_type, id_, event_id, is_lost in cursor:
        if is_lost:
            lost[event_type, id_] = event_id
        else:
            in_flight.add((event_type, id_))
    return lost, in_flight


def _row(source: Source, missing: Missing) -> dict[str, Any]:
    """Return the outbox row of an event. Only its id differs from the original row.

    A source without request ids has the same one for all, which finds them in the logs.
    """
    event_type, payload = source.event(missing.row)
    occurred_at = utc(missing.row.occurred_at)
    payload = {REQUEST_ID: "replay", **payload, "occurred_at": occurred_at}
    return event_row((event_type, payload))


def _key(row: dict[str, Any], source: Source) -> Key:
    return row["type"], row["payload"][source.id_name]

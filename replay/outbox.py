"""Writes events into an outbox again, where the relay of the service finds them."""

from collections.abc import Sequence
from typing import Any

from audit.checks import LATE
from audit.snapshots import NO_LIMITS
from chassis.db import recordset
from chassis.logs import REQUEST_ID
from chassis.outbox import COLUMN_TYPES, COLUMNS, event_row
from chassis.schemas import utc
from replay.missing import Missing
from replay.options import Options
from replay.sources import Source

Key = tuple[str, str]  # an event's type, and the id of its order or user

ADVISORY_LOCK_ID = 7369_002  # chassis has others
LOCK = "SET LOCAL lock_timeout = '60s'; SELECT pg_advisory_xact_lock(%s)"
# An event that was sent a short time ago may still be in a queue, or in the hands of its handler.
IS_LOST = f"sent_at IS NOT NULL AND {LATE.format('sent_at', 90)}"
FIND = f"""
    SELECT type, payload ->> %(id_name)s, event_id, {IS_LOST}
    FROM outbox
    WHERE payload ->> %(id_name)s = ANY(%(ids)s)
"""
MARK_UNSENT = """
    UPDATE outbox
    SET sent_at = NULL
    WHERE event_id = ANY(%s::uuid[])
    RETURNING event_id
"""
INSERT = f"""
    INSERT INTO outbox ({COLUMNS})
    SELECT {COLUMNS}
    FROM json_to_recordset(%s) AS new ({COLUMN_TYPES})
"""


def write(
    connection: Any, source: Source, found: Sequence[Missing], options: Options
) -> int:
    """Have the events of these rows published again, in one transaction; how many they are.

    An event has one row: if the outbox still holds it, it is marked as unsent, else it is inserted.
    An event on the way stays as it is. Two replays at once take turns, so that the second one finds
    the rows of the first. With `dry_run` it only counts. Raises psycopg2.Error.
    """
    rows = {_key(row, source): row for row in (_row(source, each) for each in found)}
    with connection, connection.cursor() as cursor:
        cursor.execute(NO_LIMITS)
        if not options.dry_run:
            cursor.execute(LOCK, [ADVISORY_LOCK_ID])
        ids = [each.row.id for each in found]
        lost, on_the_way = _held(cursor, source, ids, options.settled)
        replayed = {key: row for key, row in rows.items() if key not in on_the_way}
        if not options.dry_run:
            cursor.execute(
                MARK_UNSENT, [[lost[key] for key in replayed if key in lost]]
            )
            # The service may have deleted some of them meanwhile.
            marked = {event_id for (event_id,) in cursor}
            new = [row for key, row in replayed.items() if lost.get(key) not in marked]
            cursor.execute(INSERT, [recordset(new)])
    return len(replayed)


def _held(
    cursor: Any, source: Source, ids: list[str], settled: bool
) -> tuple[dict[Key, str], set[Key]]:
    """What the outbox holds of these: event ids of those that are lost, and those on the way."""
    lost: dict[Key, str] = {}
    on_the_way: set[Key] = set()
    cursor.execute(FIND, {"id_name": source.id_name, "ids": ids, "settled": settled})
    for event_type, id_, event_id, is_lost in cursor:
        if is_lost:
            lost[event_type, id_] = event_id
        else:
            on_the_way.add((event_type, id_))
    return lost, on_the_way


def _row(source: Source, missing: Missing) -> dict[str, Any]:
    """The outbox's row of an event as it was first written, but for its id.

    A source that keeps no request id has one for all, by which the logs are searched.
    """
    event_type, fact = source.event(missing.row)
    occurred_at = utc(missing.row.occurred_at)
    return event_row(
        (event_type, {REQUEST_ID: "replay", **fact, "occurred_at": occurred_at})
    )


def _key(row: dict[str, Any], source: Source) -> Key:
    return row["type"], row["payload"][source.id_name]

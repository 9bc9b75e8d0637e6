"""Finds the rows of a source that miss an effect. It reads in chunks, so memory stays small."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

from psycopg2.extras import NamedTupleCursor

from audit.snapshots import NO_LIMITS, SNAPSHOT, connect
from replay.options import Options
from replay.sources import Effect, Source

CHUNK_ROWS = 1000
# Each statement sees all rows committed before its start, also those newer than the snapshot of
# the source.
READ_LATEST = {"isolation_level": "READ COMMITTED", "readonly": True}


@dataclass(frozen=True, slots=True)
class Missing:
    """A row of a source, and the names of the effects that it misses."""

    row: Any
    effects: list[str] = field(default_factory=list)


def find_missing(
    config: dict[str, Any], source: Source, options: Options
) -> Iterator[tuple[int, list[Missing]]]:
    """Yield the number of rows and the incomplete rows of each chunk of the source.

    Raises ConfigurationError, psycopg2.Error.
    """
    with ExitStack() as stack:

        def open_connection(service: str, session: dict[str, Any]) -> Any:
            connection = stack.enter_context(
                closing(connect(config, service, **session))
            )
            connection.cursor().execute(NO_LIMITS)
            return connection

        connections = {
            effect: open_connection(effect.service, READ_LATEST)
            for effect in source.effects
        }
        snapshot = open_connection(source.service, SNAPSHOT)
        rows = snapshot.cursor("replay", cursor_factory=NamedTupleCursor)
        rows.execute(source.query, {"since": options.since, "settled": options.settled})
        while chunk := rows.fetchmany(CHUNK_ROWS):
            checked = {row.id: Missing(row) for row in chunk}
            for effect, connection in connections.items():
                complete = _ids_with(effect, connection, list(checked))
                for id_ in checked.keys() - complete:
                    checked[id_].effects.append(effect.name)
            yield len(chunk), [row for row in checked.values() if row.effects]


def _ids_with(effect: Effect, connection: Any, ids: list[str]) -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute(effect.query, {"ids": ids})
        return {id_ for (id_,) in cursor}

"""Finds the rows of a source that miss an effect; reads in chunks, so memory stays small."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

from psycopg2.extras import NamedTupleCursor

from audit.snapshots import NO_LIMITS, SNAPSHOT, connect
from replay.options import Options
from replay.sources import Effect, Source

CHUNK = 1000
# Each statement sees what is committed when it starts, so effects later than the source's snapshot.
LATEST = {"isolation_level": "READ COMMITTED", "readonly": True}


@dataclass(frozen=True, slots=True)
class Missing:
    """A row of a source, and the names of the effects that it misses."""

    row: Any
    effects: list[str] = field(default_factory=list)


def find_missing(
    config: dict[str, Any], source: Source, options: Options
) -> Iterator[tuple[int, list[Missing]]]:
    """For each chunk of the source's rows: how many they are, and those that miss an effect.

    Raises ConfigurationError, psycopg2.Error.
    """
    with ExitStack() as stack:

        def connected(service: str, session: dict[str, Any]) -> Any:
            connection = stack.enter_context(
                closing(connect(config, service, **session))
            )
            connection.cursor().execute(NO_LIMITS)
            return connection

        others = {
            effect: connected(effect.service, LATEST) for effect in source.effects
        }
        snapshot = connected(source.service, SNAPSHOT)
        rows = snapshot.cursor("replay", cursor_factory=NamedTupleCursor)
        rows.execute(source.query, {"since": options.since, "settled": options.settled})
        while chunk := rows.fetchmany(CHUNK):
            checked = {row.id: Missing(row) for row in chunk}
            for effect, connection in others.items():
                for id_ in checked.keys() - _having(effect, connection, list(checked)):
                    checked[id_].effects.append(effect.name)
            yield len(chunk), [each for each in checked.values() if each.effects]


def _having(effect: Effect, connection: Any, ids: list[str]) -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute(effect.query, {"ids": ids})
        return {id_ for (id_,) in cursor}

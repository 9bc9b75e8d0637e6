"""Replays the events of one source, and counts."""

from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from audit.snapshots import connect
from replay.missing import Missing, find_missing
from replay.options import Options
from replay.outbox import write
from replay.sources import Source

BATCH = (
    1000  # events in a transaction, or more: each transaction reads the whole outbox
)
SHOWN = 20


@dataclass(slots=True)
class Report:
    """What was found in a source, and how many events were replayed."""

    checked: int = 0
    missing: int = 0
    replayed: int = 0
    effects: Counter[str] = field(default_factory=Counter)
    first: list[Missing] = field(default_factory=list)

    def add(self, found: list[Missing], replayed: int) -> None:
        """Count a batch."""
        self.missing += len(found)
        self.replayed += replayed
        self.effects.update(name for each in found for name in each.effects)
        self.first += found[: SHOWN - len(self.first)]


def run(config: dict[str, Any], source: Source, options: Options) -> Report:
    """Replay the events of the source's rows that miss an effect, in batches.

    Raises ConfigurationError, psycopg2.Error.
    """
    report = Report()
    batch: list[Missing] = []
    session = {"isolation_level": "READ COMMITTED", "readonly": options.dry_run}
    with closing(connect(config, source.service, **session)) as connection:
        for checked, found in find_missing(config, source, options):
            report.checked += checked
            batch += found
            if len(batch) >= BATCH:
                report.add(batch, write(connection, source, batch, options))
                batch = []
        if batch:
            report.add(batch, write(connection, source, batch, options))
    return report

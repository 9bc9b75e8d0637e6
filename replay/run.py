"""Replays the events of one source, and counts them."""

from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from audit.snapshots import connect
from replay.missing import Missing, find_missing
from replay.options import Options
from replay.outbox import write
from replay.sources import Source

# Rows in a transaction, or more. Batches are large because each one reads the whole outbox.
BATCH_ROWS = 1000
MAX_SHOWN = 20


@dataclass(slots=True, kw_only=True)
class Report:
    """Counts of the rows of a source and of their replayed events."""

    checked: int = 0
    missing: int = 0
    replayed: int = 0
    effects: Counter[str] = field(default_factory=Counter)
    first: list[Missing] = field(default_factory=list)

    def add(self, found: list[Missing], replayed: int) -> None:
        """Add a batch."""
        self.missing += len(found)
        self.replayed += replayed
        self.effects.update(name for missing in found for name in missing.effects)
        self.first += found[: MAX_SHOWN - len(self.first)]


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
            if len(batch) >= BATCH_ROWS:
                report.add(batch, write(connection, source, batch, options))
                batch = []
        if batch:
            report.add(batch, write(connection, source, batch, options))
    return report

"""The options of a replay."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a replay.

    `since`: rows from this time on are checked; the form is PostgreSQL's.
    `settled`: no request or event is in flight, so each missing effect counts at once.
    `dry_run`: nothing is written.
    """

    since: str
    settled: bool
    dry_run: bool

"""What the operator asks for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """`since`: the time from which on rows are checked, as PostgreSQL reads it.

    `settled`: nothing is under way, so a missing effect is not waited for.
    `dry_run`: nothing is written.
    """

    since: str
    settled: bool
    dry_run: bool

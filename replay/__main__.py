"""Publish the events whose effects are missing. The suite may be at work.

Missing effects are the letter of an ended order, and the account and the recipient of a user.
Existing rows stay unchanged. Exit code 0: nothing is missing, or the events are in flight now.
1: with --dry-run, an effect is missing. 2: a database cannot be read or written.
"""

import argparse
import sys
from contextlib import closing
from typing import Any

from audit.snapshots import connect
from chassis import cli
from replay.options import Options
from replay.run import Report, run
from replay.sources import SOURCES, Source


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parsed = _parser().parse_args(arguments)
    missing = 0
    try:
        config = cli.load_settings(parsed.config)
        options = Options(
            since=_timestamp(config, parsed.since),
            settled=parsed.settled,
            dry_run=parsed.dry_run,
        )
        print(f"since {options.since}")
        for source in SOURCES:
            report = run(config, source, options)
            print("\n".join(_lines(source, report, options.dry_run)))
            missing += report.missing
    except cli.ERRORS as exc:
        print(f"error: {cli.error_line(exc)}", file=sys.stderr)
        return 2
    return 1 if options.dry_run and missing else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m replay", description=__doc__)
    parser.add_argument("--config", default="config.yaml", help="default: %(default)s")
    parser.add_argument("--since", default="yesterday", help="default: %(default)s")
    parser.add_argument(
        "--settled", action="store_true", help="no request or event is in flight"
    )
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    return parser


def _timestamp(config: dict[str, Any], since: str) -> str:
    """Return the time that `since` means now, for all databases."""
    with closing(connect(config, SOURCES[0].service, readonly=True)) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT %s::timestamptz::text", [since])
        [(timestamp,)] = cursor
        return str(timestamp)


def _lines(source: Source, report: Report, dry_run: bool) -> list[str]:
    counts = [
        f"{report.effects[effect.name]} without {effect.name}"
        for effect in source.effects
    ]
    counts.append(f"{report.replayed} {'to replay' if dry_run else 'replayed'}")
    counts.append(f"{report.missing - report.replayed} already in flight")
    lines = [f"{source.service}: {report.checked} checked, {', '.join(counts)}"]
    lines += [
        f"  {missing.row.id} has no {' and no '.join(missing.effects)}"
        for missing in report.first
    ]
    if more := report.missing - len(report.first):
        lines.append(f"  ... and {more} more")
    return lines


if __name__ == "__main__":
    sys.exit(main())

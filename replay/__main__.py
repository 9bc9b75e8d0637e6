"""Publish events again whose effects are missing: `python -m replay`. The suite may be at work.

Looks for ended orders without a letter, and for users without an account or a recipient. What
exists stays as it is. Exit code 0: nothing is missing, or its events are on the way; 1: with
--dry-run, something is missing; 2: it could not look.
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
    """The command; its exit code."""
    given = _parser().parse_args(arguments)
    missing = 0
    try:
        config = cli.load_settings(given.config)
        options = Options(_moment(config, given.since), given.settled, given.dry_run)
        print(f"since {options.since}")
        for source in SOURCES:
            report = run(config, source, options)
            print("\n".join(_lines(source, report, options.dry_run)))
            missing += report.missing
    except cli.ERRORS as exc:
        print(f"could not look: {cli.error_line(exc)}", file=sys.stderr)
        return 2
    return 1 if options.dry_run and missing else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m replay", description=__doc__)
    parser.add_argument("--config", default="config.yaml", help="default: %(default)s")
    parser.add_argument("--since", default="yesterday", help="default: %(default)s")
    parser.add_argument("--settled", action="store_true", help="nothing is under way")
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    return parser


def _moment(config: dict[str, Any], since: str) -> str:
    """What `since` means now: one time for all databases."""
    with closing(connect(config, SOURCES[0].service, readonly=True)) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT %s::timestamptz::text", [since])
        [(moment,)] = cursor
        return str(moment)


def _lines(source: Source, report: Report, dry_run: bool) -> list[str]:
    counts = [
        f"{report.effects[effect.name]} without {effect.name}"
        for effect in source.effects
    ]
    counts.append(f"{report.replayed} {'to replay' if dry_run else 'replayed'}")
    counts.append(f"{report.missing - report.replayed} already on the way")
    lines = [f"{source.service}: {report.checked} checked, {', '.join(counts)}"]
    lines += [
        f"  {each.row.id} has no {' and no '.join(each.effects)}"
        for each in report.first
    ]
    if more := report.missing - len(report.first):
        lines.append(f"  ... and {more} more")
    return lines


if __name__ == "__main__":
    sys.exit(main())

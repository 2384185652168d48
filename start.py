#!/usr/bin/env python3
"""Start a run: housekeeping, recording on all DAQ nodes, then the data flow from the boards.

It refuses (exit code 3) when a run is in progress or anything is not ready, and says what helps.
It succeeds when data of every board are being recorded; a start that fails is undone.
"""

from panoseti.venv import use_venv

if __name__ == "__main__":
    use_venv(__file__)

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from panoseti import console
from panoseti.configs.load_configs import Site, load_site
from panoseti.configs.site_at_any_price import find_site
from panoseti.errors import EXIT_FAILED, EXIT_OK
from panoseti.flight import FlightRecorder
from panoseti.runs import run_report, run_start
from panoseti.runs.run_timer import shut_down, start_and_record, watch_again
from panoseti.runs.start_checks import StartOptions

EXAMPLES = """\
  ./start.py                record until stop.py
  ./start.py --nsecs 600    record for 600 s, then stop this run and collect it
  ./start.py --partial      record with the healthy part (how much may be missing: obs_config.json)
  ./start.py --dry-run      all checks, and nothing else
Run it in the command directory (the one with the three configs) on the head node."""


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; exits with code 2 on bad usage."""
    parser = console.parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--no_hv", action="store_true", help="do not require that high voltage is kept")
    add("--no_redis", action="store_true", help="record no housekeeping; require no daemons")
    add("--partial", action="store_true", help="record with the healthy part, if the policy allows")
    add("--no_data", action="store_true", help="record housekeeping only")
    add("--nsecs", type=seconds, metavar="N", help="record for N seconds, in the foreground")
    add("--stop_session", action="store_true", help="after --nsecs: config.py --shutdown as well")
    add("--watch", action="store_true", help="only start the run's watcher again, if it is dead")
    add("--dry-run", action="store_true", help="check only")
    add("--json", action="store_true", help="one JSON document on stdout")
    add("--verbose", action="store_true", help="details on stderr")
    args = parser.parse_args(argv)
    if args.stop_session and args.nsecs is None:
        parser.error("--stop_session needs --nsecs: a session is not stopped while a run goes on")
    if args.no_redis and args.no_data:
        parser.error("--no_redis and --no_data together leave nothing to record")
    return args


def seconds(text: str) -> float:
    """A number of seconds above 0."""
    value = float(text)
    if not 0 < value < 1e7:
        raise argparse.ArgumentTypeError(f"{text}: give seconds above 0")
    return value


def main(argv: Sequence[str]) -> int:
    """Start, and with --nsecs stop; the exit code."""
    args = parse_args(argv)
    out = console.Console(args.json, args.verbose)
    if args.watch:
        return watch(out, argv)
    site = load_site(Path.cwd())
    for warning in site.warnings:
        out.warn(warning)
    flight = FlightRecorder(site.head_data_dir, run_start.PROGRAM)
    options = StartOptions(
        hv=not args.no_hv, redis=not args.no_redis, data=not args.no_data, duration_s=args.nsecs,
        partial=args.partial, argv=("start.py", *argv),
    )  # fmt: skip
    if args.dry_run:
        return dry_run(site, options, out)
    flight.command(argv)
    started, report = start_and_record(
        site, options, out, flight, lambda begun: run_report.show_started(begun, out)
    )
    document = run_report.started_document(started)
    code = EXIT_OK
    if report is not None:
        run_report.show_stop(report, out)
        document["stop"] = run_report.stop_document(report)
        code = EXIT_OK if report.ok else EXIT_FAILED
    if args.stop_session:
        failed, document["shutdown"] = shut_down(site, out, flight)
        code = code or failed
    if args.json:
        out.result(document)
    return code


def dry_run(site: Site, options: StartOptions, out: console.Console) -> int:
    """Check and tell."""
    checked = run_start.plan(site, options, FlightRecorder(None, run_start.PROGRAM))
    run_report.show_checked(checked, out)
    if out.json_output:
        out.result(run_report.checked_document(checked))
    return EXIT_OK


def watch(out: console.Console, argv: Sequence[str]) -> int:
    """Somebody must watch the run in progress, also while configs are edited for the next one."""
    found = find_site(Path.cwd())
    for note in found.notes:
        out.warn(note)
    site = replace(found.site, command_dir=Path.cwd())
    flight = FlightRecorder(site.head_data_dir, run_start.PROGRAM)
    flight.command(argv)
    holder, begun = watch_again(site, flight)
    out.out(f"{holder} is watched" + (" again" if begun else ", as before"))
    if out.json_output:
        out.result({"run": holder.run, "begun": begun})
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(console.call(main, sys.argv[1:]))

#!/usr/bin/env python3
"""Stop the run in progress, no matter who started it, and collect; or end whatever records.

It always goes all the way: a dead node or board does not keep the others from being stopped, and
broken configs are replaced by the copies in the run.  Safe to repeat at any time.
"""

from panoseti.venv import use_venv

if __name__ == "__main__":
    use_venv(__file__)

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from panoseti import console
from panoseti.configs.site_at_any_price import check_head_node, find_site
from panoseti.errors import EXIT_FAILED, EXIT_OK
from panoseti.flight import FlightRecorder
from panoseti.runs import run_report, run_stop
from panoseti.runs.names import check_run_name
from panoseti.runs.run_stop import StopOptions

EXAMPLES = """\
  ./stop.py                 stop, collect, clean up
  ./stop.py --background    stop; another process collects (status.py shows how far it is)
  ./stop.py --no_collect    stop only; the data stay on the DAQ nodes
  ./stop.py --run obs_Lick.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd
                            collect an old run (again); a run in progress goes on.
                            Its directory here may be lost: then the nodes are asked
  ./stop.py --run NAME --check_all
                            look at every frame of it; the verdict is written anew
Run it in the command directory (the one with the three configs) on the head node."""


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; exits with code 2 on bad usage."""
    parser = console.parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--no_collect", action="store_true", help="leave the data on the DAQ nodes")
    add("--no_cleanup", action="store_true", help="collect, but delete nothing on the DAQ nodes")
    add("--background", action="store_true", help="do not wait for the collection")
    add("--run", type=run_name, metavar="NAME", help="collect this run (again)")
    add("--check_all", action="store_true",
        help="look at every frame for the verdict, however long that takes")  # fmt: skip
    add(
        "--if_in_progress",
        action="store_true",
        help="with --run: do nothing when somebody else has ended it (so asks the run's watcher)",
    )
    add(
        "--force",
        action="store_true",
        help="stop what another head node has begun, too; with --run: collect its lost run"
        " (asks when on a terminal)",
    )
    add(
        "--data_dir",
        type=Path,
        help="head node data directory, where the configs are broken or name another",
    )
    add("--json", action="store_true", help="one JSON document on stdout")
    add("--verbose", action="store_true", help="details on stderr")
    args = parser.parse_args(argv)
    if args.background and args.no_collect:
        parser.error("--background is about the collection, and --no_collect wants none")
    if args.check_all and args.no_collect:
        parser.error("--check_all is about the files here, and --no_collect leaves them there")
    if args.if_in_progress and args.run is None:
        parser.error("--if_in_progress is about the run that --run names")
    return args


def run_name(text: str) -> str:
    """The name of a run; its directory may be given as well."""
    try:
        return check_run_name(Path(text).name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main(argv: Sequence[str]) -> int:
    """Stop; the exit code."""
    args = parse_args(argv)
    out = console.Console(args.json, args.verbose)
    found = find_site(Path.cwd(), args.data_dir)
    notes = [*found.notes, *check_head_node(found.site)]
    for note in notes:
        out.warn(note)
    flight = FlightRecorder(found.site.head_data_dir, run_stop.PROGRAM)
    flight.command(argv)
    options = StopOptions(
        collect=not args.no_collect, cleanup=not args.no_cleanup, background=args.background,
        run=args.run, if_in_progress=args.if_in_progress, force=args.force,
        check_all=args.check_all,
    )  # fmt: skip
    report = run_stop.stop(found.site, options, out, flight)
    run_report.show_stop(report, out)
    if args.json:
        out.result({"config_notes": notes, **run_report.stop_document(report)})
    return EXIT_OK if report.ok else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(console.call(main, sys.argv[1:]))

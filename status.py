#!/usr/bin/env python3
"""Show what the observatory does: run, DAQ nodes, daemons, each board, outlets of power switches.

A dead node is a line of its own.  Nothing is changed but the flight recorder, which notes that
somebody looked; no other program is disturbed.
"""

from panoseti.venv import use_venv

if __name__ == "__main__":
    use_venv(__file__)

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from panoseti import console
from panoseti.configs.site_at_any_price import find_site, not_the_head_node
from panoseti.errors import EXIT_FAILED, EXIT_OK
from panoseti.flight import FlightRecorder, read_flight
from panoseti.runs import status_gathering, status_report

LOG_LINES = 50
EXAMPLES = """\
  ./status.py               all there is to know at this moment
  ./status.py --json        the same for programs
  ./status.py --log 200     the last 200 lines of the flight recorder
Run it in the command directory (the one with the three configs) on the head node."""


def line_count(text: str) -> int:
    """A whole number above 0."""
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines")
    return int(text)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; exits with code 2 on bad usage."""
    parser = console.parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--log", type=line_count, nargs="?", const=LOG_LINES, metavar="N",
        help=f"show the last N (default: {LOG_LINES}) lines of the flight recorder")  # fmt: skip
    add(
        "--data_dir",
        type=Path,
        help="head node data directory, where the configs are broken or name another",
    )
    add("--json", action="store_true", help="one JSON document on stdout")
    add("--verbose", action="store_true", help="details on stderr")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Look and tell; 1 when something could not be asked."""
    args = parse_args(argv)
    out = console.Console(args.json, args.verbose)
    found = find_site(Path.cwd(), args.data_dir)
    away = not_the_head_node(found.site)
    notes = [*found.notes, *([f"{away}; this is what is seen from here"] if away else [])]
    for note in notes:
        out.warn(note)
    if args.log is not None:
        return show_log(found.site.head_data_dir, args.log, out)
    flight = recorder(found.site.head_data_dir)
    flight.command(argv)
    status = status_gathering.look(found.site, flight)
    status_report.show(status, status_report.with_data_config(found.site), out)
    if args.json:
        out.result({"config_notes": notes, **status.document()})
    return EXIT_FAILED if status.problems else EXIT_OK


def recorder(data_dir: Path) -> FlightRecorder:
    """The flight recorder; looking at an observatory makes no data directory."""
    return FlightRecorder(data_dir if data_dir.is_dir() else None, "status.py")


def show_log(data_dir: Path, lines: int, out: console.Console) -> int:
    """The flight recorder read back."""
    found = read_flight(data_dir, lines)
    if out.json_output:
        out.result([vars(line) for line in found])
    else:
        for line in found:
            out.out(line.text)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(console.call(main, sys.argv[1:]))

#!/usr/bin/env python3
"""Bring the boards from power-on to ready: with no argument, every step that is missing or stale.

The steps: power, ping, UIDs, reboot into the silver firmware, HK destination, the session's
daemons (housekeeping, temperature guard, high voltage), masks, MAROC, PH baselines, shutters,
high voltage, software of the DAQ nodes.  Each can be asked for alone.

The bring-up ends with the shutters OPEN and high voltage ON: type it when it is dark.
"""

from panoseti.venv import use_venv

if __name__ == "__main__":
    use_venv(__file__)

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from panoseti import console
from panoseti.boards.firmware_load import TOLD_TWICE
from panoseti.bringup import config_run, off_first
from panoseti.bringup.config_request import Request
from panoseti.bringup.config_words import TASKS, VALUES
from panoseti.bringup.ledger import Step
from panoseti.bringup.node_setup import NODES
from panoseti.configs import selection
from panoseti.configs.load_configs import load_site
from panoseti.flight import FlightRecorder

EXAMPLES = """\
  ./config.py                      from whatever there is to ready, in the dark; it may be repeated
  ./config.py --dry-run            what that would do, and why
  ./config.py --redo maroc         everything missing or stale, and MAROC in any case
  ./config.py --show               all boards: versions, housekeeping, what they lack
  ./config.py --reboot --module 254
  ./config.py --loads --dry-run    whose flash memory differs from the images of obs_config.json
  ./config.py --shutter_close --quabo 192.168.3.249
  ./config.py --fan 7 --module 254            in the form that each board's firmware understands
  ./config.py --power_off --module 254        its HV off, confirmed by HVMON, then its outlet
  ./config.py --hv_off             at any time, even during a run
  ./config.py --shutdown           HV off, shutters closed, daemons ended, power off
Run it in the command directory (the one with the three configs) on the head node."""

EXCLUDE = (
    ("hv_on", "hv_off"),
    ("shutter_open", "shutter_close"),
    ("power_on", "power_off"),
)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; exits with code 2 on bad usage."""
    parser = console.parser(__doc__, EXAMPLES)
    tasks = parser.add_argument_group("tasks (none: the whole bring-up)")
    for name, text in TASKS.items():
        tasks.add_argument(f"--{name}", help=text, **VALUES.get(name, {"action": "store_true"}))
    which = parser.add_argument_group("for which boards (none: all; may be repeated)")
    for kind, text in (
        (selection.DOME, "those of a dome: its name"),
        (selection.MODULE, "those of a module: id, name, label or base address"),
        (selection.QUABO, "one board: its address"),
        (selection.ANY, "any of these"),
    ):
        choice = partial(selection.Choice, kind)
        which.add_argument(
            f"--{kind}", dest="choices", action="append", type=choice, metavar="WHICH", help=text
        )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--redo",
        action="append",
        default=[],
        choices=[*(step.value for step in Step), NODES],
        help="in the bring-up, do this step even where it is not stale (may be repeated)",
    )
    how.add_argument(
        TOLD_TWICE,
        action="store_true",
        help="confirms --load_golden, which does nothing without it",
    )
    how.add_argument("--dry-run", action="store_true", help="say what would be done")
    how.add_argument("--json", action="store_true", help="one JSON document on stdout")
    how.add_argument("--verbose", action="store_true", help="details on stderr")
    args = parser.parse_args(argv)
    args.values = {name: value for name in VALUES if (value := getattr(args, name)) is not None}
    args.tasks = [name for name in TASKS if name in args.values or getattr(args, name)]
    for one, other in EXCLUDE:
        if getattr(args, one) and getattr(args, other):
            parser.error(f"--{one} and --{other} exclude one another")
    if args.redo and args.tasks:
        parser.error("--redo belongs to the bring-up; a task that is asked for is always done")
    if args.golden_is_meant and not args.load_golden:
        parser.error(f"{TOLD_TWICE} belongs to --load_golden")
    return args


def main(argv: Sequence[str]) -> int:
    """Do what the command line asks for; the exit code."""
    args = parse_args(argv)
    out = console.Console(args.json, args.verbose)
    words = " ".join(["config.py", *argv])
    request = Request(
        args.tasks, args.choices or (), args.redo, args.dry_run, words, args.golden_is_meant,
        args.values,
    )  # fmt: skip
    off = "hv_off" in args.tasks and not args.dry_run
    problems = off_first.switch_off(Path.cwd(), out, argv) if off else []
    if off and len(args.tasks) == 1:
        return config_run.finish(out, problems, {})
    site = load_site(Path.cwd(), config_run.needs_data(request))
    flight = FlightRecorder(None if args.dry_run else site.head_data_dir, "config.py")
    flight.command(argv)
    return config_run.run(site, request, out, flight, problems)


if __name__ == "__main__":
    sys.exit(console.call(main, sys.argv[1:]))

#!/usr/bin/env python3
"""The watcher of a run: sees what dies, falls silent or fills up, tells it, and acts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from daq.daq_facts import check_run_name
from panoseti import daemon
from panoseti.configs.load_configs import load_site
from panoseti.errors import ObsError
from panoseti.flight import FlightRecorder
from panoseti.high_voltage.alarms import Alarms
from panoseti.runs.run_state import run_dir
from panoseti.runs.run_watcher import INTERVAL_S, NAME, RunWatcher, holder_of
from panoseti.runs.site_of_run import site_of_run

EXAMPLES = """  daemons/run_watcher.py --run obs_Lick.start_...Z.runtype_sci-data.pffd

start.py starts it, stop.py ends it."""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exits with code 2 on bad usage."""
    parser = daemon.arguments(NAME, __doc__ or "", INTERVAL_S, EXAMPLES)
    parser.add_argument("--run", required=True, help="name of the run in progress")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Watch until the run is over or told to end."""
    args = parse_args(argv)
    data_dir = args.data_dir or load_site(args.config_dir, data_config=False).head_data_dir
    data_dir = data_dir.resolve()
    try:
        holder = holder_of(data_dir, check_run_name(args.run))
    except ValueError as error:
        raise ObsError(f"--run: {error}") from error
    site = site_of_run(run_dir(data_dir, holder.run), args.config_dir)
    with (
        daemon.Daemon(NAME, data_dir, args.interval_s, args.verbose) as running,
        Alarms(data_dir, NAME, site.obs.alarm_hook) as alarms,
    ):
        flight = FlightRecorder(data_dir, NAME)
        watcher = RunWatcher(site, data_dir, holder, alarms, flight, args.interval_s)
        watcher.watch(running)
    return 0


if __name__ == "__main__":
    sys.exit(daemon.call(main, sys.argv[1:]))

#!/usr/bin/env python3
"""Watch temperatures: too hot or too cold means HV off, run stopped, power outlet off."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from panoseti import daemon
from panoseti.boards.board_link import BoardLink, open_link
from panoseti.bringup.daemon_inputs import wanted_inputs
from panoseti.configs.load_configs import load_site
from panoseti.flight import FlightRecorder
from panoseti.high_voltage.alarms import Alarms
from panoseti.high_voltage.hv_off import PATIENCE_S
from panoseti.high_voltage.hv_service import (
    Outlets,
    PresentBoards,
    add_stuck_option,
    guard_actions,
    tell_failed_stop,
)
from panoseti.high_voltage.safety import NAME, Guard, GuardedModule, guard_loop
from panoseti.housekeeping.store import Store
from panoseti.runs.stop_in_background import StopInBackground

INTERVAL_S = 1.0
# For a fixed command port that others use; then any other port is taken.
PORT_PATIENCE_S = 1.0
EXAMPLES = """  daemons/temperature_guard.py --config_dir . --verbose

A module that was tripped stays off until config.py --ack_hv."""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exits with code 2 on bad usage."""
    parser = daemon.arguments(NAME, __doc__ or "", INTERVAL_S, EXAMPLES)
    add_stuck_option(parser)
    parser.add_argument(
        "--patience_s",
        type=float,
        default=PATIENCE_S,
        help="the same for one whose HVMON is not seen at all (default: %(default)g)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Guard until told to end."""
    args = parse_args(argv)
    site = load_site(args.config_dir, data_config=False)
    data_dir = (args.data_dir or site.head_data_dir).resolve()
    flight = FlightRecorder(data_dir, NAME)
    works_with = partial(wanted_inputs, site, NAME)
    present = PresentBoards(site, data_dir)
    stop_run = StopInBackground(args.config_dir.resolve(), data_dir, None, NAME, flight)
    outlets = Outlets(site.obs, flight=flight)

    def link(priority: bool) -> BoardLink:
        return open_link(site, flight, priority, PORT_PATIENCE_S)

    def modules() -> tuple[GuardedModule, ...]:
        tell_failed_stop(stop_run, data_dir, alarms)
        return present.modules()

    with (
        daemon.Daemon(NAME, data_dir, args.interval_s, args.verbose, works_with) as running,
        Alarms(data_dir, NAME, site.obs.alarm_hook) as alarms,
        Store(site.obs.redis_host, site.obs.redis_port) as store,
    ):
        actions = guard_actions(site, store, data_dir, link, stop_run, outlets, alarms)
        limits = site.obs.hk_max_age_s, args.stuck_s, args.patience_s
        guard = Guard(actions, *limits, modules=present.as_known())
        guard_loop(running, guard, modules, outlets.check)
    return 0


if __name__ == "__main__":
    sys.exit(daemon.call(main, sys.argv[1:]))

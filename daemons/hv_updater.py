#!/usr/bin/env python3
"""Keep the detector bias at its set point: it follows the temperature, and is off when unsure."""

from __future__ import annotations

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
from panoseti.high_voltage.hv import FOLLOW_S, NAME, HvUpdater, update_loop
from panoseti.high_voltage.hv_service import PresentBoards, add_stuck_option, updater_actions
from panoseti.housekeeping.store import Store

INTERVAL_S = 1.0
# For a fixed command port that others use: the guard must see us alive meanwhile.
PORT_PATIENCE_S = 1.0
EXAMPLES = """  daemons/hv_updater.py --config_dir . --verbose

Its end (SIGTERM, Ctrl-C) switches the high voltage of every board off."""


def main(argv: Sequence[str] | None = None) -> int:
    """Update until told to end, then switch off."""
    parser = daemon.arguments(NAME, __doc__ or "", INTERVAL_S, EXAMPLES)
    parser.add_argument(
        "--follow_s",
        type=float,
        default=FOLLOW_S,
        help="a set point follows the temperature so often at most (default: %(default)g)",
    )
    add_stuck_option(parser)
    args = parser.parse_args(argv)
    site = load_site(args.config_dir, data_config=False)
    data_dir = (args.data_dir or site.head_data_dir).resolve()
    flight = FlightRecorder(data_dir, NAME)
    works_with = partial(wanted_inputs, site, NAME)

    def link(priority: bool) -> BoardLink:
        return open_link(site, flight, priority, PORT_PATIENCE_S)

    with (
        daemon.Daemon(NAME, data_dir, args.interval_s, args.verbose, works_with) as running,
        Alarms(data_dir, NAME, site.obs.alarm_hook) as alarms,
        Store(site.obs.redis_host, site.obs.redis_port) as store,
    ):
        actions = updater_actions(site, store, data_dir, link, alarms)
        updater = HvUpdater(actions, site.obs.hk_max_age_s, args.follow_s, stuck_s=args.stuck_s)
        update_loop(running, updater, PresentBoards(site, data_dir).boards)
    return 0


if __name__ == "__main__":
    sys.exit(daemon.call(main, sys.argv[1:]))

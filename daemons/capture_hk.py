#!/usr/bin/env python3
"""Capture housekeeping packets of the quabos (UDP port 60002) and keep the latest in Redis.

When neither hv_updater nor temperature_guard is alive, it switches the high voltage off.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from panoseti import daemon
from panoseti.boards.addresses import HK_PORT
from panoseti.boards.board_link import BoardLink, open_link
from panoseti.boards.hk_socket import HkSocket, listen_addresses
from panoseti.bringup.daemon_inputs import wanted_inputs
from panoseti.configs.load_configs import load_site
from panoseti.flight import FlightRecorder
from panoseti.high_voltage.alarms import Alarms
from panoseti.high_voltage.hv_service import witness_actions
from panoseti.high_voltage.hv_witness import Witness
from panoseti.housekeeping import housekeeping
from panoseti.housekeeping.store import Store

NAME = "capture_hk"
# For a fixed command port that others use; then any other port is taken.
PORT_PATIENCE_S = 1.0
EXAMPLES = """  daemons/capture_hk.py --config_dir . --verbose"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exits with code 2 on bad usage."""
    parser = daemon.arguments(NAME, __doc__ or "", 1.0, EXAMPLES)
    parser.add_argument(
        "--hk_port", type=int, default=HK_PORT, help="for tests (default: %(default)d)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Capture until told to end."""
    args = parse_args(argv)
    site = load_site(args.config_dir, data_config=False)
    data_dir = (args.data_dir or Path(site.daq.head_node_data_dir)).resolve()
    head_ip = site.address_of(site.daq.head_node_ip_addr)
    known = [quabo.boardloc for module in site.obs.modules for quabo in module.quabos]
    flight = FlightRecorder(data_dir, NAME)
    works_with = partial(wanted_inputs, site, NAME)

    def link(priority: bool) -> BoardLink:
        return open_link(site, flight, priority, PORT_PATIENCE_S)

    with (
        daemon.Daemon(NAME, data_dir, args.interval_s, args.verbose, works_with) as running,
        Alarms(data_dir, NAME, site.obs.alarm_hook) as alarms,
        Store(site.obs.redis_host, site.obs.redis_port) as store,
        HkSocket(listen_addresses(head_ip), args.hk_port) as opened,
    ):
        witness = Witness(witness_actions(site, data_dir, link, alarms))

        def look() -> list[str]:
            witness.look(time.time(), time.monotonic())
            return witness.off

        capture = housekeeping.HkCapture(store.put_records, known, witness.heard)
        housekeeping.capture_loop(running, opened, capture, look)
    return 0


if __name__ == "__main__":
    sys.exit(daemon.call(main, sys.argv[1:]))

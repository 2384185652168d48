#!/usr/bin/env python3
"""The HK recorder of a run: copies every record that changes in Redis to <run>/hk.pff."""

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
from panoseti.housekeeping import housekeeping
from panoseti.housekeeping.store import Store

NAME = "store_redis_data"
EXAMPLES = """  daemons/store_redis_data.py --run obs_Lick.start_...Z.runtype_sci-data.pffd"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exits with code 2 on bad usage."""
    parser = daemon.arguments(NAME, __doc__ or "", 1.0, EXAMPLES)
    parser.add_argument("--run", required=True, help="name of the run; its directory must exist")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Record until told to end."""
    args = parse_args(argv)
    site = load_site(args.config_dir, data_config=False)
    data_dir = (args.data_dir or Path(site.daq.head_node_data_dir)).resolve()
    try:
        run_dir = data_dir / check_run_name(args.run)
    except ValueError as error:
        raise ObsError(f"--run: {error}") from error
    with (
        daemon.Daemon(NAME, data_dir, args.interval_s, args.verbose) as running,
        Store(site.obs.redis_host, site.obs.redis_port) as store,
        housekeeping.HkFile(run_dir / "hk.pff") as file,
    ):
        recorder = housekeeping.HkRecorder(file, store.changed_records)
        housekeeping.record_loop(running, recorder, args.run)
    return 0


if __name__ == "__main__":
    sys.exit(daemon.call(main, sys.argv[1:]))

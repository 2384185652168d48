"""The command line of the simulated observatory, read into one typed object."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from simulator.faults import NAMES

FAULT_LIST = textwrap.fill(", ".join(NAMES), 96, initial_indent="  ", subsequent_indent="  ")
EXAMPLES = f"""examples:
  python -m simulator --config_dir . --time_scale 20
  python -m simulator --config_dir . --state_dir /tmp/sim --fault 127.0.3.249=mute
  python -m simulator --config_dir site --test_network 10.9.0.0/24   # in a test host only

It prints "ready" (and writes STATE_DIR/ready) when every address is bound, takes requests on
STATE_DIR/control.sock (python -m simulator.client), and ends with Ctrl-C or SIGTERM.

faults (simulator/faults.py says what each does, and what parameters it has):
{FAULT_LIST}
"""


@dataclass(frozen=True)
class Options:
    """What the command line asked for.

    time_scale divides the real times of a board (boot, ramps, PH baseline); hk_period_s of
    None means 3 s divided by time_scale, but at least 0.5 s.
    """

    config_dir: Path
    state_dir: Path
    time_scale: float
    boot_time_s: float
    hk_period_s: float | None
    tftp_port: int | None
    power_on_destination: str
    test_network: str | None
    silver: bool
    faults: tuple[str, ...]


def parse_args(argv: Sequence[str] | None = None) -> Options:
    """Read the command line; exits with code 2 on bad usage."""
    parser = argparse.ArgumentParser(
        prog="python -m simulator",
        description="Simulate the quabos of a command directory's obs_config.json.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config_dir", type=Path, required=True, help="holds obs_config.json")
    parser.add_argument(
        "--state_dir",
        type=Path,
        default=Path.home() / "panoseti-sim" / "simulator",
        help="for control.sock and ready (default: %(default)s)",
    )
    parser.add_argument(
        "--time_scale", type=float, default=1.0, help="boards run so many times faster than real"
    )
    parser.add_argument(
        "--boot_time_s", type=float, default=10.0, help="real silence of a reboot (default: 10)"
    )
    parser.add_argument("--hk_period_s", type=float, help="one HK interval (default: 3/time_scale)")
    parser.add_argument("--tftp_port", type=int, help="instead of tftp_port of obs_config.json")
    parser.add_argument(
        "--power_on_destination",
        default="127.0.0.1",
        help="where HK and science go after power-on or reboot (default: %(default)s)",
    )
    parser.add_argument(
        "--test_network",
        metavar="CIDR",
        help="also send inside this network; refused where a default route exists",
    )
    parser.add_argument(
        "--silver", action="store_true", help="boards have already booted the silver firmware"
    )
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="QUABO=FAULT[,key=value...]",
        help='QUABO is an address, "all" or "module:<id>"; may be repeated',
    )
    args = parser.parse_args(argv)
    if args.time_scale <= 0 or args.boot_time_s < 0:
        parser.error("--time_scale must be above 0 and --boot_time_s not negative")
    return Options(
        config_dir=args.config_dir,
        state_dir=args.state_dir,
        time_scale=args.time_scale,
        boot_time_s=args.boot_time_s,
        hk_period_s=args.hk_period_s,
        tftp_port=args.tftp_port,
        power_on_destination=args.power_on_destination,
        test_network=args.test_network,
        silver=args.silver,
        faults=tuple(args.fault),
    )

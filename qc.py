#!/usr/bin/env python3
"""Send commands to one quabo: for experts, at the bench or when something is odd.

Commands are carried out in the order given, and the rest is not sent when one fails.  Without
commands a prompt takes them, a line at a time.  No config file is needed.  On the head node, with
the configs of the board's site here, config.py and start.py learn what was set, and set it again.
"""

from panoseti.venv import use_venv

if __name__ == "__main__":
    use_venv(__file__)

import argparse
import ipaddress
import sys
from collections.abc import Sequence
from pathlib import Path

from panoseti import console
from panoseti.boards import qc_commands
from panoseti.boards.qc_session import Options, Session
from panoseti.boards.qc_shell import Shell
from panoseti.console import Console

EXAMPLES = f"""  qc.py 192.168.3.248 HK                    # one housekeeping packet
  qc.py 192.168.3.248 M T reset             # MAROC, masks, reset
  qc.py 192.168.3.248 AM 1 999 0 0 1        # 16-bit images of 1 ms
  qc.py 192.168.3.248 --dry-run v 0 48000   # the bytes only
  qc.py 192.168.3.248                       # prompt; ? lists the commands, q ends

commands (short name, name and parameters: what it does):
{qc_commands.help_table()}"""


def address(text: str) -> str:
    """An IPv4 address."""
    return str(ipaddress.IPv4Address(text))


def port(text: str) -> int:
    """A UDP port, 0 = any."""
    value = int(text)
    if not 0 <= value <= 65535:
        raise ValueError(text)
    return value


def seconds(text: str) -> float:
    """A time above zero, at most an hour."""
    value = float(text)
    if not 0 < value <= 3600:
        raise ValueError(text)
    return value


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with code 2 on bad usage."""
    parser = console.parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("ip", type=address, help="address of the board")
    add("command", nargs="*", help="commands with their parameters, see below")
    add("--hex", "--verbose", action="store_true", help="show the bytes sent (>), received (<)")
    add("--json", action="store_true", help="results as one JSON document")
    add("--dry-run", action="store_true", help="show the bytes, send nothing")
    add("--no_echo", action="store_true", help="the board does not echo commands")
    add(
        qc_commands.HV_IS_MEANT,
        action="store_true",
        help=f"V and v may set more than {qc_commands.MOST_HV_V:g} V, which no detector may have",
    )
    add("--timeout_s", type=seconds, help="time for each answer (default: what is usual)")
    usual = "default: as in the configs of --config_dir, else"
    add("--tftp_port", type=port, help=f"of the board ({usual} 69)")
    add("--source_port", type=port, help=f"own; firmware before v20 needs 60000 ({usual} any)")
    add("--hk_address", type=address, help="own address where HK is awaited (default: all)")
    add("--config_dir", type=Path, default=Path("."),
        help="has quabo_config.txt and, perhaps, the configs (default: here)")  # fmt: skip
    # Options may stand among the commands: qc.py IP --hex v 0 100, or qc.py IP v 0 100 --hex.
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out the command line, or what the prompt takes."""
    args = arguments(argv)
    requests = qc_commands.parse(args.command)
    out = Console(json_output=args.json)
    options = Options(
        ip=args.ip,
        config_dir=args.config_dir,
        tftp_port=args.tftp_port,
        source_port=args.source_port,
        timeout_s=args.timeout_s,
        echo=False if args.no_echo else None,
        hk_address=args.hk_address,
        hv_is_meant=args.hv_is_meant,
    )
    session = Session(options, "qc.py", out.warn)
    if not args.dry_run:
        session.flight.command(["qc.py", *(sys.argv[1:] if argv is None else argv)])
    shell = Shell(session, out, args.hex, args.dry_run)
    code = shell.run(requests) if args.command else shell.prompt()
    if args.json:
        out.result(shell.document())
    return code


if __name__ == "__main__":
    sys.exit(console.call(main, sys.argv[1:]))

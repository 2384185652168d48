"""Measure the bring-up of simulated boards: from power-on to ready, and when nothing has changed.

    python -m simulator.bench_bringup                       4, 64 and 1024 boards
    python -m simulator.bench_bringup --boards 64 --json FILE

For each number of boards: wall time of both calls of config.py, command packets and bytes for each
board, and, in the same run, how much longer a plain loop takes that sends the same commands board
after board (to so many boards as --loop says; its time for each board counts).  Boots, ramps and PH
baselines of the boards are 20 times faster than real ones, housekeeping comes every 3 s as there.
On one machine the simulated boards share the processor with config.py and the daemons.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from panoseti.boards import commands
from panoseti.boards.board_link import Send, Step, open_link
from panoseti.bringup.board_settings import BoardSettings
from panoseti.bringup.board_setup import maroc_plan
from panoseti.configs.board_files import QUABO_UIDS, read_quabo_uids
from panoseti.configs.load_configs import load_site
from panoseti.console import Console
from panoseti.flight import read_flight
from simulator.private_observatory import PrivateObservatory, private_observatory

SIZES = (4, 64, 1024)
TIME_SCALE = 20.0
HK_PERIOD_S = 3.0
PREFIX = "127.1.0"  # 127.1.0.0/22 has room for every board there can be
SMALL_BYTES = 64
CALL_TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Measured:
    """One number of boards.  Times are wall times, packets and bytes those of commands sent.

    cold_s, no_change_s: of config.py; together_s, loop_s: the same commands to all boards at
    once, and to all of them one after the other; loop_boards: how many that was measured with.
    """

    boards: int
    cold_s: float
    no_change_s: float
    packets_per_board: float
    bytes_per_board: float
    no_change_packets: int
    together_s: float
    loop_s: float
    loop_boards: int

    @property
    def ratio(self) -> float:
        """How much longer the plain loop takes."""
        return self.loop_s / self.together_s


def call(observatory: PrivateObservatory) -> tuple[float, dict[str, Any]]:
    """Run config.py --json: wall time in s and its answer; RuntimeError when it fails."""
    begin_s = time.monotonic()
    done = subprocess.run(
        observatory.command("config.py", "--json"),
        cwd=observatory.command_dir,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=CALL_TIMEOUT_S,
    )
    took_s = time.monotonic() - begin_s
    if done.returncode:
        raise RuntimeError(f"config.py: exit {done.returncode}: {done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return took_s, answer


def traffic(observatory: PrivateObservatory) -> tuple[int, int]:
    """Command packets, and their bytes, that config.py has sent so far."""
    packets = size = 0
    for line in read_flight(observatory.data_dir):
        if line.what == "send" and line.program == "config.py":
            large = re.search(r" bytes=(\d+)", line.text)
            packets += 1
            size += int(large[1]) if large else SMALL_BYTES
    return packets, size


def settings_plans(observatory: PrivateObservatory) -> dict[str, list[Step]]:
    """The commands of a bring-up for each board: HK destination, masks, MAROC with priming."""
    site = load_site(observatory.command_dir)
    wanted = BoardSettings(site)
    uids = read_quabo_uids(site.head_data_dir / QUABO_UIDS, site.obs).by_ip
    masks = {
        quabo.ip: [Send(command) for command in wanted.masks(uids[quabo.ip])]
        for quabo in site.obs.quabos
    }
    destination = Send(commands.HkDestination(wanted.head_ip()))
    return {
        quabo.ip: [destination, *masks[quabo.ip], *maroc_plan(wanted, quabo.ip, uids[quabo.ip])[1]]
        for quabo in site.obs.quabos
    }


def compare(observatory: PrivateObservatory, most: int) -> tuple[float, float, int]:
    """The same commands to all boards at once, and board after board: s, s, boards of the latter.

    The loop's time is that of `most` boards, scaled up to all.
    """
    site = load_site(observatory.command_dir)
    plans = settings_plans(observatory)
    with open_link(site) as link:
        begin_s = time.monotonic()
        outcomes = link.run(plans)
        together_s = time.monotonic() - begin_s
        some = list(plans)[:most]
        begin_s = time.monotonic()
        for ip in some:
            outcomes |= link.run({ip: plans[ip]})
        loop_s = (time.monotonic() - begin_s) * len(plans) / len(some)
    problems = [outcome.problem for outcome in outcomes.values() if outcome.problem]
    if problems:
        raise RuntimeError(f"{len(problems)} boards: {problems[0]}")
    return together_s, loop_s, len(some)


def measure(folder: Path, boards: int, loop: int) -> Measured:
    """Bring up so many boards, twice, and compare with the plain loop."""
    with private_observatory(
        folder,
        modules=tuple(range(boards // 4)),
        time_scale=TIME_SCALE,
        prefix=PREFIX,
        simulator_options=("--hk_period_s", f"{HK_PERIOD_S:g}"),
    ) as observatory:
        cold_s, answer = call(observatory)
        states = [board["state"] for board in answer["boards"]]
        if states != ["ready"] * boards:
            raise RuntimeError(f"not ready: {sorted(set(states))}")
        packets, size = traffic(observatory)
        no_change_s, answer = call(observatory)
        if answer["plan"]:
            raise RuntimeError(f"nothing had changed, but it did {answer['plan'][:3]}")
        again = traffic(observatory)[0] - packets
        together_s, loop_s, looped = compare(observatory, loop)
    return Measured(
        boards, cold_s, no_change_s, packets / boards, size / boards, again,
        together_s, loop_s, looped,
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m simulator.bench_bringup",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--boards", type=int, action="append", help="how many (4, 64, 1024)")
    parser.add_argument("--loop", type=int, default=16, help="boards of the plain loop (16)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    args = parser.parse_args(argv)
    found = []
    for boards in args.boards or SIZES:
        if boards % 4 or not 4 <= boards <= 1024:
            parser.error(f"--boards {boards}: modules have four; 4..1024")
        with tempfile.TemporaryDirectory(prefix="bench-bringup-") as folder:
            found.append(measure(Path(folder), boards, args.loop))
    Console(False, False).table(
        ("boards", "cold s", "no change s", "packets/board", "bytes/board", "packets again",
         "at once s", "loop s", "ratio", "loop of"),
        [
            (
                one.boards, round(one.cold_s, 1), round(one.no_change_s, 1),
                round(one.packets_per_board, 1), round(one.bytes_per_board),
                one.no_change_packets, round(one.together_s, 2), round(one.loop_s, 1),
                round(one.ratio, 1), one.loop_boards,
            )
            for one in found
        ],
    )  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A whole night in small on a simulated observatory of its own: `make run`.

One scratch folder holds everything: 8 simulated quabos (2 modules), a private sshd and Redis, the
configs, the data.  Then the scripts are run as an operator types them, each command line shown:
bring-up, a run of some seconds (16-bit images at 1 ms and pulse heights), status, stop, shutdown.
It ends with the run directory, a table of what was recorded, and a picture of the sky.  Nothing
is left running, whatever happened.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from panoseti import console
from panoseti.errors import EXIT_OK, ObsError
from panoseti.runs import pff, run_summary
from panoseti.runs.run_state import RUN_LINK
from simulator import leftovers
from simulator.private_observatory import PrivateObservatory, private_observatory
from simulator.private_services import SYSTEM_PATHS, ServiceError, program
from simulator.source import PROGRAM as PACKET_SOURCE

RECORD_S = 6.0
PICTURE = "picture.png"
EXAMPLES = """  make run
  python -m simulator.night --seconds 30 --folder /data/night"""
# Program, and the Debian package that brings it.
NEEDED = (
    ("sshd", "openssh-server"), ("ssh-keygen", "openssh-client"), ("redis-server", "redis-server"),
    ("rsync", "rsync"), ("pgrep", "procps"), ("ping", "iputils-ping"), ("ip", "iproute2"),
)  # fmt: skip


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exits with code 2 on bad usage."""
    parser = argparse.ArgumentParser(
        prog="python -m simulator.night",
        description=__doc__,
        epilog=f"examples:\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seconds", type=float, default=RECORD_S, help="to record (default: %(default)g)"
    )
    parser.add_argument(
        "--folder", type=Path, help="new or empty scratch folder (default: a new one in TMPDIR)"
    )
    return parser.parse_args(argv)


def check_installed() -> None:
    """Raise ServiceError in one line with everything that is missing."""
    missing = []
    for name, package in NEEDED:
        try:
            program(name, package)
        except ServiceError:
            missing.append(f"{name} (Debian package {package})")
    for path in (leftovers.REPO / "hashpipe" / "hashpipe", PACKET_SOURCE):
        if not os.access(path, os.X_OK):
            missing.append(f"{path} (make build)")
    if missing:
        raise ServiceError(
            f"missing: {', '.join(missing)}; make setup installs and builds, as root or with sudo"
            f" (looked in PATH and {SYSTEM_PATHS})"
        )


def scratch_folder(wanted: Path | None) -> Path:
    """The scratch folder, new or empty; raises ObsError."""
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="panoseti-night-"))
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        if any(wanted.iterdir()):
            raise ObsError(f"{wanted} is not empty; name a new folder")
    except OSError as error:
        raise ObsError(f"{wanted}: {error.strerror}") from error
    return wanted.resolve()


class Night:
    """The night, step by step; `say` is where words go.  ObsError when a script fails."""

    def __init__(self, observatory: PrivateObservatory, say: console.Console) -> None:
        self.observatory = observatory
        self.say = say
        self.started_unix = 0.0

    def bring_up(self) -> None:
        """From power-on to ready."""
        self.say.out(f"$ cd {shlex.quote(str(self.observatory.command_dir))}")
        self.type("config.py")

    def record(self, record_s: float) -> Path:
        """A run of so many seconds; its directory."""
        self.started_unix = time.time()
        self.type("start.py")
        recording_s = time.monotonic()
        time.sleep(record_s / 2)
        self.type("status.py")
        time.sleep(max(0.0, recording_s + record_s - time.monotonic()))
        self.type("stop.py")
        return (self.observatory.data_dir / RUN_LINK).resolve(strict=True)

    def shut_down(self) -> None:
        """High voltage off, daemons ended."""
        self.type("config.py", "--shutdown")

    def type(self, name: str, *words: str) -> None:
        """Run a script, its command line and duration shown; ObsError when it fails."""
        command = shlex.join(self.observatory.command(name, *words))
        self.say.out(f"\n$ {command}")
        sys.stdout.flush()
        begin = time.monotonic()
        code = self.observatory.script(name, *words)
        took = f"{time.monotonic() - begin:.1f} s"
        if code:
            logs = self.observatory.data_dir / "log"
            raise ObsError(f"{command}: exit code {code} after {took}; more in {logs}")
        self.say.out(f"({took})")


def first_frame_unix(run_dir: Path) -> float | None:
    """When the first recorded frame arrived, by the computer's clock; None without a frame."""
    times = []
    for path, file in run_summary.data_files(run_dir):
        with path.open("rb") as data:
            frame = pff.parse_frame(file.product, data.read(pff.PRODUCTS[file.product].frame_bytes))
        times += [b.tv_sec + b.tv_usec / 1e6 for b in frame.boards if b is not None]
    return min(times, default=None)


def report(run_dir: Path, started_unix: float, say: console.Console) -> list[str]:
    """Show what the run holds; what is wrong with it."""
    summary = run_summary.summarize(run_dir)
    say.out()
    say.table(run_summary.COLUMNS, summary.table())
    first = first_frame_unix(run_dir)
    if first is not None:
        say.out(f"\nfirst frame {first - started_unix:.1f} s after start.py was typed")
    say.out(f"run      {run_dir}")
    problems = list(summary.problems)
    if not any(row.product == "img16" and row.recorded for row in summary.rows):
        problems.append("no images were recorded")
    if not any(row.product == "ph256" and row.recorded for row in summary.rows):
        problems.append("no pulse heights were recorded")
    return problems


def draw_picture(run_dir: Path, say: console.Console) -> None:
    """Draw the summed images."""
    from tools import picture  # matplotlib: a second of loading, wanted here alone

    output = run_dir / PICTURE
    try:
        picture.draw(run_dir, output)
    except ValueError as error:
        raise ObsError(str(error)) from error
    say.out(f"picture  {output}")


def main(argv: Sequence[str] | None = None) -> int:
    """Record a night."""
    args = parse_args(argv)
    say = console.Console()
    check_installed()
    folder = scratch_folder(args.folder)
    leftovers.refuse_beside_others(folder)
    begin = time.monotonic()
    say.out(f"simulated observatory: 2 modules, 8 quabos; everything is in {folder}")
    with private_observatory(folder) as observatory:
        night = Night(observatory, say)
        night.bring_up()
        run_dir = night.record(args.seconds)
        night.shut_down()
    problems = report(run_dir, night.started_unix, say)
    draw_picture(run_dir, say)
    say.out(f"\n{time.monotonic() - begin:.1f} s in all; nothing is left running")
    say.out(f"to remove it: rm -r {shlex.quote(str(folder))}")
    if problems:
        raise ObsError("; ".join(problems))
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(console.call(main, sys.argv[1:]))

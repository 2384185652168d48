"""Measure the pipeline, beside the limits of this machine measured in the same run.

    make bench                              everything, about half an hour
    python -m tools.bench --quick           a minute
    python -m tools.bench --json FILE       all figures, for comparisons
    python -m tools.bench --collection      only the rate of a collection, beside rsync and copying

As root: a sender in one network namespace, the pipeline in another, a veth pair between them, with
both ways of capturing.  Without root: over loopback, by UDP socket alone, and the table says so.
Every recording is checked frame by frame and pixel by pixel.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from panoseti.errors import ObsError
from tools.bench import collection, measure, place, programs, table
from tools.bench.measure import FLAT_OUT, Case

FULL = [
    ("img16", 1), ("img16", 4), ("img16", 16), ("img8", 4), ("ph256", 4), ("ph1024", 4),
]  # fmt: skip
QUICK = [("img16", 4), ("ph256", 4)]
RATES = [100_000, 200_000, FLAT_OUT]
STALLS_AT_MOST = 5  # in a row
T = TypeVar("T")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="few cases, once, short")
    parser.add_argument("--collection", action="store_true", help="of collecting, not of recording")
    parser.add_argument("--repeats", type=int, help="measure each case N times (3; quick: 1)")
    parser.add_argument("--seconds", type=float, help="length of a recording (4; quick: 1.5)")
    parser.add_argument("--only", metavar="TEXT", default="", help="cases whose name has TEXT")
    parser.add_argument("--loopback", action="store_true", help="over loopback, even as root")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()),
                        help="where recordings go (%(default)s)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser.parse_args()


def name(case: Case) -> str:
    """A case as it is called in progress lines and for --only."""
    rate = f"{case.rate // 1000}k" if case.rate else "flat out"
    return f"{case.capture} {case.product} x{case.modules} {rate}"


class Bench:
    """Goes through all measurements and keeps what they found."""

    def __init__(self, options: argparse.Namespace, where: place.Place) -> None:
        self.options = options
        self.where = where
        self.repeats = options.repeats or (1 if options.quick else 3)
        self.seconds = options.seconds or (1.5 if options.quick else 4.0)
        self.results = table.Results(where.label)

    def tell(self, text: str) -> None:
        """A line of progress."""
        print(text, file=sys.stderr, flush=True)

    def cases(self) -> list[Case]:
        """All that is to be recorded, once per round."""
        shapes = QUICK if self.options.quick else FULL
        cases = [
            Case(product, modules, rate, capture)
            for capture in self.where.captures
            for product, modules in shapes
            for rate in RATES
        ]
        return [case for case in cases if self.options.only in name(case)]

    def run(self) -> None:
        """Everything, in rounds: a busy spell of the machine does not hit one case alone."""
        for repeat in range(self.repeats):
            self.tell(f"round {repeat + 1} of {self.repeats}")
            self.limits()
            for case in self.cases():
                load = self.patiently(case, measure.load, self.seconds)
                self.results.loads.setdefault(case, []).append(load)
                self.tell(f"  {name(case)}: {table.short(load)}")
            for capture in self.where.captures:
                self.single(capture)

    def patiently(
        self, case: Case, record: Callable[[place.Place, Case, float, Path], T], seconds: float
    ) -> T:
        """What one recording tells; another one is made when the machine stood still."""
        for _ in range(STALLS_AT_MOST):
            try:
                return record(self.where, case, seconds, self.options.dir)
            except programs.StalledError as error:
                self.tell(f"  {name(case)}: {error}; once more")
        return record(self.where, case, seconds, self.options.dir)

    def limits(self) -> None:
        """The bare limits of the machine."""
        parent, results = self.options.dir, self.results
        megabytes = 300 if self.options.quick else 2000
        for capture in self.where.captures:
            for rate in RATES:
                case = Case("img16", 4, rate, capture)
                cpu, per_s = measure.bare_receive(self.where, case, self.seconds / 2, parent)
                results.note(f"bare {capture}", rate, cpu)
                if rate == FLAT_OUT:
                    results.note(f"bare {capture} packets/s", 0, per_s)
        for kind in ("write", "disk"):
            per_s, cpu = measure.bare_write(kind, megabytes, parent)
            results.note(f"{kind} MB/s", 0, per_s)
            results.note(f"{kind} CPU s/GB", 0, cpu)

    def single(self, capture: str) -> None:
        """What is measured at one rate, or at none."""
        where, parent, results = self.where, self.options.dir, self.results
        results.note(f"first packet s {capture}", 0, measure.first_packet_s(where, capture, parent))
        idle_s = 2 if self.options.quick else 5
        results.note(f"idle % {capture}", 0, measure.idle_percent(where, capture, idle_s, parent))
        for number in (signal.SIGINT, signal.SIGTERM):
            waiting = measure.stop_with_backlog(where, capture, number, parent)
            results.note(f"stop with backlog {capture}", 0, waiting)
        for product in ("img16", "ph256"):
            for rate in (1_000, 100_000, 200_000):
                case = Case(product, 4, rate, capture)
                found = self.patiently(case, measure.latency, self.seconds / 2)
                results.latencies.setdefault(case, []).append(found)
        self.tell(f"  {capture}: start, idle, stop, latency measured")


def write_json(path: Path, results: table.Results) -> None:
    """All single figures."""
    path.write_text(
        json.dumps(
            {
                "place": results.label,
                "loads": [
                    asdict(case) | {"runs": [asdict(load) for load in loads]}
                    for case, loads in results.loads.items()
                ],
                "latencies": [
                    asdict(case) | {"runs": found} for case, found in results.latencies.items()
                ],
                "single": [
                    {"what": what, "rate": rate, "values": values}
                    for (what, rate), values in results.notes.items()
                ],
            },
            indent=1,
        )
    )


def _end(number: int, frame: object) -> None:
    """SIGTERM: what was begun is ended in order."""
    sys.exit(128 + number)


def measure_collection(options: argparse.Namespace) -> int:
    """The rate of a collection; 1 if one went wrong."""
    megabytes, files = (200, 8) if options.quick else (4000, 16)
    rounds = options.repeats or (1 if options.quick else 3)
    try:
        rates = collection.measure(
            options.dir, megabytes, rounds, files, lambda said: print(said, file=sys.stderr)
        )
    except (programs.BenchError, ObsError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(collection.text(rates))
    if options.json:
        options.json.write_text(json.dumps(asdict(rates), indent=1))
    return 0


def main() -> int:
    """Measure, print; 1 if a recording was wrong or a measurement impossible."""
    options = arguments()
    signal.signal(signal.SIGTERM, _end)
    if options.collection:
        return measure_collection(options)
    programs.build()
    is_root = os.geteuid() == 0 and not options.loopback
    with place.two_hosts() if is_root else place.loopback() as where:
        bench = Bench(options, where)
        try:
            bench.run()
        except programs.BenchError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        finally:
            if bench.results.loads:
                print(table.text(bench.results))
                if options.json:
                    write_json(options.json, bench.results)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

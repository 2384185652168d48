"""Record flat out for a long time; every file is checked and removed as soon as it is closed.

    make soak                                   half an hour
    python -m tools.bench.soak --minutes 2
    python -m tools.bench.soak --one_in 10      where the disk fills faster than files are checked

Frame by frame and pixel by pixel, as `make bench` does, and from file to file: no frame may be
missing between the last of one and the first of the next.  With --one_in 10 only one file in ten is
checked as a whole; of the others the size and the first and the last frame.  As root over a veth
pair, else over loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tools.bench import place, programs
from tools.bench.measure import FLAT_OUT, Case, folder
from tools.bench.programs import (
    PRODUCTS,
    PROGRAMS,
    BenchError,
    Pipeline,
    Sender,
    recording,
    sending,
)

_LOOK_S = 0.25
_TELL_S = 10.0
_LEAST_FREE_BYTES = 6 * 10**9
_LATE_S = 0.25  # so long the pipeline waits for the other boards of a frame
_NICE = ("nice", "-n", "10")  # checking is not to hold up what is checked


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--minutes", type=float, default=30.0, help="how long (%(default)s)")
    add("--product", choices=PRODUCTS, default="img16", help="what is recorded (%(default)s)")
    add("--modules", type=int, default=4, help="of how many modules (%(default)s)")
    add("--rate", type=int, default=FLAT_OUT, help="packets/s (flat out)")
    add("--capture", choices=("packet", "udp"), help="packet as root, else udp")
    add("--max_file_size_mb", type=int, default=500, help="size of a file (%(default)s)")
    add("--one_in", type=int, default=1, metavar="N", help="check one file in N as a whole")
    add("--loopback", action="store_true", help="over loopback, even as root")
    add("--dir", type=Path, default=Path(tempfile.gettempdir()),
        help="where recordings go (%(default)s)")  # fmt: skip
    return parser.parse_args()


class Checker(threading.Thread):
    """Checks the files of one module in their order, and removes each that is right."""

    def __init__(self, words: list[str]) -> None:
        super().__init__(daemon=True)
        self._process = subprocess.Popen(
            [*place.MORTAL, *_NICE, *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._queue: SimpleQueue[Path | None] = SimpleQueue()
        self.counts: dict[str, int] = {}
        self.given, self.files = 0, 0  # files handed over, and done with
        self.fault = ""

    def give(self, path: Path) -> None:
        """A file that is closed."""
        self.given += 1
        self._queue.put(path)

    def run(self) -> None:
        """Until there are no more files, or one is wrong."""
        names, answers = self._process.stdin, self._process.stdout
        while names and answers and (path := self._queue.get()) is not None:
            try:
                names.write(f"{path}\n")
                names.flush()
                self.counts = json.loads(answers.readline())
            except (OSError, ValueError):
                self.fault = f"{path}: the checker has ended"
                return
            if self.counts["wrong"]:
                self.fault = f"{path} is wrong, and kept"
                return
            path.unlink()
            self.files += 1

    def finish(self) -> dict[str, int]:
        """All that was given is checked; the counts of this module."""
        self._queue.put(None)
        self.join()
        _, said = self._process.communicate()
        if self.fault or self._process.returncode:
            raise BenchError(f"the recording is wrong: {self.fault}: {said.strip()}")
        return self.counts

    def kill(self) -> None:
        """Leave nothing behind, whatever happened."""
        self._queue.put(None)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


class Follower:
    """Hands closed files to the checkers of their modules and knows how much was recorded."""

    def __init__(self, pipeline: Pipeline, product: str, checkers: dict[int, Checker]) -> None:
        self._pipeline = pipeline
        self._product = PRODUCTS[product]
        self._checkers = checkers
        self._given: dict[int, set[Path]] = {module: set() for module in checkers}
        self.closed_bytes = 0
        self.open_bytes = 0

    @property
    def packets(self) -> int:
        """In the files so far; a frame that lacks a board counts as a whole one."""
        frames = (self.closed_bytes + self.open_bytes) // self._product.frame_bytes
        return frames * self._product.boards

    @property
    def waiting(self) -> int:
        """Closed files that are not checked yet."""
        return sum(checker.given - checker.files for checker in self._checkers.values())

    def look(self, last: bool = False) -> None:
        """The newest file of a module is still written to, until the pipeline has ended."""
        self.open_bytes = 0
        for module, files in self._pipeline.files(self._product.name).items():
            checker, given = self._checkers[module], self._given[module]
            for path in files if last else files[:-1]:
                if path not in given:
                    given.add(path)
                    self.closed_bytes += path.stat().st_size
                    checker.give(path)
            if not last and files:
                self.open_bytes += files[-1].stat().st_size
            if checker.fault:
                checker.finish()


@dataclass
class Course:
    """What was seen while it ran."""

    lags: list[float] = field(default_factory=list)  # packets sent but not in files
    memory: list[int] = field(default_factory=list)  # bytes, of the pipeline
    drops: int = 0


@contextmanager
def checkers(case: Case, one_in: int) -> Iterator[dict[int, Checker]]:
    """One for each module (ids count from 1)."""
    found = {
        module + 1: Checker(
            [str(PROGRAMS / "check"), case.product, str(module), str(case.period_ns),
             str(one_in), "-"]
        )
        for module in range(case.modules)
    }  # fmt: skip
    try:
        for checker in found.values():
            checker.start()
        yield found
    finally:
        for checker in found.values():
            checker.kill()


def watch(
    pipeline: Pipeline, sender: Sender, follower: Follower, seconds: float, path: Path
) -> Course:
    """Follow the recording for so long."""
    course, begun, told, told_sent = Course(), time.monotonic(), 0.0, sender.sent
    while (now := time.monotonic() - begun) < seconds:
        time.sleep(_LOOK_S)
        sent = sender.sent
        follower.look()
        if pipeline.process.poll() is not None:
            raise BenchError("the pipeline has ended by itself")
        if shutil.disk_usage(path).free < _LEAST_FREE_BYTES:
            raise BenchError(
                f"{path}: the disk is nearly full, with {follower.waiting} closed files not yet "
                "checked; try --one_in 10, or another --dir"
            )
        course.drops = pipeline.status()["totals"]["kernel_drops"]
        course.lags.append(float(max(0, sent - follower.packets - course.drops)))
        course.memory.append(pipeline.now_bytes())
        if now - told >= _TELL_S:
            rate = (sent - told_sent) / (now - told)
            print(
                f"  {now / 60:5.1f} min  {rate / 1e3:4.0f} kpps  {sent / 1e6:7.1f} M packets  "
                f"{follower.waiting} files wait to be checked  lag {course.lags[-1]:.0f} packets  "
                f"{course.drops} dropped  {course.memory[-1] / 1e6:.0f} MB",
                file=sys.stderr, flush=True,
            )  # fmt: skip
            told, told_sent = now, sent
    return course


def check_files(status: dict[str, Any], found: dict[str, int], product: str) -> None:
    """The pipeline's own account of its files agrees with what the checkers have seen."""
    entries = [entry for entry in status["products"] if entry["product"] == product]
    for key in ("frames", "files", "bytes") + (() if found["skimmed"] else ("partial",)):
        told = sum(entry[key] for entry in entries)
        if told != found[key]:
            raise BenchError(f"{key}: the pipeline says {told}, in the files were {found[key]}")


def settle(status: dict[str, Any], found: dict[str, int], sent: int) -> None:
    """Every packet that was sent is in a file, or was dropped by the kernel, or came too late.

    A packet is late when its frame has waited for it a quarter of a second; here only because the
    sender was held up in the middle of a frame, which a gap of that length in what came shows.
    """
    totals = status["totals"]
    others = ("rejected", "duplicate", "unwritten", "in_flight")
    if (
        any(totals[key] for key in others)
        or totals["recorded"] + totals["late"] != totals["received"]
        or not (found["skimmed"] or found["packets"] == totals["recorded"])
        or totals["received"] + totals["kernel_drops"] != sent
    ):
        raise BenchError(f"packets are missing: {totals}, sent {sent}, in the files {found}")
    if totals["late"] and longest_gap_s(status) < _LATE_S:
        raise BenchError(
            f"{totals['late']} packets were late, but the longest gap was only "
            f"{longest_gap_s(status):.3f} s"
        )


def longest_gap_s(status: dict[str, Any]) -> float:
    """Between two packets of one board."""
    return max(float(stream["longest_gap_s"]) for stream in status["quabos"])


@dataclass
class Soak:
    """What came out."""

    seconds: float
    course: Course
    told: dict[str, Any]  # by the sender
    status: dict[str, Any]
    cpu: dict[str, float]
    found: dict[str, int]  # by the checkers, all modules


def soak(where: place.Place, case: Case, options: argparse.Namespace) -> Soak:
    """Record, follow, end, and settle all accounts."""
    product = PRODUCTS[case.product]
    with ExitStack() as stack:
        path = stack.enter_context(folder(options.dir))
        pipeline = stack.enter_context(
            recording(where, path, product, case.modules, case.capture,
                      MAXFILESIZE=options.max_file_size_mb)
        )  # fmt: skip
        pipeline.wait_until_it_records()
        all_checkers = stack.enter_context(checkers(case, options.one_in))
        follower = Follower(pipeline, case.product, all_checkers)
        with sending(where, path, product, case.modules, case.rate, case.period_ns) as sender:
            begun, before = time.monotonic(), pipeline.cpu_s()
            course = watch(pipeline, sender, follower, options.minutes * 60, path)
            after, seconds = pipeline.cpu_s(), time.monotonic() - begun
            told = sender.end()
        status = pipeline.end()
        follower.look(last=True)
        counts = [checker.finish() for checker in all_checkers.values()]
        found = {key: sum(count[key] for count in counts) for key in counts[0]}
        found["bytes"] = follower.closed_bytes
        found["files"] = sum(checker.files for checker in all_checkers.values())
    check_files(status, found, case.product)
    settle(status, found, told["sent"])
    return Soak(
        seconds, course, told, status, {key: after[key] - before[key] for key in after}, found
    )


def text(label: str, case: Case, options: argparse.Namespace, done: Soak) -> str:
    """The figures."""
    totals, found, course = done.status["totals"], done.found, done.course
    rate = done.told["sent"] / done.told["seconds"]
    third = max(1, len(course.lags) // 3)
    lags = [sum(part) / third / rate * 1e3 for part in (course.lags[:third], course.lags[-third:])]
    threads = ", ".join(
        f"{key} {value / totals['received'] * 1e6:.2f}" for key, value in done.cpu.items()
    )
    how = "every frame and pixel of every file"
    if found["skimmed"]:
        how = (
            f"every frame and pixel of one file in {options.one_in}; of the others the size and "
            "the first and last frame"
        )
    rows = {
        "place": label,
        "recorded": f"{case.product} of {case.modules} modules by {done.status['capture']}, "
        f"{done.seconds / 60:.1f} min, files of {options.max_file_size_mb} MB",
        "packets": f"{done.told['sent']} sent ({rate / 1e3:.0f} kpps), {totals['received']} "
        f"received, {totals['recorded']} recorded, {totals['late']} late, "
        f"{totals['kernel_drops']} dropped by the kernel",
        "frames": f"{found['frames']} in {found['files']} files, {found['bytes'] / 1e9:.1f} GB",
        "checked": how,
        "missing": f"{found['missing']} packets within and between files"
        + (f", {found['missing_frames']} frames in files not read" if found["skimmed"] else ""),
        "CPU": f"{sum(done.cpu.values()) / totals['received'] * 1e6:.2f} s per million packets "
        f"({threads})",
        "lag": f"{lags[0]:.0f} ms in the first third, {lags[1]:.0f} ms in the last, "
        f"at most {max(course.lags) / rate * 1e3:.0f} ms; longest gap in what came "
        f"{longest_gap_s(done.status) * 1e3:.0f} ms",
        "memory": f"{course.memory[len(course.memory) // 10] / 1e6:.0f} MB after a tenth, "
        f"{course.memory[-1] / 1e6:.0f} MB at the end",
    }
    return "\n".join(f"{key:9} {value}" for key, value in rows.items())


def main() -> int:
    """Soak, print; 1 if anything was wrong."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    programs.build()
    is_root = os.geteuid() == 0 and not options.loopback
    with place.two_hosts() if is_root else place.loopback() as where:
        capture = options.capture or where.captures[0]
        if capture not in where.captures:
            print(f"soak: --capture {capture} needs root and no --loopback", file=sys.stderr)
            return 2
        case = Case(options.product, options.modules, options.rate, capture)
        try:
            done = soak(where, case, options)
        except BenchError as error:
            print(f"soak: {error}", file=sys.stderr)
            return 1
        print(text(where.label, case, options, done))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

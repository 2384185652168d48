"""Single measurements: each starts what it needs, checks what was recorded, and cleans up."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.bench.place import Place
from tools.bench.programs import (
    PRODUCTS,
    PROGRAMS,
    RECEIVE_MB,
    BenchError,
    Pipeline,
    Sender,
    StalledError,
    check,
    kept,
    recording,
    sending,
    started,
)

FLAT_OUT = 0
FLAT_OUT_PERIOD_NS = 20_000  # the boards' shortest image
_WARM_S = 0.3
_SAMPLE_S = 0.05
_FRAME_TIMEOUT_S = 0.25  # of the pipeline: a frame in the making waits no longer


@dataclass(frozen=True)
class Case:
    """What is recorded how; rate in packets/s."""

    product: str
    modules: int
    rate: int
    capture: str

    @property
    def period_ns(self) -> int:
        """Board time from frame to frame."""
        if self.rate == FLAT_OUT:
            return FLAT_OUT_PERIOD_NS
        return self.modules * 4 * 10**9 // self.rate


@dataclass(frozen=True)
class Load:
    """The pipeline under load.  CPU seconds are per million packets received."""

    sent: int
    sent_per_s: float
    drops: int
    recorded: int
    cpu: dict[str, float]
    lag_first_ms: float  # packets sent but not in files, as time: first third of the run
    lag_last_ms: float  # and last third
    backlog: int  # such packets when the sender and the pipeline were ended
    peak_bytes: int

    @property
    def cpu_all(self) -> float:
        """Of all threads."""
        return sum(self.cpu.values())

    @property
    def cpu_after_net(self) -> float:
        """Without receiving."""
        return self.cpu["compute"] + self.cpu["output"]


@contextmanager
def folder(parent: Path) -> Iterator[Path]:
    """A folder for one recording, gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="panoseti-bench-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _settle(status: dict[str, Any], checked: dict[str, int], sent: int) -> tuple[int, int]:
    """Drops and recorded packets, once the accounts are seen to agree with files and sender."""
    totals = status["totals"]
    longest_gap_s = max(quabo["longest_gap_s"] for quabo in status["quabos"])
    if totals["late"] and longest_gap_s >= _FRAME_TIMEOUT_S:
        raise StalledError(f"packets stood still for {longest_gap_s:.2f} s")
    drops: int = totals["kernel_drops"]
    recorded: int = totals["recorded"]
    if totals["in_flight"] or recorded != totals["received"] or recorded != checked["packets"]:
        raise BenchError(f"packets are missing: {totals}, in the files {checked}")
    if recorded + drops != sent:
        raise BenchError(f"of {sent} packets {recorded} were recorded and {drops} dropped")
    return drops, recorded


class _OnDisk:
    """How many packets are in the files right now."""

    def __init__(self, pipeline: Pipeline, case: Case) -> None:
        product = PRODUCTS[case.product]
        self._files = [path for paths in pipeline.files(case.product).values() for path in paths]
        self._packets_per_byte = product.boards / product.frame_bytes

    def __call__(self) -> int:
        return round(sum(os.stat(path).st_size for path in self._files) * self._packets_per_byte)


def _lags(
    sender: Sender, on_disk: _OnDisk, seconds: float
) -> tuple[list[float], int, tuple[float, float]]:
    """Packets between network and file every _SAMPLE_S; packets sent; begin and end."""
    lags, first, begun = [], sender.sent, time.monotonic()
    while time.monotonic() - begun < seconds:
        time.sleep(_SAMPLE_S)
        lags.append(float(sender.sent - on_disk()))
    return lags, sender.sent - first, (begun, time.monotonic())


def load(place: Place, case: Case, seconds: float, parent: Path) -> Load:
    """Record for some seconds, end sender and pipeline at once, check everything."""
    product = PRODUCTS[case.product]
    with (
        folder(parent) as path,
        recording(place, path, product, case.modules, case.capture) as pipeline,
    ):
        pipeline.wait_until_it_records()
        on_disk = _OnDisk(pipeline, case)
        with sending(place, path, product, case.modules, case.rate, case.period_ns) as sender:
            time.sleep(_WARM_S)
            before = pipeline.cpu_s()
            lags, n, (begun, ended) = _lags(sender, on_disk, seconds)
            after = pipeline.cpu_s()
            peak = pipeline.peak_bytes()
            sent = sender.end()["sent"]
        backlog = sent - on_disk()
        status = pipeline.end()
        checked = check(pipeline, product, case.modules, case.period_ns)
        drops, recorded = _settle(status, checked, sent)
    rate = n / (ended - begun)
    millions = n * recorded / sent * 1e-6
    third = max(1, len(lags) // 3)
    return Load(
        sent=sent,
        sent_per_s=rate,
        drops=drops,
        recorded=recorded,
        cpu={key: (after[key] - before[key]) / millions for key in after},
        lag_first_ms=sum(lags[:third]) / third / rate * 1e3,
        lag_last_ms=sum(lags[-third:]) / third / rate * 1e3,
        backlog=backlog,
        peak_bytes=peak + (2 * RECEIVE_MB << 20 if case.capture == "udp" else 0),
    )


def latency(place: Place, case: Case, seconds: float, parent: Path) -> dict[str, float]:
    """Milliseconds from the kernel's time stamp of a packet to its frame in the file."""
    product = PRODUCTS[case.product]
    with (
        folder(parent) as path,
        recording(place, path, product, case.modules, case.capture) as pipeline,
    ):
        pipeline.wait_until_it_records()
        files = [str(f) for paths in pipeline.files(case.product).values() for f in paths]
        words = [str(PROGRAMS / "watch"), str(product.frame_bytes), str(product.boards), *files]
        with started(words) as watch:
            with sending(place, path, product, case.modules, case.rate, case.period_ns) as sender:
                time.sleep(seconds)
                sent = sender.end()["sent"]
            time.sleep(0.5)  # what waits for nothing but time is in the files by then
            watch.send_signal(signal.SIGTERM)
            found = kept(watch)
        status = pipeline.end()
        _settle(status, check(pipeline, product, case.modules, case.period_ns), sent)
    return {key: float(value) for key, value in found.items()}


def first_packet_s(place: Place, capture: str, parent: Path) -> float:
    """From exec of the pipeline to bytes in a file, with packets coming already."""
    case = Case("img16", 4, 100_000, capture)
    product = PRODUCTS[case.product]
    with (
        folder(parent) as path,
        sending(place, path, product, case.modules, case.rate, case.period_ns) as sender,
    ):
        begun = time.monotonic()
        with recording(place, path, product, case.modules, capture) as pipeline:
            while not any(
                os.stat(f).st_size for files in pipeline.files("img16").values() for f in files
            ):
                if pipeline.process.poll() is not None or time.monotonic() - begun > 20:
                    raise BenchError("the pipeline records nothing")
                time.sleep(0.001)
            took = time.monotonic() - begun
            pipeline.end()
        sender.end()
    return took


def idle_percent(place: Place, capture: str, seconds: float, parent: Path) -> float:
    """Per cent of one CPU that the pipeline takes when nothing comes."""
    with (
        folder(parent) as path,
        recording(place, path, PRODUCTS["img16"], 4, capture) as pipeline,
    ):
        pipeline.wait_until_it_records()
        time.sleep(0.5)
        before, begun = sum(pipeline.cpu_s().values()), time.monotonic()
        time.sleep(seconds)
        used, took = sum(pipeline.cpu_s().values()) - before, time.monotonic() - begun
        pipeline.end()
    return 100 * used / took


def stop_with_backlog(place: Place, capture: str, number: int, parent: Path) -> int:
    """Signal the pipeline while it stands still and packets pile up; the number of them.

    When it goes on, what was received before the signal must get into the files.
    """
    case = Case("img16", 4, 100_000, capture)
    product = PRODUCTS[case.product]
    with (
        folder(parent) as path,
        recording(place, path, product, case.modules, capture) as pipeline,
    ):
        pipeline.wait_until_it_records()
        on_disk = _OnDisk(pipeline, case)
        with sending(place, path, product, case.modules, case.rate, case.period_ns) as sender:
            time.sleep(0.5)
            os.kill(pipeline.process.pid, signal.SIGSTOP)
            time.sleep(0.1)
            received, waiting = sender.sent, sender.sent - on_disk()
            os.kill(pipeline.process.pid, number)
            os.kill(pipeline.process.pid, signal.SIGCONT)
            pipeline.process.wait(timeout=60)
            sender.end()  # it was still sending while the pipeline ended
        totals = pipeline.status()["totals"]
        checked = check(pipeline, product, case.modules, case.period_ns)
        check_backlog(received, totals, checked)
    return waiting


def check_backlog(received: int, totals: Mapping[str, int], checked: Mapping[str, int]) -> None:
    """Nothing received before the signal is lost; BenchError.

    received: packets sent when the signal came.  Packets that came after it are recorded too, so
    that their number says little; a hole before a recorded packet can only be a kernel's drop.
    """
    if totals["recorded"] != checked["packets"] or totals["in_flight"]:
        raise BenchError(f"packets are missing: {totals}, in the files {checked}")
    recorded, missing, drops = checked["packets"], checked["missing"], totals["kernel_drops"]
    if recorded + drops < received:
        raise BenchError(
            f"{received} packets were received before the signal, but {recorded} recorded and "
            f"{drops} dropped"
        )
    if missing > drops:
        raise BenchError(f"{missing} packets are missing before others, only {drops} were dropped")


def bare_receive(place: Place, case: Case, seconds: float, parent: Path) -> tuple[float, float]:
    """CPU seconds per million packets of receiving and doing nothing; packets/s sent."""
    product = PRODUCTS[case.product]
    what = ["ring", place.interface] if case.capture == "packet" else ["recv", place.head]
    with (
        folder(parent) as path,
        started([*place.receive, str(PROGRAMS / "limits"), *what, str(place.port)]) as drain,
    ):
        if not drain.stdout or drain.stdout.readline() != "ready\n":
            raise BenchError(f"limits: {drain.communicate()[1].strip()}")
        with sending(place, path, product, case.modules, case.rate, case.period_ns) as sender:
            time.sleep(seconds)
            told = sender.end()
        time.sleep(0.1)
        drain.send_signal(signal.SIGTERM)
        found = kept(drain)
    return found["cpu_s"] / found["packets"] * 1e6, told["sent"] / told["seconds"]


def bare_write(kind: str, megabytes: int, parent: Path) -> tuple[float, float]:
    """Megabytes per second, CPU seconds per 1000 megabytes; kind: write (page cache) or disk."""
    with folder(parent) as path:
        words = [str(PROGRAMS / "limits"), kind, str(path / "file"), str(megabytes)]
        with started(words) as process:
            found = kept(process)
    return megabytes / found["seconds"], found["cpu_s"] / megabytes * 1000

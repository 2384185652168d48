"""What was measured, as text: figures beside the goals and the limits of the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from tools.bench.measure import Case, Load

CPU_GOAL = {"packet": 0.8, "udp": 2.0}
AFTER_NET_GOAL = {"img16": 0.45, "img8": 0.45, "ph256": 0.6, "ph1024": 0.6}
MEMORY_GOAL_MB = 400
FIRST_PACKET_GOAL_S = 0.2
IDLE_GOAL_PERCENT = 0.5
LATENCY_GOAL_MS = 50.0
_LAG_GROWS_MS = 20.0  # what scheduling on a busy machine may add


@dataclass
class Results:
    """All that was measured, run by run."""

    label: str
    loads: dict[Case, list[Load]] = field(default_factory=dict)
    latencies: dict[Case, list[dict[str, float]]] = field(default_factory=dict)
    notes: dict[tuple[str, int], list[float]] = field(default_factory=dict)

    def note(self, what: str, rate: int, value: float) -> None:
        """Keep a figure that is no recording's; rate 0 where it has none."""
        self.notes.setdefault((what, rate), []).append(value)

    def middle(self, what: str, rate: int = 0) -> float:
        """Median of such figures."""
        return median(self.notes[(what, rate)])


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, and least to most when there are several."""
    text = f"{median(values):.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f}-{max(values):.{digits}f})"
    return text


def short(load: Load) -> str:
    """One recording in a line."""
    text = (
        f"{load.sent_per_s / 1e3:.0f} kpps, CPU {load.cpu_all:.2f} "
        f"(compute+output {load.cpu_after_net:.2f}), "
        f"lag {load.lag_first_ms:.0f} -> {load.lag_last_ms:.0f} ms, {load.peak_bytes / 1e6:.0f} MB"
    )
    return text + (f", {load.drops} DROPPED by the kernel" if load.drops else "")


def _columns(rows: Iterable[Sequence[str]]) -> list[str]:
    rows = list(rows)
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return [line.rstrip() for line in [lines[0], "-" * len(lines[0]), *lines[1:]]]


def _machine() -> str:
    model = platform.machine()
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return (
        f"{model}, {os.cpu_count()} CPUs, Linux {platform.release()}, load {os.getloadavg()[0]:.1f}"
    )


def _mark(value: float, goal: float) -> str:
    return f"<= {goal:g} " + ("yes" if value <= goal else "NO")


def _load_rows(results: Results) -> list[list[str]]:
    rows = [
        ["capture", "product", "rate", "sent kpps", "dropped", "CPU s/Mpkt all", "goal",
         "x bare", "compute+output", "goal", "lag ms", "MB"]
    ]  # fmt: skip
    for case, loads in results.loads.items():
        cpu = median(load.cpu_all for load in loads)
        after = median(load.cpu_after_net for load in loads)
        bare = results.middle(f"bare {case.capture}", case.rate)
        first = median(load.lag_first_ms for load in loads)
        last = median(load.lag_last_ms for load in loads)
        drops, sent = sum(load.drops for load in loads), sum(load.sent for load in loads)
        rows.append(
            [
                case.capture,
                f"{case.product} x{case.modules}",
                f"{case.rate // 1000}k" if case.rate else "flat out",
                spread([load.sent_per_s / 1e3 for load in loads], 0),
                f"{100 * drops / sent:.2g} %" if drops else "0",
                spread([load.cpu_all for load in loads]),
                _mark(cpu, CPU_GOAL[case.capture]),
                f"{cpu / bare:.1f}",
                spread([load.cpu_after_net for load in loads]),
                _mark(after, AFTER_NET_GOAL[case.product]),
                f"{first:.0f} -> {last:.0f}" + (" GROWS" if last > first + _LAG_GROWS_MS else ""),
                f"{max(load.peak_bytes for load in loads) / 1e6:.0f}",
            ]
        )
    return rows


def _limit_rows(results: Results) -> list[list[str]]:
    rows = [["limit of this machine", "100k", "200k", "flat out"]]
    for capture, what in (
        ("packet", "TPACKET_V3 ring, drained with nothing done: CPU s/Mpkt"),
        ("udp", "recvmmsg, blocking, nothing done: CPU s/Mpkt"),
    ):
        rates = [rate for key, rate in results.notes if key == f"bare {capture}"]
        if rates:
            values = [results.notes[(f"bare {capture}", rate)] for rate in rates]
            rows.append([what, *(spread(value, 3) for value in values)])
            rows.append(
                [f"  sender beside it: packets/s ({capture})", "", "",
                 spread(results.notes[(f"bare {capture} packets/s", 0)], 0)]
            )  # fmt: skip
    for kind, what in (("write", "page cache"), ("disk", "disk, until it is there")):
        rows.append(
            [f"writing to the {what}: MB/s, CPU s/GB", "", "",
             f"{spread(results.notes[(f'{kind} MB/s', 0)], 0)}, "
             f"{spread(results.notes[(f'{kind} CPU s/GB', 0)])}"]
        )  # fmt: skip
    return rows


def _latency_rows(results: Results) -> list[list[str]]:
    rows = [["packet received -> in the file", "median ms", "99 % ms", "worst ms", "goal"]]
    for case, found in results.latencies.items():
        worst = max(run["p99_ms"] for run in found)
        rows.append(
            [f"{case.capture} {case.product} x{case.modules} {case.rate // 1000}k"]
            + [spread([run[key] for run in found], 1) for key in ("median_ms", "p99_ms")]
            + [f"{max(run['worst_ms'] for run in found):.1f}", _mark(worst, LATENCY_GOAL_MS)]
        )
    return rows


def _single_rows(results: Results) -> list[list[str]]:
    rows = [["", "measured", "goal"]]
    peak = max(load.peak_bytes for loads in results.loads.values() for load in loads)
    for capture in ("packet", "udp"):
        first = results.notes.get((f"first packet s {capture}", 0))
        idle = results.notes.get((f"idle % {capture}", 0))
        stops = results.notes.get((f"stop with backlog {capture}", 0))
        if not (first and idle and stops):
            continue
        rows.append(
            [f"exec -> first packet in a file, s ({capture})", spread(first),
             _mark(median(first), FIRST_PACKET_GOAL_S)]
        )  # fmt: skip
        rows.append(
            [f"CPU when idle, % of one ({capture})", spread(idle, 3),
             _mark(median(idle), IDLE_GOAL_PERCENT)]
        )  # fmt: skip
        rows.append(
            [f"SIGINT, SIGTERM with packets waiting ({capture})",
             f"nothing lost, {spread(stops, 0)} waiting", "nothing lost: yes"]
        )  # fmt: skip
    rows.append(
        ["peak memory, everything, MB", f"{peak / 1e6:.0f}", _mark(peak / 1e6, MEMORY_GOAL_MB)]
    )
    return rows


def text(results: Results) -> str:
    """All tables.  Every figure comes from a recording that was found right in every pixel."""
    parts = [
        [f"Measured over {results.label}", _machine(),
         "Medians (least-most); CPU seconds per million packets received, all threads; "
         "every frame and pixel checked."],
        _columns(_limit_rows(results)),
        _columns(_load_rows(results)),
        _columns(_latency_rows(results)) if results.latencies else [],
        _columns(_single_rows(results)),
    ]  # fmt: skip
    return "\n\n".join("\n".join(part) for part in parts if part)

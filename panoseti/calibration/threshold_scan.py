"""Dark scan: counts of every pixel against the threshold DAC1, at one gain, measured on boards.

The boards send 16-bit images to this computer while DAC1 goes up in steps.  A coarse scan finds
where the noise of each chip ends, a fine one covers the first photoelectrons above it.  Nothing is
known beforehand but the gain.  Shutters must be closed and high voltage on; who calls this sees
to that, and loads the settings of data taking afterwards (`threshold_measure`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from panoseti.boards import commands, maroc
from panoseti.boards.board_link import Send
from panoseti.boards.board_link import Step as LinkStep
from panoseti.boards.board_work import Work
from panoseti.boards.commands import CHIPS, AcqMode, Acquisition
from panoseti.boards.hk_socket import HkSocket
from panoseti.boards.packets import PIXELS
from panoseti.boards.science_packets import parse_science
from panoseti.boards.science_socket import ScienceSocket
from panoseti.calibration.threshold_fit import NOISE_SHARE
from panoseti.calibration.threshold_proposal import BoardScan
from panoseti.configs import settings
from panoseti.configs.settings import DAC_MAX, Codes, Registers
from panoseti.configs.site import Quabo

STEP = "threshold scan"
IMAGE_MODES = (AcqMode.IMAGE, AcqMode.IMAGE | AcqMode.PH)
PATIENCE_S = 1.0


@dataclass(frozen=True)
class ScanPlan:
    """How a scan goes.

    integration_us, frames: of each fine point; dac_step: between points; coarse_*: the same of
    the scan that looks for the noise; settle_frames: frames left out after a change; span_pe,
    largest_slope: how far above the noise the fine scan goes, in photoelectrons of a chip whose
    threshold line is as steep as that; boards_at_once: bounds the packets per second.
    """

    integration_us: int = 20_000
    frames: int = 8
    dac_step: int = 2
    coarse_integration_us: int = 5_000
    coarse_frames: int = 2
    coarse_step: int = 16
    settle_frames: int = 2
    span_pe: float = 3.2
    largest_slope: float = 0.6
    boards_at_once: int = 64

    def span(self, gain: int) -> int:
        """Width of the fine scan above the noise, DAC counts."""
        return round(self.span_pe * self.largest_slope * gain)


def scan_boards(
    work: Work, boards: Sequence[Quabo], gain: int, plan: ScanPlan
) -> dict[str, BoardScan]:
    """Scan boards, some at a time; boards that fail become faults and are left out.

    Every board is told to stop its images at the end, however that comes.  ObsError when the
    science port of this computer is taken.
    """
    found: dict[str, BoardScan] = {}
    for begin in range(0, len(boards), plan.boards_at_once):
        batch = boards[begin : begin + plan.boards_at_once]
        with ScienceSocket(work.settings.head_ip()) as port:
            found |= _Scan(work, batch, gain, plan, port).run()
    return found


class _Scan:
    """One scan of some boards, all at once."""

    def __init__(
        self, work: Work, boards: Sequence[Quabo], gain: int, plan: ScanPlan, port: HkSocket
    ) -> None:
        self._work = work
        self._boards = {quabo.ip: quabo for quabo in boards}
        self._gain = gain
        self._plan = plan
        self._port = port
        self._builds = {ip: self._build(ip) for ip in self._boards}
        same = {f"GAIN{channel}": _same(gain) for channel in range(maroc.CHANNELS)}
        self._base: Registers = {**work.settings.base.registers, **same}

    def _build(self, ip: str) -> str:
        return self._work.settings.db.board(self._work.uids[ip]).board_version

    def run(self) -> dict[str, BoardScan]:
        """Coarse, then fine; the scans of the boards that were heard to the end."""
        plan = self._plan
        with self._sending(plan.coarse_integration_us):
            coarse = self._coarse()
        begins = {ip: _noise_ends(scan) for ip, scan in coarse.items()}
        with self._sending(plan.integration_us):
            return self._fine(begins)

    def _alive(self) -> list[str]:
        return [ip for ip in self._boards if ip not in self._work.failed]

    # --- commands ---

    @contextmanager
    def _sending(self, integration_us: int) -> Iterator[None]:
        head_ip = self._work.settings.head_ip()
        start = [
            Send(commands.DataDestination(head_ip, head_ip)),
            Send(Acquisition(AcqMode.IMAGE, integration_us - 1)),
        ]
        try:
            self._tell(dict.fromkeys(self._alive(), start))
            yield
        finally:
            stop = [Send(settings.stop_acquisition())]
            self._tell(dict.fromkeys(self._boards, stop))

    def _tell(self, plans: Mapping[str, Sequence[LinkStep]]) -> None:
        """Send plans; a board that does not confirm is a fault, once."""
        with self._work.link() as link:
            outcomes = link.run(plans, self._work.echo)
        for ip, outcome in outcomes.items():
            if outcome.problem and ip not in self._work.failed:
                self._work.board_fault(ip, STEP, outcome.problem.removeprefix(f"{ip}: "))

    # --- points ---

    def _coarse(self) -> dict[str, BoardScan]:
        """From 0 up until no board counts anything any more."""
        plan = self._plan
        scans = self._scans(plan.coarse_integration_us, plan.coarse_frames)
        values = range(0, DAC_MAX + 1, plan.coarse_step)
        with self._work.console.progress(f"{STEP}: noise", len(values)) as bar:
            for value in values:
                self._measure(scans, dict.fromkeys(self._alive(), _same(value)), plan.coarse_frames)
                bar.advance()
                if all(_is_over(scans[ip]) for ip in self._alive()):
                    break
        return {ip: scans[ip] for ip in self._alive()}

    def _fine(self, begins: Mapping[str, Codes]) -> dict[str, BoardScan]:
        plan = self._plan
        scans = self._scans(plan.integration_us, plan.frames)
        width = plan.coarse_step + plan.span(self._gain)
        offsets = range(-plan.dac_step * 4, width, plan.dac_step)
        with self._work.console.progress(STEP, len(offsets)) as bar:
            for offset in offsets:
                point = {ip: _shifted(begins[ip], offset) for ip in self._alive() if ip in begins}
                self._measure(scans, point, plan.frames)
                bar.advance()
        return {ip: scans[ip] for ip in self._alive() if ip in begins}

    def _scans(self, integration_us: int, frames: int) -> dict[str, BoardScan]:
        return {
            ip: BoardScan(ip, self._builds[ip], self._gain, integration_us, frames)
            for ip in self._boards
        }

    def _measure(
        self, scans: Mapping[str, BoardScan], point: Mapping[str, Codes], frames: int
    ) -> None:
        """Set DAC1 and take the mean of some frames of each board."""
        self._tell(
            {ip: [Send(maroc.setup({**self._base, "DAC1": dac}))] for ip, dac in point.items()}
        )
        awaited = [ip for ip in point if ip not in self._work.failed]
        integration_us = scans[awaited[0]].integration_us if awaited else 0
        means = self._means(awaited, frames, integration_us)
        for ip in awaited:
            if ip not in means:
                text = "confirms its settings but sends no images here; is a firewall in the way?"
                self._work.board_fault(ip, STEP, text)
                continue
            scans[ip].dac.append(point[ip])
            scans[ip].counts.append(means[ip].value())
            scans[ip].frames = min(scans[ip].frames, means[ip].taken)

    def _means(self, ips: Sequence[str], frames: int, integration_us: int) -> dict[str, _Mean]:
        wanted = {ip: _Mean(self._plan.settle_frames, frames) for ip in ips}
        self._drain()
        needed_s = 1e-6 * integration_us * (self._plan.settle_frames + frames)
        deadline = time.monotonic() + 2 * needed_s + PATIENCE_S
        while not all(mean.complete for mean in wanted.values()):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            for datagram in self._port.receive(left_s):
                if (mean := wanted.get(datagram.source_ip)) is not None:
                    mean.add(datagram.data, self._boards[datagram.source_ip].boardloc)
        return {ip: mean for ip, mean in wanted.items() if mean.taken}

    def _drain(self) -> None:
        """Forget what arrived while settings were loaded."""
        while self._port.receive(0.0):
            pass


class _Mean:
    """The mean of some images of one board; the first ones are left out."""

    def __init__(self, settle: int, frames: int) -> None:
        self._settle = settle
        self._frames = frames
        self._sums = [0] * PIXELS
        self.taken = 0

    @property
    def complete(self) -> bool:
        """Whether enough images came."""
        return self.taken >= self._frames

    def add(self, data: bytes, boardloc: int) -> None:
        """Take a datagram that came from the board's address."""
        if self.complete:
            return
        try:
            packet = parse_science(data)
        except ValueError:
            return
        if packet.acq_mode not in IMAGE_MODES or packet.boardloc != boardloc:
            return
        if self._settle:
            self._settle -= 1
            return
        self._sums = [total + count for total, count in zip(self._sums, packet.pixels, strict=True)]
        self.taken += 1

    def value(self) -> list[float]:
        """Counts of each pixel per image."""
        return [total / self.taken for total in self._sums]


def _is_over(scan: BoardScan) -> bool:
    """Whether the noise was passed and nothing counts any more."""
    counting = [any(counts) for counts in scan.counts]
    return any(counting) and not any(counting[-2:])


def _noise_ends(scan: BoardScan) -> Codes:
    """The last DAC1 of each chip at which the usual pixel counts noise."""
    ends = []
    for chip in range(CHIPS):
        pixels = scan.pixels(chip)
        usual = [statistics.median(counts[pixel] for pixel in pixels) for counts in scan.counts]
        most = max(usual)
        last = max(i for i, count in enumerate(usual) if count >= NOISE_SHARE * most)
        ends.append(scan.dac[last][chip])
    return ends[0], ends[1], ends[2], ends[3]


def _same(value: int) -> Codes:
    return value, value, value, value


def _shifted(codes: Codes, offset: int) -> Codes:
    a, b, c, d = (min(max(code + offset, 0), DAC_MAX) for code in codes)
    return a, b, c, d

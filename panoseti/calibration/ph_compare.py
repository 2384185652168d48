"""Two sets of PH baselines side by side: drift, and channels that are dead or hot.

Pure.  A board's 256 values come as its chips are read out (`pixel_maps.readout_to_pixel`): value
n is channel n // 4 of chip n % 4.  Each chip has a level of its own.  All values are ADC counts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from panoseti.boards.commands import CHIPS
from panoseti.boards.pixel_maps import readout_to_pixel

CHANNELS_SHOWN = 6


class Kind(StrEnum):
    """What is wrong with a channel."""

    DEAD = "dead"
    HOT = "hot"
    DRIFTED = "drifted"


@dataclass(frozen=True)
class Limits:
    """What counts as sound, in ADC counts.

    dead_below, hot_above: of a channel (in the field they are 650 to 1130); channel_drift: how
    much a channel may change more, or less, than its chip; chip_shift: how much the median of a
    chip may change.
    """

    dead_below: int = 500
    hot_above: int = 1300
    channel_drift: int = 20
    chip_shift: int = 30

    def __post_init__(self) -> None:
        if not 0 <= self.dead_below < self.hot_above:
            raise ValueError(f"dead below {self.dead_below}, hot above {self.hot_above}")
        if self.channel_drift <= 0 or self.chip_shift <= 0:
            raise ValueError(f"drift {self.channel_drift}, shift {self.chip_shift} not above 0")

    def kind(self, counts: int) -> Kind | None:
        """Whether a channel of that value is dead or hot."""
        if counts < self.dead_below:
            return Kind.DEAD
        return Kind.HOT if counts > self.hot_above else None


USUAL_LIMITS = Limits()


@dataclass(frozen=True)
class Board:
    """How operators know a board, and its kind: "qfp", "bga", or "" where that is unknown."""

    name: str
    version: str = ""


@dataclass(frozen=True)
class Finding:
    """One channel: its place among the values, its pixel (x, y) where the kind of the board is
    known, values before (None = no earlier set) and now.

    new: it was not so in the earlier set.
    """

    kind: Kind
    value: int
    pixel: tuple[int, int] | None
    before: int | None
    now: int
    new: bool

    @property
    def chip(self) -> int:
        """The chip it belongs to."""
        return self.value % CHIPS

    def __str__(self) -> str:
        where = f"channel {self.value // CHIPS} of chip {self.chip}"
        if self.pixel is not None:
            where = f"pixel ({self.pixel[0]}, {self.pixel[1]})"
        was = "" if self.before is None else f"{self.before} -> "
        return f"{where} {was}{self.now}"


@dataclass(frozen=True)
class Comparison:
    """One board.

    shifts: how the median of each chip changed, drift_rms: how its channels changed beside that,
    None = no earlier values; shifted: the chips that changed more than the limit.
    """

    uid: str
    board: Board
    shifts: tuple[float, ...] | None
    drift_rms: float | None
    shifted: tuple[int, ...]
    findings: tuple[Finding, ...]

    def of(self, kind: Kind) -> tuple[Finding, ...]:
        """The channels of one kind."""
        return tuple(finding for finding in self.findings if finding.kind is kind)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings and not self.shifted


def compare(
    before: Mapping[str, Sequence[int]] | None,
    now: Mapping[str, Sequence[int]],
    boards: Mapping[str, Board] | None = None,
    limits: Limits = USUAL_LIMITS,
) -> list[Comparison]:
    """Every board of `now`, by UID; boards that `before` lacks are judged without drift.

    before, now: UID -> values; boards: by UID, as far as they are known.
    """
    earlier, known = before or {}, boards or {}
    return [
        _board(uid, known.get(uid, Board(uid)), earlier.get(uid), values, limits)
        for uid, values in now.items()
    ]


def _board(
    uid: str, board: Board, before: Sequence[int] | None, now: Sequence[int], limits: Limits
) -> Comparison:
    def finding(kind: Kind, value: int, new: bool) -> Finding:
        pixel = readout_to_pixel(board.version, value) if board.version else None
        return Finding(kind, value, pixel, before[value] if before else None, now[value], new)

    if before is None:
        found = [
            finding(kind, value, True)
            for value, counts in enumerate(now)
            if (kind := limits.kind(counts)) is not None
        ]
        return Comparison(uid, board, None, None, (), tuple(found))
    changes = [new - old for old, new in zip(before, now, strict=True)]
    shifts = tuple(statistics.median(changes[chip::CHIPS]) for chip in range(CHIPS))
    drifts = [change - shifts[value % CHIPS] for value, change in enumerate(changes)]
    found = []
    sound = []
    for value, drift in enumerate(drifts):
        kind, was = limits.kind(now[value]), limits.kind(before[value])
        if kind is not None:
            found.append(finding(kind, value, was is not kind))
        elif abs(drift) > limits.channel_drift:
            found.append(finding(Kind.DRIFTED, value, True))
        # Channels that are dead or hot say nothing about the others.
        if kind is None and was is None:
            sound.append(drift)
    rms = math.sqrt(statistics.fmean(drift**2 for drift in sound)) if sound else None
    shifted = tuple(chip for chip, shift in enumerate(shifts) if abs(shift) > limits.chip_shift)
    return Comparison(uid, board, shifts, rms, shifted, tuple(found))


def lines(comparison: Comparison) -> list[str]:
    """What an operator should know of a board, one line each; [] = nothing."""
    said = []
    name, shifts = comparison.board.name, comparison.shifts
    if comparison.shifted and shifts is not None:
        moved = ", ".join(f"chip {chip} by {shifts[chip]:+g}" for chip in comparison.shifted)
        said.append(f"{name}: moved as a whole: {moved} counts")
    for kind in Kind:
        found = comparison.of(kind)
        if found:
            new = sum(finding.new for finding in found)
            count = f"{len(found)} channel{'s' if len(found) > 1 else ''} {kind}"
            if kind is not Kind.DRIFTED and shifts is not None:
                count += f" ({new} of them new)" if new else " (as before)"
            shown = ", ".join(str(finding) for finding in found[:CHANNELS_SHOWN])
            left = len(found) - CHANNELS_SHOWN
            more = f" and {left} more" if left > 0 else ""
            said.append(f"{name}: {count}: {shown}{more}")
    return said

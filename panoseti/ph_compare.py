"""Two sets of PH baselines side by side: drift, and channels that are dead or hot.

Pure.  A board's 256 values are taken in the order of the packet's pixels (value n belongs to
pixel x = n % 16, y = n // 16); the interface description does not say in which order boards give
them.  All values are ADC counts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

SIDE = 16
PIXELS_SHOWN = 6


class Kind(StrEnum):
    """What is wrong with a channel."""

    DEAD = "dead"
    HOT = "hot"
    DRIFTED = "drifted"


@dataclass(frozen=True)
class Limits:
    """What counts as sound, in ADC counts.

    dead_below, hot_above: of a channel (in the field they are 650 to 1130); channel_drift: how
    much a channel may change more, or less, than its board; board_shift: how much the median of
    a board may change.
    """

    dead_below: int = 500
    hot_above: int = 1300
    channel_drift: int = 20
    board_shift: int = 30

    def __post_init__(self) -> None:
        if not 0 <= self.dead_below < self.hot_above:
            raise ValueError(f"dead below {self.dead_below}, hot above {self.hot_above}")
        if self.channel_drift <= 0 or self.board_shift <= 0:
            raise ValueError(f"drift {self.channel_drift}, shift {self.board_shift} not above 0")

    def kind(self, counts: int) -> Kind | None:
        """Whether a channel of that value is dead or hot."""
        if counts < self.dead_below:
            return Kind.DEAD
        return Kind.HOT if counts > self.hot_above else None


USUAL_LIMITS = Limits()


@dataclass(frozen=True)
class Finding:
    """One channel: pixel number and place, values before (None = no earlier set) and now.

    new: it was not so in the earlier set.
    """

    kind: Kind
    pixel: int
    before: int | None
    now: int
    new: bool

    @property
    def x(self) -> int:
        """Column of the pixel."""
        return self.pixel % SIDE

    @property
    def y(self) -> int:
        """Row of the pixel."""
        return self.pixel // SIDE

    def __str__(self) -> str:
        was = "" if self.before is None else f"{self.before} -> "
        return f"pixel ({self.x}, {self.y}) {was}{self.now}"


@dataclass(frozen=True)
class Comparison:
    """One board: shift of its median and spread of the channels' drift about it.

    name: as operators know the board; shift, drift_rms: None = no earlier values; shifted:
    the board as a whole changed more than the limit.
    """

    uid: str
    name: str
    shift: float | None
    drift_rms: float | None
    shifted: bool
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
    names: Mapping[str, str] | None = None,
    limits: Limits = USUAL_LIMITS,
) -> list[Comparison]:
    """Every board of `now`, by UID; boards that `before` lacks are judged without drift.

    before, now: UID -> values in pixel order; names: how operators know the boards.
    """
    earlier = before or {}
    return [
        _board(uid, (names or {}).get(uid, uid), earlier.get(uid), values, limits)
        for uid, values in now.items()
    ]


def not_measured(
    before: Mapping[str, Sequence[int]] | None, now: Mapping[str, Sequence[int]]
) -> list[str]:
    """UIDs of boards that the earlier set has and this one lacks."""
    return [uid for uid in before or {} if uid not in now]


def _board(
    uid: str, name: str, before: Sequence[int] | None, now: Sequence[int], limits: Limits
) -> Comparison:
    if before is None:
        found = [
            Finding(kind, pixel, None, counts, True)
            for pixel, counts in enumerate(now)
            if (kind := limits.kind(counts)) is not None
        ]
        return Comparison(uid, name, None, None, False, tuple(found))
    changes = [new - old for old, new in zip(before, now, strict=True)]
    shift = statistics.median(changes)
    found = []
    for pixel, (old, new) in enumerate(zip(before, now, strict=True)):
        kind = limits.kind(new)
        if kind is not None:
            found.append(Finding(kind, pixel, old, new, limits.kind(old) is not kind))
        elif abs(new - old - shift) > limits.channel_drift:
            found.append(Finding(Kind.DRIFTED, pixel, old, new, True))
    # Channels that are dead or hot say nothing about the others.
    sound = [
        change - shift
        for change, old, new in zip(changes, before, now, strict=True)
        if limits.kind(old) is None and limits.kind(new) is None
    ]
    rms = math.sqrt(statistics.fmean(change**2 for change in sound)) if sound else None
    return Comparison(uid, name, shift, rms, abs(shift) > limits.board_shift, tuple(found))


def lines(comparison: Comparison) -> list[str]:
    """What an operator should know of a board, one line each; [] = nothing."""
    said = []
    if comparison.shifted and comparison.shift is not None:
        said.append(f"{comparison.name}: the whole board moved by {comparison.shift:+g} counts")
    for kind in Kind:
        found = comparison.of(kind)
        if found:
            new = sum(finding.new for finding in found)
            count = f"{len(found)} channel{'s' if len(found) > 1 else ''} {kind}"
            if kind is not Kind.DRIFTED and comparison.shift is not None:
                count += f" ({new} of them new)" if new else " (as before)"
            shown = ", ".join(str(finding) for finding in found[:PIXELS_SHOWN])
            more = f" and {len(found) - PIXELS_SHOWN} more" if len(found) > PIXELS_SHOWN else ""
            said.append(f"{comparison.name}: {count}: {shown}{more}")
    return said

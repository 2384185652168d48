"""From counts against the threshold DAC1 in the dark to the threshold lines of a board.

Pure.  Pulses in the dark are of 1, 2, 3 ... photoelectrons, so the counts of a pixel fall in steps
as its threshold rises (a staircase): step n is at DAC1 = b + n * s, where s is the pixel's own
size of a photoelectron and b, the pedestal, is that of its chip.  Below the pedestal the
discriminator counts noise.  With a gain g the same for all channels,

    s = a * g / (1 + pixel_gain)        so that        DAC1 = a * (g * pe) + b

holds for every pixel once its MAROC gain is g * (1 + pixel_gain).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# At a step of the staircase the counts fall by this much (in logarithm) within so many DAC counts.
STEEP, SPAN_DAC = 0.3, 4.0
# Steps are at least so far apart, and a step needs so many points.
CLOSEST_DAC, POINTS_PER_STEP = 8.0, 5
# A step is no further than this, in distances of the steps, from where it should be.
OFF_STEP = 0.3
# Where the counts above and below a step are taken, in distances of the steps from it.
FLAT_PE = (0.3, 0.5)
# The noise at the pedestal ends where counts are less than this share of the most there are.
NOISE_SHARE = 0.9
# Fewer counts than this, over all frames of a point, do not tell where a step is.
LEAST_COUNTS = 200.0
STEPS_NEEDED, STEPS_USED, ROUNDS = 2, 4, 2
# First step minus end of the noise, in units of the distance of the steps: 1 if nothing is missed.
FIRST_STEP = (0.5, 1.5)
# A pixel whose steps are so far (in photoelectrons) from the common pedestal is not trusted.
WORST_MISFIT_PE = 0.15
PIXELS_NEEDED = 8


@dataclass(frozen=True)
class Curve:
    """Counts of one pixel: mean per frame at each DAC1 (ascending), and frames per point."""

    dac: Sequence[int]
    counts: Sequence[float]
    frames: int


@dataclass(frozen=True)
class QuadrantFit:
    """The line of one chip: DAC1 = a * (gain * pe) + b, and what it rests on.

    correction: pixel -> pixel_gain, of pixels with a clean staircase; problems: pixel -> why
    it has none; misfit: rms of the steps about the fit in DAC counts.
    """

    a: float
    b: float
    correction: Mapping[int, float]
    problems: Mapping[int, str]
    misfit: float


def steps(curve: Curve) -> list[float]:
    """DAC1 at which the counts are half-way down each step, beginning with that of 1 pe.

    ValueError with the reason when the curve shows no clean staircase.
    """
    counts = curve.counts
    most = max(counts)
    if most <= 0:
        raise ValueError("no counts at any threshold")
    begin = max(i for i, count in enumerate(counts) if count >= NOISE_SHARE * most) + 1
    if begin == len(counts):
        raise ValueError("nothing but noise up to the end of the scan")
    found = [float(curve.dac[i]) for i in _steepest(curve, begin)]
    for _ in range(ROUNDS):
        if len(found) < STEPS_NEEDED:
            break
        distance = found[1] - found[0]
        found = _refined(curve, found, distance)
    if len(found) < STEPS_NEEDED:
        raise ValueError(f"{len(found)} steps in its counts, {STEPS_NEEDED} are needed")
    distance = found[1] - found[0]
    first_step = (found[0] - curve.dac[begin - 1]) / distance
    if not FIRST_STEP[0] < first_step < FIRST_STEP[1]:
        raise ValueError(f"its first step is {first_step:.1f} photoelectrons above the noise")
    points = distance / (curve.dac[1] - curve.dac[0])
    if points < POINTS_PER_STEP:
        raise ValueError(f"{points:.1f} points per photoelectron are too few: scan it finer")
    return found


def _steepest(curve: Curve, begin: int) -> list[int]:
    """Where the counts fall most steeply, step by step, from point `begin` on.

    The flank of the noise, which begins there, is no step.
    """
    step_dac = max(1, curve.dac[1] - curve.dac[0])
    span = max(1, round(SPAN_DAC / step_dac / 2))  # to either side
    apart = max(1, round(CLOSEST_DAC / step_dac / 2))
    logs = [math.log(count + 1.0) for count in curve.counts]
    drops = [
        logs[max(i - span, begin)] - logs[min(i + span, len(logs) - 1)] for i in range(len(logs))
    ]
    i = begin
    while i < len(drops) and drops[i] >= STEEP:
        i += 1
    found: list[int] = []
    for place in range(i, len(drops)):
        near = drops[max(i, place - apart) : place + apart + 1]
        is_peak = drops[place] >= STEEP and drops[place] == max(near)
        if is_peak and (not found or place - found[-1] > apart):
            found.append(place)
    return found


def _refined(curve: Curve, places: Sequence[float], distance: float) -> list[float]:
    """The steps at about these places, as far as there are counts enough to tell."""
    found = []
    for number, place in enumerate(places[:STEPS_USED]):
        # What fluctuates further up is no step.
        if abs(place - places[0] - number * distance) > OFF_STEP * distance:
            break
        high = _flat(curve, place - FLAT_PE[1] * distance, place - FLAT_PE[0] * distance)
        low = _flat(curve, place + FLAT_PE[0] * distance, place + FLAT_PE[1] * distance)
        if high is None or low is None or (high - low) * curve.frames < LEAST_COUNTS:
            break
        found.append(_crossing(curve, place - sum(FLAT_PE) / 2 * distance, (high + low) / 2))
    return found


def _flat(curve: Curve, begin: float, end: float) -> float | None:
    """The usual counts between two values of DAC1; None where the scan does not reach."""
    if begin < curve.dac[0] or end > curve.dac[-1]:
        return None
    inside = [c for d, c in zip(curve.dac, curve.counts, strict=True) if begin <= d <= end]
    if inside:
        return statistics.median(inside)
    middle = (begin + end) / 2
    return min(zip(curve.dac, curve.counts, strict=True), key=lambda p: abs(p[0] - middle))[1]


def _crossing(curve: Curve, begin: float, level: float) -> float:
    """Where the counts pass a level, at or after a DAC1, between the points."""
    dac, counts = curve.dac, curve.counts
    i = max((i for i, value in enumerate(dac) if value <= begin), default=0)
    while i + 2 < len(counts) and counts[i + 1] > level:
        i += 1
    fall = counts[i] - counts[i + 1]
    share = (counts[i] - level) / fall if fall > 0 else 0.0
    return dac[i] + min(max(share, 0.0), 1.0) * (dac[i + 1] - dac[i])


def fit_quadrant(curves: Mapping[int, Curve], gain: float, mean_correction: float) -> QuadrantFit:
    """The line of a chip from the curves of its pixels, all measured with MAROC gain `gain`.

    mean_correction: mean of pixel_gain over the pixels; the measurement cannot tell a larger `a`
    from larger corrections.  ValueError when too few pixels show a clean staircase.
    """
    places: dict[int, list[float]] = {}
    problems: dict[int, str] = {}
    for pixel, curve in curves.items():
        try:
            places[pixel] = steps(curve)
        except ValueError as error:
            problems[pixel] = str(error)
    b, sizes = _line(places)
    for pixel in list(places):
        misfit_pe = max(
            abs(place - b - n * sizes[pixel]) for n, place in enumerate(places[pixel], 1)
        ) / abs(sizes[pixel] or 1.0)
        if misfit_pe > WORST_MISFIT_PE or sizes[pixel] <= 0:
            problems[pixel] = f"its steps are {misfit_pe:.2f} photoelectrons off the pedestal"
            del places[pixel]
    b, sizes = _line(places)
    misfits = [
        place - b - n * sizes[pixel]
        for pixel, found in places.items()
        for n, place in enumerate(found, 1)
    ]
    a = (1.0 + mean_correction) / (gain * statistics.fmean(1.0 / size for size in sizes.values()))
    return QuadrantFit(
        a=a,
        b=b,
        correction={pixel: a * gain / size - 1.0 for pixel, size in sizes.items()},
        problems=dict(sorted(problems.items())),
        misfit=math.sqrt(statistics.fmean(misfit**2 for misfit in misfits)),
    )


def _line(places: Mapping[int, Sequence[float]]) -> tuple[float, dict[int, float]]:
    """The common pedestal, and each pixel's size of a photoelectron, by least squares.

    For a given pedestal b the size of a pixel is the best slope through (0, b); what is left is
    one linear equation for b.
    """
    if len(places) < PIXELS_NEEDED:
        raise ValueError(
            f"{len(places)} pixels show a clean staircase, {PIXELS_NEEDED} are needed; is the"
            " high voltage on, the shutter closed, and the scan wide enough?"
        )
    above = below = 0.0
    sums = {}
    for pixel, found in places.items():
        numbers = range(1, len(found) + 1)
        count, n_sum, n2_sum = len(found), sum(numbers), sum(n * n for n in numbers)
        place_sum = sum(found)
        product_sum = sum(n * place for n, place in zip(numbers, found, strict=True))
        above += place_sum - product_sum * n_sum / n2_sum
        below += count - n_sum * n_sum / n2_sum
        sums[pixel] = (n_sum, n2_sum, product_sum)
    b = above / below
    return b, {
        pixel: (product_sum - n_sum * b) / n2_sum
        for pixel, (n_sum, n2_sum, product_sum) in sums.items()
    }

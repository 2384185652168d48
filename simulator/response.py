"""How a board's settings turn light into counts: what a quabo would measure, as tables.

A deliberately simple detector with known truth: thresholds follow the board's calibration lines,
rates of light fall by ten for each PE_PER_DECADE photoelectrons of threshold.  Dark counts fall in
steps, as those of real detectors: all pulses are of 1, 2, 3 ... photoelectrons, each number a
CROSSTALK less frequent, blurred a little by noise.  It is made so that every
setting shows: high voltage off, shutter closed, threshold too high, or chips not configured make
a board dark; masks and the coincidence setting stop or slow its pulse-height events.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from simulator import sky

CHIPS, CHANNELS = 4, 64
REFERENCE_PE = 2.0  # threshold at which the rates of the sky are given
PE_PER_DECADE = 6.0
DARK_HZ = 3000.0  # of a pixel behind a closed shutter, at the reference threshold
CROSSTALK, NOISE_PE, MOST_PE = 0.1, 0.12, 8
FLOOR_HZ = 10.0  # less than this counts as nothing
PH_REFERENCE_PE, PH_REFERENCE_HZ, PH_PE_PER_DECADE = 12.5, 2.0, 7.0
PH_MAX_HZ, PH_FLOOR_HZ = 2000.0, 0.02
PH_CLOSED_SHARE = 0.2
PH_COUNTS_PER_PE = 8.0  # at gain 60
REFERENCE_GAIN = 60.0
STIM_PE_FULL_SCALE = 23.0
STIM_HZ = 190.0  # times 2^rate
FLASHER_HZ = (1, 95, 191, 381, 763, 1526, 3052, 6104)
SATURATION = {16: 0xFFFF, 8: 0xFF}

Registers = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Truth:
    """What calibration would find: lines DAC = slope * gain * pe + pedestal, one per chip.

    image_slope/image_pedestal are a, b and ph_slope/ph_pedestal are ah, bh of a calibration
    file; pixel_gain[x][y] its relative gain corrections; breakdown_v where a detector wakes up.
    """

    image_slope: tuple[float, ...] = (0.375,) * CHIPS
    image_pedestal: tuple[float, ...] = (156.0,) * CHIPS
    ph_slope: tuple[float, ...] = (0.125,) * CHIPS
    ph_pedestal: tuple[float, ...] = (189.0,) * CHIPS
    pixel_gain: tuple[tuple[float, ...], ...] = ((0.0,) * sky.SIDE,) * sky.SIDE
    breakdown_v: tuple[float, ...] = (51.2,) * CHIPS


@dataclass(frozen=True)
class Conditions:
    """All that decides what a board measures.

    registers: MAROC tags, None before the first load; hv_on: per chip, above breakdown;
    wiring[pixel] = (chip, channel) of packet pixel `pixel`; baseline: stored PH baseline.
    hot: pixels with hot_factor times the dark counts of others; dead: pixels that never count.
    """

    registers: Registers | None
    hv_on: tuple[bool, ...]
    shutter_open: bool
    channel_mask: Sequence[int]
    goe_mask: int
    wiring: Sequence[tuple[int, int]]
    truth: Truth
    stim_on: bool = False
    stim_level: int = 0
    stim_rate: int = 0
    flash_level: int = 0
    flash_rate: int = 0
    hot: frozenset[int] = frozenset()
    hot_factor: float = 1.0
    dead: frozenset[int] = frozenset()


@lru_cache(maxsize=4096)
def _dark_share(threshold: float) -> float:
    """Dark counts at a threshold, as a share of those at the reference threshold."""

    def pulses(limit: float) -> float:
        return sum(
            CROSSTALK ** (n - 1) * 0.5 * math.erfc((limit - n) / (NOISE_PE * math.sqrt(2)))
            for n in range(1, MOST_PE + 1)
        )

    return pulses(threshold) / pulses(REFERENCE_PE)


def _gain(conditions: Conditions, registers: Registers, pixel: int) -> float:
    """Gain of a pixel after the spread of its detector: the corrections of the file undo it."""
    chip, channel = conditions.wiring[pixel]
    row, column = divmod(pixel, sky.SIDE)
    spread = 1.0 + conditions.truth.pixel_gain[column][row]
    return registers[f"GAIN{channel}"][chip] / max(spread, 0.01)


def threshold_pe(dac: int, slope: float, pedestal: float, gain: float) -> float:
    """Photoelectrons that reach a threshold DAC; inf when the gain lets nothing through."""
    if slope <= 0 or gain <= 0:
        return float("inf") if dac > pedestal else -1.0
    return (dac - pedestal) / (slope * gain)


def _alive(conditions: Conditions, registers: Registers, chip: int) -> bool:
    """The chip's bias and threshold DACs are on, and its outputs are enabled."""
    return bool(registers["OTABG_ON"][chip] and registers["DAC_ON"][chip])


def _stim_hz(conditions: Conditions, registers: Registers, pixel: int, threshold: float) -> float:
    chip, channel = conditions.wiring[pixel]
    if not (conditions.stim_on and registers[f"CTEST_{channel}"][chip]):
        return 0.0
    reached = STIM_PE_FULL_SCALE * conditions.stim_level / 255 > threshold
    return STIM_HZ * float(2**conditions.stim_rate) if reached else 0.0


def image_levels(
    conditions: Conditions, light_hz: Sequence[float], exposure_us: int, bits: int
) -> list[int]:
    """The 256 base values of image packets (sky.py); 0 = no counts at all.

    light_hz: the board's view of the sky at the reference threshold, packet order.
    """
    top = SATURATION[bits]
    if conditions.registers is None:
        return [0] * sky.PIXELS
    registers, truth = conditions.registers, conditions.truth
    levels = []
    for pixel, light in enumerate(light_hz):
        chip = conditions.wiring[pixel][0]
        if pixel in conditions.dead or not _alive(conditions, registers, chip):
            levels.append(0)
            continue
        threshold = threshold_pe(
            registers["DAC1"][chip],
            truth.image_slope[chip],
            truth.image_pedestal[chip],
            _gain(conditions, registers, pixel),
        )
        if threshold <= 0:
            levels.append(top)  # triggers on electronic noise all the time
            continue
        rate = 0.0
        if conditions.hv_on[chip]:
            factor = conditions.hot_factor if pixel in conditions.hot else 1.0
            rate = factor * DARK_HZ * _dark_share(threshold)
            if conditions.shutter_open:
                rate += light * 10 ** (-(threshold - REFERENCE_PE) / PE_PER_DECADE)
        rate += _stim_hz(conditions, registers, pixel, threshold)
        levels.append(_level(rate, exposure_us, top))
    return levels


def _level(rate_hz: float, exposure_us: int, top: int) -> int:
    """A base value; at least 1 where anything is counted, and room for the noise below `top`."""
    if rate_hz < FLOOR_HZ:
        return 0
    counts = round(rate_hz * exposure_us * 1e-6)
    return top if counts >= top else max(1, min(counts, top - 1 - sky.IMAGE_NOISE))


@dataclass(frozen=True)
class PhResponse:
    """Pulse-height events: random and periodic rates, table of the flash, table without light."""

    poisson_hz: float
    period_us: int
    pattern: tuple[int, ...]
    offset: tuple[int, ...]


def _or_share(
    conditions: Conditions, registers: Registers, chip: int, which: int, rate_hz: float
) -> float:
    """Trigger rate through OR1 or OR2 (`which`) of a chip."""
    if conditions.channel_mask[8] >> (2 * chip + which - 1) & 1:
        return 0.0
    listening = sum(1 - registers[f"MASKOR{which}_{k}"][chip] for k in range(CHANNELS))
    return rate_hz * listening / CHANNELS / CHIPS


def _open_pixels(channel_mask: Sequence[int]) -> int:
    """Pixel triggers that are not masked; with all masked (the usual file) none is left out."""
    masked = sum(word.bit_count() for word in channel_mask[:8])
    return sky.PIXELS if masked == sky.PIXELS else sky.PIXELS - masked


def _rate(threshold: float) -> float:
    if threshold <= 0:
        return PH_MAX_HZ
    rate = PH_REFERENCE_HZ * float(10 ** (-(threshold - PH_REFERENCE_PE) / PH_PE_PER_DECADE))
    return min(PH_MAX_HZ, rate) if rate >= PH_FLOOR_HZ else 0.0


def _chip_rates(conditions: Conditions, registers: Registers, which: int) -> list[float]:
    """Event rate of a whole board at each chip's threshold 1 or 2."""
    truth = conditions.truth
    slopes, pedestals = (
        (truth.image_slope, truth.image_pedestal)
        if which == 1
        else (truth.ph_slope, truth.ph_pedestal)
    )
    rates = []
    for chip in range(CHIPS):
        gain = sum(registers[f"GAIN{k}"][chip] for k in range(CHANNELS)) / CHANNELS
        threshold = threshold_pe(
            registers[f"DAC{which}"][chip], slopes[chip], pedestals[chip], gain
        )
        usable = _alive(conditions, registers, chip) and (conditions.hv_on[chip] or threshold <= 0)
        rates.append(_rate(threshold) if usable else 0.0)
    return rates


def _event_rate(conditions: Conditions, registers: Registers) -> float:
    """Random events of a board by its own triggers."""
    by_threshold = {which: _chip_rates(conditions, registers, which) for which in (1, 2)}
    coincidence = 3 - (conditions.goe_mask & 3)
    if coincidence:
        # Two pixels or more (GOE 2 or 0), three or more (1), of the discriminators D1_D2 chose.
        share = 0.5 if conditions.goe_mask & 3 in (0, 2) else 0.25
        needed = 2 if share == 0.5 else 3
        open_pixels = _open_pixels(conditions.channel_mask)
        if open_pixels < needed or not all(registers["D1_D2"]):
            return 0.0
        return share * sum(by_threshold[2]) / CHIPS * open_pixels / sky.PIXELS
    return sum(
        _or_share(conditions, registers, chip, which, by_threshold[which][chip])
        for which in (1, 2)
        for chip in range(CHIPS)
    )


def _hot_rate(conditions: Conditions, registers: Registers) -> float:
    """Events that hot pixels cause by themselves, where no mask keeps them out of the ORs."""
    if not conditions.hot:
        return 0.0
    total = 0.0
    for which in (1, 2):
        rates = _chip_rates(conditions, registers, which)
        for pixel in conditions.hot - conditions.dead:
            chip, channel = conditions.wiring[pixel]
            masked = conditions.channel_mask[8] >> (2 * chip + which - 1) & 1
            if not masked and not registers[f"MASKOR{which}_{channel}"][chip]:
                total += conditions.hot_factor * rates[chip] / sky.PIXELS
    return min(PH_MAX_HZ, total)


def _period_us(conditions: Conditions, registers: Registers, triggering: bool) -> int:
    """Period of flasher or stim events, 0 when there are none or nothing listens to them."""
    if not triggering:
        return 0
    if conditions.flash_level > 0:
        return round(1e6 / FLASHER_HZ[conditions.flash_rate])
    stimulated = any(any(registers[f"CTEST_{k}"]) for k in range(CHANNELS))
    if conditions.stim_on and stimulated:
        return round(1e6 / (STIM_HZ * 2**conditions.stim_rate))
    return 0


def ph_response(
    conditions: Conditions,
    flash_pe: Sequence[float],
    true_baseline: Sequence[int],
    stored_baseline: Sequence[int] | None,
) -> PhResponse:
    """What pulse-height mode would deliver.

    flash_pe: the board's view of a flash; stored_baseline None = nothing is subtracted.
    """
    zero = (0,) * sky.PIXELS
    subtract = stored_baseline or zero
    offset = tuple(true - stored for true, stored in zip(true_baseline, subtract, strict=True))
    if conditions.registers is None:
        return PhResponse(0.0, 0, zero, offset)
    registers = conditions.registers
    rate = _event_rate(conditions, registers)
    if not conditions.shutter_open:
        rate *= PH_CLOSED_SHARE
    rate += _hot_rate(conditions, registers)
    lit = conditions.shutter_open and any(conditions.hv_on)
    pattern = tuple(
        round(pe * PH_COUNTS_PER_PE * _gain(conditions, registers, pixel) / REFERENCE_GAIN)
        if lit and conditions.hv_on[conditions.wiring[pixel][0]]
        else 0
        for pixel, pe in enumerate(flash_pe)
    )
    return PhResponse(round(rate, 3), _period_us(conditions, registers, rate > 0), pattern, offset)


def baseline_of(
    boardloc: int, registers: Registers | None, wiring: Sequence[tuple[int, int]]
) -> list[int]:
    """The true PH baseline of each pixel, ADC counts; moves with the gain as real ones do.

    Each chip has a level of its own.
    """
    values = []
    for pixel in range(sky.PIXELS):
        chip, channel = wiring[pixel]
        level = 690 + sky.mix(boardloc * 4 + chip + (9 << 32)) % 80
        own = level + sky.mix(boardloc * 256 + pixel + (7 << 32)) % 32
        gain = registers[f"GAIN{channel}"][chip] if registers is not None else 0
        values.append(own + gain // 2)
    return values

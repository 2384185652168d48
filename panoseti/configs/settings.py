"""From the configs and the calibration to what the boards are told: pure arithmetic.

Formulas and scales are those of the deployed observatories; what they leave unchecked (values that
would wrap or trigger on everything) is refused here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from panoseti.boards.commands import CHIPS, AcqMode, Acquisition, ChannelMask, GoeMask
from panoseti.boards.maroc import CHANNELS
from panoseti.boards.pixel_maps import maroc_to_pixel
from panoseti.configs.quabo_config import QuaboConfig
from panoseti.configs.site import Calibration, DataConfig, Quadrant
from panoseti.errors import ConfigError, Fault

Registers = dict[str, tuple[int, int, int, int]]
Codes = tuple[int, int, int, int]

PRIMING_PE = 5.5
PRIMING_S = 1.0
PRIMING_INTERVAL_FIELD = 4999

DAC_MAX, GAIN_MAX, HV_CODE_MAX = 1023, 255, 0xFFFF

# Detector data sheet; scale and offset of the supply as measured in the field.
BIAS_V_PER_K, REFERENCE_C = 0.054, 25.0
HV_OFFSET_V, HV_V_PER_CODE = 1.073, 0.0011453

# Word 8 of the channel mask: OR1 and OR2 of each chip, then the trigger of the other boards.
ALL_ORS, ANY_TRIGGER = 0xFF, 0x100
GOE_TWO_PIXELS, GOE_THREE_PIXELS = 2, 1

HK_BYTES_S = 5200.0
PH_BYTES_S = 2648.0  # one event per second of each board
IMAGE_PIXELS, IMAGE_HEADER_BYTES = 1024, 600


def calibration_mode(data: DataConfig) -> str:
    """Which calibration folder applies: "img" when only images are recorded, else "ph"."""
    return "img" if data.pulse_height is None else "ph"


def maroc_registers(
    base: QuaboConfig, calibration: Calibration, board_version: str, data: DataConfig, board: str
) -> Registers:
    """All MAROC tags of a board, `base` with thresholds, gains and D1_D2 of this data config.

    board: its name in messages.  ConfigError names board, file, quadrant and value when a DAC
    falls outside 0..1023, a gain outside 0..255, or a threshold line is not calibrated (both its
    numbers 0: the threshold would be 0, a trigger on everything).
    """
    ph_pe = data.pulse_height.pe_threshold if data.pulse_height else None
    return _registers(base, calibration, board_version, data, board, ph_pe)


def priming_registers(
    base: QuaboConfig, calibration: Calibration, board_version: str, data: DataConfig, board: str
) -> Registers | None:
    """As maroc_registers with DAC2 for 5.5 pe; None when no priming is needed (no PH)."""
    if data.pulse_height is None:
        return None
    return _registers(base, calibration, board_version, data, board, PRIMING_PE)


def _registers(
    base: QuaboConfig,
    calibration: Calibration,
    board_version: str,
    data: DataConfig,
    board: str,
    ph_pe: float | None,
) -> Registers:
    result = dict(base.registers)
    sums = _Sums(calibration, data.gain, board)
    if data.image is not None:
        result["DAC1"] = sums.thresholds("DAC1", "a", "b", data.image.pe_threshold)
    if ph_pe is not None:
        result["DAC2"] = sums.thresholds("DAC2", "ah", "bh", ph_pe)
    result |= sums.gains(board_version)
    if data.pulse_height is not None and data.pulse_height.coincidence:
        result["D1_D2"] = (1, 1, 1, 1)
    if sums.faults:
        raise ConfigError(sums.faults)
    return result


class _Sums:
    """Thresholds and gains of one board; what does not fit into a register is in `faults`."""

    def __init__(self, calibration: Calibration, gain: float, board: str) -> None:
        self._calibration = calibration
        self._gain = gain
        self._board = board
        self.faults: list[Fault] = []

    def thresholds(self, dac: str, slope: str, pedestal: str, pe: float) -> Codes:
        """DAC1 or DAC2 of each chip for a threshold in photoelectrons.

        slope, pedestal: names of the line's numbers in the calibration.
        """
        return _four(
            self._threshold(q, quadrant, dac, (slope, pedestal), pe)
            for q, quadrant in enumerate(self._calibration.quadrants)
        )

    def _threshold(
        self, q: int, quadrant: Quadrant, dac: str, line: tuple[str, str], pe: float
    ) -> int:
        slope, pedestal = (getattr(quadrant, name) for name in line)
        if slope == 0 and pedestal == 0:
            remedy = f"not calibrated, {dac} would be 0 and trigger on everything; calibrate it"
            value = f"{self._board}, quadrant {q}: {line[0]} = {line[1]} = 0"
            self._fault(f"$.quadrants[{q}].{line[0]}", value, remedy)
            return 0
        counts = slope * self._gain * pe + pedestal
        if not 0 <= counts < DAC_MAX + 1:
            value = f"{self._board}, quadrant {q}: {dac} = {counts:g}"
            remedy = (
                f"outside 0..{DAC_MAX} at {pe:g} photoelectrons and gain {self._gain:g};"
                " change pe_threshold or gain of data_config.json, or calibrate the board"
            )
            self._fault(f"$.quadrants[{q}]", value, remedy)
            return 0
        return int(counts)

    def gains(self, board_version: str) -> Registers:
        """GAIN0..63: the gain with the correction of the pixel that each channel reads."""
        result: Registers = {}
        wrong: list[tuple[int, int, int, int]] = []
        for channel in range(CHANNELS):
            values = []
            for chip in range(CHIPS):
                x, y = maroc_to_pixel(board_version, channel, chip)
                gain = round(self._gain * (1 + self._calibration.pixel_gain[x][y]))
                values.append(gain)
                if not 0 <= gain <= GAIN_MAX:
                    wrong.append((x, y, chip, gain))
            result[f"GAIN{channel}"] = _four(values)
        if wrong:
            x, y, chip, gain = min(wrong)
            more = f" (and {len(wrong) - 1} pixels more)" if len(wrong) > 1 else ""
            value = f"{self._board}, quadrant {chip}: gain = {gain}{more}"
            remedy = f"outside 0..{GAIN_MAX} at gain {self._gain:g} of data_config.json; lower it"
            self._fault(f"$.pixel_gain[{x}][{y}]", value, remedy)
        return result

    def _fault(self, path: str, value: str, remedy: str) -> None:
        self.faults.append(Fault(self._calibration.file, path, value, remedy))


def _four(values: Iterable[int]) -> Codes:
    first, second, third, fourth = values
    return first, second, third, fourth


def priming_acquisition() -> Acquisition:
    """The PH mode that primes a board for PRIMING_S seconds."""
    return Acquisition(AcqMode.PH, PRIMING_INTERVAL_FIELD)


def acquisition(data: DataConfig) -> Acquisition:
    """The acquisition command that starts the data flow."""
    mode, interval_field = AcqMode(0), 0
    if data.pulse_height is not None:
        mode |= AcqMode.PH
    if data.image is not None:
        mode |= AcqMode.IMAGE
        if data.image.bits == 8:
            mode |= AcqMode.IMAGE_8BIT
        interval_field = data.image.integration_time_us - 1
    return Acquisition(
        mode,
        interval_field,
        stim_on=int(data.stim is not None),
        stim_level=data.stim.level if data.stim else 0,
        stim_rate=data.stim.rate if data.stim else 0,
        flash_rate=data.flash.rate if data.flash else 0,
        flash_level=data.flash.level if data.flash else 0,
        flash_width=data.flash.width if data.flash else 0,
    )


def stop_acquisition() -> Acquisition:
    """The acquisition command that ends the data flow (mode 0 would trigger one event more)."""
    return Acquisition(AcqMode.NO_BASELINE)


def masks(base: QuaboConfig, data: DataConfig) -> tuple[ChannelMask, GoeMask]:
    """Trigger masks: `base` with any-trigger and coincidence of this data config."""
    ors, goe = base.channel_mask[8], base.goe_mask
    ph = data.pulse_height
    if ph is not None:
        ors = ors & ~ANY_TRIGGER if ph.any_trigger else ors | ANY_TRIGGER
        if ph.coincidence:
            ors |= ALL_ORS
        if ph.two_pixel_trigger:
            goe &= GOE_TWO_PIXELS
        if ph.three_pixel_trigger:
            goe &= GOE_THREE_PIXELS
    return ChannelMask((*base.channel_mask[:8], ors)), GoeMask(goe)


def hv_codes(nominal_v: tuple[float, float, float, float], temp_c: float) -> Codes:
    """HV codes at a detector temperature in degC, from the bias at 25 degC in V.

    ValueError when a code is outside 0..65535.
    """
    rise_v = (temp_c - REFERENCE_C) * BIAS_V_PER_K
    counts = [(volts + rise_v + HV_OFFSET_V) / HV_V_PER_CODE for volts in nominal_v]
    for chip, count in enumerate(counts):
        if not (math.isfinite(count) and 0 <= count < HV_CODE_MAX + 1):
            raise ValueError(f"HV code {count:g} of detector {chip} is outside 0..{HV_CODE_MAX}")
    return _four(int(count) for count in counts)


def set_point_v(code: int) -> float:
    """The magnitude of the bias that an HV code asks for, V."""
    return max(0.0, code * HV_V_PER_CODE - HV_OFFSET_V)


def data_rate_bytes_s(data: DataConfig) -> float:
    """Bytes per second that one module records (images, 1 PH event/s/board, HK)."""
    rate = HK_BYTES_S
    if data.image is not None:
        frame_bytes = IMAGE_PIXELS * data.image.bits // 8 + IMAGE_HEADER_BYTES
        rate += data.image.frames_per_second * frame_bytes
    if data.pulse_height is not None:
        rate += PH_BYTES_S
    return rate

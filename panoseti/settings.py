"""From the configs and the calibration to what the boards are told: pure arithmetic.

Formulas and scales: spec of the configs, section 8 (thresholds, gains, masks, HV, data rate).
"""

from __future__ import annotations

from panoseti import commands
from panoseti.quabo_config import QuaboConfig
from panoseti.site import Calibration, DataConfig

Registers = dict[str, tuple[int, int, int, int]]
Codes = tuple[int, int, int, int]

PRIMING_PE = 5.5
PRIMING_S = 1.0
PRIMING_INTERVAL_FIELD = 4999


def calibration_mode(data: DataConfig) -> str:
    """Which calibration folder applies: "img" when only images are recorded, else "ph"."""
    raise NotImplementedError


def maroc_registers(
    base: QuaboConfig, calibration: Calibration, board_version: str, data: DataConfig, board: str
) -> Registers:
    """All MAROC tags of a board, `base` with thresholds, gains and D1_D2 of this data config.

    board: its name in messages.  ConfigError names board, file, quadrant and value when a DAC
    falls outside 0..1023, a gain outside 0..255, or the PH line is not calibrated (ah = bh = 0).
    """
    raise NotImplementedError


def priming_registers(
    base: QuaboConfig, calibration: Calibration, board_version: str, data: DataConfig, board: str
) -> Registers | None:
    """As maroc_registers with DAC2 for 5.5 pe; None when no priming is needed (no PH)."""
    raise NotImplementedError


def priming_acquisition() -> commands.Acquisition:
    """The PH mode that primes a board for PRIMING_S seconds."""
    raise NotImplementedError


def acquisition(data: DataConfig) -> commands.Acquisition:
    """The acquisition command that starts the data flow."""
    raise NotImplementedError


def stop_acquisition() -> commands.Acquisition:
    """The acquisition command that ends the data flow."""
    raise NotImplementedError


def masks(base: QuaboConfig, data: DataConfig) -> tuple[commands.ChannelMask, commands.GoeMask]:
    """Trigger masks: `base` with any-trigger and coincidence of this data config."""
    raise NotImplementedError


def hv_codes(nominal_v: tuple[float, float, float, float], temp_c: float) -> Codes:
    """HV codes at a detector temperature in degC, from the bias at 25 degC in V.

    ValueError when a code is outside 0..65535.
    """
    raise NotImplementedError


def hv_switch_on_codes(nominal_v: tuple[float, float, float, float]) -> Codes:
    """HV codes of the one-shot command, without temperature (scale 1.14 mV per count)."""
    raise NotImplementedError


def data_rate_bytes_s(data: DataConfig) -> float:
    """Bytes per second that one module records (images, 1 PH event/s/board, HK)."""
    raise NotImplementedError

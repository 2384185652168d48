"""The slow side of a simulated quabo: its high-voltage supply and its housekeeping values."""

from __future__ import annotations

from dataclasses import dataclass, field

from panoseti.boards import packets
from simulator.flash import Firmware
from simulator.sky import mix

# What the field's updater believes: V = code * 1.1453 mV - 1.073 V (detector bias, magnitude).
VOLTS_PER_CODE, VOLTS_OFFSET = 1.1453e-3, 1.073
RAW_SUPPLY_V = 72.5
SLEW_V_PER_S = 200.0
# Housekeeping words: value = count * factor (HVIMON counts down from 65535).
HV_V, HV_A = 1.22e-3, 38.1e-9
DETECTOR_A = 0.4e-6  # of a detector above its breakdown voltage
UNFILLED_UID = 0x1716151413121110  # firmware leaves the UID words as they are
_SUPPLIES = {  # nominal value, factor
    "v12mon": (1.18, 19.07e-6),
    "v18mon": (1.79, 38.14e-6),
    "v33mon": (3.28, 76.2e-6),
    "v37mon": (3.71, 76.2e-6),
    "i10mon": (1.46, 182e-6),
    "i18mon": (0.364, 37.8e-6),
    "i33mon": (0.131, 37.8e-6),
    "vccint": (0.988, 3 / 65536),
    "vccaux": (1.785, 3 / 65536),
}

Volts = tuple[float, float, float, float]
OFF: Volts = (0.0, 0.0, 0.0, 0.0)


@dataclass
class HvSupply:
    """Four bias voltages (magnitudes, V) that run to their set points at SLEW_V_PER_S."""

    time_scale: float = 1.0
    enabled: bool = False
    codes: tuple[int, ...] = (0, 0, 0, 0)
    _start: Volts = OFF
    _start_s: float = 0.0
    _target: Volts = OFF
    _later: list[tuple[float, Volts]] = field(default_factory=list)

    def set_codes(self, codes: tuple[int, ...], now_s: float) -> None:
        """Obey a set command; it also switches the supply on."""
        self.enabled, self.codes = True, codes
        interrupted = [when for when, _ in self._later if when > now_s]
        if interrupted:  # the board restores HV at its own time, with the new codes
            self._later = [(interrupted[-1], self._wanted())]
        else:
            self._run_to(self._wanted(), now_s)

    def interrupt(self, now_s: float, until_s: float) -> None:
        """Off now, back at `until_s`: what the PH baseline does."""
        self._run_to(OFF, now_s)
        self._later = [(until_s, self._wanted())]

    def switch_off(self) -> None:
        """What losing power or a reboot does."""
        self.enabled, self.codes = False, (0, 0, 0, 0)
        self._start, self._target, self._later = OFF, OFF, []

    def _wanted(self) -> Volts:
        first, second, third, fourth = (
            min(RAW_SUPPLY_V, max(0.0, code * VOLTS_PER_CODE - VOLTS_OFFSET)) if code else 0.0
            for code in self.codes
        )
        return first, second, third, fourth

    def _run_to(self, target: Volts, when_s: float) -> None:
        self._start, self._start_s = self._at(when_s), when_s
        self._target = target

    def _at(self, now_s: float) -> Volts:
        step = SLEW_V_PER_S * self.time_scale * max(0.0, now_s - self._start_s)
        first, second, third, fourth = (
            start + max(-step, min(step, target - start))
            for start, target in zip(self._start, self._target, strict=True)
        )
        return first, second, third, fourth

    def volts(self, now_s: float) -> Volts:
        """The four voltages at this time."""
        while self._later and self._later[0][0] <= now_s:
            when_s, target = self._later.pop(0)
            self._run_to(target, when_s)
        return self._at(now_s)

    def next_change_s(self, now_s: float) -> float | None:
        """When the voltages will have settled, or change next; None when they stay."""
        volts = self.volts(now_s)
        rest = max(abs(goal - volt) for goal, volt in zip(self._target, volts, strict=True))
        times = [when for when, _ in self._later]
        if rest > 0:
            times.append(now_s + rest / (SLEW_V_PER_S * self.time_scale) + 1e-3)
        return min(times, default=None)


@dataclass(frozen=True)
class Readings:
    """What a housekeeping packet reports; temperatures in degC, voltages in V."""

    boardloc: int
    volts: Volts
    supply_on: bool
    hv_on: tuple[bool, ...]
    temp1_c: float
    temp2_c: float
    shutter_open: bool
    light: bool
    pcbrev_n: int
    firmware: Firmware
    first_after_boot: bool
    count: int
    hvimon_a: float | None = None  # what HVIMON says instead of the truth


def _word(value: float, factor: float, jitter: int = 0) -> int:
    return max(0, min(65535, round(value / factor) + jitter))


def hk_packet(readings: Readings) -> bytes:
    """The 64 bytes of a housekeeping packet; every packet's values differ a little."""
    noise = mix(readings.boardloc * 65536 + readings.count)

    def jitter(place: int) -> int:
        return (noise >> (4 * place) & 7) - 3

    truly_a = [
        volt / packets.BLEEDER_OHM + (DETECTOR_A if on else 0.0)
        for volt, on in zip(readings.volts, readings.hv_on, strict=True)
    ]
    said_a = truly_a if readings.hvimon_a is None else [readings.hvimon_a] * len(truly_a)
    currents = tuple(
        65535 - _word(ampere, HV_A, jitter(4 + chip)) for chip, ampere in enumerate(said_a)
    )
    supplies = {
        name: _word(nominal, factor, jitter(place))
        for place, (name, (nominal, factor)) in enumerate(_SUPPLIES.items())
    }
    monitors = tuple(
        _word(volt, HV_V, jitter(chip) if volt > 1 else 0)
        for chip, volt in enumerate(readings.volts)
    )
    return packets.build_hk(
        packets.HkPacket(
            boot=readings.first_after_boot,
            boardloc=readings.boardloc,
            hvmon=monitors,
            hvimon=currents,
            rawhvmon=_word(RAW_SUPPLY_V, HV_V, jitter(9)) if readings.supply_on else 0,
            temp1=round(readings.temp1_c / 0.25),
            temp2=_word(readings.temp2_c + 273.15, 1 / 130.04),
            uid=UNFILLED_UID,
            shutter_status=int(readings.shutter_open),
            light_sensor_status=int(readings.light),
            pcbrev_n=readings.pcbrev_n,
            fwtime=readings.firmware.time,
            fwver=readings.firmware.version,
            **supplies,
        )
    )

"""How far housekeeping of a board can be trusted: fresh, possible, steady, within limits.  Pure.

Whoever keeps high voltage on asks `BoardTrust` at every look.  Absent or old housekeeping is
unsafe at once: waiting for it was the patience.  A value that is impossible or jumps may be one
spoilt packet: of the last WINDOW packets ENOUGH must be bad before the board is unsafe, until
then nothing is changed.  A temperature beyond its limits is not excused by being odd: it counts
at once where it came step by step, and after ENOUGH packets where it came as a jump.

Limits: detectors -20..60 degC, FPGA 85 degC.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from panoseti.boards.packets import SENSOR_SIGN_C, TIME_FIELD, signed_detector_c

DETECTOR_MIN_C = -20.0
DETECTOR_MAX_C = 60.0
FPGA_MAX_C = 85.0
# The sensor (TMP125) measures -55..125 degC.
SENSOR_MIN_C = -55.0
FPGA_MIN_C = -60.0
# 16 bits of 1.22 mV.
HV_MAX_V = 80.0
# A record may be this far ahead of our clock (both are this computer's) before it is disbelieved.
FUTURE_S = 2.0

WINDOW, ENOUGH = 3, 2
# Packets come every 3 s, and what they tell of has mass; field data differ by less than 1 K.
JUMP_C = 10.0

CHIPS = 4
HVMON = tuple(f"HVMON{chip}" for chip in range(CHIPS))
# What of a record is looked at.
FIELDS = (TIME_FIELD, "BOARDLOC", "TEMP1", "TEMP2", *HVMON, "StartUp")

Volts = tuple[float, float, float, float]


@dataclass(frozen=True)
class Reading:
    """A fresh and possible HK record.

    utc_s: Unix time of its arrival; detector_c, fpga_c: degC; hv_v: magnitudes of the four bias
    voltages; booted: it is the first one after a boot.
    """

    utc_s: float
    detector_c: float
    fpga_c: float
    hv_v: Volts
    booted: bool = False


@dataclass(frozen=True)
class Blind:
    """The state of a board is not known; `reason` says why."""

    reason: str


@dataclass(frozen=True)
class Odd:
    """A fresh record that says something impossible; hv_v is None where that is the bias."""

    utc_s: float
    reason: str
    hv_v: Volts | None = None
    booted: bool = False


@dataclass(frozen=True)
class Safe:
    """The board may have high voltage."""

    reading: Reading


@dataclass(frozen=True)
class Doubt:
    """Not known well enough to raise the high voltage, not bad enough to switch it off."""

    reason: str


@dataclass(frozen=True)
class OverLimit:
    """A temperature is beyond its limits: off for good."""

    reason: str


Verdict = Safe | Doubt | Blind | OverLimit


@dataclass(frozen=True)
class HvSeen:
    """What the last fresh record says of the bias: arrival (Unix time, s), magnitudes in V."""

    utc_s: float
    volts: Volts
    booted: bool = False


def read_hk(
    record: Mapping[str, str], boardloc: int, now_unix: float, max_age_s: float
) -> Reading | Odd | Blind:
    """What an HK record (`QUABO_<boardloc>` of the store) tells at Unix time `now_unix`."""
    if not record:
        return Blind("no HK record")
    try:
        utc_s = _number(record, TIME_FIELD)
    except ValueError as error:
        return Blind(f"impossible HK: {error}")
    age_s = now_unix - utc_s
    if age_s > max_age_s:
        return Blind(f"HK is {age_s:.1f} s old (limit {max_age_s:g} s)")
    if age_s < -FUTURE_S:
        return Blind(f"impossible HK: dated {-age_s:.1f} s in the future")
    booted = record.get("StartUp") == "1"
    try:
        hv_v = _volts(record)
    except ValueError as error:
        return Odd(utc_s, f"impossible HK: {error}", None, booted)
    try:
        detector_c, fpga_c = _temperatures(record, boardloc)
    except ValueError as error:
        return Odd(utc_s, f"impossible HK: {error}", hv_v, booted)
    return Reading(utc_s, detector_c, fpga_c, hv_v, booted)


def _number(record: Mapping[str, str], name: str) -> float:
    try:
        value = float(record[name])
    except (KeyError, ValueError):
        raise ValueError(f"{name} is {record.get(name, 'absent')!r}") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} is {record[name]}")
    return value


def _volts(record: Mapping[str, str]) -> Volts:
    first, second, third, fourth = (abs(_number(record, name)) for name in HVMON)
    volts = first, second, third, fourth
    for name, value in zip(HVMON, volts, strict=True):
        if value > HV_MAX_V:
            raise ValueError(f"{name} is {record[name]} V")
    return volts


def _temperatures(record: Mapping[str, str], boardloc: int) -> tuple[float, float]:
    if _number(record, "BOARDLOC") != boardloc:
        raise ValueError(f"BOARDLOC is {record['BOARDLOC']}, not {boardloc}")
    detector_c, fpga_c = signed_detector_c(_number(record, "TEMP1")), _number(record, "TEMP2")
    if not SENSOR_MIN_C <= detector_c < SENSOR_SIGN_C:
        raise ValueError(f"TEMP1 is {record['TEMP1']} degC")
    if fpga_c < FPGA_MIN_C:
        raise ValueError(f"TEMP2 is {record['TEMP2']} degC")
    return detector_c, fpga_c


def limit_fault(reading: Reading) -> str | None:
    """Which limit a reading is beyond: detectors too cold or hot, FPGA too hot; None = none."""
    if not DETECTOR_MIN_C <= reading.detector_c <= DETECTOR_MAX_C:
        return (
            f"detector temperature {reading.detector_c:.2f} degC is outside"
            f" {DETECTOR_MIN_C:g}..{DETECTOR_MAX_C:g} degC"
        )
    if reading.fpga_c > FPGA_MAX_C:
        return f"FPGA temperature {reading.fpga_c:.2f} degC is above {FPGA_MAX_C:g} degC"
    return None


def jump(before: Reading, after: Reading) -> str | None:
    """What has changed faster between two readings than a temperature can; None = nothing."""
    for name, old, new in (
        ("TEMP1", before.detector_c, after.detector_c),
        ("TEMP2", before.fpga_c, after.fpga_c),
    ):
        if abs(new - old) > JUMP_C:
            return f"{name} jumped from {old:.2f} to {new:.2f} degC"
    return None


@dataclass
class _Packet:
    reading: Reading | None
    fault: str


class BoardTrust:
    """The last packets of one board, and what follows from them.

    hv: the bias as the last fresh record shows it, None while there is none.  Nothing is
    believed before WINDOW packets in a row agree; after a gap that begins anew.
    """

    def __init__(self, boardloc: int, max_age_s: float) -> None:
        self.hv: HvSeen | None = None
        self._boardloc = boardloc
        self._max_age_s = max_age_s
        self._packets: list[_Packet] = []
        self._reference: Reading | None = None
        self._utc_s: float | None = None
        self._changed_s = 0.0
        self._verdict: Verdict = Blind("not looked at yet")

    def lost(self, reason: str) -> Blind:
        """Nothing can be read at all (Redis is gone)."""
        self.hv, self._packets, self._reference, self._utc_s = None, [], None, None
        return Blind(reason)

    def take(self, record: Mapping[str, str], now_unix: float, now_s: float) -> Verdict:
        """Judge the latest record at Unix time `now_unix` and at `now_s` of a monotonic clock.

        The second clock finds a record that stands still while somebody sets the first one.
        """
        seen = read_hk(record, self._boardloc, now_unix, self._max_age_s)
        if isinstance(seen, Blind):
            return self.lost(seen.reason)
        if seen.utc_s != self._utc_s:
            self._utc_s, self._changed_s = seen.utc_s, now_s
            self._verdict = self._judge(seen)
        elif now_s - self._changed_s > self._max_age_s:
            reason = f"no new HK for {now_s - self._changed_s:.1f} s (limit {self._max_age_s:g} s)"
            utc_s = self._utc_s
            blind = self.lost(reason)
            self._utc_s, self._verdict = utc_s, blind
            return blind
        return self._verdict

    def _judge(self, seen: Reading | Odd) -> Verdict:
        self.hv = None if seen.hv_v is None else HvSeen(seen.utc_s, seen.hv_v, seen.booted)
        self._packets = [*self._packets, self._packet(seen)][-WINDOW:]
        self._learn()
        newest = self._packets[-1]
        faults = [limit_fault(p.reading) for p in self._packets if p.reading is not None]
        over = [fault for fault in faults if fault is not None]
        newest_fault = None if newest.reading is None else limit_fault(newest.reading)
        if newest_fault is not None and (not newest.fault or len(over) >= ENOUGH):
            return OverLimit(newest_fault)
        if len(over) >= ENOUGH:
            return OverLimit(over[-1])
        bad = [packet.fault for packet in self._packets if packet.fault]
        if len(bad) >= ENOUGH:
            return Blind(f"{bad[-1]} ({len(bad)} of the last {WINDOW} HK packets are bad)")
        if newest.fault:
            return Doubt(newest.fault)
        if self._reference is None or newest.reading is None:
            return self._not_yet()
        return Safe(newest.reading)

    def _packet(self, seen: Reading | Odd) -> _Packet:
        if isinstance(seen, Odd):
            return _Packet(None, seen.reason)
        jumped = None if self._reference is None else jump(self._reference, seen)
        if self._reference is None and limit_fault(seen) is not None:
            jumped = limit_fault(seen)  # nothing to compare with: one packet is not yet believed
        return _Packet(seen, jumped or "")

    def _learn(self) -> None:
        """The temperature to compare the next packet with: of a good packet, or of WINDOW alike."""
        newest = self._packets[-1]
        if self._reference is not None and newest.reading is not None and not newest.fault:
            self._reference = newest.reading
            return
        readings = [p.reading for p in self._packets if p.reading is not None]
        within = all(limit_fault(reading) is None for reading in readings)
        pairs = zip(readings, readings[1:], strict=False)
        if len(readings) == WINDOW and within and not any(jump(a, b) for a, b in pairs):
            self._reference = readings[-1]
            self._packets = [_Packet(reading, "") for reading in readings]

    def _not_yet(self) -> Verdict:
        if len(self._packets) < WINDOW:
            return Doubt(f"{len(self._packets)} of {WINDOW} HK packets seen")
        return Blind(f"the last {WINDOW} HK packets do not agree")

"""What boards send, bytes to values and back: housekeeping, focus reports, replies, UIDs.

Pure.  All fields are little-endian.  parse_* raise ValueError for what no board sends.  Science
packets have science_packets.py.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

UID_BYTES = 8
MAC_BYTES = 6
NO_MAC = b"\xff" * MAC_BYTES
PIXELS = 256

# --- UIDs ---


def uid_text(data: bytes) -> str:
    """UID string of the 8 bytes of /flashuid: a signed number in hex without leading zeros."""
    if len(data) != UID_BYTES:
        raise ValueError(f"a flash UID has {UID_BYTES} bytes, not {len(data)}")
    return f"{int.from_bytes(data, 'little', signed=True):x}"


def uid_bytes(text: str) -> bytes:
    """The 8 bytes of a UID string."""
    try:
        return int(text, 16).to_bytes(UID_BYTES, "little", signed=True)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no flash UID") from None


# --- housekeeping ---

HK_BYTES = 64
HK_TYPE = 0x20
BOOT_BYTE = 0xAA
BLEEDER_OHM = 0.499e6
HVMON_V_PER_COUNT = 1.22e-3
# type, boot, BOARDLOC, HVMON, HVIMON, RAWHVMON .. I33MON, TEMP1, TEMP2 .. VCCAUX, UID, shutter
# and light bits, PCBREV_N, unused, FWTIME, FWVER
_HK = struct.Struct("<BBH4H4H8HhHHHQBBHI4s")
_SHUTTER_BIT, _LIGHT_BIT = 1, 2


@dataclass(frozen=True)
class HkPacket:
    """A housekeeping packet, numbers as the board sends them (16-bit words; temp1 is signed).

    boot: the first packet since the board's CPU started.  uid: not filled by the firmware.
    fwver: as text, such as "0208".
    """

    boot: bool
    boardloc: int
    hvmon: tuple[int, ...]
    hvimon: tuple[int, ...]
    rawhvmon: int
    v12mon: int
    v18mon: int
    v33mon: int
    v37mon: int
    i10mon: int
    i18mon: int
    i33mon: int
    temp1: int
    temp2: int
    vccint: int
    vccaux: int
    uid: int
    shutter_status: int
    light_sensor_status: int
    pcbrev_n: int
    fwtime: int
    fwver: str


def build_hk(packet: HkPacket) -> bytes:
    """The 64 bytes of a housekeeping packet; ValueError when a value does not fit."""
    version = packet.fwver.encode("ascii")
    if len(version) != 4:
        raise ValueError(f"firmware version {packet.fwver!r} has not four characters")
    bits = _SHUTTER_BIT * bool(packet.shutter_status) | _LIGHT_BIT * bool(
        packet.light_sensor_status
    )
    p = packet
    try:
        return _HK.pack(
            HK_TYPE, BOOT_BYTE if p.boot else 0, p.boardloc, *p.hvmon, *p.hvimon, p.rawhvmon,
            p.v12mon, p.v18mon, p.v33mon, p.v37mon, p.i10mon, p.i18mon, p.i33mon,
            p.temp1, p.temp2, p.vccint, p.vccaux, p.uid, bits, bool(p.pcbrev_n), 0,
            p.fwtime, version[::-1],
        )  # fmt: skip
    except struct.error as error:
        raise ValueError(f"{packet}: {error}") from None


def parse_hk(data: bytes) -> HkPacket:
    """The housekeeping packet in a datagram."""
    if len(data) != HK_BYTES:
        raise ValueError(f"a housekeeping packet has {HK_BYTES} bytes, not {len(data)}")
    if data[0] != HK_TYPE:
        raise ValueError(f"first byte is {data[0]:#04x}, not {HK_TYPE:#04x} of housekeeping")
    values = _HK.unpack(data)
    words, (uid, bits, pcbrev, _, fwtime, version) = values[11:23], values[23:]
    fields: tuple[Any, ...] = (
        values[1] == BOOT_BYTE, values[2], values[3:7], values[7:11], *words,
        uid, int(bool(bits & _SHUTTER_BIT)), int(bool(bits & _LIGHT_BIT)), pcbrev & 1,
        fwtime, version[::-1].decode("ascii", "backslashreplace"),
    )  # fmt: skip
    return HkPacket(*fields)


# When the computer received a packet, Unix time in s: what makes a hash of the store a record.
TIME_FIELD = "Computer_UTC"


def hvmon_v(packet: HkPacket) -> tuple[float, float, float, float]:
    """The magnitudes of the four detectors' bias, V."""
    first, second, third, fourth = (n * HVMON_V_PER_COUNT for n in packet.hvmon)
    return first, second, third, fourth


def hk_record(packet: HkPacket) -> dict[str, int | float | str]:
    """The record of a packet as all recordings have it, without Computer_UTC.

    V, A, degC by the factors used in the field.  TEMP1 is as the board sends it: see
    signed_detector_c.  DETRn_CURR is HVIMONn without the current of the bleeder.
    """
    p = packet
    hv_v = [-n * 1.22 / 1e3 for n in p.hvmon]
    hv_a = [(65535 - n) * 38.1 / 1e9 for n in p.hvimon]
    # Divided by powers of ten rather than multiplied by their inverse: shorter text in hk.pff.
    record: dict[str, int | float | str] = {
        "BOARDLOC": p.boardloc,
        **{f"HVMON{chip}": volt for chip, volt in enumerate(hv_v)},
        **{f"HVIMON{chip}": ampere for chip, ampere in enumerate(hv_a)},
        "RAWHVMON": p.rawhvmon * 1.22 / 1e3,
        "V12MON": p.v12mon * 19.07 / 1e6,
        "V18MON": p.v18mon * 38.14 / 1e6,
        "V33MON": p.v33mon * 76.2 / 1e6,
        "V37MON": p.v37mon * 76.2 / 1e6,
        "I10MON": p.i10mon * 182 / 1e6,
        "I18MON": p.i18mon * 37.8 / 1e6,
        "I33MON": p.i33mon * 37.8 / 1e6,
        "TEMP1": p.temp1 * 0.25,
        "TEMP2": p.temp2 / 130.04 - 273.15,
        "VCCINT": p.vccint * 3 / 65536,
        "VCCAUX": p.vccaux * 3 / 65536,
        "UID": f"0x{p.uid:016x}",
        "SHUTTER_STATUS": p.shutter_status,
        "LIGHT_SENSOR_STATUS": p.light_sensor_status,
        "PCBREV_N": p.pcbrev_n,
        "FWTIME": f"0x{p.fwtime:08x}",
        "FWVER": p.fwver,
        "StartUp": int(p.boot),
    }
    text, level = aggregate_status(record)
    record |= {"AGG_STATUS_MSG": text, "AGG_STATUS_LEVEL": level}
    for chip, (volt, ampere) in enumerate(zip(hv_v, hv_a, strict=True)):
        record[f"DETR{chip}_CURR"] = ampere - abs(volt) / BLEEDER_OHM
    return record


# The sensor's 10-bit code of 0.25 degC comes without sign extension: -0.25 degC reads 255.75.
SENSOR_SIGN_C, SENSOR_SPAN_C = 128.0, 256.0


def signed_detector_c(temp1_c: float) -> float:
    """TEMP1 with the sign that the firmware drops: 128..256 degC are -128..0 degC."""
    if SENSOR_SIGN_C <= temp1_c < SENSOR_SPAN_C:
        return temp1_c - SENSOR_SPAN_C
    return temp1_c


STATUS_LEVELS = {"ok": 0, "info": 8, "warn": 16, "crit": 32}
Intervals = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class StatusRule:
    """One aspect of a record's status: the first state that matches wins.

    states: (status, [low, high) intervals one of the fields must lie in); None = else.
    """

    name: str
    fields: tuple[str, ...]
    states: tuple[tuple[str, Intervals | None], ...]

    def status(self, values: Sequence[float]) -> str:
        """Status of these values; "ok" when no state matches."""
        for status, intervals in self.states:
            if intervals is None or any(
                low <= value < high for value in values for low, high in intervals
            ):
                return status
        return "ok"


# The rules of metadata_status_monitor_config.json as the observatories use them.
HK_STATUS_RULES = (
    StatusRule(
        "FPGA_temp",
        ("TEMP2",),
        (("ok", ((5, 80),)), ("warn", ((0, 5), (80, 85))), ("crit", None)),
    ),
    StatusRule(
        "detr_temp",
        ("TEMP1",),
        (("ok", ((-10, 55),)), ("warn", ((-20, 10), (55, 60))), ("crit", None)),
    ),
    StatusRule(
        "detr_hv",
        ("HVMON0", "HVMON1", "HVMON2", "HVMON3"),
        (("info", ((-15, 15),)), ("ok", None)),
    ),
)


def aggregate_status(
    record: Mapping[str, int | float | str], rules: Sequence[StatusRule] = HK_STATUS_RULES
) -> tuple[str, int]:
    """Text ("name:status," of each rule that is not ok, else "ok,") and level of an HK record.

    TEMP1 is judged with its sign.
    """
    text, level = "", 0
    for rule in rules:
        values = [float(record[field]) for field in rule.fields]
        if "TEMP1" in rule.fields:
            values = [signed_detector_c(value) for value in values]
        status = rule.status(values)
        if status != "ok":
            text += f"{rule.name}:{status},"
            level = max(level, STATUS_LEVELS[status])
    return text or "ok,", level


# --- focus report ---

FOCUS_REPORT_TYPE = 0x05
_FOCUS_REPORT = struct.Struct("<B3x4i44x")


@dataclass(frozen=True)
class FocusReport:
    """Where the focus stage was, how far it went and where it is, in steps.

    status: bit 0 recalibrated, bit 1 was in the upper end zone, bit 2 in the lower.
    """

    start: int
    moved: int
    final: int
    status: int


def build_focus_report(report: FocusReport) -> bytes:
    """The 64 bytes of a focus report (sent to the HK port)."""
    try:
        return _FOCUS_REPORT.pack(
            FOCUS_REPORT_TYPE, report.start, report.moved, report.final, report.status
        )
    except struct.error as error:
        raise ValueError(f"{report}: {error}") from None


def parse_focus_report(data: bytes) -> FocusReport:
    """The focus report in a datagram of the HK port."""
    if len(data) != _FOCUS_REPORT.size:
        raise ValueError(f"a focus report has {_FOCUS_REPORT.size} bytes, not {len(data)}")
    if data[0] != FOCUS_REPORT_TYPE:
        raise ValueError(f"first byte is {data[0]:#04x}, not that of a focus report")
    return FocusReport(*_FOCUS_REPORT.unpack(data)[1:])


# --- replies of the command port ---

PH_BASELINE_TYPE = 0x07
PH_FRAME_TYPE = 0x87
_PH_REPLY = struct.Struct(f"<B3x{PIXELS}H")


def build_ph_baseline(values: Sequence[int]) -> bytes:
    """The 516-byte reply to the PH baseline calibration: 256 raw ADC counts, readout order."""
    return _build_ph_reply(PH_BASELINE_TYPE, values)


def parse_ph_baseline(data: bytes) -> tuple[int, ...]:
    """The 256 baselines of the reply to the PH baseline calibration."""
    return _parse_ph_reply(PH_BASELINE_TYPE, "PH baseline", data)


def build_ph_frame(values: Sequence[int]) -> bytes:
    """The 516-byte reply to the command that reads one PH frame."""
    return _build_ph_reply(PH_FRAME_TYPE, values)


def parse_ph_frame(data: bytes) -> tuple[int, ...]:
    """The 256 values of the reply to the command that reads one PH frame."""
    return _parse_ph_reply(PH_FRAME_TYPE, "PH frame", data)


def _build_ph_reply(first_byte: int, values: Sequence[int]) -> bytes:
    try:
        return _PH_REPLY.pack(first_byte, *values)
    except struct.error as error:
        raise ValueError(f"PH values: {error}") from None


def _parse_ph_reply(first_byte: int, name: str, data: bytes) -> tuple[int, ...]:
    if len(data) != _PH_REPLY.size:
        raise ValueError(f"a {name} reply has {_PH_REPLY.size} bytes, not {len(data)}")
    if data[0] != first_byte:
        raise ValueError(f"first byte is {data[0]:#04x}, not {first_byte:#04x} of a {name} reply")
    return _PH_REPLY.unpack(data)[1:]


@dataclass(frozen=True)
class DestinationReply:
    """Ethernet addresses the board found for its data destinations; NO_MAC = no ARP answer."""

    ph_mac: bytes
    image_mac: bytes

    @property
    def ph_found(self) -> bool:
        """Whether the PH destination answered."""
        return self.ph_mac != NO_MAC

    @property
    def image_found(self) -> bool:
        """Whether the image destination answered."""
        return self.image_mac != NO_MAC


def build_destination_reply(ph_mac: bytes, image_mac: bytes) -> bytes:
    """The 12-byte reply to the data destination command."""
    if len(ph_mac) != MAC_BYTES or len(image_mac) != MAC_BYTES:
        raise ValueError(f"an Ethernet address has {MAC_BYTES} bytes")
    return ph_mac + image_mac


def parse_destination_reply(data: bytes) -> DestinationReply:
    """What the board says about its data destinations."""
    if len(data) != 2 * MAC_BYTES:
        raise ValueError(f"a data destination reply has {2 * MAC_BYTES} bytes, not {len(data)}")
    return DestinationReply(bytes(data[:MAC_BYTES]), bytes(data[MAC_BYTES:]))

"""The commands of a quabo, one class each: values in, bytes of UDP port 60000 out, and back.

Pure.  A command checks its values when it is made (ValueError names field, value and range), so
`bytes(command)` always is a packet a board takes.  All fields are little-endian.
"""

from __future__ import annotations

import ipaddress
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntFlag
from typing import ClassVar

COMMAND_BYTES = 64
ECHO_BIT = 0x80

CHIPS = 4
MAROC_BYTES = 492
MAROC_CHIP_BYTES = 104
MAROC_CHIP_SPACING = 128
MAROC_FIRST_BYTE = 4

MASK_WORDS = 9
PIXELS = 256
PH_BASELINE_BYTES = 2 + 2 * PIXELS
FOCUS_STEPS_MAX = 50000


class AcqMode(IntFlag):
    """What a board takes; no bit of PH and IMAGE set = stop."""

    PH = 0x01
    IMAGE = 0x02
    IMAGE_8BIT = 0x04
    NO_BASELINE = 0x10


class Command(ABC):
    """A command; compares by value, `bytes()` gives the packet without echo bit.

    opcode: byte 0.  name: what an operator reads.
    echoable: with bit 7 of byte 0 set the packet comes back unchanged, and to send it again is
    harmless; False where the board answers otherwise, moves something, or ignores bit 7.
    ignores_echo_bit: the board does not run the command when bit 7 is set.
    """

    opcode: ClassVar[int]
    name: ClassVar[str]
    echoable: ClassVar[bool] = True
    ignores_echo_bit: ClassVar[bool] = False

    @abstractmethod
    def __bytes__(self) -> bytes:
        """The packet, byte 0 without echo bit."""

    @classmethod
    @abstractmethod
    def from_packet(cls, data: bytes) -> Command:
        """The command of a packet whose type and length are right; ValueError otherwise."""

    @classmethod
    def check_length(cls, length: int) -> None:
        """ValueError when a packet of this command cannot have so many bytes."""
        if length != COMMAND_BYTES:
            raise ValueError(f"{cls.name} has {length} bytes instead of {COMMAND_BYTES}")

    def _packet(self, *fields: tuple[int, str, int | bytes]) -> bytes:
        """64 bytes with values at places: (offset, struct code, value)."""
        data = bytearray(COMMAND_BYTES)
        data[0] = self.opcode
        for offset, code, value in fields:
            struct.pack_into(f"<{code}", data, offset, value)
        return bytes(data)

    def _check(self, field: str, value: int, low: int, high: int) -> None:
        if isinstance(value, float) or not low <= value <= high:
            raise ValueError(f"{self.name}: {field} is {value}, not one of {low}..{high}")

    def _check_list(self, field: str, values: Sequence[int], count: int, high: int) -> None:
        if len(values) != count:
            raise ValueError(f"{self.name}: {field} has {len(values)} values instead of {count}")
        for index, value in enumerate(values):
            self._check(f"{field}[{index}]", value, 0, high)

    def _address(self, field: str, ip: str) -> bytes:
        try:
            return ipaddress.IPv4Address(ip).packed
        except ValueError as error:
            raise ValueError(f"{self.name}: {field}: {error}") from None


@dataclass(frozen=True)
class MarocSetup(Command):
    """The shift registers of the four MAROC chips (panoseti.boards.maroc knows the bits).

    chips: 104 bytes per chip; the top three bits of the last byte are not used.  With the echo
    bit the board returns what was shifted out, that is the load before this one.
    """

    opcode = 0x01
    name = "MAROC setup"
    echoable = False

    chips: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if len(self.chips) != CHIPS:
            raise ValueError(f"{self.name}: chips has {len(self.chips)} values instead of {CHIPS}")
        for index, chip in enumerate(self.chips):
            if len(chip) != MAROC_CHIP_BYTES:
                raise ValueError(
                    f"{self.name}: chips[{index}] has {len(chip)} bytes"
                    f" instead of {MAROC_CHIP_BYTES}"
                )

    def __bytes__(self) -> bytes:
        """492 bytes; those between the chips are zero."""
        data = bytearray(MAROC_BYTES)
        data[0] = self.opcode
        for place, chip in zip(self._places(), self.chips, strict=True):
            data[place : place + MAROC_CHIP_BYTES] = chip
        return bytes(data)

    @staticmethod
    def _places() -> range:
        return range(MAROC_FIRST_BYTE, MAROC_BYTES, MAROC_CHIP_SPACING)

    @classmethod
    def check_length(cls, length: int) -> None:
        """492 bytes."""
        if length != MAROC_BYTES:
            raise ValueError(f"{cls.name} has {length} bytes instead of {MAROC_BYTES}")

    @classmethod
    def from_packet(cls, data: bytes) -> MarocSetup:
        """Also for the answer to a load with echo bit."""
        return cls(tuple(bytes(data[place : place + MAROC_CHIP_BYTES]) for place in cls._places()))


@dataclass(frozen=True)
class SetHv(Command):
    """High voltage codes of detectors 0..3; also enables the supply.  0 = off."""

    opcode = 0x02
    name = "set HV"

    codes: tuple[int, ...]

    def __post_init__(self) -> None:
        self._check_list("codes", self.codes, CHIPS, 0xFFFF)

    def __bytes__(self) -> bytes:
        """The packet."""
        return self._packet(*((2 + 2 * chip, "H", code) for chip, code in enumerate(self.codes)))

    @classmethod
    def from_packet(cls, data: bytes) -> SetHv:
        """The command in these 64 bytes."""
        return cls(struct.unpack_from("<4H", data, 2))


@dataclass(frozen=True)
class Acquisition(Command):
    """Start (mode with PH or IMAGE) or stop taking data, test pulse, LED flasher.

    interval_field: integration time in us minus one.  hold1, hold2: 5 ns steps.  ph_stop_channel:
    69 in the field.  stim_rate: 190 * 2^n Hz.  flash_rate: 0 = 1 Hz with the PPS, 1..7 = 95 ..
    6104 Hz.  flash_level: 312 mV steps.  flash_width: 1.5 ns steps.  adc_clock_phase: ignored by
    the firmware.
    """

    opcode = 0x03
    name = "acquisition"

    mode: AcqMode
    interval_field: int = 0
    hold1: int = 0
    hold2: int = 0
    adc_clock_phase: int = 0
    ph_stop_channel: int = 69
    stim_on: int = 0
    stim_level: int = 0
    stim_rate: int = 0
    en_wr_uart: int = 0
    flash_rate: int = 0
    flash_level: int = 0
    flash_width: int = 0

    # offset, highest value
    _BYTES: ClassVar[dict[str, tuple[int, int]]] = {
        "hold1": (6, 15),
        "hold2": (8, 15),
        "adc_clock_phase": (10, 255),
        "ph_stop_channel": (12, 255),
        "stim_on": (14, 1),
        "stim_level": (16, 255),
        "stim_rate": (18, 7),
        "en_wr_uart": (20, 1),
        "flash_rate": (22, 7),
        "flash_level": (24, 31),
        "flash_width": (26, 15),
    }

    def __post_init__(self) -> None:
        known = AcqMode.PH | AcqMode.IMAGE | AcqMode.IMAGE_8BIT | AcqMode.NO_BASELINE
        if int(self.mode) & ~int(known):
            raise ValueError(f"{self.name}: mode is {int(self.mode):#04x}, with unknown bits")
        self._check("interval_field", self.interval_field, 0, 0xFFFF)
        for field, (_, high) in self._BYTES.items():
            self._check(field, getattr(self, field), 0, high)

    def __bytes__(self) -> bytes:
        """The packet."""
        numbers = ((at, "B", int(getattr(self, name))) for name, (at, _) in self._BYTES.items())
        return self._packet((2, "B", int(self.mode)), (4, "H", self.interval_field), *numbers)

    @classmethod
    def from_packet(cls, data: bytes) -> Acquisition:
        """The command in these 64 bytes."""
        numbers = {name: data[at] for name, (at, _) in cls._BYTES.items()}
        (interval,) = struct.unpack_from("<H", data, 4)
        return cls(AcqMode(data[2]), interval, **numbers)


@dataclass(frozen=True)
class _Bare(Command):
    """A command without parameters."""

    def __bytes__(self) -> bytes:
        return self._packet()

    @classmethod
    def from_packet(cls, data: bytes) -> Command:
        """The command; there is nothing else in the packet."""
        return cls()


@dataclass(frozen=True)
class Reset(_Bare):
    """Reset the state machines and the packet numbers."""

    opcode = 0x04
    name = "reset"


@dataclass(frozen=True)
class Focus(Command):
    """Move the focus stage; every packet of this type does, whatever else it was sent for.

    target_steps: 1..50000, 0 = recalibrate the zero.  shutter_bits: 1 open, 2 power (firmware up
    to 11.1), 4 LEDs of the limit switches.  end_zone, back_off: steps.  step_on, step_off: loop
    counts.  The board is deaf while the stage moves, then reports to the HK port.
    """

    opcode = 0x05
    name = "focus, fan, old shutter"
    echoable = False

    target_steps: int
    shutter_bits: int = 0
    fan_speed: int = 0
    end_zone: int = 300
    back_off: int = 200
    step_on: int = 10000
    step_off: int = 10000

    def __post_init__(self) -> None:
        self._check("target_steps", self.target_steps, 0, FOCUS_STEPS_MAX)
        self._check("shutter_bits", self.shutter_bits, 0, 7)
        self._check("fan_speed", self.fan_speed, 0, 15)
        for field in ("end_zone", "back_off", "step_on", "step_off"):
            self._check(field, getattr(self, field), 0, 0xFFFF)

    def __bytes__(self) -> bytes:
        """The packet."""
        return self._packet(
            (4, "H", self.target_steps),
            (6, "B", self.shutter_bits),
            (8, "B", self.fan_speed),
            (10, "H", self.end_zone),
            (12, "H", self.back_off),
            (14, "H", self.step_on),
            (16, "H", self.step_off),
        )

    @classmethod
    def from_packet(cls, data: bytes) -> Focus:
        """The command in these 64 bytes."""
        return cls(*struct.unpack_from("<HBxBx4H", data, 4))

    @classmethod
    def old_fan(cls, speed: int) -> Focus:
        """Fan speed 0..15 as the deployed tool sends it (with the echo bit).

        Hazard: to firmware with a focus stage it is a recalibration with zero step times.
        """
        return cls(0, fan_speed=speed, end_zone=0, back_off=0, step_on=0, step_off=0)

    @classmethod
    def old_shutter(cls, opened: bool, fan_speed: int = 0) -> tuple[Focus, Focus]:
        """The two packets, one second apart, that move the shutter of firmware up to 11.1.

        They set the fan as well.  Hazard: as that of old_fan.
        """
        bits, rest = 2 | int(opened), cls.old_fan(fan_speed)
        return replace(rest, shutter_bits=bits), rest


@dataclass(frozen=True)
class ChannelMask(Command):
    """Trigger masks: words 0..7 the 256 pixel triggers, word 8 the ORs (bits 0..7) and bit 8 the
    any-trigger input of the other boards; 1 = disabled.
    """

    opcode = 0x06
    name = "channel mask"

    words: tuple[int, ...]

    def __post_init__(self) -> None:
        self._check_list("words", self.words, MASK_WORDS, 0xFFFFFFFF)

    def __bytes__(self) -> bytes:
        """The packet."""
        return self._packet(*((4 + 4 * place, "I", word) for place, word in enumerate(self.words)))

    @classmethod
    def from_packet(cls, data: bytes) -> ChannelMask:
        """The command in these 64 bytes."""
        return cls(struct.unpack_from("<9I", data, 4))


@dataclass(frozen=True)
class CalibratePhBaseline(_Bare):
    """Measure the PH baseline and use it from now on; HV is off for about 1 s of the 2 s."""

    opcode = 0x07
    name = "calibrate PH baseline"
    echoable = False
    ignores_echo_bit = True


@dataclass(frozen=True)
class Shutter(Command):
    """Shutter of the module, sent to its quabo 1 (firmware above 11.1).

    value: as it goes out; the deployed software sends 0 to open and 1 to close.
    """

    opcode = 0x08
    name = "shutter"

    value: int

    def __post_init__(self) -> None:
        self._check("value", self.value, 0, 1)

    def __bytes__(self) -> bytes:
        """The packet."""
        return self._packet((1, "B", self.value))

    @classmethod
    def from_packet(cls, data: bytes) -> Shutter:
        """The command in these 64 bytes."""
        return cls(data[1])


@dataclass(frozen=True)
class Flasher(Command):
    """Which LED flasher is driven: 1 = the new one (as after power-up), 0 = the old one."""

    opcode = 0x09
    name = "flasher select"

    new: int

    def __post_init__(self) -> None:
        self._check("new", self.new, 0, 1)

    def __bytes__(self) -> bytes:
        """The packet."""
        return self._packet((1, "B", int(self.new)))

    @classmethod
    def from_packet(cls, data: bytes) -> Flasher:
        """The command in these 64 bytes; only bit 0 counts."""
        return cls(data[1] & 1)


@dataclass(frozen=True)
class DataDestination(Command):
    """Where PH and image packets go, from the next acquisition command on."""

    opcode = 0x0A
    name = "data destination"
    echoable = False

    ph_ip: str
    image_ip: str

    def __post_init__(self) -> None:
        self._address("ph_ip", self.ph_ip)
        self._address("image_ip", self.image_ip)

    def __bytes__(self) -> bytes:
        """The packet."""
        return self._packet(
            (1, "4s", self._address("ph_ip", self.ph_ip)),
            (5, "4s", self._address("image_ip", self.image_ip)),
        )

    @classmethod
    def from_packet(cls, data: bytes) -> DataDestination:
        """The command in these 64 bytes."""
        return cls(_ip_at(data, 1), _ip_at(data, 5))


@dataclass(frozen=True)
class HkDestination(Command):
    """Where housekeeping packets go."""

    opcode = 0x0B
    name = "HK destination"

    ip: str

    def __post_init__(self) -> None:
        self._address("ip", self.ip)

    def __bytes__(self) -> bytes:
        """The packet."""
        return self._packet((1, "4s", self._address("ip", self.ip)))

    @classmethod
    def from_packet(cls, data: bytes) -> HkDestination:
        """The command in these 64 bytes."""
        return cls(_ip_at(data, 1))


@dataclass(frozen=True)
class ReadPhFrame(_Bare):
    """Trigger and read one PH frame; HV is interrupted as in CalibratePhBaseline."""

    opcode = 0x0C
    name = "read PH frame"
    echoable = False


@dataclass(frozen=True)
class WritePhBaseline(Command):
    """Give the board its PH baseline: 256 values of 16 bits in readout order."""

    opcode = 0x0D
    name = "write PH baseline"

    values: tuple[int, ...]

    def __post_init__(self) -> None:
        self._check_list("values", self.values, PIXELS, 0xFFFF)

    def __bytes__(self) -> bytes:
        """514 bytes."""
        return struct.pack(f"<BB{PIXELS}H", self.opcode, 0, *self.values)

    @classmethod
    def check_length(cls, length: int) -> None:
        """At least 514 bytes."""
        if length < PH_BASELINE_BYTES:
            raise ValueError(f"{cls.name} has {length} bytes, less than {PH_BASELINE_BYTES}")

    @classmethod
    def from_packet(cls, data: bytes) -> WritePhBaseline:
        """The command in these bytes."""
        return cls(struct.unpack_from(f"<{PIXELS}H", data, 2))


@dataclass(frozen=True)
class GoeMask(Command):
    """Coincidence triggers: bit 0 masks that of two pixels, bit 1 that of three."""

    opcode = 0x0E
    name = "GOE mask"

    value: int

    def __post_init__(self) -> None:
        self._check("value", self.value, 0, 3)

    def __bytes__(self) -> bytes:
        """The packet."""
        return self._packet((4, "B", self.value))

    @classmethod
    def from_packet(cls, data: bytes) -> GoeMask:
        """The command in these 64 bytes; only two bits count."""
        return cls(data[4] & 3)


@dataclass(frozen=True)
class HkInterval(Command):
    """Send housekeeping every n times about 3 s, 0 = never; one packet comes at once."""

    opcode = 0x20
    name = "HK interval"
    echoable = False
    ignores_echo_bit = True

    n: int

    def __post_init__(self) -> None:
        self._check("n", self.n, 0, 255)

    def __bytes__(self) -> bytes:
        """The packet."""
        return self._packet((1, "B", self.n))

    @classmethod
    def from_packet(cls, data: bytes) -> HkInterval:
        """The command in these 64 bytes."""
        return cls(data[1])


COMMANDS: tuple[type[Command], ...] = (
    MarocSetup, SetHv, Acquisition, Reset, Focus, ChannelMask, CalibratePhBaseline, Shutter,
    Flasher, DataDestination, HkDestination, ReadPhFrame, WritePhBaseline, GoeMask, HkInterval,
)  # fmt: skip
_BY_OPCODE = {command.opcode: command for command in COMMANDS}


def _ip_at(data: bytes, offset: int) -> str:
    return str(ipaddress.IPv4Address(data[offset : offset + 4]))


def encode(command: Command, echo: bool = False) -> bytes:
    """The packet of a command, with the echo bit if wanted.

    ValueError for a command that a board does not run with that bit.
    """
    data = bytes(command)
    if not echo:
        return data
    if command.ignores_echo_bit:
        raise ValueError(f"{command.name}: boards do not run it with the echo bit")
    return bytes((data[0] | ECHO_BIT,)) + data[1:]


def decode(data: bytes) -> tuple[Command, bool]:
    """The command in a packet, and whether its echo bit is set.

    ValueError for what a board would not run: unknown type, wrong length, value out of range.
    Bytes and bits without a meaning are not looked at.
    """
    if not data:
        raise ValueError("an empty packet is no command")
    echo = bool(data[0] & ECHO_BIT)
    kind = _BY_OPCODE.get(data[0] & ~ECHO_BIT)
    if kind is None or (echo and kind.ignores_echo_bit):
        raise ValueError(f"{data[0]:#04x} is no command")
    kind.check_length(len(data))
    return kind.from_packet(data), echo

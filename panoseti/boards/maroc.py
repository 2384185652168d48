"""The 829-bit shift registers of a board's four MAROC3A chips: named values to bits and back.

A MAROC setup command (0x01) carries 104 bytes per chip; bit b of a chip's register is bit b % 8 of
byte b // 8, so the bytes are one little-endian number.  Pure: bytes and numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from panoseti.boards.commands import CHIPS, MAROC_CHIP_BYTES, MarocSetup

CHANNELS = 64
REGISTER_BITS = 829

Values = tuple[int, int, int, int]
"""A register's value in each chip, chip 0 first."""


class Tag(NamedTuple):
    """Where a named value lies: lowest bit, width; reversed = its highest bit lies lowest."""

    lsb: int
    width: int
    reversed: bool = False

    @property
    def highest(self) -> int:
        """The largest value."""
        return (1 << self.width) - 1


# Single bits in register order, each run of names from its lowest bit upwards.
_RUNS: tuple[tuple[int, str], ...] = (
    (0, "OTABG_ON DAC_ON SMALL_DAC"),
    (23, "ENB_OUT_ADC INV_START_GRAY RAMP8B RAMP10B"),
    (155, "CMD_CK_MUX D1_D2 INV_DISCR_ADC POLAR_DISCRI ENB3ST VAL_DC_FSB2"),
    (161, "SW_FSB2_50F SW_FSB2_100F SW_FSB2_100K SW_FSB2_50K VALID_DC_FS CMD_FSB_FSU"),
    (167, "SW_FSB1_50F SW_FSB1_100F SW_FSB1_100K SW_FSB1_50k"),
    (171, "SW_FSU_100K SW_FSU_50K SW_FSU_25K SW_FSU_40F SW_FSU_20F H1H2_CHOICE EN_ADC"),
    (178, "SW_SS_1200F SW_SS_600F SW_SS_300F ON_OFF_SS"),
    (182, "SWB_BUF_2P SWB_BUF_1P SWB_BUF_500F SWB_BUF_250F CMD_FSB CMD_SS CMD_FSU"),
)


def _tags() -> dict[str, Tag]:
    tags = {"DAC2": Tag(3, 10, True), "DAC1": Tag(13, 10, True)}
    for first, names in _RUNS:
        tags |= {name: Tag(first + n, 1) for n, name in enumerate(names.split())}
    tags = dict(sorted(tags.items(), key=lambda item: item[1].lsb))
    # Bit 756 - 9k beside each gain is unused and stays 0.
    tags |= {f"GAIN{k}": Tag(757 - 9 * k, 8, True) for k in range(CHANNELS)}
    tags |= {f"CTEST_{k}": Tag(828 - k, 1) for k in range(CHANNELS)}
    tags |= {f"MASKOR1_{k}": Tag(154 - 2 * k, 1) for k in range(CHANNELS)}
    tags |= {f"MASKOR2_{k}": Tag(153 - 2 * k, 1) for k in range(CHANNELS)}
    return tags


TAGS: Mapping[str, Tag] = _tags()
"""All 299 named values; k in a name is the MAROC channel 0..63."""


def _mirrored(value: int, width: int) -> int:
    return int(f"{value:0{width}b}"[::-1], 2)


def check_values(tag: str, values: Sequence[int]) -> None:
    """ValueError naming tag, chip, value and range unless it is a known tag with 4 values."""
    if tag not in TAGS:
        raise ValueError(f"{tag} is no MAROC tag")
    if len(values) != CHIPS:
        raise ValueError(f"{tag}: {len(values)} values instead of {CHIPS}, one per chip")
    for chip, value in enumerate(values):
        if not 0 <= value <= TAGS[tag].highest:
            raise ValueError(f"{tag} of chip {chip}: {value} is outside 0..{TAGS[tag].highest}")


def setup(registers: Mapping[str, Sequence[int]]) -> MarocSetup:
    """The command that loads these values; every tag must be there (a register has no "keep").

    ValueError names tag, chip, value and range, an unknown tag, or the tags that are missing.
    """
    missing = [tag for tag in TAGS if tag not in registers]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(f"no value for {', '.join(missing[:3])}{more}")
    bits = [0] * CHIPS
    for name, values in registers.items():
        check_values(name, values)
        tag = TAGS[name]
        for chip, value in enumerate(values):
            stored = _mirrored(value, tag.width) if tag.reversed else value
            bits[chip] |= stored << tag.lsb
    chips = [number.to_bytes(MAROC_CHIP_BYTES, "little") for number in bits]
    return MarocSetup(tuple(chips))


def registers(command: MarocSetup) -> dict[str, Values]:
    """The named values in a setup command (or in a read-back); unused bits are not looked at."""
    bits = [int.from_bytes(chip, "little") for chip in command.chips]
    found = {}
    for name, tag in TAGS.items():
        values = [number >> tag.lsb & tag.highest for number in bits]
        if tag.reversed:
            values = [_mirrored(value, tag.width) for value in values]
        found[name] = (values[0], values[1], values[2], values[3])
    return found


def _chip_bits(load: MarocSetup | bytes) -> list[int]:
    """The 829 bits of each chip in a setup command, or in the packet of one or of its reply."""
    if not isinstance(load, MarocSetup):
        MarocSetup.check_length(len(load))
        load = MarocSetup.from_packet(load)
    return [int.from_bytes(chip, "little") & (1 << REGISTER_BITS) - 1 for chip in load.chips]


def used_bits_equal(sent: MarocSetup | bytes, read: MarocSetup | bytes) -> bool:
    """Whether both hold the same 829 bits per chip: does a read-back confirm a load?

    Spare bits, the bytes between the chips and the type byte do not count.  ValueError for a
    wrong length.
    """
    return _chip_bits(sent) == _chip_bits(read)


def differing_tags(sent: MarocSetup | bytes, read: MarocSetup | bytes) -> tuple[str, ...]:
    """What a read-back has otherwise: "DAC1 of chip 2: 510, not 201"; empty when all is equal."""
    differences = []
    for chip, (want, have) in enumerate(zip(_chip_bits(sent), _chip_bits(read), strict=True)):
        wrong = want ^ have
        for name, tag in TAGS.items():
            span = tag.highest << tag.lsb
            if wrong & span:
                values = [(bits & span) >> tag.lsb for bits in (have, want)]
                if tag.reversed:
                    values = [_mirrored(value, tag.width) for value in values]
                differences.append(f"{name} of chip {chip}: {values[0]}, not {values[1]}")
            wrong &= ~span
        if wrong:
            lowest = (wrong & -wrong).bit_length() - 1
            differences.append(f"unused bit {lowest} of chip {chip}")
    return tuple(differences)

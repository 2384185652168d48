"""quabo_config.txt: the register defaults of all boards, and the record of what was loaded.

The text has one `tag=value` per line, '*' begins a comment, later lines win; a MAROC tag has four
values, one per chip.  Only thresholds, gains, D1_D2 and masks are replaced from data_config.json
and the calibration (settings.py).  Pure: text in, objects out.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from panoseti.boards import maroc
from panoseti.boards.commands import CHIPS, MASK_WORDS, AcqMode, Acquisition
from panoseti.errors import ConfigError, Fault

DEFAULT_CHANNEL_MASK = (0xFFFFFFFF,) * 8 + (0x155,)
DEFAULT_GOE_MASK = 3
HV_TAGS = tuple(f"HV_{chip}" for chip in range(CHIPS))
MASK_TAGS = tuple(f"CHANMASK_{word}" for word in range(MASK_WORDS))
GOE_TAG, MODE_TAG = "GOEMASK", "ACQMODE"

ACQUISITION_TAGS: Mapping[str, tuple[str, int]] = {
    "ACQINT": ("interval_field", 0xFFFF),
    "HOLD1": ("hold1", 15),
    "HOLD2": ("hold2", 15),
    "ADCCLKPH": ("adc_clock_phase", 255),
    "MONCHAN": ("ph_stop_channel", 0xFF),
    "STIMON": ("stim_on", 1),
    "STIM_LEVEL": ("stim_level", 255),
    "STIM_RATE": ("stim_rate", 7),
    "EN_WR_UART": ("en_wr_uart", 1),
    "FLASH_RATE": ("flash_rate", 7),
    "FLASH_LEVEL": ("flash_level", 31),
    "FLASH_WIDTH": ("flash_width", 15),
}
"""Tag -> field of the acquisition command and its largest value; the mode stands apart."""

_ALL_MODES = int(AcqMode.PH | AcqMode.IMAGE | AcqMode.IMAGE_8BIT | AcqMode.NO_BASELINE)
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")
_LIMITS: Mapping[str, int] = {
    **dict.fromkeys(HV_TAGS, 0xFFFF),
    **dict.fromkeys(MASK_TAGS, 0xFFFFFFFF),
    GOE_TAG: 3,
    MODE_TAG: _ALL_MODES,
    **{tag: highest for tag, (_, highest) in ACQUISITION_TAGS.items()},
}


@dataclass(frozen=True)
class QuaboConfig:
    """A quabo_config.txt without faults.

    registers: all MAROC tags; channel_mask: nine words; hv_codes and acquisition: for the expert
    tool alone, the acquisition interval exactly as sent; warnings: lines that were not used.
    """

    registers: Mapping[str, maroc.Values]
    channel_mask: tuple[int, ...] = DEFAULT_CHANNEL_MASK
    goe_mask: int = DEFAULT_GOE_MASK
    hv_codes: tuple[int, int, int, int] = (0, 0, 0, 0)
    acquisition: Acquisition = field(default_factory=lambda: Acquisition(AcqMode(0)))
    warnings: tuple[Fault, ...] = ()


def parse_quabo_config(text: str, name: str = "quabo_config.txt") -> QuaboConfig:
    """The register defaults in the text of a file called `name`.

    ConfigError carries every fault: line, value and range, and the MAROC tags that are missing.
    """
    return _Reader(name).read(text)


class _Reader:
    """Collects values, faults and warnings of one file."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._faults: list[Fault] = []
        self._warnings: list[Fault] = []
        self._registers: dict[str, maroc.Values] = {}
        self._numbers: dict[str, int] = {}
        self._seen: set[str] = set()

    def read(self, text: str) -> QuaboConfig:
        for number, line in enumerate(text.splitlines(), 1):
            self._line(f"line {number}", line.partition("*")[0].strip())
        missing = [tag for tag in maroc.TAGS if tag not in self._seen]
        if missing:
            remedy = "missing: each MAROC tag needs a line (a chip has no default of its own)"
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            self._faults.append(Fault(self._name, "$", ", ".join(missing[:3]) + more, remedy))
        if self._faults:
            raise ConfigError(self._faults)
        return self._result()

    def _line(self, place: str, line: str) -> None:
        if not line:
            return
        if line.count("=") != 1:
            self._warn(place, line, "not tag=value, not used; begin comments with '*'")
            return
        tag, value = (part.strip() for part in line.split("="))
        if tag in maroc.TAGS:
            self._seen.add(tag)
            self._maroc(place, tag, value)
        elif tag in _LIMITS:
            self._number(place, tag, value)
        else:
            near = difflib.get_close_matches(tag, [*maroc.TAGS, *_LIMITS], 1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            self._warn(place, line, f"unknown tag, not used{hint}")

    def _warn(self, place: str, value: str, remedy: str) -> None:
        self._warnings.append(Fault(self._name, place, value, remedy))

    def _fault(self, place: str, tag: str, value: str, remedy: str) -> None:
        self._faults.append(Fault(self._name, place, f"{tag}={value}", remedy))

    def _maroc(self, place: str, tag: str, value: str) -> None:
        items = [_number(item.strip()) for item in value.split(",")]
        highest = maroc.TAGS[tag].highest
        numbers = [item for item in items if item is not None and item <= highest]
        if len(items) != CHIPS or len(numbers) != CHIPS:
            remedy = f"must be {CHIPS} numbers 0..{highest} with commas, one per chip"
            self._fault(place, tag, value, remedy)
            return
        self._registers[tag] = (numbers[0], numbers[1], numbers[2], numbers[3])

    def _number(self, place: str, tag: str, value: str) -> None:
        number, highest = _number(value), _LIMITS[tag]
        if number is None or number > highest:
            shown = f"0x{highest:x}" if highest > 0xFFFF else str(highest)
            self._fault(place, tag, value, f"must be a number 0..{shown}, decimal or 0x-hex")
        elif tag == MODE_TAG and number & ~_ALL_MODES:
            self._fault(place, tag, value, "must be a sum of 0x1 PH, 0x2 image, 0x4 8-bit, 0x10")
        else:
            self._numbers[tag] = number

    def _result(self) -> QuaboConfig:
        def value(tag: str, default: int = 0) -> int:
            return self._numbers.get(tag, default)

        fields = {
            name: self._numbers[tag]
            for tag, (name, _) in ACQUISITION_TAGS.items()
            if tag in self._numbers
        }
        return QuaboConfig(
            registers={tag: self._registers[tag] for tag in maroc.TAGS},
            channel_mask=tuple(
                value(tag, default)
                for tag, default in zip(MASK_TAGS, DEFAULT_CHANNEL_MASK, strict=True)
            ),
            goe_mask=value(GOE_TAG, DEFAULT_GOE_MASK),
            hv_codes=(value("HV_0"), value("HV_1"), value("HV_2"), value("HV_3")),
            acquisition=Acquisition(AcqMode(value(MODE_TAG)), **fields),
            warnings=tuple(self._warnings),
        )


def _number(text: str) -> int | None:
    """A decimal or 0x-hex number; None when it is none (a sign is not allowed)."""
    if not _NUMBER.fullmatch(text):
        return None
    return int(text, 16 if text[:2].lower() == "0x" else 10)


def quabo_config_json(
    earlier: str = "",
    registers: Mapping[str, maroc.Values] | None = None,
    channel_mask: tuple[int, ...] | None = None,
    goe_mask: int | None = None,
    name: str = "quabo_config_<ip>.json",
) -> str:
    """The text of quabo_config_<ip>.json: what a board was last told.

    earlier: text of the file so far ("" = there is none), whose other entries are kept;
    ConfigError under `name` when it is not such a file.
    """
    entries = _entries(earlier, name) if earlier else {}
    if channel_mask is not None:
        words = zip(MASK_TAGS, channel_mask, strict=True)
        entries |= {tag: f"0x{word:x}" for tag, word in words}
    if goe_mask is not None:
        entries[GOE_TAG] = f"0x{goe_mask:x}"
    if registers is not None:
        entries |= {tag: ",".join(map(str, values)) for tag, values in registers.items()}
    return json.dumps(entries, indent=2) + "\n"


def _entries(text: str, name: str) -> dict[str, str]:
    try:
        entries = json.loads(text)
    except ValueError:
        entries = None
    if not isinstance(entries, dict) or not all(isinstance(v, str) for v in entries.values()):
        remedy = "not a record of loaded values (one object of strings); delete the file"
        raise ConfigError([Fault(name, "$", f"{len(text)} characters", remedy)])
    return entries

"""MAROC registers, wiring maps and register defaults: exact bytes, real tables, and round trips."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoseti.boards import maroc, pixel_maps
from panoseti.boards.commands import AcqMode, Acquisition, MarocSetup, encode
from panoseti.configs.board_files import SHIPPED
from panoseti.configs.quabo_config import QuaboConfig, parse_quabo_config, quabo_config_json
from panoseti.errors import ConfigError
from tests.helpers import golden, spec_data

SHIPPED_TEXT = (SHIPPED / "quabo_config.txt").read_text()
DEFAULTS = parse_quabo_config(SHIPPED_TEXT)
LOAD = maroc.setup(DEFAULTS.registers)
GOLDEN = golden("maroc_commands")["cases"]
UNUSED_BITS = sum(1 << (756 - 9 * k) for k in range(64))


def with_lines(*lines: str) -> QuaboConfig:
    return parse_quabo_config("\n".join((SHIPPED_TEXT, *lines)), "quabo_config.txt")


def faults_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_quabo_config(text, "quabo_config.txt")
    return [str(fault) for fault in caught.value.faults]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_golden_setup_commands(case: dict[str, Any]) -> None:
    lines = [f"{tag} = {value}" for tag, value in case["overrides"].items()]
    registers = with_lines(*lines).registers
    command = maroc.setup(registers)
    assert bytes(command).hex() == case["command_hex"]
    assert len(bytes(command)) == 492
    assert hashlib.sha256(bytes(command)).hexdigest() == case["sha256"]
    assert maroc.registers(command) == registers


def test_the_tags_fill_the_register() -> None:
    taken = [tag.lsb + n for tag in maroc.TAGS.values() for n in range(tag.width)]
    assert len(maroc.TAGS) == 299 and len(taken) == 765
    free = [bit for bit in range(829) if UNUSED_BITS >> bit & 1]
    assert sorted(taken + free) == list(range(829))


@pytest.mark.parametrize(
    ("tag", "value", "bits"),
    [
        ("OTABG_ON", 1, [0]),
        ("DAC2", 1, [12]),
        ("DAC2", 512, [3]),
        ("DAC1", 0b11, [21, 22]),
        ("RAMP10B", 1, [26]),
        ("MASKOR2_63", 1, [27]),
        ("MASKOR1_0", 1, [154]),
        ("D1_D2", 1, [156]),
        ("SW_FSB1_50k", 1, [170]),
        ("CMD_FSU", 1, [188]),
        ("GAIN63", 128, [190]),
        ("GAIN0", 1, [764]),
        ("CTEST_63", 1, [765]),
        ("CTEST_0", 1, [828]),
    ],
)
@pytest.mark.parametrize("chip", range(4))
def test_single_bits_lie_where_the_board_wants_them(
    tag: str, value: int, bits: list[int], chip: int
) -> None:
    registers = {name: [0, 0, 0, 0] for name in maroc.TAGS}
    registers[tag][chip] = value
    packet = bytes(maroc.setup(registers))
    found = [(at - 4, bit) for at in range(4, 492) for bit in range(8) if packet[at] >> bit & 1]
    assert sorted(found) == sorted((128 * chip + bit // 8, bit % 8) for bit in bits)


@given(
    st.lists(
        st.sampled_from(sorted(maroc.TAGS)).flatmap(
            lambda tag: st.tuples(
                st.just(tag), st.tuples(*[st.integers(0, maroc.TAGS[tag].highest)] * 4)
            )
        )
    )
)
def test_values_come_back(changes: list[tuple[str, maroc.Values]]) -> None:
    registers = dict(DEFAULTS.registers) | dict(changes)
    assert maroc.registers(maroc.setup(registers)) == registers


@given(st.tuples(*[st.integers(0, (1 << 829) - 1)] * 4))
def test_bits_come_back(numbers: tuple[int, ...]) -> None:
    chips = tuple((number & ~UNUSED_BITS).to_bytes(104, "little") for number in numbers)
    assert maroc.setup(maroc.registers(MarocSetup(chips))) == MarocSetup(chips)


@given(st.sampled_from(sorted(maroc.TAGS)), st.integers(0, 3), st.integers())
def test_no_value_wraps_or_spills(tag: str, chip: int, value: int) -> None:
    registers = {name: list(values) for name, values in DEFAULTS.registers.items()}
    registers[tag][chip] = value
    if 0 <= value < 1 << maroc.TAGS[tag].width:
        assert maroc.registers(maroc.setup(registers))[tag][chip] == value
    else:
        with pytest.raises(ValueError, match=rf"^{tag} of chip {chip}: {value} is outside 0\.\."):
            maroc.setup(registers)


def test_unknown_missing_and_short_are_refused() -> None:
    registers = dict(DEFAULTS.registers)
    with pytest.raises(ValueError, match="GAIN64 is no MAROC tag"):
        maroc.setup(registers | {"GAIN64": (1, 1, 1, 1)})
    with pytest.raises(ValueError, match="DAC1: 3 values instead of 4"):
        maroc.setup(registers | {"DAC1": (1, 1, 1)})
    del registers["DAC1"]
    with pytest.raises(ValueError, match="no value for DAC1$"):
        maroc.setup(registers)
    with pytest.raises(ValueError, match="no value for OTABG_ON, DAC_ON, SMALL_DAC and 296 more"):
        maroc.setup({})


def read_back(load: MarocSetup, spare: int = 0) -> bytearray:
    """What a board that was loaded twice answers: echo type, spare bits undefined."""
    data = bytearray(encode(load, echo=True))
    for chip in range(4):
        data[4 + 128 * chip + 103] |= spare
    return data


def test_a_read_back_is_compared_in_the_used_bits() -> None:
    data = read_back(LOAD, 0xE0)
    assert maroc.used_bits_equal(LOAD, bytes(data))
    assert maroc.differing_tags(LOAD, bytes(data)) == ()
    data[4 + 128 * 2 + 1] ^= 1 << 4  # bit 12: lowest bit of DAC2
    data[388 + 103] ^= 1 << 4  # bit 828
    data[4] ^= 1
    data[132 + 94] ^= 1 << 4  # bit 756
    assert not maroc.used_bits_equal(LOAD, bytes(data))
    assert maroc.differing_tags(LOAD, bytes(data)) == (
        "OTABG_ON of chip 0: 0, not 1",
        "unused bit 756 of chip 1",
        "DAC2 of chip 2: 1022, not 1023",
        "CTEST_0 of chip 3: 1, not 0",
    )
    for length in (0, 491, 493):
        with pytest.raises(ValueError, match="bytes instead of 492"):
            maroc.used_bits_equal(LOAD, bytes(length))


@given(st.integers(0, 3), st.integers(0, 828))
def test_any_wrong_bit_is_seen(chip: int, bit: int) -> None:
    data = read_back(LOAD)
    data[4 + 128 * chip + bit // 8] ^= 1 << bit % 8
    assert not maroc.used_bits_equal(LOAD, bytes(data))
    (difference,) = maroc.differing_tags(LOAD, bytes(data))
    assert f"of chip {chip}" in difference


@pytest.mark.parametrize("version", pixel_maps.VERSIONS)
def test_the_maps_are_inverse_bijections(version: str) -> None:
    pixels = {
        pixel_maps.maroc_to_pixel(version, channel, chip): (channel, chip)
        for channel in range(64)
        for chip in range(4)
    }
    assert len(pixels) == 256
    assert all(pixel_maps.pixel_to_maroc(version, *xy) == pixels[xy] for xy in pixels)
    assert set(pixels) == {(x, y) for x in range(16) for y in range(16)}


@pytest.mark.parametrize(
    ("channel", "chip", "qfp", "bga"),
    [
        (0, 0, (8, 1), (8, 1)),
        (0, 1, (0, 6), (7, 1)),
        (0, 2, (0, 15), (0, 15)),
        (0, 3, (15, 15), (8, 8)),
        (1, 0, (8, 0), (8, 0)),
    ],
)
def test_known_wires(channel: int, chip: int, qfp: tuple[int, int], bga: tuple[int, int]) -> None:
    assert pixel_maps.maroc_to_pixel("qfp", channel, chip) == qfp
    assert pixel_maps.maroc_to_pixel("bga", channel, chip) == bga


@pytest.mark.parametrize("version", pixel_maps.VERSIONS)
def test_all_wires_are_those_of_real_boards(version: str) -> None:
    folder = spec_data() / "quabos"
    name = f"quabo_pixelmap_{{}}_{version}.json"
    to_pixel = json.loads((folder / name.format("maroc2phys")).read_text())["pixel_map_maroc2phys"]
    to_maroc = json.loads((folder / name.format("phys2maroc")).read_text())["pixel_map_phys2maroc"]
    for channel in range(64):
        for chip in range(4):
            x, y = to_pixel[channel][chip]  # from 1
            assert pixel_maps.maroc_to_pixel(version, channel, chip) == (x - 1, y - 1)
    for x in range(16):
        for y in range(16):
            assert pixel_maps.pixel_to_maroc(version, x, y) == tuple(to_maroc[x][y])


def test_what_is_not_on_a_board_is_refused() -> None:
    with pytest.raises(ValueError, match="no channel 64 of chip 0 on a 'qfp' board"):
        pixel_maps.maroc_to_pixel("qfp", 64, 0)
    with pytest.raises(ValueError, match=r"no pixel \(16, 0\) on a 'bga' board"):
        pixel_maps.pixel_to_maroc("bga", 16, 0)
    with pytest.raises(ValueError, match="'QFP' board"):
        pixel_maps.maroc_to_pixel("QFP", 0, 0)


def test_shipped_defaults_are_those_of_the_field() -> None:
    real = parse_quabo_config((spec_data() / "quabo_config.txt").read_text())
    assert real == DEFAULTS


def test_shipped_defaults() -> None:
    assert DEFAULTS.warnings == ()
    assert DEFAULTS.channel_mask == (0xFFFFFFFF,) * 8 + (0x155,)
    assert DEFAULTS.goe_mask == 3
    assert DEFAULTS.hv_codes == (49000, 48800, 49000, 48700)
    assert DEFAULTS.acquisition == Acquisition(
        AcqMode.PH, 9, stim_level=255, flash_rate=7, flash_width=15
    )
    for tag, value in (("DAC1", 510), ("DAC2", 0x3FF), ("GAIN17", 42), ("D1_D2", 0)):
        assert DEFAULTS.registers[tag] == (value,) * 4


def test_how_a_line_is_read() -> None:
    config = with_lines(
        "DAC1 = 1 ,0x2,  3,0X0a * was 510",
        "DAC2=1,1,1,1",
        "DAC2=2,2,2,2 * later lines win",
        "* GOEMASK = 1",
        "CHANMASK_8=0x1Ff",
        "ACQMODE=0x13",
        "ADCCLKPH = 5",
        "HV_3=010",
    )
    assert config.registers["DAC1"] == (1, 2, 3, 10)
    assert config.registers["DAC2"] == (2, 2, 2, 2)
    assert config.channel_mask[8] == 0x1FF and config.goe_mask == 3
    assert config.acquisition.mode == AcqMode.PH | AcqMode.IMAGE | AcqMode.NO_BASELINE
    assert config.acquisition.adc_clock_phase == 5
    assert config.hv_codes[3] == 10
    assert config.warnings == ()


def test_what_stands_in_no_file_has_a_default() -> None:
    bare = "\n".join(line for line in SHIPPED_TEXT.splitlines() if line.count(",") == 3)
    config = parse_quabo_config(bare)
    assert config.channel_mask == DEFAULTS.channel_mask
    assert (config.goe_mask, config.hv_codes) == (3, (0, 0, 0, 0))
    assert config.acquisition == Acquisition(AcqMode(0))


def test_lines_that_are_not_used_are_warned_of() -> None:
    config = with_lines("GIAN5=1,1,1,1", "a=b=c", "junk", "SPEED=9")
    assert [warning.remedy for warning in config.warnings] == [
        'unknown tag, not used; did you mean "GAIN5"?',
        "not tag=value, not used; begin comments with '*'",
        "not tag=value, not used; begin comments with '*'",
        "unknown tag, not used",
    ]
    first = len(SHIPPED_TEXT.splitlines()) + 2  # the text ends in a newline, then one is put in
    assert [warning.path for warning in config.warnings][:2] == [
        f"line {first}",
        f"line {first + 1}",
    ]


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("DAC1=1024,0,0,0", "must be 4 numbers 0..1023 with commas, one per chip"),
        ("DAC1=1,2,3", "must be 4 numbers 0..1023 with commas, one per chip"),
        ("DAC1=", "must be 4 numbers 0..1023 with commas, one per chip"),
        ("GAIN0=1,2,3,-4", "must be 4 numbers 0..255 with commas, one per chip"),
        ("GAIN0=1,2,3,4.0", "must be 4 numbers 0..255 with commas, one per chip"),
        ("CTEST_0=0,0,0,2", "must be 4 numbers 0..1 with commas, one per chip"),
        ("HV_0=65536", "must be a number 0..65535, decimal or 0x-hex"),
        ("CHANMASK_3=0x100000000", "must be a number 0..0xffffffff, decimal or 0x-hex"),
        ("GOEMASK=4", "must be a number 0..3, decimal or 0x-hex"),
        ("STIM_RATE=8", "must be a number 0..7, decimal or 0x-hex"),
        ("ACQINT=1e3", "must be a number 0..65535, decimal or 0x-hex"),
        ("ACQMODE=8", "must be a sum of 0x1 PH, 0x2 image, 0x4 8-bit, 0x10"),
    ],
)
def test_faults_name_line_value_and_range(line: str, remedy: str) -> None:
    assert faults_of(f"{line} * comment\n{SHIPPED_TEXT}") == [
        f"quabo_config.txt: line 1: {line}: {remedy}"
    ]


def test_all_faults_are_shown_at_once() -> None:
    text = SHIPPED_TEXT.replace("DAC_ON=1", "DAC_ON=2").replace("GAIN7=42,42,42,42\n", "")
    faults = faults_of(text.replace("GOEMASK=0x3", "GOEMASK=three"))
    assert [fault.split(": ")[2] for fault in faults] == [
        "DAC_ON=2,1,1,1",
        "GOEMASK=three",
        "GAIN7",
    ]
    assert "missing: each MAROC tag needs a line" in faults[-1]
    assert "OTABG_ON, DAC_ON, SMALL_DAC and 296 more" in faults_of("")[0]


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        with_lines(text)
    except ConfigError as error:
        assert error.faults


def test_the_record_of_a_board_is_like_those_of_the_field() -> None:
    sample = json.loads(
        (spec_data() / "field_samples" / "quabo_config_192.168.3.248.json").read_text()
    )
    masks = quabo_config_json(channel_mask=DEFAULTS.channel_mask, goe_mask=3)
    ours = json.loads(quabo_config_json(masks, registers=DEFAULTS.registers))
    assert ours.keys() == sample.keys()
    for tag in ("CHANMASK_8", "GOEMASK", "OTABG_ON", "CTEST_9"):
        assert ours[tag] == sample[tag]


def test_the_record_keeps_what_it_is_not_told() -> None:
    first = quabo_config_json(channel_mask=(0,) * 9, goe_mask=1, registers=DEFAULTS.registers)
    second = json.loads(quabo_config_json(first, registers={"DAC1": (1, 2, 3, 4)}))
    assert second == json.loads(first) | {"DAC1": "1,2,3,4"}
    third = json.loads(quabo_config_json('{"other": "x", "GOEMASK": "0x3"}', goe_mask=0))
    assert third == {"other": "x", "GOEMASK": "0x0"}


@pytest.mark.parametrize("text", ["[", "[]", '{"DAC1": 1}', '"x"'])
def test_a_broken_record_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="^quabo_config_1.2.3.4.json: .*; delete the file"):
        quabo_config_json(text, goe_mask=3, name="quabo_config_1.2.3.4.json")


@given(st.tuples(*[st.integers(0, 0xFFFFFFFF)] * 9), st.integers(0, 3), st.integers(0, 1023))
def test_the_record_can_be_read_as_a_quabo_config(
    words: tuple[int, ...], goe: int, dac: int
) -> None:
    registers = dict(DEFAULTS.registers) | {"DAC1": (dac,) * 4}
    record = json.loads(quabo_config_json("", registers, words, goe))
    config = parse_quabo_config("\n".join(f"{tag}={value}" for tag, value in record.items()))
    assert config.registers == registers
    assert (config.channel_mask, config.goe_mask) == (words, goe)

"""The pure parts of the simulator: sky, flash, TFTP transfers, faults, detector response."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import response, sky
from simulator.control import ControlError, select
from simulator.faults import NAMES, Faults, Spoil
from simulator.flash import (
    FILES_ADDRESS,
    SECTOR_BYTES,
    SILVER_ADDRESS,
    Firmware,
    Flash,
    FlashError,
    firmware_image,
)
from simulator.tftp_server import (
    MAX_TRIES,
    ReadTransfer,
    TftpRefusalError,
    Transfer,
    open_transfer,
    parse_request,
)
from tests import recorded_frames

# --- sky ---


def test_every_packet_position_has_its_own_place_in_the_module() -> None:
    places = {
        sky.module_position(quabo, i, j) for quabo in range(4) for i in range(16) for j in range(16)
    }
    assert len(places) == 1024
    assert min(min(place) for place in places) == 0
    assert max(max(place) for place in places) == 31


def test_orientation_is_the_documented_one() -> None:
    # Corners of the board frames, by the table of the recording format.
    assert sky.module_position(0, 0, 0) == (0, 15)
    assert sky.module_position(1, 0, 0) == (15, 31)
    assert sky.module_position(2, 0, 0) == (31, 16)
    assert sky.module_position(3, 0, 0) == (16, 0)
    assert sky.module_position(0, 3, 5) == (5, 12)
    assert sky.module_position(2, 3, 5) == (26, 19)


def test_a_picture_survives_the_way_through_the_boards() -> None:
    picture = sky.star_rates_hz(254)
    rebuilt = [[0.0] * 32 for _ in range(32)]
    for quabo in range(4):
        for index, value in enumerate(sky.board_view(picture, quabo)):
            row, column = sky.module_position(quabo, index // 16, index % 16)
            rebuilt[row][column] = value
    assert tuple(tuple(line) for line in rebuilt) == picture


def _turned(picture: Any) -> Any:
    return tuple(tuple(line) for line in zip(*picture[::-1], strict=True))


@pytest.mark.parametrize("module", [0, 1, 3, 77, 254, 255])
def test_no_turn_or_mirror_image_of_a_picture_looks_the_same(module: int) -> None:
    picture = sky.star_rates_hz(module)
    looks = set()
    for start in (picture, tuple(line[::-1] for line in picture)):
        for _ in range(4):
            looks.add(start)
            start = _turned(start)
    assert len(looks) == 8


def test_modules_see_different_pictures_all_over_the_frame() -> None:
    pictures = {sky.star_rates_hz(module) for module in range(256)}
    assert len(pictures) == 256
    for module in (1, 3, 254):
        flash = sky.flash_shape(module)
        for quabo in range(4):
            assert max(sky.board_view(flash, quabo)) > 5


def test_stars_are_upright_and_bright() -> None:
    for module in range(6):
        picture = sky.star_rates_hz(module)
        for row, column, peak_khz in sky.CONSTELLATIONS[sky.constellation(module)]:
            assert picture[row][column] > 1e3 * peak_khz


@given(st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 1))
def test_packet_content_differs_between_numbers(boardloc: int, number: int, stream: int) -> None:
    start = sky.start_of(boardloc, stream, number)
    assert 0 <= start < 65536
    assert start != sky.start_of(boardloc, stream, (number + 1) & 0xFFFF)


def test_all_numbers_start_at_different_places() -> None:
    assert len({sky.start_of(1016, 0, number) for number in range(65536)}) == 65536


@given(st.lists(st.integers(0, 0xFFFF - 15), min_size=256, max_size=256), st.integers(0, 65535))
def test_image_pixels_are_base_plus_a_little(levels: list[int], number: int) -> None:
    pixels = sky.image_pixels(levels, 1016, number)
    for level, pixel in zip(levels, pixels, strict=True):
        assert pixel == 0 if level == 0 else level <= pixel <= level + 15


@given(st.integers(0, 65535), st.lists(st.integers(0, 65535), min_size=1, max_size=3))
def test_arrays_of_packets_have_the_pixels_of_one_packet(seed: int, numbers: list[int]) -> None:
    random = np.random.default_rng(seed)
    boardloc = int(random.integers(0, 1024))
    for top in (0xFFFF, 0xFF):
        levels = [*random.integers(0, top - 15, 254).tolist(), 0, top]
        images = recorded_frames.image_pixels(levels, boardloc, numbers, top)
        assert images.tolist() == [sky.image_pixels(levels, boardloc, n, top) for n in numbers]
    pattern, offset = (random.integers(-32768, 32768, 256).tolist() for _ in range(2))
    events = recorded_frames.ph_pixels(pattern, offset, boardloc, numbers)
    assert events.tolist() == [sky.ph_pixels(pattern, offset, boardloc, n) for n in numbers]


# --- flash ---


def test_flash_tells_what_it_was_given_and_boots_it() -> None:
    flash = Flash(Firmware("0208", 0x28B4667A))
    assert flash.firmware_at(SILVER_ADDRESS) == Firmware("0208", 0x28B4667A)
    assert flash.firmware_at(0) is None
    assert flash.firmware_at(0x0700000) is None
    new = firmware_image(Firmware("0210", 0x30000000), 3 * SECTOR_BYTES + 1000)
    for start in range(0, len(new), 512):
        flash.program(SILVER_ADDRESS + start, new[start : start + 512])
    assert flash.firmware_at(SILVER_ADDRESS) == Firmware("0210", 0x30000000)
    read = b"".join(
        flash.read(SILVER_ADDRESS + start, min(0x8000, len(new) - start))
        for start in range(0, len(new), 0x8000)
    )
    assert read == new
    assert flash.read(SILVER_ADDRESS + len(new), 100) == b"\xff" * 100  # rest of that sector


def test_the_silver_firmware_it_comes_with_is_a_firmware_image() -> None:
    flash = Flash(Firmware("0209", 5))
    image = firmware_image(Firmware("0209", 5))
    for start in (0, 0x1234, SECTOR_BYTES - 5, 3 * SECTOR_BYTES - 1):
        assert flash.read(SILVER_ADDRESS + start, 999) == image[start : start + 999]


def test_an_interrupted_load_leaves_what_does_not_boot() -> None:
    flash = Flash(Firmware("0208", 1))
    flash.program(SILVER_ADDRESS, b"\0" * 512)
    assert flash.firmware_at(SILVER_ADDRESS) is None
    assert flash.read(SILVER_ADDRESS + 512, 10) == b"\xff" * 10


def test_flash_refuses_what_the_board_refuses() -> None:
    flash = Flash(Firmware("0208", 1))
    with pytest.raises(FlashError, match="sector"):
        flash.check_start(0x1010001)
    with pytest.raises(FlashError, match="outside"):
        flash.check_start(0x2000000)
    with pytest.raises(FlashError, match="length"):
        flash.read(0, 0x10000)
    with pytest.raises(FlashError, match="outside"):
        flash.read(0x1FFFFFF, 2)
    with pytest.raises(FlashError, match="end"):
        flash.program(0x1FFFF00, b"x" * 512)


@given(st.integers(0, 40), st.integers(1, 5000))
def test_programming_touches_only_its_sectors(sector: int, length: int) -> None:
    flash = Flash(Firmware("0208", 1))
    address = FILES_ADDRESS + sector * SECTOR_BYTES
    before, after = flash.read(address - 16, 16), flash.read(address + SECTOR_BYTES, 16)
    data = bytes(index % 251 for index in range(length))
    flash.program(address, data)
    assert flash.read(address, length) == data
    assert flash.read(address - 16, 16) == before
    assert flash.read(address + SECTOR_BYTES, 16) == after


# --- TFTP transfers ---

UID = bytes.fromhex("25a4d0800431ae06")


def request(opcode: int, name: str, mode: str = "octet") -> bytes:
    return struct.pack(">H", opcode) + name.encode() + b"\0" + mode.encode() + b"\0"


def opened(opcode: int, name: str, flash: Flash | None = None, starts: Any = None) -> Transfer:
    return open_transfer(
        parse_request(request(opcode, name)),
        UID,
        flash or Flash(Firmware("0208", 1)),
        starts.append if starts is not None else lambda address: None,
    )


def ack(block: int) -> bytes:
    return struct.pack(">HH", 4, block & 0xFFFF)


def data_packet(block: int, data: bytes) -> bytes:
    return struct.pack(">HH", 3, block & 0xFFFF) + data


def test_flashuid_is_one_short_block() -> None:
    transfer = opened(1, "/flashuid")
    assert transfer.start() == data_packet(1, UID)
    assert transfer.receive(ack(1)) is None
    assert transfer.done


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024, 5000])
def test_a_read_delivers_every_byte_and_ends_with_a_short_block(size: int) -> None:
    content = bytes(index % 253 for index in range(size))
    transfer = ReadTransfer(content)
    packet: bytes | None = transfer.start()
    got, block = b"", 0
    while packet is not None:
        block += 1
        assert packet[:4] == struct.pack(">HH", 3, block)
        got += packet[4:]
        assert not transfer.done
        packet = transfer.receive(ack(block))
    assert transfer.done
    assert got == content
    assert block == size // 512 + 1


def test_a_repeated_acknowledgement_does_not_double_the_blocks() -> None:
    transfer = ReadTransfer(bytes(2000))
    transfer.start()
    assert transfer.receive(ack(1)) is not None
    assert transfer.receive(ack(1)) is None
    assert transfer.receive(ack(9)) is None
    assert transfer.silence() == data_packet(2, bytes(512))


def test_silence_is_answered_a_few_times_then_given_up() -> None:
    transfer = ReadTransfer(b"abc")
    first = transfer.start()
    for _ in range(MAX_TRIES - 1):
        assert transfer.silence() == first
    assert transfer.silence() is None
    assert transfer.done


def test_a_write_is_stored_once_though_a_block_comes_twice() -> None:
    flash = Flash(Firmware("0208", 1))
    transfer = opened(2, "/flash.f10000", flash)
    assert transfer.start() == ack(0)
    assert transfer.receive(data_packet(1, b"a" * 512)) == ack(1)
    assert transfer.receive(data_packet(1, b"a" * 512)) == ack(1)
    assert transfer.receive(data_packet(3, b"c" * 512)) is None
    assert transfer.receive(data_packet(2, b"bb")) == ack(2)
    assert flash.read(0xF10000, 516) == b"a" * 512 + b"bb" + b"\xff" * 2
    assert transfer.receive(data_packet(2, b"bb")) == ack(2)
    assert transfer.silence() is None
    assert transfer.done


def test_the_board_never_acknowledges_progdev() -> None:
    starts: list[int] = []
    transfer = opened(2, "/progdev", starts=starts)
    assert transfer.start() == ack(0)
    assert transfer.receive(data_packet(1, bytes.fromhex("00010100"))) is None
    assert transfer.done
    assert starts == [SILVER_ADDRESS]


@pytest.mark.parametrize(
    ("opcode", "name", "code", "text"),
    [
        (1, "/nothing", 1, "no file"),
        (1, "/flash.1010000", 1, "no file"),
        (2, "/flashuid", 1, "no file"),
        (2, "/flash.1010001", 0, "sector"),
        (1, "/flash.0.10000", 0, "length"),
        (1, "/flash.1ffffff.2", 0, "outside"),
    ],
)
def test_tftp_refusals_carry_a_code_and_a_reason(
    opcode: int, name: str, code: int, text: str
) -> None:
    with pytest.raises(TftpRefusalError, match=text) as caught:
        opened(opcode, name)
    assert caught.value.code == code


@pytest.mark.parametrize("data", [b"", b"\0\1", b"\0\3\0\1abc", b"\0\1name\0netascii\0"])
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(TftpRefusalError) as caught:
        parse_request(data)
    assert caught.value.code == 4


def test_progdev_takes_four_bytes_only() -> None:
    transfer = opened(2, "/progdev")
    transfer.start()
    answer = transfer.receive(data_packet(1, b"123"))
    assert answer is not None
    assert answer[:2] == b"\0\5"
    assert b"4 bytes" in answer


# --- faults ---


def test_every_fault_can_be_switched_on_and_all_off() -> None:
    for name in NAMES:
        faults = Faults()
        faults.switch_on(name, {})
        assert list(faults.active) == ([] if name in ("none", "rebooting") else [name])
        faults.switch_on("none", {})
        assert faults.active == {}
        assert faults.hears()
        assert faults.departures() == [0.0]


@pytest.mark.parametrize(
    ("name", "parameters", "named"),
    [
        ("silent", {}, "silent"),
        ("slow", {"delay": 1}, "delay"),
        ("slow", {"delay_s": "long"}, "delay_s"),
        ("wrong_uid", {"uid": 5}, "uid"),
    ],
)
def test_unknown_faults_are_refused_by_name(
    name: str, parameters: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        Faults().switch_on(name, parameters)


def test_link_faults_change_departures() -> None:
    def with_fault(name: str, **parameters: Any) -> Faults:
        faults = Faults()
        faults.switch_on(name, parameters)
        return faults

    assert with_fault("mute").departures() == []
    assert with_fault("mute").hears()
    assert not with_fault("unreachable").hears()
    assert with_fault("no_hk").departures() == [0.0]
    assert with_fault("no_hk").departures(hk=True) == []
    assert with_fault("slow", delay_s=0.7).departures() == [0.7]
    assert with_fault("duplicating").departures() == [0.0, 0.0]
    reordering = with_fault("reordering")
    first, second = reordering.departures(), reordering.departures()
    assert first[0] > second[0]
    lossy = with_fault("lossy", fraction=0.25, seed=4)
    lost = sum(not lossy.departures() for _ in range(4000))
    assert 900 < lost < 1100


@pytest.mark.parametrize(
    "wrong",
    [{"loss": -0.1}, {"loss": 0.6, "reorder": 0.6}, {"depth": 0}, {"depth": 65}, {"kinds": ("x",)}],
)
def test_spoiling_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"fractions|depth|kind"):
        Spoil(**wrong)


def test_select_boards() -> None:
    boards = ["127.0.3.248", "127.0.3.249", "127.0.0.4"]
    assert select(boards, "all") == boards
    assert select(boards, "127.0.0.4") == ["127.0.0.4"]
    assert select(boards, "module:254") == boards[:2]
    for wrong in ("127.0.0.5", "module:7", 5, None):
        with pytest.raises(ControlError, match="no simulated board"):
            select(boards, wrong)


def test_default_route_is_seen(tmp_path: Path) -> None:
    from simulator.sites import has_default_route

    header = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
    table = tmp_path / "route"
    table.write_text(header + "eth0 0000000A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n")
    assert not has_default_route(table)
    table.write_text(header + "eth0 00000000 0100000A 0003 0 0 0 00000000 0 0 0\n")
    assert has_default_route(table)


# --- response: every setting shows ---


def registers(**changes: Any) -> dict[str, tuple[int, ...]]:
    values: dict[str, tuple[int, ...]] = {
        "OTABG_ON": (1,) * 4,
        "DAC_ON": (1,) * 4,
        "D1_D2": (0,) * 4,
        "DAC1": (201,) * 4,
        "DAC2": (282,) * 4,
    }
    for channel in range(64):
        values[f"GAIN{channel}"] = (60,) * 4
        values[f"MASKOR1_{channel}"] = values[f"MASKOR2_{channel}"] = (0,) * 4
        values[f"CTEST_{channel}"] = (0,) * 4
    values.update(changes)
    return values


WIRING = tuple((pixel // 64, pixel % 64) for pixel in range(256))
NORMAL = response.Conditions(
    registers=registers(),
    hv_on=(True,) * 4,
    shutter_open=True,
    channel_mask=(0xFFFFFFFF,) * 8 + (0x155,),
    goe_mask=3,
    wiring=WIRING,
    truth=response.Truth(),
)
LIGHT = [1e6] + [20e3] * 255


def levels(bits: int = 16, exposure_us: int = 1000, **changes: Any) -> list[int]:
    conditions = dataclasses.replace(NORMAL, **changes)
    return response.image_levels(conditions, LIGHT, exposure_us, bits)


def events(**changes: Any) -> response.PhResponse:
    conditions = dataclasses.replace(NORMAL, **changes)
    return response.ph_response(conditions, [10.0] * 256, [700] * 256, [690] * 256)


def test_images_at_two_photoelectrons_are_the_rates_of_the_sky() -> None:
    normal = levels()
    assert normal[0] == pytest.approx(1003, abs=2)
    assert normal[9] == pytest.approx(23, abs=1)
    assert levels(exposure_us=100)[0] == pytest.approx(100, abs=1)
    assert levels(bits=8, exposure_us=20)[0] == 20
    assert levels(bits=8)[0] == 255
    assert levels(exposure_us=65330)[0] == 65519  # room for the noise on top
    assert levels(exposure_us=65536)[0] == 65535


@pytest.mark.parametrize(
    "changes",
    [
        {"registers": None},
        {"hv_on": (False,) * 4},
        {"registers": registers(DAC1=(1023,) * 4)},
        {"registers": registers(DAC_ON=(0,) * 4)},
        {"registers": registers(OTABG_ON=(0,) * 4)},
    ],
)
def test_a_board_set_wrongly_is_dark(changes: dict[str, Any]) -> None:
    assert set(levels(**changes)) == {0}
    assert events(**changes).poisson_hz == 0 or "DAC1" in str(changes)


def test_a_closed_shutter_leaves_dark_counts() -> None:
    assert set(levels(shutter_open=False)) == {3}


def test_one_chip_out_of_four_is_one_quarter_of_the_pixels() -> None:
    part = levels(registers=registers(DAC1=(201, 201, 1023, 201)))
    assert [pixel // 64 for pixel, level in enumerate(part) if level == 0] == [2] * 64
    assert sum(level == 0 for level in levels(hv_on=(True, False, True, True))) == 64


def test_gain_and_threshold_move_the_counts() -> None:
    higher_threshold = levels(registers=registers(DAC1=(246,) * 4))
    less_gain = levels(registers=registers(GAIN0=(30,) * 4))
    assert 0 < higher_threshold[0] < levels()[0]
    assert 0 < less_gain[0] < levels()[0]
    assert less_gain[1] == levels()[1]
    below_pedestal = levels(registers=registers(DAC1=(100,) * 4))
    assert set(below_pedestal) == {65535}


def test_the_test_pulse_counts_where_it_is_connected() -> None:
    pulsed = levels(
        registers=registers(CTEST_5=(1, 0, 0, 0)),
        hv_on=(False,) * 4,
        stim_on=True,
        stim_level=255,
        stim_rate=7,
    )
    assert pulsed[5] == 24
    assert sum(pulsed) == 24


def test_events_at_the_usual_threshold_and_pattern() -> None:
    normal = events()
    assert normal.poisson_hz == pytest.approx(2.0, rel=0.05)
    assert set(normal.pattern) == {80}
    assert set(normal.offset) == {10}
    assert normal.period_us == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"channel_mask": (0xFFFFFFFF,) * 8 + (0x1FF,)},
        {"goe_mask": 1},  # coincidences need D1_D2
        {"hv_on": (False,) * 4},
        {"registers": registers(DAC2=(1023,) * 4)},
        {"registers": registers(**{f"MASKOR2_{k}": (1,) * 4 for k in range(64)})},
    ],
)
def test_events_are_blocked(changes: dict[str, Any]) -> None:
    assert events(**changes).poisson_hz == 0


def test_coincidences_and_masks_thin_the_events() -> None:
    both = registers(D1_D2=(1,) * 4)
    two = events(goe_mask=2, registers=both).poisson_hz
    three = events(goe_mask=1, registers=both).poisson_hz
    assert events().poisson_hz > two > three > 0
    half = events(
        goe_mask=2, registers=both, channel_mask=(0xFFFFFFFF,) * 4 + (0,) * 4 + (0x1FF,)
    ).poisson_hz
    assert half == pytest.approx(two / 2, rel=0.01)
    one_chip = events(channel_mask=(0xFFFFFFFF,) * 8 + (0x157,)).poisson_hz
    assert one_chip == pytest.approx(0.75 * events().poisson_hz, rel=0.01)
    assert events(shutter_open=False).poisson_hz < events().poisson_hz


def test_the_flasher_makes_periodic_events() -> None:
    assert events(flash_level=5, flash_rate=1).period_us == round(1e6 / 95)
    assert events(flash_level=5, flash_rate=0).period_us == 1_000_000
    assert events(flash_level=5, channel_mask=(0,) * 8 + (0x1FF,)).period_us == 0

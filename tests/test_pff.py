"""PFF files: exact headers, orientation, the check of a file, and an independent reader."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pypff
import pypff.io
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoseti.boards.science_packets import SciencePacket, parse_science
from panoseti.runs import names, pff
from panoseti.runs.pff import BoardHeader, Frame
from simulator import sky
from tests.helpers import golden, pypff_warnings, spec_data

START_S = 1_720_000_000
FIELDS = ("pkt_num", "pkt_tai", "pkt_nsec", "tv_sec", "tv_usec")


def board(number: int = 0, ns: int = 0) -> BoardHeader:
    """Packet `number` of a board, `ns` after START_S, taken a little later."""
    second, nsec = divmod(START_S * 10**9 + ns, 10**9)
    taken_s, taken_ns = divmod(START_S * 10**9 + ns + 50_000, 10**9)
    return BoardHeader(number, (second + 37) % 1024, nsec, taken_s, taken_ns // 1000)


def some_pixels(product: str, seed: int = 0) -> tuple[int, ...]:
    facts = pff.PRODUCTS[product]
    span = 1 << (8 * facts.bytes_per_pixel)
    low = -span // 2 if facts.signed else 0
    pixels = [(seed + 12347 * n * n + 31 * n) % span + low for n in range(facts.side**2)]
    pixels[:2] = [low, low + span - 1]
    return tuple(pixels)


def some_frame(product: str, number: int, period_ns: int = 5_000_000) -> Frame:
    """Frame `number` of a series; for ph256 the boards take turns."""
    boards: list[BoardHeader | None] = [
        board(number & 0xFFFF, number * period_ns + 4 * quabo) for quabo in range(4)
    ]
    if pff.PRODUCTS[product].one_board:
        boards = [one if quabo == number % 4 else None for quabo, one in enumerate(boards)]
    return Frame(tuple(boards), some_pixels(product, number))


def content(product: str, frames: int) -> bytes:
    return b"".join(pff.build_frame(product, some_frame(product, n)) for n in range(frames))


# --- headers ---


@pytest.mark.parametrize("case", golden("pff_headers")["cases"], ids=lambda case: case["kind"])
def test_headers_are_exact(case: dict[str, Any]) -> None:
    values = case["fields"]
    boards: list[BoardHeader | None] = [None] * 4
    if case["kind"] == "ph256":
        boards[values["quabo_num"]] = BoardHeader(*(values[name] for name in FIELDS))
    else:
        for quabo in range(4):
            if numbers := values[f"quabo_{quabo}"]:
                boards[quabo] = BoardHeader(*(numbers[name] for name in FIELDS))
    clamped = tuple(one and replace(one, pkt_nsec=min(one.pkt_nsec, 999999999)) for one in boards)
    for product in case["kind"].split("/"):
        text = pff.build_header(product, boards)
        assert text.decode() == case["text"]
        assert len(text) == case["length"] == pff.PRODUCTS[product].header_bytes
        assert pff.parse_header(product, text) == clamped


def test_sizes_are_those_of_the_format() -> None:
    assert {name: facts.frame_bytes for name, facts in pff.PRODUCTS.items()} == {
        "img16": 2540, "img8": 1516, "ph256": 636, "ph1024": 2540,
    }  # fmt: skip


boards_in = st.builds(
    BoardHeader, st.integers(0, 65535), st.integers(0, 1023), st.integers(0, 999999999),
    st.integers(1, 0xFFFFFFFF), st.integers(0, 999999),
)  # fmt: skip


@given(st.tuples(*[st.none() | boards_in] * 4))
def test_module_headers_come_back(boards: tuple[BoardHeader | None, ...]) -> None:
    text = pff.build_header("img8", boards)
    assert len(text) == 489
    assert pff.parse_header("img8", text) == boards


@given(boards_in, st.integers(0, 3))
def test_board_headers_come_back(one: BoardHeader, quabo: int) -> None:
    boards = tuple(one if place == quabo else None for place in range(4))
    text = pff.build_header("ph256", boards)
    assert len(text) == 121
    assert pff.parse_header("ph256", text) == boards


@pytest.mark.parametrize(
    ("field", "high"),
    [("pkt_num", 65535), ("pkt_tai", 1023), ("tv_sec", 2**32 - 1), ("tv_usec", 999999)],
)
def test_numbers_that_do_not_fit_are_refused(field: str, high: int) -> None:
    for value in (-1, high + 1):
        with pytest.raises(ValueError, match=f"{field} is {value}"):
            pff.build_header("ph256", (replace(board(), **{field: value}), None, None, None))


@pytest.mark.parametrize("boards", [(None,) * 4, (board(),) * 2, (board(),) * 4 + (None,)])
def test_a_ph256_header_is_of_one_board_out_of_four(boards: Any) -> None:
    with pytest.raises(ValueError, match=r"of one board|made of 4 boards"):
        pff.build_header("ph256", boards)


@given(st.sampled_from(["img16", "ph256"]), st.integers(0, 488), st.integers(0, 255))
def test_a_header_with_one_byte_changed_is_refused_or_says_something_else(
    product: str, place: int, byte: int
) -> None:
    boards = some_frame(product, 2).boards
    text = bytearray(pff.build_header(product, boards))
    place %= len(text)
    same = text[place] == byte
    text[place] = byte
    try:
        found = pff.parse_header(product, bytes(text))
    except ValueError:
        assert not same
        return
    assert (found == boards) == same
    assert pff.build_header(product, found) == text


# --- orientation ---


def test_each_packet_pixel_has_its_own_place() -> None:
    everywhere = [place for places in pff.PLACES[32] for place in places]
    assert sorted(everywhere) == list(range(1024))
    for places in pff.PLACES[16]:
        assert sorted(places) == list(range(256))


def test_the_simulated_sky_is_seen_by_the_same_geometry() -> None:
    for quabo in range(4):
        for pixel in range(256):
            row, column = sky.module_position(quabo, *divmod(pixel, 16))
            assert pff.PLACES[32][quabo][pixel] == 32 * row + column
            # A board alone is its quadrant of the module.
            assert pff.PLACES[16][quabo][pixel] == 16 * (row % 16) + column % 16


@given(st.sampled_from(sorted(pff.PRODUCTS)), st.integers(0, 3), st.integers(0, 1000))
def test_packets_come_back_from_a_frame(product: str, quabo: int, seed: int) -> None:
    pixels = some_pixels("ph256", seed)
    packets = tuple(pixels if place == quabo else None for place in range(4))
    frame = pff.frame_pixels(product, packets)
    assert pff.packet_pixels(product, frame, quabo) == pixels


def of_packet(header: BoardHeader | None, quabo: int, packets: Sequence[SciencePacket]) -> Any:
    if header is None:
        return None
    (found,) = (
        packet
        for packet in packets
        if (packet.quabo, packet.number, packet.tai) == (quabo, header.pkt_num, header.pkt_tai)
    )
    return found


@pytest.mark.parametrize("case", golden("frames")["cases"], ids=lambda case: case["name"])
def test_frames_are_those_of_the_deployed_software(case: dict[str, Any]) -> None:
    product = case["product"]
    bits = (1 << (8 * pff.PRODUCTS[product].bytes_per_pixel)) - 1
    packets = [parse_science(bytes.fromhex(packet["hex"])) for packet in case["packets"]]
    taken = {
        id(p): (t["tv_sec"], t["tv_usec"]) for p, t in zip(packets, case["packets"], strict=True)
    }
    assert case["frames"]
    for wanted in case["frames"]:
        boards = pff.parse_header(product, wanted["header"].encode())
        used = [of_packet(header, quabo, packets) for quabo, header in enumerate(boards)]
        assert any(used)
        pixels = pff.frame_pixels(product, [packet and packet.pixels for packet in used])
        assert [pixel & bits for pixel in pixels] == wanted["pixels"]
        assert boards == tuple(
            p and BoardHeader(p.number, p.tai, min(p.nsec, 999999999), *taken[id(p)]) for p in used
        )


# --- frames and files ---


@pytest.mark.parametrize("product", pff.PRODUCTS)
def test_frames_come_back(product: str) -> None:
    frames = [some_frame(product, number) for number in range(5)]
    data = content(product, 5)
    assert len(data) == 5 * pff.PRODUCTS[product].frame_bytes
    assert list(pff.read_frames(product, data)) == frames
    assert list(pff.read_frames(product, data[:-1])) == frames[:4]
    with pytest.raises(ValueError, match="bytes instead of"):
        pff.parse_frame(product, data)
    with pytest.raises(ValueError, match="pixels"):
        pff.build_frame(product, Frame(frames[0].boards, frames[0].pixels[1:]))


@pytest.mark.parametrize("product", pff.PRODUCTS)
def test_a_good_file_is_good(product: str, tmp_path: Path) -> None:
    data = content(product, 300)
    check = pff.check_file(product, data)
    assert check.ok, check.problems
    assert (check.frames, check.partial_frames) == (300, 0)
    assert check.first_unix_ns == START_S * 10**9
    assert check.last_unix_ns is not None
    assert check.last_unix_ns - START_S * 10**9 - 299 * 5_000_000 in range(0, 16, 4)
    path = tmp_path / "file"
    path.write_bytes(data)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert pff.check_file(product, mapped) == check


def test_an_empty_file_is_good() -> None:
    check = pff.check_file("img16", b"")
    assert check.ok
    assert (check.frames, check.first_unix_ns) == (0, None)


def damaged(change: Any) -> pff.FileCheck:
    data = bytearray(content("img16", 10))
    change(data)
    return pff.check_file("img16", bytes(data))


SIZE = pff.PRODUCTS["img16"].frame_bytes


def test_a_torn_end_is_seen() -> None:
    for cut in (1, SIZE - 1):
        check = damaged(lambda data, cut=cut: data.__delitem__(slice(len(data) - cut, None)))
        assert (check.frames, check.torn_bytes) == (9, SIZE - cut)
        assert check.problems == (f"{SIZE - cut} bytes after the last whole frame",)


def test_a_damaged_frame_is_counted_and_the_first_one_described() -> None:
    def change(data: bytearray) -> None:
        data[3 * SIZE + 5] ^= 1
        data[7 * SIZE + 491] = 0

    check = damaged(change)
    assert check.bad_frames == 2
    assert check.first_bad.startswith(f"frame 3 at byte {3 * SIZE}: header")
    assert not check.ok


def test_a_missing_star_and_a_frame_of_nobody_are_bad_frames() -> None:
    assert "star at byte 489" in damaged(lambda data: data.__setitem__(491, 0)).first_bad
    empty = pff.build_frame("img16", Frame((None,) * 4, (0,) * 1024))
    assert "of no board at all" in pff.check_file("img16", empty).first_bad


def test_inserted_bytes_ruin_what_follows() -> None:
    check = damaged(lambda data: data.insert(4 * SIZE + 1000, 7))
    assert (check.frames, check.torn_bytes, check.bad_frames) == (10, 1, 5)


def frames_at(product: str, *times_ns: Sequence[int | None]) -> bytes:
    """Frames whose boards have these times after START_S."""
    pixels = (0,) * pff.PRODUCTS[product].side ** 2
    return b"".join(
        pff.build_frame(
            product, Frame(tuple(ns if ns is None else board(1, ns) for ns in times), pixels)
        )
        for times in times_ns
    )


@pytest.mark.parametrize("product", ["img16", "ph256"])
def test_the_quick_look_takes_nothing_for_right_that_is_not(product: str) -> None:
    """Whatever byte of a header is wrong: it says the same as the slow one, or sends it there."""
    alone = (5, None, None, None) if product == "ph256" else (0, 4, None, 12)
    good = frames_at(product, alone)
    assert pff._quick_times(pff.PRODUCTS[product], good, 0) is not None
    quick = 0
    for at in range(pff.PRODUCTS[product].header_bytes + len(pff.SEPARATOR)):
        for byte in b" 0179-+_x,}":
            data = good[:at] + bytes([byte]) + good[at + 1 :]
            times = pff._quick_times(pff.PRODUCTS[product], data, 0)
            if times is not None:
                boards = pff.parse_frame(product, data).boards
                assert times == [board.unix_ns() for board in boards if board is not None]
                quick += 1
    assert quick > 50, "digits may change"


def test_partial_frames_are_counted_and_allowed() -> None:
    check = pff.check_file("img16", frames_at("img16", (0, 4, 8, 12), (None, 504, None, 500)))
    assert (check.partial_frames, check.ok) == (1, True)
    assert check.last_unix_ns == START_S * 10**9 + 500


@pytest.mark.parametrize(("product", "window_ns"), [("img8", 100), ("ph1024", 25)])
def test_boards_further_apart_than_the_window_do_not_belong_together(
    product: str, window_ns: int
) -> None:
    assert pff.check_file(product, frames_at(product, (0, window_ns, 1, 2))).ok
    check = pff.check_file(product, frames_at(product, (0, window_ns + 1, 1, 2)))
    assert check.too_wide == 1
    assert "do not belong together" in check.problems[0]


def test_a_frame_over_the_second_boundary_is_one_moment() -> None:
    data = frames_at("img16", (-40, -20, 0, 20), (10**9 - 4, 10**9, 10**9 + 3, 10**9 + 8))
    assert pff.check_file("img16", data).ok


def test_frames_out_of_order_are_counted() -> None:
    times = [(10, None, None, None), (9, None, None, None), (9, None, None, None)]
    check = pff.check_file("ph256", frames_at("ph256", *times))
    assert check.backwards == 1
    assert check.problems == ("1 frames earlier than the one before",)


def test_a_board_without_white_rabbit_is_said_and_still_timed() -> None:
    lost = replace(board(1, 123_456_789), pkt_tai=0)
    data = pff.build_frame("ph256", Frame((None, lost, None, None), (0,) * 256))
    check = pff.check_file("ph256", data)
    assert check.desynchronised == 1
    assert check.first_unix_ns == START_S * 10**9 + 123_456_789
    assert "off the computer's clock" in check.problems[0]


# --- an independent reader ---

COUNT = 40


@pytest.fixture(params=sorted(pff.PRODUCTS))
def recording(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, list[Path]]:
    """A product's two files (and an empty third), as a run directory holds them."""
    product: str = request.param
    data = content(product, COUNT)
    half = len(data) // 2
    paths = []
    for seqno, part in enumerate((data[:half], data[half:], b"")):
        paths.append(tmp_path / names.data_file_name(START_S + seqno, product, 254, seqno))
        paths[-1].write_bytes(part)
    return product, paths


def test_the_classic_reader_of_pypff_finds_every_number(recording: tuple[str, list[Path]]) -> None:
    product, paths = recording
    reader = pypff.io.datapff(str(paths[0]))
    pixels, numbers = reader.readpff(metadata=True)
    frames = [some_frame(product, number) for number in range(COUNT // 2)]
    assert pixels.tolist() == [list(frame.pixels) for frame in frames]
    for at, frame in enumerate(frames):
        for quabo, header in enumerate(frame.boards):
            if header is None:
                continue
            one_board = pff.PRODUCTS[product].one_board
            found = numbers if one_board else numbers[f"quabo_{quabo}"]
            assert BoardHeader(*(int(found[name][at]) for name in FIELDS)) == header
            if one_board:
                assert found["quabo_num"][at] == quabo


def test_the_new_reader_of_pypff_opens_the_run(
    recording: tuple[str, list[Path]], caplog: pytest.LogCaptureFixture
) -> None:
    product, paths = recording
    run = pypff.PanosetiRun(paths[0].parent)
    (found,) = run.list_products()
    assert product in found
    with run.get_product(found) as sequence:
        assert len(sequence) == COUNT
        assert sequence.verify_metadata_offsets()
        for number in range(COUNT):
            frame = some_frame(product, number)
            header, pixels = sequence.get_frame_validated(number)
            assert pixels.ravel().tolist() == list(frame.pixels)
            boards = [one for one in frame.boards if one is not None]
            parts = (
                [header]
                if pff.PRODUCTS[product].one_board
                else [getattr(header, f"quabo_{quabo}") for quabo in range(4)]
            )
            assert [
                BoardHeader(*(getattr(part, name) for name in FIELDS)) for part in parts
            ] == boards
        # Its time of a module frame is that of quabo 0.
        assert sequence.timestamps().tolist() == [
            next(one for one in some_frame(product, n).boards if one is not None).unix_ns()[0]
            for n in range(COUNT)
        ]
    assert pypff_warnings(caplog) == []


def test_a_field_recording_has_our_form() -> None:
    (path,) = (spec_data() / "field_samples").glob("*.dp_ph256.*.pff")
    file = names.parse_data_file(path.name)
    assert file is not None
    assert (file.product, file.module) == ("ph256", 254)
    data = path.read_bytes()
    check = pff.check_file("ph256", data)
    assert check.frames > 0
    assert (check.torn_bytes, check.bad_frames) == (0, 0)
    assert all(
        pff.build_frame("ph256", frame) == data[636 * n : 636 * (n + 1)]
        for n, frame in enumerate(pff.read_frames("ph256", data))
    )

"""PFF data files: exact header text, frames in and out, orientation, and a check of a whole file.

Pure.  A file is frames back to back; a frame is a JSON text of fixed width, two newlines, one
'*', and the pixels, row-major and little-endian.  The widths and positions are those of
recordings everywhere: readers find numbers by their place.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from panoseti.boards.science_packets import NS_PER_S, nearest_unix_ns, wr_to_unix_ns

SEPARATOR = b"\n\n*"
QUABOS = 4
BOARD_SIDE, MODULE_SIDE = 16, 32
NSEC_MAX = NS_PER_S - 1
PKT_NUM_MAX, TAI_MAX, TV_SEC_MAX = 0xFFFF, 1023, 0xFFFFFFFF

Data = bytes | mmap.mmap


@dataclass(frozen=True)
class ProductFacts:
    """A data product; side: pixels of a row and of a column; header_bytes: of the JSON text.

    signed: how analysis takes the pixels.  window_ns: boards of one frame lie within it.
    """

    name: str
    side: int
    bytes_per_pixel: int
    header_bytes: int
    signed: bool
    window_ns: int

    @cached_property
    def pixel_bytes(self) -> int:
        """Bytes of all pixels of a frame."""
        return self.side * self.side * self.bytes_per_pixel

    @cached_property
    def frame_bytes(self) -> int:
        """Bytes of a frame."""
        return self.header_bytes + len(SEPARATOR) + self.pixel_bytes

    @property
    def one_board(self) -> bool:
        """Whether a frame is of a single board, not of a module."""
        return self.side == BOARD_SIDE

    @cached_property
    def pixels(self) -> struct.Struct:
        """How the pixels are packed."""
        code = "B" if self.bytes_per_pixel == 1 else "h" if self.signed else "H"
        return struct.Struct(f"<{self.side * self.side}{code}")

    @cached_property
    def number_places(self) -> tuple[tuple[int, int], ...]:
        """First byte and width of each number in the header."""
        boards = 1 if self.one_board else QUABOS
        first = ((_QUABO_NUM_AT, 1),) if self.one_board else ()
        return first + tuple(
            (board * _NEXT_QUABO + start, width)
            for board in range(boards)
            for _, start, width, _ in _FIELDS
        )

    @cached_property
    def numbers(self) -> struct.Struct:
        """How the numbers lie in the header."""
        layout, at = "", 0
        for start, width in self.number_places:
            layout += f"{start - at}x{width}s"
            at = start + width
        return struct.Struct(layout)

    @cached_property
    def header_form(self) -> bytes:
        """What is before the pixels, with a % format in the place of each number."""
        text = build_header(self.name, [_ABSENT, *[None] * (QUABOS - 1)])
        form, at = b"", 0
        for start, width in self.number_places:
            form += text[at:start] + b"%%%dd" % width
            at = start + width
        return form + text[at:] + SEPARATOR


PRODUCTS = {
    facts.name: facts
    for facts in (
        ProductFacts("img16", MODULE_SIDE, 2, 489, signed=False, window_ns=100),
        ProductFacts("img8", MODULE_SIDE, 1, 489, signed=False, window_ns=100),
        ProductFacts("ph256", BOARD_SIDE, 2, 121, signed=True, window_ns=0),
        ProductFacts("ph1024", MODULE_SIDE, 2, 489, signed=True, window_ns=25),
    )
}
IMAGE_PRODUCTS = ("img16", "img8")
PH_PRODUCTS = ("ph256", "ph1024")


# --- headers ---


@dataclass(frozen=True)
class BoardHeader:
    """The numbers of one board's packet in a frame.

    pkt_nsec: values above 999999999 are written as that.  tv_sec, tv_usec: the computer's Unix
    clock when it took the packet.
    """

    pkt_num: int
    pkt_tai: int
    pkt_nsec: int
    tv_sec: int
    tv_usec: int

    def unix_ns(self) -> tuple[int, bool]:
        """Unix time of the packet in ns, and whether the clocks of board and computer agree.

        Where they do not, the second is the one nearest to the computer's time.
        """
        try:
            return wr_to_unix_ns(self.pkt_tai, self.pkt_nsec, self.tv_sec), True
        except ValueError:
            return nearest_unix_ns(self.pkt_nsec, self.tv_sec, self.tv_usec), False


Boards = tuple[BoardHeader | None, ...]
"""Of quabo 0..3; None = not in the frame."""

_ABSENT = BoardHeader(0, 0, 0, 0, 0)
# name, first byte in the header of quabo 0, digits, highest value
_FIELDS = (
    ("pkt_num", 29, 10, PKT_NUM_MAX),
    ("pkt_tai", 52, 4, TAI_MAX),
    ("pkt_nsec", 70, 9, NSEC_MAX),
    ("tv_sec", 91, 10, TV_SEC_MAX),
    ("tv_usec", 114, 6, 999999),
)
_NUMBERS = tuple(slice(start, start + width) for _, start, width, _ in _FIELDS)
_QUABO_NUM_AT = 15
_NEXT_QUABO = 122


def _numbers_text(board: BoardHeader) -> str:
    b = board
    values = (b.pkt_num, b.pkt_tai, min(b.pkt_nsec, NSEC_MAX), b.tv_sec, b.tv_usec)
    words = []
    for (name, _, width, high), value in zip(_FIELDS, values, strict=True):
        if not 0 <= value <= high:
            raise ValueError(f"{name} is {value}, not one of 0..{high}")
        words.append(f'"{name}": {value:{width}d}')
    return ", ".join(words) + "}"


def build_header(product: str, boards: Sequence[BoardHeader | None]) -> bytes:
    """The JSON text of a frame, without the two newlines and the star.

    boards: of quabo 0..3; for ph256 exactly one of them is there.
    """
    if len(boards) != QUABOS:
        raise ValueError(f"a header is made of {QUABOS} boards, not {len(boards)}")
    if not PRODUCTS[product].one_board:
        lines = (
            f'   "quabo_{quabo}": {{ {_numbers_text(board or _ABSENT)}'
            for quabo, board in enumerate(boards)
        )
        return ("{\n" + ", \n".join(lines) + "\n}").encode()
    present = [(quabo, board) for quabo, board in enumerate(boards) if board is not None]
    if len(present) != 1:
        raise ValueError(f"a {product} frame is of one board, not {len(present)}")
    quabo, only = present[0]
    return f'{{ "quabo_num": {quabo}, {_numbers_text(only)}'.encode()


def parse_header(product: str, text: bytes) -> Boards:
    """The boards of a frame; ValueError unless the text is exactly as it must be."""
    facts = PRODUCTS[product]
    if len(text) != facts.header_bytes:
        raise ValueError(f"header of {len(text)} bytes instead of {facts.header_bytes}")
    boards: list[BoardHeader | None] = [None] * QUABOS
    try:
        if facts.one_board:
            boards[int(text[_QUABO_NUM_AT : _QUABO_NUM_AT + 1])] = _board_at(text, 0)
        else:
            for quabo in range(QUABOS):
                board = _board_at(text, quabo * _NEXT_QUABO)
                boards[quabo] = None if board == _ABSENT else board
    except (ValueError, IndexError):
        raise ValueError(f"header with something else where numbers must be: {text!r}") from None
    # Numbers are taken by their place; that the rest is right shows when it is built again.
    if build_header(product, boards) != text:
        raise ValueError(f"header that is not of the fixed form: {text!r}")
    return tuple(boards)


def _board_at(text: bytes, offset: int) -> BoardHeader:
    part = text[offset : offset + _NEXT_QUABO]
    return BoardHeader(*(int(part[place]) for place in _NUMBERS))


# --- headers that are as they must be, quickly ---


def _quick_times(facts: ProductFacts, data: Data, start: int) -> list[tuple[int, bool]] | None:
    """Of each board of a frame: what BoardHeader.unix_ns says; None = look at it more closely."""
    try:
        numbers = tuple(map(int, facts.numbers.unpack_from(data, start)))
    except ValueError:
        return None
    end = start + facts.header_bytes + len(SEPARATOR)
    if min(numbers) < 0 or facts.header_form % numbers != data[start:end]:
        return None
    if facts.one_board:
        quabo, *numbers_of_board = numbers
        if quabo >= QUABOS:
            return None
        numbers = tuple(numbers_of_board)
    times = []
    for at in range(0, len(numbers), len(_FIELDS)):
        number, tai, nsec, tv_sec, tv_usec = board = numbers[at : at + len(_FIELDS)]
        if number > PKT_NUM_MAX or tai > TAI_MAX or tv_sec > TV_SEC_MAX:
            return None  # the widths of the others leave no room for more
        if not any(board) and not facts.one_board:
            continue
        second_ns = _second_ns(tai, tv_sec)
        if second_ns is None:
            times.append((nearest_unix_ns(nsec, tv_sec, tv_usec), False))
        else:
            times.append((second_ns + nsec, True))
    return times


@lru_cache(maxsize=1024)
def _second_ns(tai: int, tv_sec: int) -> int | None:
    """The second of a packet; None = the clocks of board and computer do not agree."""
    try:
        return wr_to_unix_ns(tai, 0, tv_sec)
    except ValueError:
        return None


# --- orientation ---


def _places(side: int) -> tuple[tuple[int, ...], ...]:
    """Per quabo: index in the frame of each packet pixel (16*i + j)."""
    far, low = side - 1, side - BOARD_SIDE
    rules = (
        lambda i, j: (j, 15 - i),
        lambda i, j: (15 - i, far - j),
        lambda i, j: (far - j, low + i),
        lambda i, j: (low + i, j),
    )
    cells = [divmod(pixel, BOARD_SIDE) for pixel in range(BOARD_SIDE * BOARD_SIDE)]
    places = ([rule(i, j) for i, j in cells] for rule in rules)
    return tuple(tuple(side * row + column for row, column in of_board) for of_board in places)


PLACES = {side: _places(side) for side in (BOARD_SIDE, MODULE_SIDE)}
"""PLACES[side][quabo][16*i + j]: where packet pixel (i, j) stands among a frame's pixels."""


def packet_pixels(product: str, pixels: Sequence[int], quabo: int) -> tuple[int, ...]:
    """The pixels of one board in a frame, in the order of its packet."""
    return tuple(pixels[place] for place in PLACES[PRODUCTS[product].side][quabo])


def frame_pixels(product: str, boards: Sequence[Sequence[int] | None]) -> tuple[int, ...]:
    """The pixels of a frame from the packets of quabo 0..3 (None = absent, zeros)."""
    side = PRODUCTS[product].side
    pixels = [0] * (side * side)
    for places, values in zip(PLACES[side], boards, strict=True):
        for place, value in zip(places, values or (), strict=values is not None):
            pixels[place] = value
    return tuple(pixels)


# --- frames ---


@dataclass(frozen=True)
class Frame:
    """A frame: boards (quabo 0..3, None = absent) and pixels, row-major."""

    boards: Boards
    pixels: tuple[int, ...]


def build_frame(product: str, frame: Frame) -> bytes:
    """The bytes of a frame; ValueError when a value does not fit."""
    header = build_header(product, frame.boards)
    try:
        return header + SEPARATOR + PRODUCTS[product].pixels.pack(*frame.pixels)
    except struct.error as error:
        raise ValueError(f"{product} pixels: {error}") from None


def parse_frame(product: str, data: bytes) -> Frame:
    """The frame in these bytes; ValueError when they are not exactly one."""
    facts = PRODUCTS[product]
    if len(data) != facts.frame_bytes:
        raise ValueError(f"{product} frame of {len(data)} bytes instead of {facts.frame_bytes}")
    return Frame(_boards(facts, data), facts.pixels.unpack(data[-facts.pixel_bytes :]))


def _boards(facts: ProductFacts, frame: bytes) -> Boards:
    end = facts.header_bytes + len(SEPARATOR)
    if frame[facts.header_bytes : end] != SEPARATOR:
        raise ValueError(f"no two newlines and star at byte {facts.header_bytes} of the frame")
    return parse_header(facts.name, frame[: facts.header_bytes])


def read_frames(product: str, data: Data) -> Iterator[Frame]:
    """All whole frames of a file's content; what is left at the end is not looked at."""
    size = PRODUCTS[product].frame_bytes
    for start in range(0, len(data) - size + 1, size):
        yield parse_frame(product, data[start : start + size])


@dataclass(frozen=True)
class FileCheck:
    """What a look at every frame of a file found.

    frames: whole ones.  torn_bytes: left after them.  bad_frames: without the fixed header
    (first_bad says what is wrong, and where).  partial_frames: module frames with a board
    missing.  backwards: frames earlier than the one before.  too_wide: frames whose boards
    lie outside the grouping window.  desynchronised: frames in which a board's clock is more
    than 1 s off the computer's.  Times are of the first and last good frame, Unix ns.
    """

    product: str
    frames: int
    torn_bytes: int
    bad_frames: int
    first_bad: str
    partial_frames: int
    backwards: int
    too_wide: int
    desynchronised: int
    first_unix_ns: int | None
    last_unix_ns: int | None

    @property
    def problems(self) -> tuple[str, ...]:
        """What must not be in a recording, in words (partial frames may be)."""
        found = []
        if self.torn_bytes:
            found.append(f"{self.torn_bytes} bytes after the last whole frame")
        if self.bad_frames:
            found.append(f"{self.bad_frames} of {self.frames} frames damaged: {self.first_bad}")
        if self.backwards:
            found.append(f"{self.backwards} frames earlier than the one before")
        if self.too_wide:
            found.append(f"{self.too_wide} frames of boards that do not belong together")
        if self.desynchronised:
            found.append(f"{self.desynchronised} frames off the computer's clock by over 1 s")
        return tuple(found)

    @property
    def ok(self) -> bool:
        """Whether there is none of those problems."""
        return not self.problems

    def then(self, later: FileCheck) -> FileCheck:
        """The account of these frames and of those that follow them in the same file."""
        mine, theirs = self.last_unix_ns, later.first_unix_ns
        back = mine is not None and theirs is not None and theirs < mine
        return FileCheck(
            self.product,
            self.frames + later.frames,
            self.torn_bytes + later.torn_bytes,
            self.bad_frames + later.bad_frames,
            self.first_bad or later.first_bad,
            self.partial_frames + later.partial_frames,
            self.backwards + later.backwards + back,
            self.too_wide + later.too_wide,
            self.desynchronised + later.desynchronised,
            theirs if self.first_unix_ns is None else self.first_unix_ns,
            mine if later.last_unix_ns is None else later.last_unix_ns,
        )


def check_file(product: str, data: Data) -> FileCheck:
    """Look at every frame of a file's content (bytes or a memory map); an empty file is ok."""
    frames, torn_bytes = divmod(len(data), PRODUCTS[product].frame_bytes)
    return replace(check_frames(product, data, 0, frames), torn_bytes=torn_bytes)


def check_frames(product: str, data: Data, begin: int, end: int) -> FileCheck:
    """Look at the frames of a file's content from number `begin` to before `end`."""
    facts = PRODUCTS[product]
    bad = partial = backwards = too_wide = desynchronised = 0
    first_bad = ""
    first_ns = last_ns = None
    for number in range(begin, end):
        start = number * facts.frame_bytes
        times = _quick_times(facts, data, start)
        if times is None:
            try:
                boards = _boards(facts, data[start : start + facts.frame_bytes])
            except ValueError as error:
                bad += 1
                first_bad = first_bad or f"frame {number} at byte {start}: {error}"
                continue
            times = [board.unix_ns() for board in boards if board is not None]
        if not times:
            bad += 1
            first_bad = first_bad or f"frame {number} at byte {start}: of no board at all"
            continue
        earliest_ns, latest_ns = min(ns for ns, _ in times), max(ns for ns, _ in times)
        partial += not facts.one_board and len(times) < QUABOS
        backwards += last_ns is not None and earliest_ns < last_ns
        too_wide += latest_ns - earliest_ns > facts.window_ns
        desynchronised += not all(agree for _, agree in times)
        first_ns = earliest_ns if first_ns is None else first_ns
        last_ns = earliest_ns
    return FileCheck(
        product, end - begin, 0, bad, first_bad, partial, backwards, too_wide, desynchronised,
        first_ns, last_ns,
    )  # fmt: skip

"""What the simulated telescopes look at, and the exact pixel values their packets carry.

A packet's pixels are a *table* of 256 base values (chosen by the board from the picture and its
settings, see response.py) plus a small term that depends on board, packet number and pixel:

    image      value = base + (noise & 15), but base alone where base is 0 or saturated
    PH         value = offset + (pattern * amplitude >> 4) + (noise & 31) - 16

with noise = NOISE[start + pixel], start = start_of(boardloc, stream, packet number).  The same
arithmetic is in packet_source/pixels.c; a test compares both byte for byte.  Whoever has the
tables (`state` of the simulator) and a recorded packet number knows every recorded pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

SIDE = 16
PIXELS = SIDE * SIDE
MODULE_SIDE = 32
IMAGE, PH = 0, 1  # the two streams; each has packet numbers of its own
IMAGE_NOISE = 15
PH_NOISE, PH_NOISE_OFFSET = 31, 16
_WORD = 0xFFFFFFFFFFFFFFFF

# Stars as (row, column, peak rate in kHz), row 0 at the top as the picture hangs in the sky.
Stars = tuple[tuple[int, int, int], ...]
CONSTELLATIONS: dict[str, Stars] = {
    "Orion": (
        (3, 9, 1400), (4, 21, 700), (1, 15, 250), (12, 18, 650), (13, 15, 680), (14, 12, 600),
        (18, 14, 220), (20, 14, 260), (22, 10, 500), (21, 22, 1500), (7, 27, 160), (10, 28, 190),
    ),
    "Plough": (
        (4, 27, 900), (10, 28, 700), (11, 21, 650), (6, 19, 420), (5, 14, 880), (6, 8, 760),
        (10, 3, 860), (4, 13, 180),
    ),
    "Cassiopeia": ((6, 3, 500), (13, 8, 650), (9, 14, 1100), (17, 19, 800), (6, 25, 900)),
    "Cygnus": (
        (3, 8, 1500), (8, 12, 800), (3, 19, 420), (13, 8, 620), (18, 4, 300), (14, 18, 260),
        (21, 24, 560),
    ),
    "Leo": (
        (16, 24, 1400), (11, 24, 420), (8, 22, 780), (5, 25, 330), (3, 28, 380), (10, 8, 620),
        (17, 9, 480), (16, 2, 950),
    ),
    "Scorpius": (
        (8, 22, 1500), (4, 27, 520), (7, 28, 560), (10, 28, 400), (12, 20, 480), (16, 18, 420),
        (20, 17, 400), (23, 13, 440), (22, 7, 700), (18, 4, 900), (17, 6, 380),
    ),
}  # fmt: skip
_NAMES = tuple(CONSTELLATIONS)
_DIGITS = (
    "111101101101111", "010110010010111", "111001111100111", "111001111001111", "101101111001001",
    "111100111001111", "111100111101111", "111001001010010", "111101111101111", "111101111001111",
)  # fmt: skip
_DIGIT_ROW, _DIGIT_COLUMN, _DIGIT_KHZ = 26, 3, 120
BACKGROUND_KHZ = 12.0


def mix(value: int) -> int:
    """The finaliser of splitmix64: 64 well-mixed bits of a number."""
    value = (value + 0x9E3779B97F4A7C15) & _WORD
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _WORD
    return value ^ (value >> 31)


def _noise_table() -> bytes:
    words = b"".join(mix(index).to_bytes(8, "little") for index in range(65536 // 8))
    return words + words[:PIXELS]


NOISE = _noise_table()


def start_of(boardloc: int, stream: int, number: int) -> int:
    """Where in NOISE the 256 terms of one packet begin; differs for all 65536 numbers."""
    return (number * 40503 + mix(boardloc * 2 + stream)) & 0xFFFF


def stamp_offset_ns(boardloc: int, stream: int, number: int) -> int:
    """How far after the frame (or the event) a packet's time stamp is.

    The boards of a module differ: 4 ns steps over 60 ns for images, over 15 ns for PH.
    """
    term = NOISE[start_of(boardloc, stream, number)] >> 4
    return 16 * (boardloc & 3) + 4 * (term & 3) if stream == IMAGE else term


def image_pixels(
    levels: Sequence[int], boardloc: int, number: int, saturation: int = 0xFFFF
) -> list[int]:
    """The 256 pixels (packet order) of image packet `number`; saturation 65535 or 255."""
    start = start_of(boardloc, IMAGE, number)
    return [
        level + (term & IMAGE_NOISE) if 0 < level < saturation else level
        for level, term in zip(levels, NOISE[start : start + PIXELS], strict=True)
    ]


def ph_pixels(
    pattern: Sequence[int], offset: Sequence[int], boardloc: int, number: int
) -> list[int]:
    """The 256 signed pixels (packet order) of PH packet `number`, within -32768..32767."""
    start = start_of(boardloc, PH, number)
    amplitude = 16 + (NOISE[(start * 7 + 1) & 0xFFFF] & 15)
    terms = NOISE[start : start + PIXELS]
    return [
        max(-32768, min(32767, base + (shape * amplitude >> 4) + (term & PH_NOISE) - 16))
        for shape, base, term in zip(pattern, offset, terms, strict=True)
    ]


def module_position(quabo: int, i: int, j: int) -> tuple[int, int]:
    """Row and column in the 32x32 module picture of a board's packet pixel 16*i + j.

    The boards are mounted turned against each other: 90 degrees more from one to the next.
    """
    return ((j, 15 - i), (15 - i, 31 - j), (31 - j, 16 + i), (16 + i, j))[quabo]


def board_view(picture: Sequence[Sequence[float]], quabo: int) -> list[float]:
    """The part of a 32x32 picture that board `quabo` sees, in the order of its packets."""
    view = []
    for index in range(PIXELS):
        row, column = module_position(quabo, index // SIDE, index % SIDE)
        view.append(picture[row][column])
    return view


def constellation(module: int) -> str:
    """Name of the constellation a module looks at."""
    return _NAMES[module % len(_NAMES)]


@lru_cache(maxsize=2048)
def star_rates_hz(module: int) -> tuple[tuple[float, ...], ...]:
    """Count rate of each pixel of a module's 32x32 picture at a threshold of 2 photoelectrons.

    A constellation, and below it the module's number written in faint stars, over a
    background that brightens to the lower right: no turn or mirror image looks the same.
    """
    picture = [
        [1e3 * (BACKGROUND_KHZ + (row + 2 * column) / 8) for column in range(MODULE_SIDE)]
        for row in range(MODULE_SIDE)
    ]
    for row, column, peak_khz in CONSTELLATIONS[constellation(module)]:
        picture[row][column] += 1e3 * peak_khz
        for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            if 0 <= row + down < MODULE_SIDE and 0 <= column + right < MODULE_SIDE:
                picture[row + down][column + right] += 1e3 * peak_khz / 5
    for place, digit in enumerate(str(module)):
        for cell, lit in enumerate(_DIGITS[int(digit)]):
            if lit == "1":
                column = _DIGIT_COLUMN + 5 * place + cell % 3
                picture[_DIGIT_ROW + cell // 3][column] += 1e3 * _DIGIT_KHZ
    return tuple(tuple(line) for line in picture)


@lru_cache(maxsize=2048)
def flash_shape(module: int) -> tuple[tuple[float, ...], ...]:
    """Light of one flash in a module's 32x32 picture, in photoelectrons: two crossing tracks.

    The bright one starts at the upper left and fades downwards, the faint one starts at the
    upper right; together they reach all four quadrants.
    """
    picture = [[0.0] * MODULE_SIDE for _ in range(MODULE_SIDE)]
    lean = 10 + module % 7
    for row in range(2, 30):
        bright, faint = 4 + (row - 2) * lean // 16, 28 - (row - 2) * (lean - 2) // 16
        for right, share in ((-1, 0.25), (0, 1.0), (1, 0.5)):
            picture[row][min(31, bright + right)] += share * (60.0 - 1.6 * row)
            picture[row][max(0, faint + right)] += share * (24.0 - 0.5 * row)
    return tuple(tuple(line) for line in picture)

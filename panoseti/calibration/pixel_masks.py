"""Hot and dead pixels of a board, and the mask bits that keep pixels from triggering.  Pure.

A pixel is its number in packets, 16 * y + x.  Its two mask bits MASKOR1_k and MASKOR2_k keep the
MAROC channel that reads it out of the chip's trigger ORs (single-pixel triggers of pulse height);
a bit of channel mask words 0 to 7 keeps it out of the coincidence triggers, which came with
firmware v20.4: its source applies these words after the remapping, so bit n is pixel n.  Image
counters know no masks.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from panoseti.boards.maroc import CHANNELS
from panoseti.boards.pixel_maps import pixel_to_maroc
from panoseti.configs.settings import Registers

SIDE = 16
PIXELS = SIDE * SIDE
WORD_BITS, PIXEL_WORDS = 32, 8
# Dark counts of pixels differ by factors of 2 and 3; these limits are well outside.
HOT_FACTOR, DEAD_SHARE = 8.0, 0.05


@dataclass(frozen=True)
class OddPixels:
    """Pixels that count far more, or far less, than the usual pixel of their board does."""

    hot: tuple[int, ...]
    dead: tuple[int, ...]
    usual: float


def odd_pixels(
    counts: Sequence[float], hot_factor: float = HOT_FACTOR, dead_share: float = DEAD_SHARE
) -> OddPixels:
    """Hot and dead pixels of a board from their counts in the dark, all at the same threshold
    in photoelectrons and over the same time.

    ValueError when the usual pixel has no counts to compare with.
    """
    usual = statistics.median(counts)
    if usual <= 0:
        raise ValueError("most pixels have no counts: nothing to compare with")
    return OddPixels(
        hot=tuple(pixel for pixel, count in enumerate(counts) if count > hot_factor * usual),
        dead=tuple(pixel for pixel, count in enumerate(counts) if count < dead_share * usual),
        usual=usual,
    )


def place(pixel: int) -> tuple[int, int]:
    """(x, y) of a pixel; ValueError when there is none of that number."""
    if not 0 <= pixel < PIXELS:
        raise ValueError(f"no pixel {pixel}")
    return pixel % SIDE, pixel // SIDE


def number(x: int, y: int) -> int:
    """Number of the pixel (x, y)."""
    return SIDE * y + x


def mask_bits(version: str, pixels: Collection[int]) -> Registers:
    """The tags MASKOR1_k and MASKOR2_k that are not 0 in some chip when these pixels are masked.

    version: kind of board, "qfp" or "bga".
    """
    bits: dict[str, list[int]] = {}
    for pixel in sorted(pixels):
        channel, chip = pixel_to_maroc(version, *place(pixel))
        for which in (1, 2):
            bits.setdefault(f"MASKOR{which}_{channel}", [0] * 4)[chip] = 1
    return {tag: (a, b, c, d) for tag, (a, b, c, d) in bits.items()}


def masked_registers(registers: Registers, version: str, pixels: Collection[int]) -> Registers:
    """MAROC registers with these pixels masked besides those that are masked already."""
    result = dict(registers)
    for tag, values in mask_bits(version, pixels).items():
        a, b, c, d = (old | new for old, new in zip(registers[tag], values, strict=True))
        result[tag] = (a, b, c, d)
    return result


def channel_words(pixels: Collection[int], version: str | None = None) -> tuple[int, ...]:
    """Channel mask words 0 to 7 with the bits of these pixels set (1 = masked), all others 0.

    version None: bit n is pixel n, as firmware v20 has it; "qfp" or "bga": bit n is channel
    n % 64 of chip n // 64, as the interface description has it.
    """
    words = [0] * PIXEL_WORDS
    for pixel in pixels:
        bit = pixel
        if version is not None:
            channel, chip = pixel_to_maroc(version, *place(pixel))
            bit = CHANNELS * chip + channel
        words[bit // WORD_BITS] |= 1 << bit % WORD_BITS
    return tuple(words)


def proposal(version: str, odd: OddPixels) -> dict[str, Any]:
    """What a proposal file says of a board: the pixels, and the bits that mask the hot ones."""
    return {
        "hot": [place(pixel) for pixel in odd.hot],
        "dead": [place(pixel) for pixel in odd.dead],
        "MASKOR": {
            tag: ",".join(map(str, values)) for tag, values in mask_bits(version, odd.hot).items()
        },
        "CHANMASK_by_pixel": [f"0x{word:08x}" for word in channel_words(odd.hot)],
        "CHANMASK_by_channel": [f"0x{word:08x}" for word in channel_words(odd.hot, version)],
    }


def masked_pixels(
    before: Mapping[str, Sequence[tuple[int, int]]], masks: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[tuple[int, int]]]:
    """The proposed masked_pixels.json: what is masked, and the hot pixels of `masks`."""
    found = {serialno: set(pixels) for serialno, pixels in before.items()}
    for serialno, mask in masks.items():
        found.setdefault(serialno, set()).update(mask["hot"])
    return {serialno: sorted(pixels) for serialno, pixels in found.items() if pixels}

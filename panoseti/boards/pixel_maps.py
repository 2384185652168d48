"""Which pixel of a board a MAROC channel reads: the wiring of the two board layouts.

Pixel (x, y) counts from 0 and is pixel 16 * y + x of a science packet (x = column, y = row in the
board's own frame).  Packets are already in pixel order; gains, the OR masks and the test-pulse
enables are in MAROC order and need these maps.  Pure tables.
"""

from __future__ import annotations

SIDE, CHIPS, CHANNELS = 16, 4, 64

# Each pair of hexadecimal digits is x and y of a channel, channel 0 first.
_CHIP_0 = (
    "81809091a1a0b0b1c1c0d0d1e1e0f0f182839392a2a3b3b2c2c3d3d2e2e3f3f2"
    "85849495a5a4b4b5c5c4d4d5e5e4f4f586879796a6a7b7b6c6c7d7d6e6e7f7f6"
)
_CHIP_2 = (
    "0f1f1e0e0d1d1c0c0b1b1a0a091918083f2f2e3e3d2d2c3c3b2b2a3a39292838"
    "4f5f5e4e4d5d5c4c4b5b5a4a495958487f6f6e7e7d6d6c7c7b6b6a7a79696878"
)
_QFP_1 = (
    "0607171626273736464757566667777605041415252434354544545565647475"
    "0203131222233332424353526263737201001011212030314140505161607071"
)
_QFP_3 = (
    "ffefeefefdedecfcfbebeafaf9e9e8f8cfdfdececddddccccbdbdacac9d9d8c8"
    "bfafaebebdadacbcbbabaabab9a9a8b88f9f9e8e8d9d9c8c8b9b9a8a89999888"
)
_BGA_1 = (
    "7170515040413130212011011000737263526253344342323323132212030275"
    "6160646555743545544415242505140467767766575647463637271606072617"
)
_BGA_3 = (
    "88988a9a9b8b8c9c8d9d8e8f9e9fa8b8a9bab9aadcabbbbcacadaebdbeafbfc8"
    "8999d9c9cad8cccbdadbceddcdcfdedfe9f8e8eaf9faebfbfcecedfeffeffdee"
)
# The layouts differ in chips 1 and 3 only.
_WIRING = {"qfp": (_CHIP_0, _QFP_1, _CHIP_2, _QFP_3), "bga": (_CHIP_0, _BGA_1, _CHIP_2, _BGA_3)}

VERSIONS = tuple(_WIRING)

_TO_PIXEL = {
    (version, channel, chip): (int(wires[2 * channel], 16), int(wires[2 * channel + 1], 16))
    for version, chips in _WIRING.items()
    for chip, wires in enumerate(chips)
    for channel in range(CHANNELS)
}
_TO_MAROC = {
    (version, x, y): (channel, chip) for (version, channel, chip), (x, y) in _TO_PIXEL.items()
}


def maroc_to_pixel(version: str, channel: int, chip: int) -> tuple[int, int]:
    """Pixel (x, y) that a channel 0..63 of a chip 0..3 reads; version "qfp" or "bga"."""
    try:
        return _TO_PIXEL[version, channel, chip]
    except KeyError:
        raise ValueError(f"no channel {channel} of chip {chip} on a {version!r} board") from None


def pixel_to_maroc(version: str, x: int, y: int) -> tuple[int, int]:
    """(channel, chip) that reads the pixel (x, y); version "qfp" or "bga"."""
    try:
        return _TO_MAROC[version, x, y]
    except KeyError:
        raise ValueError(f"no pixel ({x}, {y}) on a {version!r} board") from None


def readout_to_pixel(version: str, value: int) -> tuple[int, int]:
    """Pixel (x, y) of value 0..255 of a PH baseline, which come as the chips are read out.

    The four chips are read side by side: value n is channel n // 4 of chip n % 4.  That is not
    written down anywhere, but baselines measured on real boards go by n % 4: four levels, tens of
    counts apart, each with a spread of about nine.
    """
    return maroc_to_pixel(version, value // CHIPS, value % CHIPS)

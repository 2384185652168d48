"""Frames read back from PFF files, and whether their pixels are those that boards sent.

The arithmetic of simulator/sky.py stands here again, in arrays: a night has millions of pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator import sky

Pixels = npt.NDArray[np.int64]
NOISE = np.frombuffer(sky.NOISE, np.uint8).astype(np.int64)
HEADER_BYTES = {"img16": 489, "img8": 489, "ph256": 121, "ph1024": 489}
SIDE = {"img16": 32, "img8": 32, "ph256": 16, "ph1024": 32}
DTYPE = {"img16": "<u2", "img8": "u1", "ph256": "<i2", "ph1024": "<i2"}
CHUNK = 1000  # frames at once: a few MB


@dataclass(frozen=True)
class Frame:
    """A frame as it is in a file; boards: the numbers of each board that is there."""

    header: str
    boards: dict[int, dict[str, int]]
    pixels: npt.NDArray[Any]

    @property
    def numbers(self) -> dict[int, int]:
        """Packet number by quabo."""
        return {quabo: board["pkt_num"] for quabo, board in self.boards.items()}


def read_frames(data: bytes, product: str) -> Iterator[Frame]:
    """Frames of a file, which must be a whole number of them."""
    head, side, dtype = HEADER_BYTES[product], SIDE[product], np.dtype(DTYPE[product])
    size = head + 3 + side * side * dtype.itemsize
    assert len(data) % size == 0, f"{len(data)} bytes are no whole number of {product} frames"
    for at in range(0, len(data), size):
        assert data[at + head : at + head + 3] == b"\n\n*"
        header = data[at : at + head].decode("ascii")
        values = json.loads(header)
        if product == "ph256":
            found = {values.pop("quabo_num"): values}
        else:
            found = {int(key[-1]): board for key, board in values.items() if board["tv_sec"]}
        pixels = np.frombuffer(data, dtype, side * side, at + head + 3).reshape(side, side)
        yield Frame(header, found, pixels)


def board_time_ns(board: Mapping[str, int]) -> int:
    return board["pkt_tai"] * 10**9 + board["pkt_nsec"]


def _module_index() -> npt.NDArray[np.intp]:
    """Where in a flat 32x32 image each packet pixel of each board goes: [quabo, 256]."""
    places = [
        [
            row * 32 + column
            for i in range(16)
            for j in range(16)
            for row, column in [sky.module_position(quabo, i, j)]
        ]
        for quabo in range(4)
    ]
    return np.array(places)


MODULE_INDEX = _module_index()


def _board_index() -> npt.NDArray[np.intp]:
    """The same in the 16x16 image of one board."""
    row, column = MODULE_INDEX // 32 % 16, MODULE_INDEX % 32 % 16
    index: npt.NDArray[np.intp] = row * 16 + column
    return index


BOARD_INDEX = _board_index()


def _terms(starts: Pixels) -> Pixels:
    """The 256 terms of NOISE from each start: [packet, 256]."""
    return NOISE[starts[:, None] + np.arange(sky.PIXELS)]


def _starts(boardloc: int, stream: int, numbers: Sequence[int]) -> Pixels:
    begin = sky.mix(boardloc * 2 + stream) & 0xFFFF
    return (np.array(numbers, np.int64) * 40503 + begin) & 0xFFFF


def image_pixels(
    levels: Sequence[int], boardloc: int, numbers: Sequence[int], saturation: int
) -> Pixels:
    """sky.image_pixels of several packets: [packet, 256]."""
    base = np.array(levels, np.int64)
    noise = _terms(_starts(boardloc, sky.IMAGE, numbers)) & sky.IMAGE_NOISE
    return np.where((base > 0) & (base < saturation), base + noise, base)


def ph_pixels(
    pattern: Sequence[int], offset: Sequence[int], boardloc: int, numbers: Sequence[int]
) -> Pixels:
    """sky.ph_pixels of several packets: [packet, 256]."""
    starts = _starts(boardloc, sky.PH, numbers)
    amplitude = 16 + (NOISE[(starts * 7 + 1) & 0xFFFF] & 15)
    shape = np.array(pattern, np.int64) * amplitude[:, None] >> 4
    noise = (_terms(starts) & sky.PH_NOISE) - sky.PH_NOISE_OFFSET
    return np.clip(np.array(offset, np.int64) + shape + noise, -32768, 32767)


def check_pixels(
    frames: Sequence[Frame],
    product: str,
    module: int,
    tables: Mapping[int, Mapping[str, Sequence[int]]],
) -> None:
    """Every pixel of every frame is the one that was sent, at its place; 0 where a board is absent.

    tables: by BOARDLOC, a board's `levels` or its `pattern` and `offset`.
    """
    for begin in range(0, len(frames), CHUNK):
        chunk = frames[begin : begin + CHUNK]
        wanted = np.zeros((len(chunk), chunk[0].pixels.size), np.int64)
        for quabo in range(4):
            at = [n for n, frame in enumerate(chunk) if quabo in frame.boards]
            numbers = [chunk[n].numbers[quabo] for n in at]
            boardloc = 4 * module + quabo
            if not at:
                continue
            own = tables[boardloc]
            if product.startswith("ph"):
                values = ph_pixels(own["pattern"], own["offset"], boardloc, numbers)
            else:
                top = 0xFFFF if product == "img16" else 0xFF
                values = image_pixels(own["levels"], boardloc, numbers, top)
            index = (BOARD_INDEX if product == "ph256" else MODULE_INDEX)[quabo]
            wanted[np.array(at)[:, None], index] = values
        recorded = np.stack([frame.pixels.ravel() for frame in chunk])
        wrong = (recorded != wanted).any(axis=1)
        assert not wrong.any(), chunk[int(wrong.argmax())].header

"""Golden vectors of the recording, as text that C reads without a JSON parser.

usage: vectors.py GOLDEN_DIR OUT_DIR

One record per line, words apart by one blank; texts and bytes in hex:

    headers      board QUABO NUM TAI NSEC SEC USEC TEXT | module (5 numbers) x 4 TEXT
    loss         case NAME | packet BOARDLOC MODE NUMBER | lost TOTAL
    grouping     case NAME GROUP_PH | packet MODE BOARDLOC NUMBER TAI NSEC FILL SEC USEC
                 | frame PRODUCT MODULE TEXT FILL...
    frames       case NAME GROUP_PH PRODUCT MODULE | packet BYTES SEC USEC | frame TEXT PIXELS
"""

import json
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Any

Line = list[Any]

GOLDEN, OUT = sys.argv[1:3]
NUMBERS = ("pkt_num", "pkt_tai", "pkt_nsec", "tv_sec", "tv_usec")


def cases(name: str) -> list[dict[str, Any]]:
    """The cases of one golden file."""
    with open(os.path.join(GOLDEN, name + ".json")) as file:
        found: list[dict[str, Any]] = json.load(file)["cases"]
    return found


def write(name: str, lines: Iterable[Line]) -> None:
    """One file of records."""
    path = os.path.join(OUT, name + ".txt")
    with open(path, "w") as file:
        file.writelines(" ".join(str(word) for word in line) + "\n" for line in lines)


def header_lines() -> Iterator[Line]:
    """Header texts."""
    for case in cases("pff_headers"):
        fields, text = case["fields"], case["text"].encode().hex()
        if case["kind"] == "ph256":
            yield ["board", fields["quabo_num"], *(fields[key] for key in NUMBERS), text]
            continue
        numbers = []
        for quabo in range(4):
            board = fields[f"quabo_{quabo}"] or dict.fromkeys(NUMBERS, 0)
            numbers += [board[key] for key in NUMBERS]
        yield ["module", *numbers, text]


def loss_lines() -> Iterator[Line]:
    """Packet numbers and losses."""
    for case in cases("packet_loss"):
        yield ["case", case["name"]]
        for packet in case["packets"]:
            yield ["packet", *packet]
        yield ["lost", case["status"]["TPKTLST"]]


def grouping_lines() -> Iterator[Line]:
    """Packets and the frames they make."""
    for case in cases("grouping"):
        yield ["case", case["name"], case["group_ph_frames"]]
        for packet in case["packets"]:
            yield ["packet", *packet]
        for frame in case["frames"]:
            text = frame["header"].encode().hex()
            yield ["frame", frame["product"], frame["module"], text, *frame["fill"]]


def frame_lines() -> Iterator[Line]:
    """Packets and frames, byte for byte."""
    for case in cases("frames"):
        yield ["case", case["name"], case["group_ph_frames"], case["product"], case["module"]]
        code = "B" if case["product"] == "img8" else "H"
        for packet in case["packets"]:
            yield ["packet", packet["hex"], packet["tv_sec"], packet["tv_usec"]]
        for frame in case["frames"]:
            pixels = struct.pack(f"<{len(frame['pixels'])}{code}", *frame["pixels"])
            yield ["frame", frame["header"].encode().hex(), pixels.hex()]


os.makedirs(OUT, exist_ok=True)
write("headers", header_lines())
write("loss", loss_lines())
write("grouping", grouping_lines())
write("frames", frame_lines())

"""Board, detector and calibration files for simulated modules, with invented values.

    python -m simulator.make_boards --modules 1,254 --out quabos

The values follow from the module ids alone: the shipped `quabos/` was written by the line above,
and writing it again changes nothing.  The simulator reads the same files as the truth of its
boards, so whatever is written here is what calibration would find.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from panoseti.boards.addresses import parse_ranges
from simulator.sites import uid_of

SIDE = 16
OVERVOLTAGE_V = 3
MODES = ("img", "ph")
FIRST_DETECTOR = 10000


def serialno(boardloc: int) -> str:
    """Serial number of the simulated board at a place; "SN0" is what file names leave out."""
    return f"SN0{boardloc:04d}"


def detectors(boardloc: int) -> list[int]:
    """Serial numbers of its four detectors."""
    return [FIRST_DETECTOR + 4 * boardloc + quadrant for quadrant in range(4)]


def board(boardloc: int) -> dict[str, Any]:
    """Its entry in quabo_info.json."""
    return {
        "uid": uid_of(boardloc),
        "serialno": serialno(boardloc),
        # Both wirings occur, so that a mix-up of the pixel maps shows in a simulated picture.
        "board_version": "bga" if boardloc & 3 == 3 else "qfp",
        "detector_serialno": detectors(boardloc),
    }


def breakdown_voltages(boardloc: int) -> list[dict[str, Any]]:
    """Its detectors' entries in detector_info.json."""
    draw = random.Random(f"breakdown {boardloc}")
    return [
        {"serialno": serial, "breakdown_voltage": f"{draw.uniform(50.9, 51.9):.3f}"}
        for serial in detectors(boardloc)
    ]


def calibration(boardloc: int) -> dict[str, Any]:
    """Its calibration: lines of the thresholds, and a gain map of steps of 1/60."""
    draw = random.Random(f"calibration {boardloc}")
    return {
        "pixel_gain": [
            [round(draw.randint(-9, 9) / 60, 6) for _ in range(SIDE)] for _ in range(SIDE)
        ],
        "quadrants": [
            {
                "detserial": serial,
                "a": round(draw.uniform(0.34, 0.42), 3),
                "b": draw.randint(146, 174),
                "ah": round(draw.uniform(0.11, 0.14), 3),
                "bh": draw.randint(180, 198),
                "m": round(draw.uniform(7.5, 8.5), 2),
                "n": draw.randint(-4, 4),
            }
            for serial in detectors(boardloc)
        ],
    }


def write_boards(folder: Path, modules: Sequence[int]) -> None:
    """Write quabo_info.json, detector_info.json and the calibration of all boards of modules."""
    places = [4 * module + quabo for module in sorted(set(modules)) for quabo in range(4)]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "quabo_info.json", _list([board(place) for place in places]))
    voltages = [entry for place in places for entry in breakdown_voltages(place)]
    _write(folder / "detector_info.json", _list(voltages))
    for mode in MODES:
        inner = folder / f"detovervol_{OVERVOLTAGE_V}v" / mode
        inner.mkdir(parents=True, exist_ok=True)
        for place in places:
            data = calibration(place)
            text = "".join(
                ['{\n"pixel_gain": ', _list(data["pixel_gain"]).rstrip(),
                 ',\n"quadrants": ', _list(data["quadrants"]), "}\n"]
            )  # fmt: skip
            _write(inner / f"quabo_calib_{serialno(place)[3:]}.json", text)


def _list(entries: Sequence[Any]) -> str:
    """A JSON list with one entry on each line."""
    return "[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files."""
    parser = argparse.ArgumentParser(
        prog="python -m simulator.make_boards",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--modules", required=True, help='module ids, such as "1,254" or "0-63"')
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    args = parser.parse_args(argv)
    try:
        modules = parse_ranges(args.modules)
    except ValueError as error:
        parser.error(f"--modules: {error}")
    write_boards(args.out, modules)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Hot and dead pixels of a dark run (shutters closed), and the masks that keep hot ones quiet.

usage: cd /opt/panoseti; .venv/bin/python -m tools.hot_pixels RUN --config_dir /my/site

RUN is a run directory, /my/site the command directory: the kinds of the boards are in its
quabos/.  Two files are made: masks.json says which pixels and which mask bits; masked_pixels.json
goes into quabos/ of the command directory if you agree, and the next MAROC load masks them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from panoseti.calibration.pixel_masks import (
    HOT_FACTOR,
    OddPixels,
    masked_pixels,
    odd_pixels,
    place,
    proposal,
)
from panoseti.configs.board_files import MASKED_PIXELS, QUABO_UIDS, load_board_db, read_quabo_uids
from panoseti.configs.load_configs import load_site
from panoseti.configs.site import BoardInfo, Quabo
from panoseti.errors import ObsError
from panoseti.runs import pff
from panoseti.state_files import create_state
from tools.picture import summed_images

MASKS = "masks.json"


@dataclass(frozen=True)
class BoardFound:
    """What a dark run says of a board; odd None = it has no counts to judge by."""

    quabo: Quabo
    board: BoardInfo
    odd: OddPixels | None


def find(run_dir: Path, boards: Mapping[str, BoardInfo], hot_factor: float) -> list[BoardFound]:
    """Judge each board of a run that `boards` (by UID) knows; ObsError without its configs."""
    obs = load_site(run_dir, data_config=False).obs
    uids = read_quabo_uids(run_dir / QUABO_UIDS, obs)
    sums = summed_images(run_dir)
    found = []
    for quabo in obs.quabos:
        board = boards.get(uids.by_ip.get(quabo.ip, ""))
        if board is None or quabo.module_id not in sums:
            continue
        frames, total = sums[quabo.module_id]
        places = pff.PLACES[pff.MODULE_SIDE][quabo.index]
        counts = [float(total.flat[place]) / max(frames, 1) for place in places]
        try:
            found.append(BoardFound(quabo, board, odd_pixels(counts, hot_factor)))
        except ValueError:
            found.append(BoardFound(quabo, board, None))
    return found


def words(found: BoardFound) -> str:
    """What was found on one line."""
    name = f"{found.quabo.ip} ({found.board.serialno})"
    if found.odd is None:
        return f"{name}: most pixels have no counts, nothing can be said"
    parts = []
    for kind, pixels in (("hot", found.odd.hot), ("dead", found.odd.dead)):
        places = ", ".join(str(place(pixel)) for pixel in pixels)
        parts.append(f"{kind} {places}" if pixels else f"no {kind} pixel")
    return f"{name}: {'; '.join(parts)} (usual: {found.odd.usual:.2f} counts per frame)"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, judge, print, and write the proposals."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.hot_pixels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_dir", type=Path, help="a run recorded with closed shutters")
    parser.add_argument(
        "--config_dir", type=Path, default=Path("."), help="command directory (default: here)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="folder for the files (default: the run directory)"
    )
    parser.add_argument(
        "--factor", type=float, default=HOT_FACTOR,
        help="hot = so many times the usual counts (default: %(default)g)",
    )  # fmt: skip
    args = parser.parse_args(argv)
    output = args.output or args.run_dir
    try:
        db = load_board_db(args.config_dir)
        found = find(args.run_dir, db.boards, args.factor)
        if not found:
            raise ObsError(
                f"{args.run_dir}: no images of a board in {db.folder};"
                " --config_dir names the command directory of the site"
            )
        masks = {
            one.board.serialno: proposal(one.board.board_version, one.odd)
            for one in found
            if one.odd is not None
        }
        output.mkdir(parents=True, exist_ok=True)
        for name, content in (
            (MASKS, masks),
            (MASKED_PIXELS, masked_pixels(db.masked, masks)),
        ):
            create_state(output / name, (json.dumps(content, indent=1) + "\n").encode())
    except FileExistsError as error:
        print(f"hot_pixels: {error.filename2} exists; move it away, or use -o", file=sys.stderr)
        return 1
    except (ObsError, OSError) as error:
        print(f"hot_pixels: {error}", file=sys.stderr)
        return 1
    for one in found:
        print(words(one))
    print(output / MASKED_PIXELS)
    return 0


if __name__ == "__main__":
    sys.exit(main())

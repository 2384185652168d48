"""Picture of the PH baselines of all boards: the values, and how they moved since an earlier set.

usage: cd /opt/panoseti; .venv/bin/python -m tools.ph_picture FILE --config_dir /my/site

FILE is a quabo_ph_baseline.json, /my/site the command directory: the kinds of the boards are in
its quabos/.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt

from panoseti.boards.pixel_maps import readout_to_pixel
from panoseti.calibration.ph_compare import (
    USUAL_LIMITS,
    Board,
    Comparison,
    Kind,
    Limits,
    compare,
    lines,
)
from panoseti.calibration.pixel_masks import SIDE
from panoseti.configs.board_files import load_board_db, read_ph_baseline
from panoseti.configs.site import PhBaseline
from panoseti.errors import ObsError

COLOURS = {Kind.DEAD: "cyan", Kind.HOT: "red", Kind.DRIFTED: "lime"}
BOARDS_PER_ROW = 4


def place(board: Board, value: int) -> tuple[int, int]:
    """Where value 0..255 is drawn, (x, y): its pixel, or in order where the wiring is unknown."""
    if board.version:
        return readout_to_pixel(board.version, value)
    return value % SIDE, value // SIDE


def grid(board: Board, values: Sequence[float]) -> npt.NDArray[np.float64]:
    """The 256 values of a board as rows y and columns x."""
    result = np.zeros((SIDE, SIDE))
    for value, counts in enumerate(values):
        x, y = place(board, value)
        result[y, x] = counts
    return result


def draw(
    now: PhBaseline,
    output: Path,
    before: PhBaseline | None = None,
    boards: Mapping[str, Board] | None = None,
    limits: Limits = USUAL_LIMITS,
) -> list[Comparison]:
    """Draw the baselines of all boards into `output`, each above its change; the comparison.

    boards: by UID, as far as they are known.  Channels that are dead, hot or drifted are framed.
    ValueError when there is no board.
    """
    found = compare(before.coefs if before else None, now.coefs, boards, limits)
    if not found:
        raise ValueError("no board in this set, nothing to draw")
    columns = min(BOARDS_PER_ROW, len(found))
    each = 2 if before else 1
    rows = each * -(-len(found) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.6 * columns, 3.3 * rows + 0.5), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    figure.suptitle(_title(now, before), fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    span = _span([counts for one in found for counts in now.coefs[one.uid]], limits)
    for number, one in enumerate(found):
        board = one.board
        row, column = each * (number // columns), number % columns
        values = grid(board, now.coefs[one.uid])
        order = "" if board.version else ", order of the readout"
        title = f"{board.name}{order}: median {np.median(values):.0f}"
        _panel(figure, axes[row, column], values, title, "viridis", span, one)
        if before and one.uid in before.coefs:
            change = values - grid(board, before.coefs[one.uid])
            shift = float(np.median(change))
            reach = 2.0 * limits.channel_drift
            _panel(
                figure, axes[row + 1, column], change, f"moved by {shift:+.0f}", "coolwarm",
                (shift - reach, shift + reach), one,
            )  # fmt: skip
    figure.savefig(output, dpi=100)
    plt.close(figure)
    return found


def _title(now: PhBaseline, before: PhBaseline | None) -> str:
    def text(unix_s: float) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))

    since = f", compared with {text(before.date_unix)}" if before else ""
    return f"PH baselines of {text(now.date_unix)}{since} (ADC counts)"


def _span(counts: Sequence[int], limits: Limits) -> tuple[float, float]:
    """The range of colours: that of the sound channels."""
    sound = [value for value in counts if limits.kind(value) is None] or list(counts)
    return float(min(sound)), float(max(sound))


def _panel(
    figure: Any,
    axis: Any,
    values: npt.NDArray[np.float64],
    title: str,
    colours: str,
    span: tuple[float, float],
    found: Comparison,
) -> None:
    axis.set_axis_on()
    shown = axis.imshow(
        values, origin="upper", cmap=colours, interpolation="nearest", vmin=span[0], vmax=span[1]
    )
    axis.set_title(title, fontsize=8)
    axis.set_xlabel("x", fontsize=7)
    axis.set_ylabel("y", fontsize=7)
    axis.tick_params(labelsize=6)
    for finding in found.findings:
        x, y = place(found.board, finding.value)
        corner = (x - 0.5, y - 0.5)
        colour = COLOURS[finding.kind]
        axis.add_patch(plt.Rectangle(corner, 1, 1, fill=False, edgecolor=colour, linewidth=1.5))
    figure.colorbar(shown, ax=axis, shrink=0.8).ax.tick_params(labelsize=6)


def known_boards(command_dir: Path) -> dict[str, Board]:
    """Boards by UID in the data base of a command directory (or the shipped one)."""
    db = load_board_db(command_dir)
    return {uid: Board(info.serialno, info.board_version) for uid, info in db.boards.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, draw, print what is odd and where the picture is."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.ph_picture",
        description="Draw the PH baselines of all boards, and how they moved.",
        epilog="example: python -m tools.ph_picture ~/data/quabo_ph_baseline.json -o look.png",
    )
    parser.add_argument("baselines", type=Path, help="a quabo_ph_baseline.json")
    parser.add_argument("--before", type=Path, help="an earlier one to compare it with")
    parser.add_argument(
        "--config_dir", type=Path, default=Path("."), help="command directory (default: here)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="PNG file (default: ph_baseline.png beside the baselines)"
    )
    args = parser.parse_args(argv)
    output = args.output or args.baselines.with_name("ph_baseline.png")
    try:
        now = read_ph_baseline(args.baselines)
        before = read_ph_baseline(args.before) if args.before else None
        found = draw(now, output, before, known_boards(args.config_dir))
    except (ObsError, ValueError, OSError) as error:
        print(f"ph_picture: {error}", file=sys.stderr)
        return 1
    for board in found:
        for line in lines(board):
            print(line, file=sys.stderr)
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

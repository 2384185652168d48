"""Quick-look picture of a run: the summed 32x32 image of every module, as one PNG.

usage: cd /opt/panoseti; .venv/bin/python -m tools.picture RUN_DIRECTORY [-o FILE.png]
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.colors
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt

from panoseti.runs import names, pff

IMAGE_PRODUCTS = ("img16", "img8")


def read_pixels(path: Path, product: str) -> npt.NDArray[np.uint16]:
    """Pixels of every whole frame of a PFF file, shape (frames, side, side), as stored.

    A torn last frame (fewer bytes than a frame) is left out.
    """
    facts = pff.PRODUCTS[product]
    raw = np.memmap(path, dtype=np.uint8, mode="r") if path.stat().st_size else np.empty(0, "u1")
    frames = len(raw) // facts.frame_bytes
    pixel_bytes = facts.side * facts.side * facts.bytes_per_pixel
    table = np.asarray(raw[: frames * facts.frame_bytes]).reshape(frames, facts.frame_bytes)
    dtype = "<u2" if facts.bytes_per_pixel == 2 else "u1"
    pixels = np.ascontiguousarray(table[:, facts.frame_bytes - pixel_bytes :]).view(dtype)
    return pixels.reshape(frames, facts.side, facts.side)


def summed_images(run_dir: Path) -> dict[int, tuple[int, npt.NDArray[np.uint64]]]:
    """Module id -> (number of image frames, their sum with shape (32, 32)) over all files."""
    sums: dict[int, tuple[int, npt.NDArray[np.uint64]]] = {}
    for path in sorted(run_dir.glob("*.pff")):
        file = names.parse_data_file(path.name)
        if file is None or file.product not in IMAGE_PRODUCTS:
            continue
        pixels = read_pixels(path, file.product)
        frames, total = sums.get(file.module, (0, np.zeros((32, 32), np.uint64)))
        sums[file.module] = (frames + len(pixels), total + pixels.sum(axis=0, dtype=np.uint64))
    return sums


def draw(run_dir: Path, output: Path) -> list[int]:
    """Draw the summed image of each module of `run_dir` into `output` and return their ids.

    Row 0 of a frame is drawn at the top: the picture stands as the frames are stored.
    Raises ValueError when the run holds no image frame.
    """
    sums = {module: item for module, item in sorted(summed_images(run_dir).items()) if item[0]}
    if not sums:
        raise ValueError(f"{run_dir}: no image frames recorded, nothing to draw")
    columns = math.ceil(math.sqrt(len(sums)))
    rows = math.ceil(len(sums) / columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(4.6 * columns, 4.2 * rows + 0.5),
        squeeze=False,
        layout="constrained",
    )
    figure.suptitle(run_dir.resolve().name, fontsize=9)
    for axis in axes.flat[len(sums) :]:
        axis.set_axis_off()
    for axis, (module, (frames, total)) in zip(axes.flat, sums.items(), strict=False):
        # Square root of brightness: faint stars are to be seen beside bright ones.
        shown = axis.imshow(
            total / frames,
            origin="upper",
            cmap="magma",
            interpolation="nearest",
            norm=matplotlib.colors.PowerNorm(0.5, vmin=0),
        )
        axis.set_title(f"module {module}: {frames} frames", fontsize=9)
        axis.set_xlabel("column")
        axis.set_ylabel("row")
        figure.colorbar(shown, ax=axis, label="mean counts per frame", shrink=0.85)
    figure.savefig(output, dpi=110)
    plt.close(figure)
    return list(sums)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, draw, and print where the picture is."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.picture",
        description="Draw the summed image of every module of a run.",
        epilog="example: python -m tools.picture ~/panoseti-sim/head/run -o look.png",
    )
    parser.add_argument("run_dir", type=Path, help="run directory (obs_....pffd)")
    parser.add_argument("-o", "--output", type=Path, help="PNG file (default: picture.png there)")
    args = parser.parse_args(argv)
    output = args.output or args.run_dir / "picture.png"
    try:
        draw(args.run_dir, output)
    except (ValueError, OSError) as error:
        print(f"picture: {error}", file=sys.stderr)
        return 1
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Plots of a threshold scan: the staircase of every pixel, the fitted steps, the corrections.

usage: cd /opt/panoseti; .venv/bin/python -m tools.threshold_plots FOLDER_OR_SCAN...
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from panoseti.calibration.pixel_masks import SIDE
from panoseti.calibration.threshold_proposal import BoardScan, scan_from_document

STEPS_SHOWN = 3


def draw(document: dict[str, Any], output: Path) -> None:
    """Draw one board's scan; ValueError when the document is none."""
    scan = scan_from_document(document)
    figure, axes = plt.subplots(2, 3, figsize=(14, 8), layout="constrained")
    figure.suptitle(
        f"{document['serialno']} ({scan.ip}): counts in {scan.integration_us} us at gain"
        f" {scan.gain}, dark",
        fontsize=10,
    )
    panels = (axes[0, 0], axes[0, 1], axes[1, 0], axes[1, 1])
    for chip, axis in enumerate(panels):
        _curves(axis, scan, chip, document)
    _corrections(figure, axes[0, 2], document)
    axes[1, 2].set_axis_off()
    axes[1, 2].text(0.0, 1.0, _words(document), va="top", fontsize=8, family="monospace")
    figure.savefig(output, dpi=100)
    plt.close(figure)


def _curves(axis: Any, scan: BoardScan, chip: int, document: dict[str, Any]) -> None:
    hot, dead = set(document["hot"]), set(document["dead"])
    fit = document["fit"][chip]
    unclear = set(map(int, fit["problems"])) if fit else set()
    for pixel in scan.pixels(chip):
        curve = scan.curve(pixel)
        colour = "red" if pixel in hot else "tab:orange" if pixel in unclear else "tab:blue"
        shown = np.maximum(np.asarray(curve.counts), 0.5)
        axis.plot(curve.dac, shown, color=colour, linewidth=0.4 if pixel not in hot | dead else 1.2)
    if fit:
        for step in range(STEPS_SHOWN + 1):
            axis.axvline(fit["b"] + step * fit["a"] * scan.gain, color="grey", linewidth=0.6)
    axis.set_yscale("log")
    axis.set_title(f"quadrant {chip}" + ("" if fit else ": no line"), fontsize=9)
    axis.set_xlabel("DAC1", fontsize=8)
    axis.set_ylabel("counts per frame", fontsize=8)


def _corrections(figure: Any, axis: Any, document: dict[str, Any]) -> None:
    values = np.full(SIDE * SIDE, np.nan)
    for fit in document["fit"]:
        for pixel, value in (fit["correction"] if fit else {}).items():
            values[int(pixel)] = value
    shown = axis.imshow(values.reshape(SIDE, SIDE), cmap="coolwarm", interpolation="nearest")
    for pixel in document["hot"]:
        axis.plot(pixel % SIDE, pixel // SIDE, "rx")
    axis.set_title("pixel_gain (x: hot; blank: none)", fontsize=9)
    axis.set_xlabel("x", fontsize=8)
    axis.set_ylabel("y", fontsize=8)
    figure.colorbar(shown, ax=axis, shrink=0.8)


def _words(document: dict[str, Any]) -> str:
    lines = []
    for chip, fit in enumerate(document["fit"]):
        if fit is None:
            lines.append(f"quadrant {chip}: no line")
        else:
            lines.append(
                f"quadrant {chip}: DAC1 = {fit['a']:.4f} * gain * pe + {fit['b']:.2f}"
                f"  (misfit {fit['misfit']:.2f}, {len(fit['problems'])} unclear)"
            )
    for name in ("hot", "dead"):
        pixels = ", ".join(f"({p % SIDE}, {p // SIDE})" for p in document[name])
        lines.append(f"{name}: {pixels or 'none'}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw every scan that is named, or in a folder that is; print where the plots are."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.threshold_plots",
        description="Draw threshold scans; each plot goes beside its scan.",
        epilog="example: python -m tools.threshold_plots ~/data/calibration/thresholds_*",
    )
    parser.add_argument("places", nargs="+", type=Path, help="a folder, or scan_<board>.json files")
    args = parser.parse_args(argv)
    files = [
        file
        for place in args.places
        for file in (sorted(place.glob("scan_*.json")) if place.is_dir() else [place])
    ]
    if not files:
        print("threshold_plots: no scan_<board>.json there", file=sys.stderr)
        return 1
    for file in files:
        try:
            draw(json.loads(file.read_text()), file.with_suffix(".png"))
        except (ValueError, KeyError, TypeError, OSError) as error:
            print(f"threshold_plots: {file}: no scan ({error})", file=sys.stderr)
            return 1
        print(file.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

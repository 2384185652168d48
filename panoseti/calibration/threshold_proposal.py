"""From the scan of a board to the calibration that is proposed for it.  Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from panoseti.boards.commands import CHIPS
from panoseti.boards.pixel_maps import pixel_to_maroc
from panoseti.calibration.pixel_masks import PIXELS, SIDE, OddPixels, odd_pixels, place
from panoseti.calibration.threshold_fit import Curve, QuadrantFit, fit_quadrant
from panoseti.configs.settings import Codes
from panoseti.configs.site import BoardInfo

SCAN_VERSION = 1
# Half-way up the first photoelectron nearly every pixel counts all its dark pulses.
COMPARE_PE = 0.5


@dataclass
class BoardScan:
    """What was measured of a board: DAC1 of each chip and mean counts of each pixel, per point.

    build: kind of board, "qfp" or "bga"; frames: in the mean of each point (the
    fewest that arrived).
    """

    ip: str
    build: str
    gain: int
    integration_us: int
    frames: int
    dac: list[Codes] = field(default_factory=list)
    counts: list[list[float]] = field(default_factory=list)

    def chip(self, pixel: int) -> int:
        """The chip that reads a pixel."""
        return pixel_to_maroc(self.build, *place(pixel))[1]

    def pixels(self, chip: int) -> list[int]:
        """The pixels that a chip reads."""
        return [pixel for pixel in range(PIXELS) if self.chip(pixel) == chip]

    def curve(self, pixel: int) -> Curve:
        """The counts of a pixel against its chip's DAC1."""
        chip = self.chip(pixel)
        dac = [codes[chip] for codes in self.dac]
        return Curve(dac, [counts[pixel] for counts in self.counts], self.frames)


@dataclass(frozen=True)
class BoardFit:
    """The lines of a board (None where there is none, and why), and its odd pixels."""

    quadrants: tuple[QuadrantFit | None, ...]
    problems: tuple[str, ...]
    odd: OddPixels | None


def fit_board(scan: BoardScan, pixel_gain: Sequence[Sequence[float]] | None) -> BoardFit:
    """Lines and odd pixels of a board; pixel_gain[x][y]: corrections in use, None = none.

    The mean correction of each quadrant stays what it is, so that the lines of pulse height,
    which a dark scan of DAC1 does not measure, keep their meaning.
    """
    quadrants: list[QuadrantFit | None] = []
    problems = []
    for chip in range(CHIPS):
        pixels = scan.pixels(chip)
        mean = statistics.fmean(_correction(pixel_gain, pixel) for pixel in pixels)
        try:
            curves = {pixel: scan.curve(pixel) for pixel in pixels}
            quadrants.append(fit_quadrant(curves, scan.gain, mean))
            problems.append("")
        except ValueError as error:
            quadrants.append(None)
            problems.append(str(error))
    return BoardFit(tuple(quadrants), tuple(problems), _odd(scan, quadrants))


def _correction(pixel_gain: Sequence[Sequence[float]] | None, pixel: int) -> float:
    x, y = place(pixel)
    return pixel_gain[x][y] if pixel_gain is not None else 0.0


def _odd(scan: BoardScan, quadrants: Sequence[QuadrantFit | None]) -> OddPixels | None:
    """Hot and dead pixels by the counts of all pixels at the same threshold."""
    counts = []
    for pixel in range(PIXELS):
        chip = scan.chip(pixel)
        fit = quadrants[chip]
        if fit is None:
            return None
        wanted = fit.b + COMPARE_PE * fit.a * scan.gain
        point = min(range(len(scan.dac)), key=lambda i: abs(scan.dac[i][chip] - wanted))
        counts.append(scan.counts[point][pixel])
    try:
        return odd_pixels(counts)
    except ValueError:
        return None


def calibration_document(
    fit: BoardFit, board: BoardInfo, before: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """The proposed quabo_calib file; None when a quadrant has no line.

    before: the file in use.  What a dark scan does not tell (pulse height, analysis), and the
    corrections of pixels without a clean staircase, stay as they are there; 0 where there is none.
    """
    old = before or {
        "pixel_gain": [[0.0] * SIDE for _ in range(SIDE)],
        "quadrants": [dict.fromkeys(("ah", "bh", "m", "n"), 0)] * CHIPS,
    }
    pixel_gain = [list(column) for column in old["pixel_gain"]]
    quadrants = []
    for chip, line in enumerate(fit.quadrants):
        if line is None:
            return None
        for pixel, correction in line.correction.items():
            x, y = place(pixel)
            pixel_gain[x][y] = round(correction, 4)
        measured = {"a": round(line.a, 4), "b": round(line.b, 2)}
        detector = {"detserial": board.detector_serialno[chip]}
        quadrants.append({**old["quadrants"][chip], **detector, **measured})
    return {"pixel_gain": pixel_gain, "quadrants": quadrants}


def scan_document(scan: BoardScan, board: BoardInfo, fit: BoardFit) -> dict[str, Any]:
    """The curves of a board with what was made of them, for plots and for later."""
    return {
        "version": SCAN_VERSION,
        "serialno": board.serialno,
        "uid": board.uid,
        **asdict(scan),
        "fit": [
            None
            if line is None
            else {
                "a": line.a,
                "b": line.b,
                "misfit": line.misfit,
                "correction": {str(pixel): value for pixel, value in line.correction.items()},
                "problems": {str(pixel): text for pixel, text in line.problems.items()},
            }
            for line in fit.quadrants
        ],
        "hot": list(fit.odd.hot) if fit.odd else [],
        "dead": list(fit.odd.dead) if fit.odd else [],
    }


def scan_from_document(document: Mapping[str, Any]) -> BoardScan:
    """The curves in a scan document; ValueError or KeyError when it is none of this version."""
    if document["version"] != SCAN_VERSION:
        raise ValueError(f"version {document['version']!r}, not {SCAN_VERSION}")
    return BoardScan(
        ip=document["ip"],
        build=document["build"],
        gain=document["gain"],
        integration_us=document["integration_us"],
        frames=document["frames"],
        dac=[(a, b, c, d) for a, b, c, d in document["dac"]],
        counts=[list(point) for point in document["counts"]],
    )

"""Thresholds measured in the dark: scan, fit, and a proposed calibration file for each board.

What is proposed goes under `calibration/` of the head node's data directory, each measurement
into a folder of its own; nothing that exists is changed.  The operator looks at the curves
(`python -m tools.threshold_plots FOLDER`) and copies what convinces to the board files.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoseti.boards.board_work import Work
from panoseti.boards.commands import CHIPS
from panoseti.bringup.board_setup import dark, load_maroc
from panoseti.bringup.ledger import Step
from panoseti.calibration.pixel_masks import PIXELS, masked_pixels, place, proposal
from panoseti.calibration.threshold_proposal import (
    BoardFit,
    BoardScan,
    calibration_document,
    fit_board,
    scan_document,
)
from panoseti.calibration.threshold_scan import STEP, ScanPlan, scan_boards
from panoseti.configs import settings
from panoseti.configs.board_files import MASKED_PIXELS
from panoseti.configs.json_document import read_document
from panoseti.configs.site import BoardInfo, Quabo
from panoseti.errors import ObsError, RefusedError
from panoseti.runs import activities
from panoseti.runs.run_state import in_progress_text, read_holder
from panoseti.state_files import create_state

CALIBRATION_FOLDER = "calibration"
MASKS_FILE = "masks.json"


@dataclass(frozen=True)
class QuadrantRow:
    """One quadrant: the line in use (None = no calibration) and the proposed one.

    problem: why there is no proposal, "" = there is; unclear: how many of its pixels show no
    clean staircase and keep the correction they have.
    """

    quadrant: int
    a_before: float | None
    b_before: float | None
    a: float | None
    b: float | None
    unclear: int
    problem: str = ""


@dataclass(frozen=True)
class BoardProposal:
    """What was found for a board.

    file: the proposed calibration, None = there is none since a quadrant has no line; scan: the
    curves; hot, dead: pixels (x, y).
    """

    ip: str
    serialno: str
    file: str | None
    scan: str
    quadrants: tuple[QuadrantRow, ...]
    hot: tuple[tuple[int, int], ...]
    dead: tuple[tuple[int, int], ...]


def measure_thresholds(
    work: Work,
    boards: Sequence[Quabo],
    plan: ScanPlan = ScanPlan(),  # noqa: B008
) -> list[BoardProposal]:
    """Scan boards in the dark and propose calibrations and masks.

    Shutters are closed meanwhile, and the MAROC settings of data taking loaded again at the end; a
    module whose shutter does not close, or whose driver of it is absent, is left out, since its
    detectors have high voltage.
    High voltage must be on.  RefusedError during a run or beside a pipeline on this computer.
    """
    _refuse(work)
    boards = [quabo for quabo in boards if _is_known(work, quabo)]
    gain = round(work.site.data.gain)
    with dark(work, boards, STEP, with_hv=True) as boards:  # those that see no light
        had_settings = [q for q in boards if work.ledger.done(q.ip, Step.MAROC)]
        for quabo in boards:
            work.ledger.forget(quabo.ip, [Step.MAROC])
        work.book.save()
        work.flight.note("threshold_scan", boards=[quabo.ip for quabo in boards], gain=gain)
        try:
            scans = scan_boards(work, boards, gain, plan)
        finally:
            load_maroc(work, [q for q in had_settings if q.ip not in work.failed])
    return _propose(work, scans) if scans else []


def _refuse(work: Work) -> None:
    holder = read_holder(work.site.head_data_dir)
    if holder is not None:
        raise RefusedError(in_progress_text(holder))
    running = activities.pipelines()
    if running:
        raise RefusedError(
            f"{running[0]} runs on this computer, and the boards would send their images to it;"
            " stop.py first (is it yours?)"
        )


def _is_known(work: Work, quabo: Quabo) -> bool:
    known = work.uids.get(quabo.ip, "") in work.settings.db.boards
    if not known:
        work.board_fault(quabo.ip, STEP, "not in quabo_info.json: its kind is unknown; add it")
    return known


# --- files ------------------------------------------------------------------------------------


def _propose(work: Work, scans: Mapping[str, BoardScan]) -> list[BoardProposal]:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    folder = work.site.head_data_dir / CALIBRATION_FOLDER / f"thresholds_{stamp}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ObsError(f"{folder}: cannot be made: {error.strerror}") from error
    rows = []
    masks: dict[str, Any] = {}
    for ip, scan in scans.items():
        board = work.settings.db.board(work.uids[ip])
        path = _calibration_path(work, board)
        before = _before(work, path)
        fit = fit_board(scan, before["pixel_gain"] if before else None)
        document = calibration_document(fit, board, before)
        if document is not None:
            _create(folder / path.name, document)
        else:
            work.fault(ip, STEP, next(problem for problem in fit.problems if problem))
        curves = folder / f"scan_{board.serialno}.json"
        _create(curves, scan_document(scan, board, fit))
        if fit.odd is not None:
            masks[board.serialno] = proposal(scan.build, fit.odd)
        file = str(folder / path.name) if document is not None else None
        rows.append(_row(ip, board, fit, before, file, str(curves)))
    _create(folder / MASKS_FILE, masks)
    _create(folder / MASKED_PIXELS, masked_pixels(work.settings.db.masked, masks))
    return rows


def _calibration_path(work: Work, board: BoardInfo) -> Path:
    obs, data = work.site.obs, work.site.data
    mode = settings.calibration_mode(data)
    return work.settings.db.calibration_path(board, obs.calibration_overvoltage_v, mode)


def _before(work: Work, path: Path) -> dict[str, Any] | None:
    """The calibration file in use; None when there is none, or it is no use."""
    if not path.is_file():
        return None
    document = read_document(path, "quabo_calib")
    if document.faults:
        work.console.warn(f"{document.faults[0]}; taken as missing")
        return None
    content: dict[str, Any] = document.content
    return content


def _create(path: Path, document: Any) -> None:
    try:
        create_state(path, (json.dumps(document, indent=1) + "\n").encode())
    except OSError as error:
        raise ObsError(f"{path}: cannot be written: {error.strerror}") from error


def _row(
    ip: str,
    board: BoardInfo,
    fit: BoardFit,
    before: Mapping[str, Any] | None,
    file: str | None,
    scan: str,
) -> BoardProposal:
    quadrants = []
    for chip, line in enumerate(fit.quadrants):
        old = before["quadrants"][chip] if before else {}
        quadrants.append(
            QuadrantRow(
                quadrant=chip,
                a_before=old.get("a"),
                b_before=old.get("b"),
                a=line.a if line else None,
                b=line.b if line else None,
                unclear=len(line.problems) if line else PIXELS // CHIPS,
                problem=fit.problems[chip],
            )
        )
    odd = fit.odd
    return BoardProposal(
        ip=ip,
        serialno=board.serialno,
        file=file,
        scan=scan,
        quadrants=tuple(quadrants),
        hot=tuple(place(pixel) for pixel in odd.hot) if odd else (),
        dead=tuple(place(pixel) for pixel in odd.dead) if odd else (),
    )

"""What calibration has found, in the words and rows that config.py shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from panoseti.boards.board_work import Work
from panoseti.bringup.board_setup import calibrate_ph
from panoseti.calibration import ph_baselines, ph_compare
from panoseti.calibration.threshold_measure import BoardProposal
from panoseti.configs.site import PhBaseline, Quabo
from panoseti.errors import ConfigError

THRESHOLD_COLUMNS = ("board", "serial", "chip", "a", "was", "b", "was", "unclear", "problem")


def threshold_rows(proposals: Sequence[BoardProposal]) -> list[tuple[object, ...]]:
    """A row for each quadrant: the proposed line beside the one in use."""
    return [
        (
            found.ip, found.serialno, row.quadrant, _number(row.a, 4), _number(row.a_before, 4),
            _number(row.b, 1), _number(row.b_before, 1), row.unclear, row.problem,
        )
        for found in proposals
        for row in found.quadrants
    ]  # fmt: skip


def threshold_lines(proposals: Sequence[BoardProposal]) -> list[str]:
    """Odd pixels of each board, and where the proposed calibration lies."""
    said = []
    for found in proposals:
        for kind, pixels in (("hot", found.hot), ("dead", found.dead)):
            if pixels:
                places = " ".join(f"({x}, {y})" for x, y in pixels)
                said.append(f"{found.serialno}: {len(pixels)} {kind}: {places}")
        proposed = found.file or "none, a quadrant has no line"
        said.append(f"{found.serialno}: proposed calibration: {proposed}; curves: {found.scan}")
    return said


@dataclass(frozen=True)
class BaselineReport:
    """PH baselines just measured: the summary of each board by address; what has changed."""

    summaries: dict[str, ph_baselines.Summary]
    news: list[str]


def measure_baselines(work: Work, boards: Sequence[Quabo]) -> BaselineReport:
    """Measure the PH baselines of boards, and compare them with the set before."""
    data_dir = work.site.head_data_dir
    try:
        earlier = ph_baselines.earlier_baselines(data_dir)
    except ConfigError:
        earlier = None  # calibrate_ph says so
    summaries = calibrate_ph(work, boards)
    now = ph_baselines.earlier_baselines(data_dir) if summaries else None
    measured = {} if now is None else {work.uids[ip]: now.coefs[work.uids[ip]] for ip in summaries}
    return BaselineReport(summaries, baseline_lines(work, earlier, measured))


def baseline_lines(
    work: Work, earlier: PhBaseline | None, measured: Mapping[str, Sequence[int]]
) -> list[str]:
    """What has changed since the set before: drift, dead and hot channels by board and pixel.

    measured: UID -> values of the boards just measured.
    """
    boards = {
        uid: ph_compare.Board(board.serialno, board.board_version)
        for uid, board in work.settings.db.boards.items()
    }
    before = earlier.coefs if earlier else None
    return [
        line
        for comparison in ph_compare.compare(before, measured, boards)
        for line in ph_compare.lines(comparison)
    ]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"

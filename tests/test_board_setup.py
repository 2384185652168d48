"""What must be so before a board is set up or measured.  No board is spoken to."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from panoseti.boards.board_work import Work
from panoseti.bringup.board_setup import calibrate_ph
from panoseti.bringup.ledger import Ledger, Step
from tests.site_work import site_work


def set_up(work: Work) -> Ledger:
    """The ledger of a bring-up that has loaded the MAROC settings."""
    for quabo in work.boards:
        for step in (Step.UID, Step.REBOOT, Step.MAROC):
            facts = {"UID": work.uids[quabo.ip]} if step is Step.UID else {}
            inputs = work.inputs(quabo, step)
            work.ledger.finish(quabo.ip, step, time.time(), inputs, facts)
    return work.ledger


def reboot(work: Work) -> None:
    for quabo in work.boards:
        work.ledger.begin(quabo.ip, Step.REBOOT, time.time())
        work.ledger.finish(quabo.ip, Step.REBOOT, time.time(), {})


def begin_maroc(work: Work) -> None:
    for quabo in work.boards:
        work.ledger.begin(quabo.ip, Step.MAROC, time.time())


def nothing(work: Work) -> None:
    pass


@pytest.mark.parametrize(
    ("event", "gain", "why"),
    [
        (nothing, 62, "gain 60 -> 62 in data_config.json"),
        (reboot, 60, "not done"),
        (begin_maroc, 60, "begun at 20"),
    ],
)
def test_no_baseline_of_other_maroc_settings(
    tmp_path: Path, event: Callable[[Work], None], gain: int, why: str
) -> None:
    """It would be entered as that of the settings in the configs, and count as fresh."""
    before = site_work(tmp_path)
    set_up(before)
    event(before)
    work = site_work(tmp_path, before.ledger, gain)
    assert calibrate_ph(work, work.boards) == {}
    assert [problem.where for problem in work.problems] == [q.ip for q in work.boards]
    assert {problem.step for problem in work.problems} == {"PH baseline"}
    for problem in work.problems:
        assert f"MAROC comes first ({why}" in problem.text
        assert problem.text.endswith(": config.py --maroc_config --calibrate_ph")
    assert all(work.ledger.entry(q.ip, Step.PH_BASELINE) is None for q in work.boards)

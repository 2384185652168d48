"""HV off by hand: what is sent before anybody is waited for, and what counts as proven."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from panoseti.boards.board_work import Work
from panoseti.boards.verified import NO_HK, Check
from panoseti.bringup import session_end
from panoseti.bringup.session_end import high_voltage_off
from panoseti.bringup.session_setup import start_hv
from panoseti.configs.site import Quabo
from panoseti.high_voltage.hv_off_asked import OFF_ASKED_FILE, note_off_asked
from tests.site_work import site_work


class World:
    """Boards that take every order; what they show is up to the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, unseen: bool, powered: bool) -> None:
        self.orders: list[str] = []
        self.unseen = unseen
        self.dark = not powered
        monkeypatch.setattr(session_end, "hv_off", self.hv_off)
        monkeypatch.setattr(session_end.session_setup, "end_daemons", self.end)
        monkeypatch.setattr(session_end.verified, "see_hv_off", self.see)
        monkeypatch.setattr(session_end, "_without_power", self.without_power)

    def hv_off(self, site: Any, boards: Sequence[Quabo], *_: Any, **__: Any) -> dict[str, None]:
        self.orders.append("off")
        return dict.fromkeys((quabo.ip for quabo in boards), None)

    def end(self, work: Work, names: Sequence[str]) -> None:
        self.orders += [f"end {name}" for name in names]

    def see(self, work: Work, ips: Sequence[str], since_unix: float, listen: bool) -> Check:
        assert listen is not work.echo[work.boards[0].ip], "worth waiting for those alone"
        if self.unseen:
            return Check("HV off", unknown=dict.fromkeys(ips, NO_HK))
        return Check("HV off", good=list(ips))

    def without_power(self, work: Work, ips: Sequence[str]) -> set[str]:
        return {quabo.ip for quabo in work.boards} if self.dark and ips else set()


@pytest.mark.parametrize(
    ("echo", "unseen", "powered", "proven"),
    [
        (True, False, True, True),
        (True, True, True, True),  # it has echoed "off", and other words tell the rest
        (False, False, True, True),
        (False, True, True, False),
        (False, True, False, True),
    ],
)
def test_a_board_that_can_neither_answer_nor_be_seen_is_not_proven_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    echo: bool, unseen: bool, powered: bool, proven: bool,
) -> None:  # fmt: skip
    work = site_work(tmp_path, echo=echo)
    world = World(monkeypatch, unseen, powered)
    ips = {quabo.ip for quabo in work.boards}
    assert high_voltage_off(work) == (set() if proven else ips)
    assert {problem.where for problem in work.problems} == (set() if proven else ips)
    for problem in work.problems:
        assert problem.text.startswith(f"{session_end.UNSEEN}: {NO_HK}; if in doubt cut")
    # An updater that hangs is waited for before it is killed: the boards are told before that.
    assert world.orders == ["off", "end hv_updater", "off"]


@pytest.mark.parametrize("before", [None, 1_790_000_000.0, "broken"])
@pytest.mark.parametrize("later_s", [-3600.0, 0.5, 3600.0])
def test_a_bring_up_at_work_switches_nothing_on_again(
    tmp_path: Path, before: float | str | None, later_s: float
) -> None:
    """Whatever the clock says: it may have been set back in between."""
    if isinstance(before, str):
        (tmp_path / OFF_ASKED_FILE).write_text(before)
    elif before is not None:
        note_off_asked(tmp_path, before)
    work = site_work(tmp_path)
    note_off_asked(tmp_path, 1_790_000_000.0 + later_s)
    assert not start_hv(work)
    assert "HV off was asked for at" in work.problems[-1].text
    again = site_work(tmp_path)
    assert not start_hv(again)
    assert "does not run" in again.problems[-1].text, "capture_hk: the next one may"

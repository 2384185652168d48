"""HV off by hand: what is sent before anybody is waited for, and what counts as proven."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from panoseti.boards.board_work import Work
from panoseti.boards.verified import NO_HK, Check
from panoseti.bringup import session, session_end
from panoseti.bringup.ledger import Step
from panoseti.bringup.overview import POWER_OFF, BoardRow, shut_down_rows
from panoseti.bringup.session_end import high_voltage_off
from panoseti.bringup.session_setup import start_hv
from panoseti.bringup.touched import note_touched
from panoseti.configs.site import Quabo
from panoseti.high_voltage.hv_off_asked import OFF_ASKED_FILE, note_off_asked
from panoseti.housekeeping.hk_watch import Shown
from panoseti.launch import HEARTBEAT_VERSION, heartbeat_path
from simulator.private_observatory import private_observatory
from tests.config_calls import config
from tests.site_work import site_work


class World:
    """Boards that take every order; what they show is up to the test."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, unseen: bool, powered: bool, before: bool
    ) -> None:
        self.orders: list[str] = []
        self.before = before
        self.unseen = unseen
        self.dark = not powered
        monkeypatch.setattr(session_end, "hv_off", self.hv_off)
        monkeypatch.setattr(session_end.session_setup, "end_daemons", self.end)
        monkeypatch.setattr(session_end.verified, "see_hv_off", self.see)
        monkeypatch.setattr(session_end, "_without_power", self.without_power)
        monkeypatch.setattr(session_end, "shown_off_before", self.shown_off_before)

    def hv_off(self, site: Any, boards: Sequence[Quabo], *_: Any, **__: Any) -> dict[str, None]:
        self.orders.append("off")
        return dict.fromkeys((quabo.ip for quabo in boards), None)

    def end(self, work: Work, names: Sequence[str]) -> None:
        self.orders += [f"end {name}" for name in names]

    def see(self, work: Work, ips: Sequence[str], since_unix: float, listen: bool) -> Check:
        assert listen is not self.before, "nothing but housekeeping shows that a board has obeyed"
        if self.unseen:
            return Check("HV off", unknown=dict.fromkeys(ips, NO_HK))
        return Check("HV off", good=list(ips))

    def shown_off_before(self, work: Work, ips: Sequence[str]) -> set[str]:
        return set(ips) if self.before else set()

    def without_power(self, work: Work, ips: Sequence[str]) -> set[str]:
        return {quabo.ip for quabo in work.boards} if self.dark and ips else set()


@pytest.mark.parametrize(
    ("echo", "unseen", "powered", "before", "proven"),
    [
        (True, False, True, False, True),
        (True, True, True, False, False),  # it has echoed "off": it has heard, no more
        (True, True, True, True, True),
        (True, True, False, False, True),
        (False, False, True, False, True),
        (False, True, True, False, False),
        (False, True, True, True, True),
        (False, True, False, False, True),
    ],
)
def test_a_board_of_which_nothing_is_seen_is_not_proven_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    echo: bool, unseen: bool, powered: bool, before: bool, proven: bool,
) -> None:  # fmt: skip
    work = site_work(tmp_path, echo=echo)
    world = World(monkeypatch, unseen, powered, before)
    ips = {quabo.ip for quabo in work.boards}
    assert high_voltage_off(work) == (set() if proven else ips)
    assert {problem.where for problem in work.problems} == (set() if proven else ips)
    for problem in work.problems:
        assert problem.text.startswith(f"{session_end.UNSEEN}: {NO_HK}; if in doubt cut")
    # An updater that hangs is waited for before it is killed: the boards are told before that.
    assert world.orders == ["off", "end hv_updater", "off"]


@pytest.mark.parametrize(
    ("stage", "volts", "by_hand", "off"),
    [
        ("off", 0.3, False, True),
        ("off", None, False, True),  # Redis has forgotten
        ("off", 54.0, False, False),  # somebody else has switched it on
        ("off", 0.3, True, False),  # so has qc.py, unseen
        ("falling", 0.3, False, False),  # by a packet from before it was on, say
        ("on", 54.0, False, False),
        (None, 0.3, False, True),
        (None, 54.0, False, False),
        (None, None, False, False),
    ],
)
def test_what_counts_as_seen_off_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    stage: str | None, volts: float | None, by_hand: bool, off: bool,
) -> None:  # fmt: skip
    work = site_work(tmp_path)
    one, other = (quabo.ip for quabo in work.boards[:2])
    (tmp_path / "log").mkdir()
    beat = {
        "version": HEARTBEAT_VERSION, "name": "hv_updater", "pid": 1, "started_unix": 0,
        "updated_unix": 9, "interval_s": 1, "state": "ended",
        "details": {"boards": {one: {"hv": stage}} if stage else {}},
    }  # fmt: skip
    heartbeat_path(tmp_path, "hv_updater").write_text(json.dumps(beat))
    if by_hand:
        note_touched(tmp_path, one, Step.HV, "set by qc.py")

    class Records:
        shown: ClassVar = (
            {} if volts is None else {one: Shown(9.0, (0.1, volts, 0.0, 0.0), (), 0, 0)}
        )

        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> Records:
            return self

        def __exit__(self, *_: object) -> None: ...

    if volts is not None:
        Records.shown[one] = Shown(9.0, (0.1, volts, 0.0, 0.0), (), 0, 0)
    monkeypatch.setattr(session_end, "StoreWatch", Records)
    assert session_end.shown_off_before(work, [one, other]) == ({one} if off else set())


def test_nothing_is_called_shut_down_beside_a_voltage() -> None:
    """Nor beside housekeeping from before, which tells nothing of how a board is now."""

    def row(
        ip: str, age_s: float | None, volts: float, uid: str = "7", state: str = "HV"
    ) -> BoardRow:
        return BoardRow(
            "dome", "module", 254, 0, ip, 1016, uid, "", "", None, age_s, 20.0, 30.0,
            (volts, 0.0, 0.0, 0.0), state,
        )  # fmt: skip

    rows = [
        row("off", 2.0, 0.4), row("on", 2.0, 54.5), row("old", 15.8, 54.8),
        row("failed", 2.0, 55.0), row("dark", 99.0, 54.0, state=POWER_OFF),
        row("absent", 2.0, 0.0, uid="", state="absent"),
    ]  # fmt: skip
    said = {r.ip: r for r in shut_down_rows(rows, {"failed": "failed: stuck"}, begun_ago_s=10.0)}
    assert {ip: r.state for ip, r in said.items()} == {
        "off": "shut down", "on": "not shut down: HVMON shows 54.5 V", "old": "shut down",
        "failed": "failed: stuck", "dark": POWER_OFF, "absent": "absent",
    }  # fmt: skip
    assert (said["old"].hv_v, said["old"].hk_age_s, said["old"].detectors_c) == (None, None, None)
    assert said["off"].hv_v == (0.4, 0.0, 0.0, 0.0)


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


@pytest.mark.long
def test_a_shutdown_without_housekeeping_leaves_the_guard(tmp_path: Path) -> None:
    """capture_hk is dead and a board keeps its HV: its echo proved nothing, and nobody was left."""
    with private_observatory(tmp_path, modules=(254,), time_scale=20) as observatory:
        assert config(observatory).code == 0
        stuck = observatory.site.quabos[1]
        with observatory.client() as client:
            client.fault(stuck, "hv_stuck")
        capture = session.process("capture_hk", observatory.data_dir)
        assert capture is not None
        capture.kill()
        answer = config(observatory, "--shutdown", "--json")
        assert answer.code == 1, answer
        assert f"{stuck}: HV off: HVMON shows 5" in answer.err
        states = {row["ip"]: row["state"] for row in answer.json["boards"]}
        assert states.pop(stuck).startswith(f"{stuck}: HV off: HVMON shows 5")
        assert set(states.values()) == {"shut down"}
        assert session.state("temperature_guard", observatory.data_dir).works
        with observatory.client() as client:
            client.fault(stuck, "none")
        answer = config(observatory, "--shutdown")
        assert answer.code == 0, answer
        assert not session.state("temperature_guard", observatory.data_dir).pid
        answer = config(observatory, "--shutdown")
        assert answer.code == 0, answer

"""Which boards may have HV: those that somebody has asked for, and no other."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from panoseti.bringup import boot, session_end, session_setup
from panoseti.bringup.bring_up import BringUp
from panoseti.bringup.session_setup import ask_for_hv
from panoseti.errors import ObsError
from panoseti.high_voltage import hv_asked
from panoseti.high_voltage.hv_asked import (
    ASKED_FILE,
    ask,
    read_asked,
    take_all_back,
    take_back,
)
from panoseti.high_voltage.hv_off import PATIENCE_S
from panoseti.high_voltage.hv_off_asked import note_off_asked
from simulator.private_observatory import private_observatory
from tests.config_calls import boards, config
from tests.helpers import wait_for
from tests.site_work import site_work


def test_boards_are_added_and_taken_out(tmp_path: Path) -> None:
    assert read_asked(tmp_path) == frozenset()
    take_back(tmp_path, ["a"])
    take_all_back(tmp_path)
    ask(tmp_path, ["a", "b"])
    ask(tmp_path, ["c"])
    assert read_asked(tmp_path) == {"a", "b", "c"}
    take_back(tmp_path, ["b", "d"])
    assert read_asked(tmp_path) == {"a", "c"}
    ask(tmp_path, ["b"], anew=True)
    assert read_asked(tmp_path) == {"b"}
    take_back(tmp_path, ["b"])
    assert read_asked(tmp_path) == frozenset() and not (tmp_path / ASKED_FILE).exists()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"version": 1}', '{"version": 1, "boards": 7}',
     '{"version": 1, "boards": [7]}', '{"version": 2, "boards": ["a"]}'],
)  # fmt: skip
def test_a_damaged_file_gives_no_board_anything(tmp_path: Path, content: str) -> None:
    path = tmp_path / ASKED_FILE
    path.write_text(content)
    with pytest.raises(ObsError, match=f"{ASKED_FILE}: .*no board may have HV; config.py --hv_on"):
        read_asked(tmp_path)
    take_back(tmp_path, ["a"])
    assert path.read_text() == content
    assert ASKED_FILE in ask(tmp_path, ["b"])
    assert read_asked(tmp_path) == {"b"}
    path.write_text(content)
    take_all_back(tmp_path)
    assert read_asked(tmp_path) == frozenset()


def test_a_new_updater_begins_with_what_is_asked_for_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one runs, what others asked for stays."""
    work = site_work(tmp_path)
    one, other = work.boards[:2]
    runs = True
    monkeypatch.setattr(session_setup.session, "process", lambda *_: runs or None)
    assert ask_for_hv(work, [one]) and ask_for_hv(work, [other])
    assert read_asked(tmp_path) == {one.ip, other.ip}
    runs = False
    assert ask_for_hv(work, [other])
    assert read_asked(tmp_path) == {other.ip}


@pytest.mark.parametrize("late", [False, True])
def test_nobody_asks_after_hv_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """Nor in the same moment."""
    work = site_work(tmp_path)

    def hv_off() -> None:
        note_off_asked(tmp_path, 1_790_000_000.0)
        take_all_back(tmp_path)

    def ask_late(*words: object) -> str:
        hv_off()
        return ask(*words)  # type: ignore[arg-type]

    if late:
        monkeypatch.setattr(hv_asked, "ask", ask_late)
    else:
        hv_off()
    assert not ask_for_hv(work, work.boards)
    assert read_asked(tmp_path) == frozenset()
    assert "HV off was asked for at" in work.problems[-1].text


def test_a_board_that_is_left_out_is_taken_out(tmp_path: Path) -> None:
    """One that comes back may be another one, and nobody has set it up."""
    work = site_work(tmp_path)
    ask(tmp_path, [quabo.ip for quabo in work.boards])
    work.absent(work.boards[2])
    work.save_uids()
    assert read_asked(tmp_path) == {q.ip for i, q in enumerate(work.boards) if i != 2}


def test_what_a_dead_board_will_cost_is_said_at_bring_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is known; one that never was there costs nothing."""
    work = site_work(tmp_path)
    work.uids[work.boards[1].ip] = ""
    monkeypatch.setattr(boot, "ping", lambda work, boards: set())
    assert BringUp(work)._look_for_boards() == []
    texts = {problem.where: problem.text for problem in work.problems}
    assert f"for {PATIENCE_S:g} s temperature_guard trips its module" in texts[work.boards[0].ip]
    assert "trips" not in texts[work.boards[1].ip]


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_bring_up_asks_for_the_boards_it_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    """Also where the updater runs and nothing is to be started."""
    work = site_work(tmp_path)
    gone = work.boards[3]
    work.uids[gone.ip] = ""
    monkeypatch.setattr(session_setup, "why_start", lambda *_: None)
    BringUp(work, dry_run=dry_run)._daemons()
    expected = set() if dry_run else {quabo.ip for quabo in work.boards} - {gone.ip}
    assert read_asked(tmp_path) == expected


def test_hv_off_takes_all_back_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An updater that hangs and is killed late, or cannot be ended, finds nothing to switch on."""
    work = site_work(tmp_path)
    ask(tmp_path, [quabo.ip for quabo in work.boards])

    def hv_off(*_: object, **__: object) -> None:
        assert read_asked(tmp_path) == frozenset()
        raise InterruptedError

    monkeypatch.setattr(session_end, "hv_off", hv_off)
    with pytest.raises(InterruptedError):
        session_end.high_voltage_off(work)


def _volts(observatory: object, module: int) -> list[float]:
    return [
        max(board["hv"]["volts"])
        for board in boards(observatory).values()  # type: ignore[arg-type]
        if board["boardloc"] // 4 == module
    ]


@pytest.mark.long
def test_the_bring_up_of_one_module_switches_nothing_on_in_another(tmp_path: Path) -> None:
    """Somebody is at work on the dome that was left out."""
    with private_observatory(tmp_path, modules=(1, 254), time_scale=20) as observatory:
        assert config(observatory).code == 0
        assert config(observatory, "--shutdown").code == 0
        answer = config(observatory, "--module", "1")
        assert answer.code == 0, answer
        assert min(_volts(observatory, 1)) > 50 and max(_volts(observatory, 254)) < 1
        one = next(ip for ip, b in boards(observatory).items() if b["boardloc"] == 4 * 254)
        status = subprocess.run(
            observatory.command("status.py"), cwd=observatory.command_dir,
            capture_output=True, text=True, env={**os.environ, "COLUMNS": "300"},
        )  # fmt: skip
        assert status.returncode == 0 and "ALARM" not in status.stdout, status
        # The others come when they are asked for, and go when they are not.
        assert config(observatory, "--hv_on", "--quabo", one).code == 0
        assert sorted(volt > 50 for volt in _volts(observatory, 254)) == [False, False, False, True]
        assert config(observatory).code == 0
        assert min(_volts(observatory, 254)) > 50
        assert config(observatory, "--module", "1", "--redo", "hv").code == 0
        wait_for(lambda: min(_volts(observatory, 254)) > 50, "what was asked for to come back")
        (observatory.data_dir / ASKED_FILE).write_text("")
        wait_for(lambda: max(_volts(observatory, 254)) < 1, "HV to go")
        assert config(observatory).code == 0
        assert min(_volts(observatory, 254) + _volts(observatory, 1)) > 50

"""What must be so before a board is set up or measured.  No board is spoken to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from panoseti.boards.board_work import Result, Work
from panoseti.boards.outlets import Feed
from panoseti.bringup import board_setup, power
from panoseti.bringup.board_setup import (
    SHUTTER_QUABO,
    calibrate_ph,
    dark,
    load_masks,
    quabo_config_file,
)
from panoseti.bringup.config_request import Job, Request
from panoseti.bringup.device_tasks import DEVICE_TASKS
from panoseti.bringup.ledger import Ledger, Step
from panoseti.configs.site import PowerSwitch
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


@pytest.mark.parametrize("with_hv", [True, False])
def test_who_can_close_no_shutter_is_not_in_the_dark(
    tmp_path: Path, with_hv: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Detectors with high voltage see what light there is; baselines are measured without."""
    work = site_work(tmp_path)
    boards = [quabo for quabo in work.boards if quabo.index != SHUTTER_QUABO]
    driver = work.boards[SHUTTER_QUABO].ip
    work.uids[driver] = ""
    with dark(work, boards, "scan", with_hv) as able:
        assert able == ([] if with_hv else boards)
    assert [problem.where for problem in work.problems] == (
        [quabo.ip for quabo in boards] if with_hv else []
    )
    said = f"{driver} drives, may be open: it is absent" if with_hv else f"{driver}, which drives"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("came", [True, False])
def test_a_board_that_does_not_come_with_its_power_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, came: bool
) -> None:
    work = site_work(tmp_path)
    module = work.modules[0]
    feed = Feed(PowerSwitch("wps", "http://127.0.0.1", 1), (module,))
    monkeypatch.setattr(power, "_switch", lambda work, wanted, on: list(wanted))
    monkeypatch.setattr(power, "whole_feeds", lambda work: [feed])
    monkeypatch.setattr(power, "unpowered", lambda work, modules: [feed])
    monkeypatch.setattr(power, "states", lambda work, needed: [])
    monkeypatch.setattr(power, "_await_ping", lambda work, ips, limit_s: [] if came else ips[2:])
    (task,) = [task for task in DEVICE_TASKS if task.name == "power_on"]
    task.do(Job(work, Request(), {}))
    assert [problem.where for problem in work.problems] == (
        [] if came else [quabo.ip for quabo in work.boards[2:]]
    )


@pytest.mark.parametrize("damage", [b"", b"[1]", b'{"GAIN": "1,2"', b"\xff\xfe", None])
def test_a_damaged_record_of_a_board_stops_nobody(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: bytes | None,
) -> None:
    work = site_work(tmp_path)
    paths = [quabo_config_file(tmp_path, quabo.ip) for quabo in work.boards]
    paths[0].parent.mkdir()
    earlier = json.dumps({"GAIN0": "1"}).encode()
    for path in paths:
        path.write_bytes(earlier)
    if damage is not None:
        paths[1].write_bytes(damage)
    monkeypatch.setattr(
        board_setup, "run_plans", lambda work, plans, through: dict.fromkeys(plans, Result())
    )
    assert load_masks(work, work.boards) == list(work.boards) and not work.problems
    records = [json.loads(path.read_text()) for path in paths]
    assert all("GOEMASK" in record for record in records)
    assert ["GAIN0" in record for record in records] == [True, damage is None, True, True]
    assert ("written anew" in capsys.readouterr().err) is bool(damage)

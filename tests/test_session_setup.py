"""The session's daemons: which configs start which anew, and whether the high voltage is there."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from panoseti.boards.board_work import Work
from panoseti.bringup import board_settings, readiness, session, session_setup
from panoseti.bringup.board_settings import BoardSettings
from panoseti.bringup.daemon_inputs import UNKNOWN, wanted_inputs, why_start
from panoseti.bringup.ledger import Ledger, differences
from panoseti.bringup.ledger_file import LedgerFile
from panoseti.bringup.session import HV_UPDATER, SESSION_DAEMONS, DaemonState
from panoseti.bringup.session_setup import (
    HvLack,
    confirm_hv,
    end_watched_hv,
    hv_lacks,
    nominal_volts,
    why_hv_off,
)
from panoseti.configs.board_files import (
    QUABO_UIDS,
    SHIPPED,
    BoardDb,
    load_board_db,
    quabo_uids_text,
)
from panoseti.configs.load_configs import Site, load_site
from panoseti.configs.site import Quabo
from panoseti.console import Console
from panoseti.daemon import WORKS_WITH
from panoseti.flight import FlightRecorder
from panoseti.high_voltage.hv_trips import Trip, add_trips
from panoseti.launch import HEARTBEAT_VERSION, heartbeat_path
from simulator.sites import uid_of
from tests.site_files import DAQ, OBS, changed, write_site

ON: Mapping[str, Any] = {"hv": "on", "hk_unix": 100.0}
RISING: Mapping[str, Any] = {"hv": "rising", "coming": True, "reason": "on its way up"}
PAUSED: Mapping[str, Any] = {"hv": "off", "paused": True, "reason": "no detector follows"}
LEFT_OUT: Mapping[str, Any] = {"hv": "off", "asked": False, "reason": "not asked for"}
TRIPPED: Mapping[str, Any] = {"hv": "off", "coming": False, "reason": "too hot"}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    daq = changed(DAQ, {("head_node_data_dir",): str(tmp_path)})
    (tmp_path / "log").mkdir()
    return load_site(write_site(tmp_path / "site", daq=daq))


EVERY = set(SESSION_DAEMONS)
MODULE = ("domes", 0, "modules", 0)


@pytest.mark.parametrize(
    ("place", "value", "daemons", "reason"),
    [
        (("redis_port",), 6380, EVERY, "redis 127.0.0.1:6379 -> 127.0.0.1:6380"),
        ((*MODULE, "ip_addr"), "192.168.0.8", EVERY, "modules changed"),
        ((*MODULE, "command_echo"), False, EVERY, "modules changed"),
        (("command_source_port",), 60000, EVERY, "command_source_port 0 -> 60000"),
        (("alarm_hook",), ["/bin/tell"], EVERY, "alarm_hook changed"),
        (("hk_max_age_s",), 9, {"temperature_guard", "hv_updater"}, "hk_max_age_s 15 -> 9"),
        (("detector_overvoltage",), 2, {"hv_updater"}, "detector_overvoltage 3 -> 2"),
        (("odd_detectors",), [7], {"hv_updater"}, "odd_detectors absent -> 7"),
        (("wps", "quabo_socket"), 2, {"temperature_guard"}, "power switches changed"),
        (("power_credentials",), "/etc/power.json", {"temperature_guard"},
         "power switches changed"),
        ((*MODULE, "absent_quabos"), [3], set(), ""),
        ((*MODULE, "mobo_serialno"), "M9", set(), ""),
        (("firmware",), {"qfp": "/srv/quabo_0208_28b4667a.bin"}, set(), ""),
        (("ph_baseline_max_age_h",), 2, set(), ""),
        (("shutter_status_open",), 0, set(), ""),
        (("name",), "Other", set(), ""),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value)[:30],
)  # fmt: skip
def test_a_change_starts_those_anew_that_use_it(
    site: Site, place: tuple[str | int, ...], value: Any, daemons: set[str], reason: str
) -> None:
    """Each new start of hv_updater takes the high voltage away for half a minute."""
    daq = changed(DAQ, {("head_node_data_dir",): str(site.head_data_dir)})
    after = load_site(write_site(site.command_dir, changed(OBS, {place: value}), daq))
    found = {
        name: differences(wanted_inputs(site, name), wanted_inputs(after, name))
        for name in SESSION_DAEMONS
    }
    assert {name for name, reasons in found.items() if reasons} == daemons
    assert {text for reasons in found.values() for text in reasons} == (
        {f"{reason} in obs_config.json"} if reason else set()
    )


def asked_for(site: Site, boards: Sequence[Quabo]) -> dict[str, tuple[float, ...]]:
    work = work_on(site, boards)
    return nominal_volts(work.settings, work.uids, boards)


def updater_says(site: Site, *states: Mapping[str, Any], **details: object) -> None:
    """The heartbeat of hv_updater, with the states of the first boards, set for what is asked."""
    asked = asked_for(site, site.obs.quabos)
    boards = {
        quabo.ip: {"nominal_v": asked[quabo.ip], **state}
        for quabo, state in zip(site.obs.quabos, states, strict=False)
    }
    beat = {
        "version": HEARTBEAT_VERSION, "name": "hv_updater", "pid": os.getpid(),
        "started_unix": time.time(), "updated_unix": time.time(), "interval_s": 1, "state": "ok",
        "details": {"boards": boards, **details},
    }  # fmt: skip
    heartbeat_path(site.head_data_dir, "hv_updater").write_text(json.dumps(beat))


def write_uids(site: Site) -> None:
    uids = {quabo.ip: uid_of(quabo.boardloc) for quabo in site.obs.quabos}
    (site.head_data_dir / QUABO_UIDS).write_text(quabo_uids_text(site.obs, uids))


def work_on(site: Site, boards: Sequence[Quabo]) -> Work:
    book = LedgerFile(site.head_data_dir, Ledger(), keep=False)
    flight = FlightRecorder(None, "test")
    return Work(site, boards, book, Console(), flight, {q.ip: uid_of(q.boardloc) for q in boards})


def test_what_is_on_on_its_way_and_off(site: Site) -> None:
    boards = site.obs.quabos[:4]
    updater_says(site, ON, RISING, TRIPPED)
    assert hv_lacks(site, boards, asked_for(site, boards)) == {
        boards[1].ip: HvLack("on its way up", coming=True),
        boards[2].ip: HvLack("off: too hot"),
        boards[3].ip: HvLack("off: hv_updater does not know it"),
    }


def test_on_must_have_been_seen_after_what_takes_it_away(site: Site) -> None:
    board = site.obs.quabos[0]
    updater_says(site, ON)
    asked = asked_for(site, [board])
    assert hv_lacks(site, [board], asked, {board.ip: 100.0}) == {}
    assert hv_lacks(site, [board], asked, {board.ip: 100.1})[board.ip].coming


@pytest.fixture
def working(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is hv_updater."""
    process = psutil.Process()
    monkeypatch.setattr(session, "process", lambda name, data_dir: process)


def test_on_for_other_voltages_is_not_on(
    site: Site, working: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HVMON agrees with what the updater has set; the files ask for something else."""
    first, second, third = site.obs.quabos[:3]
    write_uids(site)
    asked = asked_for(site, [first])[first.ip]
    higher = [volt + 2 for volt in asked]
    updater_says(site, {**ON, "nominal_v": higher}, {**ON, "nominal_v": None}, ON)
    old, new = (" ".join(f"{volt:g}" for volt in volts) for volts in (higher, asked))
    work = work_on(site, [first, second, third])
    assert why_hv_off(work, work.boards) == {
        first.ip: f"set for {old} V at 25 degC, but the files ask for {new} V",
        second.ip: "not set by the present files yet",
    }
    start = readiness.hv_lacks_of_start(site, [first, second, third])
    assert len(start) == 2 and all("run: config.py, which waits for it" in line for line in start)
    waited = []

    def sleep(pause_s: float) -> None:
        waited.append(pause_s)
        updater_says(site, ON, ON, ON)

    monkeypatch.setattr(session_setup.time, "sleep", sleep)
    confirm_hv(work, [first, second, third])
    assert waited and not work.problems


def test_nothing_is_compared_where_the_files_say_nothing(site: Site, working: None) -> None:
    """A board that is not in them has no high voltage, and the reason is told elsewhere."""
    work = work_on(site, site.obs.quabos[:2])
    work.uids[site.obs.quabos[0].ip] = "77"
    updater_says(site, {**ON, "nominal_v": [1.0] * 4}, ON)
    assert why_hv_off(work, work.boards) == {}
    (site.command_dir / "quabos").mkdir()
    assert why_hv_off(work_on(site, work.boards), work.boards) == {}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({}, None),
        ({("obs_config.json", "detector_overvoltage"): 2}, "detector_overvoltage 2 -> 3 in"),
        ({("", "board files"): "/srv/quabos"}, f"board files /srv/quabos -> {SHIPPED}"),
        (None, UNKNOWN),
    ],
)
def test_whoever_started_a_daemon_it_is_judged(
    site: Site, working: None, said: dict[tuple[str | int, ...], Any] | None, reason: str | None
) -> None:
    """By hand, or by a config.py that was killed before it had noted that."""
    inputs = json.loads(json.dumps(wanted_inputs(site, HV_UPDATER)))
    details = {} if said is None else {WORKS_WITH: changed(inputs, said)}
    updater_says(site, ON, ON, **details)
    write_uids(site)
    why = why_start(site, HV_UPDATER)
    assert (why or "").startswith(reason or "") and (why is None) is (reason is None)
    for need_hv in (True, False):
        told = readiness.in_words(readiness.readiness(site, need_hv, need_redis=False))
        line = f"hv_updater works with other configs: {why}; run: config.py"
        assert (line in told) is (need_hv and why is not None), told


def test_another_alarm_hook_is_no_reason_to_refuse_a_start(site: Site, working: None) -> None:
    """It is warned of: alarms of high voltage go to the old one until config.py is typed."""
    inputs = json.loads(json.dumps(wanted_inputs(site, HV_UPDATER)))
    other = changed(inputs, {("obs_config.json", "alarm_hook"): "sha256:0"})
    updater_says(site, *[ON] * 8, **{WORKS_WITH: other})
    write_uids(site)
    told = readiness.in_words(readiness.readiness(site, need_redis=False))
    assert not any("hv_updater" in line for line in told), told
    line = "hv_updater works with other configs: alarm_hook changed in obs_config.json"
    assert f"{line}; after the run: config.py" in readiness.warnings_before_run(
        site, BoardSettings(site)
    )


def test_board_files_are_read_once_for_all_checks_of_a_start(
    site: Site, working: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tenths of a second where there are many boards."""
    updater_says(site, *[ON] * 8)
    write_uids(site)
    read = []

    def load(folder: Path) -> BoardDb:
        read.append(folder)
        return load_board_db(folder)

    monkeypatch.setattr(board_settings, "load_board_db", load)
    monkeypatch.setattr(readiness, "_daemon_lacks", lambda *_: [])
    wanted = BoardSettings(site)
    readiness.readiness(site, need_redis=False, wanted=wanted)
    readiness.warnings_before_run(site, wanted)
    assert read == [site.command_dir]


def test_board_files_of_the_command_directory_are_others(site: Site, working: None) -> None:
    before = wanted_inputs(site, HV_UPDATER)
    shutil.copytree(SHIPPED, site.command_dir / "quabos")
    reason = f"board files {SHIPPED} -> {site.command_dir / 'quabos'}"
    assert differences(before, wanted_inputs(site, HV_UPDATER)) == [reason]


@pytest.mark.parametrize("trip_of", ["", "board"])
@pytest.mark.parametrize(("third", "waits"), [(ON, False), (RISING, True)])
def test_a_board_that_is_tripped_is_not_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch, third: Mapping[str, Any], waits: bool, trip_of: str
) -> None:
    """Nothing but an operator's word brings it back."""
    board, other = site.obs.quabos[0], site.obs.quabos[4]
    waited = []

    def sleep(pause_s: float) -> None:
        waited.append(pause_s)
        updater_says(site, TRIPPED, ON, ON, ON, ON)

    monkeypatch.setattr(session_setup.time, "sleep", sleep)
    works = DaemonState("hv_updater", os.getpid(), None)
    monkeypatch.setattr(session_setup.session, "state", lambda name, data_dir: works)
    trip = Trip(board.boardloc // 4, "too hot", time.time(), trip_of and board.ip)
    add_trips(site.head_data_dir, [trip])
    updater_says(site, TRIPPED, ON, ON, ON, third)
    work = work_on(site, [board, other])
    confirm_hv(work, [board, other])
    assert bool(waited) is waits
    assert [(p.where, p.text) for p in work.problems] == [(board.ip, "off: too hot")]


@pytest.mark.parametrize(("second", "waits"), [(ON, False), (PAUSED, False), (RISING, True)])
def test_a_board_that_does_not_rise_is_not_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch, second: Mapping[str, Any], waits: bool
) -> None:
    """For a minute, that is; another one that is on its way is."""
    boards, waited = site.obs.quabos[:2], []

    def sleep(pause_s: float) -> None:
        waited.append(pause_s)
        updater_says(site, PAUSED, ON)

    monkeypatch.setattr(session_setup.time, "sleep", sleep)
    works = DaemonState("hv_updater", os.getpid(), None)
    monkeypatch.setattr(session_setup.session, "state", lambda name, data_dir: works)
    updater_says(site, PAUSED, second)
    work = work_on(site, boards)
    confirm_hv(work, boards)
    assert bool(waited) is waits
    told = {problem.where: problem.text for problem in work.problems}
    assert told[boards[0].ip] == "off: no detector follows; tried again every minute"
    assert (boards[1].ip in told) is (second is PAUSED)


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ((ON, ON), []),
        ((ON, TRIPPED), []),  # a warning: one board without is no reason to lose the night
        ((ON, RISING), ["{1}: HV on its way up; run: config.py, which waits for it"]),
        ((TRIPPED, RISING), [
            "{0}: HV off: too hot; run: config.py",
            "{1}: HV on its way up; run: config.py, which waits for it",
        ]),
        ((ON, LEFT_OUT), []),
        ((TRIPPED, LEFT_OUT), ["{0}: HV off: too hot; run: config.py"]),
        ((RISING, LEFT_OUT), ["{0}: HV on its way up; run: config.py, which waits for it"]),
        ((LEFT_OUT, LEFT_OUT), ["all 2 boards: HV off: not asked for; run: config.py"]),
        ((TRIPPED, TRIPPED), ["all 2 boards: HV off: too hot; run: config.py"]),
    ],
)  # fmt: skip
def test_a_start_is_refused_while_hv_is_coming_or_nowhere(
    site: Site, states: tuple[Mapping[str, Any], ...], told: list[str]
) -> None:
    boards = site.obs.quabos[:2]
    write_uids(site)
    updater_says(site, *states)
    ips = [board.ip for board in boards]
    assert readiness.hv_lacks_of_start(site, boards) == [line.format(*ips) for line in told]


def test_who_watches_a_board_that_may_have_hv_is_not_ended(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The programs themselves: test_config_tasks.py."""
    ended: list[Work] = []
    monkeypatch.setattr(session_setup, "end_daemons", ended.append)
    book = LedgerFile(site.head_data_dir, Ledger(), keep=False)
    flight = FlightRecorder(site.head_data_dir, "test")
    work = Work(site, site.obs.quabos, book, Console(), flight, {})
    assert not end_watched_hv(work, [site.obs.quabos[2].ip]) and not ended
    assert f"HV off of {site.obs.quabos[2].ip} is not proven" in capsys.readouterr().err
    assert end_watched_hv(work, []) and ended == [work]

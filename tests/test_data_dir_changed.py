"""head_node_data_dir was edited while a session is up: its daemons work for the old one."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from panoseti.boards.board_work import Work
from panoseti.boards.verified import Check
from panoseti.bringup import config_run, session, session_end
from panoseti.bringup.config_request import Request
from panoseti.bringup.session import CAPTURE_HK, HV_UPDATER, SESSION_DAEMONS, TEMPERATURE_GUARD
from panoseti.console import Console
from panoseti.errors import RefusedError
from panoseti.flight import FlightRecorder
from panoseti.high_voltage.hv_off_asked import off_asked_unix
from panoseti.high_voltage.hv_trips import TRIPS_FILE, Trip, add_trips, read_trips
from panoseti.nodes.daq_nodes import NodeShells
from panoseti.runs import activities, start_checks
from panoseti.runs.start_checks import StartOptions
from simulator.private_observatory import private_observatory
from tests.config_calls import boards, config
from tests.helpers import wait_for
from tests.site_work import site_work

# Stands for a daemon as far as a list of processes shows it; argv[-1]: an address to listen at.
STAND_IN = """
import signal, socket, sys
held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
if sys.argv[-1].startswith("127."):
    held.bind((sys.argv[-1], 60002))
print("up", flush=True)
signal.pause()
"""
TRIP = Trip(254, "FPGA at 90 degC", 1_790_000_000.0, by="temperature_guard")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., int]]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(name: str, config_dir: Path, data_dir: Path, *more: str) -> int:
        script = tmp_path / f"{name}.py"
        script.write_text(STAND_IN)
        words = [sys.executable, str(script), "--config_dir", str(config_dir)]
        process = subprocess.Popen(
            [*words, "--data_dir", str(data_dir), *more], stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        return process.pid

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return site_work(tmp_path)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = tmp_path / "old"
    folder.mkdir()
    return folder


@pytest.fixture
def obedient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boards that do what they are told, and show it."""
    monkeypatch.setattr(
        session_end, "hv_off", lambda site, boards, *_, **__: dict.fromkeys(q.ip for q in boards)
    )
    monkeypatch.setattr(
        session_end.verified, "see_hv_off", lambda work, ips, *_, **__: Check("HV off", list(ips))
    )
    monkeypatch.setattr(session_end, "_without_power", lambda work, ips: set())


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_nothing_but_its_end_is_done_beside_an_older_session(
    work: Work, old: Path, start: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    pid = start(HV_UPDATER, work.site.command_dir, old)
    start(HV_UPDATER, old, old / "another_site")
    named = f"{HV_UPDATER} (pid {pid}) works for {old}, while head_node_data_dir"
    assert [str(one) for one in session.elsewhere(work.site)] == [named.partition(",")[0]]
    flight, site = FlightRecorder(None, "test"), work.site
    # Whether this is the head node is looked at before.
    here = replace(site, addresses={**site.addresses, site.daq.head_node_ip_addr: "127.0.0.1"})
    for tasks in ([], ["hv_on"], ["ack_hv"], ["redis_daemons"], ["shutdown", "reboot"]):
        with pytest.raises(RefusedError) as refusal:
            config_run.run(here, Request(tasks), Console(), flight)
        assert named in str(refusal.value) and "config.py --shutdown" in str(refusal.value)
    with NodeShells([], here.obs, flight) as shells:  # no node is in another run
        with pytest.raises(RefusedError, match=f"pid {pid}"):
            start_checks.check_rest(here, StartOptions(), shells)
    config_run.run(here, Request(["shutdown"], dry_run=True), Console(), flight)
    assert named in capsys.readouterr().err
    assert runs(pid)


def test_the_holder_of_the_hk_port_is_of_this_session(
    work: Work, old: Path, start: Callable[..., int]
) -> None:
    """Also where the whole command directory has moved."""
    site = replace(work.site, addresses={work.site.daq.head_node_ip_addr: "127.77.0.1"})
    moved = old / "command"
    updater = start(HV_UPDATER, moved, old)
    assert session.elsewhere(site) == []
    capture = start(CAPTURE_HK, moved, old, "127.77.0.1")
    assert {one.activity.pid for one in session.elsewhere(site)} == {updater, capture}
    assert [one.activity.pid for one in session.elsewhere(site, [HV_UPDATER])] == [updater]


@pytest.mark.parametrize("readable", [True, False])
def test_hv_off_and_the_end_of_a_session_find_it(
    work: Work, old: Path, start: Callable[..., int], obedient: None, readable: bool
) -> None:
    """With what stands against its boards."""
    add_trips(old, [TRIP])
    if not readable:
        (old / TRIPS_FILE).write_text("{")
    pids = {name: start(name, work.site.command_dir, old) for name in SESSION_DAEMONS}
    assert session_end.high_voltage_off(work) == set()
    wait_for(lambda: not runs(pids[HV_UPDATER]), "the updater to end")
    assert runs(pids[CAPTURE_HK]) and runs(pids[TEMPERATURE_GUARD])
    assert off_asked_unix(old) and off_asked_unix(work.site.head_data_dir)
    if readable:
        assert work.problems == [] and read_trips(work.site.head_data_dir) == (TRIP,)
    else:
        assert f"those of {old} are not taken over" in work.problems[0].text
    session_end.session_setup.end_watched_hv(work, set())
    wait_for(lambda: not any(map(runs, pids.values())), "all to end")


def test_an_updater_that_cannot_be_ended_is_not_reported_ended(
    work: Work, old: Path, start: Callable[..., int], obedient: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Somebody else's process, say: while it runs no board is off for certain."""
    said = io.StringIO()
    monkeypatch.setattr(work.console, "note", lambda text: said.write(f"{text}\n"))
    monkeypatch.setattr(session_end.session, "end", lambda *_: {HV_UPDATER: "still runs"})
    pid = start(HV_UPDATER, work.site.command_dir, old)
    assert session_end.high_voltage_off(work) == {quabo.ip for quabo in work.boards}
    assert f"hv_updater still runs (pid {pid})" in said.getvalue()
    assert [problem.where for problem in work.problems] == [HV_UPDATER]


@pytest.mark.long
def test_hv_stays_off_when_the_data_directory_was_edited(tmp_path: Path) -> None:
    """The programs themselves: the old updater took the zeros for a reboot, and ramped up again."""
    with private_observatory(tmp_path, modules=(254,), time_scale=20) as observatory:
        assert config(observatory).code == 0
        path = observatory.command_dir / "daq_config.json"
        text = path.read_text()
        (tmp_path / "data2").mkdir()
        path.write_text(text.replace(str(observatory.data_dir), str(tmp_path / "data2")))
        answer = config(observatory)
        assert answer.code == 3 and f"works for {observatory.data_dir}" in answer.err, answer
        answer = config(observatory, "--hv_off")
        assert answer.code == 0, answer
        assert not activities.daemon_processes(HV_UPDATER)
        answer = config(observatory, "--shutdown")
        assert answer.code == 0, answer
        assert not any(activities.daemon_processes(name) for name in SESSION_DAEMONS)
        assert max(max(board["hv"]["volts"]) for board in boards(observatory).values()) < 1
        path.write_text(text)

"""Partners that watch each other, the interlock between them, and its rehearsal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from panoseti.boards.packets import TIME_FIELD
from panoseti.errors import ObsError
from panoseti.high_voltage.hv_trips import REHEARSED_MODULE, Trip
from panoseti.high_voltage.interlock import Interlock
from panoseti.high_voltage.rehearsal import (
    PAUSE_S,
    REHEARSAL_TIME,
    TIMEOUT_S,
    Rehearsal,
    RehearsalActions,
    RehearsedBoard,
    made_up_record,
)
from panoseti.high_voltage.supervision import Life, Partner, hung_limit_s, process_runs
from panoseti.housekeeping.store import Record, Value
from panoseti.launch import Heartbeat, why_unwritable
from tests.alarm_recorder import AlarmRecorder
from tests.hk_records import NOW

# --- partners ---


def beat(updated: float, pid: int = 7, state: str = "ok", interval_s: float = 1.0) -> Heartbeat:
    return Heartbeat("guard", pid, 0.0, updated, interval_s, state, {"error": "no disk"})


def test_alive_when_the_heartbeat_is_seen_to_change(tmp_path: Path) -> None:
    partner = Partner("guard", tmp_path)
    first = partner.judge(beat(1), True, 100)
    assert first.alive is None and "has not been seen at work yet" in first.why
    assert partner.judge(beat(1), True, 101).alive is None
    life = partner.judge(beat(2), True, 102)
    assert life.alive and life.why == "" and life.pid == 7


def test_a_process_that_has_gone_is_dead_at_once(tmp_path: Path) -> None:
    partner = Partner("guard", tmp_path)
    partner.judge(beat(1), True, 100)
    partner.judge(beat(2), True, 101)
    life = partner.judge(beat(2), False, 101.1)
    assert (life.alive, life.crashed, life.why) == (False, True, "guard (pid 7) has died")


@pytest.mark.parametrize(("interval_s", "limit_s"), [(1.0, 10.0), (0.25, 5.0), (5.0, 50.0)])
def test_one_that_is_silent_hangs(tmp_path: Path, interval_s: float, limit_s: float) -> None:
    assert hung_limit_s(interval_s) == limit_s
    partner = Partner("guard", tmp_path)
    partner.judge(beat(1, interval_s=interval_s), True, 100)
    partner.judge(beat(2, interval_s=interval_s), True, 101)
    assert partner.judge(beat(2, interval_s=interval_s), True, 101 + limit_s).alive
    life = partner.judge(beat(2, interval_s=interval_s), True, 101.1 + limit_s)
    assert not life.alive and life.crashed and "hangs: no heartbeat" in life.why
    assert partner.judge(beat(3, interval_s=interval_s), True, 200).alive, "it goes on"


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can write a heartbeat then: that is what must be mended."""
    (tmp_path / "log").mkdir()
    assert why_unwritable(tmp_path) == ""
    partner = Partner("guard", tmp_path)
    partner.judge(beat(1), True, 100)
    partner.judge(beat(2), True, 101)
    real = os.statvfs(tmp_path)

    def disk(**fields: int) -> SimpleNamespace:
        names = [name for name in dir(real) if name.startswith("f_")]
        return SimpleNamespace(**{name: getattr(real, name) for name in names} | fields)

    for fields, word in (
        ({"f_bavail": 0, "f_bfree": 0}, "is full"),
        ({"f_files": 10, "f_ffree": 0}, "is full"),
        ({"f_flag": os.ST_RDONLY}, "is read-only"),
    ):
        monkeypatch.setattr(os, "statvfs", lambda folder, found=fields: disk(**found))
        life = partner.judge(beat(2), True, 112)
        assert not life.alive and life.crashed
        start = f"guard (pid 7): no heartbeat for 11 s: the disk of {tmp_path}/log {word}, so that"
        assert life.why.startswith(start)
        assert partner.judge(beat(2), True, 110).alive, "while heartbeats come it does not matter"


def test_the_clock_does_not_matter(tmp_path: Path) -> None:
    partner = Partner("guard", tmp_path)
    partner.judge(beat(1000), True, 1)
    assert partner.judge(beat(-9999), True, 2).alive, "set back: still another heartbeat"


def test_another_process_must_show_itself_anew(tmp_path: Path) -> None:
    partner = Partner("guard", tmp_path)
    partner.judge(beat(1), True, 100)
    partner.judge(beat(2), True, 101)
    assert partner.judge(beat(3, pid=8), True, 102).alive is None
    assert partner.judge(beat(4, pid=8), True, 103).alive


@pytest.mark.parametrize(
    ("state", "crashed", "words"),
    [("ended", False, "has ended"), ("failed", True, "has failed: no disk")],
)
def test_one_that_said_goodbye(tmp_path: Path, state: str, crashed: bool, words: str) -> None:
    life = Partner("guard", tmp_path).judge(beat(1, state=state), True, 100)
    assert life.alive is False and life.crashed is crashed and words in life.why


def test_no_heartbeat_and_a_broken_one(tmp_path: Path) -> None:
    partner = Partner("guard", tmp_path)
    assert partner.look(1) == Life(False, "guard has never run")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "guard.heartbeat.json").write_text("{")
    life = partner.look(1)
    assert life.alive is False and life.crashed and "not a heartbeat" in life.why


def test_processes_alive_dead_and_not_yet_buried() -> None:
    assert process_runs(os.getpid())
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not process_runs(child.pid), "a zombie does nothing"
    assert not process_runs(child.pid)


# --- rehearsal ---


class Stage:
    """Store, trip file and guard of a rehearsal."""

    def __init__(self) -> None:
        self.hash: dict[str, Value] = {}
        self.trips: list[Trip] = []
        self.guard = RehearsedBoard(15)
        self.guard_works = self.obeyed = True
        self.store_error = ""
        self.did: list[str] = []
        self.now = 0.0
        self.rehearsal = Rehearsal(
            RehearsalActions(self.write, self.erase, self.forget, self.judged_off)
        )

    def write(self, fields: Mapping[str, Value]) -> None:
        if self.store_error:
            raise ObsError(self.store_error)
        self.hash = dict(fields)

    def erase(self) -> None:
        if self.store_error:
            raise ObsError(self.store_error)
        self.did.append("erase")
        self.hash = {}

    def forget(self) -> None:
        self.did.append("forget")
        self.trips = []

    def judged_off(self, trips: Iterable[Trip]) -> bool:
        return self.obeyed and any(trip.made_up for trip in trips)

    def second(self, pid: int = 7) -> tuple[str, bool]:
        self.now += 1
        found: Record = {name: str(value) for name, value in self.hash.items()}
        trip = self.guard.trip(found, NOW + self.now, self.now) if self.guard_works else None
        if trip is not None and not self.trips:
            self.trips.append(trip)
        return self.rehearsal.step(pid, self.trips, NOW + self.now, self.now)


def test_a_rehearsal_passes_with_each_guard_once() -> None:
    stage = Stage()
    reasons = [stage.second() for _ in range(4)]
    assert reasons[0] == ("rehearsal of the interlock is under way", False)
    assert reasons[-1] == ("", False)
    assert stage.rehearsal.passed_with(7) and stage.trips == [] and stage.hash == {}
    assert stage.second() == ("", False) and stage.hash == {}
    assert stage.second(pid=8)[0] != "", "another guard is tried out as well"


def test_an_old_trip_proves_nothing() -> None:
    stage = Stage()
    stage.guard_works = False
    stage.trips = [Trip(REHEARSED_MODULE, "of yesterday", NOW - 86400)]
    assert stage.second()[0] and not stage.rehearsal.passed_with(7)
    stage.trips = [Trip(REHEARSED_MODULE, "of yesterday", NOW - 86400)]
    assert stage.second()[0] and not stage.rehearsal.passed_with(7)


def test_a_guard_that_does_not_trip_is_found_out_and_tried_again() -> None:
    stage = Stage()
    stage.guard_works = False
    results = [stage.second() for _ in range(int(TIMEOUT_S) + 2)]
    assert results[-1][1] and "no trip has come from the guard" in results[-1][0]
    assert stage.hash == {}, "nothing is left behind"
    stage.guard_works = True
    for _ in range(int(PAUSE_S) + 6):
        result = stage.second()
    assert result == ("", False)


def test_a_trip_that_is_not_obeyed_is_a_failure() -> None:
    stage = Stage()
    stage.obeyed = False
    results = [stage.second() for _ in range(5)]
    assert results[-1][1] and "was not obeyed" in results[-1][0]


def test_no_rehearsal_without_the_store() -> None:
    stage = Stage()
    stage.store_error = "redis is gone"
    assert stage.second() == ("rehearsal of the interlock: redis is gone", True)


def test_what_is_made_up_is_no_record_of_a_board() -> None:
    made_up = made_up_record(NOW)
    assert TIME_FIELD not in made_up and made_up[REHEARSAL_TIME] == NOW
    assert made_up["BOARDLOC"] == 1024 and made_up["TEMP1"] == 85.0


# --- interlock ---


def test_no_hv_without_a_living_guard_that_was_tried_out() -> None:
    stage, alarms = Stage(), AlarmRecorder()
    life = Life(False, "temperature_guard has never run")
    interlock = Interlock(lambda now_s: life, stage.rehearsal, alarms.hold)

    def second() -> str:
        stage.now += 1
        found: Record = {name: str(value) for name, value in stage.hash.items()}
        trip = stage.guard.trip(found, NOW + stage.now, stage.now)
        stage.trips += [trip] if trip is not None and not stage.trips else []
        return interlock.why_off(stage.trips, NOW + stage.now, stage.now)

    assert second() == "temperature_guard has never run"
    assert alarms.standing == {("interlock", ""): "HV is off: temperature_guard has never run"}
    life = Life(None, "not seen at work yet", pid=7)
    assert second() == "not seen at work yet" and alarms.standing == {}
    life = Life(True, pid=7)
    reasons = [second() for _ in range(3)]
    assert reasons[-1] == "" and all(reasons[:-1])
    life = Life(False, "temperature_guard (pid 7) has died", True, 7)
    assert second() == "temperature_guard (pid 7) has died" and "interlock" in alarms.kinds()
    life = Life(True, pid=7)
    assert second() == "rehearsal of the interlock is under way", "and again after each gap"

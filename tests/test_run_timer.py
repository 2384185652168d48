"""The planned end of a run, with a clock that is set meanwhile."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from panoseti.configs.load_configs import load_site
from panoseti.console import Console
from panoseti.flight import FlightRecorder
from panoseti.high_voltage.alarms import Alarms
from panoseti.runs import run_state, run_timer, run_watcher
from panoseti.runs.run_record import Expected, RunRecord, new_document
from panoseti.runs.run_state import Holder
from panoseti.runs.run_watcher import RunWatcher
from tests.site_files import DAQ, write_site

RUN = "obs_Test.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd"
NSECS = 60.0
HOLDER = Holder(RUN, "ann@head", "token", 1721882046.0, "/obs")
STEPS = pytest.mark.parametrize("step_s", [0.0, 3600.0, -3600.0], ids=["no", "on", "back"])


class Clocks:
    """The time of day, which is set by `step_s` after ten seconds, and the one nobody sets."""

    def __init__(self, step_s: float) -> None:
        self.now_s = 0.0
        self._step_s = step_s

    def time(self) -> float:
        return 1721882046.0 + self.now_s + (self._step_s if self.now_s > 10 else 0)

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@STEPS
def test_a_timed_run_lasts_as_long_as_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    clocks = Clocks(step_s)
    run_state.claim(tmp_path, HOLDER)
    monkeypatch.setattr(run_timer, "time", clocks)
    keeper: Any = types.SimpleNamespace(data_dir=tmp_path, look=lambda: None)
    run_timer._wait(HOLDER, clocks.time() + NSECS, keeper, Console())
    assert clocks.now_s == pytest.approx(NSECS)


@STEPS
def test_a_watcher_ends_it_then_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    daq = {**DAQ, "head_node_data_dir": str(tmp_path)}
    site = load_site(write_site(tmp_path / "configs", daq=daq))
    folder = run_state.run_dir(tmp_path, RUN)
    folder.mkdir()
    clocks = Clocks(step_s)
    times = {"recording_unix": clocks.time(), "planned_end_unix": clocks.time() + NSECS}
    RunRecord(folder, new_document(HOLDER, (), {}, Expected((), {}))).set(**times)
    watcher = RunWatcher(site, tmp_path, HOLDER, Alarms(tmp_path, ""), FlightRecorder(None, ""))
    monkeypatch.setattr(run_watcher, "time", clocks)
    watcher._begin_when_recording()
    clocks.sleep(NSECS - 1)
    assert watcher._past_its_end() == ""
    clocks.sleep(2)
    assert "its time is over" in watcher._past_its_end()
    watcher.close("the test is over")

"""What a stop does with a run that another one has ended, or has begun to collect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import stop
from panoseti.configs.load_configs import Site, load_site
from panoseti.console import Console
from panoseti.flight import FlightRecorder
from panoseti.high_voltage.alarms import Alarms, read_alarms
from panoseti.high_voltage.hv_service import tell_failed_stop
from panoseti.runs import run_state, run_stop, stop_in_background
from panoseti.runs.run_record import Expected, RunRecord, new_document
from panoseti.runs.run_state import Holder, Marker
from panoseti.runs.run_stop import StopOptions
from panoseti.runs.run_watcher import RunWatcher
from panoseti.runs.stop_in_background import StopInBackground
from tests.helpers import wait_for
from tests.site_files import DAQ, write_site

RUN = "obs_Test.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd"
QUIET = FlightRecorder(None, "")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """With one run that is not in progress."""
    (tmp_path / "data" / RUN).mkdir(parents=True)
    daq = {**DAQ, "head_node_data_dir": str(tmp_path / "data")}
    return load_site(write_site(tmp_path / "configs", daq=daq))


def record_of(site: Site) -> RunRecord:
    folder = run_state.run_dir(site.head_data_dir, RUN)
    return RunRecord(folder, new_document(Holder(RUN), (), {}, Expected((), {})))


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("now", [True, False])
def test_a_collection_goes_on_as_it_was_asked_for(site: Site, asked: bool, now: bool) -> None:
    """A plain stop.py does not delete what a stop.py --no_cleanup before it was to leave."""
    record_of(site).set(collect_asked={"unix": 1.0, "cleanup": asked})
    stopping = run_stop._Stop(site, StopOptions(cleanup=now), Console(), QUIET)
    assert stopping._broken_off() == RUN
    assert stopping._options.cleanup is (asked and now)
    assert ("without clean-up" in stopping._report.notes[-1]) is not asked


@pytest.mark.parametrize("asked", [True, False])
def test_a_marker_that_cannot_be_read_keeps_no_stop_from_its_end(site: Site, asked: bool) -> None:
    """It was an error after all the acts, instead of the lines of what they did."""
    record_of(site).set(collect_asked={"unix": 1.0} if asked else None)
    path = site.head_data_dir / RUN / Marker.RUN_COMPLETE
    path.mkdir()
    stopping = run_stop._Stop(site, StopOptions(), Console(), QUIET)
    assert stopping._broken_off() == (RUN if asked else None)
    assert f"{path}: cannot be read" in stopping._report.notes[0]


def test_a_watcher_leaves_a_run_that_an_operator_has_ended(site: Site) -> None:
    """Its stop.py waited behind that of the operator, who may want the data left on the nodes."""
    record_of(site).set()
    before = (site.head_data_dir / RUN / "run.json").read_bytes()
    watcher = StopInBackground(site.command_dir, site.head_data_dir, RUN, "watcher", QUIET)
    args = stop.parse_args(watcher._words)
    options = StopOptions(run=args.run, if_in_progress=args.if_in_progress)
    report = run_stop.stop(site, options, Console(), QUIET)
    assert report.ok and report.finished is None and "ended by somebody else" in report.notes[0]
    assert (site.head_data_dir / RUN / "run.json").read_bytes() == before
    with pytest.raises(SystemExit):
        stop.parse_args(["--if_in_progress"])


@pytest.fixture
def failing_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop.py that is refused."""
    script = tmp_path / "stop.py"
    script.write_text("import sys\nprint('the lines before')\nsys.exit('stop.py: no such thing')\n")
    monkeypatch.setattr(stop_in_background, "STOP_SCRIPT", script)
    monkeypatch.setattr(stop_in_background, "AGAIN_S", 0.0)
    (tmp_path / "data" / "log").mkdir(parents=True, exist_ok=True)


@pytest.mark.usefixtures("failing_stop")
def test_a_run_that_a_watcher_cannot_end_is_an_alarm_once(site: Site) -> None:
    data_dir = site.head_data_dir
    alarms = Alarms(data_dir, "run_watcher")
    watcher = RunWatcher(site, data_dir, Holder(RUN, token="t"), alarms, QUIET)

    def has_ended() -> bool:
        return bool(watcher._failed_stop()) and watcher._stop_run._child is None

    for _ in range(2):
        watcher._end_run("its time is over")
        wait_for(has_ended, "its stop.py")
    watcher.close("the test is over")
    alarms.close()
    told = [(one.kind, one.state, one.text) for one in read_alarms(data_dir)]
    (ended, failed, cleared) = told
    assert ended == ("run_ended", "event", "the run is being ended: its time is over")
    assert failed[:2] == ("stop_failed", "raised") and "stop.py: no such thing" in failed[2]
    assert cleared[:2] == ("stop_failed", "cleared")


@pytest.mark.usefixtures("failing_stop")
def test_a_run_that_the_guard_cannot_end_is_an_alarm_until_it_is_over(site: Site) -> None:
    data_dir, path = site.head_data_dir, run_state.run_name_path(site.head_data_dir)
    stop_run = StopInBackground(site.command_dir, data_dir, None, "guard", QUIET)
    alarms = Alarms(data_dir, "guard")

    def look() -> str:
        tell_failed_stop(stop_run, data_dir, alarms)
        return stop_run.failure

    path.write_text(f"{RUN}\n")
    assert stop_run("too hot")
    assert "exit 1: stop.py: no such thing" in wait_for(look, "stop.py to fail")
    path.unlink()
    assert not look()
    path.write_text("of another run\n")
    assert not look()
    alarms.close()
    assert [one.state for one in read_alarms(data_dir)] == ["raised", "cleared"]


def test_an_unusable_run_name_does_not_keep_a_watcher_from_its_run(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_state.run_name_path(site.head_data_dir).write_text(json.dumps("?"))
    ended: list[str] = []
    monkeypatch.setattr(run_stop._Stop, "_old_run", lambda self, run: ended.append(run))
    run_stop.stop(site, StopOptions(run=RUN, if_in_progress=True), Console(), QUIET)
    assert ended == [RUN]

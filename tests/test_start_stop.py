"""start.py, stop.py and status.py whole: real pipeline, ssh, rsync and Redis, simulated boards.

Head node and DAQ node have addresses and data directories of their own (with blanks in them).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

import stop as stop_script
from panoseti.bringup.ledger import Step
from panoseti.bringup.touched import forget_touched, note_touched, read_touched
from panoseti.configs.load_configs import load_site
from panoseti.configs.site_at_any_price import find_site
from panoseti.console import Console
from panoseti.errors import ConfigError, ObsError, RefusedError
from panoseti.flight import FlightRecorder, read_flight
from panoseti.nodes import daq_nodes
from panoseti.nodes.remote import Shell
from panoseti.runs import activities, collect_batch, run_state, run_stop
from panoseti.runs.collect_progress import Progress, read_progress, write_progress
from panoseti.runs.run_record import read_record
from tests.helpers import wait_for
from tests.typed_site import Obs, frames_of

# --- the way through ---


def test_a_run_from_start_to_a_complete_collection(obs: Obs) -> None:
    started = obs.type("start.py", "--json")
    assert started.code == 0, started.err
    run_dir = Path(started.json["run_dir"])
    assert run_state.read_holder(obs.head_dir) is not None
    status = obs.type("status.py", "--json")
    assert status.code == 0, status.err
    told = status.json
    assert told["run"]["run"] == run_dir.name and told["run"]["half_done"] == []
    assert told["nodes"][0]["state"] == "recording" and len(told["boards"]) == 8
    assert all(board["hv"] == "on" and board["hk_age_s"] < 15 for board in told["boards"])
    assert {one["what"] for one in told["activities"]} == {"HK recorder", "hashpipe"}
    again = obs.type("start.py")
    assert again.code == 3 and "somebody else may be using" in again.err
    assert started.json["owner"] in again.err
    stopped = obs.type("stop.py", "--json")
    assert stopped.code == 0, stopped.err
    told = stopped.json
    assert told["holder"]["owner"] == started.json["owner"] and told["finished"]["complete"]
    assert {line["what"].split()[0] for line in told["lines"]} == {"quabo", "DAQ", "HK"}
    assert all(line["ok"] for line in told["lines"]) and len(told["lines"]) == 10
    assert told["finished"]["verdict"] == "good", told["finished"]["reasons"]
    assert obs.is_idle() and obs.left_on_node() == []

    frames = frames_of(run_dir)
    for module in (1, 254):
        assert frames[module, "img16"] > 50 and frames[module, "ph256"] > 0
    here = {path.name for path in run_dir.iterdir()}
    ip = obs.node_sshd.address
    assert here >= {
        "obs_config.json", "daq_config.json", "data_config.json", "sw_info.json", "run.json",
        "quabo_uids.json", "quabo_ph_baseline.json", "hk.pff", f"hp_stdout_{ip}", f"hp_log_{ip}",
        f"hp_status_{ip}.json", "recording_ended", "collect_complete", "run_complete",
        *(f"quabo_config_{quabo}.json" for quabo in obs.quabos),
    }  # fmt: skip
    assert not any(name.startswith(".") for name in here)
    links = {name: os.readlink(obs.head_dir / name) for name in ("run", "img", "ph", "hk")}
    assert links["run"] == run_dir.name and links["hk"] == f"{run_dir.name}/hk.pff"
    assert "dp_img16" in links["img"] and "dp_ph256" in links["ph"]
    assert all((obs.head_dir / link).stat().st_size for link in ("img", "ph", "hk"))
    record = json.loads((run_dir / "run.json").read_text())
    assert all(step["ok"] for step in record["steps"]) and record["verdict"]["word"] == "good"
    assert {step["phase"] for step in record["steps"]} == {"start", "stop", "collect"}

    repeated = obs.type("stop.py")
    assert repeated.code == 0 and "no run was in progress" in repeated.out
    old = obs.type("stop.py", "--run", run_dir.name)
    assert old.code == 0 and frames_of(run_dir) == frames
    log = obs.type("status.py", "--log", "2000")
    assert log.code == 0
    for word in (
        'argv=["--json"]',
        "run_name_removed",
        "ssh_end",
        'command="acquisition"',
        "rsync",
        " status.py command ",
        "recording_ended",
    ):
        assert word in log.out, word


def test_no_collect_then_no_cleanup_then_all(obs: Obs) -> None:
    note_touched(obs.head_dir, obs.quabos[5], Step.SHUTTER, "set by qc.py")
    started = obs.start_here()
    forget_touched(read_touched(obs.head_dir))
    (warning,) = read_record(started.run_dir).document["warnings"]
    assert "254" in warning and "shutter: set by qc.py; if it is to be open: config.py" in warning
    assert started.warnings == (warning,)
    report = obs.stop_here(collect=False)
    assert report.ok and obs.is_idle() and frames_of(started.run_dir) == {}
    verdict = read_record(started.run_dir).document["verdict"]
    assert verdict["word"] in ("good", "lossy") and "were left on the nodes" in verdict["checked"]
    assert report.finished is not None and report.finished.summary is not None
    left = {(row.module, row.product): row.recorded for row in report.finished.summary.rows}
    assert (started.run_dir / "recording_ended").exists()
    assert not (started.run_dir / "collect_complete").exists()
    told = obs.type("status.py", "--json").json
    assert [one["run"] for one in told["open_runs"]] == [started.holder.run]
    assert any(f"stop.py --run {started.holder.run}" in text for text in told["advice"])
    report = obs.stop_here(run=started.holder.run, cleanup=False)
    assert report.ok and (started.run_dir / "collect_complete").exists()
    assert not (started.run_dir / "run_complete").exists() and obs.left_on_node()
    frames = frames_of(started.run_dir)
    assert {key: count for key, count in frames.items() if count} == left, "by the accounts"
    verdict = read_record(started.run_dir).document["verdict"]
    assert verdict["checked"] == f"all {sum(frames.values())} frames checked"
    report = obs.stop_here(run=started.holder.run)
    assert report.ok and obs.left_on_node() == [] and frames_of(started.run_dir) == frames
    assert (started.run_dir / "run_complete").exists()


def test_a_new_run_while_the_old_one_is_collected_in_the_background(obs: Obs) -> None:
    started = obs.start_here(hv=False)
    with run_state.collect_lock(started.run_dir) as free:  # the collector has to wait for us
        assert free
        done = obs.type("stop.py", "--background", "--json")
        assert done.code == 0, done.err
        pid, finished = done.json["collector_pid"], done.json["finished"]
        assert psutil.pid_exists(pid) and finished is None and obs.is_idle()
        assert os.getsid(pid) == pid, "it does not end with the shell"
        other = obs.start_here(redis=False, hv=False)
        assert (started.run_dir / "recording_ended").exists() and obs.left_on_node()
        far = Progress(3_000_000, 12_000_000, 3.0)
        write_progress(started.run_dir, far)
        told = obs.type("status.py").err
        assert f"{started.holder.run} is being collected by pid {os.getpid()}" in told
        assert "3 MB of 12 MB, 1 MB/s, 9 s left" in told
    wait_for((started.run_dir / "run_complete").exists, "the collection", 60)
    assert read_progress(started.run_dir) is None
    assert frames_of(started.run_dir)[1, "img16"] > 0
    holder = run_state.read_holder(obs.head_dir)
    assert holder is not None and holder.run == other.holder.run, "the new run goes on"
    wait_for(lambda: has_ended(pid), "the collector to end", 60)
    report = obs.stop_here()
    assert report.ok and report.finished is not None and report.finished.complete
    assert obs.type("stop.py", "--background", "--no_collect").code == 2


def has_ended(pid: int) -> bool:
    """Whether it runs no more; nobody may be there to collect an orphan's exit code."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    ("code", "spoiled"),
    [
        (12, "module_254"),
        (23, "module_1/"),
        (30, ""),
        (255, ""),
    ],
)
@pytest.mark.long
def test_a_collection_that_fails_leaves_the_files_there_and_says_what_to_type(
    obs: Obs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, spoiled: str
) -> None:
    """rsync fails at every file whose path has a word in it ("" = at all); status.py tells."""
    run = obs.start_here().holder.run
    names = {path.name for path in data_on_node(obs)}
    monkeypatch.setattr(collect_batch, "RETRY_PAUSE_S", 0.01)
    monkeypatch.setattr(collect_batch, "FETCH_TRIES", 2)
    monkeypatch.chdir(obs.command_dir)
    monkeypatch.setenv("PATH", f"{spoiled_rsync(tmp_path, code, spoiled)}:{os.environ['PATH']}")
    assert stop_script.main(["--verbose"]) == 1
    monkeypatch.undo()
    kept = {path: path.read_bytes() for path in data_on_node(obs)}
    failed = [path for path in kept if spoiled in str(path)]
    assert failed == list(kept) and any(len(kept[path]) for path in failed)
    here = {path.name for path in (obs.head_dir / run).glob("*.pff")}
    assert names <= here | {path.name for path in kept}  # what is not there any more came
    document = read_record(obs.head_dir / run).document
    assert document["verdict"]["word"] in ("partial", "failed")
    problems = document["collection"][-1]["problems"]
    for path in failed:
        why = f"{path.relative_to(obs.node_dir)}: did not arrive"
        (problem,) = [text for text in problems if why in text]
        assert f"rsync: exit code {code}: trouble" in problem
    status = obs.type("status.py")
    for path in failed:
        assert f"{run}: not collected: {obs.node_sshd.address}: " in status.err
        assert path.name in status.err
    assert f"{run} is not all collected: stop.py --run {run}" in status.err
    done = obs.type("stop.py", "--run", run)
    assert done.code == 0, done
    assert (obs.head_dir / run / "run_complete").exists() and obs.left_on_node() == []
    for path, content in kept.items():
        assert (obs.head_dir / run / path.name).read_bytes() == content
    assert set(frames_of(obs.head_dir / run)) >= {(1, "img16"), (254, "img16")}


def data_on_node(obs: Obs) -> list[Path]:
    """Data files on the DAQ node."""
    return sorted(obs.node_dir.glob("module_*/*.pffd/*.pff"))


def spoiled_rsync(folder: Path, code: int, word: str) -> Path:
    """For PATH: an rsync that fails where the word is on its command line."""
    script = (
        f'#!/bin/bash\ncase "$*" in *{word}*) echo trouble >&2; exit {code};; esac\n'
        f'exec {shutil.which("rsync")} "$@"\n'
    )
    (folder / "bin").mkdir()
    (folder / "bin" / "rsync").write_text(script)
    (folder / "bin" / "rsync").chmod(0o755)
    return folder / "bin"


def test_a_collection_that_was_killed_is_taken_up_by_the_next_stop(obs: Obs) -> None:
    started = obs.start_here(redis=False, hv=False)
    with run_state.collect_lock(started.run_dir):
        stop = obs.begin("stop.py")
        wait_for(lambda: not (obs.head_dir / "run_name").exists(), "the run to end", 60)
        stop.kill()
        stop.wait()
    done = obs.type("stop.py", "--json")
    assert done.code == 0, done.err
    assert "was broken off: going on with it" in done.err
    assert done.json["run"] == started.holder.run and done.json["finished"]["complete"]
    again = obs.type("stop.py")
    assert again.code == 0 and "no run was in progress" in again.out


# --- two at once, and one in the way of the other ---


def test_two_starts_at_the_same_instant_one_wins(obs: Obs) -> None:
    starts = [obs.begin("start.py", "--json") for _ in range(2)]
    ended = [(child.communicate(timeout=100), child.returncode) for child in starts]
    codes = [code for _, code in ended]
    assert sorted(codes) == [0, 3], ended
    winner, loser = ended[codes.index(0)][0], ended[codes.index(3)][0]
    assert json.loads(winner[0])["owner"].partition("[")[2] in loser[1]
    assert "somebody else may be using the observatory" in loser[1]
    assert len(obs.runs()) == 1 and len(activities.pipelines()) == 1
    stops = [obs.begin("stop.py", "--json") for _ in range(2)]
    ended = [(child.communicate(timeout=100), child.returncode) for child in stops]
    assert [code for _, code in ended] == [0, 0], ended
    assert obs.is_idle() and (obs.head_dir / obs.runs()[0] / "run_complete").exists()
    assert frames_of(obs.head_dir / obs.runs()[0])[1, "img16"] > 0


def test_stop_interrupts_a_start(obs: Obs) -> None:
    start = obs.begin("start.py")
    wait_for((obs.head_dir / "run_name").exists, "the start to begin", 60)
    start.send_signal(signal.SIGSTOP)  # a busy machine must not let it be done too soon
    stop = obs.begin("stop.py")  # which lets it go on
    _, err = start.communicate(timeout=60)
    _, stop_err = stop.communicate(timeout=60)
    assert start.returncode == 128 + signal.SIGTERM and "undoing it" in err
    assert stop.returncode == 0 and "told to end" in stop_err, stop_err
    assert obs.is_idle() and obs.left_on_node() == []


@pytest.mark.parametrize(
    "act",
    [
        pytest.param("copy the configs", marks=pytest.mark.long),
        "start recording",
        "start the data flow",
    ],
)
def test_stop_puts_right_what_a_killed_start_left(obs: Obs, act: str) -> None:
    start = obs.begin("start.py")

    def reached() -> bool:
        for run in obs.runs():
            path = obs.head_dir / run / "run.json"
            if path.exists() and act in path.read_text():
                return True
        return False

    wait_for(reached, f"the start to {act}", 60)
    start.kill()
    start.wait()
    report = obs.stop_here()
    assert report.ok, report
    assert obs.is_idle() and obs.left_on_node() == [], report
    assert report.finished is not None and report.finished.verdict == "failed"
    frames_of(report.finished.run_dir)


# --- stops that meet trouble ---


def test_a_dead_node_does_not_keep_the_others(obs: Obs) -> None:
    started = obs.start_here()
    obs.node_sshd.kill()
    begin = time.monotonic()
    done = obs.type("stop.py", "--json")
    took_s = time.monotonic() - begin
    assert done.code == 1 and took_s < 30
    lines = {line["what"]: line for line in done.json["lines"]}
    dead = lines[f"DAQ node {obs.node_sshd.address}"]
    assert not dead["ok"] and "no ssh server" in dead["now"]
    assert all(lines[f"quabo {ip}"]["now"] == "stopped" for ip in obs.quabos)
    assert not (obs.head_dir / "run_name").exists()
    assert not activities.hk_recorders(obs.head_dir)
    for marker in ("recording_ended", "collect_complete", "run_complete"):
        assert not (started.run_dir / marker).exists()
    assert done.json["finished"]["verdict"] in ("partial", "failed")
    status = obs.type("status.py")
    assert status.code == 1 and "cannot be asked" in status.out
    assert f"stop.py --run {started.holder.run}" in status.err
    obs.node_sshd.start()
    report = obs.stop_here(run=started.holder.run)
    assert report.ok and obs.is_idle() and obs.left_on_node() == []
    assert (started.run_dir / "run_complete").exists()
    assert frames_of(started.run_dir)[254, "img16"] > 0


def test_the_run_of_another_head_node_needs_force(
    obs: Obs, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = load_site(obs.command_dir)
    run = "obs_Other.start_2024-01-01T00:00:00Z.runtype_x.pffd"
    order = daq_nodes.Order(run, "token of ann", "ann@elsewhere[7]", (1, 254), "Other")
    with Shell(site.daq.nodes[0], site.obs) as shell:
        daq_nodes.start_recording(shell, order)
        report = obs.stop_here()
        assert not report.ok and len(activities.pipelines()) == 1
        alone = [line.now for line in report.lines if not line.ok]
        assert alone and all("ann@elsewhere[7]" in now and "--force" in now for now in alone)
        asked: list[str] = []
        monkeypatch.setattr(Console, "ask", lambda self, question: asked.append(question))
        assert not obs.stop_here(force=True).ok and len(activities.pipelines()) == 1
        assert "ann@elsewhere[7]" in asked[0] and "somebody else" in asked[0]
        monkeypatch.undo()
        flight = FlightRecorder(obs.head_dir, "test")
        report = run_stop.stop(site, run_stop.StopOptions(force=True), Console(), flight)
        assert report.ok and obs.is_idle(), report
        assert any("overrode" in note and "ann@elsewhere[7]" in note for note in report.notes)
        last = [line.text for line in read_flight(obs.head_dir) if line.what == "override"]
        assert "ann@elsewhere[7]" in last[-1]
        files = daq_nodes.list_files(shell, run).files
        daq_nodes.delete_files(shell, run, files, run_dir=True)


def test_a_dead_board_is_a_line_of_its_own(obs: Obs) -> None:
    obs.start_here()
    with obs.private.client() as client:
        client.fault(obs.quabos[0], "unreachable")
    report = obs.stop_here()
    bad = [line for line in report.lines if not line.ok]
    assert not report.ok and [line.what for line in bad] == [f"quabo {obs.quabos[0]}"]
    assert "no answer" in bad[0].now and report.finished is not None and report.finished.complete
    assert obs.is_idle()


def test_broken_configs_and_state_do_not_keep_stop_from_working(obs: Obs) -> None:
    started = obs.start_here()
    for name in ("obs", "daq", "data"):
        path = obs.command_dir / f"{name}_config.json"
        path.write_text(path.read_text()[:-20])
    (obs.head_dir / "run_name").write_text("garbage; rm -rf /\n")
    (started.run_dir / "run.json").write_text("")
    obs.private.redis.kill()
    try:
        done = obs.type("stop.py", "--json")
    finally:
        obs.private.redis.start()
    assert done.code == 0, done
    assert "frozen configs" in done.err and "garbage" not in done.json["run"]
    assert done.json["run"] == started.holder.run and done.json["finished"]["complete"]
    assert frames_of(started.run_dir)[1, "img16"] > 0
    assert len(list((obs.head_dir / "log").glob("run_name.unusable-*"))) == 1
    assert len(list((obs.head_dir / "log").glob("run.json.unusable-*"))) == 1
    assert obs.is_idle()


@pytest.mark.long
def test_a_mistyped_head_node_does_not_keep_a_run_from_being_ended(obs: Obs) -> None:
    """Or one that was edited for the next night, or whose interface has lost its address."""
    started = obs.start_here(redis=False, hv=False)
    path = obs.command_dir / "daq_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "head_node_ip_addr": "192.0.2.7"}))
    status = obs.type("status.py")
    assert status.code == 0 and "192.0.2.7" in status.err
    done = obs.type("stop.py", "--json")
    assert done.code == 0, done
    assert "192.0.2.7" in done.json["config_notes"][0] and done.json["finished"]["complete"]
    assert done.json["run"] == started.holder.run and obs.is_idle()


def test_the_data_directory_is_found_or_asked_for(obs: Obs, tmp_path: Path) -> None:
    run = obs.head_dir / "obs_Old.start_2024-01-01T00:00:00Z.runtype_x.pffd"
    run.mkdir()
    for path in obs.command_dir.glob("*.json"):
        shutil.copy(path, run)
    (obs.command_dir / "daq_config.json").write_text("{")
    found = find_site(obs.command_dir)  # the daemons of the session tell
    assert found.site.head_data_dir == obs.head_dir and "daemon" in found.notes[-1]
    bare = tmp_path / "bare"
    shutil.copytree(obs.command_dir, bare)
    with pytest.raises(ConfigError, match="--data_dir"):
        find_site(bare)
    assert find_site(bare, obs.head_dir).site.head_data_dir == obs.head_dir


# --- --nsecs ---


def test_nsecs_stops_its_own_run(obs: Obs) -> None:
    done = obs.type("start.py", "--nsecs", "1", "--json")
    assert done.code == 0, done.err
    assert done.json["stop"]["finished"]["verdict"] == "good" and obs.is_idle()
    record = json.loads((Path(done.json["run_dir"]) / "run.json").read_text())
    assert record["planned_end_unix"] - record["recording_unix"] == pytest.approx(1)
    assert record["ended_unix"] > record["planned_end_unix"]


def test_nsecs_leaves_the_run_of_somebody_else_alone(obs: Obs) -> None:
    start = obs.begin("start.py", "--nsecs", "1000")
    wait_for(lambda: obs.runs() and recording(obs), "the run to record", 60)
    assert obs.stop_here().ok
    other = obs.start_here()
    _, err = start.communicate(timeout=30)
    assert start.returncode == 1 and "ended by somebody else" in err
    holder = run_state.read_holder(obs.head_dir)
    assert holder is not None and holder.token == other.holder.token
    with pytest.raises(RefusedError, match="left alone"):
        obs.stop_here(only=run_state.Holder(other.holder.run, token="another"))
    assert len(activities.pipelines()) == 1


def recording(obs: Obs) -> bool:
    """Whether the last run records and its start, if it goes on, only waits."""
    path = obs.head_dir / obs.runs()[-1] / "run.json"
    if not path.exists() or json.loads(path.read_text())["recording_unix"] is None:
        return False
    with run_state.ControlLock(obs.head_dir) as lock:
        return lock.take("test")


def test_ctrl_c_stops_the_run_of_nsecs(obs: Obs) -> None:
    start = obs.begin("start.py", "--nsecs", "1000")
    wait_for(lambda: obs.runs() and recording(obs), "the run to record", 60)
    start.send_signal(signal.SIGINT)
    start.communicate(timeout=60)
    assert start.returncode == 128 + signal.SIGINT and obs.is_idle()
    assert (obs.head_dir / obs.runs()[0] / "run_complete").exists()


def test_housekeeping_alone_and_data_alone(obs: Obs) -> None:
    started = obs.start_here(data=False)
    assert activities.hk_recorders(obs.head_dir) and not activities.pipelines()
    wait_for(lambda: (started.run_dir / "hk.pff").stat().st_size, "housekeeping")
    assert obs.stop_here().ok and frames_of(started.run_dir) == {}
    started = obs.start_here(redis=False)
    assert not activities.hk_recorders(obs.head_dir) and activities.pipelines()
    assert obs.stop_here().ok and not (started.run_dir / "hk.pff").exists()


@pytest.mark.long
def test_a_run_whose_directory_was_lost_is_named_and_collected(obs: Obs, tmp_path: Path) -> None:
    """The head node's disk is replaced while it records."""
    started = obs.start_here(redis=False, hv=False)
    run = started.holder.run
    started.run_dir.rename(tmp_path / "away")
    (obs.head_dir / "run_name").unlink()
    ended = obs.type("stop.py")
    assert ended.code == 0 and f"stop.py --run {run}" in ended.out + ended.err, ended
    assert f"no record of it here: stop.py --run {run}" in obs.type("status.py").err
    frames = sum(path.stat().st_size for path in obs.node_dir.glob(f"module_*/{run}/*.pff"))
    done = obs.type("stop.py", "--run", run)
    assert done.code == 0 and obs.left_on_node() == [], done
    assert sum(path.stat().st_size for path in started.run_dir.glob("*.pff")) == frames
    assert frames_of(started.run_dir)[254, "img16"] > 0
    assert f"stop.py --run {run}" not in obs.type("status.py").err


def test_an_unknown_run_is_refused(obs: Obs) -> None:
    done = obs.type("stop.py", "--run", "obs_No.start_2024-01-01T00:00:00Z.runtype_x.pffd")
    assert done.code == 3 and "no run" in done.err
    assert obs.type("stop.py", "--run", "../etc").code == 2
    with pytest.raises(ObsError):
        obs.stop_here(run="obs_No.start_2024-01-01T00:00:00Z.runtype_x.pffd")

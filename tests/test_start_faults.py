"""Starts that are refused, that fail and are undone, or that go without what is missing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from panoseti.boards.addresses import is_loopback
from panoseti.bringup import session
from panoseti.configs.board_files import read_quabo_uids
from panoseti.configs.load_configs import load_site
from panoseti.console import Console
from panoseti.errors import RefusedError
from panoseti.runs import activities, data_arrival, run_start, run_state
from panoseti.runs.start_checks import StartOptions
from simulator.site_writer import head_address
from tests.helpers import REPO, wait_for
from tests.second_head import QUICK, SecondHead, second_head
from tests.typed_site import QUIET, Obs, frames_of

# --- refusals ---


class Variant(SecondHead):
    """A copy of command and data directories in which something is not as it should be."""

    def change_node(self, **fields: Any) -> None:
        nodes = json.loads((self.command_dir / "daq_config.json").read_text())["daq_nodes"]
        self.change("daq", daq_nodes=[{**nodes[0], **fields}])

    def refusal(self, **options: Any) -> str:
        site = load_site(self.command_dir)
        before = tree(self.data_dir)
        with pytest.raises(RefusedError) as refused:
            run_start.start(site, StartOptions(**options), Console(), QUIET)
        assert tree(self.data_dir) == before, "a refused start left something"
        assert refused.value.exit_code == 3 and "\n" not in str(refused.value)
        return str(refused.value)


def tree(folder: Path) -> set[str]:
    """Everything below a folder but locks."""
    return {
        str(path) for path in folder.rglob("*") if path.suffix != ".lock" and path.name != "log"
    }


@pytest.fixture
def variant(obs: Obs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Variant:
    # The session of the original goes on beside it: see test_data_dir_changed.py.
    monkeypatch.setattr(session, "elsewhere", lambda site, names=(): [])
    copy = second_head(obs, tmp_path)
    return Variant(copy.command_dir, copy.data_dir)


def spoil_baseline_date(variant: Variant) -> None:
    path = variant.data_dir / "quabo_ph_baseline.json"
    content = json.loads(path.read_text())
    content["date"] = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - 25 * 3600))
    path.write_text(json.dumps(content))


def other_helpers(variant: Variant) -> None:
    nodes = json.loads((variant.command_dir / "daq_config.json").read_text())["daq_nodes"]
    folder = variant.data_dir.parent / "node"
    shutil.copytree(nodes[0]["data_dir"], folder)
    with (folder / "daq_facts.py").open("a") as file:
        file.write("# another version\n")
    variant.change_node(data_dir=str(folder))


def link_to_nowhere(variant: Variant) -> None:
    nodes = json.loads((variant.command_dir / "daq_config.json").read_text())["daq_nodes"]
    folder = variant.data_dir.parent / "node"
    shutil.copytree(nodes[0]["data_dir"], folder, ignore=shutil.ignore_patterns("module_254"))
    (folder / "module_254").symlink_to("/not/mounted")
    variant.change_node(data_dir=str(folder))


REFUSALS: dict[str, tuple[Callable[[Variant], object], dict[str, Any], Sequence[str]]] = {
    "not the head node": (
        lambda v: v.change("daq", head_node_ip_addr="192.0.2.1"), {},
        ("not the head node", "192.0.2.1"),
    ),
    "run in progress": (
        lambda v: run_state.claim(v.data_dir, run_state.Holder(
            "obs_X.start_2024-01-01T00:00:00Z.runtype_y.pffd", "ann@head[7]", "t", 1704067200.0)),
        {}, ("ann@head[7]", "2024-01-01T00:00:00Z", "somebody else may be using", "stop.py"),
    ),
    "run_name unusable": (
        lambda v: (v.data_dir / "run_name").write_text("../x"), {}, ("run_name", "stop.py")),
    "daemons": (lambda v: None, {}, ("capture_hk does not run", "hv_updater does not run")),
    "daemons without HV": (lambda v: None, {"hv": False}, ("capture_hk does not run",)),
    "never scanned": (
        lambda v: (v.data_dir / "quabo_uids.json").unlink(), QUICK, ("run: config.py",)),
    "nothing in the ledger": (
        lambda v: (v.data_dir / "bringup.json").unlink(), QUICK, ("not ready", "config.py")),
    "no baseline": (
        lambda v: (v.data_dir / "quabo_ph_baseline.json").unlink(), QUICK,
        ("quabo_ph_baseline.json", "config.py --calibrate_ph")),
    "old baseline": (
        spoil_baseline_date, QUICK, ("25.0 h old (limit 24 h)", "config.py --calibrate_ph")),
    "threshold changed with PH on": (
        lambda v: v.change("data", gain=61), QUICK, ("PH baseline", "--calibrate_ph")),
    "node unreachable": (
        lambda v: v.change_node(ssh_port=1), QUICK, ("no ssh server", "ssh_port")),
    "node without directory": (
        lambda v: v.change_node(data_dir="/nowhere"), QUICK, ("/nowhere", "init_daq_nodes")),
    "helpers of another version": (
        other_helpers, QUICK, ("another version", "init_daq_nodes")),
    "link to a disk that is not there": (
        link_to_nowhere, QUICK, ("module_254 (a link to /not/mounted)", "mount that disk")),
    "disk too small": (
        lambda v: v.change("obs", recording_min_h=1000), QUICK,
        ("of recording left", "1000.0 h")),
    "run too long": (
        lambda v: None, {**QUICK, "duration_s": 9e6}, ("of recording left", "run needs")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_have_no_side_effect_and_say_what_helps(variant: Variant, case: str) -> None:
    prepare, options, words = REFUSALS[case]
    prepare(variant)
    text = variant.refusal(**options)
    for word in words:
        assert word in text


def test_a_board_that_is_absent_is_missing_unless_a_config_says_so(variant: Variant) -> None:
    path = variant.data_dir / "quabo_uids.json"
    uids = read_quabo_uids(path, load_site(variant.command_dir).obs)
    gone = load_site(variant.command_dir).obs.quabos[5].ip
    path.write_text(path.read_text().replace(f'"{uids.by_ip[gone]}"', '""'))
    text = variant.refusal(**QUICK)
    for word in (f"{gone}: absent at the last scan", "config.py", "absent_quabos"):
        assert word in text
    variant.refusal(**QUICK, partial=True)
    variant.change("obs", run_policy={"may_be_missing": {"boards": 1}})
    assert "start.py --partial records without it" in variant.refusal(**QUICK)
    options = StartOptions(**QUICK, partial=True)
    part = run_start.plan(load_site(variant.command_dir), options, QUIET).part
    assert part.missing == {gone: "absent at the last scan"} and len(part.boards) == 7
    assert part.expected(True).missing == part.missing and part.expected(True).absent == ()
    domes = json.loads((variant.command_dir / "obs_config.json").read_text())["domes"]
    [module for dome in domes for module in dome["modules"]][1]["absent_quabos"] = [1]
    variant.change("obs", domes=domes)
    part = run_start.plan(load_site(variant.command_dir), StartOptions(**QUICK), QUIET).part
    assert part.missing == {} and part.expected(True).absent == (gone,)


WRONG_CLOCK = """
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t which, struct timespec *now)
{
    int failed = syscall(SYS_clock_gettime, which, now);
    if (!failed && which == CLOCK_REALTIME)
        now->tv_sec += 3600;
    return failed;
}
"""


def test_a_node_whose_clock_is_wrong_is_refused(obs: Obs, variant: Variant, tmp_path: Path) -> None:
    """A computer has one clock: what runs on the node sees another one, by the C library."""
    source, library = tmp_path / "clock.c", tmp_path / "clock.so"
    source.write_text(WRONG_CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    sshd = obs.node_sshd
    sshd.restrictions = f'command="export LD_PRELOAD={library}; eval \\"$SSH_ORIGINAL_COMMAND\\""'
    sshd.write_authorized_keys()
    try:
        text = variant.refusal(**QUICK)
    finally:
        sshd.restrictions = ""
        sshd.write_authorized_keys()
    for word in (sshd.address, "its clock is +3", " s off the head node's", "limit 0.5 s"):
        assert word in text


def test_a_module_whose_disk_is_not_there_can_be_left_out(variant: Variant) -> None:
    """The others of its node record."""
    link_to_nowhere(variant)
    variant.change("obs", run_policy={"may_be_missing": {"modules": 1}})
    options = StartOptions(**QUICK, partial=True)
    checked = run_start.plan(load_site(variant.command_dir), options, QUIET)
    assert list(checked.part.missing) == ["module 254"]
    assert checked.part.modules_of(checked.nodes[0]) == (1,)
    rooms = [volume.where for volume in checked.volumes]
    assert any("module 1" in where for where in rooms) and not any("254" in w for w in rooms)


def test_the_variant_itself_is_ready(variant: Variant) -> None:
    checked = run_start.plan(load_site(variant.command_dir), StartOptions(**QUICK), QUIET)
    assert len(checked.boards) == 8 and len(checked.nodes) == 1
    assert all(is_loopback(node.ip_addr) for node in checked.nodes)
    variant.change("data", pulse_height={"pe_threshold": 12.5}, max_file_size_mb=5)
    variant.change("obs", recording_warn_h=1000)
    checked = run_start.plan(load_site(variant.command_dir), StartOptions(**QUICK), QUIET)
    assert any("of recording left" in warning for warning in checked.warnings)


def test_recording_programs_are_refused_and_ended_by_stop(obs: Obs, tmp_path: Path) -> None:
    fake = tmp_path / "hashpipe"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", fake)
    stray = psutil.Popen([str(fake), "100"])
    run = "obs_Stray.start_2024-01-01T00:00:00Z.runtype_x.pffd"
    (obs.head_dir / run).mkdir()
    script = str(REPO / "daemons" / "store_redis_data.py")
    recorder = psutil.Popen(
        [script, "--config_dir", str(obs.command_dir), "--data_dir", str(obs.head_dir),
         "--run", run], env=os.environ | {"PATH": f"{REPO}/.venv/bin:{os.environ['PATH']}"},
    )  # fmt: skip
    try:
        wait_for(lambda: activities.hk_recorders(obs.head_dir), "the HK recorder")
        wait_for((obs.head_dir / run / "hk.pff").exists, "hk.pff")
        with pytest.raises(RefusedError) as refused:
            obs.start_here()
        for word in (f"HK recorder (pid {recorder.pid})", f"hashpipe (pid {stray.pid})", "stop.py"):
            assert word in str(refused.value)
        report = obs.stop_here()
        assert report.ok and report.run is None
        assert obs.is_idle()
    finally:
        for process in (stray, recorder):
            if process.poll() is None:
                process.kill()
                process.wait()


def test_bad_configs_are_told_with_exit_code_2(obs: Obs) -> None:
    path = obs.command_dir / "data_config.json"
    path.write_text('{"gain": 1}')
    done = obs.type("start.py")
    assert done.code == 2 and "run_type" in done.err and obs.is_idle()
    assert obs.type("start.py", "--stop_session").code == 2


# --- starts that fail ---


def nothing_left(obs: Obs) -> None:
    """No trace of a start but its record in the log folder."""
    assert obs.is_idle() and obs.runs() == [] and obs.left_on_node() == []
    assert not (obs.head_dir / "run").is_symlink() and not (obs.head_dir / "hk").is_symlink()


def test_a_board_that_does_not_answer_undoes_the_start(obs: Obs) -> None:
    mute = obs.quabos[6]
    with obs.private.client() as client:
        client.fault(mute, "mute")
    done = obs.type("start.py", "--no_hv")
    assert done.code == 1 and mute in done.err and "everything was undone" in done.err, done
    nothing_left(obs)
    record = max((obs.head_dir / "log").glob("failed_start_*.json"))
    steps = json.loads(record.read_text())["steps"]
    assert [step["what"] for step in steps if step["phase"] == "undo"] == [
        "start recording", "point the links here", "start the HK recorder", "start the watcher",
        "remove the run directory",
    ]  # fmt: skip
    words = {path.name.removeprefix(f"{record.stem}.") for path in record.parent.glob("failed_*")}
    node = obs.node_sshd.address
    assert {f"hp_stdout_{node}", f"hp_log_{node}"} <= words, "the pipeline's words are kept"


def test_a_pipeline_that_does_not_come_up_undoes_the_start(obs: Obs) -> None:
    plugin = obs.node_dir / "hashpipe.so"
    plugin.rename(obs.node_dir / "away")
    plugin.write_bytes(b"no plugin")
    try:
        done = obs.type("start.py")
    finally:
        (obs.node_dir / "away").replace(plugin)
    assert done.code == 1 and obs.node_sshd.address in done.err and "hashpipe.so" in done.err
    nothing_left(obs)


def test_a_silent_board_is_named_and_what_was_recorded_is_kept(
    obs: Obs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_arrival, "DEADLINE_S", 2.0)
    silent = obs.quabos[5]
    with obs.private.client() as client:
        client.science(silent, loss=1.0, seed=1)
    try:
        with pytest.raises(run_start.StartFailedError) as failed:
            obs.start_here()
    finally:
        with obs.private.client() as client:
            client.science(silent, loss=0.0, seed=1)
    assert f"{silent} (module 254, quabo 1)" in str(failed.value)
    assert "is kept" in str(failed.value)
    (run,) = obs.runs()
    assert obs.is_idle() and obs.left_on_node() == []
    assert frames_of(obs.head_dir / run)[1, "img16"] > 0
    record = json.loads((obs.head_dir / run / "run.json").read_text())
    assert record["verdict"]["word"] == "failed" and (obs.head_dir / run / "run_complete").exists()


@pytest.fixture
def ph_only(obs: Obs) -> Iterator[Obs]:
    """The observatory set up for pulse heights alone."""
    path = obs.command_dir / "data_config.json"
    before = path.read_text()
    content = json.loads(before)
    del content["image"]
    path.write_text(json.dumps(content))
    done = obs.type("config.py")
    assert done.code == 0, done.err
    yield obs
    path.write_text(before)
    done = obs.type("config.py")
    assert done.code == 0, done.err


@pytest.mark.long
def test_pulse_heights_alone_must_come_too_unless_the_policy_lets_them_be_rare(
    ph_only: Obs, monkeypatch: pytest.MonkeyPatch
) -> None:
    obs, silent = ph_only, ph_only.quabos[5]
    obs.start_here(hv=False, redis=False)
    assert obs.stop_here().ok
    monkeypatch.setattr(data_arrival, "DEADLINE_S", 5.0)
    with obs.private.client() as client:
        client.science(silent, loss=1.0, seed=1)
    try:
        with pytest.raises(run_start.StartFailedError) as failed:
            obs.start_here(hv=False, redis=False)
        for word in ("no pulse height was recorded", silent, "ph_may_be_quiet in run_policy"):
            assert word in str(failed.value)
        assert obs.is_idle()
        path = obs.command_dir / "obs_config.json"
        policy = {"run_policy": {"ph_may_be_quiet": True}}
        path.write_text(json.dumps({**json.loads(path.read_text()), **policy}))
        started = obs.start_here(hv=False, redis=False)
        report = obs.stop_here()
    finally:
        with obs.private.client() as client:
            client.science(silent, loss=0.0, seed=1)
    steps = json.loads((started.run_dir / "run.json").read_text())["steps"]
    (waited,) = [step["text"] for step in steps if step["what"] == "wait for data of every board"]
    assert silent in waited and report.finished is not None
    assert report.finished.verdict == "partial" and f"no data of {silent}" in str(report)
    with obs.private.client() as client:  # a night without any trigger
        client.science("all", loss=1.0, seed=1)
    try:
        obs.start_here(hv=False, redis=False)
        report = obs.stop_here()
    finally:
        with obs.private.client() as client:
            client.science("all", loss=0.0, seed=1)
    assert report.ok and report.finished is not None and report.finished.verdict == "partial"
    assert report.finished.reasons[0].startswith(f"no data of {obs.quabos[0]}, {obs.quabos[1]}")


# --- with the healthy part ---


def allow(obs: Obs, **missing: int) -> None:
    """What may be missing by the policy of the site."""
    path = obs.command_dir / "obs_config.json"
    policy = {"may_be_missing": missing}
    path.write_text(json.dumps({**json.loads(path.read_text()), "run_policy": policy}))


def test_a_mute_board_is_left_out(obs: Obs) -> None:
    mute = obs.quabos[6]
    with obs.private.client() as client:
        client.fault(mute, "mute")
    allow(obs, boards=1)
    refused = obs.type("start.py", "--no_hv")
    assert refused.code == 1 and "start.py --partial records without it" in refused.err
    nothing_left(obs)
    done = obs.type("start.py", "--no_hv", "--partial", "--json")
    assert done.code == 0, done.err
    # Which witness misses it first is a matter of time: its echo, or housekeeping 15 s after.
    assert re.search(rf"out {re.escape(mute)}: no (answer|housekeeping)", done.err), done.err
    assert list(done.json["missing"]) == [mute]
    assert f"recorded without {mute}: " in obs.type("status.py").out
    stopped = obs.type("stop.py", "--json")
    assert stopped.code == 0, stopped.err
    (line,) = [one for one in stopped.json["lines"] if one["what"] == f"quabo {mute}"]
    assert re.match(r"the run went without it: no (answer|housekeeping)", line["now"])
    finished = stopped.json["finished"]
    assert finished["complete"] and finished["verdict"] == "partial"
    assert finished["reasons"][0].startswith(f"started without {mute}: ")
    record = json.loads((Path(done.json["run_dir"]) / "run.json").read_text())
    assert list(record["expected"]["missing"]) == [mute]
    assert mute not in record["expected"]["quabos"] and len(record["expected"]["quabos"]) == 7


def test_a_dead_node_is_left_out(obs: Obs) -> None:
    """Before the first side effect; the run needs nothing of it, and stops without it."""
    path = obs.command_dir / "daq_config.json"
    content = json.loads(path.read_text())
    alive = {**content["daq_nodes"][0], "module_ids": "1"}
    dead = {**alive, "ip_addr": head_address(obs.private.site.prefix, 3), "module_ids": "254"}
    path.write_text(json.dumps({**content, "daq_nodes": [alive, dead]}))
    allow(obs, boards=8, modules=1)
    with pytest.raises(RefusedError, match="no ssh server"):
        obs.start_here(partial=True, hv=False)
    allow(obs, nodes=1)
    with pytest.raises(RefusedError, match="no ssh server.*; start.py --partial records without"):
        obs.start_here(hv=False)
    assert obs.is_idle() and obs.runs() == []
    started = obs.start_here(partial=True, hv=False)
    assert list(started.missing) == [dead["ip_addr"]]
    report = obs.stop_here()
    assert report.ok and report.finished is not None and report.finished.complete, report
    assert report.finished.verdict == "partial"
    (line,) = [one for one in report.lines if one.what == f"DAQ node {dead['ip_addr']}"]
    assert line.now.startswith("the run went without it: ")
    assert {module for module, _ in frames_of(started.run_dir)} == {1}


def test_a_module_that_sends_nothing_is_left_out(obs: Obs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_arrival, "DEADLINE_S", 2.0)
    allow(obs, modules=1)
    with obs.private.client() as client:
        for ip in obs.quabos[4:]:
            client.science(ip, loss=1.0, seed=1)
    try:
        started = obs.start_here(partial=True, hv=False)
    finally:
        with obs.private.client() as client:
            for ip in obs.quabos[4:]:
                client.science(ip, loss=0.0, seed=1)
    assert started.missing == {"module 254": "no data were recorded within 2 s"}
    with obs.private.client() as client:
        boards = client.state()["boards"]
    assert all(boards[ip]["streams"]["image"] is None for ip in obs.quabos[4:]), "told to stop"
    assert all(boards[ip]["streams"]["image"] is not None for ip in obs.quabos[:4])
    report = obs.stop_here()
    assert report.ok and report.finished is not None and report.finished.verdict == "partial"
    assert report.finished.reasons[0].startswith("started without module 254: ")


def test_settings_made_stale_by_the_data_config_are_loaded(obs: Obs) -> None:
    path = obs.command_dir / "data_config.json"
    before = path.read_text()
    content = json.loads(before)
    del content["pulse_height"]
    path.write_text(json.dumps({**content, "gain": 61}))
    started = obs.start_here()
    record = json.loads((started.run_dir / "run.json").read_text())
    (step,) = [step for step in record["steps"] if step["what"] == "load stale settings"]
    assert "MAROC: 8" in step["text"]
    frozen = json.loads((started.run_dir / f"quabo_config_{obs.quabos[0]}.json").read_text())
    assert frozen["GAIN0"] != "0,0,0,0"
    assert obs.stop_here().ok
    path.write_text(before)
    done = obs.type("config.py")  # the settings of the other tests again
    assert done.code == 0, done.err

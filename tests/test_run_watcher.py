"""The watcher of a run, whole: real pipeline, ssh and Redis; what fails is told and acted on.

Times from fault to alarm are printed (pytest -rP).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from panoseti.boards import commands
from panoseti.boards.addresses import boardloc
from panoseti.boards.board_link import Send, open_link
from panoseti.bringup.readiness import in_words, readiness
from panoseti.configs.load_configs import frozen_copies, load_site
from panoseti.configs.site import DataConfig
from panoseti.errors import ConfigError
from panoseti.high_voltage.alarms import Alarm, AlarmState, read_alarms
from panoseti.housekeeping.store import BootNote, Store, boot_key
from panoseti.runs import activities, pff, run_state
from panoseti.runs.names import parse_data_file
from panoseti.runs.run_snapshot import read_snapshot
from panoseti.runs.run_state import read_holder
from panoseti.runs.run_watcher import HANGS_S
from panoseti.runs.site_of_run import site_of_run
from panoseti.runs.watch_log import What, acts, read_entries
from simulator.private_observatory import DATA, PrivateObservatory, private_observatory
from tests.helpers import REPO, wait_for
from tests.node_dir import is_alive
from tests.site_files import DATA as SITE_DATA
from tests.site_files import OBS, write_site

ALARM_WITHIN_S = 10.0
PATIENCE_S = 60.0
# So long a board has to send pulse heights until its silence is seen that soon.
HABIT_S = 40.0
IMAGE = {**DATA["image"], "integration_time_usec": 10000}


def typed(private: PrivateObservatory, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(REPO / name), *words], cwd=private.command_dir, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateObservatory]:
    """The observatory after config.py."""
    folder = tmp_path_factory.mktemp("watcher")
    with private_observatory(folder, {**DATA, "image": IMAGE}) as private:
        done = typed(private, "config.py")
        assert done.returncode == 0, done.stderr
        yield private


@pytest.fixture
def obs(built: PrivateObservatory) -> Iterator[PrivateObservatory]:
    """The same, idle before and after each test."""
    texts = {path: path.read_text() for path in built.command_dir.glob("*.json")}
    yield built
    for path, text in texts.items():
        path.write_text(text)
    with built.client() as client:
        client.fault("all", "none")
        client.science("all", loss=0.0)
    typed(built, "stop.py")
    assert not activities.watchers(built.data_dir), "stop.py ends the watcher"


def change(obs: PrivateObservatory, config: str, **fields: Any) -> None:
    path = obs.command_dir / f"{config}_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def policy(obs: PrivateObservatory, **fields: Any) -> None:
    change(obs, "obs", run_policy=fields)


def ended_because(obs: PrivateObservatory, run_dir: Path, within_s: float = PATIENCE_S) -> str:
    """Why the watcher ended the run; it must be ended within this time."""
    wait_for(lambda: read_holder(obs.data_dir) is None, "the run to be ended", within_s)
    (ended,) = acts(read_entries(run_dir), "run_ended")
    return ended.text


def start(obs: PrivateObservatory) -> Path:
    """Start a run; its directory, as soon as it is watched."""
    done = typed(obs, "start.py", "--json")
    assert done.returncode == 0, done.stderr
    run_dir = Path(json.loads(done.stdout)["run_dir"])
    wait_for(lambda: read_entries(run_dir), "the watch to begin")
    return run_dir


def stopped(obs: PrivateObservatory) -> dict[str, Any]:
    done = typed(obs, "stop.py", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["finished"]
    return found


def alarm(obs: PrivateObservatory, kind: str, since_unix: float) -> Alarm:
    """The first alarm of a kind after a fault, which must come in time."""

    def raised() -> list[Alarm]:
        return [
            one for one in read_alarms(obs.data_dir)
            if one.kind == kind and one.time_unix > since_unix and one.state is AlarmState.RAISED
        ]  # fmt: skip

    found = wait_for(raised, f"the alarm {kind}", PATIENCE_S)[0]
    took_s = found.time_unix - since_unix
    print(f"{kind}: alarm after {took_s:.1f} s")
    assert took_s < ALARM_WITHIN_S
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.pff")
            if parse_data_file(path.name)}  # fmt: skip


def tear(folder: Path) -> Path:
    """Leave a piece of a frame at the end of a file, as a kill in the middle of a write does."""
    path = max(folder.glob("*.dp_img16.*.pff"), key=lambda path: path.stat().st_size)
    with path.open("r+b") as file:
        piece = file.read(1000)
        assert len(piece) == 1000
        file.seek(0, os.SEEK_END)
        file.write(piece)
    return path


def test_a_killed_pipeline_goes_on_in_the_next_files(obs: PrivateObservatory) -> None:
    heard = obs.folder / "heard.jsonl"
    hook = obs.folder / "hook.sh"
    hook.write_text(f"#!/bin/sh\ncat >> '{heard}'; echo >> '{heard}'\n")
    hook.chmod(0o755)
    change(obs, "obs", alarm_hook=[str(hook)])
    run_dir = start(obs)
    (pipeline,) = activities.pipelines()
    folder = obs.data_dir / "module_254" / run_dir.name
    wait_for(lambda: any(p.stat().st_size for p in folder.glob("*.dp_img16.*")), "frames")
    killed_unix = time.time()
    os.kill(pipeline.pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(pipeline.pid), "its end")
    torn = tear(folder)
    before = {
        name: data
        for module in (1, 254)
        for name, data in files_of(obs.data_dir / f"module_{module}" / run_dir.name).items()
    }
    found = alarm(obs, "pipeline_ended", killed_unix)
    assert "has died" in found.text
    wait_for(lambda: heard.exists() and found.text in heard.read_text(), "the alarm hook")
    wait_for(lambda: acts(read_entries(run_dir), "restarted"), "the restart", PATIENCE_S)
    (second,) = activities.pipelines()
    assert second.pid != pipeline.pid
    snapshot = wait_for(
        lambda: read_snapshot(obs.data_dir, run_dir.name, time.time()), "the snapshot"
    )
    assert snapshot is not None
    assert all(node.status is not None for node in snapshot.nodes.values())
    finished = stopped(obs)
    assert finished["verdict"] in ("lossy", "partial")
    assert any("restarted" in reason for reason in finished["reasons"]), finished["reasons"]
    after = files_of(run_dir)
    assert torn.name in [cut["name"] for cut in finished["cuts"]]
    for name, data in before.items():
        file = parse_data_file(name)
        assert file is not None
        size = pff.PRODUCTS[file.product].frame_bytes
        assert after[name] == data[: len(data) - len(data) % size], "older files stay untouched"
    numbers = [
        (file.module, file.product, file.seqno) for file in map(parse_data_file, after) if file
    ]
    assert len(numbers) == len(set(numbers)), "no number is used twice"
    assert max(number for _, product, number in numbers if product == "img16") >= 1


def test_a_board_that_falls_silent(obs: PrivateObservatory) -> None:
    run_dir = start(obs)
    silent = obs.site.quabos[5]
    begin = time.time()
    with obs.client() as client:
        client.fault(silent, "unreachable")
    assert alarm(obs, "board_silent", begin).subject == silent
    with obs.client() as client:
        client.fault(silent, "none")
    status = typed(obs, "status.py", "--json")
    assert "run_watcher" in status.stdout
    finished = stopped(obs)
    assert any(silent in reason and "silent" in reason for reason in finished["reasons"])
    assert silent in json.loads((run_dir / "run.json").read_text())["summary"]["silent"]


@pytest.mark.long
@pytest.mark.parametrize("any_trigger", [False, True])
def test_a_board_whose_pulse_heights_cease(obs: PrivateObservatory, any_trigger: bool) -> None:
    """Each board has some twenty events a second; with any_trigger all those of its module."""
    heights: dict[str, Any] = {"pe_threshold": 5.5}
    if any_trigger:
        heights["any_trigger"] = {"group_ph_frames": 1}
    path = obs.command_dir / "data_config.json"
    before = path.read_text()
    data = {name: of for name, of in DATA.items() if name != "image"}
    path.write_text(json.dumps({**data, "pulse_height": heights}))
    try:
        assert (done := typed(obs, "config.py")).returncode == 0, done.stderr
        _see_pulse_heights_cease(obs, 0.0 if any_trigger else HABIT_S)
    finally:
        path.write_text(before)
        with obs.client() as client:
            client.fault("all", "none")
        typed(obs, "stop.py")
        assert (done := typed(obs, "config.py")).returncode == 0, done.stderr


def _see_pulse_heights_cease(obs: PrivateObservatory, after_s: float) -> None:
    run_dir = start(obs)
    began_s = time.monotonic()
    wait_for(lambda: time.monotonic() > began_s + after_s, "a habit", after_s + 1)
    seen = wait_for(
        lambda: (s := read_snapshot(obs.data_dir, run_dir.name, time.time())) and s.nodes and s,
        "an answer of the node",
    )
    assert seen and not seen.findings
    silent = obs.site.quabos[5]
    gone_unix = time.time()
    with obs.client() as client:
        client.fault(silent, "unreachable")
    found = alarm(obs, "board_silent", gone_unix)
    assert found.subject == silent and "no pulse-height data of" in found.text
    told = [e for e in read_entries(run_dir) if (e.what, e.kind) == (What.RAISED, "board_silent")]
    assert [one.boards for one in told] == [(silent,)]
    assert "no pulse-height data of" in typed(obs, "status.py").stderr
    with obs.client() as client:
        client.fault(silent, "none")
    finished = stopped(obs)
    assert any(f"{silent}: silent for" in reason for reason in finished["reasons"])
    assert list(json.loads((run_dir / "run.json").read_text())["summary"]["silent"]) == [silent]


@pytest.mark.long
def test_packet_numbers_that_begin_anew_are_a_boot(obs: PrivateObservatory) -> None:
    """As far as the next bring-up is concerned: what the board held may be lost."""
    start(obs)
    site, board = load_site(obs.command_dir), obs.site.quabos[5]
    begin = time.time()
    with Store(site.obs.redis_host, site.obs.redis_port) as store:
        with open_link(site) as link:
            assert link.run({board: [Send(commands.Reset())]})[board].ok

        def noted() -> BootNote | None:
            found = store.boot_note(boardloc(board))
            return None if found is None or found.utc_s < begin else found

        try:
            note = wait_for(noted, "the note", PATIENCE_S)
            assert note is not None and note.firmware_version == "0208"
            assert f"{board}: HK destination: rebooted at" in " ".join(in_words(readiness(site)))
        finally:
            store.delete(boot_key(boardloc(board)))
    stopped(obs)


def test_a_dead_watcher_is_shown_and_started_again(obs: PrivateObservatory) -> None:
    assert typed(obs, "start.py", "--watch").returncode == 3, "no run is in progress"
    start(obs)
    (watcher,) = activities.watchers(obs.data_dir)
    as_before = typed(obs, "start.py", "--watch")
    assert as_before.returncode == 0 and "is watched, as before" in as_before.stdout
    watcher.process.kill()
    watcher.process.wait(10)
    told = typed(obs, "status.py").stderr
    assert "nobody watches the run (run_watcher does not run): start.py --watch" in told
    written = {path: path.read_text() for path in obs.command_dir.glob("*_config.json")}
    for path in written:  # they are being edited for the next run
        path.write_text("{")
    again = typed(obs, "start.py", "--watch", "--verbose")
    assert again.returncode == 0 and "is watched again" in again.stdout, again.stderr
    (second,) = activities.watchers(obs.data_dir)
    assert second.pid != watcher.pid
    for path, text in written.items():
        path.write_text(text)
    assert "nobody watches" not in typed(obs, "status.py").stderr
    assert stopped(obs)["complete"]


@pytest.mark.long
@pytest.mark.parametrize("on_dead", ["stop", "go_on"])
def test_other_policies_for_a_dead_pipeline(obs: PrivateObservatory, on_dead: str) -> None:
    """With one node that records, going on without it ends the run, too."""
    policy(obs, on_dead_pipeline=on_dead)
    run_dir = start(obs)
    (pipeline,) = activities.pipelines()
    os.kill(pipeline.pid, signal.SIGKILL)
    wait_for(lambda: read_holder(obs.data_dir) is None, "the run to be ended", PATIENCE_S)
    (ended,) = acts(read_entries(run_dir), "run_ended")
    assert ("has died" if on_dead == "stop" else "nothing records any more") in ended.text
    assert not acts(read_entries(run_dir), "restart")
    wait_for((run_dir / run_state.Marker.RUN_COMPLETE).exists, "the collection", PATIENCE_S)


@pytest.mark.long
def test_a_timed_run_looks_after_its_watcher(obs: PrivateObservatory) -> None:
    said = obs.command_dir / "said"
    with said.open("w") as err:
        child = subprocess.Popen(
            [str(REPO / "start.py"), "--nsecs", "1000"], cwd=obs.command_dir,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err,
        )  # fmt: skip
    try:
        run = wait_for(lambda: run_name(obs), "the run", PATIENCE_S)
        wait_for(lambda: read_entries(obs.data_dir / run), "the watch to begin", PATIENCE_S)
        (first,) = activities.watchers(obs.data_dir)
        first.process.kill()
        wait_for(lambda: "it was started again" in said.read_text(), "the words", PATIENCE_S)
        (second,) = activities.watchers(obs.data_dir)
        assert second.pid != first.pid
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(timeout=PATIENCE_S)


def run_name(obs: PrivateObservatory) -> str:
    holder = read_holder(obs.data_dir)
    return holder.run if holder else ""


@pytest.mark.long
def test_a_run_is_ended_before_its_disk_is_full(obs: PrivateObservatory) -> None:
    policy(obs, min_hours_left=1000)
    run_dir = start(obs)
    wait_for(lambda: read_holder(obs.data_dir) is None, "the run to be ended", PATIENCE_S)
    (ended,) = acts(read_entries(run_dir), "run_ended")
    assert "before a disk is full" in ended.text
    wait_for((run_dir / run_state.Marker.RUN_COMPLETE).exists, "the collection", PATIENCE_S)


@pytest.mark.long
def test_a_timed_run_whose_start_is_gone_is_ended(obs: PrivateObservatory) -> None:
    child = subprocess.Popen(
        [str(REPO / "start.py"), "--nsecs", "8"], cwd=obs.command_dir,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def planned_end() -> float | None:
        holder = read_holder(obs.data_dir)
        path = obs.data_dir / holder.run / "run.json" if holder else None
        if path is None or not path.exists():
            return None
        end: float | None = json.loads(path.read_text())["planned_end_unix"]
        return end

    try:
        end_unix = wait_for(planned_end, "the run to record", PATIENCE_S)
    finally:
        child.kill()
        child.wait()
    wait_for(lambda: read_holder(obs.data_dir) is None, "the run to be ended", PATIENCE_S)
    run_dir = (obs.data_dir / "run").resolve()
    (ended,) = acts(read_entries(run_dir), "run_ended")
    assert end_unix is not None
    assert end_unix <= ended.unix < end_unix + ALARM_WITHIN_S and "is gone" in ended.text
    print(f"planned end: ended after {ended.unix - end_unix:.1f} s")
    wait_for((run_dir / run_state.Marker.RUN_COMPLETE).exists, "the collection", PATIENCE_S)


@pytest.mark.long
def test_a_pipeline_that_hangs_is_ended_and_restarted_as_the_run_was_begun(
    obs: PrivateObservatory,
) -> None:
    """Into the next files, with the options of this run though the configs were edited since."""
    run_dir = start(obs)
    (pipeline,) = activities.pipelines()
    (watcher,) = activities.watchers(obs.data_dir)
    script = obs.data_dir / "run_hashpipe.sh"
    options = script.read_text()
    change(obs, "data", max_file_size_mb=7, run_type="another")
    watcher.process.kill()
    watcher.process.wait(10)
    assert typed(obs, "start.py", "--watch").returncode == 0
    folder = obs.data_dir / "module_254" / run_dir.name
    wait_for(lambda: any(p.stat().st_size for p in folder.glob("*.dp_img16.*")), "frames")
    hung_unix = time.time()
    os.kill(pipeline.pid, signal.SIGSTOP)
    alarm(obs, "pipeline_hangs", hung_unix)
    wait_for(lambda: acts(read_entries(run_dir), "restarted"), "the restart", PATIENCE_S)
    assert not is_alive(pipeline.pid), "the one that hung was ended first"
    (second,) = activities.pipelines()
    assert second.pid != pipeline.pid
    assert "MAXFILESIZE=7'" not in script.read_text()
    begun = [line for line in options.splitlines() if "MAXFILESIZE" in line or "RUN" in line]
    assert begun and all(line in script.read_text() for line in begun)
    finished = stopped(obs)
    assert finished["verdict"] in ("lossy", "partial")
    files = [file for file in map(parse_data_file, files_of(run_dir)) if file]
    numbers = [(file.module, file.product, file.seqno) for file in files]
    assert len(numbers) == len(set(numbers)), "no number is used twice"
    assert max(number for _, product, number in numbers if product == "img16") >= 1


@pytest.mark.long
def test_a_pipeline_that_dies_again_and_again_is_given_up(obs: PrivateObservatory) -> None:
    policy(obs, restarts_at_most=1)
    run_dir = start(obs)
    (pipeline,) = activities.pipelines()
    os.kill(pipeline.pid, signal.SIGKILL)
    wait_for(lambda: acts(read_entries(run_dir), "restarted"), "the restart", PATIENCE_S)
    (second,) = activities.pipelines()
    os.kill(second.pid, signal.SIGKILL)
    assert "nothing records any more" in ended_because(obs, run_dir)
    assert len(acts(read_entries(run_dir), "restart")) == 1
    assert len(acts(read_entries(run_dir), "given_up")) == 1
    wait_for((run_dir / run_state.Marker.RUN_COMPLETE).exists, "the collection", PATIENCE_S)


@pytest.mark.long
def test_packets_that_are_lost_are_told(obs: PrivateObservatory) -> None:
    start(obs)
    begin = time.time()
    with obs.client() as client:
        client.science(obs.site.quabos[2], loss=0.2, seed=1)
    assert "lost" in alarm(obs, "packets_lost", begin).text
    with obs.client() as client:
        client.science("all", loss=0.0)
    finished = stopped(obs)
    assert any("lost on the way" in reason for reason in finished["reasons"])


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_timed_run_whose_start_hangs_is_ended(obs: PrivateObservatory) -> None:
    child = subprocess.Popen(
        [str(REPO / "start.py"), "--nsecs", "5"], cwd=obs.command_dir,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        run = wait_for(lambda: run_name(obs), "the run", PATIENCE_S)
        run_dir = obs.data_dir / run
        wait_for(lambda: read_entries(run_dir), "the watch to begin", PATIENCE_S)
        child.send_signal(signal.SIGSTOP)
        end_unix: float = json.loads((run_dir / "run.json").read_text())["planned_end_unix"]
        assert "start.py does not stop it" in ended_because(obs, run_dir, HANGS_S + PATIENCE_S)
        (ended,) = acts(read_entries(run_dir), "run_ended")
        assert end_unix + HANGS_S <= ended.unix < end_unix + HANGS_S + ALARM_WITHIN_S
    finally:
        child.kill()
        child.wait()
    wait_for((run_dir / run_state.Marker.RUN_COMPLETE).exists, "the collection", PATIENCE_S)


def test_within_a_run_the_configs_are_those_it_was_started_with(tmp_path: Path) -> None:
    """Only the alarm hook, which copies may not show, is as it is written now."""
    command_dir = write_site(tmp_path / "now", {**OBS, "alarm_hook": ["/bin/tell", "me:secret@x"]})
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for name, text in frozen_copies(load_site(command_dir)).items():
        (run_dir / name).write_text(text)
    write_site(
        command_dir, {**OBS, "alarm_hook": ["/bin/tell", "me:other@x"], "name": "B"},
        data={**SITE_DATA, "max_file_size_mb": 7},
    )  # fmt: skip
    site = site_of_run(run_dir, command_dir)
    assert (site.obs.name, site.data.max_file_size_mb) == ("Test", DataConfig.max_file_size_mb)
    assert site.obs.alarm_hook == ("/bin/tell", "me:other@x") and site.command_dir == command_dir
    (command_dir / "obs_config.json").write_text("{")
    assert site_of_run(run_dir, command_dir).obs.alarm_hook == (), "half a command is none"
    (run_dir / "obs_config.json").write_text("{")
    with pytest.raises(ConfigError):
        site_of_run(run_dir, command_dir)

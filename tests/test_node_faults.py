"""Faults of nodes, disks and links around a run, each on real files, processes and connections.

Head node, DAQ nodes and boards are test hosts.  After each fault and its recovery: every frame
that reached a disk is on the head node exactly once, or still on its node; nothing else was
deleted; nothing records any more.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from panoseti.high_voltage.alarms import Alarm, read_alarms
from panoseti.runs.collect_batch import sha256
from panoseti.runs.pff import PRODUCTS
from panoseti.runs.run_state import runs
from panoseti.runs.watch_log import acts, read_entries
from tests.faulty_nodes import (
    BULK_BYTES,
    FRAMES_PER_S,
    HEAD2,
    LINKED_DIR,
    MIN_FRAMES,
    NODE1,
    NODE2,
    Faults,
    Run,
    arriving,
    bulk,
    policy,
)  # fmt: skip
from tests.helpers import wait_for
from tests.hosted_site import (
    DATA_DIR,
    HEAD,
    NodePlan,
    write_daq_config,
)
from tests.hosts import DISK, Host
from tests.recording_truth import (
    Recording,
    boardlocs,
    check_pixels,
    recorded_numbers,
)

CUT_S = 3.0
ALARM_WITHIN_S = 10.0


# --- nodes and pipelines ---


@pytest.mark.long
def test_dead_node_that_comes_back(faults: Faults) -> None:
    """Power fails on one node: the other is stopped and collected at once, the dead one later."""
    run = faults.begin()
    faults.wait_for_frames(run, NODE1, NODE2)
    node = faults.site.world["node2"]
    node.power_cut()
    stop = faults.stop(code=1)
    assert faults.line(stop, NODE1)["ok"]
    assert not faults.line(stop, NODE2)["ok"]
    assert "does not answer" in faults.line(stop, NODE2)["now"]
    assert stop["finished"]["verdict"] == "partial"
    recording = faults.recording(run)
    faults.check_whole(recording, NODE1)
    assert recording.read(254, "img16") == []
    assert not (recording.run_dir / "recording_ended").exists()
    assert faults.frames_on_node(NODE2, run) > MIN_FRAMES
    node.power_on()
    assert f"stop.py --run {run.name}" in str(faults.site.script("status.py"))
    stop = faults.stop("--run", run.name)
    assert faults.line(stop, NODE2)["now"] == "nothing ran there"
    assert stop["finished"]["complete"]
    recording = faults.recording(run)
    faults.check_whole(recording, NODE1)
    faults.check_up_to_fault(recording, NODE2)
    faults.check_over(run)


@pytest.mark.long
def test_killed_and_frozen_pipelines(faults: Faults) -> None:
    """One pipeline is killed, one is frozen, and none is to be restarted: stop puts both right."""
    with policy(faults, on_dead_pipeline="go_on"):
        run = faults.begin()
        faults.wait_for_frames(run, NODE1, NODE2)
        faults.site.world["node1"].check(["pkill", "-KILL", "-x", "hashpipe"])
        faults.site.world["node2"].check(["pkill", "-STOP", "-x", "hashpipe"])
        run.during = faults.site.boards()
        stop = faults.stop()
    assert faults.line(stop, NODE1)["now"] == "nothing ran there"
    assert "ended by SIG" in faults.line(stop, NODE2)["now"]
    assert stop["finished"]["complete"] and stop["finished"]["verdict"] != "good"
    recording = faults.recording(run)
    faults.check_up_to_fault(recording, NODE1)
    faults.check_counted(recording, NODE2)  # what its ring could not hold while it stood still
    faults.check_over(run)


@pytest.mark.long
def test_node_that_is_rebooted_goes_on(faults: Faults) -> None:
    """Power fails for a moment: the watcher starts the pipeline again, into the next files."""
    run = faults.begin()
    faults.wait_for_frames(run, NODE1, NODE2)
    node = faults.site.world["node2"]
    node.power_cut()
    faults.witness.look()
    frames = faults.frames_on_node(NODE2, run)
    node.power_on()
    wait_for(
        lambda: faults.frames_on_node(NODE2, run) > frames + MIN_FRAMES,
        "the pipeline to record again", timeout_s=60,
    )  # fmt: skip
    run.during = faults.site.boards()
    stop = faults.stop()
    assert "ended by SIGINT" in faults.line(stop, NODE2)["now"]
    assert stop["finished"]["complete"] and stop["finished"]["verdict"] in ("lossy", "partial")
    assert any("restarted" in reason for reason in stop["finished"]["reasons"])
    recording = faults.recording(run)
    faults.check_whole(recording, NODE1)
    check_pixels(recording, 254, "img16")
    for boardloc in boardlocs(254):
        numbers = recorded_numbers(recording.read(254, "img16"), boardloc)
        assert len(numbers) == len(set(numbers)), "every packet once"
    faults.check_over(run)


@pytest.mark.long
def test_dead_node_is_told_in_time_and_ends_the_run_by_policy(faults: Faults) -> None:
    """The watcher sees it within 10 s, and stops the run where the policy says so."""
    site = faults.site
    with policy(faults, on_dead_pipeline="stop"):
        run = faults.begin()
        faults.wait_for_frames(run, NODE1, NODE2)
        faults.witness.look()
        cut_unix = time.time()
        site.world["node2"].power_cut()

        def raised() -> list[Alarm]:
            alarms = read_alarms(site.head_data)
            return [a for a in alarms if a.kind == "node_silent" and a.time_unix > cut_unix]

        took_s = wait_for(raised, "the alarm", timeout_s=60)[0].time_unix - cut_unix
        print(f"node_silent: alarm after {took_s:.1f} s")
        assert took_s < ALARM_WITHIN_S
        wait_for(lambda: not (site.head_data / "run_name").exists(), "the end", timeout_s=100)
    (ended,) = acts(read_entries(site.head_data / run.name), "run_ended")
    assert site.world["node2"].ip in ended.text
    record = site.head_data / run.name / "run.json"
    wait_for(lambda: json.loads(record.read_text())["verdict"], "the verdict", timeout_s=100)
    site.world["node2"].power_on()
    assert faults.stop("--run", run.name)["finished"]["complete"]
    faults.check_up_to_fault(faults.recording(run), NODE2)
    faults.check_over(run)


# --- links ---


def cut_while_collecting(
    faults: Faults, plan: NodePlan, run: Run
) -> tuple[subprocess.Popen[str], str]:
    """Begin a stop and cut a node off in the middle of its transfer; the file's digest."""
    original = bulk(faults, plan, run)
    digest = sha256(original)
    faults.witness.look()
    stop = faults.site.begin("stop.py", "--json")
    copy = arriving(faults, run, stop)
    faults.site.world[plan.host].cut_link()
    assert copy.stat().st_size < BULK_BYTES, "the link was cut too late"
    assert original.exists()
    return stop, digest


@pytest.mark.long
def test_one_node_dead_and_the_other_cut_off_for_a_moment(faults: Faults) -> None:
    """Both at once: all of the living node is there in the end, the dead one's comes later."""
    run = faults.begin()
    faults.wait_for_frames(run, NODE1, NODE2)
    dead = faults.site.world["node2"]
    dead.power_cut()
    stop, digest = cut_while_collecting(faults, NODE1, run)
    time.sleep(CUT_S)
    faults.site.world["node1"].mend_link()
    said = faults.site.finish(stop)
    assert said.code == 1
    done = faults.checked(said)
    assert faults.line(done, NODE1)["ok"] and not faults.line(done, NODE2)["ok"]
    assert "does not answer" in faults.line(done, NODE2)["now"]
    assert done["finished"]["verdict"] == "partial" and not done["finished"]["complete"]
    recording = faults.recording(run)
    faults.check_whole(recording, NODE1)
    assert sha256(recording.run_dir / "bulk.log") == digest
    dead.power_on()
    assert faults.stop("--run", run.name)["finished"]["complete"]
    faults.check_up_to_fault(faults.recording(run), NODE2)
    faults.check_over(run)


@pytest.mark.long
def test_link_cut_while_collecting_and_healed(faults: Faults) -> None:
    """A cable is pulled for some seconds: stop waits and goes on where it was."""
    run = faults.begin()
    faults.wait_for_frames(run, NODE1, NODE2)
    stop, digest = cut_while_collecting(faults, NODE2, run)
    time.sleep(CUT_S)
    assert stop.poll() is None
    faults.site.world["node2"].mend_link()
    done = faults.checked(faults.site.finish(stop))
    assert done["finished"]["complete"]
    recording = faults.recording(run)
    assert sha256(recording.run_dir / "bulk.log") == digest
    faults.check_whole(recording, NODE1, NODE2)
    faults.check_over(run)


@pytest.mark.long
def test_link_cut_while_collecting_for_good(faults: Faults) -> None:
    """Stop ends nevertheless, says which node, and goes on where it was when it is repeated."""
    run = faults.begin()
    faults.wait_for_frames(run, NODE1, NODE2)
    stop, digest = cut_while_collecting(faults, NODE2, run)
    said = faults.site.finish(stop)
    assert said.code == 1
    done = faults.checked(said)
    assert not done["finished"]["complete"]
    assert any(faults.site.world["node2"].ip in text for text in done["finished"]["problems"])
    faults.check_whole(faults.recording(run), NODE1)
    faults.site.world["node2"].mend_link()
    done = faults.stop("--run", run.name)
    assert done["finished"]["complete"]
    recording = faults.recording(run)
    assert sha256(recording.run_dir / "bulk.log") == digest
    faults.check_whole(recording, NODE1, NODE2)
    faults.check_over(run)


@pytest.mark.long
def test_link_cut_while_recording_and_healed(faults: Faults) -> None:
    """What was sent meanwhile is lost, counted, and shown in the verdict; the run goes on."""
    run = faults.begin()
    faults.wait_for_frames(run, NODE2)
    node = faults.site.world["node2"]
    node.cut_link()
    time.sleep(CUT_S)
    node.mend_link()
    frames = faults.frames_on_node(NODE2, run)
    faults.wait_for_more(run, NODE2, frames + MIN_FRAMES)
    done = faults.stop()
    assert done["finished"]["verdict"] == "lossy"
    recording = faults.recording(run)
    faults.check_whole(recording, NODE1)
    account, entries = recording.account("image"), recording.entries("image")
    for boardloc in boardlocs(254):
        sent, entry = account[boardloc]["sent"], entries[boardloc]
        assert entry["lost"] == sent - entry["received"] > CUT_S * FRAMES_PER_S / 2
        assert entry["recorded"] == entry["received"]
        numbers = recorded_numbers(recording.read(254, "img16"), boardloc)
        assert len(numbers) == len(set(numbers)) == entry["recorded"]
    faults.check_over(run)


@pytest.mark.long
def test_node_without_ssh(faults: Faults) -> None:
    """The pipeline of a node that cannot be logged in to goes on, and is ended later."""
    run = faults.begin()
    node = faults.site.world["node2"]
    node.stop_sshd()
    done = faults.stop(code=1)
    assert "no ssh server" in faults.line(done, NODE2)["now"]
    assert node.run(["pgrep", "-x", "hashpipe"]).returncode == 0
    for board in faults.site.boards().values():
        assert board["streams"] == {"image": None, "ph": None}, "the boards were told all the same"
    node.start_sshd()
    assert "stop.py" in str(faults.site.script("status.py"))
    done = faults.stop("--run", run.name)
    assert "ended by SIGINT" in faults.line(done, NODE2)["now"]
    faults.check_whole(faults.recording(run), NODE1, NODE2)
    faults.check_over(run)


# --- disks ---


@contextmanager
def filled(host: Host, folder: Path, leave_bytes: int = 0) -> Iterator[None]:
    """Somebody else's file fills a disk."""
    path = folder / "somebody elses file"
    try:
        if leave_bytes:
            free, block = host.check(["stat", "-f", "-c", "%a %S", str(folder)]).split()
            size = int(free) * int(block) - leave_bytes
            host.check(["fallocate", "-l", str(size), str(path)])
        else:
            host.run(["dd", "if=/dev/zero", f"of={path}", "bs=4k"])
        yield
    finally:
        host.check(["rm", "-f", str(path)])


@pytest.mark.long
def test_disk_of_a_node_full_while_recording(faults: Faults) -> None:
    """What finds no room is counted; every file stays whole frames; other disks go on."""
    with policy(faults, min_hours_left=0):  # the watcher is to let it come to that
        run = faults.begin()
        faults.wait_for_frames(run, NODE1, NODE2)
        with filled(faults.site.world["node2"], LINKED_DIR.parent):
            frames = faults.frames_on_node(NODE1, run)
            faults.wait_for_more(run, NODE1, frames + MIN_FRAMES)
            wait_for(lambda: "No space left" in str(faults.site.script("status.py")), "status")
            run.during = faults.site.boards()
            done = faults.stop()
    assert done["finished"]["complete"] and done["finished"]["verdict"] == "lossy"
    recording = faults.recording(run)
    faults.check_whole(recording, NODE1)
    faults.check_up_to_fault(recording, NODE2)
    account, entries = recording.account("image"), recording.entries("image")
    for boardloc in boardlocs(254):
        entry = entries[boardloc]
        assert entry["received"] == account[boardloc]["sent"]
        assert entry["recorded"] + entry["unwritten"] == entry["received"]
        assert entry["unwritten"] > MIN_FRAMES / 2
    faults.check_over(run)


@pytest.mark.long
def test_disk_that_fills_ends_the_run_before_it_is_full(faults: Faults) -> None:
    """Told within 10 s, ended by itself, and nothing is lost."""
    site = faults.site
    with policy(faults, min_hours_left=0.01):
        run = faults.begin()
        faults.wait_for_frames(run, NODE1, NODE2)
        faults.witness.look()
        run.during = site.boards()
        room = int(20 * FRAMES_PER_S * PRODUCTS["img16"].frame_bytes)  # 20 s instead of 36
        filled_unix = time.time()
        with filled(site.world["node2"], LINKED_DIR.parent, leave_bytes=room):
            wait_for(lambda: not (site.head_data / "run_name").exists(), "the end", timeout_s=100)
            complete = site.head_data / run.name / "run_complete"
            wait_for(complete.exists, "the collection", timeout_s=100)
    (ended,) = acts(read_entries(site.head_data / run.name), "run_ended")
    print(f"disk: the run was ended after {ended.unix - filled_unix:.1f} s")
    assert "before a disk is full" in ended.text and ended.unix - filled_unix < ALARM_WITHIN_S
    recording = faults.recording(run)
    assert all(entry["unwritten"] == 0 for entry in recording.entries("image").values())
    faults.check_whole(recording, NODE1, NODE2)
    faults.check_over(run)


@pytest.mark.long
def test_disk_of_the_head_node_full_while_collecting(faults: Faults) -> None:
    """Nothing is deleted on the nodes that has not arrived; the rest comes when there is room."""
    run = faults.begin()
    faults.wait_for_frames(run, NODE1, NODE2)
    with filled(faults.site.head, DATA_DIR, leave_bytes=300_000):
        done = faults.stop(code=1)
        assert any("No space left" in text for text in done["finished"]["problems"])
        assert not done["finished"]["complete"]
        assert faults.line(done, NODE1)["ok"] and faults.line(done, NODE2)["ok"]
        assert not (faults.site.head_data / run.name / "collect_complete").exists()
        faults.check_idle()
    assert faults.stop("--run", run.name)["finished"]["complete"]
    faults.check_whole(faults.recording(run), NODE1, NODE2)
    faults.check_over(run)
    # Programs that cannot show that they are alive take the high voltage off, to be safe.
    faults.site.bring_up()


@pytest.mark.long
def test_read_only_disk_of_a_node(faults: Faults) -> None:
    """Found before a start; a disk that fails so later keeps its files, which are collected."""
    node = faults.site.world["node2"]
    run = faults.begin()
    faults.wait_for_frames(run, NODE1, NODE2)
    faults.stop("--no_collect")
    remount(node, "ro")
    try:
        refused = faults.site.script("start.py", code=3)
        assert "read-only" in refused.err and str(DISK / "volume") in refused.err
        done = faults.stop("--run", run.name, code=1)
        assert any("Read-only file system" in text for text in done["finished"]["problems"])
        recording = faults.recording(run)
        faults.check_whole(recording, NODE1, NODE2)
        assert faults.frames_on_node(NODE2, run) > MIN_FRAMES, "the originals are still there"
        assert not (recording.run_dir / "run_complete").exists()
    finally:
        remount(node, "rw")
    assert faults.stop("--run", run.name)["finished"]["complete"]
    faults.check_over(run)


def remount(host: Host, how: str) -> None:
    host.check(["mount", "-o", f"remount,bind,{how}", str(LINKED_DIR.parent)])


@pytest.mark.long
def test_disk_that_is_not_there(faults: Faults) -> None:
    """A start is refused; a run whose files are not to be seen is never taken for complete."""
    node, disk = faults.site.world["node2"], faults.site.outside("node2", LINKED_DIR)
    away = disk.with_name("away")
    run = faults.begin()
    faults.wait_for_frames(run, NODE1, NODE2)
    node.power_cut()
    disk.rename(away)
    disk.mkdir()
    try:
        node.power_on()
        folder = faults.site.head_data / run.name
        wait_for(lambda: acts(read_entries(folder), "restart_failed"), "a restart", timeout_s=60)
        (failed, *_) = acts(read_entries(folder), "restart_failed")
        assert "is gone since the run began: mount its disk" in failed.text
        done = json.loads(faults.site.script("stop.py", "--json", code=1).out)
        assert any("module 254" in text for text in done["finished"]["problems"])
        assert not done["finished"]["complete"]
    finally:
        disk.rmdir()
        away.rename(disk)
    assert faults.stop("--run", run.name)["finished"]["complete"]
    faults.check_up_to_fault(faults.recording(run), NODE2)
    faults.check_over(run)


# --- two head nodes ---


@pytest.fixture
def second_head(faults: Faults) -> Iterator[Path]:
    """Another head node with the same nodes and boards, ready to start; its command directory."""
    site = faults.site
    command_dir = site.command_dir.parent / "second site"
    shutil.copytree(site.command_dir, command_dir)
    write_daq_config(command_dir, site.world, site.plans, site.world[HEAD2].ip, DATA_DIR)
    place = site.outside(HEAD2, DATA_DIR)
    for name in ("bringup.json", "quabo_uids.json", "quabo_ph_baseline.json", "quabo_config"):
        source = site.head_data / name
        if source.is_dir():
            shutil.copytree(source, place / name, dirs_exist_ok=True)
        else:
            shutil.copy(source, place / name)
    yield command_dir
    shutil.rmtree(command_dir)
    for run in runs(place):
        shutil.rmtree(place / run)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("each", [1, 5], ids=["two", "ten"])
def test_starts_from_two_head_nodes(faults: Faults, second_head: Path, each: int) -> None:
    """At the same moment for the same nodes: one wins, the others are told who that is.

    Last, since the boards' housekeeping now goes to the second head node.
    """
    site = faults.site
    where = {HEAD: site.command_dir, HEAD2: second_head}
    # Without housekeeping these would take the high voltage off in the middle of the test.
    site.head.run(["pkill", "-KILL", "-f", "hv_updater.py|temperature_guard.py"])
    said = site.finish(site.begin("config.py", "--hk_dest", head=HEAD2, command_dir=second_head))
    assert said.code == 0, str(said)
    before = site.boards()
    starts = [
        (head, site.begin("start.py", "--no_redis", head=head, command_dir=where[head]))
        for _ in range(each)
        for head in where
    ]
    ended = [(head, site.finish(start)) for head, start in starts]
    codes = sorted(said.code for _, said in ended)
    assert codes == [0] + [3] * (2 * each - 1), [str(said) for _, said in ended]
    (winner,) = (head for head, said in ended if said.code == 0)
    (loser,) = set(where) - {winner}
    for _, said in ended:
        if said.code:
            assert "root@" in said.err and " since 20" in said.err, str(said)
            assert "somebody else may be using the observatory" in said.err, str(said)
    told = "".join(said.err for head, said in ended if head == loser)
    assert f"root@{winner}[" in told and " since 20" in told, "who, where, since when"
    assert not (site.outside(loser, DATA_DIR) / "run_name").exists()
    assert not runs(site.outside(loser, DATA_DIR)), "the loser leaves nothing behind"
    # The loser's stop and another start are no danger to the run that records.
    for name, code in (("stop.py", 1), ("start.py --no_redis", 3)):
        said = site.finish(site.begin(*name.split(), head=loser, command_dir=where[loser]))
        assert said.code == code and f"root@{winner}[" in str(said), str(said)
    run = Run(runs(site.outside(winner, DATA_DIR))[0], before, site.boards())
    frames = [faults.frames_on_node(plan, run) for plan in (NODE1, NODE2)]
    for plan, count in zip((NODE1, NODE2), frames, strict=True):
        faults.wait_for_more(run, plan, count + MIN_FRAMES)
    said = site.finish(site.begin("stop.py", head=winner, command_dir=where[winner]))
    assert said.code == 0, str(said)
    place = site.outside(winner, DATA_DIR) / run.name
    faults.check_whole(Recording(place, run.before, run.during, site.boards()), NODE1, NODE2)
    faults.check_idle()

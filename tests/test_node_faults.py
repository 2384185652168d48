"""Faults of disks, and of two head nodes, around a run, on real files and processes.

Head node, DAQ nodes and boards are test hosts.  After each fault and its recovery: every frame
that reached a disk is on the head node exactly once, or still on its node; nothing else was
deleted; nothing records any more.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from panoseti.runs.names import parse_data_file
from panoseti.runs.pff import PRODUCTS
from panoseti.runs.run_state import runs
from tests.frame_witness import OLD_RUN, Witness
from tests.helpers import wait_for
from tests.hosted_site import (
    DATA,
    DATA_DIR,
    HEAD,
    HostedSite,
    NodePlan,
    Said,
    hosted_site,
    write_daq_config,
)
from tests.hosts import DISK, Host
from tests.recording_truth import (
    Recording,
    boardlocs,
    check_every_packet,
    check_pixels,
    check_run_is_complete,
    recorded_numbers,
)
from tests.site_files import changed

NODE1, NODE2 = NodePlan("node1", (1,)), NodePlan("node2", (254,))
HEAD2 = "head2"
# Module 254 records on a disk of its own, behind a link.
VOLUME_MB = 64
MODULE_DIR, LINKED_DIR = DATA_DIR / "module_254", DISK / "volume" / "data of 254"
FRAMES_PER_S = 250
MIN_FRAMES = 100


@dataclass
class Run:
    """A run under test, and its boards before and while it records."""

    name: str
    before: dict[str, Any]
    during: dict[str, Any] = field(default_factory=dict)


@dataclass
class Faults:
    """The site under test, and who watches its disks."""

    site: HostedSite
    witness: Witness

    def begin(self) -> Run:
        """Start a run."""
        before = self.site.boards()
        self.site.script("start.py")
        return Run(self.site.run_dir.name, before, self.site.boards())

    def stop(self, *words: str, code: int = 0) -> dict[str, Any]:
        """stop.py, and the invariant; what it says."""
        self.witness.look()
        return self.checked(self.site.script("stop.py", "--json", *words, code=code))

    def checked(self, said: Said) -> dict[str, Any]:
        """What a stop says; the invariant holds."""
        self.witness.check()
        assert "Traceback" not in said.err, said.err
        document: dict[str, Any] = json.loads(said.out)
        return document

    def line(self, stop: dict[str, Any], plan: NodePlan) -> dict[str, Any]:
        """What a stop says of a node."""
        what = f"DAQ node {self.site.world[plan.host].ip}"
        (line,) = [line for line in stop["lines"] if line["what"] == what]
        found: dict[str, Any] = line
        return found

    def frames_on_node(self, plan: NodePlan, run: Run) -> int:
        """Image frames in the files of the run that are on a node."""
        (module,) = plan.modules
        folder = self.site.module_dir(plan, module) / run.name
        return sum(
            path.stat().st_size // PRODUCTS["img16"].frame_bytes
            for path in folder.glob("*.pff")
            if (file := parse_data_file(path.name)) is not None and file.product == "img16"
        )

    def wait_for_frames(self, run: Run, *plans: NodePlan) -> None:
        """Until nodes have written some frames."""
        for plan in plans:
            self.wait_for_more(run, plan, MIN_FRAMES)

    def wait_for_more(self, run: Run, plan: NodePlan, frames: int) -> None:
        """Until a node has written more than this."""
        wait_for(lambda: self.frames_on_node(plan, run) > frames, f"frames on {plan.host}")

    def recording(self, run: Run) -> Recording:
        """What was recorded."""
        return Recording(self.site.head_data / run.name, run.before, run.during, self.site.boards())

    def check_whole(self, recording: Recording, *plans: NodePlan) -> None:
        """These nodes recorded every packet that was sent."""
        for plan in plans:
            for module in plan.modules:
                check_every_packet(recording, module)
                check_pixels(recording, module, "img16")

    def check_up_to_fault(self, recording: Recording, *plans: NodePlan) -> None:
        """These nodes recorded every packet up to some moment."""
        for plan in plans:
            for module in plan.modules:
                check_pixels(recording, module, "img16")
                check_pixels(recording, module, "ph256")
                for stream, product in (("image", "img16"), ("ph", "ph256")):
                    account = recording.account(stream)
                    for boardloc in boardlocs(module):
                        sent = account[boardloc]["produced"]
                        first = account[boardloc]["next_number"] - sent
                        numbers = recorded_numbers(recording.read(module, product), boardloc)
                        assert numbers == [(first + n) & 0xFFFF for n in range(len(numbers))]
                        assert len(numbers) < sent or stream == "ph"

    def check_over(self, run: Run) -> None:
        """The run is complete on the head node, and nothing of it is anywhere else."""
        self.witness.check(complete=True)
        check_run_is_complete(self.site.head_data / run.name)
        self.check_idle()
        for plan in self.site.plans:
            assert not [f for f in self.site.folders(plan) if (f / run.name).exists()]

    def check_idle(self) -> None:
        """Nothing records, and no state file says so."""
        assert not (self.site.head_data / "run_name").exists()
        for plan in self.site.plans:
            for name in ("current_run_daq", "daq_pid"):
                assert not (self.site.node_data(plan) / name).exists(), (plan.host, name)
            assert self.site.world[plan.host].run(["pgrep", "-x", "hashpipe"]).returncode == 1
        for ip, board in self.site.boards().items():
            assert board["streams"] == {"image": None, "ph": None}, ip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    """The observatory after config.py; module 254 records on a small disk of its own."""
    with hosted_site(
        tmp_path_factory.mktemp("faults"),
        [NODE1, NODE2],
        volumes={"node2": {"volume": VOLUME_MB}},
        data=changed(DATA, {("image", "integration_time_usec"): 1_000_000 // FRAMES_PER_S}),
        more_hosts=[HEAD2],
    ) as site:
        node = site.world["node2"]
        node.check(["mkdir", str(LINKED_DIR)])
        node.check(["ln", "-s", str(LINKED_DIR), str(MODULE_DIR)])
        site.bring_up()
        witness = Witness(site.head_data, lambda: [site.folders(plan) for plan in site.plans])
        witness.place_bystanders()
        yield Faults(site, witness)


@pytest.fixture
def faults(built: Faults) -> Iterator[Faults]:
    """Every computer is on and connected, nothing records, and the disks are empty."""
    built.check_idle()
    yield built
    for plan in built.site.plans:
        host = built.site.world[plan.host]
        if not host.is_on:
            host.power_on()
        host.mend_link()
        host.start_sshd()
    over = True
    for run in runs(built.site.head_data):
        over = over and (built.site.head_data / run / "run_complete").exists()
        built.witness.forget(run)
        shutil.rmtree(built.site.head_data / run)
    if not over:  # of a test that failed
        built.site.finish(built.site.begin("stop.py"))
        for plan in built.site.plans:
            for folder in built.site.folders(plan):
                for run in set(runs(folder)) - {OLD_RUN}:
                    shutil.rmtree(folder / run)


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
            shutil.copytree(source, place / name)
        else:
            shutil.copy(source, place / name)
    yield command_dir
    shutil.rmtree(command_dir)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_two_starts_from_two_head_nodes(faults: Faults, second_head: Path) -> None:
    """At the same moment for the same nodes: one wins, the other is told who that is.

    Last, since the boards' housekeeping now goes to the second head node.
    """
    site = faults.site
    where = {HEAD: site.command_dir, HEAD2: second_head}
    # Without housekeeping these would take the high voltage off in the middle of the test.
    site.head.check(["pkill", "-KILL", "-f", "hv_updater.py|temperature_guard.py"])
    said = site.finish(site.begin("config.py", "--hk_dest", head=HEAD2, command_dir=second_head))
    assert said.code == 0, str(said)
    before = site.boards()
    starts = {
        head: site.begin("start.py", "--no_redis", head=head, command_dir=where[head])
        for head in where
    }
    ended = {head: site.finish(start) for head, start in starts.items()}
    assert sorted(one.code for one in ended.values()) == [0, 3], [str(s) for s in ended.values()]
    winner, loser = sorted(ended, key=lambda head: ended[head].code)
    told = ended[loser].err
    assert f"root@{winner}[" in told and " since 20" in told, "who, where, since when"
    assert "somebody else may be using the observatory" in told
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

"""Two DAQ nodes, one of them with a disk of its own for a module, to which something happens.

Head node, DAQ nodes and boards are test hosts.  After each fault and its recovery: every frame
that reached a disk is on the head node exactly once, or still on its node; nothing else was
deleted; nothing records any more.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
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
from tests.hosted_site import DATA, DATA_DIR, HostedSite, NodePlan, Said, hosted_site
from tests.hosts import DISK
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
BULK_BYTES = 100_000_000
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
            for stream, sent, recorded in self._first_packets(recording, plan):
                assert recorded < sent or stream == "ph"

    def check_counted(self, recording: Recording, plan: NodePlan) -> None:
        """These boards' packets are recorded up to some moment, the others counted as drops."""
        packets = self._first_packets(recording, plan)
        missing = sum(sent - recorded for _, sent, recorded in packets)
        (drops,) = {
            status["totals"]["kernel_drops"]
            for status in recording.statuses()
            if any(entry["module"] in plan.modules for entry in status["quabos"])
        }
        assert drops == missing

    def _first_packets(
        self, recording: Recording, plan: NodePlan
    ) -> Iterator[tuple[str, int, int]]:
        """Of each board: stream, packets produced, and recorded, which are the first of those."""
        for module in plan.modules:
            for stream, product in (("image", "img16"), ("ph", "ph256")):
                check_pixels(recording, module, product)
                account = recording.account(stream)
                for boardloc in boardlocs(module):
                    sent = account[boardloc]["produced"]
                    first = account[boardloc]["next_number"] - sent
                    numbers = recorded_numbers(recording.read(module, product), boardloc)
                    assert numbers == [(first + n) & 0xFFFF for n in range(len(numbers))]
                    yield stream, sent, len(numbers)

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


@contextmanager
def faulty_nodes(folder: Path) -> Iterator[Faults]:
    """The observatory after config.py; module 254 records on a small disk of its own."""
    with hosted_site(
        folder,
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


@pytest.fixture(scope="module")
def built_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    """One for all tests of a file."""
    with faulty_nodes(tmp_path_factory.mktemp("faulty nodes")) as found:
        yield found


@pytest.fixture
def faults(built_nodes: Faults) -> Iterator[Faults]:
    """The same; before and after each test every computer is on and connected, nothing records,
    and the disks are empty.
    """
    built = built_nodes
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


@contextmanager
def policy(faults: Faults, **fields: Any) -> Iterator[None]:
    """What is done when something fails within a run."""
    path = faults.site.command_dir / "obs_config.json"
    text = path.read_text()
    path.write_text(json.dumps({**json.loads(text), "run_policy": fields}))
    try:
        yield
    finally:
        path.write_text(text)


# --- a collection that takes a moment ---


def bulk(faults: Faults, plan: NodePlan, run: Run) -> Path:
    """A large file of the run on a node, so that collection takes a moment; its name."""
    path = faults.site.node_data(plan) / run.name / "bulk.log"
    block = os.urandom(1_000_000)
    with path.open("wb") as file:
        for _ in range(BULK_BYTES // len(block)):
            file.write(block)
    return path


def arriving(faults: Faults, run: Run, stop: subprocess.Popen[str]) -> Path:
    """The large file on the head node, as soon as some of it has come."""
    incoming = faults.site.head_data / run.name / ".incoming"

    def begun() -> list[Path]:
        assert stop.poll() is None, faults.site.finish(stop)
        return [path for path in incoming.rglob("*bulk.log*") if path.stat().st_size]

    return wait_for(begun, "the transfer to begin", timeout_s=60)[0]

"""The whole night in test hosts, in the three topologies: the same scripts, the same recording.

- one: one computer is head node and DAQ node; one module's data lie on another disk, behind a link
- two: two DAQ nodes, of which one is the head node; blanks in the paths
- apart: the head node records nothing, two DAQ nodes do; a link to another disk on one of them,
  and the command directory cannot be written

Every frame and pixel is compared with what was sent.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.hosted_site import DATA, DATA_DIR, HEAD, HostedSite, NodePlan, hosted_site
from tests.hosts import DISK, reason_to_skip
from tests.recording_truth import (
    Recording,
    check_analysis_reads,
    check_every_packet,
    check_housekeeping,
    check_images_follow,
    check_pixels,
    check_run_is_complete,
    check_statuses,
)
from tests.site_files import changed

BLANK_DIR = DISK / "observatory data"
BYSTANDERS = ("notes.txt", "module_1/calibration.dat", "module_254/calibration.dat")
VOLUME_MB = 128
INTEGRATION_US = 4000  # fewer frames to look at than in test_night.py


@dataclass(frozen=True)
class Topology:
    """linked: (host, module) whose directory is a link to another disk."""

    plans: tuple[NodePlan, ...]
    head_data_dir: Path = DATA_DIR
    linked: tuple[str, int] | None = None
    read_only_command_dir: bool = False

    @property
    def volumes(self) -> dict[str, dict[str, int]]:
        return {} if self.linked is None else {self.linked[0]: {"volume": VOLUME_MB}}


TOPOLOGIES = {
    "one": Topology((NodePlan(HEAD, (1, 254)),), linked=(HEAD, 254)),
    "two": Topology(
        (NodePlan(HEAD, (1,), BLANK_DIR), NodePlan("node1", (254,), DISK / "my data")),
        head_data_dir=BLANK_DIR,
    ),
    "apart": Topology(
        (NodePlan("node1", (1,)), NodePlan("node2", (254,))),
        linked=("node2", 254),
        read_only_command_dir=True,
    ),
}


@dataclass
class Night:
    """What a night left: the recording, what scripts said, the boards at its end."""

    topology: Topology
    site: HostedSite
    recording: Recording
    status: dict[str, Any]
    stop: dict[str, Any]
    boards: dict[str, Any]
    command_dir_before: set[str]


def record_night(folder: Path, name: str) -> Iterator[Night]:
    """A night, from power-on to power-off; yields while its disks are still there."""
    topology = TOPOLOGIES[name]
    with hosted_site(
        folder / name,
        topology.plans,
        volumes=topology.volumes,
        head_data_dir=topology.head_data_dir,
        data=changed(DATA, {("image", "integration_time_usec"): INTEGRATION_US}),
    ) as site:
        prepare_disks(site, topology)
        if topology.read_only_command_dir:
            script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"'
            site.head.check(["sh", "-c", script, str(site.command_dir)])
        files_before = {path.name for path in site.command_dir.iterdir()}
        site.bring_up()
        before = site.boards()
        site.script("start.py")
        status = json.loads(site.script("status.py", "--json").out)
        during = site.boards()
        stop = json.loads(site.script("stop.py", "--json").out)
        recording = Recording(site.run_dir, before, during, site.boards())
        site.script("config.py", "--shutdown")
        yield Night(topology, site, recording, status, stop, site.boards(), files_before)


def prepare_disks(site: HostedSite, topology: Topology) -> None:
    """A link to another disk, and files of somebody else."""
    for plan in topology.plans:
        host = site.world[plan.host]
        for module in plan.modules:
            place = plan.data_dir / f"module_{module}"
            if topology.linked == (plan.host, module):
                target = DISK / "volume" / f"the data of {module}"
                host.check(["mkdir", str(target)])
                host.check(["ln", "-s", str(target), str(place)])
            else:
                host.check(["mkdir", str(place)])
        for name in bystanders(plan):
            path = str(plan.data_dir / name)
            host.check(["sh", "-c", 'echo "$0" > "$0"', path])


def bystanders(plan: NodePlan) -> list[str]:
    own = [f"module_{module}/" for module in plan.modules]
    return [n for n in BYSTANDERS if "/" not in n or any(n.startswith(place) for place in own)]


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Night]]:
    """All three nights, at the same time: most of one is waiting for boards."""
    reason = reason_to_skip()
    if reason is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("nights")
    running = {name: record_night(folder, name) for name in TOPOLOGIES}
    try:
        with ThreadPoolExecutor(len(running)) as pool:
            futures = {name: pool.submit(next, night) for name, night in running.items()}
        yield {name: future.result() for name, future in futures.items()}
    finally:
        for night in running.values():
            night.close()  # type: ignore[attr-defined]


@pytest.fixture(params=TOPOLOGIES)
def night(nights: dict[str, Night], request: pytest.FixtureRequest) -> Night:
    return nights[request.param]


def test_every_frame_and_pixel_is_the_one_that_was_sent(night: Night) -> None:
    check_statuses(night.recording)
    for module in night.site.modules:
        check_pixels(night.recording, module, "img16")
        check_pixels(night.recording, module, "ph256")
        check_images_follow(night.recording, module)
        check_every_packet(night.recording, module)


def test_the_run_is_complete_on_the_head_node(night: Night) -> None:
    check_run_is_complete(night.recording.run_dir)
    check_housekeeping(night.recording.run_dir, night.site.modules, at_least=2)
    record = json.loads((night.recording.run_dir / "run.json").read_text())
    verdict = record["verdict"]
    assert (verdict["word"], verdict["reasons"]) == ("good", [])
    assert verdict["checked"].startswith("all ")
    assert set(record["expected"]["nodes"]) == {
        night.site.world[plan.host].ip for plan in night.topology.plans
    }
    assert not (night.site.head_data / "run_name").exists()
    logs = {path.name for path in night.recording.run_dir.glob("hp_log_*")}
    assert logs == {f"hp_log_{night.site.world[p.host].ip}" for p in night.topology.plans}


def test_nodes_are_clean_and_nobody_elses_file_is_gone(night: Night) -> None:
    for plan in night.topology.plans:
        host, place = night.site.world[plan.host], night.site.node_data(plan)
        shared = (plan.host, plan.data_dir) == (HEAD, night.topology.head_data_dir)
        runs = [path.name for path in place.iterdir() if path.name.startswith("obs_")]
        assert runs == ([night.recording.run_dir.name] if shared else [])
        for module in plan.modules:
            folder = place / f"module_{module}"
            if night.topology.linked == (plan.host, module):
                assert folder.is_symlink()
                target = folder.readlink().relative_to(DISK)
                folder = night.site.world.disk_outside(plan.host) / target
            assert [path.name for path in folder.iterdir()] == ["calibration.dat"]
        for name in bystanders(plan):
            path = str(plan.data_dir / name)
            assert host.check(["cat", path]) == f"{path}\n"
        for name in ("current_run_daq", "daq_pid"):
            assert not (place / name).exists()
        assert host.run(["pgrep", "-x", "hashpipe"]).returncode == 1


def test_nothing_is_made_in_the_command_directory(night: Night) -> None:
    now = {path.name for path in night.site.command_dir.iterdir()}
    assert now == night.command_dir_before


def test_analysis_software_reads_the_run(night: Night, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    check_analysis_reads(night.recording, night.site.modules, caplog)


def test_status_shows_every_node(night: Night) -> None:
    assert night.status["run"]["run"] == night.recording.run_dir.name
    shown = {node["ip_addr"]: node["state"] for node in night.status["nodes"]}
    assert shown == {night.site.world[plan.host].ip: "recording" for plan in night.topology.plans}
    assert night.status["problems"] == []
    assert all(board["data_age_s"] < 5 for board in night.status["boards"])


def test_files_are_moved_where_the_disk_is_the_same_and_fetched_else(night: Night) -> None:
    record = json.loads((night.recording.run_dir / "run.json").read_text())
    (collection,) = record["collection"]
    how = {node["node"]: node["how"] for node in collection["nodes"]}
    assert how == {
        night.site.world[plan.host].ip: "moved" if plan.host == HEAD else "fetched"
        for plan in night.topology.plans
    }


def test_after_the_night_the_boards_are_quiet(night: Night) -> None:
    modules = [module for plan in night.topology.plans for module in plan.modules]
    assert len(night.boards) == 4 * len(modules) > 0
    for ip, board in night.boards.items():
        assert board["hv"]["codes"] == [0, 0, 0, 0], ip
        assert board["streams"] == {"image": None, "ph": None}, ip

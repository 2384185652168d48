"""What a stop leaves alone: the boards, nodes and pipelines of another head node.

No node can be reached here (there is no ssh key); what they answer is given.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from panoseti.boards.board_link import BoardLink, Outcome
from panoseti.configs.load_configs import Site, load_site
from panoseti.configs.site import DaqNode, Quabo
from panoseti.flight import FlightRecorder
from panoseti.nodes.daq_nodes import NodeShells
from panoseti.nodes.node_types import NodeStatus
from panoseti.runs import end_recording
from panoseti.runs.end_recording import STOP_FLOW, Ending
from panoseti.runs.run_owner import new_token
from panoseti.runs.run_record import Expected, RunRecord, new_document
from panoseti.runs.run_state import Holder
from tests.site_files import DAQ, OBS, changed, write_site

OURS = "obs_Test.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd"
OTHERS = "obs_Test.start_2024-07-25T05:00:00Z.runtype_sci-data.pffd"
QUIET = FlightRecorder(None, "")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Two nodes, with one module each."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    obs = {**OBS, "ssh_key": str(tmp_path / "no key")}
    daq = changed(DAQ, {("head_node_data_dir",): str(data_dir)})
    return load_site(write_site(tmp_path / "site", obs, daq))


def recording(site: Site, nodes: dict[str, tuple[int, ...]]) -> tuple[Holder, RunRecord]:
    """A run of ours in progress, which records on some nodes."""
    holder = Holder(OURS, "us@here[1]", new_token(site.head_data_dir), time.time())
    document = new_document(holder, [], {}, Expected(quabos=(), nodes=nodes))
    folder = site.head_data_dir / OURS
    folder.mkdir()
    record = RunRecord(folder, document)
    record.set(recording_unix=time.time())
    return holder, record


def status(owner: str | None) -> NodeStatus:
    """Of a node that records for the head node of a token, if any."""
    return NodeStatus(
        host="node", boot_id="", running=owner is not None, run=OTHERS if owner else None,
        owner=owner, started_by="she@there[2]" if owner else None,
        started_unix=1e9 if owner else None, pid=None, processes=(), pipeline=None, files=(),
        volumes=(), problems=(), helpers="", time_unix=0.0, clock_offset_s=0.0, document={},
    )  # fmt: skip


@pytest.mark.parametrize(
    "claimed",
    [
        pytest.param({}, id="ours claimed no node"),
        pytest.param({"192.168.1.101": (1,)}, id="not this node"),
        pytest.param({"192.168.1.101": (1,), "192.168.1.102": (254,)}, id="it was robbed of it"),
    ],
)
def test_boards_that_send_to_another_head_nodes_run_are_left_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch, claimed: dict[str, tuple[int, ...]]
) -> None:
    told: list[str] = []

    def answers(shells: NodeShells) -> dict[DaqNode, NodeStatus]:
        free, taken = site.daq.nodes
        return {free: status(None), taken: status("another-1")}

    def stop_data_flow(site: Site, link: BoardLink, boards: list[Quabo]) -> dict[str, Outcome]:
        told.extend(board.ip for board in boards)
        return {}

    monkeypatch.setattr(end_recording, "quick_statuses", answers)
    monkeypatch.setattr(end_recording, "stop_data_flow", stop_data_flow)
    holder, record = recording(site, claimed)
    ending = Ending(site, QUIET, record)
    ending.run(holder)
    assert told == [f"192.168.0.{last}" for last in (4, 5, 6, 7)]
    left = {line.what: line for line in ending.lines if line.asked == STOP_FLOW}
    assert set(left) == {f"quabo 192.168.3.{last}" for last in (248, 249, 250, 251)}
    for line in left.values():
        assert not line.ok and OTHERS in line.now and "--force" in line.now, line

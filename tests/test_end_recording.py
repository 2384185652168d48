"""What a stop leaves alone: the boards, nodes and pipelines of another head node.

No node can be reached here (there is no ssh key); what they answer is given.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from panoseti.boards.board_link import BoardLink, Outcome
from panoseti.configs.load_configs import Site, load_site
from panoseti.configs.site import DaqNode, Quabo
from panoseti.errors import RefusedError
from panoseti.flight import FlightRecorder
from panoseti.nodes.daq_nodes import NodeShells
from panoseti.nodes.node_types import NodeStatus
from panoseti.runs import activities, end_recording
from panoseti.runs.end_recording import STOP_FLOW, Ending
from panoseti.runs.run_owner import new_token
from panoseti.runs.run_record import Expected, RunRecord, new_document
from panoseti.runs.run_state import Holder
from panoseti.runs.start_checks import check_activities_here
from panoseti.runs.status_gathering import look
from tests import node_dir
from tests.helpers import wait_for
from tests.site_files import DAQ, OBS, changed, write_site

OURS = "obs_Test.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd"
OTHERS = "obs_Test.start_2024-07-25T05:00:00Z.runtype_sci-data.pffd"
MODULE_1 = [f"192.168.0.{last}" for last in (4, 5, 6, 7)]
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


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The boards that are told to stop."""
    boards_told: list[str] = []

    def stop_data_flow(site: Site, link: BoardLink, boards: list[Quabo]) -> dict[str, Outcome]:
        boards_told.extend(board.ip for board in boards)
        return {}

    monkeypatch.setattr(end_recording, "stop_data_flow", stop_data_flow)
    return boards_told


@pytest.mark.parametrize(
    "claimed",
    [
        pytest.param({}, id="ours claimed no node"),
        pytest.param({"192.168.1.101": (1,)}, id="not this node"),
        pytest.param({"192.168.1.101": (1,), "192.168.1.102": (254,)}, id="it was robbed of it"),
    ],
)
def test_boards_that_send_to_another_head_nodes_run_are_left_alone(
    site: Site,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
    claimed: dict[str, tuple[int, ...]],
) -> None:
    def answers(shells: NodeShells) -> dict[DaqNode, NodeStatus]:
        free, taken = site.daq.nodes
        return {free: status(None), taken: status("another-1")}

    monkeypatch.setattr(end_recording, "quick_statuses", answers)
    holder, record = recording(site, claimed)
    ending = Ending(site, QUIET, record)
    ending.run(holder)
    assert told == MODULE_1
    left = {line.what: line for line in ending.lines if line.asked == STOP_FLOW}
    assert set(left) == {f"quabo 192.168.3.{last}" for last in (248, 249, 250, 251)}
    for line in left.values():
        assert not line.ok and OTHERS in line.now and "--force" in line.now, line


# --- pipelines on this computer ---


@contextmanager
def pipeline_of(folder: Path, run: str, owner: str) -> Iterator[psutil.Popen]:
    """A process called hashpipe that a DAQ node on this computer has begun for a head node."""
    folder.mkdir()
    node_dir.write_fake(folder / "hashpipe", node_dir.HANGS_AT_START)
    state = {"version": 1, "run": run, "owner": owner, "started_by": "she@there[2]",
             "daq_ip": "192.168.1.101", "started_unix": 1e9}  # fmt: skip
    (folder / "current_run_daq").write_text(json.dumps(state))
    words = [str(folder / "hashpipe"), "-o", f"RUNDIR={run}"]
    with psutil.Popen(words, cwd=folder) as process:
        try:
            wait_for(lambda: process.name() == "hashpipe", "the pipeline")
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def test_pipelines_of_another_head_node_on_this_computer(
    site: Site, told: list[str], tmp_path: Path
) -> None:
    """No node of our configs has them, or their node cannot be asked: it takes force."""
    pipeline = f"{activities.PIPELINE} (pid %d)"
    ours, others = new_token(site.head_data_dir), "another-1"
    with (
        pipeline_of(tmp_path / "others", OTHERS, others) as alien,
        pipeline_of(tmp_path / "ours", OURS, ours) as own,
    ):
        with pytest.raises(RefusedError, match="she@there.* since 2001-.*stop.py --force"):
            check_activities_here(site)
        ending = Ending(site, QUIET)
        ending.run(None)
        assert own.poll() is not None and alien.poll() is None
        lines = {line.what: line for line in ending.lines}
        left = lines[pipeline % alien.pid]
        assert not left.ok and OTHERS in left.now and "she@there[2] since 2001-" in left.now
        assert lines[pipeline % own.pid].ok
        (advice,) = look(site, QUIET).advice
        assert OTHERS in advice and "stop.py --force" in advice and "ends it" not in advice
        asked: list[str] = []

        def ask(question: str) -> bool:
            asked.append(question)
            return len(asked) > 1

        for times in (1, 2):
            Ending(site, QUIET, force=True, ask=ask).run(None)
            assert (alien.poll() is not None) is (times == 2)
        assert len(asked) == 2 and all(OTHERS in question for question in asked)


def test_boards_of_a_node_here_that_cannot_be_asked(
    site: Site, told: list[str], tmp_path: Path
) -> None:
    """What records on this computer says whose they are."""
    here = replace(site, addresses={**site.addresses, "192.168.1.102": "127.0.0.1"})
    with pipeline_of(tmp_path / "others", OTHERS, "another-1") as alien:
        ending = Ending(here, QUIET)
        ending.run(None)
        assert told == MODULE_1 and alien.poll() is None
        (text,) = {line.now for line in ending.lines if line.what == "quabo 192.168.3.248"}
        assert "cannot be asked" in text and OTHERS in text

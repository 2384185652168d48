"""Whose the observatory is, with two head nodes; starts that fail in their last moment.

Real pipelines and ssh, simulated boards; both head nodes are on this computer.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest

from panoseti.bringup import session
from panoseti.errors import RefusedError
from panoseti.flight import read_flight, user_name
from panoseti.runs import activities, run_record, run_start, run_state
from panoseti.runs.watch_log import WATCH_LOG
from simulator.site_writer import head_address
from tests.helpers import REPO, wait_for
from tests.second_head import QUICK, SecondHead, another_start_in_between, second_head
from tests.typed_site import QUIET, Obs, frames_of


@pytest.fixture
def other(obs: Obs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SecondHead:
    """Another head node, ready to start; as elsewhere, it sees no daemons of the first."""
    monkeypatch.setattr(session, "elsewhere", lambda site, names=(): [])
    return second_head(obs, tmp_path)


# --- two head nodes ---


def test_the_loser_of_two_starts_sends_nothing_to_a_board(
    obs: Obs, other: SecondHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would load another gain: not into boards that record for the winner."""
    other.change("data", gain=61, pulse_height=None)
    loaded = {ip: board["maroc"] for ip, board in obs.boards().items()}
    another_start_in_between(monkeypatch, lambda: obs.start_here(**QUICK))
    with pytest.raises(RefusedError) as refused:
        other.start()
    for word in (f"[{os.getpid()}]", " since 20", "somebody else may be using the observatory"):
        assert word in str(refused.value)
    boards = obs.boards()
    assert {ip: board["maroc"] for ip, board in boards.items()} == loaded
    assert all(board["streams"]["image"] for board in boards.values()), "the winner's run goes on"
    assert not run_state.runs(other.data_dir) and not (other.data_dir / "run_name").exists()
    report = obs.stop_here()
    assert report.ok and report.finished is not None and report.finished.verdict == "good", report


def test_a_run_of_another_head_node_is_left_alone_whatever_has_died_of_it(
    obs: Obs, other: SecondHead
) -> None:
    """Both have one host name; a node cannot be asked, the pipeline is dead: it needs force."""
    obs.start_here(**QUICK)
    activities.end(activities.watchers(obs.head_dir), QUIET)  # it would end the run, or mend it
    (node,) = json.loads((other.command_dir / "daq_config.json").read_text())["daq_nodes"]
    dead = {**node, "ip_addr": head_address(obs.private.site.prefix, 3), "module_ids": "254"}
    other.change("daq", daq_nodes=[{**node, "module_ids": "1"}, dead])
    lines = left_alone(obs, other)
    assert all("cannot be asked, and" in lines[f"quabo {ip}"] for ip in obs.quabos[4:])
    other.change("daq", daq_nodes=[node])
    (pipeline,) = activities.pipelines()
    pipeline.process.kill()
    wait_for(lambda: not activities.pipelines(), "the pipeline to be gone")
    lines = left_alone(obs, other)
    assert all("though nothing records there" in text for text in lines.values())
    with pytest.raises(RefusedError, match=r"belongs to .*\[\d+\] since 20.*stop.py --force"):
        other.start()
    assert not run_state.runs(other.data_dir)
    report = other.stop(force=True)
    assert report.ok and any("overrode" in note for note in report.notes), report
    assert not (obs.node_dir / "current_run_daq").exists()
    assert all(board["streams"]["image"] is None for board in obs.boards().values())
    assert obs.stop_here().ok


def left_alone(obs: Obs, other: SecondHead) -> dict[str, str]:
    """What the stop of the other head node says of boards and nodes, when it has done nothing."""
    report = other.stop()
    assert (obs.node_dir / "current_run_daq").exists()
    assert all(board["streams"]["image"] for board in obs.boards().values())
    lines = {line.what: line.now for line in report.lines if not line.ok}
    assert "--force" in lines.pop(f"DAQ node {obs.node_sshd.address}")
    boards = {what: text for what, text in lines.items() if what.startswith("quabo")}
    assert len(boards) == len(obs.quabos) and all("--force" in text for text in boards.values())
    return boards


def test_force_asks_at_the_terminal_and_who_overrode_whom_is_recorded(
    obs: Obs, other: SecondHead
) -> None:
    started = obs.start_here(**QUICK)
    whose, run = started.holder.owner, started.holder.run
    code, said, pid = stop_by_force(other, "no")
    assert whose in said and run in said and "somebody else is using the observatory" in said
    assert code == 1 and "overrode" not in said
    assert activities.pipelines() and (obs.node_dir / "current_run_daq").exists()
    assert all(board["streams"]["image"] for board in obs.boards().values())
    assert overridden(other) == []
    code, said, pid = stop_by_force(other, "yes")
    assert code == 0, said
    assert not activities.pipelines() and not (obs.node_dir / "current_run_daq").exists()
    assert all(board["streams"]["image"] is None for board in obs.boards().values())
    by = f"{user_name()}@{socket.gethostname()}[{pid}]"
    assert f"{by} overrode:" in said
    (line,) = overridden(other)
    assert f'by="{by}"' in line and run in line and whose in line
    assert obs.stop_here().ok


@pytest.mark.long
def test_what_was_taken_by_force_is_neither_mended_nor_stopped_by_its_former_owner(
    obs: Obs, other: SecondHead
) -> None:
    """Its watcher lives, and its own stop comes when the other one records already."""
    started = obs.start_here(**QUICK)
    run = started.holder.run
    log = started.run_dir / WATCH_LOG
    wait_for(log.exists, "the watch to begin")
    assert other.stop(force=True).ok
    wait_for(lambda: f"run {run} is over on this node" in log.read_text(), "its watcher to give in")
    assert not activities.pipelines()
    other.start()
    report = obs.stop_here(run=run)  # of a run that is over
    assert all(board["streams"]["image"] for board in obs.boards().values()), "they are the other's"
    bad = {line.what: line.now for line in report.lines if not line.ok}
    assert len(bad) == 1 + len(obs.quabos) and all("--force" in now for now in bad.values()), bad
    assert obs.stop_here(run=run).ok and frames_of(started.run_dir)
    report = other.stop()
    assert report.ok and report.finished is not None and report.finished.verdict == "good", report


def overridden(other: SecondHead) -> list[str]:
    """What the flight recorder of the other head node says of it."""
    return [line.text for line in read_flight(other.data_dir) if line.what == "override"]


def stop_by_force(other: SecondHead, answer: str) -> tuple[int, str, int]:
    """stop.py --force at a terminal: its exit code, all it said, its pid."""
    ours, theirs = os.openpty()
    stop = subprocess.Popen(
        [str(REPO / "stop.py"), "--force"], cwd=other.command_dir,
        stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "COLUMNS": "1000", "NO_COLOR": "1"},
    )  # fmt: skip
    os.close(theirs)
    said = b""
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        try:
            with suppress(OSError):  # that is how a terminal tells that nobody is there any more
                while data := terminal.read(65536):
                    said += data
                    if said.endswith(b"[yes/no] "):
                        terminal.write(f"{answer}\n".encode())
            return stop.wait(60), said.decode(), stop.pid
        finally:
            if stop.poll() is None:
                stop.kill()
                stop.wait()


# --- the last moment of a start ---


def failed_run(obs: Obs) -> dict[str, Any]:
    """What run.json says of the run that was recorded until its start failed."""
    assert obs.is_idle() and obs.left_on_node() == []
    assert all(board["streams"]["image"] is None for board in obs.boards().values())
    (run,) = obs.runs()
    record: dict[str, Any] = json.loads((obs.head_dir / run / "run.json").read_text())
    assert record["recording_unix"] is None and record["verdict"]["word"] == "failed"
    return record


def test_a_run_of_which_it_cannot_be_recorded_that_it_records_is_undone(
    obs: Obs, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = run_record.write_json

    def write_unless_full(path: Path, document: dict[str, Any]) -> None:
        if document["recording_unix"] is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, document)

    monkeypatch.setattr(run_record, "write_json", write_unless_full)
    with pytest.raises(run_start.StartFailedError, match="No space left.*is kept"):
        obs.start_here(**QUICK)
    failed_run(obs)


def test_a_start_that_is_ended_by_whatever_is_undone(
    obs: Obs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object) -> NoReturn:
        raise SystemExit(7)

    monkeypatch.setattr(run_start, "wait_for_data", end)
    with pytest.raises(SystemExit):
        obs.start_here(**QUICK)
    assert obs.is_idle() and obs.left_on_node() == []
    assert all(board["streams"]["image"] is None for board in obs.boards().values())

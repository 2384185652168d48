"""Waiting until data of every expected board are recorded: only then a start has succeeded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from panoseti.configs.site import DaqNode, Quabo
from panoseti.nodes import daq_nodes
from panoseti.nodes.daq_nodes import NodeOutcome, NodeShells
from panoseti.nodes.node_types import NodeStatus
from panoseti.runs.run_part import Part
from panoseti.words import joined

# A pipeline tells its counts once a second; a board begins within milliseconds.
DEADLINE_S = 15.0
POLL_S = 0.2
IMAGE_MODE_BIT = 2
Warn = Callable[[str], None]
LeaveOut = Callable[[Mapping[str, str], Mapping[DaqNode, str], str], None]
"""Goes on without boards (by address) and nodes, with the reasons and all in one; or raises."""


def wait_for_data(
    shells: NodeShells, part: Part, token: str, images: bool, leave_out: LeaveOut, warn: Warn
) -> str:
    """Wait until packets of every board are recorded by the run of `token`; how long it took.

    leave_out: is told of a node whose pipeline has ended and of boards that are silent, with the
    reasons; it raises unless the run goes on without them.  Without images only what triggers
    comes: boards that see nothing are only warned of.
    """
    begin_s = time.monotonic()
    end_s = begin_s + DEADLINE_S
    there: set[Quabo] = set()
    while True:
        outcomes = shells.each(daq_nodes.status, part.nodes)
        bad = {node: why for node, outcome in outcomes.items() if (why := _why(outcome, token))}
        if bad:
            leave_out({}, bad, joined(list(bad.values())))
            end_s = time.monotonic() + DEADLINE_S  # waiting for the dead is not the others' fault
            continue
        for node in part.nodes:
            there |= _recorded(outcomes[node].value, part.boards, images)
        waiting = [board for board in part.boards if board not in there]
        now_s = time.monotonic()
        if not waiting:
            return f"after {now_s - begin_s:.1f} s"
        if now_s > end_s:
            break
        time.sleep(POLL_S)
    in_order = sorted(waiting, key=lambda quabo: quabo.boardloc)
    names = {q: f"{q.ip} (module {q.module_id}, quabo {q.index})" for q in in_order}
    if images:
        text = f"no data were recorded within {DEADLINE_S:g} s"
        problem = f"{text} of {joined(list(names.values()))}"
        leave_out({board.ip: text for board in in_order}, {}, problem)
        return f"{problem}; the run goes on without"
    text = f"no pulse height was recorded within {DEADLINE_S:g} s of {joined(list(names.values()))}"
    warn(f"{text}; the run goes on")
    return text


def _recorded(status: NodeStatus, boards: Iterable[Quabo], images: bool) -> set[Quabo]:
    """The boards of which data were recorded, and have reached a file of their module."""
    if status.pipeline is None:
        return set()
    there = {
        (count.module, count.quabo)
        for count in status.pipeline.quabos
        if count.recorded and (not images or count.mode & IMAGE_MODE_BIT)
    }
    in_files = {file.module for file in status.files if file.bytes}
    return {
        board
        for board in boards
        if (board.module_id, board.index) in there and board.module_id in in_files
    }


def _why(outcome: NodeOutcome[NodeStatus], token: str) -> str:
    """Why a node does not record our run, "" = it does."""
    if outcome.problem is not None:
        return str(outcome.problem)
    status, where = outcome.value, outcome.node.ip_addr
    if not status.running:
        said = joined([*status.problems, *(status.pipeline.errors if status.pipeline else ())])
        return f"{where}: the pipeline has ended ({said or 'it said nothing'})"
    if status.owner != token:
        return f"{where}: records another run, of {status.started_by or 'somebody'}"
    return ""

"""Waiting until data of every expected board are recorded: only then a start has succeeded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from panoseti import daq_nodes
from panoseti.daq_nodes import NodeOutcome, NodeShells
from panoseti.errors import ObsError
from panoseti.node_types import NodeStatus
from panoseti.site import Quabo
from panoseti.words import joined

# A pipeline tells its counts once a second; a board begins within milliseconds.
DEADLINE_S = 15.0
POLL_S = 0.2
IMAGE_MODE_BIT = 2


def wait_for_data(
    shells: NodeShells,
    token: str,
    boards: Iterable[Quabo],
    images: bool,
    warn: Callable[[str], None],
) -> str:
    """Wait until packets of every board are recorded by the run of `token`; how long it took.

    ObsError naming the boards that are silent, or the node whose pipeline has ended.  Without
    images only what triggers comes: boards that see nothing are only warned of.
    """
    begin_s = time.monotonic()
    waiting = set(boards)
    while True:
        outcomes = shells.each(daq_nodes.status)
        problems = daq_nodes.problems(outcomes)
        if problems:
            raise ObsError(joined(problems))
        for outcome in outcomes.values():
            _check_alive(outcome, token)
            there = _recorded(outcome.value, images)
            waiting = {quabo for quabo in waiting if (quabo.module_id, quabo.index) not in there}
        waited_s = time.monotonic() - begin_s
        if not waiting:
            return f"after {waited_s:.1f} s"
        if waited_s > DEADLINE_S:
            break
        time.sleep(POLL_S)
    in_order = sorted(waiting, key=lambda quabo: quabo.boardloc)
    silent = joined([f"{q.ip} (module {q.module_id}, quabo {q.index})" for q in in_order])
    if images:
        raise ObsError(f"no data were recorded within {DEADLINE_S:g} s of {silent}")
    text = f"no pulse height was recorded within {DEADLINE_S:g} s of {silent}"
    warn(f"{text}; the run goes on")
    return text


def _recorded(status: NodeStatus, images: bool) -> set[tuple[int, int]]:
    """Module and index of the boards of which data were recorded."""
    if status.pipeline is None:
        return set()
    return {
        (count.module, count.quabo)
        for count in status.pipeline.quabos
        if count.recorded and (not images or count.mode & IMAGE_MODE_BIT)
    }


def _check_alive(outcome: NodeOutcome[NodeStatus], token: str) -> None:
    status, where = outcome.value, outcome.node.ip_addr
    if not status.running:
        said = joined([*status.problems, *(status.pipeline.errors if status.pipeline else ())])
        raise ObsError(f"{where}: the pipeline has ended ({said or 'it said nothing'})")
    if status.owner != token:
        raise ObsError(f"{where}: records another run, of {status.started_by or 'somebody'}")

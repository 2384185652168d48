"""Waiting until data of every expected board are recorded: only then a start has succeeded."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping

from daq.daq_facts import PIPELINE_THREADS
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
IMAGE_PRODUCTS = "img"
QUIET_HINT = (
    "where so little triggers, ph_may_be_quiet in run_policy of obs_config.json lets a run begin"
)
Warn = Callable[[str], None]
LeaveOut = Callable[[Mapping[str, str], Mapping[DaqNode, str], str], None]
"""Goes on without boards (by address) and nodes, with the reasons and all in one; or raises."""


def wait_for_data(
    shells: NodeShells,
    part: Part,
    token: str,
    images: bool,
    may_be_quiet: Collection[str],
    leave_out: LeaveOut,
    warn: Warn,
) -> str:
    """Wait until data of every board are recorded by the run of `token`; how long it took.

    At that moment every node says that all threads of its pipeline are alive.  leave_out: is told
    of a node whose pipeline does not work and of boards that are silent, with the reasons; it
    raises unless the run goes on without them.  may_be_quiet: addresses of boards that are only
    warned of where there are no images: their data come when something triggers.
    """
    begin_s = time.monotonic()
    end_s = begin_s + DEADLINE_S
    arrival = Arrival(images)
    while True:
        outcomes = shells.each(daq_nodes.status, part.nodes)
        bad = {
            node: why
            for node, outcome in outcomes.items()
            if (why := why_not_recording(outcome, token))
        }
        if bad:
            leave_out({}, bad, joined(list(bad.values())))
            end_s = time.monotonic() + DEADLINE_S  # waiting for the dead is not the others' fault
            continue
        for node in part.nodes:
            arrival.see(outcomes[node].value)
        waiting = [board for board in part.boards if not arrival.has(board)]
        now_s = time.monotonic()
        if not waiting:
            return f"after {now_s - begin_s:.1f} s"
        if now_s > end_s:
            break
        time.sleep(POLL_S)
    what = "data were" if images else "pulse height was"
    text = f"no {what} recorded within {DEADLINE_S:g} s"
    silent = [board for board in waiting if images or board.ip not in may_be_quiet]
    if silent:
        problem = f"{text} of {_named(silent)}"
        if not images:
            problem += f"; {QUIET_HINT}"
        leave_out({board.ip: text for board in silent}, {}, problem)
        return f"{problem}; the run goes on without"
    text = f"{text} of {_named(waiting)}"
    warn(f"{text}; they have confirmed that they send it; the run goes on")
    return text


class Arrival:
    """What has arrived, from one look at the nodes to the next.

    A board is there when its packets are recorded and the files of its module grow: they were seen
    to.  Pulse heights may come once in a while: a file that was empty at first has grown.
    """

    def __init__(self, images: bool) -> None:
        self._images = images
        self._recorded: set[tuple[int, int]] = set()
        self._first_bytes: dict[int, int] = {}
        self._grown: set[int] = set()

    def see(self, status: NodeStatus) -> None:
        """Take what a node says."""
        if status.pipeline is None:
            return
        self._recorded |= {
            (count.module, count.quabo)
            for count in status.pipeline.quabos
            if count.recorded and (not self._images or count.mode & IMAGE_MODE_BIT)
        }
        sizes: dict[int, int] = {}
        for file in status.files:
            if not self._images or file.product.startswith(IMAGE_PRODUCTS):
                sizes[file.module] = sizes.get(file.module, 0) + file.bytes
        for module, size in sizes.items():
            if size > self._first_bytes.setdefault(module, size if self._images else 0):
                self._grown.add(module)

    def has(self, board: Quabo) -> bool:
        """Whether data of the board reach the disk."""
        return (board.module_id, board.index) in self._recorded and board.module_id in self._grown


def _named(boards: Iterable[Quabo]) -> str:
    in_order = sorted(boards, key=lambda quabo: quabo.boardloc)
    return joined([f"{q.ip} (module {q.module_id}, quabo {q.index})" for q in in_order])


def why_not_recording(outcome: NodeOutcome[NodeStatus], token: str) -> str:
    """Why a node does not record our run, "" = it does."""
    if outcome.problem is not None:
        return str(outcome.problem)
    status, where = outcome.value, outcome.node.ip_addr
    if not status.running:
        said = joined([*status.problems, *(status.pipeline.errors if status.pipeline else ())])
        return f"{where}: the pipeline has ended ({said or 'it said nothing'})"
    if status.pipeline is not None:
        does = status.pipeline.threads
        idle = [name for name in PIPELINE_THREADS if does.get(name) != "running"]
        if idle or not status.pipeline.socket_open:
            said = f" ({joined(list(status.pipeline.errors))})" if status.pipeline.errors else ""
            what = joined(idle) or "its socket"
            return f"{where}: the pipeline does not record: {what} not at work{said}"
    if status.owner != token:
        return f"{where}: records another run, of {status.started_by or 'somebody'}"
    return ""

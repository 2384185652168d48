"""Recording on the DAQ nodes of a start: begun on all at once, taken back where the start fails."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from panoseti.configs.load_configs import Site, frozen_copies
from panoseti.configs.site import DaqNode
from panoseti.console import Console
from panoseti.errors import ObsError, RefusedError
from panoseti.flight import FlightRecorder
from panoseti.nodes import daq_nodes
from panoseti.nodes.daq_nodes import NodeOutcome, NodeShells
from panoseti.nodes.remote import Shell
from panoseti.runs.collect import Collection, collect
from panoseti.runs.run_order import order_of
from panoseti.runs.run_part import RECORD, Part
from panoseti.runs.run_record import RunRecord
from panoseti.runs.run_state import Holder
from panoseti.words import joined

# How long a start waits for another one, of the same moment, to give its nodes back.
SHARED_OUT_S = 30.0
POLL_S = 0.2


class Recording:
    """The pipelines of one run on its nodes; data_kept: whether stopping them left data."""

    def __init__(
        self,
        site: Site,
        part: Part,
        holder: Holder,
        shells: NodeShells,
        console: Console,
        flight: FlightRecorder,
    ) -> None:
        self._site = site
        self._part = part
        self._holder = holder
        self._shells = shells
        self._console = console
        self._flight = flight
        self._begun_on: tuple[DaqNode, ...] = ()
        self.data_kept = False

    def begin(self, record: RunRecord) -> dict[DaqNode, str]:
        """Recording on all nodes at once; those where it failed, and why.

        A start that failed on a node has undone itself there.  RefusedError where another records.
        """
        copies = {name: text.encode() for name, text in frozen_copies(self._site).items()}
        self._begun_on = self._part.nodes

        def begin(shell: Shell) -> str:
            node = shell.node
            order = order_of(self._site, self._holder, self._part.modules_of(node))
            with record.act("start", RECORD, node.ip_addr) as act:
                away = not self._site.is_on_head_node(node)
                started = daq_nodes.start_recording(shell, order, copies if away else {})
                act.text = f"pid {started.pid}, ready after {started.ready_s:.1f} s"
            return act.text

        with self._console.progress("recording", len(self._begun_on)) as progress:
            outcomes = self._shells.each(
                begin,
                self._begun_on,
                done=lambda one: progress.advance(f"{one.node.ip_addr} {one.result or ''}"),
            )
        end_s = time.monotonic() + SHARED_OUT_S
        while refused := _shared_out(outcomes):
            if time.monotonic() > end_s or not self._comes_first(refused):
                break
            time.sleep(POLL_S)
            outcomes |= self._shells.each(begin, refused)
        if any(isinstance(outcome.problem, RefusedError) for outcome in outcomes.values()):
            _raise_problems(outcomes.values())
        return {node: str(one.problem) for node, one in outcomes.items() if one.problem}

    def _comes_first(self, refused: Sequence[DaqNode]) -> bool:
        """Of starts that got some nodes each, the one of the lowest token waits for the others
        to give theirs back, which all others do.
        """
        statuses = self._shells.each(daq_nodes.status, refused).values()
        recording = [o.result for o in statuses if o.result is not None and o.result.running]
        # While the other's helper is still at work, nobody can tell whose it will be: ask again.
        owners = [status.owner for status in recording if status.owner is not None]
        return all(self._holder.token <= owner for owner in owners)

    def end_on(self, nodes: Iterable[DaqNode]) -> None:
        """End it on some nodes; where it cannot be told, stop.py will see."""
        self._shells.each(self._end_pipeline, nodes)

    def _end_pipeline(self, shell: Shell) -> None:
        run = self._holder.run
        daq_nodes.stop_recording(shell, run, self._holder.token, over=run)

    def take_back(self, run_dir: Path) -> None:
        """Stop all nodes; what recorded nothing leaves no files behind."""
        run = self._holder.run

        def stop(shell: Shell) -> bool:
            try:
                self._end_pipeline(shell)
            except RefusedError:
                if daq_nodes.status(shell).run == run:
                    return False  # of another head node, begun in the same second
            found = daq_nodes.list_files(shell, run)
            if any(file.bytes for file in found.files if file.name.endswith(".pff")):
                return True
            empty.append(shell)
            return False

        empty: list[Shell] = []
        outcomes = self._shells.each(stop, self._begun_on)
        # Why a pipeline recorded nothing is in its log, which is not deleted before it is here.
        kept = [
            result.node
            for result in collect(Collection(run_dir, self._site.obs, self._flight), empty)
            if result.failed or result.undeleted
        ]
        # Of a node that cannot be asked it is not known that it recorded nothing.
        self.data_kept = bool(kept) or any(
            outcome.result or outcome.problem is not None for outcome in outcomes.values()
        )
        _raise_problems(outcomes.values())


def _shared_out(outcomes: Mapping[DaqNode, NodeOutcome[str]]) -> list[DaqNode]:
    """The nodes that refused while others record for us: two starts at the same moment."""
    refused = [n for n, o in outcomes.items() if isinstance(o.problem, RefusedError)]
    ours = [node for node, outcome in outcomes.items() if outcome.ok]
    return refused if ours and len(ours) + len(refused) == len(outcomes) else []


def _raise_problems(outcomes: Iterable[NodeOutcome[Any]]) -> None:
    problems = [outcome.problem for outcome in outcomes if outcome.problem is not None]
    if problems:
        refused = all(isinstance(problem, RefusedError) for problem in problems)
        text = joined([str(problem) for problem in problems])
        raise RefusedError(text) if refused else ObsError(text)

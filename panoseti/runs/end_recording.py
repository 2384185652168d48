"""Ending whatever records: boards told to stop, pipelines on the nodes, programs on the head node.

Every act is bounded, nothing keeps the others from being done, and each leaves a line: what was
asked, and what is true now.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from panoseti.boards.data_flow import link_to_stop, stop_data_flow
from panoseti.configs.board_files import QUABO_UIDS, read_quabo_uids
from panoseti.configs.load_configs import Site, load_site
from panoseti.configs.site import DaqNode, Quabo
from panoseti.errors import ConfigError, ObsError, RefusedError, RemoteError
from panoseti.flight import FlightRecorder, owner
from panoseti.local_host import is_local
from panoseti.nodes import daq_nodes
from panoseti.nodes.daq_nodes import NodeShells
from panoseti.nodes.node_types import NodeStatus, Pipeline, Stopped
from panoseti.nodes.remote import Shell
from panoseti.runs import activities
from panoseti.runs.run_owner import head_token, others_pipeline, others_run
from panoseti.runs.run_part import boards_left_out, left_out, never_asked
from panoseti.runs.run_record import RunRecord
from panoseti.runs.run_state import Holder
from panoseti.words import joined

NOT_OURS = "somebody else is using the observatory; stop it there, or with --force here"
WITHOUT = "the run went without it"
STOP_FLOW, STOP_RECORDING, END = "stop the data flow", "stop recording", "end"
# A pipeline writes out what it has received; beyond this it hangs.
DRAIN_S = 60.0
# Whether a node records for another head node is known much sooner, unless it hangs.
ANSWER_S = 6.0


@dataclass(frozen=True)
class Line:
    """One node, board or program in the end: what was asked, what is true now, whether it is so."""

    what: str
    asked: str
    now: str
    ok: bool = True


@dataclass
class Ending:
    """The end of a recording.

    record: of the run, None where no run is in progress; force: stop what belongs to another head
    node, too; ask: whether that is really meant; lines, notes, ended_runs: what came of it;
    accounts: the last words of the pipeline of each node that recorded the run.
    """

    site: Site
    flight: FlightRecorder
    record: RunRecord | None = None
    force: bool = False
    ask: Callable[[str], bool] = lambda question: True
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ended_runs: set[str] = field(default_factory=set)
    accounts: dict[str, Pipeline] = field(default_factory=dict)
    _token: str = ""
    _others_runs: dict[DaqNode, str] = field(default_factory=dict)
    _unasked: dict[DaqNode, str] = field(default_factory=dict)

    def run(self, holder: Holder | None) -> bool:
        """All of it; whether nothing records any more.

        holder: whose run it is, None where that is not known or no run is in progress.
        """
        self._end_watcher()
        self._take_token(holder.token if holder is not None else "")
        with NodeShells(self.nodes(), self.site.obs, self.flight) as shells:
            self._find_others(shells)
            whose = [*self._others_runs.values(), *self._untold_here().values()]
            if self.force and whose:
                self._override(joined(list(dict.fromkeys(whose))))
            self._boards()
            ended = self._pipelines(shells, self._end_pipeline)
        ended = self._here() and ended
        if self.record is not None:
            self.record.set(ended_unix=time.time())
        return ended

    def run_is_over(self) -> bool:
        """Whether no node records the run of `record` any more; one that still does is stopped."""
        if self.record is None:
            raise ValueError("no run is given")
        run = self.record.path.parent.name
        self._take_token(str(self.record.document.get("token") or ""))

        def end(shell: Shell) -> Stopped | None:
            try:
                # Never by force, which would end the run in progress there.
                return daq_nodes.stop_recording(shell, run, self._token, drain_s=DRAIN_S, over=run)
            except RefusedError:
                return None  # it records another run

        with NodeShells(self.nodes_of_run(), self.site.obs, self.flight) as shells:
            return self._pipelines(shells, end)

    # --- who may be recording ---

    def _frozen(self) -> Site | None:
        """The site as it was when the run began; None where that cannot be told."""
        if self.record is None:
            return None
        try:
            return load_site(self.record.path.parent, data_config=False)
        except ConfigError:
            return None

    def nodes(self) -> list[DaqNode]:
        """The nodes of the site, and those the run began with."""
        nodes = list(self.site.nodes_in_use())
        known = {(node.ip_addr, node.data_dir) for node in nodes}
        frozen = self._frozen()
        for node in frozen.nodes_in_use() if frozen else ():
            if (node.ip_addr, node.data_dir) not in known:
                nodes.append(node)
        return nodes

    def nodes_of_run(self) -> list[DaqNode]:
        """Nodes that may have files of the run, reached as the present configs say."""
        now = {(node.ip_addr, node.data_dir): node for node in self.site.daq.nodes}
        frozen = self._frozen()
        then = frozen.nodes_in_use() if frozen else self.site.nodes_in_use()
        strangers = self._left_out(never_asked)
        return [now.get((n.ip_addr, n.data_dir), n) for n in then if n.ip_addr not in strangers]

    def is_over(self, node: DaqNode) -> bool:
        """Whether a node has answered, and nothing records on it any more."""
        return any(line.what == node_label(node) and line.ok for line in self.lines)

    def _left_out(
        self, which: Callable[[Mapping[str, Any]], Mapping[str, str]]
    ) -> Mapping[str, str]:
        """What the run was started without."""
        return {} if self.record is None else which(self.record.document)

    def boards(self) -> list[Quabo]:
        """The boards that may send: present ones, or all where that is not known."""
        found: dict[str, Quabo] = {}
        for site in (self.site, self._frozen()):
            if site is None:
                continue
            try:
                uids = read_quabo_uids(site.head_data_dir / QUABO_UIDS, site.obs)
                boards = [quabo for quabo in site.obs.quabos if uids.present(quabo.ip)]
            except ConfigError:
                boards = list(site.obs.quabos)
            found.update({quabo.ip: quabo for quabo in boards})
        return list(found.values())

    def _take_token(self, token: str) -> None:
        """Of the run, or where that is not known what all tokens of this head node have."""
        self._token = token or head_token(self.site.head_data_dir)

    def _find_others(self, shells: NodeShells) -> None:
        """The nodes that belong to a run of another head node at this moment.

        They are always asked: also those that our run has claimed may have been taken by force.
        While there is such a run, a node that cannot be asked may belong to it, too.
        """
        statuses = quick_statuses(shells)
        for node, status in statuses.items():
            why = others_run(node.ip_addr, status, self._token)
            if why is not None:
                self._others_runs[node] = why
        here = list(self._others_here().values())
        for node in shells.nodes:
            seen = [*self._others_runs.values(), *(here if self._is_here(node) else ())]
            if node not in statuses and seen:
                self._unasked[node] = f"{node.ip_addr}: cannot be asked, and {seen[0]}"

    def _others_here(self) -> dict[int, str]:
        """Pipelines on this computer, by pid, that belong to a run of another head node."""
        found = {one.pid: others_pipeline(one, self._token) for one in activities.pipelines()}
        return {pid: why for pid, why in found.items() if why is not None}

    def _untold_here(self) -> dict[int, str]:
        """The same, unless a node that is this computer has told of it."""
        told = any(self._is_here(node) for node in self._others_runs)
        return {} if told else self._others_here()

    # --- the acts ---

    def _recorded(self, what: str, body: Callable[[], str], subject: str = "") -> None:
        """Do an act, with its intent in run.json where there is a run."""
        if self.record is None:
            body()
            return
        with self.record.act("stop", what, subject) as act:
            act.text = body()

    def _override(self, whose: str) -> None:
        """Stop another head node's run, if the operator really means it; who did is recorded."""
        if not self.ask(f"{whose}: somebody else is using the observatory; stop it all the same?"):
            self.force = False
            return
        self._others_runs, self._unasked = {}, {}
        by = owner()
        self.flight.note("override", by=by, whose=whose)
        self.notes.append(f"{by} overrode: {whose}")
        if self.record is not None:
            self.record.set(overrode={"by": by, "unix": time.time(), "whose": whose})

    def _boards(self) -> None:
        boards = []
        without = boards_left_out(self._frozen() or self.site, self._left_out(left_out))
        for quabo in self.boards():
            other = self._others_run_of(quabo)
            if other is None:
                boards.append(quabo)
            else:
                self.lines.append(Line(f"quabo {quabo.ip}", STOP_FLOW, other, False))
        told: set[str] = set()

        def act() -> str:
            with link_to_stop(self.site, self.flight) as link:
                outcomes = stop_data_flow(self.site, link, boards)
            for ip, outcome in outcomes.items():
                blind = "told, but cannot confirm it" if outcome.unconfirmed else "stopped"
                now = (outcome.problem or blind).removeprefix(f"{ip}: ")
                told.add(ip)
                if not outcome.ok and ip in without:
                    self.lines.append(Line(f"quabo {ip}", STOP_FLOW, f"{WITHOUT}: {now}"))
                else:
                    self.lines.append(Line(f"quabo {ip}", STOP_FLOW, now, outcome.ok))
            return f"{sum(outcome.ok for outcome in outcomes.values())} of {len(boards)}"

        try:
            self._recorded(STOP_FLOW, act)
        except (ObsError, OSError) as error:
            self.lines += [
                Line(f"quabo {quabo.ip}", STOP_FLOW, f"not told: {error}", False)
                for quabo in boards
                if quabo.ip not in told
            ]

    def _others_run_of(self, quabo: Quabo) -> str | None:
        """Why a board is left alone: it sends to a node of another head node's run, or may."""
        for node, why in (self._others_runs | self._unasked).items():
            if quabo.module_id in node.module_ids:
                return f"left alone: {why}; {NOT_OURS}"
        return None

    def _pipelines(self, shells: NodeShells, end: Callable[[Shell], Stopped | None]) -> bool:
        """End recording on all nodes at once; whether it is over on every one."""

        def act(shell: Shell) -> str:
            words: list[str] = []

            def body() -> str:
                stopped = end(shell)
                words.append(_stopped_text(stopped))
                if stopped is not None:
                    self.notes += [f"{shell.node.ip_addr}: {note}" for note in stopped.notes]
                    self.ended_runs |= {e.process.run for e in stopped.ended if e.process.run}
                    self._keep_account(shell.node, stopped)
                return words[0]

            self._recorded(STOP_RECORDING, body, shell.node.ip_addr)
            return words[0]

        outcomes = shells.each(act)
        without = self._left_out(never_asked)
        all_over = True
        for node, outcome in outcomes.items():
            now = outcome.result or str(outcome.problem).removeprefix(f"{node.ip_addr}: ")
            ok = outcome.ok
            if node.ip_addr in without and isinstance(outcome.problem, RemoteError):
                now, ok = f"{WITHOUT}: {now}", True
            self.lines.append(Line(node_label(node), STOP_RECORDING, now, ok))
            all_over = all_over and ok
        return all_over

    def _keep_account(self, node: DaqNode, stopped: Stopped) -> None:
        run = None if self.record is None else self.record.path.parent.name
        if stopped.final is not None and stopped.final.run == run:
            self.accounts[node.ip_addr] = stopped.final

    def _end_pipeline(self, shell: Shell) -> Stopped:
        """Runs of this head node, and strays whosever they are; not a run of another head node.

        The node itself decides: it may have been claimed since it was asked.
        """
        run = None if self.record is None else self.record.path.parent.name
        try:
            return daq_nodes.stop_recording(
                shell, None, self._token, self.force, drain_s=DRAIN_S, over=run
            )
        except RefusedError as error:
            self._others_runs.setdefault(shell.node, str(error))
            raise

    def _end_watcher(self) -> None:
        """First of all, so that it does not start again what is ended."""
        watchers = activities.watchers(self.site.head_data_dir)
        for activity, how in activities.end(watchers, self.flight):
            if how == "still runs":
                self.lines.append(Line(str(activity), END, how, False))

    def _is_here(self, node: DaqNode) -> bool:
        """Whether a node is this computer, by whatever address."""
        address = self.site.addresses.get(node.ip_addr)
        return address is not None and is_local(address)

    def _here(self) -> bool:
        """Programs on the head node itself: HK recorders, and pipelines that no node has ended."""
        recorders = activities.hk_recorders(self.site.head_data_dir)
        results = activities.end(recorders, self.flight)
        others = {} if self.force else self._others_here()
        ours = [one for one in activities.pipelines() if one.pid not in others]
        results += activities.end(ours, self.flight, DRAIN_S)
        for pid, why in ({} if self.force else self._untold_here()).items():
            now = f"left alone: {why}; {NOT_OURS}"
            self.lines.append(Line(f"{activities.PIPELINE} (pid {pid})", END, now, False))
        for activity, how in results:
            self.lines.append(Line(str(activity), END, how, how != "still runs"))
        if not recorders:
            self.lines.append(Line("HK recorder", END, "none runs"))
        return all(how != "still runs" for _, how in results)


def node_label(node: DaqNode) -> str:
    """As a line of its own."""
    return f"DAQ node {node.ip_addr}"


def quick_statuses(shells: NodeShells) -> dict[DaqNode, NodeStatus]:
    """What the nodes say that answer soon: boards are not to send on because a node hangs."""
    pool = ThreadPoolExecutor(max(1, len(shells.nodes)), "quick status")
    asked = {pool.submit(daq_nodes.status, shells[node]): node for node in shells.nodes}
    done, _ = wait(asked, ANSWER_S)
    pool.shutdown(wait=False, cancel_futures=True)
    return {asked[one]: one.result() for one in done if one.exception() is None}


def _stopped_text(stopped: Stopped | None) -> str:
    if stopped is None:
        return "does not record this run"
    if not stopped.was_running:
        return "nothing ran there"
    parts = []
    for ended in stopped.ended:
        how = ended.problem or f"ended by {ended.signals[-1]} after {ended.seconds or 0:.1f} s"
        parts.append(f"hashpipe (pid {ended.process.pid}) {how}")
    return joined(parts)

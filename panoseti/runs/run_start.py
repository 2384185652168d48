"""Starting a run: all checks, then acts in recorded steps, undone in reverse when one fails.

`run_name` comes first and goes last.  The nodes are claimed before anything is sent to a board, so
that the loser of two starts does nothing to boards that record for the winner; recording runs on
every node before the first board sends.
Success means data: packets of every board that is expected are being recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from panoseti.boards.board_link import Outcome, open_link
from panoseti.boards.data_flow import (
    link_to_stop,
    set_destinations,
    start_acquisition,
    stop_data_flow,
)
from panoseti.bringup.readiness import load_settings
from panoseti.configs.load_configs import Site
from panoseti.configs.site import DaqNode
from panoseti.console import Console
from panoseti.errors import ObsError, RefusedError
from panoseti.flight import FlightRecorder
from panoseti.interrupts import uninterrupted
from panoseti.launch import launch, log_dir
from panoseti.nodes import daq_nodes
from panoseti.nodes.daq_nodes import NodeShells
from panoseti.runs import activities, run_state, run_stop
from panoseti.runs.begin_recording import Recording
from panoseti.runs.data_arrival import wait_for_data
from panoseti.runs.names import run_dir_name
from panoseti.runs.run_copies import copy_learnt, write_copies
from panoseti.runs.run_record import RunRecord, new_document
from panoseti.runs.run_state import ControlLock, Holder, new_holder
from panoseti.runs.start_checks import Checked, StartOptions, check_head_and_run, check_rest
from panoseti.software import sw_info
from panoseti.state_files import fsync_folder
from panoseti.words import joined

PROGRAM = "start.py"
LOGS = ("hp_stdout_", "hp_log_")


@dataclass(frozen=True)
class Started:
    """A run that records: who holds it, where its files will be, when it is to end; missing: what
    it goes without, and why.
    """

    holder: Holder
    run_dir: Path
    recording_unix: float
    planned_end_unix: float | None
    warnings: tuple[str, ...]
    missing: Mapping[str, str]


class StartFailedError(ObsError):
    """A start failed after its first side effect, and was undone."""


def start(site: Site, options: StartOptions, console: Console, flight: FlightRecorder) -> Started:
    """Start a run.

    RefusedError before any side effect; StartFailedError when it failed later and was undone.
    What had been recorded until then is collected, as a failed run.
    """
    check_head_and_run(site)
    with ControlLock(site.head_data_dir) as lock:
        _take(lock, site)
        with NodeShells(site.nodes_in_use(), site.obs, flight) as shells:
            checked = check_rest(site, options, shells)
            for warning in checked.warnings:
                console.warn(warning)
            starting = _Start(site, options, checked, shells, console, flight)
            try:
                return starting.run()
            except BaseException:
                lock.release()
                if starting.data_kept:
                    _finish(site, starting.holder, console, flight)
                raise


def _finish(site: Site, holder: Holder, console: Console, flight: FlightRecorder) -> None:
    """Collect what a start had recorded that failed."""
    try:
        run_stop.stop(site, run_stop.StopOptions(only=holder), console, flight)
    except (ObsError, OSError) as error:
        console.error(error)


def _take(lock: ControlLock, site: Site) -> None:
    try:
        free = lock.take(PROGRAM)
    except OSError as error:
        raise ObsError(
            f"{site.head_data_dir}: cannot be written: {error.strerror}; correct"
            " head_node_data_dir in daq_config.json or the directory's owner"
        ) from error
    if not free:
        at_work = lock.held_by()
        check_head_and_run(site)  # tells of the run of a start that was first
        raise RefusedError(
            f"{at_work} is at work at this moment; somebody else may be using the observatory:"
            " check (status.py)"
        )


def plan(site: Site, options: StartOptions, flight: FlightRecorder) -> Checked:
    """Do all checks of a start and nothing else (--dry-run); raises as `start` does."""
    check_head_and_run(site)
    with NodeShells(site.nodes_in_use(), site.obs, flight) as shells:
        return check_rest(site, options, shells)


class _Start:
    """The acts of one start, and the way back."""

    def __init__(
        self,
        site: Site,
        options: StartOptions,
        checked: Checked,
        shells: NodeShells,
        console: Console,
        flight: FlightRecorder,
    ) -> None:
        self._site = site
        self._options = options
        self._checked = checked
        self._part = checked.part
        self._shells = shells
        self._console = console
        self._flight = flight
        self._data_dir = site.head_data_dir
        self._undo: list[tuple[str, Callable[[], None]]] = []
        self._record: RunRecord | None = None
        self._flowing = False
        self._confirmed: set[str] = set()
        self.holder = Holder("")  # _claim makes the real one
        self._recording = self._recording_of(self.holder)

    def _recording_of(self, holder: Holder) -> Recording:
        return Recording(self._site, self._part, holder, self._shells, self._console, self._flight)

    @property
    def data_kept(self) -> bool:
        """Whether a start that was taken back has recorded something."""
        return self._recording.data_kept

    @property
    def _run(self) -> str:
        return self.holder.run

    @property
    def _run_dir(self) -> Path:
        return run_state.run_dir(self._data_dir, self._run)

    def run(self) -> Started:
        """All acts in their order."""
        try:
            self._claim()
            self._record = self._make_run_dir()
            self._acts(self._record)
            return self._succeeded(self._record)
        except BaseException as error:  # whatever it is: nothing may go on that nobody knows of
            first = isinstance(error, RefusedError) and self._record is None
            with uninterrupted(lambda: self._console.note("please wait: the start is undone")):
                left = [] if first else self._take_back(error)
            if first or not isinstance(error, (ObsError, OSError)):
                raise
            refused = isinstance(error, RefusedError) and not left and not self.data_kept
            kind = RefusedError if refused else StartFailedError
            raise kind(self._failed_text(error, left)) from error

    def _acts(self, record: RunRecord) -> None:
        self._act(record, "copy the configs", lambda: write_copies(self._site, self._run_dir))
        # Both come up while the pipelines do; the watcher waits until the run records.
        with ThreadPoolExecutor(2, "daemon") as pool:
            watcher = self._begin(pool, record, "start the watcher", self._watcher,
                                  self._end_watcher)  # fmt: skip
            if self._options.redis:
                recorder = self._begin(pool, record, "start the HK recorder", self._recorder,
                                       self._end_recorder)  # fmt: skip
            self._act(record, "point the links here", self._links, self._unlink)
            if self._options.data:
                self._act(record, "start recording", lambda: self._record_on_nodes(record),
                          lambda: self._recording.take_back(self._run_dir))  # fmt: skip
            if self._options.redis:
                recorder.result()
            if self._options.data:
                self._act(record, "load stale settings", self._settings)
                self._act(record, "tell the boards where to send", self._destinations)
                self._act(record, "start the data flow", self._flow, self._stop_flow)
                self._act(record, "wait for data of every board", self._wait_for_data)
        watcher.result()

    def _begin(
        self,
        pool: ThreadPoolExecutor,
        record: RunRecord,
        what: str,
        do: Callable[[], str],
        undo: Callable[[], None],
    ) -> Future[None]:
        """As `_act`, in a thread; the undo has its place in the order here."""
        self._undo.append((what, undo))
        return pool.submit(self._act, record, what, do)

    def _act(
        self,
        record: RunRecord,
        what: str,
        do: Callable[[], str | None],
        undo: Callable[[], None] | None = None,
    ) -> None:
        """Do it, intent and result recorded; the undo is known before, for half-done acts."""
        self._console.detail(what)
        if undo is not None:
            self._undo.append((what, undo))
        with record.act("start", what) as act:
            act.text = do() or ""

    # --- acts ---

    def _claim(self) -> None:
        """Take the observatory: run_name, before anything else."""
        while True:
            now = time.time()
            name = run_dir_name(self._site.obs.name, self._site.data.run_type, now)
            if not (self._data_dir / name).exists():
                break
            time.sleep(1 - now % 1)  # a run of this very second is there: the next one, then
        self.holder = new_holder(name, self._site.command_dir.resolve(), self._data_dir)
        self._recording = self._recording_of(self.holder)
        self._undo.append(("give the observatory back", self._release))
        run_state.claim(self._data_dir, self.holder)
        self._flight.note("run_name", run=name, token=self.holder.token)

    def _make_run_dir(self) -> RunRecord:
        self._undo.append(("remove the run directory", self._remove_run_dir))
        self._run_dir.mkdir()
        fsync_folder(self._data_dir)
        expected = self._part.expected(self._options.data)
        document = new_document(self.holder, self._options.argv, sw_info(), expected)
        record = RunRecord(self._run_dir, document, flight=self._flight)
        record.set(warnings=list(self._checked.warnings))
        return record

    def _settings(self) -> str:
        """MAROC and masks that a change of the data config made stale.

        A start that fails later leaves them so; the ledger of config.py says what is loaded.
        """
        boards = self._part.boards
        loaded = load_settings(self._site, self._console, self._flight, boards, PROGRAM)
        if not loaded.ok:
            problem = joined([str(problem) for problem in loaded.problems])
            bad = {one.where: f"{one.step}: {one.text}" for one in loaded.problems}
            if not set(bad) <= {board.ip for board in boards}:
                raise ObsError(problem)
            self._leave_out(bad, {}, problem)
        copy_learnt(self._site, self._run_dir)
        return ", ".join(f"{step.label}: {len(ips)}" for step, ips in loaded.boards.items())

    def _recorder(self) -> str:
        command_dir, words = self._site.command_dir, ["--run", self._run]
        pid = launch(activities.HK_RECORDER, command_dir, self._data_dir, words)
        return f"pid {pid}"

    def _links(self) -> None:
        try:
            run_state.link_run(self._data_dir, self._run)
        except OSError as error:  # links are a convenience; a run does not fail for them
            self._console.warn(f"{error.filename}: {error.strerror}")

    def _record_on_nodes(self, record: RunRecord) -> None:
        self._leave_out({}, self._recording.begin(record))

    def _destinations(self) -> None:
        with open_link(self._site, self._flight) as link:
            outcomes = set_destinations(self._site, link, self._part.boards)
        self._leave_out(_silent(outcomes), {})

    def _flow(self) -> None:
        self._flowing = True
        with open_link(self._site, self._flight) as link:
            outcomes = start_acquisition(self._site, link, self._part.boards)
        self._confirmed = {ip for ip, one in outcomes.items() if one.ok and not one.unconfirmed}
        self._leave_out(_silent(outcomes), {})

    def _leave_out(
        self, boards: Mapping[str, str], nodes: Mapping[DaqNode, str], problem: str = ""
    ) -> None:
        """Go on without them, where the operator and the policy allow it; else raise."""
        known = self._part.missing
        dead = self._dead_nodes(boards)
        nodes = {**nodes, **dead}
        boards = {ip: why for ip, why in boards.items() if self._node_of(ip) not in dead}
        dropped = self._part.leave_out(boards, nodes, problem=problem)
        new = {name: why for name, why in self._part.missing.items() if known.get(name) != why}
        if not new or self._record is None:
            return
        self._record.set(expected=asdict(self._part.expected(self._options.data)))
        for name, why in new.items():
            self._flight.note("left_out", run=self._run, name=name, why=why)
            self._console.warn(f"the run goes on without {name}: {why}")
        if self._flowing:
            with suppress(ObsError), link_to_stop(self._site, self._flight) as link:
                stop_data_flow(self._site, link, dropped)
        self._recording.end_on(nodes)

    def _dead_nodes(self, boards: Mapping[str, str]) -> dict[DaqNode, str]:
        """Nodes that are dead, if none of their boards is well: it is not the fault of boards."""
        well = {self._node_of(board.ip) for board in self._part.boards if board.ip not in boards}
        suspects = [node for node in self._part.nodes if node not in well]
        outcomes = self._shells.each(daq_nodes.status, suspects)
        return {node: str(one.problem) for node, one in outcomes.items() if one.problem}

    def _node_of(self, ip: str) -> DaqNode:
        return self._site.node_of(self._site.obs.quabo(ip).module_id)

    def _watcher(self) -> str:
        """A run without its watcher is better than none."""
        self._end_watcher()
        command_dir, words = self._site.command_dir, ["--run", self._run]
        try:
            pid = launch(activities.RUN_WATCHER, command_dir, self._data_dir, words)
        except ObsError as error:
            self._console.warn(f"{error}; nobody watches this run")
            return f"not started: {error}"
        return f"pid {pid}"

    def _wait_for_data(self) -> str:
        return wait_for_data(
            self._shells,
            self._part,
            self.holder.token,
            self._site.data.image is not None,
            self._confirmed if self._site.obs.run_policy.ph_may_be_quiet else set(),
            self._leave_out,
            self._console.warn,
        )

    def _succeeded(self, record: RunRecord) -> Started:
        duration_s = self._options.duration_s
        now = time.time()
        end = None if duration_s is None else now + duration_s
        record.set(recording_unix=now, planned_end_unix=end)
        self._flight.note("recording", run=self._run)
        missing = self._part.missing
        return Started(self.holder, self._run_dir, now, end, self._checked.warnings, missing)

    # --- the way back ---

    def _take_back(self, error: BaseException) -> list[str]:
        """Undo in reverse, whatever fails; what could not be undone."""
        stopped = isinstance(error, KeyboardInterrupt)
        why = "interrupted" if stopped else str(error) or type(error).__name__
        self._console.note(f"start failed: {why}; undoing it")
        self._flight.note("start_failed", run=self._run, why=why)
        left = []
        if self._record is not None:
            self._record.tolerate()
            self._record.set(recording_unix=None, planned_end_unix=None)
        while self._undo:
            what, act = self._undo.pop()
            self._flight.note("undo", act=what)
            try:
                if self._record is None:
                    act()
                else:
                    with self._record.act("undo", what):
                        act()
            except Exception as problem:  # the other acts are undone whatever it is
                left.append(f"{what}: {problem}")
        return left

    def _failed_text(self, error: BaseException, left: list[str]) -> str:
        text = f"start failed: {error}"
        if left:
            text += f"; not undone: {joined(left)}"
        if self.data_kept:
            return f"{text}; what was recorded until then is kept: {self._run_dir}"
        return f"{text}; stop.py puts that right" if left else f"{text}; everything was undone"

    def _stop_flow(self) -> None:
        with link_to_stop(self._site, self._flight) as link:
            problems = _silent(stop_data_flow(self._site, link, self._part.boards))
        if problems:
            raise ObsError(joined(list(problems.values())))

    def _end_recorder(self) -> None:
        ended = activities.end(activities.hk_recorders(self._data_dir), self._flight)
        left = [str(one) for one, how in ended if how == "still runs"]
        if left:
            raise ObsError(f"{joined(left)} still runs")

    def _end_watcher(self) -> None:
        activities.end(activities.watchers(self._data_dir), self._flight)

    def _unlink(self) -> None:
        if not self.data_kept:
            run_state.unlink_run(self._data_dir, self._run)

    def _remove_run_dir(self) -> None:
        """A run without data leaves only its record and the pipelines' words, in the log folder."""
        if self.data_kept or not self._run_dir.exists():
            return
        for path in self._run_dir.iterdir():
            if self._record is not None and path == self._record.path:
                path.rename(log_dir(self._data_dir) / f"failed_start_{self._run}.json")
            elif path.name.startswith(LOGS):
                path.rename(log_dir(self._data_dir) / f"failed_start_{self._run}.{path.name}")
            else:
                path.unlink()
        self._run_dir.rmdir()

    def _release(self) -> None:
        """Unless data wait to be collected: then stop gives it back, in the end."""
        found = run_state.read_holder(self._data_dir)
        if not self.data_kept and found is not None and found.token == self.holder.token:
            run_state.release(self._data_dir, self._run)


def _silent(outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    """The boards that have a problem, and which."""
    return {ip: outcome.problem for ip, outcome in outcomes.items() if outcome.problem}

"""Stopping: it always goes all the way, whatever is dead, broken or gone.

Boards are told to stop; every node's pipeline writes out what it has; the HK recorder ends; then
`run_name` goes, so that the next run may begin, and the files are collected.  Needed are ssh and
UDP alone: neither Redis, nor the recorder, nor a data config.  Safe to repeat at any point: a
collection that was broken off is taken up again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from panoseti.configs.load_configs import DAQ_CONFIG, Site
from panoseti.console import Console
from panoseti.errors import RefusedError
from panoseti.flight import FlightRecorder
from panoseti.nodes.daq_nodes import NodeShells
from panoseti.runs import lost_runs, run_state
from panoseti.runs.control_turn import take_turn
from panoseti.runs.end_recording import Ending, Line, quick_statuses
from panoseti.runs.lost_record import rebuilt_document
from panoseti.runs.run_finish import Finished, finish, only_collector
from panoseti.runs.run_record import (
    RUN_JSON,
    RunRecord,
    cleanup_asked,
    collection_broken_off,
    read_record,
)
from panoseti.runs.run_state import ControlLock, Holder, Marker, StateError
from panoseti.runs.stop_in_background import collect_in_background
from panoseti.words import joined

PROGRAM = "stop.py"
# Older runs that were never finished are history.
RUNS_LOOKED_AT = 200


@dataclass(frozen=True)
class StopOptions:
    """What an operator asked for.

    collect, cleanup: False = leave the data on the nodes, or leave them there as well; background:
    another process collects; run: finish this run (collect it again), whatever is in progress;
    if_in_progress: not where somebody else has ended it (of the watcher, which may wait for him);
    only: stop only the run of this holder (of --nsecs); force: stop what another head node has
    begun, too; check_all: look at every frame for the verdict; a run that is complete is not
    collected again.
    """

    collect: bool = True
    cleanup: bool = True
    background: bool = False
    run: str | None = None
    if_in_progress: bool = False
    only: Holder | None = None
    force: bool = False
    check_all: bool = False


@dataclass
class StopReport:
    """What a stop did.

    run: the one that was stopped or finished; holder: whose it was, where that is known;
    collector_pid: of the process that collects it in the background.
    """

    run: str | None = None
    holder: Holder | None = None
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    finished: Finished | None = None
    collector_pid: int | None = None

    @property
    def ok(self) -> bool:
        """Whether all that was asked for is true."""
        finished = self.finished is None or self.finished.ok
        return finished and all(line.ok for line in self.lines)


def stop(site: Site, options: StopOptions, console: Console, flight: FlightRecorder) -> StopReport:
    """Stop the run in progress, or whatever records without one, and collect it.

    RefusedError when that is not allowed; everything else that fails is in the report.
    """
    return _Stop(site, options, console, flight).run()


class _Stop:
    """One stop."""

    def __init__(
        self, site: Site, options: StopOptions, console: Console, flight: FlightRecorder
    ) -> None:
        self._site = site
        self._options = options
        self._console = console
        self._flight = flight
        self._data_dir = site.head_data_dir
        self._report = StopReport()
        self._bad_run_name = ""
        self._made_anew = False

    def run(self) -> StopReport:
        """All of it."""
        ending = None
        with ControlLock(self._data_dir) as lock:
            if self._is_about_the_present():
                turn = take_turn(lock, PROGRAM, self._console, self._flight)
                self._report.notes += turn
            # Another stop that was waited for may have ended it.
            if self._is_about_the_present():
                ending = self._present_run()
        if ending is None:
            run = self._options.run or ""
            if self._options.if_in_progress and not self._bad_run_name:
                self._note(f"{run} was ended by somebody else: it is left as they want it")
            else:
                self._old_run(run)
        elif ending.record is not None:
            self._finish(ending.record.path.parent, ending)
        elif self._report.run is None:
            self._tell_lost(ending)
            going_on = self._broken_off()
            if going_on is not None:
                self._old_run(going_on)
        return self._report

    def _is_about_the_present(self) -> bool:
        """Whether the run in progress is to be ended, or whatever records without one."""
        holder, run = self._holder(), self._options.run
        return run is None or (holder is not None and holder.run == run)

    def _present_run(self) -> Ending:
        """End the run in progress, or what records without one; another run may begin then."""
        holder = self._report.holder = self._holder()
        self._check_only(holder)
        run = self._report.run = holder.run if holder else self._run_of_nodes()
        self._tell_whose(holder)
        ending = self._ending(run)
        over = ending.run(holder)
        if ending.record is not None:
            self._ended(ending.record, over)
        if run is None:
            for name in sorted(ending.ended_runs):
                if (self._data_dir / name).is_dir():
                    self._note(f"data of {name} are still on the nodes: stop.py --run {name}")
        if run is None or ending.record is not None:
            self._give_back()  # else the next stop.py would not know what to collect
        return ending

    def _old_run(self, run: str) -> None:
        """Finish a run that is not the one in progress."""
        folder = run_state.run_dir(self._data_dir, run)
        if not any((folder / name).exists() for name in (RUN_JSON, DAQ_CONFIG)):
            self._take_up_lost(folder)
        self._report.run = run
        if self._options.check_all and self._is_marked(folder, Marker.RUN_COMPLETE):
            self._options = replace(self._options, collect=False)
        self._finish(folder, None)

    def _take_up_lost(self, folder: Path) -> None:
        """Make the directory of a run that only nodes know, with their copies of its configs."""
        asked = lost_runs.ask(self._site, self._site.daq.nodes, self._flight)
        lost = next((one for one in asked.lost if one.run == folder.name), None)
        if lost is None:
            if folder.is_dir():
                return
            last = joined(list(reversed(run_state.runs(self._data_dir))), ", ")
            unasked = f" ({joined(asked.problems)})" if asked.problems else ""
            raise RefusedError(
                f"no run {folder.name} in {self._data_dir}, nor on the DAQ nodes{unasked};"
                f" the last ones here: {last or 'none'}"
            )
        if lost.head and not (
            self._options.force and self._console.ask(f"{lost}, of {lost.head}: collect it here?")
        ):
            raise RefusedError(
                f"{lost} belongs to another head node, {lost.head}: collect it there, or with"
                " --force here if that one is gone"
            )
        self._made_anew = not folder.is_dir()
        folder.mkdir(exist_ok=True)
        self._note(f"no record of {lost} was here")
        with run_state.collect_lock(folder) as alone:
            why = lost_runs.bring_configs(self._site, folder, lost, self._flight) if alone else ""
        if why:
            self._note(f"{why}: what it was to record is not known")

    def _tell_lost(self, ending: Ending) -> None:
        """Name what ended without a trace here, of the nodes that answer."""
        nodes = [node for node in ending.nodes() if ending.is_over(node)]
        for line in lost_runs.advice(lost_runs.ask(self._site, nodes, self._flight).lost):
            self._note(line)

    def _end_old(self, run: str) -> Ending:
        """End it where a node could not be told before."""
        ending = self._ending(run)
        if ending.record is not None and not self._is_only_checked:
            self._ended(ending.record, ending.run_is_over())
        return ending

    @property
    def _is_only_checked(self) -> bool:
        """Whether all that is asked of a run is to look at its files: no node is needed."""
        return self._options.check_all and not self._options.collect

    def _ended(self, record: RunRecord, over: bool) -> None:
        if over:
            self._mark_ended(record)
        if self._options.collect:
            record.set(collect_asked={"unix": time.time(), "cleanup": self._options.cleanup})

    def _broken_off(self) -> str | None:
        """With no run in progress: the last one whose collection was broken off."""
        if not self._options.collect:
            return None
        found = []
        for run in run_state.runs(self._data_dir)[-RUNS_LOOKED_AT:]:
            folder = run_state.run_dir(self._data_dir, run)
            complete = self._is_marked(folder, Marker.RUN_COMPLETE)
            if not complete and self._is_broken_off(folder):
                found.append(run)
        for run in found[:-1]:
            self._note(f"the collection of {run} was broken off, too: stop.py --run {run}")
        if not found:
            return None
        folder = run_state.run_dir(self._data_dir, found[-1])
        as_asked = ""
        if not cleanup_asked(read_record(folder).document):
            self._options = replace(self._options, cleanup=False)
            as_asked = ", without clean-up, as it was asked for"
        self._note(f"the collection of {found[-1]} was broken off: going on with it{as_asked}")
        return found[-1]

    def _is_marked(self, folder: Path, marker: Marker) -> bool:
        """Whether a marker is set; one that cannot be read is a note, and keeps nothing back."""
        try:
            return run_state.read_marker(folder, marker) is not None
        except StateError as error:
            self._note(str(error))
            return False

    def _is_broken_off(self, folder: Path) -> bool:
        try:
            document = read_record(folder).document
            return collection_broken_off(document) and run_state.collector_pid(folder) is None
        except (OSError, StateError, KeyError, TypeError, ValueError):
            return False  # status.py tells of it

    def _ending(self, run: str | None) -> Ending:
        record = None if run is None else self._record(run)
        return Ending(
            self._site,
            self._flight,
            record,
            self._options.force,
            self._console.ask,
            lines=self._report.lines,
            notes=self._report.notes,
        )

    # --- which run ---

    def _holder(self) -> Holder | None:
        """The run in progress; a `run_name` that cannot be used is worked around."""
        try:
            self._bad_run_name = ""
            return run_state.read_holder(self._data_dir)
        except StateError as error:
            self._bad_run_name = str(error)
            return None

    def _check_only(self, holder: Holder | None) -> None:
        only = self._options.only
        if only is None:
            return
        if holder is None or (holder.run, holder.token) != (only.run, only.token):
            now = "no run is in progress now" if holder is None else f"now {holder} is in progress"
            raise RefusedError(f"{only.run} was ended by somebody else; {now}: left alone")

    def _run_of_nodes(self) -> str | None:
        """With an unusable `run_name`: the run that a node says it records, or the last unended."""
        if not self._bad_run_name:
            return None
        self._note(self._bad_run_name)
        nodes = Ending(self._site, self._flight).nodes()
        with NodeShells(nodes, self._site.obs, self._flight) as shells:
            said = [status.run for status in quick_statuses(shells).values() if status.run]
        for run in [*said, *reversed(run_state.runs(self._data_dir))]:
            folder = run_state.run_dir(self._data_dir, run)
            if not folder.is_dir():
                continue
            if run in said or not self._is_marked(folder, Marker.RECORDING_ENDED):
                self._note(f"taking {run} for the run in progress")
                return run
        return None

    def _tell_whose(self, holder: Holder | None) -> None:
        if holder is not None:
            self._console.note(f"stopping {holder}")
        elif self._report.run is None:
            self._console.note("no run is in progress; ending whatever records without one")
        self._flight.note("stop", run=self._report.run, holder=str(holder) if holder else None)

    def _note(self, text: str) -> None:
        self._report.notes.append(text)

    def _record(self, run: str) -> RunRecord | None:
        """run.json of the run; a new one where it cannot be used, the old one set aside; None
        where not even the run directory can be made.
        """
        folder = run_state.run_dir(self._data_dir, run)
        try:
            if not folder.is_dir():
                folder.mkdir()
                self._made_anew = True
        except OSError as error:
            now = f"{folder} is missing and cannot be made: {error.strerror}; then stop.py again"
            self._report.lines.append(Line("run directory", "collect", now, False))
            return None
        why = "run.json was missing"
        try:
            return read_record(folder, tolerant=True, flight=self._flight)
        except FileNotFoundError:
            pass
        except StateError as error:
            why = str(error)
            self._note(f"{error}; {self._set_aside(folder / RUN_JSON)}")
        record = RunRecord(folder, rebuilt_document(folder, why), True, self._flight)
        record.set()
        return record

    def _set_aside(self, path: Path) -> str:
        """Move an unusable state file out of the way; what became of it."""
        try:
            return f"moved to {run_state.set_aside(path, self._data_dir)}"
        except OSError as error:
            return f"cannot be moved away: {error.strerror}"

    def _mark_ended(self, record: RunRecord) -> None:
        folder = record.path.parent
        try:
            run_state.write_marker(folder, Marker.RECORDING_ENDED)
        except OSError as error:
            self._note(f"{folder}: {error.strerror}")
        except StateError as error:
            self._note(str(error))
        self._flight.note("recording_ended", run=folder.name)

    # --- after the recording ---

    def _finish(self, folder: Path, ending: Ending | None) -> None:
        """Collect a run, alone; ending: of the one that was in progress."""
        if self._options.background and self._collects_in_background(folder):
            return
        with only_collector(folder, self._console) as problem:
            if problem:
                done = Finished(folder, self._options.collect, problems=[problem])
                self._report.finished = done
                return
            # Only now: another one may have collected it meanwhile, and recorded that.
            if ending is None:
                ending = self._end_old(folder.name)
            elif ending.record is not None:
                ending.record.refresh()
            if ending.record is not None:
                self._collect(ending, ending.record)

    def _collect(self, ending: Ending, record: RunRecord) -> None:
        failed = [f"{line.what}: {line.now}" for line in self._report.lines if not line.ok]
        if self._is_only_checked:  # what failed as it was stopped, its files do not tell
            failed = _trouble_of(record)
        self._report.finished = finish(
            self._site,
            record,
            ending.nodes_of_run(),
            collect=self._options.collect,
            cleanup=self._options.cleanup,
            trouble=failed,
            console=self._console,
            flight=self._flight,
            accounts=ending.accounts,
            check_all=self._options.check_all,
        )
        if record.problem:
            self._note(record.problem)
        if self._made_anew:
            self._judge_new_folder(record)

    def _collects_in_background(self, folder: Path) -> bool:
        run, words = folder.name, [] if self._options.cleanup else ["--no_cleanup"]
        words += ["--check_all"] if self._options.check_all else []
        try:
            pid = collect_in_background(self._site.command_dir, self._data_dir, run, words)
        except OSError as error:
            self._note(f"stop.py cannot be started in the background ({error}); collecting here")
            return False
        self._flight.note("collect_in_background", run=run, pid=pid)
        self._report.collector_pid = pid
        return True

    def _judge_new_folder(self, record: RunRecord) -> None:
        """A start that was killed before it made the run directory has left nothing to keep."""
        folder = record.path.parent
        done = self._report.finished
        ours = {RUN_JSON, *Marker}
        if done is None or not done.ok or {path.name for path in folder.iterdir()} - ours:
            self._note(f"{folder} was missing: made anew")
            return
        try:
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        except OSError as error:
            self._note(f"{folder} was missing, and made anew: {error.strerror}")
            return
        self._report.finished = None
        self._note(f"{folder.name}: its start had not got further than the name; it is forgotten")

    def _give_back(self) -> None:
        """Remove run_name: another run may begin; an unusable one is moved away."""
        run = self._report.run
        try:
            if self._bad_run_name:
                path = run_state.run_name_path(self._data_dir)
                if path.exists():
                    self._note(f"run_name moved to {run_state.set_aside(path, self._data_dir)}")
            elif run is not None:
                run_state.release(self._data_dir, run)
                self._flight.note("run_name_removed", run=run)
        except (OSError, StateError) as error:
            self._report.lines.append(Line("run_name", "remove", str(error), False))


def _trouble_of(record: RunRecord) -> list[str]:
    """What failed as a run was stopped, by its last verdict."""
    verdict = record.document.get("verdict")
    trouble = verdict.get("trouble") if isinstance(verdict, dict) else None
    return [str(text) for text in trouble] if isinstance(trouble, list) else []

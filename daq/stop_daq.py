#!/usr/bin/env python3
"""Stop recording on this DAQ node; prints one JSON document.

Every hashpipe that is visible here is told to end: SIGINT, and time to write what it has received
(as long as its status shows that it does); then SIGTERM, then SIGKILL.  The state files go last.
Safe to repeat: with nothing running it only removes state files that were left behind.

Python >= 3.8, standard library and pgrep alone.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import daq_facts
import daq_leftovers
from daq_node import (
    A_START,
    DaqError,
    Document,
    Lock,
    Parser,
    RefusedError,
    RunState,
    StateError,
    call,
    describe,
    mark_over,
    open_data_dir,
    read_run_state,
    remove_state,
    run_argument,
)
from daq_process import (
    Identity,
    Pipeline,
    find_pipelines,
    is_alive,
    read_pid_file,
    read_status,
    send_signal,
)

EXAMPLE = """example:
  python3 stop_daq.py --data_dir /data/panoseti
"""
SOMEBODY_ELSE = "somebody else is using the observatory; ask them, or use --force"
POLL_S = 0.05
LOCK_WAIT_S = 10.0
TERM_WAIT_S = 10.0
KILL_WAIT_S = 10.0


class Ending:
    """One pipeline on its way out."""

    def __init__(self, pipeline: Pipeline, deadline_s: float, drain_s: float) -> None:
        self.pipeline = pipeline
        self.signals: List[str] = []
        self.problem = ""
        self.ended_s: Optional[float] = None
        self._begin = time.monotonic()
        self._progress = self._begin
        self._shown: object = None
        self._last = self._begin + drain_s
        self._deadlines = [deadline_s, TERM_WAIT_S, KILL_WAIT_S]
        self._send(signal.SIGINT)

    @property
    def over(self) -> bool:
        """Whether it has ended, or nothing more can be done."""
        return self.ended_s is not None or bool(self.problem)

    def step(self) -> None:
        """Look once; send the next signal when its time has come."""
        if self.over:
            return
        now = time.monotonic()
        if not is_alive(self.pipeline.identity):
            self.ended_s = round(now - self._begin, 3)
            return
        self._look(now)
        waited = now - self._progress > self._deadlines[len(self.signals) - 1]
        drained = now > self._last and len(self.signals) == 1
        if not waited and not drained:
            return
        if len(self.signals) == 3:
            self.problem = f"{self.pipeline} does not end even at SIGKILL: its disk hangs?"
        else:
            self._progress = now
            self._send(signal.SIGTERM if len(self.signals) == 1 else signal.SIGKILL)

    def _look(self, now: float) -> None:
        """Time starts anew with every sign that it writes out what it has received."""
        status = read_status(self.pipeline.status, self.pipeline.pid)
        if status is None or status.get("state") not in ("draining", "ended", "failed"):
            return
        shown = (status.get("state"), status.get("totals"))
        if shown != self._shown:
            self._shown = shown
            if len(self.signals) < 3:
                self._progress = now

    def _send(self, number: signal.Signals) -> None:
        self.signals.append(number.name)
        try:
            send_signal(self.pipeline.identity, number)
            send_signal(self.pipeline.identity, signal.SIGCONT)  # it may have been stopped
        except DaqError as error:
            self.problem = str(error)

    def document(self) -> Document:
        """For the JSON document."""
        how = {"signals": self.signals, "seconds": self.ended_s, "problem": self.problem or None}
        return {**self.pipeline.document(), **how}


class Stop:
    """The whole of it: every pipeline seen, and how each ends."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self.endings: Dict[Identity, Ending] = {}

    def check(self, state: Optional[RunState], pipelines: Sequence[Pipeline]) -> None:
        """Refuse what is not ours to stop."""
        if self._args.force:
            return
        owner, run = self._args.owner, self._args.run
        for pipeline in pipelines:
            if _is_anothers(pipeline.owner(), owner):
                raise RefusedError(
                    f"{pipeline} belongs to {pipeline.whose() or 'somebody'}: {SOMEBODY_ELSE}"
                )
            if run and pipeline.run and pipeline.run != run:
                raise RefusedError(f"{pipeline} records, not {run}; nothing was stopped")
        if run and state and state.run != run:
            raise RefusedError(f"this node is in run {state.run}, not {run}; nothing was stopped")

    def check_claim(self, state: Optional[RunState]) -> None:
        """Refuse to end the run of another head node, also when nothing records at the moment."""
        if self._args.force or state is None or not _is_anothers(state.owner, self._args.owner):
            return
        self.check(None, find_pipelines())
        raise RefusedError(
            f"this node belongs to run {state.run} of {state.whose()}, though nothing records:"
            f" {SOMEBODY_ELSE}"
        )

    def signal_all(self) -> None:
        """Tell every pipeline that has appeared to end, and look after the others."""
        new = [found for found in find_pipelines() if found.identity not in self.endings]
        self.check(None, new)
        for pipeline in new:
            self.endings[pipeline.identity] = Ending(
                pipeline, self._args.deadline_s, self._args.drain_s
            )
        for ending in self.endings.values():
            ending.step()

    def wait_all(self) -> None:
        """Until each has ended or cannot be ended."""
        while True:
            for ending in self.endings.values():
                ending.step()
            if all(ending.over for ending in self.endings.values()):
                self.signal_all()  # one more may have been launched meanwhile
                if all(ending.over for ending in self.endings.values()):
                    return
            time.sleep(POLL_S)


def main(argv: Sequence[str]) -> Document:
    """Stop recording; the JSON document."""
    args = _parser().parse_args(argv)
    folder = open_data_dir(args.data_dir)
    state, notes = _read_state()
    named, more = _read_pid()
    notes += more
    stop = Stop(args)
    stop.check(state, ())
    over = _runs_over(state, args)
    try:
        for run in over:
            mark_over(run)
    except OSError as error:
        over = []
        notes.append(f"cannot be kept from starting late: {describe(error)}")
    stop.check_claim(state)
    stop.signal_all()
    # A start under way holds the lock; its pipeline is ended as soon as it shows.
    with Lock("a stop", LOCK_WAIT_S, strict=False, busy=stop.signal_all) as lock:
        stop.wait_all()
        later, _ = _read_state()
        stop.check(later, ())
        stop.check_claim(later)
        state = state or later
        may_begin = "" if lock.held else _what_may_begin(lock.holder, over, args.run, notes)
        endings = list(stop.endings.values())
        final, status_run = _final_status(state, endings, folder)
        problems = [ending.problem for ending in endings if ending.problem]
        here = [e for e in endings if e.problem and e.pipeline.records_into(folder)]
        if may_begin:
            problems.append(may_begin)
        elif not here:
            notes += _remove_state(named, endings)
        if lock.held and not problems and not find_pipelines():
            cleared = daq_leftovers.clear()
            notes += [] if endings else cleared  # one that was ended in order leaves it, too
    document: Document = {
        "run": state.run if state is not None else status_run,
        "owner": state.owner if state is not None else None,
        "started_by": state.started_by if state is not None else None,
        "was_running": bool(endings),
        "ended": [ending.document() for ending in endings],
        "final": final,
        "notes": notes,
    }
    if problems:
        raise DaqError("; ".join(problems), **document)
    return document


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data_dir", required=True, help="data directory of this node")
    add("--run", type=run_argument, help="stop only this run; refuse when another one records")
    add("--over", type=run_argument, help="this run is over: refuse what its start asks for late")
    add("--owner", help="token: refuse to stop what belongs to another head node")
    add("--force", action="store_true", help="stop whatever records, whoever owns it")
    add("--deadline_s", type=float, default=15.0,
        help="patience with a pipeline that shows no progress (default: %(default)g)")  # fmt: skip
    add("--drain_s", type=float, default=300.0,
        help="patience with one that does (default: %(default)g)")  # fmt: skip
    return parser


def _is_anothers(found: Optional[str], owner: Optional[str]) -> bool:
    """Whether a token is of another head node than the one that asks, as far as that is known."""
    return bool(found and owner) and daq_facts.head_of(str(found)) != daq_facts.head_of(str(owner))


def _runs_over(state: Optional[RunState], args: argparse.Namespace) -> List[str]:
    """The runs for which nothing is begun here any more.

    By force that of another head node is one: its watcher would take the pipeline for dead and
    start it again.  Otherwise a run of the same name that is another's, begun in the same second,
    is none.
    """
    over = [] if args.over is None else [args.over]
    if state is not None and _is_anothers(state.owner, args.owner):
        over = [run for run in over if run != state.run]
        if args.force:
            over.append(state.run)
    return over


def _read_state() -> Tuple[Optional[RunState], List[str]]:
    """current_run_daq; an unreadable one does not keep a stop from being carried out."""
    try:
        return read_run_state(Path()), []
    except StateError as error:
        return None, [f"removed: {error}"]


def _read_pid() -> Tuple[Optional[Identity], List[str]]:
    try:
        return read_pid_file(Path()), []
    except StateError as error:
        return None, [f"removed: {error}"]


def _what_may_begin(holder: str, over: List[str], run: Optional[str], notes: List[str]) -> str:
    """What the helper that keeps the lock may still begin, in words; "" = nothing to end here.

    over: the runs whose starts begin nothing any more; run: the only one that is to be stopped.
    """
    its_run = holder[len(A_START) :].split(" ")[0] if holder.startswith(A_START) else ""
    if holder and not its_run:
        notes.append(f"{holder} is still at work here")  # another stop
    elif its_run in over:
        notes.append(f"{holder} is still at work here; it will not record, for its run is over")
    elif its_run and run not in (None, its_run):
        raise RefusedError(f"{holder} is at work here, not {run}; nothing was stopped")
    else:
        return (
            f"nothing records, but {holder or 'another start_daq.py'} is still at work here and may"
            " yet begin to record: stop again when it has ended; if it hangs, end it on this node"
        )
    return ""


def _final_status(
    state: Optional[RunState], endings: Sequence[Ending], folder: Path
) -> Tuple[Optional[Document], Optional[str]]:
    """The last status of the pipeline that recorded here, and its run."""
    for ending in endings:
        if ending.pipeline.records_into(folder) and ending.pipeline.status is not None:
            status = read_status(ending.pipeline.status, ending.pipeline.pid)
            return status, ending.pipeline.run
    if state is None:
        return None, None
    return read_status(Path(state.run) / daq_facts.status_name(state.daq_ip)), state.run


def _remove_state(named: Optional[Identity], endings: Sequence[Ending]) -> List[str]:
    """Remove daq_pid and, last, current_run_daq; what is worth telling."""
    notes = []
    if named is not None and all(named != ending.pipeline.identity for ending in endings):
        notes.append(
            f"daq_pid named pid {named.pid}, which had ended"
            + (" (its number is now another process's)" if _in_use(named.pid) else "")
        )
    remove_state(Path(daq_facts.PID_FILE))
    remove_state(Path(daq_facts.RUN_FILE))
    return notes


def _in_use(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


if __name__ == "__main__":
    sys.exit(call(main, sys.argv[1:]))

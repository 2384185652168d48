"""What start.py and stop.py tell in the end, in words and as JSON documents of a fixed form."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from daq.daq_facts import utc_text
from panoseti.console import Console
from panoseti.runs import run_summary
from panoseti.runs.run_finish import Finished
from panoseti.runs.run_record import RUN_JSON
from panoseti.runs.run_start import Started
from panoseti.runs.run_state import Holder
from panoseti.runs.run_stop import StopReport
from panoseti.runs.start_checks import Checked
from panoseti.words import shown_lines

NOTES_SHOWN = 20


def holder_document(holder: Holder | None) -> dict[str, Any] | None:
    """Who records, for JSON; the token is nobody's business."""
    if holder is None:
        return None
    return {
        "run": holder.run,
        "owner": holder.owner,
        "since_unix": holder.since_unix,
        "command_dir": holder.command_dir,
    }


def started_document(started: Started) -> dict[str, Any]:
    """JSON of a run that records."""
    return {
        "run": started.holder.run,
        "run_dir": str(started.run_dir),
        "owner": started.holder.owner,
        "recording_unix": started.recording_unix,
        "planned_end_unix": started.planned_end_unix,
        "warnings": list(started.warnings),
        "missing": dict(started.missing),
    }


def show_started(started: Started, console: Console) -> None:
    """The run that records, in words."""
    end = started.planned_end_unix
    until = "stop.py ends it" if end is None else f"until {utc_text(end)}"
    console.out(f"recording {started.holder.run} ({until})")
    console.out(f"run directory: {started.run_dir}")
    for name, why in started.missing.items():
        console.warn(f"recorded without {name}: {why}")


def checked_document(checked: Checked) -> dict[str, Any]:
    """JSON of what a start would do."""
    return {
        "boards": [board.ip for board in checked.boards],
        "nodes": {node.ip_addr: list(checked.part.modules_of(node)) for node in checked.nodes},
        "missing": checked.part.missing,
        "volumes": [
            {"where": v.where, "free_bytes": v.free_bytes, "rate_bytes_s": v.rate_bytes_s}
            for v in checked.volumes
        ],
        "warnings": list(checked.warnings),
    }


def show_checked(checked: Checked, console: Console) -> None:
    """What a start would do, in words."""
    for warning in checked.warnings:
        console.warn(warning)
    console.out(f"ready: {len(checked.boards)} boards would record")
    for node in checked.nodes:
        modules = ", ".join(map(str, checked.part.modules_of(node)))
        console.out(f"on {node.ip_addr}: modules {modules}")
    for volume in checked.volumes:
        console.out(str(volume))
    for name, why in checked.part.missing.items():
        console.warn(f"would be recorded without {name}: {why}")


def stop_document(report: StopReport) -> dict[str, Any]:
    """JSON of what a stop did."""
    finished = report.finished
    return {
        "ok": report.ok,
        "run": report.run,
        "holder": holder_document(report.holder),
        "lines": [asdict(line) for line in report.lines],
        "notes": report.notes,
        "collector_pid": report.collector_pid,
        "finished": None if finished is None else _finished_document(finished),
    }


def _finished_document(done: Finished) -> dict[str, Any]:
    return {
        "run_dir": str(done.run_dir),
        "collected": done.collected,
        "complete": done.complete,
        "nodes": [asdict(node) for node in done.nodes],
        "cuts": [asdict(cut) for cut in done.cuts],
        "problems": done.problems,
        "verdict": None if done.verdict is None else str(done.verdict),
        "reasons": done.reasons,
        "summary": None if done.summary is None else done.summary.document(),
    }


def show_stop(report: StopReport, console: Console) -> None:
    """What a stop did, in words: a line for each node and board, then the run."""
    for note in report.notes:
        console.warn(note)
    rows = [[line.what, line.asked, line.now] for line in report.lines]
    if rows:
        console.table(("what", "asked", "now"), rows)
    if report.finished is not None:
        show_finished(report.finished, console)
    elif report.collector_pid is not None:
        console.out(f"{report.run} is being collected by pid {report.collector_pid}: status.py")
    elif report.run is None:
        console.out("no run was in progress")
    for line in report.lines:
        if not line.ok:
            console.error(f"{line.what}: {line.now}")


def show_finished(done: Finished, console: Console) -> None:
    """How a run ended, in words."""
    for node in done.nodes:
        for left in node.left:
            console.warn(f"{node.node}: left there: {left}")
    for cut in done.cuts:
        console.warn(cut)
    if done.summary is not None and done.summary.rows:
        console.out()
        console.table(run_summary.COLUMNS, done.summary.table())
    console.out()
    console.out(f"run directory: {done.run_dir}")
    if done.verdict is not None and done.summary is not None:
        reasons = f": {'; '.join(done.reasons[:NOTES_SHOWN])}" if done.reasons else ""
        console.out(f"verdict: {done.verdict}{reasons} ({done.summary.checked})")
    run = done.run_dir.name
    if not done.collected:
        console.out(f"not collected; the data are on the nodes: stop.py --run {run}")
    elif done.problems:
        for problem in shown_lines(done.problems, str(done.run_dir / RUN_JSON)):
            console.error(problem)
        console.error(f"not all was collected; nothing is lost: try again: stop.py --run {run}")
    elif not done.complete:
        console.out(f"the nodes still have their copies; to remove them: stop.py --run {run}")

"""What an operator does about what is going on: what to type, and what to wait for."""

from __future__ import annotations

from pathlib import Path

from panoseti.bringup import session
from panoseti.bringup.session import SESSION_DAEMONS
from panoseti.runs import activities, lost_runs, run_owner, run_state
from panoseti.runs.observatory_status import ObservatoryStatus
from panoseti.runs.run_record import read_record
from panoseti.runs.run_state import Holder, StateError
from panoseti.words import joined


def advice(found: ObservatoryStatus, holder: Holder | None) -> list[str]:
    """Line by line; holder: the run in progress."""
    lines = [f"{n.ip_addr}: {text}" for n in found.nodes if n.status for text in n.status.problems]
    for one in found.open_runs:
        if one.collector_pid is not None:
            far = f" ({one.progress})" if one.progress else ""
            lines.append(f"{one.run} is being collected by pid {one.collector_pid}{far}")
        else:
            done = "collected, not cleaned up" if one.collect_complete else "not all collected"
            lines.append(f"{one.run} is {done}: stop.py --run {one.run}")
    lines += lost_runs.advice(found.lost_runs)
    lines += _advice_on_killed(found)
    if holder is None:
        return lines + _advice_on_strays(found)
    return lines + _advice_on_run(found, holder)


def _advice_on_strays(found: ObservatoryStatus) -> list[str]:
    """Where something records with no run in progress here."""
    token = run_owner.head_token(Path(found.data_dir))
    whose = [one["others"] for one in found.activities]
    whose += [
        run_owner.others_run(node.ip_addr, node.status, token)
        for node in found.nodes
        if node.status is not None and node.status.running
    ]
    advice = []
    if None in whose:
        advice.append("something records though no run is in progress: stop.py ends it")
    if others := [why for why in whose if why is not None]:
        advice.append(f"{joined(others)}: stop it there, or with stop.py --force here")
    return advice


def _advice_on_killed(found: ObservatoryStatus) -> list[str]:
    """What is missing since a daemon is gone that nobody ended."""
    advice = []
    killed = [one.name for one in found.daemons if one.killed]
    session_ones = [name for name in killed if name in SESSION_DAEMONS]
    if session_ones:
        others = any(name != session.HV_UPDATER for name in session_ones)
        flags = ["--redis_daemons"] if others else []
        flags += ["--hv_on"] if session.HV_UPDATER in session_ones else []
        advice.append(
            f"{joined(session_ones, ', ')} died: high voltage and"
            f" temperatures are not looked after: config.py {' '.join(flags)}"
        )
    if activities.HK_RECORDER in killed:
        advice.append(
            f"{activities.HK_RECORDER} died: the rest of this run has no housekeeping;"
            " stop.py and start.py begin another one"
        )
    return advice


def _advice_on_run(found: ObservatoryStatus, holder: Holder) -> list[str]:
    advice = []
    run = found.run
    begun = run is not None and run.recording_unix is not None
    should_record = _recording_nodes(found, holder) if begun else set()
    at_work = run_state.control_pid(Path(found.data_dir))
    if at_work is not None:
        advice.append(f"a start.py or stop.py is at work (pid {at_work})")
    elif run is not None and run.stop_begun:
        advice.append("the stop of this run was broken off: stop.py goes on with it")
    elif run is not None and run.recording_unix is None and not run.problem:
        advice.append("the start of this run was broken off: stop.py")
    if run is not None and run.problem and at_work is None:
        advice.append(f"{run.problem}: stop.py")
    end = run.planned_end_unix if run else None
    watcher = next(one for one in found.daemons if one.name == activities.RUN_WATCHER)
    if run is not None and begun and not run.stop_begun and at_work is None and not watcher.works:
        nobody = "" if end is None else ", and nobody may end it at its planned end"
        advice.append(
            f"nobody watches the run (run_watcher {watcher.problem}){nobody}: start.py --watch"
        )
    if end is not None and found.time_unix > end + 10:
        advice.append("the run is past its planned end: stop.py")
    for node in found.nodes:
        if node.status is None:
            continue
        if node.status.running and node.status.owner not in (None, "", holder.token):
            who = node.status.started_by or "somebody else"
            advice.append(f"{node.ip_addr} records another run, of {who}")
        elif not node.status.running and node.ip_addr in should_record:
            advice.append(f"{node.ip_addr} does not record this run any more: stop.py")
    return advice


def _recording_nodes(found: ObservatoryStatus, holder: Holder) -> set[str]:
    """The nodes that are to record the run in progress."""
    folder = run_state.run_dir(Path(found.data_dir), holder.run)
    try:
        document = read_record(folder).document
        records = bool(document["expected"]["quabos"])
        return set(document["expected"]["nodes"]) if records else set()
    except (OSError, StateError, KeyError, TypeError):
        return set()

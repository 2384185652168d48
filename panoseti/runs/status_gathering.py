"""What the observatory does at this moment: run, recording programs, nodes, boards, daemons.

Nothing is changed.  Whatever cannot be asked (a dead node, Redis, a broken state file) is a line
of its own, and keeps nothing else from being told.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from panoseti.boards import outlets
from panoseti.boards.addresses import redis_key
from panoseti.boards.packets import signed_detector_c
from panoseti.bringup import session
from panoseti.bringup.session import SESSION_DAEMONS
from panoseti.configs.board_files import QUABO_UIDS, known_uids
from panoseti.configs.load_configs import Site
from panoseti.configs.site import DaqNode, Quabo
from panoseti.errors import ConfigError, ObsError
from panoseti.flight import FlightRecorder
from panoseti.high_voltage.safety_status import safety_status
from panoseti.housekeeping.store import TIME_FIELD, Record, Store
from panoseti.launch import Heartbeat, why_unwritable
from panoseti.nodes import daq_nodes
from panoseti.nodes.daq_nodes import NodeShells
from panoseti.nodes.node_types import NodeRun, NodeStatus
from panoseti.nodes.remote import Shell
from panoseti.runs import activities, lost_runs, run_owner, run_state, status_advice
from panoseti.runs.collect_progress import read_progress
from panoseti.runs.observatory_status import (
    BoardLine,
    NodeLine,
    ObservatoryStatus,
    OpenRun,
    RunStatus,
)
from panoseti.runs.run_part import left_out
from panoseti.runs.run_record import RUN_JSON, read_record, unfinished
from panoseti.runs.run_snapshot import Snapshot, read_snapshot
from panoseti.runs.run_state import Holder, Marker, StateError

# Older runs that were never finished are history.
RUNS_LOOKED_AT = 200


def look(site: Site, flight: FlightRecorder) -> ObservatoryStatus:
    """Look at everything; nodes and power switches are asked at once."""
    with ThreadPoolExecutor(1) as beside:
        feeds = outlets.feeds(site.obs, site.obs.modules)
        power = beside.submit(outlets.look, site.obs, feeds)
        found = _look(site, flight)
        found.power = power.result()
    return found


def _look(site: Site, flight: FlightRecorder) -> ObservatoryStatus:
    found = ObservatoryStatus(time.time(), site.obs.name, str(site.head_data_dir))
    holder = _look_at_run(site, found)
    found.open_runs = _open_runs(site.head_data_dir, holder.run if holder else None)
    token = run_owner.head_token(site.head_data_dir)
    found.activities = [
        {
            "what": one.what,
            "pid": one.pid,
            "command": one.command,
            "others": run_owner.others_pipeline(one, token),
        }
        for one in activities.hk_recorders(site.head_data_dir) + activities.pipelines()
    ]
    seen = None
    if holder is not None:
        seen = read_snapshot(site.head_data_dir, holder.run, found.time_unix)
    _look_at_nodes(site, seen, found, flight)
    found.daemons = [session.state(name, site.head_data_dir) for name in SESSION_DAEMONS]
    if holder is not None:
        for name in (activities.HK_RECORDER, activities.RUN_WATCHER):
            found.daemons.append(session.state(name, site.head_data_dir))
    if strays := session.elsewhere(site):
        found.problems.append(session.elsewhere_text(strays))
    found.boards = _boards(site, found)
    found.safety = safety_status(site.head_data_dir)
    found.problems += filter(None, (found.safety.problem, why_unwritable(site.head_data_dir)))
    found.advice += status_advice.advice(found, holder)
    return found


# --- runs ---


def _look_at_run(site: Site, found: ObservatoryStatus) -> Holder | None:
    try:
        holder = run_state.read_holder(site.head_data_dir)
    except StateError as error:
        found.problems.append(str(error))
        found.advice.append("run_name is unusable: stop.py puts that right")
        return None
    if holder is not None:
        found.run = _run_status(site.head_data_dir, holder)
    return holder


def _run_status(data_dir: Path, holder: Holder) -> RunStatus:
    known = (holder.run, holder.owner, holder.since_unix, holder.command_dir)
    try:
        document = read_record(run_state.run_dir(data_dir, holder.run)).document
        return RunStatus(
            *known,
            recording_unix=document.get("recording_unix"),
            planned_end_unix=document.get("planned_end_unix"),
            half_done=tuple(
                f"{step['what']} {step['subject']}".strip() for step in unfinished(document)
            ),
            stop_begun=any(step.get("phase") in ("stop", "collect") for step in document["steps"]),
            missing=left_out(document),
        )
    except FileNotFoundError:
        return RunStatus(*known, problem=f"it has no {RUN_JSON}")
    except (StateError, KeyError) as error:
        return RunStatus(*known, problem=str(error))


def _open_runs(data_dir: Path, present: str | None) -> list[OpenRun]:
    found = []
    for run in run_state.runs(data_dir)[-RUNS_LOOKED_AT:]:
        folder = data_dir / run
        complete = run_state.is_marked(folder, Marker.RUN_COMPLETE)
        # os.path: False, too, in a folder of somebody else that we may not look into.
        if run != present and not complete and os.path.exists(folder / RUN_JSON):
            pid = run_state.collector_pid(folder)
            progress = None if pid is None else read_progress(folder)
            found.append(
                OpenRun(
                    run,
                    run_state.is_marked(folder, Marker.RECORDING_ENDED),
                    run_state.is_marked(folder, Marker.COLLECT_COMPLETE),
                    pid,
                    str(progress or ""),
                    _failed_files(folder),
                )
            )
    return found


def _failed_files(folder: Path) -> tuple[str, ...]:
    try:
        attempts = read_record(folder).document["collection"] or []
        return tuple(str(text) for text in attempts[-1]["problems"]) if attempts else ()
    except (OSError, StateError, KeyError, TypeError):
        return ()


# --- nodes and boards ---


def _look_at_nodes(
    site: Site, seen: Snapshot | None, found: ObservatoryStatus, flight: FlightRecorder
) -> None:
    """As the watcher of the run has just seen them; those that it does not watch are asked."""
    known = seen.nodes if seen is not None else {}
    others = [node for node in site.nodes_in_use() if node.ip_addr not in known]
    told: dict[str, tuple[NodeRun, ...]] = {}
    untold: list[str] = []

    def ask(shell: Shell) -> NodeStatus:
        status = daq_nodes.status(shell)
        try:
            told[shell.node.ip_addr] = daq_nodes.list_runs(shell)
        except ObsError as error:
            untold.append(str(error))
        return status

    with NodeShells(others, site.obs, flight) as shells:
        outcomes = shells.each(ask)
    found.nodes = [
        _node_line(site, node, outcomes[node].result, str(outcomes[node].problem or ""))
        if node in outcomes
        else _node_line(site, node, known[node.ip_addr].status, known[node.ip_addr].problem)
        for node in site.nodes_in_use()
    ]
    found.problems += [f"{node.ip_addr}: {node.problem}" for node in found.nodes if node.problem]
    found.problems += untold
    found.lost_runs = lost_runs.lost_among(site, told, _in_progress(found))


def _in_progress(found: ObservatoryStatus) -> set[str]:
    """Runs that record, or whose stop is under way, whosever they are."""
    runs = {node.status.run for node in found.nodes if node.status is not None}
    runs.add(found.run.run if found.run is not None else None)
    return {run for run in runs if run is not None}


def _node_line(site: Site, node: DaqNode, status: NodeStatus | None, problem: str) -> NodeLine:
    modules = tuple(module.id for module in site.modules_of(node))
    return NodeLine(node.ip_addr, modules, problem.removeprefix(f"{node.ip_addr}: "), status)


def _boards(site: Site, found: ObservatoryStatus) -> list[BoardLine]:
    records: dict[str, Record] = {}
    quabos = site.obs.quabos
    try:
        with Store(site.obs.redis_host, site.obs.redis_port) as store:
            records = store.get_records([redis_key(quabo.boardloc) for quabo in quabos])
    except ObsError as error:
        found.problems.append(f"housekeeping: {error}")
    uids: Mapping[str, str] = {}
    try:
        uids = known_uids(site.head_data_dir / QUABO_UIDS, site.obs)
    except ConfigError as error:
        found.problems.append(f"{QUABO_UIDS}: {error.faults[0]}")
    updater = next((one.beat for one in found.daemons if one.name == session.HV_UPDATER), None)
    last = _last_packets(found.nodes)
    labels = {module.id: module.label for module in site.obs.modules}
    return [
        BoardLine(
            module=quabo.module_id,
            label=labels[quabo.module_id],
            quabo=quabo.index,
            ip=quabo.ip,
            present=bool(uids[quabo.ip]) if quabo.ip in uids else None,
            hv=_hv_word(quabo, updater),
            data_age_s=_age(last.get((quabo.module_id, quabo.index)), found.time_unix),
            **_housekeeping(records.get(redis_key(quabo.boardloc), {}), found.time_unix),
        )
        for quabo in quabos
    ]


def _last_packets(nodes: list[NodeLine]) -> dict[tuple[int, int], float]:
    """When the last science packet of each board came, by module and index."""
    found: dict[tuple[int, int], float] = {}
    for node in nodes:
        if node.status is None or node.status.pipeline is None or not node.status.running:
            continue
        for count in node.status.pipeline.quabos:
            key = count.module, count.quabo
            found[key] = max(found.get(key, 0.0), count.last_packet_unix)
    return found


def _age(when_unix: float | None, now_unix: float) -> float | None:
    return None if when_unix is None else round(max(0.0, now_unix - when_unix), 1)


def _housekeeping(record: Record, now_unix: float) -> dict[str, Any]:
    temp1 = _number(record, "TEMP1")
    temp2 = _number(record, "TEMP2")
    volts = [_number(record, f"HVMON{chip}") for chip in range(4)]
    known = [abs(volt) for volt in volts if volt is not None]
    return {
        "hk_age_s": _age(_number(record, TIME_FIELD), now_unix),
        "detectors_c": None if temp1 is None else round(signed_detector_c(temp1), 1),
        "fpga_c": None if temp2 is None else round(temp2, 1),
        "hv_v": tuple(round(volt, 2) for volt in known) if len(known) == 4 else None,
    }


def _number(record: Record, name: str) -> float | None:
    try:
        return float(record[name])
    except (KeyError, ValueError):
        return None


def _hv_word(quabo: Quabo, updater: Heartbeat | None) -> str:
    states = updater.details.get("boards", {}) if updater else {}
    state = states.get(quabo.ip, {}) if isinstance(states, dict) else {}
    word = str(state.get("hv") or "")
    reason = str(state.get("reason") or state.get("problem") or "")
    return f"{word}: {reason}" if word and reason and word != "on" else word

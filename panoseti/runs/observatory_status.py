"""What the observatory does at this moment: run, recording programs, nodes, boards, daemons.

Nothing is changed.  Whatever cannot be asked (a dead node, Redis, a broken state file) is a line
of its own, and keeps nothing else from being told.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from panoseti.boards import outlets
from panoseti.boards.addresses import redis_key
from panoseti.boards.outlets import OutletState
from panoseti.boards.packets import signed_detector_c
from panoseti.bringup import session
from panoseti.bringup.session import SESSION_DAEMONS, DaemonState
from panoseti.configs import settings
from panoseti.configs.board_files import QUABO_UIDS, known_uids
from panoseti.configs.load_configs import Site, load_site
from panoseti.configs.site import DaqNode, Quabo
from panoseti.errors import ConfigError, ObsError
from panoseti.flight import FlightRecorder
from panoseti.high_voltage.safety_status import SafetyStatus, safety_status
from panoseti.housekeeping.store import TIME_FIELD, Record, Store
from panoseti.launch import Heartbeat, why_unwritable
from panoseti.nodes import daq_nodes
from panoseti.nodes.daq_nodes import NodeShells
from panoseti.nodes.node_types import NodeRun, NodeStatus
from panoseti.nodes.remote import Shell
from panoseti.runs import activities, lost_runs, run_owner, run_state
from panoseti.runs.collect_progress import read_progress
from panoseti.runs.lost_runs import LostRun
from panoseti.runs.run_part import left_out
from panoseti.runs.run_record import RUN_JSON, read_record, unfinished
from panoseti.runs.run_snapshot import Snapshot, read_snapshot
from panoseti.runs.run_state import Holder, Marker, StateError
from panoseti.words import joined

VERSION = 1
HK_RECORDER = activities.HK_RECORDER
# Older runs that were never finished are history.
RUNS_LOOKED_AT = 200


@dataclass(frozen=True)
class RunStatus:
    """The run in progress; stop_begun: whether a stop has begun to end it; missing: what it goes
    without, and why; problem: why nothing more is known of it.
    """

    run: str
    owner: str
    since_unix: float | None
    command_dir: str
    recording_unix: float | None = None
    planned_end_unix: float | None = None
    half_done: tuple[str, ...] = ()
    stop_begun: bool = False
    missing: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class OpenRun:
    """A run that is not in progress and not complete, and how far it is.

    progress: of the process that collects it, in words, "" = nobody does or it has just begun;
    failed: files that were not collected at the last try, with the reason.
    """

    run: str
    recording_ended: bool
    collect_complete: bool
    collector_pid: int | None
    progress: str
    failed: tuple[str, ...]


@dataclass(frozen=True)
class NodeLine:
    """A DAQ node; problem: why it could not be asked."""

    ip_addr: str
    modules: tuple[int, ...]
    problem: str
    status: NodeStatus | None

    @property
    def state(self) -> str:
        """In a word or two."""
        if self.status is None:
            return "cannot be asked"
        return "recording" if self.status.running else "idle"


@dataclass(frozen=True)
class BoardLine:
    """A board; None = not known.

    hk_age_s: of its last housekeeping; hv_v: magnitudes of the four detectors' bias; hv: what
    hv_updater says of it; data_age_s: since its last science packet in this run.
    """

    module: int
    label: str
    quabo: int
    ip: str
    present: bool | None
    hk_age_s: float | None
    detectors_c: float | None
    fpga_c: float | None
    hv_v: tuple[float, ...] | None
    hv: str
    data_age_s: float | None


@dataclass
class ObservatoryStatus:
    """All of it.

    power: outlets of power switches, where there are any (one that does not answer is shown as
    such, and is no problem); safety: trips and alarms that stand; problems: what could not be
    asked; advice: what to type; lost_runs: runs that nodes have and of which nothing is known here
    (of the nodes that were asked, which in a run are those it goes without).
    """

    time_unix: float
    observatory: str
    data_dir: str
    run: RunStatus | None = None
    activities: list[dict[str, Any]] = field(default_factory=list)
    open_runs: list[OpenRun] = field(default_factory=list)
    lost_runs: tuple[LostRun, ...] = ()
    nodes: list[NodeLine] = field(default_factory=list)
    daemons: list[DaemonState] = field(default_factory=list)
    boards: list[BoardLine] = field(default_factory=list)
    power: list[OutletState] = field(default_factory=list)
    safety: SafetyStatus = SafetyStatus((), ())
    problems: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """For --json."""
        return {
            "version": VERSION,
            "time_unix": self.time_unix,
            "observatory": self.observatory,
            "data_dir": self.data_dir,
            "run": None if self.run is None else asdict(self.run),
            "activities": self.activities,
            "open_runs": [asdict(one) for one in self.open_runs],
            "lost_runs": [asdict(one) for one in self.lost_runs],
            "nodes": [_node_document(node) for node in self.nodes],
            "daemons": [_daemon_document(one, self.time_unix) for one in self.daemons],
            "boards": [asdict(board) for board in self.boards],
            "power": outlets.as_json(self.power),
            "trips": list(self.safety.trips),
            "alarms": list(self.safety.alarms),
            "problems": self.problems,
            "advice": self.advice,
        }


def _node_document(node: NodeLine) -> dict[str, Any]:
    return {
        "ip_addr": node.ip_addr,
        "modules": list(node.modules),
        "state": node.state,
        "problem": node.problem,
        "status": None if node.status is None else node.status.document,
        "clock_offset_s": None if node.status is None else node.status.clock_offset_s,
    }


def _daemon_document(found: DaemonState, now_unix: float) -> dict[str, Any]:
    beat = found.beat
    return {
        "name": found.name,
        "pid": found.pid,
        "state": beat.state if beat else None,
        "age_s": round(beat.age_s(now_unix), 1) if beat else None,
        "problem": found.problem,
        "details": beat.details if beat else {},
    }


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
        for name in (HK_RECORDER, activities.RUN_WATCHER):
            found.daemons.append(session.state(name, site.head_data_dir))
    if strays := session.elsewhere(site):
        found.problems.append(session.elsewhere_text(strays))
    found.boards = _boards(site, found)
    found.safety = safety_status(site.head_data_dir)
    found.problems += filter(None, (found.safety.problem, why_unwritable(site.head_data_dir)))
    found.advice += _advice(found, holder)
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


# --- what to type ---


def _advice(found: ObservatoryStatus, holder: Holder | None) -> list[str]:
    advice = [f"{n.ip_addr}: {text}" for n in found.nodes if n.status for text in n.status.problems]
    for one in found.open_runs:
        if one.collector_pid is not None:
            far = f" ({one.progress})" if one.progress else ""
            advice.append(f"{one.run} is being collected by pid {one.collector_pid}{far}")
        else:
            done = "collected, not cleaned up" if one.collect_complete else "not all collected"
            advice.append(f"{one.run} is {done}: stop.py --run {one.run}")
    advice += lost_runs.advice(found.lost_runs)
    advice += _advice_on_killed(found)
    if holder is None:
        return advice + _advice_on_strays(found)
    return advice + _advice_on_run(found, holder)


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
    if HK_RECORDER in killed:
        advice.append(
            f"{HK_RECORDER} died: the rest of this run has no housekeeping;"
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


def time_left_s(site: Site, node: NodeLine) -> float | None:
    """How long the fullest volume of a node lasts at the rate of the run's data config."""
    if node.status is None or site.data_or_none is None:
        return None
    rate = settings.data_rate_bytes_s(site.data)
    placed = {module for volume in node.status.volumes for module in volume.modules}
    placed |= set(node.status.unusable)
    left = []
    for volume in node.status.volumes:
        own = [module for module in node.modules if module in volume.modules]
        if volume.default:
            own += [module for module in node.modules if module not in placed]
        if own:
            left.append(volume.free_bytes / (rate * len(own)))
    return min(left, default=None)


def with_data_config(site: Site) -> Site:
    """The site with its data config where that can be read (for the time left on disks)."""
    try:
        return load_site(site.command_dir)
    except ConfigError:
        return site

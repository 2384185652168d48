"""What there is to tell of the observatory at one moment, and the document of status.py --json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from panoseti.boards import outlets
from panoseti.boards.outlets import OutletState
from panoseti.bringup.session import DaemonState
from panoseti.high_voltage.safety_status import SafetyStatus
from panoseti.nodes.node_types import NodeStatus
from panoseti.runs.lost_runs import LostRun

VERSION = 1


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

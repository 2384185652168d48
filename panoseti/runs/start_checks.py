"""Everything a start looks at before its first side effect; every refusal is a RefusedError.

In this order: head node, run in progress, activities here and on the nodes, what bring-up left
(readiness: session daemons, boards, PH baseline), nodes reachable and fit, room on the disks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from panoseti.bringup import session
from panoseti.bringup.board_settings import BoardSettings
from panoseti.bringup.ledger_file import held_ledger
from panoseti.bringup.readiness import (
    Lack,
    in_words,
    present_boards,
    readiness,
    shutter_warnings,
    warnings_before_run,
)
from panoseti.configs.load_configs import Site
from panoseti.configs.site import DaqNode, Quabo
from panoseti.errors import RefusedError
from panoseti.local_host import local_addresses
from panoseti.nodes import daq_nodes
from panoseti.nodes.daq_nodes import NodeOutcome, NodeShells
from panoseti.nodes.node_types import NodeStatus
from panoseti.runs import activities, disk_room, recording_room
from panoseti.runs.disk_room import HOUR_S, Volume
from panoseti.runs.run_owner import head_token, others_pipeline, others_run
from panoseti.runs.run_part import Part
from panoseti.runs.run_state import in_progress_text, read_holder
from panoseti.words import joined

# The second of a packet is found by the computer's clock: it must be right within one.
CLOCK_TOLERANCE_S = 0.5
ABSENT = "absent at the last scan"


@dataclass(frozen=True)
class StartOptions:
    """What an operator asked for.

    hv: require the high voltage to be kept; redis: record housekeeping; data: record science
    data; duration_s: length of the run, None = until it is stopped; partial: go on with the
    healthy part, as far as the policy allows; argv: the command line.
    """

    hv: bool = True
    redis: bool = True
    data: bool = True
    duration_s: float | None = None
    partial: bool = False
    argv: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    """What a start may rely on: what takes part, what is worth telling, room on the disks."""

    part: Part
    warnings: tuple[str, ...]
    volumes: tuple[Volume, ...]

    @property
    def boards(self) -> tuple[Quabo, ...]:
        """The boards that are to send."""
        return self.part.boards

    @property
    def nodes(self) -> tuple[DaqNode, ...]:
        """The nodes that are to record."""
        return self.part.nodes


def check_head_and_run(site: Site) -> None:
    """Refuse where this is not the head node, or a run is in progress."""
    if not site.is_head_node_here():
        here = ", ".join(sorted(local_addresses()))
        raise RefusedError(
            f"this computer ({here}) is not the head node: head_node_ip_addr in daq_config.json is"
            f" {site.daq.head_node_ip_addr}; type it there"
        )
    holder = read_holder(site.head_data_dir)
    if holder is not None:
        raise RefusedError(in_progress_text(holder))


def check_rest(site: Site, options: StartOptions, shells: NodeShells) -> Checked:
    """All other checks; the nodes are asked at once."""
    check_activities_here(site)
    outcomes = shells.each(daq_nodes.status)
    _check_activities_there(outcomes)
    _check_claims(site, outcomes)
    session.refuse_elsewhere(session.elsewhere(site))
    with held_ledger(site.head_data_dir, "start.py"):
        pass  # RefusedError when config.py is at work
    hv = options.hv and options.redis
    wanted = BoardSettings(site)
    lacks = readiness(site, need_hv=hv, need_redis=options.redis, wanted=wanted)
    if any(lack.of_all or not lack.ip for lack in lacks):
        raise RefusedError(_not_ready(lacks))
    boards = present_boards(site)
    absent = _absent(site, boards) if options.data else []
    nodes = site.nodes_in_use() if options.data else ()
    part = Part(site, [*boards, *absent], nodes, options.partial)
    part.leave_out(
        {quabo.ip: ABSENT for quabo in absent}, error=RefusedError, problem=_absent_text(absent)
    )
    part.leave_out({k.ip: k.text for k in lacks}, error=RefusedError, problem=_not_ready(lacks))
    statuses = _check_nodes(outcomes, part) if options.data else {}
    volumes, warnings = _check_disks(site, options, part, statuses)
    problems = [str(text) for node in part.nodes for text in statuses[node].problems]
    warnings = [*problems, *warnings]
    if hv:
        warnings += warnings_before_run(site, wanted)
    if options.data:
        warnings += shutter_warnings(site, part.boards, look=options.redis)
    return Checked(part, tuple(warnings), tuple(volumes))


def _absent(site: Site, present: Sequence[Quabo]) -> list[Quabo]:
    """Boards that did not answer the last scan, though no config says that they are missing."""
    told = site.obs.known_absent
    return [q for q in site.obs.quabos if q not in present and q.ip not in told]


def _absent_text(absent: Sequence[Quabo]) -> str:
    return (
        f"{joined([quabo.ip for quabo in absent], ', ')}: {ABSENT}; mend that and run config.py, or"
        " enter what is known to be missing in absent_quabos of obs_config.json"
    )


def _not_ready(lacks: Sequence[Lack]) -> str:
    return f"not ready: {'; '.join(in_words(lacks))}"


def _check_disks(
    site: Site, options: StartOptions, part: Part, statuses: Mapping[DaqNode, NodeStatus]
) -> tuple[list[Volume], list[str]]:
    """The volumes that are written to, and warnings; refuse where one will not last."""
    min_s, warn_s = site.obs.recording_min_h * HOUR_S, site.obs.recording_warn_h * HOUR_S
    small: dict[DaqNode, str] = {}
    for room in recording_room.rooms(site, statuses):
        why = disk_room.why_too_small([room.volume], min_s, options.duration_s)
        if room.node in part.nodes and why:
            small[room.node] = why
    part.leave_out(nodes=small, error=RefusedError)
    taking_part = {node: statuses[node] for node in part.nodes}
    rooms = recording_room.rooms(site, taking_part)
    volumes = [room.volume for room in rooms if room.rate_bytes_s > 0]
    return volumes, disk_room.refuse_or_warn(volumes, min_s, warn_s, options.duration_s)


def check_activities_here(site: Site) -> None:
    """Refuse where something records on this computer; whose it is, where that is known."""
    pipelines = activities.pipelines()
    token = head_token(site.head_data_dir)
    others = [why for one in pipelines if (why := others_pipeline(one, token)) is not None]
    if others:
        raise RefusedError(
            f"{joined(others)}, on this computer; somebody else may be using the observatory: stop"
            " it there, or with stop.py --force here"
        )
    found = activities.hk_recorders(site.head_data_dir) + pipelines
    if found:
        raise RefusedError(
            f"{joined([str(one) for one in found])} active on the head node though no run is in"
            " progress; somebody else may be using it: check (status.py), then stop.py ends it"
        )


def _check_activities_there(outcomes: Mapping[DaqNode, NodeOutcome[NodeStatus]]) -> None:
    active = [
        f"{node.ip_addr}: {process}"
        + (f" of {outcome.result.whose}" if outcome.result.whose else "")
        for node, outcome in outcomes.items()
        if outcome.result is not None
        for process in outcome.result.processes
    ]
    if active:
        raise RefusedError(
            f"{joined(active)} active; somebody else may be using the observatory: check"
            " (status.py), then stop.py ends it"
        )


def _check_claims(site: Site, outcomes: Mapping[DaqNode, NodeOutcome[NodeStatus]]) -> None:
    """A node whose pipeline died, or that was rebooted, still belongs to its run."""
    token = head_token(site.head_data_dir)
    found = [
        others_run(node.ip_addr, outcome.result, token)
        for node, outcome in outcomes.items()
        if outcome.result is not None
    ]
    others = [text for text in found if text is not None]
    if others:
        raise RefusedError(
            f"{joined(others)}; somebody else may be using the observatory: check there; if that"
            " run is gone, stop.py --force"
        )


def _check_nodes(
    outcomes: Mapping[DaqNode, NodeOutcome[NodeStatus]], part: Part
) -> dict[DaqNode, NodeStatus]:
    """The status of every node that takes part; refuse when one is unreachable or unfit."""
    bad: dict[DaqNode, str] = {}
    for node in part.nodes:
        outcome = outcomes[node]
        problem = str(outcome.problem or "") or _unfit(node, outcome.value)
        if problem:
            bad[node] = problem
    part.leave_out(nodes=bad, error=RefusedError, problem="; ".join(bad.values()))
    statuses = {node: outcomes[node].value for node in part.nodes}
    _check_module_dirs(statuses, part)
    return statuses


def _check_module_dirs(statuses: Mapping[DaqNode, NodeStatus], part: Part) -> None:
    """Refuse where a module's directory is no directory, or a link to a disk that is not there."""
    bad = {
        module: f"{node.ip_addr}: {status.unusable[module]}: mount that disk or correct the link"
        for node, status in statuses.items()
        for module in part.modules_of(node)
        if module in status.unusable
    }
    boards = {board.ip: bad[board.module_id] for board in part.boards if board.module_id in bad}
    part.leave_out(boards, error=RefusedError, problem="; ".join(bad.values()))


def _unfit(node: DaqNode, status: NodeStatus) -> str:
    """Why a node cannot record, "" = it can."""
    problems = []
    if status.helpers != daq_nodes.current_helpers():
        problems.append(f"{node.ip_addr}: its helpers are of another version;"
                        f" run: {daq_nodes.INIT_REMEDY}")  # fmt: skip
    if abs(status.clock_offset_s) > CLOCK_TOLERANCE_S:
        problems.append(
            f"{node.ip_addr}: its clock is {status.clock_offset_s:+.1f} s off the head node's"
            f" (limit {CLOCK_TOLERANCE_S:g} s): set up time synchronisation"
        )
    problems += [
        f"{node.ip_addr}: {volume.path} is read-only: mount it for writing"
        for volume in status.volumes
        if volume.read_only
    ]
    return "; ".join(problems)

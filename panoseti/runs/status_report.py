"""The status of the observatory in words: the run, then tables of nodes, daemons and boards."""

from __future__ import annotations

from daq.daq_facts import utc_text
from panoseti.boards import outlets
from panoseti.configs import settings
from panoseti.configs.load_configs import Site, load_site
from panoseti.console import Console
from panoseti.errors import ConfigError
from panoseti.runs.disk_room import duration_text, size_text
from panoseti.runs.observatory_status import BoardLine, NodeLine, ObservatoryStatus, RunStatus
from panoseti.runs.run_record import RUN_JSON
from panoseti.words import shown_lines

NODE_COLUMNS = ("DAQ node", "modules", "state", "packets", "frames", "partial", "lost", "dropped",
                "rejected", "free", "time left")  # fmt: skip
DAEMON_COLUMNS = ("daemon", "pid", "state", "age s", "problem")
BOARD_COLUMNS = ("module", "quabo", "address", "HK age s", "detectors C", "FPGA C", "HV V", "HV",
                 "data age s")  # fmt: skip


def with_data_config(site: Site) -> Site:
    """The site with its data config where that can be read (for the time left on disks)."""
    try:
        return load_site(site.command_dir)
    except ConfigError:
        return site


def show(found: ObservatoryStatus, site: Site, console: Console) -> None:
    """All of it; site: with data config where there is one, for the time left on disks."""
    console.out(f"observatory {found.observatory}, {utc_text(found.time_unix)}")
    if found.run is None:
        console.out("no run is in progress")
    else:
        _show_run(found.run, found.time_unix, console)
    for activity in found.activities:
        console.out(f"active here: {activity['what']} (pid {activity['pid']})")
    console.out()
    console.table(NODE_COLUMNS, [_node_row(node, site) for node in found.nodes])
    console.out()
    rows: list[list[object]] = []
    for one in found.daemons:
        beat = one.beat
        age_s = None if beat is None else round(beat.age_s(found.time_unix), 1)
        state = None if beat is None else "killed" if one.killed else beat.state
        rows.append([one.name, one.pid, state, age_s, one.problem])
    console.table(DAEMON_COLUMNS, rows)
    console.out()
    console.table(BOARD_COLUMNS, [_board_row(board) for board in found.boards])
    if found.power:
        console.out()
        console.table(outlets.COLUMNS, outlets.as_table(found.power))
    for line in found.safety.lines():
        console.error(line)
    for problem in found.problems:
        console.error(problem)
    for open_run in found.open_runs:
        for failed in shown_lines(open_run.failed, f"{open_run.run}/{RUN_JSON}"):
            console.warn(f"{open_run.run}: not collected: {failed}")
    for text in found.advice:
        console.warn(text)


def _show_run(run: RunStatus, now_unix: float, console: Console) -> None:
    since = ""
    if run.since_unix is not None:
        ago = duration_text(max(0.0, now_unix - run.since_unix))
        since = f" since {utc_text(run.since_unix)} ({ago})"
    console.out(f"run in progress: {run.run} of {run.owner or 'somebody unknown'}{since}")
    if run.planned_end_unix is not None:
        console.out(f"planned end: {utc_text(run.planned_end_unix)}")
    for name, why in run.missing.items():
        console.out(f"recorded without {name}: {why}")
    for half in run.half_done:
        console.out(f"begun and not finished: {half}")


def _node_row(node: NodeLine, site: Site) -> list[object]:
    modules = ",".join(map(str, node.modules))
    row: list[object] = [node.ip_addr, modules, node.state]
    status = node.status
    if status is None:
        return row + [None] * (len(NODE_COLUMNS) - len(row))
    pipeline = status.pipeline
    totals = pipeline.totals if pipeline else {}
    free = min((volume.free_bytes for volume in status.volumes), default=None)
    left_s = _time_left_s(site, node)
    return [
        *row,
        totals.get("received"),
        pipeline.frames if pipeline else None,
        pipeline.partial if pipeline else None,
        totals.get("lost"),
        totals.get("kernel_drops"),
        totals.get("rejected"),
        None if free is None else size_text(free),
        None if left_s is None else duration_text(left_s),
    ]


def _time_left_s(site: Site, node: NodeLine) -> float | None:
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


def _board_row(board: BoardLine) -> list[object]:
    volts = None if board.hv_v is None else " ".join(f"{volt:.1f}" for volt in board.hv_v)
    state = board.hv if board.present is not False else "absent at the last scan"
    return [
        board.label, board.quabo, board.ip, board.hk_age_s, board.detectors_c, board.fpga_c,
        volts, state, board.data_age_s,
    ]  # fmt: skip

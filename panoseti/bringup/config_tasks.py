"""What config.py can be asked for, task by task: when it may be, what is done, what is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict

from panoseti.boards import firmware, verified
from panoseti.boards.firmware import FIELDS
from panoseti.boards.firmware_images import Area, built_text
from panoseti.boards.firmware_load import Loaded, load_firmware, would_load
from panoseti.bringup import boot, overview, session_setup
from panoseti.bringup.board_settings import CLOSED, OPEN
from panoseti.bringup.board_setup import (
    load_maroc,
    load_masks,
    move_shutters,
    set_hk_destination,
    shutter_drivers,
)
from panoseti.bringup.bring_up import BringUp, Due
from panoseti.bringup.config_request import Job, Task
from panoseti.bringup.device_tasks import DEVICE_TASKS, show_power
from panoseti.bringup.node_setup import (
    NODES,
    NodeSetup,
    disk_room,
    ledger_name,
    nodes_of,
    why_set_up,
)
from panoseti.bringup.session_end import high_voltage_off, shut_down
from panoseti.calibration import calibration_report, ph_baselines
from panoseti.calibration.threshold_measure import measure_thresholds
from panoseti.configs.board_files import PH_BASELINE, read_ph_baseline
from panoseti.errors import ObsError
from panoseti.high_voltage.safety_status import acknowledge_hv
from panoseti.housekeeping.hk_watch import Firmware

SUMMARY_COLUMNS = ("board", "serial", "mean", "median", "stddev", "min", "max")


def _show(job: Job, shut_down_s: float | None = None) -> None:
    """The boards in a table; shut_down_s: when their shutdown was begun, by the monotonic clock."""
    outlets = show_power(job)
    dark = {module for state in outlets if state.on is False for module in state.modules}
    rows = overview.board_rows(job.work, dark)
    if shut_down_s is not None:
        failed = {problem.where: str(problem) for problem in job.work.problems}
        rows = overview.shut_down_rows(rows, failed, time.monotonic() - shut_down_s)
        for row in rows:
            if row.state.startswith(overview.HAS_HV):
                job.work.board_fault(row.ip, "shutdown", f"{row.state}; cut the module's power")
    job.document["boards"] = overview.as_json(rows)
    if not job.console.json_output:
        if outlets:
            job.console.out()
        job.console.table(overview.COLUMNS, overview.as_table(rows))


def _ping(job: Job) -> None:
    boards = job.work.boards
    answering = boot.ping(job.work, boards)
    job.document["ping"] = {quabo.ip: quabo.ip in answering for quabo in boards}
    for quabo in boards:
        if quabo.ip not in answering:
            job.work.board_fault(quabo.ip, "ping", "no answer")
    job.console.out(f"ping: {len(answering)} of {len(boards)} boards answer")


def _get_uids(job: Job) -> None:
    work = job.work
    answering = boot.ping(work, work.boards)
    for quabo in work.boards:
        if quabo.ip not in answering:
            work.absent(quabo)
            work.board_fault(quabo.ip, "UID", "no answer to ping; left out of everything")
    work.save_uids()
    work.book.save()
    boot.read_uids(work, [quabo for quabo in work.boards if quabo.ip in answering])
    uids = {quabo.ip: work.uids.get(quabo.ip, "") for quabo in work.boards}
    job.document["uids"] = uids
    if not job.console.json_output:
        rows = [(ip, uid or "absent", work.settings.serialno(uid)) for ip, uid in uids.items()]
        job.console.table(("board", "UID", "serial"), rows)


def _load(area: Area) -> Callable[[Job], None]:
    def do(job: Job) -> None:
        told_twice = job.request.golden_is_meant
        loaded = load_firmware(job.work, job.boards(), area=area, told_twice=told_twice)
        _show_loaded(job, area, loaded)

    return do


def _would_load(area: Area) -> Callable[[Job], Mapping[str, str]]:
    return lambda job: would_load(job.work, job.boards(), area)


def _show_loaded(job: Job, area: Area, loaded: Mapping[str, Loaded]) -> None:
    job.document[FIELDS[area]] = {ip: asdict(found) for ip, found in loaded.items()}
    if loaded and not job.console.json_output:
        rows = [
            (ip, found.file, "loaded" if found.written else "was there", f"{found.took_s:.0f} s")
            for ip, found in loaded.items()
        ]
        job.console.table(("board", "image", "flash", "time"), rows)


def _reboot(job: Job) -> None:
    _show_silver(job, boot.reboot(job.work, job.boards()))


def _show_silver(job: Job, silver: dict[str, Firmware]) -> None:
    job.document["silver"] = {ip: asdict(firmware) for ip, firmware in silver.items()}
    if silver and not job.console.json_output:
        rows = [(ip, fw.version, built_text(fw.built)) for ip, fw in silver.items()]
        job.console.table(("board", "silver", "built"), rows)


def _hk_dest(job: Job) -> None:
    set_hk_destination(job.work, job.boards())


def _daemons(job: Job) -> None:
    session_setup.start_housekeeping(job.work, job.boards())


def _hv_on(job: Job) -> None:
    if session_setup.ask_for_hv(job.work, job.boards()) and session_setup.start_hv(job.work):
        session_setup.confirm_hv(job.work, job.boards())
        job.console.note("HV: kept at its set point by hv_updater, as the temperature asks for")
        verified.tell(job.work, [verified.see_hv(job.work, job.boards())])


def _masks(job: Job) -> None:
    load_masks(job.work, job.boards())


def _maroc(job: Job) -> None:
    load_maroc(job.work, job.boards())


def _calibrate(job: Job) -> None:
    _show_baseline_report(job, calibration_report.measure_baselines(job.work, job.boards()))


def _show_baseline_report(job: Job, report: calibration_report.BaselineReport) -> None:
    _show_summaries(job, report.summaries)
    job.document["ph_baseline_news"] = report.news
    if not job.console.json_output:
        for line in report.news:
            job.console.out(line)


def _measure_thresholds(job: Job) -> None:
    proposals = measure_thresholds(job.work, job.boards())
    job.document["thresholds"] = [asdict(found) for found in proposals]
    if job.console.json_output:
        return
    columns = calibration_report.THRESHOLD_COLUMNS
    job.console.table(columns, calibration_report.threshold_rows(proposals))
    for line in calibration_report.threshold_lines(proposals):
        job.console.out(line)


def _versions(job: Job) -> None:
    found = firmware.versions(job.work, job.boards())
    job.document["versions"] = [asdict(version) for version in found]
    for version in found:
        if version.odd:
            job.work.board_fault(version.ip, "firmware", version.odd)
    if not job.console.json_output:
        rows = [(v.ip, v.serialno, v.build, v.release or "", v.odd) for v in found]
        job.console.table(("board", "serial", "kind", "firmware", "odd"), rows)


def _acknowledge(job: Job) -> None:
    work = job.work
    everything = len(work.boards) == len(work.site.obs.quabos)
    modules = None if everything else [module.id for module in work.modules]
    gone = acknowledge_hv(work.site, modules, work.console, work.flight)
    job.document["acknowledged"] = [str(trip) for trip in gone]


def _show_baselines(job: Job) -> None:
    work = job.work
    baseline = read_ph_baseline(work.site.head_data_dir / PH_BASELINE)
    age_h = (time.time() - baseline.date_unix) / 3600
    summaries = {
        quabo.ip: ph_baselines.summary(baseline.coefs[work.uids[quabo.ip]])
        for quabo in work.boards
        if work.uids.get(quabo.ip) in baseline.coefs
    }
    job.document["ph_baseline_date_unix"] = baseline.date_unix
    job.console.out(f"PH baselines: {age_h:.1f} h old (counts)")
    _show_summaries(job, summaries)
    for quabo in job.boards():
        if quabo.ip not in summaries:
            work.fault(quabo.ip, "PH baseline", "none; measure it: config.py --calibrate_ph")


def _show_summaries(job: Job, summaries: dict[str, ph_baselines.Summary]) -> None:
    job.document["ph_baselines"] = {ip: asdict(summary) for ip, summary in summaries.items()}
    if job.console.json_output or not summaries:
        return
    rows = [
        (
            ip, job.work.settings.serialno(job.work.uids[ip]), f"{found.mean:.1f}",
            f"{found.median:.1f}", f"{found.stddev:.1f}", found.min, found.max,
        )
        for ip, found in summaries.items()
    ]  # fmt: skip
    job.console.table(SUMMARY_COLUMNS, rows)


def _shutters(state: str) -> Callable[[Job], None]:
    def do(job: Job) -> None:
        drivers = shutter_drivers(job.boards())
        if not drivers:
            job.work.fault("shutter", state, "no quabo 1, which drives it, among these boards")
        move_shutters(job.work, drivers, state)

    return do


def _nodes(job: Job) -> None:
    site = job.work.site
    NodeSetup(job.work, nodes_of(site, job.work.modules)).finish()


def _end_daemons(job: Job) -> None:
    session_setup.end_watched_hv(job.work, high_voltage_off(job.work))


def _disk_space(job: Job) -> None:
    rooms = disk_room(job.work)
    job.document["disk_space"] = [asdict(room) for room in rooms]
    if not job.console.json_output:
        rows = [
            (room.where, ",".join(map(str, room.modules)) or "-", room.free, room.left)
            for room in rooms
        ]
        job.console.table(("volume", "modules", "free", "recording left"), rows)


def _shut_down(job: Job) -> None:
    begun_s = time.monotonic()
    shut_down(job.work)
    _show(job, begun_s)


def _bring_up(job: Job) -> None:
    request, work = job.request, job.work
    bring_up = BringUp(work, request.redo, request.dry_run)
    nodes = _due_nodes(bring_up)
    try:
        bring_up.run()
    finally:
        if nodes is not None:
            nodes.finish()
    job.document["plan"] = [asdict(due) for due in bring_up.due]
    if request.dry_run:
        for due in bring_up.due:
            job.console.out(str(due))
        if not bring_up.due:
            job.console.out("nothing is missing or stale")
        return
    if bring_up.baselines is not None:
        _show_baseline_report(job, bring_up.baselines)
    _verify(job)
    _show(job)
    if work.problems:
        count = len(work.problems)
        job.console.out(f"not ready: {count} problem{'s' if count > 1 else ''}")
    elif bring_up.due:
        job.console.out(f"ready: {len(work.boards)} boards")
    else:
        job.console.out(f"ready: {len(work.boards)} boards, nothing was to be done")


def _verify(job: Job) -> None:
    """What the boards show of what was done to them."""
    checks = verified.look_at(job.work, [q for q in job.boards() if job.work.ledger.uid_of(q.ip)])
    job.document["verified"] = {check.what: check.as_json() for check in checks}
    verified.tell(job.work, checks)


def _due_nodes(bring_up: BringUp) -> NodeSetup | None:
    """Begin with the DAQ nodes whose software is missing or old; None = there is none."""
    work = bring_up.work
    due = {}
    for node in nodes_of(work.site, work.modules):
        try:
            reason = why_set_up(work, node)
        except ObsError as error:
            work.fault(ledger_name(node), "software", str(error))
            continue
        if bring_up.asked_again(NODES):
            reason = "asked for by --redo"
        if reason is not None:
            due[node] = reason
    items = [Due("software", ledger_name(node), why) for node, why in due.items()]
    return NodeSetup(work, list(due)) if bring_up.plan(items) else None


BRING_UP = Task("bring_up", _bring_up, "the bring-up", needs_data=True)
HV_OFF = Task("hv_off", lambda job: None, "switch the high voltage off", in_run=True)
TASKS = (
    HV_OFF,
    Task("show", _show, "show the boards", False, True, True, True),
    Task("ping", _ping, "ping the boards", False, True),
    Task("get_uids", _get_uids, "read UIDs"),
    Task(
        "load_golden",
        _load(Area.GOLDEN),
        "load the golden firmware",
        plan=_would_load(Area.GOLDEN),
    ),
    Task("loads", _load(Area.SILVER), "load the silver firmware", plan=_would_load(Area.SILVER)),
    Task("firmware_versions", _versions, "list firmware versions", False, True),
    Task("reboot", _reboot, "reboot boards"),
    Task("hk_dest", _hk_dest, "set the HK destination"),
    Task("redis_daemons", _daemons, "start capture_hk and temperature_guard", in_run=True),
    Task("ack_hv", _acknowledge, "acknowledge trips of the high voltage", in_run=True),
    Task("hv_on", _hv_on, "start hv_updater, which switches HV on", in_run=True),
    Task("mask_config", _masks, "load trigger masks", needs_data=True),
    Task("maroc_config", _maroc, "load MAROC settings", needs_data=True),
    Task("calibrate_ph", _calibrate, "measure PH baselines", needs_data=True),
    Task("show_ph_baselines", _show_baselines, "show PH baselines", False, True, True),
    Task("measure_thresholds", _measure_thresholds, "scan thresholds in the dark", needs_data=True),
    *DEVICE_TASKS,
    Task("shutter_open", _shutters(OPEN), "open shutters", in_run=True),
    Task("shutter_close", _shutters(CLOSED), "close shutters", in_run=True),
    Task("init_daq_nodes", _nodes, "put the software on DAQ nodes"),
    Task("disk_space", _disk_space, "show disk space", False, True, needs_data=True),
    Task("stop_redis_daemons", _end_daemons, "end the daemons of the session"),
    Task("shutdown", _shut_down, "shut the session down"),
)

"""Bringing the session's daemons up and down as a step of the bring-up.

A daemon that was started from configs that have changed since is started anew.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from panoseti.boards.board_work import Result, Results, Work, addresses
from panoseti.bringup import session
from panoseti.bringup.ledger import Inputs, Step, Value, content_digest
from panoseti.bringup.session import CAPTURE_HK, HV_UPDATER, SESSION_DAEMONS, TEMPERATURE_GUARD
from panoseti.configs.load_configs import DAQ_CONFIG, OBS_CONFIG, Site
from panoseti.configs.site import Quabo
from panoseti.errors import ObsError
from panoseti.high_voltage.hv_off_asked import off_asked_unix
from panoseti.high_voltage.hv_trips import read_trips
from panoseti.housekeeping.hk_watch import StoreWatch, wait_heard
from panoseti.housekeeping.store import Store
from panoseti.launch import read_heartbeat

DAEMONS = "daemons"
# Boards send HK every 3 s.  HV comes after three packets that agree, two that show it off, a
# rehearsal of the interlock, and four steps of at least one packet each.
FIRST_HK_S = 10.0
HV_ON_S = 60.0


def wanted_inputs(site: Site, name: str) -> Inputs:
    """What a daemon works with: of obs_config.json no more than it uses, since a new start of
    hv_updater costs the high voltage of all boards.
    """
    obs = site.obs
    modules = [(m.id, m.ip_addr, m.command_echo, m.wps) for m in obs.modules]
    fields: dict[str, Value] = {
        "modules": content_digest(modules),
        "redis": f"{obs.redis_host}:{obs.redis_port}",
        "alarm_hook": content_digest(obs.alarm_hook),
        "command_source_port": obs.command_source_port,
        "command_pacing": content_digest(dataclasses.asdict(obs.command_pacing)),
    }
    if name in (TEMPERATURE_GUARD, HV_UPDATER):
        fields["hk_max_age_s"] = obs.hk_max_age_s
    if name == TEMPERATURE_GUARD:
        outlets = [dataclasses.asdict(outlet) for outlet in obs.power_switches]
        how = (outlets, obs.power_credentials, obs.power_switch_api)
        fields["power switches"] = content_digest(how)
    if name == HV_UPDATER:
        fields["detector_overvoltage"] = obs.detector_overvoltage_v
    return {
        OBS_CONFIG: fields,
        DAQ_CONFIG: {
            "head_node_ip_addr": site.daq.head_node_ip_addr,
            "head_node_data_dir": site.daq.head_node_data_dir,
        },
    }


def why_start(work: Work, name: str) -> str | None:
    """Why a daemon must be started (again); None when it works with the present configs."""
    found = session.state(name, work.site.head_data_dir)
    if not found.works:
        return found.problem
    entry = work.ledger.others.get(name)
    if entry is None or entry.facts.get("pid") != found.pid:
        return None  # somebody started it by hand, with configs of their own choice
    return work.ledger.why_other(name, wanted_inputs(work.site, name))


def start_daemon(work: Work, name: str) -> bool:
    """Start a daemon where that is needed; whether it works.  A failure is a fault."""
    reason = why_start(work, name)
    if reason is None:
        return True
    begin_s = time.monotonic()
    try:
        if session.process(name, work.site.head_data_dir) is not None:
            session.end(work.site, [name], work.flight)
        session.start(work.site, name, work.flight)
    except ObsError as error:
        work.fault(name, DAEMONS, str(error))
        return False
    found = session.state(name, work.site.head_data_dir)
    work.ledger.finish_other(name, time.time(), wanted_inputs(work.site, name), {"pid": found.pid})
    work.book.save()
    work.console.note(f"{name}: started ({reason}), {time.monotonic() - begin_s:.1f} s")
    return True


def start_housekeeping(work: Work, boards: Sequence[Quabo]) -> bool:
    """Start capture_hk and, once the boards' housekeeping has come, temperature_guard.

    Whether both work; boards without housekeeping are faults of their own.
    """
    try:
        session.require_redis(work.site)
    except ObsError as error:
        work.fault("redis", DAEMONS, str(error))
        return False
    if not start_daemon(work, CAPTURE_HK):
        return False
    _await_housekeeping(work, boards)
    return start_daemon(work, TEMPERATURE_GUARD)


def _await_housekeeping(work: Work, boards: Sequence[Quabo]) -> None:
    obs = work.site.obs
    since_unix = time.time() - obs.hk_max_age_s
    try:
        with StoreWatch(Store(obs.redis_host, obs.redis_port), boards) as watch:
            silent = wait_heard(watch, [quabo.ip for quabo in boards], since_unix, FIRST_HK_S)
    except ObsError as error:
        work.fault("redis", DAEMONS, str(error))
        return
    for ip in sorted(silent):
        work.fault(
            ip,
            "housekeeping",
            f"none has come for {FIRST_HK_S + obs.hk_max_age_s:g} s, so that it may not have high"
            f" voltage; if it is running: config.py --quabo {ip} --reboot --hk_dest",
        )


def start_hv(work: Work) -> bool:
    """Start hv_updater, which needs the other daemons; whether it works.

    Not after somebody has asked for HV off since this work was begun.
    """
    if _off_asked_since(work):
        return False
    for name in (CAPTURE_HK, TEMPERATURE_GUARD):
        found = session.state(name, work.site.head_data_dir)
        if not found.works:
            text = f"not started, since {name} {found.problem}: config.py --redis_daemons"
            work.fault(HV_UPDATER, DAEMONS, text)
            return False
    if not start_daemon(work, HV_UPDATER):
        return False
    if _off_asked_since(work):  # while it was being started
        end_daemons(work, [HV_UPDATER])
        return False
    return True


def _off_asked_since(work: Work) -> bool:
    """Whether HV off was asked for since this work was begun; that is a fault.

    Any other note than the one from before: the clock may have been set back in between.
    """
    try:
        asked_unix = off_asked_unix(work.site.head_data_dir)
    except ObsError as error:
        work.fault(HV_UPDATER, DAEMONS, f"not started: {error}")
        return True
    if asked_unix == work.hv_off_asked:
        return False
    asked = time.strftime("%H:%M:%SZ", time.gmtime(asked_unix))
    text = f"not started: HV off was asked for at {asked}, after this config.py had begun"
    work.fault(HV_UPDATER, DAEMONS, f"{text}; if it may be on again: config.py")
    return True


def why_hv_off(site: Site, boards: Sequence[Quabo]) -> dict[str, str]:
    """The boards whose high voltage is not on at this moment, and why."""
    found = session.state(HV_UPDATER, site.head_data_dir)
    if not found.works:
        return dict.fromkeys((quabo.ip for quabo in boards), f"{HV_UPDATER} {found.problem}")
    return {ip: lack.reason for ip, lack in hv_lacks(site, boards).items()}


def confirm_hv(work: Work, boards: Sequence[Quabo]) -> None:
    """Wait until the boards have confirmed their high voltage; one whose stays off is a fault.

    A confirmation from before a board's last reboot or PH baseline, which takes HV away for a
    while, is none.
    """
    work.carry_out(
        Step.HV, boards, lambda able, heard: _await_hv(work, able, heard), limit_s=HV_ON_S
    )


def _await_hv(work: Work, boards: Sequence[Quabo], heard: Callable[[str], None]) -> Results:
    deadline = time.monotonic() + HV_ON_S
    since = {quabo.ip: _disturbed_unix(work, quabo.ip) for quabo in boards}
    off = {quabo.ip for quabo in boards}
    while True:
        found = session.state(HV_UPDATER, work.site.head_data_dir)
        lacks = hv_lacks(work.site, boards, since)
        for ip in sorted(off - lacks.keys()):
            heard(ip)
        off = set(lacks)
        waiting = any(not lack.in_vain for lack in lacks.values())
        if not waiting or not found.works or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    if not found.works:
        problem = f"{HV_UPDATER} {found.problem}; config.py --hv_on"
        return {quabo.ip: Result(problem) for quabo in boards}
    return {q.ip: Result(lacks[q.ip].reason if q.ip in lacks else "") for q in boards}


def _disturbed_unix(work: Work, ip: str) -> float:
    """When something that takes the HV of a board away was done last, Unix time in s."""
    entries = [work.ledger.entry(ip, step) for step in (Step.REBOOT, Step.PH_BASELINE)]
    return max((e.done_unix or e.begun_unix for e in entries if e is not None), default=0.0)


@dataclass(frozen=True)
class HvLack:
    """Why the HV of a board is not on; coming: it is on its way, and needs nothing but time;
    in_vain: waiting is of no use, since it did not rise or a trip stands against it.
    """

    reason: str
    coming: bool = False
    in_vain: bool = False


def hv_lacks(
    site: Site, boards: Sequence[Quabo], since: Mapping[str, float] | None = None
) -> dict[str, HvLack]:
    """The boards that the updater has not got on, with its reasons.

    since: Unix times by address; the housekeeping that showed HV on must have come later.
    """
    beat = read_heartbeat(site.head_data_dir, HV_UPDATER)
    states = beat.details.get("boards", {}) if beat else {}
    tripped = _tripped(site)
    lacks = {}
    for quabo in boards:
        state = states.get(quabo.ip, {})
        module = quabo.boardloc // 4
        if state.get("hv") != "on":
            said = state.get("reason") or state.get("problem") or "hv_updater does not know it"
            coming, paused = bool(state.get("coming")), bool(state.get("paused"))
            if paused:
                said = f"{said}; tried again every minute"
            in_vain = paused or not tripped.isdisjoint({(module, ""), (module, quabo.ip)})
            lacks[quabo.ip] = HvLack(said if coming else f"off: {said}", coming, in_vain)
        elif float(state.get("hk_unix", 0.0)) < (since or {}).get(quabo.ip, 0.0):
            lacks[quabo.ip] = HvLack("not seen on since the reboot or the PH baseline", True)
    return lacks


def _tripped(site: Site) -> set[tuple[int, str]]:
    """Modules, and boards of them, that stay off until somebody acknowledges."""
    try:
        return {trip.key for trip in read_trips(site.head_data_dir)}
    except ObsError:
        return set()  # hv_updater says so, of every board


def end_watched_hv(work: Work, unproven: Collection[str]) -> bool:
    """End the daemons, unless there are boards whose HV may be on; whether they were ended.

    Those need somebody who switches them off again and again, and cuts their power.
    """
    if not unproven:
        end_daemons(work)
        return True
    work.fault(
        "session",
        DAEMONS,
        f"{TEMPERATURE_GUARD} and {CAPTURE_HK} are not ended, since HV off of"
        f" {addresses(sorted(unproven))} is not proven; cut the power of the module, or mend the"
        " board, then repeat this",
    )
    return False


def end_daemons(work: Work, names: Sequence[str] = tuple(reversed(SESSION_DAEMONS))) -> None:
    """End daemons in the order given; the updater switches HV off as it ends."""
    problems = session.end(work.site, names, work.flight)
    for name, problem in problems.items():
        if problem:
            work.fault(name, DAEMONS, problem)
        else:
            work.console.note(f"{name}: ended")
    idle = [name for name in names if name not in problems]
    if idle:
        work.console.detail(f"{addresses(idle)}: did not run")

"""Bringing the session's daemons up and down as a step of the bring-up.

A daemon that was started from configs that have changed since is started anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from panoseti.boards.board_work import Result, Results, Work, addresses
from panoseti.bringup import session
from panoseti.bringup.board_settings import BoardSettings
from panoseti.bringup.daemon_inputs import why_start
from panoseti.bringup.ledger import Step
from panoseti.bringup.session import CAPTURE_HK, HV_UPDATER, SESSION_DAEMONS, TEMPERATURE_GUARD
from panoseti.configs.load_configs import Site
from panoseti.configs.site import Quabo
from panoseti.errors import ConfigError, ObsError
from panoseti.high_voltage import hv_asked
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


def start_daemon(work: Work, name: str) -> bool:
    """Start a daemon where that is needed; whether it works.  A failure is a fault."""
    reason = why_start(work.site, name)
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


def ask_for_hv(work: Work, boards: Sequence[Quabo]) -> bool:
    """Note that these boards may have HV; whether that is so.

    Beside those of before while an hv_updater runs: a new one begins with these alone.  Not after
    somebody has asked for HV off since this work was begun.
    """
    if _off_asked_since(work):
        return False
    data_dir, ips = work.site.head_data_dir, [quabo.ip for quabo in boards]
    anew = session.process(HV_UPDATER, data_dir) is None
    try:
        if problem := hv_asked.ask(data_dir, ips, anew):
            work.console.warn(f"{problem}; made anew: other boards are off until asked for again")
        if _off_asked_since(work):  # in the same moment
            hv_asked.take_back(data_dir, ips)
            return False
    except ObsError as error:
        work.fault(HV_UPDATER, DAEMONS, str(error))
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


Volts = tuple[float, ...]


def nominal_volts(
    settings: BoardSettings, uids: Mapping[str, str], boards: Sequence[Quabo]
) -> dict[str, Volts]:
    """The bias at 25 degC that the present files ask for, V, by address.

    Without the boards that they say nothing about: those have no high voltage.
    """
    found: dict[str, Volts] = {}
    try:
        settings.db  # noqa: B018 (a file that cannot be read is read once, not for each board)
    except ConfigError:
        return found
    for quabo in boards:
        try:
            found[quabo.ip] = settings.nominal_v(uids.get(quabo.ip, ""))
        except ConfigError:
            continue
    return found


def why_hv_off(work: Work, boards: Sequence[Quabo]) -> dict[str, str]:
    """The boards whose high voltage is not what it should be at this moment, and why."""
    found = session.state(HV_UPDATER, work.site.head_data_dir)
    if not found.works:
        return dict.fromkeys((quabo.ip for quabo in boards), f"{HV_UPDATER} {found.problem}")
    asked = nominal_volts(work.settings, work.uids, boards)
    return {ip: lack.reason for ip, lack in hv_lacks(work.site, boards, asked).items()}


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
    asked = nominal_volts(work.settings, work.uids, boards)
    off = {quabo.ip for quabo in boards}
    while True:
        found = session.state(HV_UPDATER, work.site.head_data_dir)
        lacks = hv_lacks(work.site, boards, asked, since)
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
    """Why the HV of a board is not what it should be; coming: it is on its way, and needs nothing
    but time; in_vain: waiting is of no use, since it did not rise or a trip stands against it;
    asked: False = it is off since nobody has asked for it.
    """

    reason: str
    coming: bool = False
    in_vain: bool = False
    asked: bool = True


def hv_lacks(
    site: Site,
    boards: Sequence[Quabo],
    asked: Mapping[str, Volts],
    since: Mapping[str, float] | None = None,
) -> dict[str, HvLack]:
    """The boards that the updater has not got on, with its reasons, or has on for other voltages.

    asked: `nominal_volts`, which the set point that is on must have been worked out from.
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
            lacks[quabo.ip] = HvLack(
                said if coming else f"off: {said}", coming, in_vain, state.get("asked") is not False
            )
        elif float(state.get("hk_unix", 0.0)) < (since or {}).get(quabo.ip, 0.0):
            lacks[quabo.ip] = HvLack("not seen on since the reboot or the PH baseline", True)
        elif reason := other_volts(state.get("nominal_v"), asked.get(quabo.ip)):
            lacks[quabo.ip] = HvLack(reason, coming=True)
    return lacks


def other_volts(set_for: object, asked: Volts | None) -> str:
    """Why a set point is not what the files ask for, "" = it is, or they ask for nothing.

    set_for: the bias at 25 degC that hv_updater says it was worked out from.  The temperature,
    which it follows from there, does not matter.
    """
    if asked is None:
        return ""
    if not isinstance(set_for, list):
        return "not set by the present files yet"
    if tuple(set_for) == asked:
        return ""
    old, new = (" ".join(f"{volt:g}" for volt in volts) for volts in (set_for, asked))
    return f"set for {old} V at 25 degC, but the files ask for {new} V"


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

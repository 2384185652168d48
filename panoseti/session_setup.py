"""Bringing the session's daemons up and down as a step of the bring-up.

A daemon that was started from configs that have changed since is started anew.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from panoseti import session
from panoseti.board_work import Work, addresses
from panoseti.errors import ObsError
from panoseti.hk_watch import StoreWatch, wait_heard
from panoseti.launch import read_heartbeat
from panoseti.ledger import Inputs, Step, content_digest
from panoseti.load_configs import DAQ_CONFIG, OBS_CONFIG, Site
from panoseti.session import CAPTURE_HK, HV_UPDATER, SESSION_DAEMONS, TEMPERATURE_GUARD
from panoseti.site import Quabo
from panoseti.store import Store

DAEMONS = "daemons"
# Boards send HK every 3 s.  HV comes after three packets that agree, two that show it off, a
# rehearsal of the interlock, and four steps of at least one packet each.
FIRST_HK_S = 10.0
HV_ON_S = 60.0


def wanted_inputs(work: Work) -> Inputs:
    """What the daemons work with."""
    return {
        OBS_CONFIG: {"content": content_digest(_plain(work.site.obs))},
        DAQ_CONFIG: {
            "head_node_ip_addr": work.site.daq.head_node_ip_addr,
            "head_node_data_dir": work.site.daq.head_node_data_dir,
        },
    }


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value)


def why_start(work: Work, name: str) -> str | None:
    """Why a daemon must be started (again); None when it works with the present configs."""
    found = session.state(name, work.site.head_data_dir)
    if not found.works:
        return found.problem
    entry = work.ledger.others.get(name)
    if entry is None or entry.facts.get("pid") != found.pid:
        return None  # somebody started it by hand, with configs of their own choice
    return work.ledger.why_other(name, wanted_inputs(work))


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
    work.ledger.finish_other(name, time.time(), wanted_inputs(work), {"pid": found.pid})
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
    """Start hv_updater, which needs the other daemons; whether it works."""
    for name in (CAPTURE_HK, TEMPERATURE_GUARD):
        found = session.state(name, work.site.head_data_dir)
        if not found.works:
            text = f"not started, since {name} {found.problem}: config.py --redis_daemons"
            work.fault(HV_UPDATER, DAEMONS, text)
            return False
    return start_daemon(work, HV_UPDATER)


def confirm_hv(work: Work, boards: Sequence[Quabo]) -> None:
    """Wait until the boards have confirmed their high voltage; one whose stays off is a fault.

    A confirmation from before a board's last reboot is none.
    """
    for ip, reason in _await_hv(work, boards).items():
        work.fault(ip, "HV", reason)


def _await_hv(work: Work, boards: Sequence[Quabo]) -> dict[str, str]:
    """The boards whose HV is not on in the end, and why."""
    deadline = time.monotonic() + HV_ON_S
    while True:
        booted = {q.ip: work.ledger.done_unix(q.ip, Step.REBOOT) or 0.0 for q in boards}
        off = hv_off_reasons(work.site, boards, booted)
        if not off or time.monotonic() > deadline:
            return off
        time.sleep(0.1)


def hv_off_reasons(
    site: Site, boards: Sequence[Quabo], booted: Mapping[str, float] | None = None
) -> dict[str, str]:
    """The boards that the updater has not got on, with its reasons.

    booted: Unix times by address; the housekeeping that showed HV on must have come later.
    """
    beat = read_heartbeat(site.head_data_dir, HV_UPDATER)
    states = beat.details.get("boards", {}) if beat else {}
    reasons = {}
    for quabo in boards:
        state = states.get(quabo.ip, {})
        if state.get("hv") != "on":
            said = state.get("reason") or state.get("problem") or "hv_updater does not know it"
            reasons[quabo.ip] = f"off: {said}"
        elif float(state.get("hk_unix", 0.0)) < (booted or {}).get(quabo.ip, 0.0):
            reasons[quabo.ip] = "not set again since the reboot"
    return reasons


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

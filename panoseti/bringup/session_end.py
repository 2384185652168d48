"""The way back: high voltage off and proven, then the session's daemons, shutters and power.

While a board may have high voltage those who watch it are not ended.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path

from panoseti.boards import verified
from panoseti.boards.board_work import Work
from panoseti.bringup import power, session, session_setup
from panoseti.bringup.board_settings import CLOSED
from panoseti.bringup.board_setup import hv_off, move_shutters, shutter_drivers
from panoseti.bringup.ledger import Step
from panoseti.bringup.session import HV_UPDATER
from panoseti.bringup.touched import read_touched
from panoseti.configs.site import Module
from panoseti.errors import ObsError
from panoseti.high_voltage.hv_asked import take_all_back
from panoseti.high_voltage.hv_off import OFF_BELOW_V
from panoseti.high_voltage.hv_off_asked import note_off_asked
from panoseti.high_voltage.hv_ramp import Stage
from panoseti.high_voltage.hv_trips import ACKNOWLEDGE, add_trips, read_trips
from panoseti.housekeeping.hk_watch import Shown, StoreWatch
from panoseti.housekeeping.store import Store
from panoseti.launch import read_heartbeat
from panoseti.runs import activities

UNSEEN = "told, and nothing shows that it has obeyed"


def high_voltage_off(work: Work) -> set[str]:
    """Switch HV off, end hv_updater, and switch it off once more; unproven = fault.

    Gives the boards whose HV may be on all the same: those that did not answer, that show a
    voltage, and of which nothing is seen.  An echo says that a board has heard, no more; one that
    HVMON has shown to be off before need not show it again.

    Goes to all boards of the site: the updater keeps all of them, or none.  A board without power
    cannot confirm, and need not; later steps leave it out.
    """
    others = {one.data_dir for one in session.elsewhere(work.site)}
    for folder in (work.site.head_data_dir, *others):
        _ask_for_off(work, folder)
    # At once: an updater that hangs is waited for before it is killed.
    hv_off(work.site, work.site.obs.quabos, work.flight, in_passing=True)
    session_setup.end_daemons(work, [HV_UPDATER])
    for folder in others:
        _take_trips_along(work, folder)
    told_unix = time.time()
    problems = hv_off(work.site, work.site.obs.quabos, work.flight)
    silent = {ip: problem for ip, problem in problems.items() if problem and _counts(work, ip)}
    unproven, without_power = _unproven(work, silent)
    told = [ip for ip, problem in problems.items() if problem is None]
    off_before = shown_off_before(work, told)
    open_yet = [ip for ip in told if ip not in off_before and _counts(work, ip)]
    seen = verified.see_hv_off(work, told, told_unix, listen=bool(open_yet))
    for ip, text in seen.wrong.items():
        work.board_fault(ip, "HV off", text)
    unseen = {ip: f"{UNSEEN}: {seen.unknown[ip]}" for ip in open_yet if ip in seen.unknown}
    may_have, dark = _unproven(work, unseen)
    without_power |= dark
    confirmed = sum(work.echo[ip] for ip in told)
    words = [f"confirmed by {confirmed} boards"]
    if confirmed < len(told):
        words.append(f"{len(told) - confirmed} were told but cannot confirm")
    if without_power:
        words.append(f"{len(without_power)} are without power")
    gone = problems.keys() - set(told) - silent.keys() - work.site.obs.known_absent
    if not_there := gone - without_power:
        words.append(f"{len(not_there)} do not answer, nor did they at the last scan")
    if not (told or without_power or unproven):
        text = "no board has heard it; if one may have high voltage, cut the power of its module"
        work.fault("boards", "HV off", text)
    left = _updaters_left(work)
    work.console.note(f"HV off: {', '.join(words)}; hv_updater {left or 'does not run'}")
    verified.tell(work, [seen])
    at_its_mercy = {q.ip for q in work.site.obs.quabos if _counts(work, q.ip)} if left else set()
    return unproven | may_have | seen.wrong.keys() | at_its_mercy


def shown_off_before(work: Work, ips: Collection[str]) -> set[str]:
    """Boards whose HVMON has shown that they are off, and that nobody has given a voltage since.

    By what hv_updater says last of each, and by the last housekeeping, however old it is.
    """
    data_dir, obs = work.site.head_data_dir, work.site.obs
    watched = [quabo for quabo in obs.quabos if quabo.ip in ips]
    try:
        by_hand = {note.ip for note in read_touched(data_dir) if note.step is Step.HV}
        beat = read_heartbeat(data_dir, HV_UPDATER)
    except ObsError as error:
        work.console.detail(str(error))
        return set()
    said = beat.details.get("boards", {}) if beat else {}
    shown: Mapping[str, Shown] = {}
    try:
        with StoreWatch(Store(obs.redis_host, obs.redis_port), watched) as watch:
            shown = watch.shown
    except ObsError as error:
        work.console.detail(str(error))
    found = set()
    for ip in {quabo.ip for quabo in watched} - by_hand:
        stage, seen = said.get(ip, {}).get("hv"), shown.get(ip)
        no_voltage = seen is not None and max(seen.hv_v) < OFF_BELOW_V
        if (stage == Stage.OFF and (seen is None or no_voltage)) or (stage is None and no_voltage):
            found.add(ip)
    return found


def _ask_for_off(work: Work, data_dir: Path) -> None:
    """Tell those at work for a data directory that high voltage is wanted no more."""
    try:
        note_off_asked(data_dir, time.time())
    except ObsError as error:
        work.console.warn(f"a config.py that is at work may switch HV on again: {error}")
    try:
        take_all_back(data_dir)
    except ObsError as error:
        work.console.warn(f"an hv_updater may switch HV on again: {error}")


def _take_trips_along(work: Work, data_dir: Path) -> None:
    """What stands against boards stands also when the data directory is another one."""
    try:
        trips = [trip for trip in read_trips(data_dir) if not trip.made_up]
        add_trips(work.site.head_data_dir, trips)
    except ObsError as error:
        work.fault("trips", "HV off", f"those of {data_dir} are not taken over: {error}")
        return
    for trip in trips:
        work.console.warn(f"taken over from {data_dir}: {trip}; then: {ACKNOWLEDGE}")


def _updaters_left(work: Work) -> str:
    """The updaters that could not be ended, in words, "" = none."""
    left = activities.daemons(HV_UPDATER, work.site.head_data_dir)
    left += [one.activity for one in session.elsewhere(work.site, [HV_UPDATER])]
    return f"still runs (pid {', '.join(str(one.pid) for one in left)})" if left else ""


def _unproven(work: Work, problems: Mapping[str, str]) -> tuple[set[str], set[str]]:
    """Boards that may have HV, which are faults; and those of them and beside them without power,
    which later steps leave out.
    """
    without_power = _without_power(work, problems)
    work.failed |= without_power
    left = problems.keys() - without_power
    for ip in problems:
        if ip in left:
            work.board_fault(ip, "HV off", f"{problems[ip]}; if in doubt cut the module's power")
    return left, without_power


def _counts(work: Work, ip: str) -> bool:
    """Whether a board must show that it is off: not when the last scan did not find it.

    Before the first scan nobody knows which boards are absent.
    """
    scanned = any(quabo.ip in work.uids for quabo in work.boards)
    return bool(work.uids.get(ip)) or not scanned


def _without_power(work: Work, ips: Collection[str]) -> set[str]:
    """All boards of outlets that feed any of these boards, and are off."""
    modules = _modules_of(work, ips)
    off = [module for feed in power.unpowered(work, modules) for module in feed.modules]
    return {quabo.ip for module in off for quabo in module.quabos}


def _modules_of(work: Work, ips: Collection[str]) -> list[Module]:
    return [m for m in work.site.obs.modules if any(q.ip in ips for q in m.quabos)]


def shut_down(work: Work) -> None:
    """HV off first, shutters closed, daemons ended, power off; goes on whatever fails.

    But while a board may have HV, those who watch it are not ended: its power is cut first, and
    when that does not go all other power stays on.
    """
    unproven = high_voltage_off(work)
    drivers = [q for q in shutter_drivers(work.boards) if work.uids.get(q.ip)]
    try:
        move_shutters(work, [q for q in drivers if q.ip not in work.failed], CLOSED)
    except ObsError as error:
        work.fault("boards", Step.SHUTTER.label, str(error))
    if unproven:
        power.power_off(work, _modules_of(work, unproven))
        unproven -= _without_power(work, unproven)
    if session_setup.end_watched_hv(work, unproven):
        power.power_off(work, work.modules)

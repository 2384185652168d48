"""Power of modules: on, and off again with high voltage off before.

What the temperature guard has cut off stays off until an operator has looked.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from panoseti.boards import board_tftp, outlets, verified
from panoseti.boards.board_work import Work
from panoseti.boards.outlets import Feed, OutletState
from panoseti.bringup import session
from panoseti.bringup.board_setup import hv_off
from panoseti.bringup.boot import PING_EVERY_S, PING_TIMEOUT_S, reached
from panoseti.bringup.ledger import Step
from panoseti.configs.load_configs import OBS_CONFIG
from panoseti.configs.site import Module, Quabo
from panoseti.errors import ConfigError, Fault, ObsError
from panoseti.high_voltage.safety_status import why_no_power
from panoseti.launch import read_heartbeat

STEP = "power"
# A round of hv_updater takes a second, and some more when boards are silent.
UPDATER_S = 10.0
POLL_S = 0.1
NO_SWITCH = (
    'no power switch is configured: "wps" of the module names one, with url and quabo_socket'
)


def whole_feeds(work: Work) -> list[Feed]:
    """The outlets that feed the modules at work, all of whose modules were asked for.

    ConfigError, with what to say instead, where only a part of what an outlet feeds was asked for
    (power cannot be switched for less), or where there is no power switch at all.
    """
    asked = {quabo.ip for quabo in (*work.boards, *work.known_absent)}
    faults = []
    found = outlets.feeds(work.site.obs, work.modules)
    fed = {module.id for feed in found for module in feed.modules}
    everything = len(asked) == len(work.site.obs.quabos)
    for module in work.modules:
        if module.id not in fed and (not found or not everything):
            faults.append(Fault(OBS_CONFIG, "$.domes", module.label, NO_SWITCH))
    for feed in found:
        lacking = [m for m in feed.modules if not {q.ip for q in m.quabos} <= asked]
        if lacking:
            words = " ".join(f"--module {module.id}" for module in feed.modules)
            remedy = f"it feeds {feed.names}, and nothing less can be switched: {words}"
            faults.append(Fault("command line", "power", feed.label, remedy))
    if faults:
        raise ConfigError(faults)
    return found


def states(work: Work, needed: bool = False) -> list[OutletState]:
    """The outlets of the modules at work, as they are at this moment.

    needed: that there are none is a ConfigError.
    """
    found = outlets.feeds(work.site.obs, work.modules)
    if needed and not found:
        names = ", ".join(module.label for module in work.modules)
        raise ConfigError([Fault(OBS_CONFIG, "$.domes", names, NO_SWITCH)])
    return outlets.look(work.site.obs, found)


def unpowered(work: Work, modules: Iterable[Module]) -> list[Feed]:
    """The outlets that are off; one that cannot be asked is a fault, and left out."""
    found = outlets.feeds(work.site.obs, modules)
    off = []
    for feed, state in zip(found, outlets.look(work.site.obs, found, 5.0), strict=True):
        if state.on is None:
            work.fault(feed.label, STEP, state.problem)
        elif not state.on:
            off.append(feed)
        else:
            _note_on(work, feed)
    return off


def _note_on(work: Work, feed: Feed) -> None:
    """Into the ledger: the boards of an outlet that is on."""
    for module in feed.modules:
        for quabo in module.quabos:
            work.ledger.saw(quabo.ip, Step.POWER, time.time(), {"outlet": feed.label})


# --- on ---------------------------------------------------------------------------------------


def power_on(work: Work, off: Sequence[Feed]) -> list[str]:
    """Switch outlets on and wait until their boards answer ping, or their time is over; the boards
    that have not.

    Whatever was done to these boards is undone by it.
    """
    off = _allowed(work, off)
    for feed in off:
        _forget(work, feed)
    switched = _switch(work, off, on=True)
    awaited = [quabo.ip for feed in switched for quabo in _expected(work, feed)]
    return _await_ping(work, awaited, work.site.obs.power_on_timeout_s)


def switch_on_again(work: Work, on: Sequence[Feed]) -> None:
    """Switch on outlets that are on: what their boards hold stays."""
    _switch(work, _allowed(work, on), on=True)


def _expected(work: Work, feed: Feed) -> list[Quabo]:
    """The boards that should come: those that were there at the last scan, all when none was."""
    fed = [quabo for module in feed.modules for quabo in module.quabos]
    known = [quabo for quabo in fed if work.uids.get(quabo.ip)]
    return known or [quabo for quabo in fed if quabo.ip not in work.site.obs.known_absent]


def _allowed(work: Work, off: Sequence[Feed]) -> list[Feed]:
    """Those that no trip forbids; the others are faults."""
    try:
        forbidden = why_no_power(work.site.head_data_dir)
    except ObsError as error:
        for feed in off:
            work.fault(feed.label, STEP, str(error))
        return []
    allowed = []
    for feed in off:
        reasons = [forbidden[module.id] for module in feed.modules if module.id in forbidden]
        if reasons:
            work.fault(feed.label, STEP, f"stays off: {reasons[0]}")
        else:
            allowed.append(feed)
    return allowed


def _await_ping(work: Work, ips: Sequence[str], timeout_s: float) -> list[str]:
    """Wait for boards; those that do not answer in time."""
    pending = list(ips)
    if not pending:
        return []
    deadline = time.monotonic() + timeout_s
    with work.console.progress("power: boards that answer", len(pending), timeout_s) as progress:
        while pending and time.monotonic() < deadline:
            began_s = time.monotonic()
            answers = reached(work, pending, PING_TIMEOUT_S)
            for ip in [ip for ip in pending if answers[ip]]:
                pending.remove(ip)
                progress.advance()
            if pending:
                time.sleep(max(0.0, min(PING_EVERY_S, deadline - began_s)))
    return pending


# --- off --------------------------------------------------------------------------------------


def power_off(work: Work, modules: Iterable[Module]) -> None:
    """Switch all outlets of these modules off; their high voltage is off already."""
    found = outlets.feeds(work.site.obs, modules)
    for feed in found:
        _forget(work, feed)
    _switch(work, found, on=False)


def hv_and_power_off(work: Work, found: Sequence[Feed]) -> None:
    """Take boards out of the session, their high voltage off, shown by HVMON; then their power.

    They are absent from then on, as after a scan that they did not answer: hv_updater switches
    off what is no longer among its boards, and goes on with the others.
    """
    fed = [quabo for feed in found for module in feed.modules for quabo in module.quabos]
    asked = outlets.look(work.site.obs, found)
    dark = {module for state in asked if state.on is False for module in state.modules}
    present = [quabo for quabo in fed if work.uids.get(quabo.ip)]
    for quabo in present:
        work.absent(quabo)
    work.save_uids()
    _let_go(work, [quabo.ip for quabo in present])
    _hv_off(work, [quabo for quabo in present if quabo.module_id not in dark])
    for feed in found:
        _forget(work, feed)
    _switch(work, found, on=False)


def _let_go(work: Work, ips: Sequence[str]) -> None:
    """Wait until hv_updater keeps none of these boards any more, or does not run."""
    deadline = time.monotonic() + UPDATER_S
    data_dir = work.site.head_data_dir
    while session.state(session.HV_UPDATER, data_dir).works and time.monotonic() < deadline:
        beat = read_heartbeat(data_dir, session.HV_UPDATER)
        if beat is None or not set(ips) & set(beat.details.get("boards", {})):
            return
        time.sleep(POLL_S)


def _hv_off(work: Work, boards: Sequence[Quabo]) -> None:
    """High voltage of boards off, and proven as far as they show anything.

    Nothing of it keeps their power from being cut, which takes it away in any case.
    """
    if not boards:
        return
    told_unix = time.time()
    problems = hv_off(work.site, boards, work.flight)
    for ip, problem in problems.items():
        if problem is not None:
            work.console.warn(f"{ip}: HV off: {problem}; its power is cut")
    told = [ip for ip, problem in problems.items() if problem is None]
    seen = verified.see_hv_off(work, told, told_unix, listen=True)
    for ip, text in seen.wrong.items():
        work.board_fault(ip, "HV off", text)
    work.console.note(f"HV off: told to {len(told)} of {len(boards)} boards")
    verified.tell(work, [seen])


def _forget(work: Work, feed: Feed) -> None:
    for module in feed.modules:
        for quabo in module.quabos:
            work.ledger.forget(quabo.ip)
    work.book.save()


def _switch(work: Work, wanted: Sequence[Feed], on: bool) -> list[Feed]:
    """Switch outlets; those that went."""
    by_label = {feed.label: feed for feed in wanted}

    def switch(label: str) -> None:
        feed = by_label[label]
        work.flight.note("power", switch=feed.outlet.name, outlet=feed.outlet.socket, on=on)
        feed.switch(work.site.obs).switch(feed.outlet.socket, on)

    good = []
    for label, answer in board_tftp.on_boards(by_label, switch).items():
        if isinstance(answer, ObsError):
            work.fault(label, STEP, str(answer))
        else:
            word = "on" if on else "off"
            work.console.note(f"power: {label} is {word} ({by_label[label].names})")
            good.append(by_label[label])
            if on:
                _note_on(work, by_label[label])
    return good

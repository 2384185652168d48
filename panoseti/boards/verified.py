"""What boards themselves show of what they were told, and what nobody can see.

An echo says that a board has heard, a read-back of MAROC that it has obeyed; high voltage,
shutter, firmware and kind of a board are in its housekeeping, which capture_hk keeps.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from panoseti.boards import firmware
from panoseti.boards.addresses import QUABOS_PER_MODULE
from panoseti.boards.board_link import Send
from panoseti.boards.board_work import UNCONFIRMED, Work, addresses
from panoseti.boards.commands import HkInterval
from panoseti.boards.firmware_images import BUILDS, Release
from panoseti.bringup import session
from panoseti.bringup.board_settings import OPEN
from panoseti.bringup.ledger import Step
from panoseti.bringup.session import CAPTURE_HK, HV_UPDATER
from panoseti.bringup.session_setup import nominal_volts, other_volts
from panoseti.configs.site import Quabo
from panoseti.errors import ObsError
from panoseti.high_voltage import hv_currents, hv_ramp
from panoseti.high_voltage.hv_off import OFF_BELOW_V
from panoseti.housekeeping.hk_watch import Shown, StoreWatch, open_watch, wait_shown
from panoseti.housekeeping.store import Store

# An HK packet comes every 3 s; HVMON is the mean of some time, so that the second one may count.
HK_WAIT_S = 7.0
HV_OFF_WAIT_S = HV_BACK_S = 12.0
NO_CAPTURE = "capture_hk does not run"
NO_HK = "no housekeeping has come"
"""Why nothing can be seen."""


@dataclass
class Check:
    """One thing that boards were to show: those that do, in words what; those that do not, those
    that are odd though nothing says what is right, and those of which it is not known, each with
    the reason.
    """

    what: str
    good: list[str] = field(default_factory=list)
    shown: str = ""
    wrong: dict[str, str] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What was seen: "HV of 8 boards (53.1 to 55.0 V)"."""
        count = f"{len(self.good)} board{'s' if len(self.good) != 1 else ''}"
        return f"{self.what} of {count}{f' ({self.shown})' if self.shown else ''}"

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {
            "good": self.good, "shown": self.shown, "wrong": self.wrong, "odd": self.odd,
            "unknown": self.unknown,
        }  # fmt: skip


def capturing(work: Work) -> bool:
    """Whether housekeeping can be looked at in Redis."""
    return session.state(CAPTURE_HK, work.site.head_data_dir).works


def _watch(work: Work, boards: Sequence[Quabo]) -> StoreWatch:
    obs = work.site.obs
    return StoreWatch(Store(obs.redis_host, obs.redis_port), boards)


def _of(work: Work, ips: Iterable[str]) -> list[Quabo]:
    wanted = set(ips)
    return [quabo for quabo in work.site.obs.quabos if quabo.ip in wanted]


# --- while something is done ------------------------------------------------------------------


def see_shutters(work: Work, ips: Sequence[str], state: str, since_unix: float) -> Check:
    """Whether the shutters that these boards drive are where they were told to go.

    The boards are asked for a packet at once.
    """
    check = Check("shutter", shown=state)
    if not capturing(work):
        check.unknown = dict.fromkeys(ips, NO_CAPTURE)
        return check
    wanted = shutter_status(work, state)
    with work.link() as link:
        link.run(dict.fromkeys(ips, [Send(HkInterval(1))]))
    try:
        with _watch(work, _of(work, ips)) as watch:
            left = wait_shown(
                watch, ips, since_unix, HK_WAIT_S, lambda ip, shown: shown.shutter_status == wanted
            )
    except ObsError as error:
        check.unknown = dict.fromkeys(ips, str(error))
        return check
    check.good = [ip for ip in ips if ip not in left]
    for ip, shown in left.items():
        if shown is None:
            check.unknown[ip] = NO_HK
        else:
            check.wrong[ip] = _shutter_fault(state, shown)
    return check


def shutter_status(work: Work, state: str) -> int:
    """The SHUTTER_STATUS of a shutter that is open, or closed."""
    opened = work.site.obs.shutter_status_open
    return opened if state == OPEN else 1 - opened


def _shutter_fault(state: str, shown: Shown) -> str:
    again = "--redo shutter" if state == OPEN else "--shutter_close"
    return (
        f"was told to be {state}, but SHUTTER_STATUS is {shown.shutter_status}; config.py {again}"
        f" tells it again; if it is {state}, correct shutter_status_open in obs_config.json"
    )


def heard_firmware(work: Work, boards: Sequence[Quabo]) -> dict[str, str]:
    """The version that boards report in housekeeping that is not too old, by address."""
    _, running, _ = _latest(work, boards, await_hv=False)
    return {ip: release.version for ip, release in running.items()}


def see_hv_off(work: Work, ips: Sequence[str], since_unix: float, listen: bool = False) -> Check:
    """Whether packets that came after a Unix time show that there is no high voltage.

    listen: where capture_hk does not run, wait for them at the HK port.
    """
    check = Check("HV off")
    if not listen and not capturing(work):
        check.unknown = dict.fromkeys(ips, NO_CAPTURE)
        return check
    boards = _of(work, ips)
    try:
        with (
            open_watch(work.site, boards) if listen else _watch(work, boards) as watch,
            work.console.progress("HV off, shown by HVMON", len(ips), HV_OFF_WAIT_S) as progress,
        ):
            left = wait_shown(
                watch, ips, since_unix, HV_OFF_WAIT_S,
                lambda ip, shown: max(shown.hv_v) < OFF_BELOW_V,
                lambda ip: progress.advance(),
            )  # fmt: skip
            seen = [watch.shown[ip] for ip in ips if ip not in left]
    except ObsError as error:
        check.unknown = dict.fromkeys(ips, str(error))
        return check
    check.good = [ip for ip in ips if ip not in left]
    for ip in check.good:
        if odd := hv_currents.odd_when_off(watch.shown[ip].hv_v, watch.shown[ip].hv_a):
            check.odd[ip] = odd
    if seen:
        check.shown = f"HVMON at most {max(max(shown.hv_v) for shown in seen):.2f} V"
    for ip, shown in left.items():
        if shown is None:
            check.unknown[ip] = NO_HK
        else:
            check.wrong[ip] = (
                f"HVMON shows {max(shown.hv_v):.1f} V {HV_OFF_WAIT_S:g} s after it was told;"
                " cut the module's power"
            )
    return check


def see_hv(work: Work, boards: Sequence[Quabo]) -> Check:
    """The high voltage that the latest housekeeping shows."""
    seen, _, why = _latest(work, boards)
    return _hv(work, boards, seen, why)


# --- in the end -------------------------------------------------------------------------------


def look_at(work: Work, boards: Sequence[Quabo]) -> list[Check]:
    """What these boards show now of everything that was done to them.

    Takes some seconds when PH baselines, which switch high voltage off and on, were just measured.
    """
    seen, running, why = _latest(work, boards)
    return [
        _uids(work, boards),
        *_firmware(work, boards, running, why),
        _pcb_revisions(work, boards, seen, why),
        _confirmed(work, boards),
        _hv(work, boards, seen, why),
        _shutters(work, boards, seen, why),
    ]


def _latest(
    work: Work, boards: Sequence[Quabo], await_hv: bool = True
) -> tuple[dict[str, Shown], dict[str, Release], str]:
    """What housekeeping that is not too old shows, by address, and why there is none otherwise.

    await_hv: once high voltage is back that a PH baseline has switched off.
    """
    if not capturing(work):
        return {}, {}, NO_CAPTURE
    since_unix = time.time() - work.site.obs.hk_max_age_s
    try:
        with _watch(work, boards) as watch:
            if await_hv:
                _await_hv_after_baseline(work, boards, watch)
            seen = {ip: shown for ip, shown in watch.shown.items() if shown.utc_s >= since_unix}
            said = watch.firmware
    except ObsError as error:
        return {}, {}, str(error)
    running = {ip: Release(said[ip].version, said[ip].built) for ip in seen}
    return seen, running, NO_HK


def _await_hv_after_baseline(work: Work, boards: Sequence[Quabo], watch: StoreWatch) -> None:
    """Wait until high voltage is seen again that the PH baseline has switched off for a moment."""
    measured = {q.ip: work.ledger.done_unix(q.ip, Step.PH_BASELINE) or 0.0 for q in boards}
    hv = _hv_states(work)
    lately = {ip: done_unix for ip, done_unix in measured.items()
              if time.time() - done_unix < HV_BACK_S and ip in hv and hv[ip].on}  # fmt: skip
    if lately:
        wait_shown(
            watch,
            list(lately),
            min(lately.values()),
            max(lately.values()) + HV_BACK_S - time.time(),
            lambda ip, shown: shown.utc_s > lately[ip] and hv[ip].fits(shown),
        )


@dataclass(frozen=True)
class _HvState:
    """What hv_updater says of a board: whether it is on, the codes it has, why it is not on, and
    from which bias at 25 degC the codes were worked out.
    """

    on: bool
    codes: hv_ramp.Codes
    reason: str
    nominal_v: object

    def fits(self, shown: Shown) -> bool:
        """Whether HVMON is near the set point."""
        return hv_ramp.compare(shown.hv_v, self.codes) is hv_ramp.Shown.GOOD


def _hv_states(work: Work) -> dict[str, _HvState]:
    """By address; nothing while the updater does not work."""
    found = session.state(HV_UPDATER, work.site.head_data_dir)
    if not found.works or found.beat is None:
        return {}
    states = {}
    for ip, said in found.beat.details.get("boards", {}).items():
        a, b, c, d = (int(code) for code in said.get("codes", hv_ramp.HV_OFF))
        on, reason = said.get("hv") == "on", str(said.get("reason", ""))
        states[ip] = _HvState(on, (a, b, c, d), reason, said.get("nominal_v"))
    return states


def _uids(work: Work, boards: Sequence[Quabo]) -> Check:
    """UIDs that the boards said, against the board data base."""
    check = Check("UID", shown="in quabo_info.json")
    places: dict[str, list[str]] = {}
    for ip, uid in work.uids.items():
        places.setdefault(uid, []).append(ip)
    for quabo in boards:
        uid = work.ledger.uid_of(quabo.ip)
        if uid and len(places.get(uid, ())) > 1:
            check.wrong[quabo.ip] = f"{uid} is said by {addresses(places[uid])} alike"
        elif uid and uid in work.settings.db.boards:
            check.good.append(quabo.ip)
        else:
            check.unknown[quabo.ip] = "not in quabo_info.json" if uid else "never read"
    return check


def _confirmed(work: Work, boards: Sequence[Quabo]) -> Check:
    """Commands that the boards have confirmed."""
    check = Check("settings", shown="echoed, MAROC read back")
    for quabo in boards:
        entries = work.ledger.boards.get(quabo.ip, {})
        blind = [step.label for step in Step if step in entries
                 and entries[step].facts.get(UNCONFIRMED)]  # fmt: skip
        if blind:
            check.unknown[quabo.ip] = f"{', '.join(blind)}: the board does not confirm commands"
        else:
            check.good.append(quabo.ip)
    return check


def _firmware(
    work: Work, boards: Sequence[Quabo], running: Mapping[str, Release], why: str
) -> list[Check]:
    """Firmware against what should run, and the kind of board that it says."""
    version, kind = Check("firmware"), Check("QFP or BGA")
    versions = sorted({release.version for release in running.values()})
    version.shown = ", ".join(versions)
    wanted = firmware.wanted_releases(work.site.obs.firmware)
    builds, unfinished = _listed_builds(work), firmware.unfinished(work)
    for judged in firmware.judged(work, {q.ip: running.get(q.ip) for q in boards}):
        ip, release = judged.ip, judged.release
        if release is None:
            version.unknown[ip] = kind.unknown[ip] = why
            continue
        if judged.odd and (judged.build in wanted or ip in unfinished):
            version.wrong[ip] = judged.odd
        elif judged.odd:
            version.odd[ip] = judged.odd
        elif judged.build not in wanted:
            version.unknown[ip] = f"runs {release}; obs_config.json names no firmware for its kind"
        else:
            version.good.append(ip)
        listed = builds.get(ip, "")
        if not judged.build:
            kind.unknown[ip] = "not in quabo_info.json"
        elif not judged.build == release.build == listed:
            kind.wrong[ip] = (
                f"{judged.build.upper()} in quabo_info.json, {listed.upper()} in obs_config.json"
                f" (quabo_version), and firmware of {release.build.upper() or 'unknown'} boards"
            )
        else:
            kind.good.append(ip)
    return [kind, version]


def _pcb_revisions(
    work: Work, boards: Sequence[Quabo], seen: Mapping[str, Shown], why: str
) -> Check:
    """PCBREV_N of each board against what most boards of its kind show.

    Which value means which kind is not certain: boards in the field show another than the
    interface description says.  So it tells something only where the two kinds differ.
    """
    check = Check("PCB revision")
    kinds = {q.ip: firmware.board_build(work, q.ip) for q in boards}
    shown: dict[str, list[int]] = {}
    for ip, one in seen.items():
        shown.setdefault(kinds[ip], []).append(one.pcbrev_n)
    usual = {kind: _most(values) for kind, values in shown.items() if kind}
    tells = {usual.get(kind) for kind in BUILDS} == {0, 1}
    if tells:
        check.shown = ", ".join(f"PCBREV_N {usual[kind]} on {kind.upper()}" for kind in BUILDS)
    for quabo in boards:
        ip, kind = quabo.ip, kinds[quabo.ip]
        if ip not in seen:
            check.unknown[ip] = why
        elif not kind:
            check.unknown[ip] = "not in quabo_info.json"
        elif usual[kind] is None:
            check.unknown[ip] = f"{kind.upper()} boards show both values of PCBREV_N"
        elif (value := seen[ip].pcbrev_n) != usual[kind]:
            check.wrong[ip] = (
                f"PCBREV_N is {value}, not {usual[kind]} as on most {kind.upper()} boards; compare"
                " the board with quabo_info.json"
            )
        elif not tells:
            check.unknown[ip] = f"PCBREV_N is {value}, which tells nothing: no two kinds differ"
        else:
            check.good.append(ip)
    return check


def _most(values: Sequence[int]) -> int | None:
    """What more boards show than not; None where it is half of them."""
    ones = sum(values)
    return None if 2 * ones == len(values) else int(2 * ones > len(values))


def _listed_builds(work: Work) -> dict[str, str]:
    """The kind of each board by obs_config.json."""
    return {
        module.quabos[index].ip: module.quabo_version[index]
        for module in work.site.obs.modules
        for index in range(QUABOS_PER_MODULE)
    }


def _hv(work: Work, boards: Sequence[Quabo], seen: Mapping[str, Shown], why: str) -> Check:
    """HVMON against what hv_updater has set, and that against what the files ask for.

    A current that does not fit the voltage is odd, whatever else is so.
    """
    check, states = Check("HV"), _hv_states(work)
    asked = nominal_volts(work.settings, work.uids, boards)
    for quabo in boards:
        ip = quabo.ip
        shown, state = seen.get(ip), states.get(ip)
        if shown is None:
            check.unknown[ip] = why
        elif state is None or not state.on:
            reason = "hv_updater does not keep it" if state is None else f"off: {state.reason}"
            check.unknown[ip] = f"{reason}; HVMON shows {max(shown.hv_v):.1f} V"
            if odd := hv_currents.odd_when_off(shown.hv_v, shown.hv_a):
                check.odd[ip] = odd
        elif reason := other_volts(state.nominal_v, asked.get(ip)):
            check.wrong[ip] = reason
        elif not state.fits(shown):
            check.wrong[ip] = hv_ramp.difference(shown.hv_v, state.codes)
        else:
            check.good.append(ip)
            if odd := hv_currents.odd_when_on(shown.hv_v, shown.hv_a):
                check.odd[ip] = odd
    volts = [volt for ip in check.good for volt in seen[ip].hv_v]
    amperes = [ampere for ip in check.good for ampere in seen[ip].hv_a]
    if volts:
        check.shown = (
            f"HVMON {min(volts):.1f} to {max(volts):.1f} V,"
            f" HVIMON {min(amperes) * 1e6:.0f} to {max(amperes) * 1e6:.0f} uA"
        )
    return check


def _shutters(work: Work, boards: Sequence[Quabo], seen: Mapping[str, Shown], why: str) -> Check:
    check = Check("shutter")
    for quabo in boards:
        entry = work.ledger.done(quabo.ip, Step.SHUTTER)
        state = str(entry.inputs.get("", {}).get("shutter", "")) if entry else ""
        if not state:
            continue
        shown = seen.get(quabo.ip)
        if shown is None:
            check.unknown[quabo.ip] = why
        elif shown.shutter_status == shutter_status(work, state):
            check.good.append(quabo.ip)
            check.shown = state
        else:
            check.wrong[quabo.ip] = _shutter_fault(state, shown)
    return check


def tell(work: Work, checks: Sequence[Check]) -> None:
    """Say what was seen, and what could not be; what is wrong is a fault of the board, what is odd
    a warning.  A shutter that is not where it was told to be counts as not told.
    """
    seen = [check.text for check in checks if check.good]
    if seen:
        work.console.note(f"verified: {'; '.join(seen)}")
    for check in checks:
        for ip, text in check.wrong.items():
            if not any((known.where, known.step) == (ip, check.what) for known in work.problems):
                work.board_fault(ip, check.what, text)
        if check.what == Step.SHUTTER.label and check.wrong:
            for ip, text in check.wrong.items():
                work.ledger.undo(ip, Step.SHUTTER, text.partition(";")[0])
            work.book.save()
        for ip, text in check.odd.items():
            work.console.warn(f"{ip}: {check.what}: {text}")
        by_reason: dict[str, list[str]] = {}
        for ip, reason in check.unknown.items():
            by_reason.setdefault(reason, []).append(ip)
        for reason, ips in by_reason.items():
            work.console.note(f"not verified: {check.what} of {addresses(ips)}: {reason}")

"""From power-on to ready: every step that is missing or stale, in order, and no other.

The ledger says what was done with which inputs; what the boards themselves show (outlets, ping,
boot packets, housekeeping that stays away) is looked at first, since a board may have rebooted
behind our back.  `dry_run` goes the same way, but only says what would be done, and why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from panoseti.boards import firmware, outlets
from panoseti.boards.board_link import Send
from panoseti.boards.board_work import Work, addresses
from panoseti.boards.commands import HkDestination, HkInterval
from panoseti.boards.firmware_images import Area, Release
from panoseti.boards.firmware_load import load_firmware
from panoseti.bringup import boot, power, session, session_setup
from panoseti.bringup.board_settings import OPEN
from panoseti.bringup.board_setup import (
    load_maroc,
    load_masks,
    move_shutters,
    set_hk_destination,
    shutter_drivers,
)
from panoseti.bringup.daemon_inputs import why_start
from panoseti.bringup.ledger import UNDONE_BY_REBOOT, Step, Value
from panoseti.bringup.session import CAPTURE_HK, HV_UPDATER, SESSION_DAEMONS, TEMPERATURE_GUARD
from panoseti.calibration.calibration_report import BaselineReport, measure_baselines
from panoseti.configs.load_configs import OBS_CONFIG
from panoseti.configs.site import Quabo
from panoseti.errors import ConfigError, ObsError
from panoseti.high_voltage.hv_off import PATIENCE_S
from panoseti.housekeeping.hk_watch import (
    Boot,
    Firmware,
    HkWatch,
    PortWatch,
    open_watch,
    wait_heard,
)

POWER, PING = "power", "ping"
# Where nobody listened, a board that is well shows an HK packet within so long.
LISTEN_S = 7.0
SILENCE_COSTS = (
    f"when nothing was heard of it for {PATIENCE_S:g} s temperature_guard trips its module (run"
    " stopped, HV and power off)"
)
LISTENER, STARTED = "housekeeping listener", "started_unix"
"""Entry of the ledger, and its fact: the capture_hk that has listened since then."""


@dataclass(frozen=True)
class Due:
    """Something that must be done: to which board (or node, daemon, outlet), and why."""

    step: str
    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.step} of {self.where}: {self.reason}"


class BringUp:
    """One bring-up of the boards of `work`.

    redo: names of steps (of Step, or daq_nodes) that are done whatever the ledger says; dry_run:
    nothing is done, `due` says what would be.  baselines: the PH baselines that were measured,
    None = none were.
    """

    def __init__(self, work: Work, redo: Collection[str] = (), dry_run: bool = False) -> None:
        self.work = work
        self.due: list[Due] = []
        self.baselines: BaselineReport | None = None
        self._redo = frozenset(redo)
        self._dry_run = dry_run
        self._suspicions: dict[str, str] = {}
        self._strangers: dict[str, str] = {}
        self._present: list[Quabo] = []

    def run(self) -> None:
        """Everything, up to the boards' shutters and high voltage."""
        self._power()
        self._present = self._look_for_boards()
        self._look_back()
        self._compare_uids()
        self._boards(Step.UID, boot.read_uids)
        if self.asked_again(Step.FIRMWARE):
            self._boards(Step.FIRMWARE, load_firmware)
        self._boards(Step.REBOOT, boot.reboot)
        self._firmware()
        self._boards(Step.HK_DEST, set_hk_destination)
        self._daemons()
        self._boards(Step.MASKS, load_masks)
        self._boards(Step.MAROC, load_maroc)
        self._boards(Step.PH_BASELINE, self._measure_baselines)
        self._boards(Step.SHUTTER, lambda work, boards: move_shutters(work, boards, OPEN))
        self._boards(Step.HV, session_setup.confirm_hv)

    def _measure_baselines(self, work: Work, boards: Sequence[Quabo]) -> None:
        self.baselines = measure_baselines(work, boards)

    def plan(self, items: Sequence[Due]) -> bool:
        """Note that something is due; whether it shall be done now."""
        self.due += items
        if not self._dry_run:
            for reason, same in _by_reason(items).items():
                where = addresses([item.where for item in same])
                self.work.console.note(f"{same[0].step} of {where}: {reason}")
        return bool(items) and not self._dry_run

    def asked_again(self, step: str) -> bool:
        """Whether the operator wants the step redone."""
        return step in self._redo

    # --- what is there ---

    def _power(self) -> None:
        work = self.work
        off = power.unpowered(work, work.modules)
        items = [Due(POWER, feed.label, "the outlet is off") for feed in off]
        if self.plan(items):
            for ip in power.power_on(work, off):
                work.console.warn(f"{ip}: {power.STEP}: no answer yet")
        if self.asked_again(POWER):
            on = [f for f in outlets.feeds(work.site.obs, work.modules) if f not in off]
            if self.plan([Due(POWER, feed.label, "asked for by --redo") for feed in on]):
                power.switch_on_again(work, on)

    def _look_for_boards(self) -> list[Quabo]:
        """The boards that answer; one that does not is a fault, and left alone."""
        work = self.work
        answering = boot.ping(work, work.boards)
        changed = work.news_of_absent and not self._dry_run
        for quabo in work.boards:
            if quabo.ip in answering:
                continue
            known = bool(work.uids.get(quabo.ip))
            if not known and not self._dry_run:
                changed = changed or quabo.ip not in work.uids
                work.absent(quabo)
            remedy = (
                f"mend it, or leave it out with config.py --get_uids: {SILENCE_COSTS}"
                if known
                else "it is left out of everything until it answers"
            )
            work.board_fault(quabo.ip, PING, f"no answer; {remedy}")
        if changed:
            work.save_uids()
        present = [quabo for quabo in work.boards if quabo.ip in answering]
        now_unix = time.time()
        for quabo in present:
            work.ledger.saw(quabo.ip, Step.PING, now_unix, {})
        return present

    def _compare_uids(self) -> None:
        """A board that was exchanged says another UID."""
        work = self.work
        known = {q.ip: work.ledger.uid_of(q.ip) for q in self._present}
        asked = boot.ask_uids(work, [ip for ip, uid in known.items() if uid])
        for ip, uid in asked.items():
            if isinstance(uid, str) and uid != known[ip]:
                self._strangers[ip] = f"another board: UID {known[ip]} -> {uid}"

    def _look_back(self) -> None:
        """Boots that nobody asked for, and boards that have fallen silent."""
        work = self.work
        self._forget_unwatched()
        known = [q for q in self._present if work.ledger.done(q.ip, Step.REBOOT)]
        if not known:
            return
        astray: set[str] = set()
        asked_unix = time.time()
        try:
            with open_watch(work.site, known) as watch:
                if not self._dry_run:
                    astray = self._astray(watch, known)
                    asked_unix = time.time()
                    silent = self._ask_for_housekeeping(watch, known)
                    self._suspect(known, silent)
                    astray -= silent
                elif isinstance(watch, PortWatch):
                    self._suspect(known, wait_heard(watch, _ips(known), time.time(), LISTEN_S))
                elif self._capture_is_settled():
                    since_unix = time.time() - work.site.obs.hk_max_age_s
                    self._suspect(known, wait_heard(watch, _ips(known), since_unix, 0.0))
        except ObsError as error:
            work.console.warn(f"whether boards rebooted by themselves cannot be seen: {error}")
            return
        for quabo in known:
            noted, other = watch.boots.get(quabo.ip), self._other_firmware(quabo, watch)
            is_note = noted is not None and not isinstance(watch, PortWatch)
            found = noted or other
            if found is not None and self._saw_reboot(quabo, found, is_note):
                continue
            if quabo.ip in astray:
                self._saw_reboot(quabo, Boot(asked_unix, watch.firmware[quabo.ip]))
        work.book.save()

    def _saw_reboot(self, quabo: Quabo, found: Boot, is_note: bool = False) -> bool:
        """Note a boot that nobody asked for; whether it is news."""
        facts = {"fwver": found.firmware.version, "fwtime": found.firmware.built}
        news = self.work.ledger.saw_reboot(quabo.ip, found.utc_s, facts, is_note)
        if news:
            self.work.console.warn(f"{quabo.ip} rebooted by itself")
            if self._dry_run:  # else it was asked just now: its silence has another reason
                self._suspicions.pop(quabo.ip, None)
        return news

    def _astray(self, watch: HkWatch, boards: Sequence[Quabo]) -> set[str]:
        """Boards whose housekeeping has gone astray: it went here, and does not come any more.

        A board forgets where to send it only by a boot, whose packet then went elsewhere, too.  So
        this is looked at before anybody tells the boards again.
        """
        if isinstance(watch, PortWatch):
            return set()  # nobody listened: their settings are forgotten already
        told = [q.ip for q in boards if self.work.ledger.done(q.ip, Step.HK_DEST)]
        since_unix = time.time() - self.work.site.obs.hk_max_age_s
        return wait_heard(watch, told, since_unix, LISTEN_S)

    def _forget_unwatched(self) -> None:
        """While nobody listened a board may have rebooted: what that undoes is done again."""
        work = self.work
        entry = work.ledger.others.get(LISTENER)
        if entry is not None and entry.facts.get(STARTED) == self._capturing_since():
            return
        doubtful = [
            ip
            for ip, steps in work.ledger.boards.items()
            if Step.REBOOT in steps and any(step in steps for step in UNDONE_BY_REBOOT)
        ]
        for ip in doubtful:
            work.ledger.forget(ip, UNDONE_BY_REBOOT)
        work.ledger.others.pop(LISTENER, None)
        if doubtful:
            work.console.note(
                f"capture_hk did not run all the time: whether {addresses(doubtful)} rebooted is"
                " not known, and settings are loaded again"
            )
            work.book.save()

    def _capturing_since(self) -> float | None:
        """When the capture_hk that runs was started, Unix time in s; None when none works."""
        found = session.state(CAPTURE_HK, self.work.site.head_data_dir)
        return found.beat.started_unix if found.works and found.beat is not None else None

    def _ask_for_housekeeping(self, watch: HkWatch, boards: Sequence[Quabo]) -> set[str]:
        """Have boards send a packet at once; those that do not.

        After a power cut the golden firmware runs, which sends none.
        """
        since_unix = time.time()
        watch.look(0)
        plan = [Send(HkDestination(self.work.settings.head_ip())), Send(HkInterval(1))]
        with self.work.link() as link:
            link.run(dict.fromkeys(_ips(boards), plan), self.work.echo)
        return wait_heard(watch, _ips(boards), since_unix, LISTEN_S)

    def _other_firmware(self, quabo: Quabo, watch: HkWatch) -> Boot | None:
        """A boot that nobody heard: what runs is not what ran after the last one."""
        running, heard_unix = watch.firmware.get(quabo.ip), watch.heard.get(quabo.ip, 0.0)
        reboot = self.work.ledger.done(quabo.ip, Step.REBOOT)
        if running is None or reboot is None or heard_unix <= (reboot.done_unix or 0.0):
            return None
        booted = Firmware(str(reboot.facts.get("fwver")), str(reboot.facts.get("fwtime")))
        return None if running == booted else Boot(heard_unix, running)

    def _capture_is_settled(self) -> bool:
        """Whether capture_hk has listened long enough for a silence to mean something."""
        since_unix = self._capturing_since()
        return since_unix is not None and time.time() - since_unix > self.work.site.obs.hk_max_age_s

    def _suspect(self, boards: Sequence[Quabo], silent: Collection[str]) -> None:
        """Boards that should send housekeeping, and do not."""
        for quabo in boards:
            told = self.work.ledger.done_unix(quabo.ip, Step.REBOOT)
            if quabo.ip in silent and told is not None:
                self._suspicions[quabo.ip] = "answers ping but sends no housekeeping any more"

    # --- steps ---

    def _boards(self, step: Step, action: Callable[[Work, Sequence[Quabo]], object]) -> None:
        """Do a step to the boards that need it."""
        work = self.work
        boards = [quabo for quabo in self._present if quabo.ip not in work.failed]
        if step is Step.SHUTTER:
            boards = shutter_drivers(boards)
        reasons = self._reasons(step, boards)
        items = [Due(step.label, ip, reason) for ip, reason in reasons.items()]
        if self.plan(items):
            action(work, [quabo for quabo in boards if quabo.ip in reasons])
        elif self._dry_run:
            self._assume(step, [quabo for quabo in boards if quabo.ip in reasons])

    def _firmware(self) -> None:
        """Boards that do not run the image that obs_config.json names: said, and not loaded.

        One that runs what is named, and was not loaded from here, is taken as it is.
        """
        work, now_unix = self.work, time.time()
        for quabo in self._present:
            if quabo.ip in work.failed or not (why := self._why(quabo, Step.FIRMWARE, now_unix)):
                continue
            if reason := self._other_image(quabo, why):
                text = f"{reason}; load it: {firmware.TASKS[Area.SILVER]}"
                self.plan([Due(Step.FIRMWARE.label, quabo.ip, text)])
                if not self._dry_run:
                    work.fault(quabo.ip, firmware.STEP, text)
        if not self._dry_run:
            work.book.save()

    def _other_image(self, quabo: Quabo, why: str) -> str:
        """Why a board does not run what it should, "" = it does, as far as that shows; noted then.

        why: what the ledger says.
        """
        ledger, ip = self.work.ledger, quabo.ip
        try:
            inputs = self.work.inputs(quabo, Step.FIRMWARE)
        except ConfigError as error:
            return "; ".join(map(str, error.faults))
        booted, known = ledger.done(ip, Step.REBOOT), ledger.done(ip, Step.FIRMWARE)
        said = booted.facts if booted else {}
        if "fwver" not in said:
            return ""  # a reboot that is only tried out
        running = Release(str(said["fwver"]), str(said["fwtime"]))
        build = firmware.board_build(self.work, ip)
        wanted = firmware.wanted_releases(self.work.site.obs.firmware).get(build)
        if wanted is not None and running != wanted:
            return f"runs {running}, not {wanted}, which obs_config.json names"
        # Another content under the same name does not show in what runs.
        if known and any(
            known.inputs.get(name, new) != new for name, new in inputs.items() if name != OBS_CONFIG
        ):
            return why
        facts: dict[str, Value] = {"release": str(running), "compared": False}
        ledger.finish(ip, Step.FIRMWARE, time.time(), inputs, facts)
        return ""

    def _reasons(self, step: Step, boards: Sequence[Quabo]) -> dict[str, str]:
        now_unix = time.time()
        reasons: dict[str, str] = {}
        off = session_setup.why_hv_off(self.work, boards) if step is Step.HV else {}
        for quabo in boards:
            if self.asked_again(step):
                reasons[quabo.ip] = "asked for by --redo"
            elif step is Step.REBOOT and quabo.ip in self._suspicions:
                reasons[quabo.ip] = self._suspicions[quabo.ip]
            elif step is Step.UID and quabo.ip in self._strangers:
                reasons[quabo.ip] = self._strangers[quabo.ip]
            elif reason := self._why(quabo, step, now_unix) or off.get(quabo.ip):
                reasons[quabo.ip] = reason
        return reasons

    def _why(self, quabo: Quabo, step: Step, now_unix: float) -> str | None:
        try:
            return self.work.why(quabo, step, now_unix)
        except ConfigError as error:
            if not self._dry_run:
                return "not known"  # the step itself says what is wrong
            if self.work.uids.get(quabo.ip):
                faults = "; ".join(str(fault) for fault in error.faults)
                self.work.board_fault(quabo.ip, step, faults)
                return None
            return "not done"

    def _assume(self, step: Step, boards: Sequence[Quabo]) -> None:
        """As if the step had been done: what follows from it is then seen as well."""
        work = self.work
        for quabo in boards:
            try:
                inputs = work.inputs(quabo, step)
            except ConfigError:
                inputs = {}
            facts = {"UID": work.uids.get(quabo.ip, "")} if step is Step.UID else {}
            work.ledger.begin(quabo.ip, step, time.time())
            work.ledger.finish(quabo.ip, step, time.time(), inputs, facts)

    def _daemons(self) -> None:
        """Housekeeping, guard, high voltage: what does not work, in this order."""
        work = self.work
        asked = self._dry_run or session_setup.ask_for_hv(
            work, [quabo for quabo in work.boards if work.uids.get(quabo.ip)]
        )
        reasons = {name: why_start(work.site, name) for name in SESSION_DAEMONS}
        hv_anew = self._why_hv_anew()
        reasons[HV_UPDATER] = reasons[HV_UPDATER] or hv_anew
        items = [Due("start", name, reason) for name, reason in reasons.items() if reason]
        if not self.plan(items):
            self._note_listener()
            return
        boards = [quabo for quabo in self._present if quabo.ip not in work.failed]
        well = True
        if reasons[CAPTURE_HK] or reasons[TEMPERATURE_GUARD]:
            well = session_setup.start_housekeeping(work, boards)
        self._note_listener()
        if well and asked and reasons[HV_UPDATER]:
            if hv_anew:
                session_setup.end_daemons(work, [HV_UPDATER])
            session_setup.start_hv(work)

    def _why_hv_anew(self) -> str | None:
        """Why hv_updater must set all voltages once more though it works; None = it need not."""
        if self.asked_again(Step.HV):
            return "asked for by --redo"
        whys = ((quabo.ip, self.work.ledger.undone(quabo.ip, Step.HV)) for quabo in self._present)
        return next((f"HV of {ip} {why}" for ip, why in whys if why), None)

    def _note_listener(self) -> None:
        """From now on a boot of any board is noted."""
        since_unix, work = self._capturing_since(), self.work
        known = work.ledger.others.get(LISTENER)
        if since_unix is None or (known and known.facts.get(STARTED) == since_unix):
            return
        work.ledger.finish_other(LISTENER, time.time(), {}, {STARTED: since_unix})
        work.book.save()


def _ips(boards: Iterable[Quabo]) -> list[str]:
    return [quabo.ip for quabo in boards]


def _by_reason(items: Sequence[Due]) -> Mapping[str, list[Due]]:
    found: dict[str, list[Due]] = {}
    for item in items:
        found.setdefault(item.reason, []).append(item)
    return found

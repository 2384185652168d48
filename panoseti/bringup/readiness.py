"""Whether the boards are ready for a run, and the settings a start may load by itself.

A change of the data config makes MAROC and masks stale: `load_settings` loads them, in seconds.
Everything else that is missing or stale `readiness` tells, with the command that mends it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from panoseti.boards.board_work import Problem, Work, addresses
from panoseti.bringup import session
from panoseti.bringup.board_settings import CLOSED, OPEN, BoardSettings
from panoseti.bringup.board_setup import (
    MAROC_FIRST,
    load_maroc,
    load_masks,
    shutter_drivers,
    shutter_state,
)
from panoseti.bringup.daemon_inputs import MAY_WAIT, why_start
from panoseti.bringup.ledger import HOUR_S, Ledger, Step
from panoseti.bringup.ledger_file import held_ledger, read_ledger
from panoseti.bringup.session import CAPTURE_HK, HV_UPDATER, SESSION_DAEMONS, TEMPERATURE_GUARD
from panoseti.bringup.session_setup import HvLack, hv_lacks, nominal_volts
from panoseti.configs.board_files import PH_BASELINE, QUABO_UIDS, read_ph_baseline, read_quabo_uids
from panoseti.configs.load_configs import Site
from panoseti.configs.site import Quabo
from panoseti.console import Console
from panoseti.errors import ConfigError, ObsError
from panoseti.flight import FlightRecorder
from panoseti.housekeeping.hk_watch import StoreWatch
from panoseti.housekeeping.store import Store

LOADED_BY_START = (Step.MASKS, Step.MAROC)
NEEDED = (Step.REBOOT, Step.HK_DEST, Step.MASKS, Step.MAROC, Step.PH_BASELINE)
OTHER_CONFIGS = "works with other configs"
MEND_ALL = "config.py"
WAIT = "config.py, which waits for it"
MEND = {
    Step.PH_BASELINE: "config.py --calibrate_ph",
}


def present_boards(site: Site) -> list[Quabo]:
    """The boards that answered the last scan; ConfigError when there was none."""
    uids = read_quabo_uids(site.head_data_dir / QUABO_UIDS, site.obs)
    return [quabo for quabo in site.obs.quabos if uids.present(quabo.ip)]


@dataclass(frozen=True)
class Lack:
    """Why a board (or the site, where "") is not ready, and what mends it.

    of: boards in all; of_all: it keeps the run from being started even where that may go without
    the board.
    """

    ip: str
    what: str
    mend: str
    of: int = 0
    of_all: bool = False

    @property
    def text(self) -> str:
        """In words, without the board."""
        return f"{self.what}; run: {self.mend}"


def readiness(
    site: Site,
    need_hv: bool = True,
    need_redis: bool = True,
    wanted: BoardSettings | None = None,
) -> list[Lack]:
    """What keeps a run from being started, each with the command that mends it; [] = ready.

    Settings that `load_settings` would load are none of it.  ConfigError when a file is broken.
    wanted: of this site, whose files are then read only once for all who are given it.
    """
    wanted = wanted or BoardSettings(site)
    try:
        uids = read_quabo_uids(site.head_data_dir / QUABO_UIDS, site.obs).by_ip
    except ConfigError as error:
        return [Lack("", str(fault), MEND_ALL) for fault in error.faults]
    boards = [quabo for quabo in site.obs.quabos if uids[quabo.ip]]
    if not boards:
        return [Lack("", "no board answered the last scan; switch them on", MEND_ALL)]
    ledger = read_ledger(site.head_data_dir)
    lacks = _boots_seen(site, boards, ledger) if need_redis else []
    judge = _Judge(site, ledger, uids, wanted)
    for quabo in boards:
        lacks += judge.lacks(quabo)
    if need_redis:
        lacks += _silent(site, boards, {lack.ip for lack in lacks})
    lacks += _baseline_lacks(site, boards, uids, [lack.ip for lack in lacks])
    no_daemon = _daemon_lacks(site, need_hv, need_redis)
    lacks += no_daemon
    if need_hv and not no_daemon:
        lacks += _hv_lacks(site, boards, wanted)
    return [replace(lack, of=len(boards)) for lack in lacks]


def hv_lacks_of_start(site: Site, boards: Sequence[Quabo]) -> list[str]:
    """The part of `readiness` that concerns high voltage, while hv_updater works."""
    lacks = _hv_lacks(site, boards, BoardSettings(site))
    return in_words([replace(lack, of=len(boards)) for lack in lacks])


class _Judge:
    """What the ledger says about boards under the present configs."""

    def __init__(
        self, site: Site, ledger: Ledger, uids: Mapping[str, str], wanted: BoardSettings
    ) -> None:
        self._ledger = ledger
        self._uids = uids
        self._settings = wanted
        self._records_ph = site.data.pulse_height is not None
        self._now_unix = time.time()

    def lacks(self, quabo: Quabo) -> list[Lack]:
        """The first step that keeps the board from being ready; those after it follow from it."""
        uid = self._uids[quabo.ip]
        if self._ledger.uid_of(quabo.ip) != uid:
            return [Lack(quabo.ip, "UID not known to the ledger", MEND_ALL)]
        for step in NEEDED:
            try:
                inputs = self._settings.inputs(step, uid)
            except ConfigError as error:
                return [Lack(quabo.ip, "; ".join(map(str, error.faults)), "config.py --dry-run")]
            age_s = self._settings.max_age_s(step)
            why = self._ledger.why(quabo.ip, step, inputs, self._now_unix, age_s)
            if why is None or self._does_not_matter(quabo, step):
                continue
            mend = MEND.get(step, MEND_ALL)
            if step is Step.PH_BASELINE and self._ledger.lost_by_boot(quabo.ip, step):
                mend = MEND_ALL
            elif step is Step.PH_BASELINE and self._is_stale(quabo, Step.MAROC):
                mend = MAROC_FIRST
            return [Lack(quabo.ip, f"{step.label}: {why}", mend)]
        return []

    def _does_not_matter(self, quabo: Quabo, step: Step) -> bool:
        """Whether a start loads it anew, or the baseline of a PH chain that is not recorded."""
        if step in LOADED_BY_START:
            return not self._ledger.lost_by_boot(quabo.ip, step)
        if step is Step.PH_BASELINE and not self._records_ph:
            done_unix = self._ledger.done_unix(quabo.ip, step)
            limit_s = self._settings.max_age_s(step)
            return done_unix is not None and self._now_unix - done_unix <= (limit_s or 0.0)
        return False

    def _is_stale(self, quabo: Quabo, step: Step) -> bool:
        inputs = self._settings.inputs(step, self._uids[quabo.ip])
        return self._ledger.why(quabo.ip, step, inputs, self._now_unix) is not None


def _baseline_lacks(
    site: Site, boards: Sequence[Quabo], uids: Mapping[str, str], known: Iterable[str]
) -> list[Lack]:
    """The file that goes into the run; nothing where the boards themselves lack more."""
    path = site.head_data_dir / PH_BASELINE
    limit_h = site.obs.ph_baseline_max_age_h
    try:
        baseline = read_ph_baseline(path)
    except ConfigError as error:
        return [Lack("", "; ".join(map(str, error.faults)), MEND[Step.PH_BASELINE])]
    lacking = [q.ip for q in boards if uids[q.ip] not in baseline.coefs and q.ip not in set(known)]
    if lacking:
        text = f"{path}: nothing about {addresses(lacking)}"
        return [Lack("", text, MEND[Step.PH_BASELINE])]
    age_h = (time.time() - baseline.date_unix) / HOUR_S
    if age_h > limit_h and not any(known):
        text = f"{path}: {age_h:.1f} h old (limit {limit_h:g} h)"
        return [Lack("", text, MEND[Step.PH_BASELINE])]
    return []


def _boots_seen(site: Site, boards: Sequence[Quabo], ledger: Ledger) -> list[Lack]:
    """Boards that rebooted since the bring-up, by what capture_hk noted; `ledger` learns it."""
    try:
        with Store(site.obs.redis_host, site.obs.redis_port) as store:
            notes = store.boot_notes([quabo.boardloc for quabo in boards])
    except ObsError as error:
        return [Lack("", str(error), "config.py --redis_daemons")]
    for quabo in boards:
        note = notes.get(quabo.boardloc)
        if note is not None:
            ledger.saw_reboot(quabo.ip, note.utc_s, {}, is_note=True)
    return []


def _silent(site: Site, boards: Sequence[Quabo], known: Collection[str]) -> list[Lack]:
    """Boards whose housekeeping has stopped coming here, which a boot that went unseen does.

    Nothing while capture_hk has not listened for long enough, or does not work.
    """
    limit_s, now_unix = site.obs.hk_max_age_s, time.time()
    capture = session.state(CAPTURE_HK, site.head_data_dir)
    if not capture.works or capture.beat is None:
        return []
    if now_unix - capture.beat.started_unix <= limit_s:
        return []
    try:
        with StoreWatch(Store(site.obs.redis_host, site.obs.redis_port), boards) as watch:
            heard = watch.heard
    except ObsError:
        return []  # told already
    lacks = []
    for quabo in boards:
        since_unix = heard.get(quabo.ip, capture.beat.started_unix)
        if now_unix - since_unix > limit_s and quabo.ip not in known:
            what = f"no housekeeping for over {limit_s:g} s: it may have rebooted"
            lacks.append(Lack(quabo.ip, what, MEND_ALL))
    return lacks


def _daemon_lacks(site: Site, need_hv: bool, need_redis: bool) -> list[Lack]:
    wanted = {CAPTURE_HK: need_redis, TEMPERATURE_GUARD: need_hv, HV_UPDATER: need_hv}
    lacks = []
    for name, needed in wanted.items():
        if not needed:
            continue
        found = session.state(name, site.head_data_dir)
        if not found.works:
            mend = "config.py --hv_on" if name == HV_UPDATER else "config.py --redis_daemons"
            lacks.append(Lack("", f"{name} {found.problem}", mend))
        elif why := why_start(site, name, MAY_WAIT):
            lacks.append(Lack("", f"{name} {OTHER_CONFIGS}: {why}", MEND_ALL))
    return lacks


def _hv_lacks(site: Site, boards: Sequence[Quabo], asked: BoardSettings) -> list[Lack]:
    """High voltage that will be there soon, or is nowhere; one board without it is a warning."""
    off = _hv_off(site, boards, asked)
    # Those that were left out on purpose do not count, unless nobody has asked for any.
    wanted = [q.ip for q in boards if q.ip not in off or off[q.ip].asked]
    if wanted:
        off = {ip: lack for ip, lack in off.items() if ip in wanted}
    nowhere = len(off) == len(wanted or boards)
    return [
        Lack(ip, f"HV {lack.reason}", WAIT if lack.coming else MEND_ALL, of_all=True)
        for ip, lack in off.items()
        if lack.coming or nowhere
    ]


def _hv_off(site: Site, boards: Sequence[Quabo], wanted: BoardSettings) -> dict[str, HvLack]:
    """Boards whose high voltage is not what the present configs ask for."""
    uids = read_quabo_uids(site.head_data_dir / QUABO_UIDS, site.obs).by_ip
    return hv_lacks(site, boards, nominal_volts(wanted, uids, boards))


def in_words(lacks: Sequence[Lack]) -> list[str]:
    """One line for all boards with the same lack."""
    by_text: dict[tuple[str, str], list[str]] = {}
    for lack in lacks:
        by_text.setdefault((lack.what, lack.mend), []).append(lack.ip)
    boards = max((lack.of for lack in lacks), default=0)
    lines = []
    for (what, mend), ips in by_text.items():
        named = [ip for ip in ips if ip]
        whom = f"all {boards} boards: " if len(named) == boards > 1 else ""
        if named and not whom:
            whom = f"{addresses(named)}: "
        lines.append(f"{whom}{what}; run: {mend}")
    return lines


def warnings_before_run(site: Site, wanted: BoardSettings) -> list[str]:
    """What does not keep a run from being started, but should be known: boards without HV, and
    that alarms still go where an old config says.
    """
    off = _hv_off(site, present_boards(site), wanted)
    found = [f"{ip}: HV {lack.reason}" for ip, lack in off.items()]
    for name in SESSION_DAEMONS:
        if why := why_start(site, name):
            found.append(f"{name} {OTHER_CONFIGS}: {why}; after the run: {MEND_ALL}")
    return found


def shutter_warnings(site: Site, boards: Sequence[Quabo], look: bool) -> list[str]:
    """Shutters in front of these boards that are not open, as far as is known.

    look: what housekeeping shows counts, too.
    """
    ledger, wanted = read_ledger(site.head_data_dir), BoardSettings(site).shutter_inputs(OPEN)
    drivers, now_unix = shutter_drivers(boards), time.time()
    shown = _shown(site, drivers) if look else {}
    found = []
    for quabo in drivers:
        why = ledger.why(quabo.ip, Step.SHUTTER, wanted, now_unix)
        seen = shown.get(quabo.ip)
        if shutter_state(ledger, quabo) == CLOSED:
            why = "closed"
        elif why is None and seen is not None and seen != site.obs.shutter_status_open:
            why = f"was told to be open, but SHUTTER_STATUS is {seen}"
        if why is not None:
            label = site.obs.module(quabo.module_id).label
            found.append(f"{label}: shutter: {why}; if it is to be open: config.py --redo shutter")
    return found


def _shown(site: Site, boards: Sequence[Quabo]) -> dict[str, int]:
    """SHUTTER_STATUS in housekeeping that is not too old, by address."""
    since_unix = time.time() - site.obs.hk_max_age_s
    try:
        with StoreWatch(Store(site.obs.redis_host, site.obs.redis_port), boards) as watch:
            shown = watch.shown.items()
    except ObsError:
        return {}  # told already
    return {ip: one.shutter_status for ip, one in shown if one.utc_s >= since_unix}


@dataclass(frozen=True)
class Loaded:
    """What `load_settings` did: addresses by step, and what went wrong."""

    boards: Mapping[Step, tuple[str, ...]]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether all that was stale is loaded."""
        return not self.problems


def load_settings(
    site: Site,
    console: Console,
    flight: FlightRecorder,
    boards: Sequence[Quabo] | None = None,
    what: str = "start.py",
) -> Loaded:
    """Load masks and MAROC where the configs have changed since they were loaded.

    boards: None = all that are present.  RefusedError when config.py is at work.
    """
    with held_ledger(site.head_data_dir, what) as book:
        chosen = present_boards(site) if boards is None else boards
        work = Work(site, chosen, book, console, flight)
        done: dict[Step, tuple[str, ...]] = {}
        for step, load in ((Step.MASKS, load_masks), (Step.MAROC, load_maroc)):
            stale = _stale(work, step)
            if stale:
                good = load(work, stale)
                done[step] = tuple(quabo.ip for quabo in good)
        return Loaded(done, tuple(work.problems))


def _stale(work: Work, step: Step) -> list[Quabo]:
    now_unix = time.time()
    found = []
    for quabo in work.present():
        try:
            why = work.why(quabo, step, now_unix)
        except ConfigError as error:
            work.board_fault(quabo.ip, step, "; ".join(map(str, error.faults)))
            continue
        if why is not None:
            work.console.note(f"{step.label} of {quabo.ip}: {why}")
            found.append(quabo)
    return found

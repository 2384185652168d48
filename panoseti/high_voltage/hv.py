"""The HV updater: detector bias that follows the temperature, and off whenever that is unknown.

A board has high voltage only while its housekeeping can be trusted (`hk_trust`), its detectors are
in the board data base, no trip stands against it, and the temperature guard is alive and was tried
out (`interlock`).  It goes up in steps that HVMON has to follow (`hv_ramp`).  In every other case
zeros are sent, again and again until HVMON shows that they were obeyed; the last value is never
kept.  A temperature beyond its limits, and a voltage above what was asked for, are off until an
operator has acknowledged.

`judge` is the whole decision, pure; `HvUpdater` applies it to all boards.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from panoseti.boards.addresses import redis_key
from panoseti.configs.settings import hv_codes
from panoseti.daemon import Daemon
from panoseti.errors import ObsError
from panoseti.high_voltage.hv_asked import NOT_ASKED
from panoseti.high_voltage.hv_off import STUCK_S
from panoseti.high_voltage.hv_ramp import HV_OFF, BoardHv, Codes, Hold, Off, Stage, Target, Want
from panoseti.high_voltage.hv_trips import ACKNOWLEDGE, Trip
from panoseti.housekeeping.hk_trust import Blind, BoardTrust, Doubt, OverLimit, Verdict
from panoseti.housekeeping.store import Record

__all__ = [
    "HV_OFF", "Codes", "HvActions", "HvBoard", "HvUpdater", "Stage", "judge", "update_loop",
]  # fmt: skip

logger = logging.getLogger(__name__)

NAME = "hv_updater"
FOLLOW_S = 5.0
# So long may a look last, with Redis and silent boards to wait for.
STALE_S = 4.0
# How many of its intervals the end waits for HVMON to show that all is off: four packets.
PROOF_INTERVALS = 12
LATCHED_ALARM, SUPPLY_ALARM, TRIP_ALARM = "hv_latched", "hv_supply", "hv_trip"
ASKED_ALARM = "hv_asked"


@dataclass(frozen=True)
class HvBoard:
    """A board that is present.

    nominal_v: bias of its four detectors at 25 degC, V, quadrant 0 first; None when the board
    data base does not tell, with `remedy` saying what is missing.
    """

    ip: str
    boardloc: int
    module_id: int
    nominal_v: tuple[float, float, float, float] | None
    remedy: str = ""


def judge(
    board: HvBoard,
    verdict: Verdict,
    closed: str = "",
    latched: str = "",
    trip: Trip | None = None,
    unasked: str = "",
) -> Want:
    """HV for a board from what its housekeeping says.

    closed: why no board may have HV ("" = they may); latched: why this one is off for good;
    trip: that stands against it or its module; unasked: that nobody has asked for its HV.
    """
    if trip is not None:
        return Off(f"{trip.by or 'trip'}: {trip.reason}; then: {ACKNOWLEDGE}")
    if latched:
        return Off(latched, latch=True)
    if isinstance(verdict, OverLimit):
        return Off(verdict.reason, latch=True)
    if unasked:
        return Off(unasked)
    if isinstance(verdict, Blind):
        return Off(verdict.reason)
    if closed:
        return Off(closed)
    if board.nominal_v is None:
        return Off(board.remedy)
    if isinstance(verdict, Doubt):
        return Hold(verdict.reason)
    try:
        return Target(hv_codes(board.nominal_v, verdict.reading.detector_c))
    except ValueError as error:
        return Off(f"{error}: correct its detectors in detector_info.json")


class Tells(Protocol):
    """Where alarms go: alarms.Alarms."""

    def tell(self, kind: str, text: str, subject: str = "", **facts: Any) -> None: ...
    def hold(self, kind: str, subject: str, text: str, **facts: Any) -> None: ...
    def hold_only(self, kind: str, texts: Mapping[str, str]) -> None: ...


@dataclass(frozen=True)
class HvActions:
    """What the updater does to the world.

    records: the HK records of these keys (raises ObsError); trips: all that stand (raises
    ObsError); latch: adds trips (raises ObsError); closed: why no board may have HV, from trips,
    Unix time and monotonic time; send: codes by address, returns the problem of each board, None
    where the board confirmed; booted: notes that the voltages of a board (BOARDLOC), there at a
    Unix time, were gone at another: it has rebooted, as far as anybody can tell (raises ObsError);
    asked: the boards that HV was asked for, by address (raises ObsError).
    """

    records: Callable[[Iterable[str]], dict[str, Record]]
    trips: Callable[[], tuple[Trip, ...]]
    latch: Callable[[Iterable[Trip]], None]
    closed: Callable[[tuple[Trip, ...], float, float], str]
    send: Callable[[Mapping[str, Codes]], Mapping[str, str | None]]
    alarms: Tells
    booted: Callable[[int, float, float], object]
    asked: Callable[[], Collection[str]]


@dataclass
class _Kept:
    """A board, what its housekeeping says, and its HV."""

    board: HvBoard
    trust: BoardTrust
    hv: BoardHv
    present: bool = True
    asked: bool = False
    want: Want = field(default_factory=lambda: Off("not looked at yet"))


class HvUpdater:
    """Keeps the HV of all boards: `look` and `act`, about once a second.

    follow_s: a set point that is on follows the temperature no faster; clock: the monotonic one;
    stuck_s: a board whose HVMON shows a voltage so long after "off" trips its module, so that the
    guard cuts its power.
    """

    def __init__(
        self,
        actions: HvActions,
        max_age_s: float,
        follow_s: float = FOLLOW_S,
        clock: Callable[[], float] = time.monotonic,
        stuck_s: float = STUCK_S,
    ) -> None:
        self.closed = ""
        self.ending = False
        self._actions = actions
        self._max_age_s = max_age_s
        self._follow_s = follow_s
        self._clock = clock
        self._stuck_s = stuck_s
        self._looked_s = 0.0
        self._asked_problem = ""
        self._kept: dict[str, _Kept] = {}
        self._unsaved: dict[tuple[int, str], Trip] = {}
        self._standing: set[tuple[int, str]] = set()

    @property
    def boards(self) -> dict[str, BoardHv]:
        """The HV of each board by address."""
        return {ip: kept.hv for ip, kept in self._kept.items()}

    @property
    def unasked(self) -> set[str]:
        """Addresses of the boards that nobody has asked HV for."""
        return {ip for ip, kept in self._kept.items() if not kept.asked}

    def set_boards(self, boards: Iterable[HvBoard]) -> None:
        """The boards that are present now; one that is no longer among them is switched off."""
        for kept in self._kept.values():
            kept.present = False
        for board in boards:
            kept = self._kept.setdefault(
                board.ip,
                _Kept(board, BoardTrust(board.boardloc, self._max_age_s), BoardHv(self._follow_s)),
            )
            kept.board, kept.present = board, True

    def look(self, now_unix: float, now_s: float) -> None:
        """Judge every board; nothing is sent."""
        self._looked_s = now_s
        lost = ""
        records: dict[str, Record] = {}
        trips: tuple[Trip, ...] = ()
        try:
            records = self._actions.records(
                [redis_key(kept.board.boardloc) for kept in self._kept.values()]
            )
        except ObsError as error:
            lost = str(error)
        try:
            trips = self._actions.trips()
            self._standing = {trip.key for trip in trips}
            self.closed = self._actions.closed(trips, now_unix, now_s)
        except ObsError as error:
            self.closed = str(error)
        if self.ending:
            self.closed = "hv_updater ends"
        asked = self._read_asked()
        standing = {trip.key: trip for trip in trips}
        for ip, kept in list(self._kept.items()):
            record = records.get(redis_key(kept.board.boardloc), {})
            verdict = kept.trust.lost(lost) if lost else kept.trust.take(record, now_unix, now_s)
            if not kept.present:
                kept.want = Off("no longer among the boards that are present")
                continue
            module = kept.board.module_id
            trip = standing.get((module, "")) or standing.get((module, ip))
            kept.asked = ip in asked
            unasked = "" if kept.asked else self._asked_problem or NOT_ASKED
            latched = self._latched(kept, trip)
            kept.want = judge(kept.board, verdict, self.closed, latched, trip, unasked)

    def _read_asked(self) -> Collection[str]:
        try:
            asked = self._actions.asked()
        except ObsError as error:
            self._asked_problem = str(error)
            return ()
        self._asked_problem = ""
        return asked

    def _latched(self, kept: _Kept, trip: Trip | None) -> str:
        """Why a board is off for good; the file knows it, and when an operator has seen it."""
        if kept.hv.latched and trip is None and self._key(kept) not in self._unsaved:
            kept.hv.latched = ""
        return kept.hv.latched

    @staticmethod
    def _key(kept: _Kept) -> tuple[int, str]:
        return kept.board.module_id, kept.board.ip

    def act(self, now_unix: float, now_s: float) -> None:
        """Send what follows: "off" first and alone, so that nothing can delay it."""
        off: dict[str, Codes] = {}
        on: dict[str, Codes] = {}
        before = {ip: (kept.hv.stage, kept.hv.latched) for ip, kept in self._kept.items()}
        for ip, kept in self._kept.items():
            codes = kept.hv.plan(kept.want, kept.trust.hv, now_s, now_unix)
            if codes is not None:
                (off if codes == HV_OFF else on)[ip] = codes
        for wanted in (off, on):
            problems = self._send(wanted)
            for ip, codes in wanted.items():
                hv = self._kept[ip].hv
                had = hv.problem
                hv.told(codes, problems.get(ip, "not sent"), now_s, now_unix)
                if hv.problem and not had:
                    word = "off" if codes == HV_OFF else hv.stage.value
                    logger.error("%s: HV %s not confirmed: %s", ip, word, hv.problem)
        for ip, kept in self._kept.items():
            if isinstance(kept.want, Target) and kept.hv.codes == kept.want.codes:
                kept.hv.nominal_v = kept.board.nominal_v
            self._log_change(ip, kept.hv, before[ip][0])
        self._trip_stuck(now_unix, now_s)
        self._latch(now_unix, {ip for ip, (_, latched) in before.items() if not latched})
        self._note_boots()
        self._forget()
        self._actions.alarms.hold(ASKED_ALARM, "", self._asked_problem)
        self._actions.alarms.hold_only(
            SUPPLY_ALARM, {ip: kept.hv.supply_fault for ip, kept in self._kept.items()}
        )

    def _send(self, wanted: Mapping[str, Codes]) -> Mapping[str, str | None]:
        """Send a batch; nothing but "off" when what it rests on was seen too long ago.

        That is so when this program was stopped in between, and the guard has acted meanwhile.
        """
        if not wanted:
            return {}
        off = all(codes == HV_OFF for codes in wanted.values())
        if not off and self._clock() - self._looked_s > STALE_S:
            return dict.fromkeys(wanted, "looked at too long ago: not sent")
        return self._actions.send(wanted)

    def _log_change(self, ip: str, hv: BoardHv, before: Stage) -> None:
        if hv.stage is before:
            return
        if hv.stage is Stage.ON:
            codes = " ".join(str(code) for code in hv.codes)
            logger.info("%s: HV on, HVMON shows it (codes %s)", ip, codes)
        elif hv.stage is Stage.OFF:
            logger.info("%s: HV off, HVMON shows it: %s", ip, hv.reason)
        else:
            level = logging.WARNING if before is Stage.ON else logging.INFO
            logger.log(level, "%s: HV %s: %s", ip, hv.stage.value, hv.reason)

    def _trip_stuck(self, now_unix: float, now_s: float) -> None:
        """Trip the modules of boards that keep their voltage whatever they are told.

        The guard finds out by itself while it has a reason of its own to have such a board off.
        """
        for ip, kept in self._kept.items():
            why, module = kept.hv.stuck(now_s, self._stuck_s), kept.board.module_id
            if why is None or (module, "") in self._standing | self._unsaved.keys():
                continue
            trip = Trip(module, f"{ip}: {why}", now_unix, by=NAME)
            self._unsaved[trip.key] = trip
            text = f"module {module} is tripped: {trip.reason}; then: {ACKNOWLEDGE}"
            self._actions.alarms.tell(TRIP_ALARM, text, f"module {module}")

    def _latch(self, now_unix: float, unlatched_before: set[str]) -> None:
        for ip in sorted(unlatched_before):
            kept = self._kept[ip]
            if kept.hv.latched:
                key = self._key(kept)
                self._unsaved[key] = Trip(key[0], kept.hv.latched, now_unix, ip, NAME)
                text = f"{ip}: HV is off until acknowledged: {kept.hv.latched}"
                self._actions.alarms.tell(LATCHED_ALARM, text, ip)
        if not self._unsaved:
            return
        try:
            self._actions.latch(self._unsaved.values())
            self._unsaved = {}
        except ObsError as error:
            logger.error("cannot save what is off for good: %s", error)

    def _note_boots(self) -> None:
        """Boards whose voltages vanished: whoever set them up must know that they rebooted."""
        for ip, kept in self._kept.items():
            if kept.hv.lost_at is None:
                continue
            try:
                self._actions.booted(kept.board.boardloc, *kept.hv.lost_at)
            except ObsError as error:
                logger.warning("%s: that it rebooted is not noted yet: %s", ip, error)
                return
            kept.hv.lost_at = None

    def _forget(self) -> None:
        """Boards that are no longer present, once they are off as far as can be known."""
        for ip, kept in list(self._kept.items()):
            silent = kept.trust.hv is None and not kept.hv.off_unheard
            if not kept.present and (kept.hv.off_proven or silent):
                del self._kept[ip]

    def left_on(self) -> dict[str, str]:
        """While it ends: boards that are not known to be off, and what is known of them."""
        left = {}
        for ip, kept in self._kept.items():
            hv = kept.hv
            if hv.off_proven:
                continue
            if kept.trust.hv is not None:
                left[ip] = f"HVMON shows {max(kept.trust.hv.volts):.1f} V"
            elif hv.off_unheard:
                left[ip] = hv.problem or "not told"
        return left

    def unproven(self) -> list[str]:
        """Boards that have echoed "off" while there is no housekeeping to show it."""
        left = self.left_on()
        return [ip for ip, k in self._kept.items() if not k.hv.off_proven and ip not in left]


def update_loop(
    daemon: Daemon, updater: HvUpdater, boards: Callable[[], tuple[HvBoard, ...]]
) -> None:
    """Update until the daemon is asked to end, then switch every board off.

    boards: those that are present now, asked before every round; while it raises ObsError the
    last known ones are kept.  Nobody follows the temperature after the end: hence the off.
    """
    try:
        _keep(daemon, updater, boards)
    finally:  # also after a bug: there may be a way down yet
        updater.ending = True
        _end(daemon, updater)


def _keep(daemon: Daemon, updater: HvUpdater, boards: Callable[[], tuple[HvBoard, ...]]) -> None:
    problem = ""
    while not daemon.stop.is_set():
        begin_s = time.monotonic()
        try:
            updater.set_boards(boards())
            problem = ""
        except ObsError as error:
            if not problem:
                logger.error("%s; the boards known so far are kept", error)
            problem = str(error)
        _round(daemon, updater, problem)
        daemon.stop.wait(begin_s + daemon.interval_s - time.monotonic())


def _round(daemon: Daemon, updater: HvUpdater, problem: str) -> None:
    """Look and act; a heartbeat after each, since either may wait for somebody."""
    updater.look(time.time(), time.monotonic())
    _beat(daemon, updater, problem)
    updater.act(time.time(), time.monotonic())
    _beat(daemon, updater, problem)


def _end(daemon: Daemon, updater: HvUpdater) -> None:
    deadline = time.monotonic() + PROOF_INTERVALS * daemon.interval_s
    while True:
        _round(daemon, updater, "")
        left = updater.left_on()
        if not left or time.monotonic() > deadline:
            break
        time.sleep(min(daemon.interval_s, 0.5))
    if unproven := updater.unproven():
        logger.warning("HV off was echoed, no HVMON has shown it: %s", ", ".join(unproven))
    if left:
        told = "; ".join(f"{ip}: {why}" for ip, why in sorted(left.items()))
        raise ObsError(
            f"HV off is not proven: {told}; switch it off with config.py --hv_off, or cut the"
            " power of the module"
        )


def _beat(daemon: Daemon, updater: HvUpdater, problem: str) -> None:
    unasked = updater.unasked
    states = {
        ip: {
            "hv": hv.stage.value,
            "asked": ip not in unasked,
            "coming": hv.coming,
            "paused": hv.paused,
            "codes": hv.codes,
            "nominal_v": hv.nominal_v,
            "reason": hv.reason,
            "problem": hv.problem,
            "hk_unix": hv.hk_unix,
        }
        for ip, hv in sorted(updater.boards.items())
    }
    as_asked = (
        hv.stage is (Stage.OFF if ip in unasked else Stage.ON) for ip, hv in updater.boards.items()
    )
    good = not problem and all(as_asked)
    word = "ending" if updater.ending else "ok" if good else "boards off"
    daemon.beat(word, problem=problem, interlock=updater.closed, boards=states)

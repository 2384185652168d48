"""The temperature guard: what is done when a board may not have high voltage.

It judges every board by the same rules as the HV updater (`hk_trust`), and watches the updater.

- A temperature beyond its limits *trips* the module, also that of a board that is absent or has no
  HV: HV off, run stopped, power outlet off.  The trip lasts, on disk, until an operator
  acknowledges it.
- A board whose state is not known, or that no living updater keeps, gets HV off until HVMON shows
  that it has obeyed, also when the reason has passed meanwhile.  When HVMON shows a voltage all the
  same for `stuck_s`, or nothing at all for `patience_s`, its module is tripped as well.
- A board that is not (or no longer) among those that are present and HV was asked for is of concern
  while housekeeping of it shows a voltage, while it has not been seen to obey, and while a trip of
  its own stands.

`Guard.look` decides, `Guard.act` does; call both about once a second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from panoseti.boards.addresses import redis_key
from panoseti.daemon import Daemon
from panoseti.errors import ObsError
from panoseti.high_voltage.hv import Tells
from panoseti.high_voltage.hv_off import PATIENCE_S, STUCK_S, OffWatch, shows_off
from panoseti.high_voltage.hv_trips import ACKNOWLEDGE, Trip
from panoseti.high_voltage.rehearsal import REHEARSAL_KEY, RehearsedBoard
from panoseti.high_voltage.supervision import Life
from panoseti.housekeeping.hk_trust import Blind, BoardTrust, OverLimit, Verdict
from panoseti.housekeeping.store import Record
from panoseti.words import joined

logger = logging.getLogger(__name__)

NAME = "temperature_guard"
# Packets may be on their way for so long after the power was cut.
DARK_S = 1.0
# An outlet that is off and whose boards are heard (somebody switched it on, or it is the wrong
# one) is switched off again so often.
CUT_AGAIN_S = 60.0
# An order that is not echoed for so long is an alarm.
UNHEARD_S = 5.0


@dataclass(frozen=True)
class GuardedModule:
    """A module as the guard sees it.

    boards: (address, BOARDLOC) of all four; outlet: name of the power outlet that feeds it, ""
    where no power switch is configured; absent: addresses of boards that did not answer the last
    scan, or that HV was not asked for.
    """

    module_id: int
    label: str
    boards: tuple[tuple[str, int], ...]
    outlet: str = ""
    absent: frozenset[str] = frozenset()


@dataclass(frozen=True)
class GuardActions:
    """What the guard does to the world.

    records: the HK records of these keys (raises ObsError); trips: those on disk (raises
    ObsError); save: adds trips to them (raises ObsError); updater: how the HV updater is; hv_off:
    sends zeros and returns the problem of each board, None where the board confirmed; stop_run:
    ends a run in progress without waiting for it (reason given), None where that is not wanted;
    power_off: switches an outlet off without waiting for it, since a trip stands since that Unix
    time: "" = it is off, None = at work, else what is wrong; call it again until it is "".
    """

    records: Callable[[Iterable[str]], dict[str, Record]]
    trips: Callable[[], tuple[Trip, ...]]
    save: Callable[[Iterable[Trip]], None]
    updater: Callable[[float], Life]
    hv_off: Callable[[Iterable[str]], Mapping[str, str | None]]
    stop_run: Callable[[str], None] | None
    power_off: Callable[[str, float], str | None]
    alarms: Tells


@dataclass
class _Watched:
    """A board: what its housekeeping says; off: while it must be off."""

    trust: BoardTrust
    blind: str = ""
    why_off: str = ""
    off: OffWatch | None = None


@dataclass(frozen=True)
class GuardState:
    """For heartbeat and status.

    trips by module or board; blind, off: reason by address; unproven: those of `off` whose HVMON
    has not shown it; power_pending: trouble with an outlet, by module id.
    """

    trips: dict[str, str]
    blind: dict[str, str]
    off: dict[str, str]
    unproven: list[str]
    power_pending: dict[int, str]
    powered_off: list[str]
    updater: str
    problem: str

    @property
    def calm(self) -> bool:
        """Whether there is nothing that somebody should know."""
        return not (self.trips or self.blind or self.problem or self.power_pending)


@dataclass
class Guard:
    """The guard over all modules; see the module's text."""

    actions: GuardActions
    max_age_s: float
    stuck_s: float = STUCK_S
    patience_s: float = PATIENCE_S
    modules: tuple[GuardedModule, ...] = ()
    trips: dict[tuple[int, str], Trip] = field(default_factory=dict)
    powered_off: dict[str, float] = field(default_factory=dict)  # outlet -> Unix time
    power_pending: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._boards: dict[str, _Watched] = {}
        self._rehearsed = RehearsedBoard(self.max_age_s)
        self._unsaved: dict[tuple[int, str], Trip] = {}
        self._new: list[Trip] = []
        self._others: list[Trip] = []  # of the updater, that have just come
        self._told_trips: set[tuple[int, str]] | None = None  # None: they were never read
        self._life = Life(None)
        self._trips_problem = ""
        self._store_problem = ""
        self._lit: set[str] = set()  # outlets that we have cut and whose boards are heard

    # --- looking ---

    def look(self, now_unix: float, now_s: float) -> None:
        """Judge every board; nothing is sent."""
        self._lit = set()
        self._life = self.actions.updater(now_s)
        self._read_trips()
        records = self._read_records()
        known = {ip for module in self.modules for ip, _ in module.boards}
        for ip in self._boards.keys() - known:
            del self._boards[ip]
        for module in self.modules:
            for ip, boardloc in module.boards:
                watched = self._boards.setdefault(
                    ip, _Watched(BoardTrust(boardloc, self.max_age_s))
                )
                record = records.get(redis_key(boardloc), {})
                self._judge(module, ip, watched, record, now_unix, now_s)
        for outlet in self._lit - self._tripped_outlets():
            logger.info("%s is on again", outlet)
            del self.powered_off[outlet]
        rehearsed = self._rehearsed.trip(records.get(REHEARSAL_KEY, {}), now_unix, now_s)
        if rehearsed is not None:
            self._trip(rehearsed)

    def _read_trips(self) -> None:
        try:
            saved = {trip.key: trip for trip in self.actions.trips()}
            self._trips_problem = ""
        except ObsError as error:
            self._trips_problem = str(error)
        else:
            self.trips = saved | self._unsaved
            self._note_others(saved)
        modules = {trip.module_id for trip in self.trips.values() if not trip.board}
        for module_id in self.power_pending.keys() - modules:
            del self.power_pending[module_id]

    def _note_others(self, saved: dict[tuple[int, str], Trip]) -> None:
        """A module that the updater has tripped just now is a new trip for us, too."""
        if self._told_trips is not None:
            others = [
                trip
                for key, trip in saved.items()
                if key not in self._told_trips and not trip.board and trip.by != NAME
            ]
            self._others += [trip for trip in others if not trip.made_up]
        self._told_trips = set(self.trips)

    def _read_records(self) -> dict[str, Record]:
        keys = [redis_key(b) for module in self.modules for _, b in module.boards]
        try:
            records = self.actions.records([*keys, REHEARSAL_KEY])
            self._store_problem = ""
        except ObsError as error:
            self._store_problem, records = str(error), {}
        return records

    def _judge(
        self,
        module: GuardedModule,
        ip: str,
        watched: _Watched,
        record: Record,
        now_unix: float,
        now_s: float,
    ) -> None:
        verdict: Verdict
        if self._store_problem:
            verdict = watched.trust.lost(self._store_problem)
        else:
            verdict = watched.trust.take(record, now_unix, now_s)
        # Heat does not ask whether a board is wanted, nor does an outlet that should be off.
        if isinstance(verdict, OverLimit):
            self._trip(Trip(module.module_id, f"{ip}: {verdict.reason}", now_unix, by=NAME))
        dark = self._is_dark(module, watched)
        if not self._concerns(module, ip, watched):
            watched.blind, watched.why_off, watched.off = "", "", None
            return
        known = ip not in module.absent
        watched.blind = verdict.reason if known and isinstance(verdict, Blind) else ""
        why_off = self._why_off(module, ip, watched)
        if dark:
            watched.why_off, watched.off = why_off, None
            return
        if why_off:
            watched.why_off, watched.off = why_off, watched.off or OffWatch()
        if watched.off is None:
            watched.why_off = ""
            return
        watched.off.see(watched.trust.hv)
        if not why_off and watched.off.obeyed:
            watched.why_off, watched.off = "", None
            return
        if (late := watched.off.overdue(now_s, self.stuck_s, self.patience_s)) is not None:
            self._trip(Trip(module.module_id, f"{ip}: {late}", now_unix, by=NAME))

    def _concerns(self, module: GuardedModule, ip: str, watched: _Watched) -> bool:
        """Whether a board is watched: all that are present, others while they may have HV."""
        if ip not in module.absent or (module.module_id, ip) in self.trips:
            return True
        if watched.trust.hv is not None and not shows_off(watched.trust.hv):
            return True
        return watched.off is not None and not watched.off.confirmed

    def _is_dark(self, module: GuardedModule, watched: _Watched) -> bool:
        """Whether we have cut its power, and nothing has come from it since."""
        since_unix = self.powered_off.get(module.outlet)
        if since_unix is None:
            return False
        if watched.trust.hv is None or watched.trust.hv.utc_s < since_unix + DARK_S:
            return True
        self._lit.add(module.outlet)
        return False

    def _why_off(self, module: GuardedModule, ip: str, watched: _Watched) -> str:
        trip = self.trips.get((module.module_id, "")) or self.trips.get((module.module_id, ip))
        if trip is not None:
            return trip.reason
        if self._trips_problem:
            return self._trips_problem
        if ip in module.absent:
            return "not among the boards that are present and HV was asked for"
        if watched.blind:
            return watched.blind
        return self._life.why if self._life.alive is False else ""

    def _trip(self, trip: Trip) -> None:
        if trip.key not in self.trips:
            self.trips[trip.key] = self._unsaved[trip.key] = trip
            self._new.append(trip)

    # --- doing ---

    def act(self, now_unix: float, now_s: float) -> None:
        """HV off first, then everything else; nothing here waits for long."""
        self._switch_hv_off(now_unix, now_s)
        new, self._new = [trip for trip in self._new if not trip.made_up], []
        for trip in new:
            text = f"module {trip.module_id} is tripped: {trip.reason}; then: {ACKNOWLEDGE}"
            self.actions.alarms.tell("hv_trip", text, f"module {trip.module_id}")
        self._switch_power_off(now_unix)
        stopping, self._others = [*new, *self._others], []
        if stopping and self.actions.stop_run is not None:
            self.actions.stop_run("; ".join(f"module {t.module_id}: {t.reason}" for t in stopping))
        self._save()
        self._alarm(now_s)

    def _switch_hv_off(self, now_unix: float, now_s: float) -> None:
        # A trip of this look concerns boards that were judged before it.
        tripped = {trip.module_id for trip in self._new}
        for module in self.modules:
            if module.module_id in tripped:
                for ip, _ in module.boards:
                    watched = self._boards[ip]
                    if ip in module.absent and watched.off is None:
                        continue
                    watched.off = watched.off or OffWatch()
                    watched.why_off = watched.why_off or self.trips[module.module_id, ""].reason
        due = [ip for ip, watched in self._boards.items() if watched.off and watched.off.due(now_s)]
        problems = self.actions.hv_off(due) if due else {}
        for ip in due:
            off = self._boards[ip].off
            if off is not None:
                off.told(problems.get(ip, "not sent"), now_s, now_unix)

    def _tripped_outlets(self) -> set[str]:
        return {m.outlet for m in self.modules if m.outlet and (m.module_id, "") in self.trips}

    def _switch_power_off(self, now_unix: float) -> None:
        for module in self.modules:
            number, outlet = module.module_id, module.outlet
            trip = self.trips.get((number, ""))
            if trip is None or not outlet:
                continue
            cut_unix = self.powered_off.get(outlet)
            if cut_unix is not None:
                if outlet in self._lit:
                    text = f"{outlet} was switched off, but boards of {module.label} are heard"
                    self.power_pending[number] = text
                if outlet not in self._lit or now_unix - cut_unix < CUT_AGAIN_S:
                    continue
            problem = self.actions.power_off(outlet, trip.since_unix)
            if problem == "":
                self.power_pending.pop(number, None)
                self.powered_off[outlet] = now_unix
                if cut_unix is None:
                    text = f"{module.label}: {outlet} is switched off"
                    self.actions.alarms.tell("power_off", text, f"module {number}")
            elif problem is not None:
                self.power_pending[number] = problem

    def _save(self) -> None:
        if not self._unsaved:
            return
        try:
            self.actions.save(self._unsaved.values())
            self._unsaved = {}
        except ObsError as error:
            self.actions.alarms.hold("trips_unsaved", "", f"trips cannot be saved: {error}")
            return
        self.actions.alarms.hold("trips_unsaved", "", "")

    # --- telling ---

    def _alarm(self, now_s: float) -> None:
        alarms = self.actions.alarms
        alarms.hold("store", "", self._store_problem and f"HV is off: {self._store_problem}")
        alarms.hold("trips", "", self._trips_problem)
        crashed = self._life.why if self._life.crashed else ""
        alarms.hold("hv_updater", "", crashed and f"{crashed}: HV is switched off by the guard")
        blind, unheard = {}, {}
        for module in self.modules:
            subject = f"module {module.module_id}"
            boards = [(ip, self._boards[ip]) for ip, _ in module.boards if ip in self._boards]
            lost = [f"{ip}: {w.blind}" for ip, w in boards if w.blind and not self._store_problem]
            blind[subject] = lost and f"HV is off: {joined(lost)}" or ""
            late = [
                f"{ip} has not confirmed HV off: {w.off.problem}"
                for ip, w in boards
                if w.off and w.off.problem is not None and w.off.waiting_s(now_s) > UNHEARD_S
            ]
            unheard[subject] = joined(late)
        alarms.hold_only("housekeeping", blind)
        alarms.hold_only("hv_off_unconfirmed", unheard)
        alarms.hold_only(
            "power_outlet", {f"module {i}": text for i, text in self.power_pending.items()}
        )

    def state(self) -> GuardState:
        """How things are."""
        boards = self._boards.items()
        trips = [trip for trip in self.trips.values() if not trip.made_up]
        return GuardState(
            trips={t.board or f"module {t.module_id}": t.reason for t in trips},
            blind={ip: watched.blind for ip, watched in boards if watched.blind},
            off={ip: watched.why_off for ip, watched in boards if watched.why_off},
            unproven=sorted(ip for ip, w in boards if w.off and not w.off.confirmed),
            power_pending=dict(self.power_pending),
            powered_off=sorted(self.powered_off.keys() - self._lit),
            updater=self._life.why,
            problem=self._trips_problem or (self._life.why if self._life.crashed else ""),
        )


def guard_loop(
    daemon: Daemon,
    guard: Guard,
    modules: Callable[[], tuple[GuardedModule, ...]],
    power: Callable[[float], dict[str, str]] = lambda now_s: {},
) -> None:
    """Guard until the daemon is asked to end.

    modules: those to be watched now, asked before every round; while it raises ObsError the
    last known ones are kept.  power: what is wrong with the power switches, by name.
    """
    problem = ""
    while not daemon.stop.is_set():
        begin_s = time.monotonic()
        try:
            guard.modules = modules()
            problem = ""
        except ObsError as error:
            if not problem:
                logger.error("%s; the modules known so far are kept", error)
            problem = str(error)
        guard.actions.alarms.hold("boards", "", problem)
        guard.look(time.time(), begin_s)
        _beat(daemon, guard.state(), problem, {})
        guard.act(time.time(), time.monotonic())
        switches = power(time.monotonic())
        guard.actions.alarms.hold_only("power_switch", switches)
        _beat(daemon, guard.state(), problem, switches)
        daemon.stop.wait(begin_s + daemon.interval_s - time.monotonic())


def _beat(daemon: Daemon, state: GuardState, problem: str, power: dict[str, str]) -> None:
    daemon.beat(
        "ok" if state.calm and not problem else "alarm",
        problem=problem or state.problem,
        trips=state.trips,
        blind=state.blind,
        off=state.off,
        unproven=state.unproven,
        power_pending=state.power_pending,
        powered_off=state.powered_off,
        updater=state.updater,
        power=power,
    )

"""The HV updater: detector bias that follows the temperature, and off whenever that is unknown.

A board has high voltage only while its HK record is fresh, possible and within the detector
limits, its detectors are in the board data base, and no trip of the temperature guard stands
against its module.  In every other case zeros are sent, again and again until the board has
confirmed them; the last value is never kept.  A board whose detectors were too cold or too hot
stays off for the life of the updater.

`judge` is the whole decision, pure; `HvUpdater.round` applies it to all boards.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from panoseti.addresses import redis_key
from panoseti.daemon import Daemon
from panoseti.errors import ObsError
from panoseti.safety import Blind, Trip, detector_fault, read_hk
from panoseti.settings import hv_codes
from panoseti.store import Record

logger = logging.getLogger(__name__)

Codes = tuple[int, int, int, int]
HV_OFF: Codes = (0, 0, 0, 0)
RETRY_OFF_S = 1.0
# Rounds of "off" at the end, each of them a batch with re-sending of its own.
LAST_TRIES = 3


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


@dataclass(frozen=True)
class Want:
    """What a board must be told: codes, why they are zero, and whether that is for good."""

    codes: Codes
    reason: str = ""
    latch: bool = False


class State(StrEnum):
    """HV of a board as far as its confirmations tell."""

    UNKNOWN = "unknown"
    ON = "on"
    OFF = "off"


def judge(
    board: HvBoard,
    record: Record,
    now_unix: float,
    max_age_s: float,
    latched: str = "",
    trip: Trip | None = None,
) -> Want:
    """HV for a board from its HK record at Unix time `now_unix`.

    latched: why the board is off for good ("" = it is not); trip: of its module.
    """
    if latched:
        return Want(HV_OFF, latched)
    seen = read_hk(record, board.boardloc, now_unix, max_age_s)
    if isinstance(seen, Blind):
        return Want(HV_OFF, seen.reason)
    if (fault := detector_fault(seen)) is not None:
        return Want(HV_OFF, f"{fault}; off until hv_updater.py is restarted", latch=True)
    if trip is not None:
        return Want(HV_OFF, f"temperature guard: {trip.reason}")
    if board.nominal_v is None:
        return Want(HV_OFF, board.remedy)
    return Want(hv_codes(board.nominal_v, seen.detector_c))


@dataclass
class BoardState:
    """What the updater remembers of a board."""

    state: State = State.UNKNOWN
    codes: Codes = HV_OFF
    reason: str = ""
    latched: str = ""
    problem: str = ""


@dataclass(frozen=True)
class HvActions:
    """What the updater does to the world.

    records: the HK records of these keys (raises ObsError); trips: those of the guard by
    module id (raises ObsError); send: codes by address, returns the problem of each board, None
    where the board confirmed.
    """

    records: Callable[[Iterable[str]], dict[str, Record]]
    trips: Callable[[], dict[int, Trip]]
    send: Callable[[Mapping[str, Codes]], Mapping[str, str | None]]


@dataclass
class HvUpdater:
    """Keeps the HV of all boards; call `round()` every 5 s, sooner when it returns True."""

    actions: HvActions
    max_age_s: float
    boards: tuple[HvBoard, ...] = ()
    states: dict[str, BoardState] = field(default_factory=dict)

    def set_boards(self, boards: Iterable[HvBoard]) -> None:
        """The boards that are present now; one that is no longer among them is switched off."""
        self.boards = tuple(boards)

    def round(self, now_unix: float) -> bool:
        """Judge every board, send what follows; whether an "off" is still unconfirmed.

        "Off" goes out first and alone, so that nothing can delay it.
        """
        wants = self._wants(now_unix)
        off = {
            ip: want
            for ip, want in wants.items()
            if want.codes == HV_OFF and self._state(ip).state is not State.OFF
        }
        on = {ip: want for ip, want in wants.items() if want.codes != HV_OFF}
        for ip, want in wants.items():
            self._log_change(ip, want)
        self._send(off, State.OFF)
        self._send(on, State.ON)
        return any(self._state(ip).state is not State.OFF for ip in off)

    def all_off(self) -> list[str]:
        """Switch every board off; the addresses that did not confirm."""
        addresses = {board.ip for board in self.boards} | self.states.keys()
        wants = {ip: Want(HV_OFF, "hv_updater ends") for ip in sorted(addresses)}
        return self._send(wants, State.OFF)

    def _wants(self, now_unix: float) -> dict[str, Want]:
        lost = ""
        records: dict[str, Record] = {}
        trips: dict[int, Trip] = {}
        try:
            records = self.actions.records([redis_key(b.boardloc) for b in self.boards])
            trips = self.actions.trips()
        except ObsError as error:
            lost = str(error)
        wants: dict[str, Want] = {}
        for board in self.boards:
            state = self._state(board.ip)
            if lost:
                want = Want(HV_OFF, state.latched or lost)
            else:
                want = judge(
                    board,
                    records.get(redis_key(board.boardloc), {}),
                    now_unix,
                    self.max_age_s,
                    state.latched,
                    trips.get(board.module_id),
                )
            if want.latch:
                state.latched = want.reason
            wants[board.ip] = want
        for ip in self.states.keys() - wants.keys():
            if self.states[ip].state is State.OFF:
                del self.states[ip]
            else:
                wants[ip] = Want(HV_OFF, "no longer among the boards that are present")
        return wants

    def _state(self, ip: str) -> BoardState:
        return self.states.setdefault(ip, BoardState())

    def _log_change(self, ip: str, want: Want) -> None:
        state = self._state(ip)
        if want.codes == HV_OFF:
            # The age of old HK grows from round to round; that alone is no news.
            if state.codes != HV_OFF or not state.reason:
                logger.warning("%s: HV off: %s", ip, want.reason)
        elif state.codes != want.codes:
            logger.info("%s: HV codes %s", ip, " ".join(str(code) for code in want.codes))
        state.codes, state.reason = want.codes, want.reason

    def _send(self, wants: Mapping[str, Want], target: State) -> list[str]:
        """Send the codes; the addresses that did not confirm them."""
        if not wants:
            return []
        unconfirmed = []
        problems = self.actions.send({ip: want.codes for ip, want in wants.items()})
        for ip in wants:
            state = self._state(ip)
            problem = problems.get(ip, "not sent") or ""
            if problem:
                unconfirmed.append(ip)
                # It may or may not have arrived: only a confirmation makes a board "off".
                if target is State.ON or state.state is State.ON:
                    state.state = State.UNKNOWN
                if problem != state.problem:
                    logger.error("%s: HV %s not confirmed: %s", ip, target.value, problem)
            else:
                if state.state is not target:
                    logger.info("%s: HV %s confirmed", ip, target.value)
                state.state = target
            state.problem = problem
        return unconfirmed


def update_loop(
    daemon: Daemon, updater: HvUpdater, boards: Callable[[], tuple[HvBoard, ...]]
) -> None:
    """Update until the daemon is asked to end, then switch every board off.

    boards: those that are present now, asked before every round; while it raises ObsError the
    last known ones are kept.  Nobody follows the temperature after the end: hence the off.
    """
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
        pending = updater.round(time.time())
        _beat(daemon, updater, problem)
        pause_s = min(daemon.interval_s, RETRY_OFF_S) if pending else daemon.interval_s
        daemon.stop.wait(begin_s + pause_s - time.monotonic())
    left = updater.all_off()
    for _ in range(LAST_TRIES - 1):
        if not left:
            return
        left = updater.all_off()
    if left:
        raise ObsError(
            f"HV off was not confirmed by {', '.join(left)}; switch it off with"
            " config.py --hv_off, or cut the power of the module"
        )


def _beat(daemon: Daemon, updater: HvUpdater, problem: str) -> None:
    states = updater.states
    boards = {
        ip: {"hv": s.state.value, "codes": s.codes, "reason": s.reason, "problem": s.problem}
        for ip, s in sorted(states.items())
    }
    good = not problem and all(s.state is State.ON for s in states.values())
    daemon.beat("ok" if good else "boards off", problem=problem, boards=boards)

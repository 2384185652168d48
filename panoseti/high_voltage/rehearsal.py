"""The interlock is tried out before there is high voltage: a trip that is made up must arrive.

The HV updater writes housekeeping of a board that does not exist, with a detector at ROASTING_C,
into the record store.  The temperature guard reads it as it reads every board's, judges it by the
same rules and limits, and writes the trip; the updater must find that trip, and be told "off" by
it.  Exercised: packet -> record -> Redis -> guard -> rules and limits -> trip file -> updater ->
verdict.  Not exercised, since it would touch hardware: the command to the boards (which gets
"off" before it gets anything else, and is proven by HVMON), stop.py, the power switch.

The hash has no field Computer_UTC, so that no recorder copies it into a run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from panoseti.boards import packets
from panoseti.boards.packets import TIME_FIELD
from panoseti.errors import ObsError
from panoseti.high_voltage.hv_trips import REHEARSED_MODULE, Trip
from panoseti.housekeeping.hk_trust import DETECTOR_MAX_C, BoardTrust, OverLimit, Verdict
from panoseti.housekeeping.store import Record, Value

logger = logging.getLogger(__name__)

REHEARSAL_KEY = "HV_REHEARSAL"
REHEARSAL_TIME = "RehearsalUTC"
BOARDLOC = 1024  # real ones are 0..1023
NAME = "rehearsal"
ROASTING_C = DETECTOR_MAX_C + 25
TIMEOUT_S = 15.0
PAUSE_S = 10.0
EXERCISED = (
    "exercised: packet, record, Redis, guard, its rules and limits, trip file, updater, verdict;"
    " not exercised: the commands to the boards, stop.py, the power switches"
)


def made_up_record(now_unix: float) -> dict[str, Value]:
    """Housekeeping of the board that does not exist, as of a Unix time."""
    packet = packets.HkPacket(
        boot=False, boardloc=BOARDLOC, hvmon=(0, 0, 0, 0), hvimon=(65535,) * 4, rawhvmon=0,
        v12mon=0, v18mon=0, v33mon=0, v37mon=0, i10mon=0, i18mon=0, i33mon=0,
        temp1=int(ROASTING_C * 4), temp2=0xA000, vccint=0, vccaux=0, uid=0, shutter_status=0,
        light_sensor_status=0, pcbrev_n=0, fwtime=0, fwver="0000",
    )  # fmt: skip
    through = packets.parse_hk(packets.build_hk(packet))
    return {REHEARSAL_TIME: now_unix, **packets.hk_record(through)}


def as_record(found: Mapping[str, str]) -> Record:
    """The hash as if it were a board's record; empty when there is none."""
    if REHEARSAL_TIME not in found:
        return {}
    return {TIME_FIELD: found[REHEARSAL_TIME], **found}


class RehearsedBoard:
    """The guard's part: the board that does not exist, judged as all others."""

    def __init__(self, max_age_s: float) -> None:
        self._trust = BoardTrust(BOARDLOC, max_age_s)

    def trip(self, found: Mapping[str, str], now_unix: float, now_s: float) -> Trip | None:
        """The trip that follows from what is in the store."""
        verdict: Verdict = self._trust.take(as_record(found), now_unix, now_s)
        if not isinstance(verdict, OverLimit):
            return None
        return Trip(REHEARSED_MODULE, f"{NAME}: {verdict.reason}", now_unix)


@dataclass(frozen=True)
class RehearsalActions:
    """What a rehearsal needs of the world; each raises ObsError.

    write: puts the hash into the store; erase: removes it; forget: removes the trip from the
    file; judged_off: whether the verdict on a board of this module, given the trips, is "off".
    """

    write: Callable[[Mapping[str, Value]], None]
    erase: Callable[[], None]
    forget: Callable[[], None]
    judged_off: Callable[[Iterable[Trip]], bool]


class Rehearsal:
    """The updater's part: call `step` at every look, until it returns ""."""

    def __init__(self, actions: RehearsalActions) -> None:
        self._actions = actions
        self._passed_pid = 0
        self._begun_s: float | None = None
        self._begun_unix = 0.0
        self._not_before_s = 0.0
        self._failure = ""

    def passed_with(self, guard_pid: int) -> bool:
        """Whether this guard has been tried out."""
        return guard_pid == self._passed_pid

    def abandon(self) -> None:
        """The guard has gone; the next one is tried out from the beginning."""
        self._begun_s, self._passed_pid = None, 0

    def step(
        self, guard_pid: int, trips: Iterable[Trip], now_unix: float, now_s: float
    ) -> tuple[str, bool]:
        """Why there may be no HV yet ("" = it has passed), and whether that is a failure."""
        if self.passed_with(guard_pid):
            return "", False
        if now_s < self._not_before_s:
            return self._failure, True
        try:
            return self._go_on(guard_pid, tuple(trips), now_unix, now_s)
        except ObsError as error:
            return self._fail(f"rehearsal of the interlock: {error}", now_s), True

    def _go_on(
        self, guard_pid: int, trips: tuple[Trip, ...], now_unix: float, now_s: float
    ) -> tuple[str, bool]:
        if self._begun_s is None:
            self._actions.erase()
            self._actions.forget()
            self._begun_s, self._begun_unix = now_s, now_unix
            logger.info("rehearsal of the interlock with temperature_guard (pid %d)", guard_pid)
            trips = ()
        arrived = [trip for trip in trips if trip.made_up and trip.since_unix >= self._begun_unix]
        if arrived:
            return self._arrived(guard_pid, arrived[0], trips, now_s)
        took_s = now_s - self._begun_s
        if took_s > TIMEOUT_S:
            text = f"rehearsal of the interlock: no trip has come from the guard in {took_s:.0f} s"
            return self._fail(text, now_s), True
        self._actions.write(made_up_record(now_unix))
        return "rehearsal of the interlock is under way", False

    def _arrived(
        self, guard_pid: int, trip: Trip, trips: tuple[Trip, ...], now_s: float
    ) -> tuple[str, bool]:
        took_s = now_s - (self._begun_s or now_s)
        if not self._actions.judged_off(trips):
            return self._fail(f"{trip} has come, but was not obeyed", now_s), True
        self._clean_up()
        self._passed_pid, self._begun_s, self._failure = guard_pid, None, ""
        logger.info(
            "rehearsal of the interlock passed in %.1f s: %s; %s", took_s, trip.reason, EXERCISED
        )
        return "", False

    def _fail(self, text: str, now_s: float) -> str:
        logger.error("%s", text)
        self._failure, self._begun_s = text, None
        self._not_before_s = now_s + PAUSE_S
        try:
            self._clean_up()
        except ObsError:
            pass  # the next one begins with it
        return text

    def _clean_up(self) -> None:
        self._actions.erase()
        self._actions.forget()

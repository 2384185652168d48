"""When a quabo may have high voltage, and what the temperature guard does when it may not.

Upper half: pure judgement of HK records, used by the HV updater too.  An HK record that is
absent, old or impossible makes a board *blind*: it may not have HV, but nothing is known to be
wrong with it.  A temperature outside the limits is a *trip* of its whole module.

Lower half: the guard, one round at a time.  Limits: spec of the detectors (-20..60 degC) and
of the FPGA (85 degC).
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from panoseti.addresses import redis_key
from panoseti.daemon import Daemon
from panoseti.errors import ObsError
from panoseti.packets import SENSOR_SIGN_C, signed_detector_c
from panoseti.store import TIME_FIELD, Record

logger = logging.getLogger(__name__)

DETECTOR_MIN_C = -20.0
DETECTOR_MAX_C = 60.0
FPGA_MAX_C = 85.0
# The sensor (TMP125) measures -55..125 degC.
SENSOR_MIN_C = -55.0
FPGA_MIN_C = -60.0
# A record may be this far ahead of our clock (both are this computer's) before it is disbelieved.
FUTURE_S = 2.0

TRIPS_FILE = "hv_trips.json"
TRIPS_VERSION = 1
RETRY_S = 2.0


@dataclass(frozen=True)
class Reading:
    """A fresh and possible HK record: temperatures in degC, age in s."""

    detector_c: float
    fpga_c: float
    age_s: float


@dataclass(frozen=True)
class Blind:
    """The state of a board is not known; `reason` says why."""

    reason: str


def read_hk(record: Record, boardloc: int, now_unix: float, max_age_s: float) -> Reading | Blind:
    """What an HK record (`QUABO_<boardloc>` of the store) tells at Unix time `now_unix`."""
    if not record:
        return Blind("no HK record")
    numbers: dict[str, float] = {}
    for name in (TIME_FIELD, "BOARDLOC", "TEMP1", "TEMP2"):
        try:
            numbers[name] = float(record[name])
        except (KeyError, ValueError):
            return Blind(f"impossible HK: {name} is {record.get(name, 'absent')!r}")
        if not math.isfinite(numbers[name]):
            return Blind(f"impossible HK: {name} is {record[name]}")
    age_s = now_unix - numbers[TIME_FIELD]
    if age_s > max_age_s:
        return Blind(f"HK is {age_s:.1f} s old (limit {max_age_s:g} s)")
    if age_s < -FUTURE_S:
        return Blind(f"impossible HK: dated {-age_s:.1f} s in the future")
    if numbers["BOARDLOC"] != boardloc:
        return Blind(f"impossible HK: BOARDLOC is {record['BOARDLOC']}, not {boardloc}")
    detector_c, fpga_c = signed_detector_c(numbers["TEMP1"]), numbers["TEMP2"]
    if not SENSOR_MIN_C <= detector_c < SENSOR_SIGN_C:
        return Blind(f"impossible HK: TEMP1 is {record['TEMP1']} degC")
    if fpga_c < FPGA_MIN_C:
        return Blind(f"impossible HK: TEMP2 is {record['TEMP2']} degC")
    return Reading(detector_c, fpga_c, age_s)


def detector_fault(reading: Reading) -> str | None:
    """Why the detectors are too cold or too hot for HV; None when they are not."""
    if DETECTOR_MIN_C <= reading.detector_c <= DETECTOR_MAX_C:
        return None
    return (
        f"detector temperature {reading.detector_c:.2f} degC is outside"
        f" {DETECTOR_MIN_C:g}..{DETECTOR_MAX_C:g} degC"
    )


def limit_fault(reading: Reading) -> str | None:
    """Why the guard trips: detectors outside their limits or FPGA too hot; None when neither."""
    if (fault := detector_fault(reading)) is not None:
        return fault
    if reading.fpga_c > FPGA_MAX_C:
        return f"FPGA temperature {reading.fpga_c:.2f} degC is above {FPGA_MAX_C:g} degC"
    return None


@dataclass(frozen=True)
class Trip:
    """A module whose HV must stay off: reason, and since when (Unix time, s)."""

    module_id: int
    reason: str
    since_unix: float


def write_trips(data_dir: Path, trips: Iterable[Trip]) -> None:
    """Make the modules that must stay off known to the HV updater; raises OSError."""
    path = data_dir / TRIPS_FILE
    temporary = path.with_suffix(".tmp")
    document = {
        "version": TRIPS_VERSION,
        "trips": [
            {"module_id": t.module_id, "reason": t.reason, "since_unix": t.since_unix}
            for t in trips
        ],
    }
    with temporary.open("w") as file:
        file.write(json.dumps(document, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_trips(data_dir: Path) -> dict[int, Trip]:
    """The trips by module id; none when no guard ever ran here.

    Raises ObsError when the file cannot be read: then nothing may be taken as safe.
    """
    path = data_dir / TRIPS_FILE
    try:
        document = json.loads(path.read_bytes())
        if document["version"] != TRIPS_VERSION:
            raise ValueError(f"version {document['version']}")
        trips = [
            Trip(int(t["module_id"]), str(t["reason"]), float(t["since_unix"]))
            for t in document["trips"]
        ]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ObsError(
            f"{path}: cannot be read ({error}), so that no board may have HV; restart"
            " temperature_guard.py, which writes it anew"
        ) from error
    return {trip.module_id: trip for trip in trips}


@dataclass(frozen=True)
class GuardedModule:
    """A module as the guard sees it.

    boards: (address, BOARDLOC) of those that are present; outlet_off: switches the module's
    power outlet off and returns only when it is off (ObsError otherwise); None where no power
    switch is configured.
    """

    module_id: int
    label: str
    boards: tuple[tuple[str, int], ...]
    outlet_off: Callable[[], None] | None = None


@dataclass(frozen=True)
class GuardActions:
    """What the guard does to the world.

    records: the HK records of these keys (raises ObsError); hv_off: sends zeros and returns
    the problem of each board, None where the board confirmed; stop_run: ends a run in progress
    without waiting for it (reason given), None where that is not wanted; save: makes the trips
    known to the HV updater (raises OSError).
    """

    records: Callable[[Iterable[str]], dict[str, Record]]
    hv_off: Callable[[Iterable[str]], Mapping[str, str | None]]
    stop_run: Callable[[str], None] | None
    save: Callable[[Iterable[Trip]], None]


class Guard:
    """Watches temperatures; call `round()` every 10 s.

    A limit trips the whole module: HV off, run stopped, outlet off; the trip stays for the
    life of the guard.  A blind board gets HV off, every round, until it is seen again; when it
    neither shows HK nor confirms HV off for `patience_s`, its module is tripped as well.
    """

    def __init__(
        self,
        modules: Iterable[GuardedModule],
        actions: GuardActions,
        max_age_s: float,
        patience_s: float,
    ) -> None:
        self.modules = tuple(modules)
        self.trips: dict[int, Trip] = {}
        self.blind: dict[str, str] = {}
        self.unconfirmed: dict[str, float] = {}
        self.power_pending: dict[int, str] = {}
        self._powered_off: set[int] = set()
        self._confirmed: set[str] = set()
        self._actions = actions
        self._max_age_s = max_age_s
        self._patience_s = patience_s
        self._unsaved = True

    def round(self, now_unix: float) -> bool:
        """Judge every board and act; whether something is left to be retried soon."""
        faults = self._look(now_unix)
        faults.update(self._out_of_patience(now_unix, faults))
        new = [Trip(i, r, now_unix) for i, r in faults.items() if i not in self.trips]
        for trip in new:
            logger.critical("ALARM module %d: %s", trip.module_id, trip.reason)
            self.trips[trip.module_id] = trip
        self._save(bool(new))
        self._switch_hv_off(now_unix)
        if new and self._actions.stop_run is not None:
            self._actions.stop_run("; ".join(f"module {t.module_id}: {t.reason}" for t in new))
        self._switch_power_off()
        in_trip = {ip for m in self.modules if m.module_id in self.trips for ip, _ in m.boards}
        return bool(self._unsaved or self.power_pending or in_trip & self.unconfirmed.keys())

    def _look(self, now_unix: float) -> dict[int, str]:
        """Update `blind`; the limit faults by module id."""
        boardlocs = [boardloc for module in self.modules for _, boardloc in module.boards]
        lost: str | None = None
        records: dict[str, Record] = {}
        try:
            records = self._actions.records([redis_key(b) for b in boardlocs])
        except ObsError as error:
            lost = str(error)
        faults: dict[int, str] = {}
        blind: dict[str, str] = {}
        for module in self.modules:
            for ip, boardloc in module.boards:
                record = records.get(redis_key(boardloc), {})
                seen = Blind(lost) if lost else read_hk(record, boardloc, now_unix, self._max_age_s)
                if isinstance(seen, Blind):
                    blind[ip] = seen.reason
                elif (fault := limit_fault(seen)) is not None:
                    faults.setdefault(module.module_id, f"{ip}: {fault}")
        self._log_blind(blind)
        self.blind = blind
        return faults

    def _log_blind(self, blind: Mapping[str, str]) -> None:
        for ip in sorted(blind.keys() - self.blind.keys()):
            logger.warning("%s: blind, HV off: %s", ip, blind[ip])
        for ip in sorted(self.blind.keys() - blind.keys()):
            logger.info("%s: seen again", ip)

    def _out_of_patience(self, now_unix: float, faults: Mapping[int, str]) -> dict[int, str]:
        found: dict[int, str] = {}
        for module in self.modules:
            for ip, _ in module.boards:
                since = self.unconfirmed.get(ip)
                if module.module_id in faults or since is None or ip not in self.blind:
                    continue
                if now_unix - since >= self._patience_s:
                    found[module.module_id] = (
                        f"{ip}: {self.blind[ip]}, and HV off unconfirmed for"
                        f" {now_unix - since:.0f} s"
                    )
        return found

    def _save(self, changed: bool) -> None:
        self._unsaved = self._unsaved or changed
        if not self._unsaved:
            return
        try:
            self._actions.save(self.trips.values())
            self._unsaved = False
        except OSError as error:
            logger.error("cannot save the trips: %s", error)

    def _switch_hv_off(self, now_unix: float) -> None:
        targets = [
            ip
            for module in self.modules
            for ip, _ in module.boards
            if module.module_id not in self._powered_off
            and (module.module_id in self.trips or ip in self.blind)
        ]
        problems = self._actions.hv_off(targets) if targets else {}
        pending: dict[str, float] = {}
        for ip in targets:
            problem = problems.get(ip, "not sent")
            if problem is not None:
                pending[ip] = self.unconfirmed.get(ip, now_unix)
                if ip not in self.unconfirmed:
                    logger.error("%s: HV off not confirmed: %s", ip, problem)
            elif ip not in self._confirmed:
                logger.info("%s: HV off confirmed", ip)
        self.unconfirmed = pending
        self._confirmed = set(targets) - pending.keys()

    def _switch_power_off(self) -> None:
        for module in self.modules:
            number = module.module_id
            if number not in self.trips or number in self._powered_off or not module.outlet_off:
                continue
            try:
                module.outlet_off()
            except ObsError as error:
                if number not in self.power_pending:
                    logger.error("module %d: outlet not off: %s", number, error)
                self.power_pending[number] = str(error)
            else:
                logger.critical("module %d (%s): power outlet switched off", number, module.label)
                self.power_pending.pop(number, None)
                self._powered_off.add(number)


def guard_loop(
    daemon: Daemon, guard: Guard, modules: Callable[[], tuple[GuardedModule, ...]]
) -> None:
    """Guard until the daemon is asked to end.

    modules: those to be watched now, asked before every round; while it raises ObsError the
    last known ones are kept.
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
        pending = guard.round(time.time())
        alarm = guard.trips or guard.blind or problem
        daemon.beat(
            "alarm" if alarm else "ok",
            problem=problem,
            trips={trip.module_id: trip.reason for trip in guard.trips.values()},
            blind=guard.blind,
            unconfirmed=sorted(guard.unconfirmed),
            power_pending=guard.power_pending,
        )
        pause_s = min(daemon.interval_s, RETRY_S) if pending else daemon.interval_s
        daemon.stop.wait(begin_s + pause_s - time.monotonic())

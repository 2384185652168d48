"""What must stay off until an operator has looked: `<head data>/hv_trips.json`.

A trip is of a module (its power is cut) or of one board.  It is written by the temperature guard
and by the HV updater, outlives both, and ends only when it is acknowledged:

    config.py --ack_hv

A file that cannot be read means that nothing may have high voltage; to acknowledge replaces it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from daq.daq_facts import utc_text
from panoseti.errors import ObsError
from panoseti.state_files import StateError, read_json, write_json

TRIPS_FILE = "hv_trips.json"
LOCK_FILE = "hv_trips.lock"
VERSION = 1
LOCK_WAIT_S = 1.0
ACKNOWLEDGE = "config.py --ack_hv"
# Of the board that does not exist (see rehearsal.py); real modules are 0..255.
REHEARSED_MODULE = 256


@dataclass(frozen=True)
class Trip:
    """What stays off: reason, since when (Unix time, s), who says so.

    board: address of the one board, "" = the whole module.
    """

    module_id: int
    reason: str
    since_unix: float
    board: str = ""
    by: str = ""

    @property
    def key(self) -> tuple[int, str]:
        """There is one trip for each of these."""
        return self.module_id, self.board

    @property
    def made_up(self) -> bool:
        """Whether it is that of a rehearsal, and concerns no board."""
        return self.module_id == REHEARSED_MODULE

    def __str__(self) -> str:
        who = self.board or f"module {self.module_id}"
        return f"{who}: {self.reason} (since {utc_text(self.since_unix)})"


def read_trips(data_dir: Path) -> tuple[Trip, ...]:
    """All trips; none where there never was one.  ObsError when the file cannot be read."""
    try:
        return _read(data_dir / TRIPS_FILE)
    except StateError as error:
        raise ObsError(
            f"{error}: no board may have HV; look at the boards, then: {ACKNOWLEDGE}"
        ) from error


def _read(path: Path) -> tuple[Trip, ...]:
    try:
        document = read_json(path, VERSION)
    except FileNotFoundError:
        return ()
    try:
        return tuple(
            Trip(
                int(one["module_id"]),
                str(one["reason"]),
                float(one["since_unix"]),
                str(one["board"]),
                str(one["by"]),
            )
            for one in document["trips"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path}: no list of trips ({error!r}); it is not used") from error


def add_trips(data_dir: Path, trips: Iterable[Trip]) -> None:
    """Add trips; one that is there already keeps its reason and time.  Raises ObsError."""
    new = list(trips)

    def add(known: tuple[Trip, ...]) -> tuple[Trip, ...]:
        keys = {trip.key for trip in known}
        return (*known, *(trip for trip in new if trip.key not in keys))

    _change(data_dir, add)


def remove_trips(data_dir: Path, keys: Iterable[tuple[int, str]]) -> None:
    """Take trips of these keys away: what a rehearsal leaves.  Raises ObsError."""
    unwanted = set(keys)
    _change(data_dir, lambda known: tuple(trip for trip in known if trip.key not in unwanted))


@dataclass(frozen=True)
class Acknowledged:
    """What was taken away; problem: the file could not be read and was made anew."""

    trips: tuple[Trip, ...]
    problem: str = ""


def acknowledge(data_dir: Path, modules: Iterable[int] | None = None) -> Acknowledged:
    """An operator has looked: take away the trips of these modules (None = all).

    The boards get high voltage again when everything else allows it; power that was cut is
    switched on by the next bring-up.  Raises ObsError when the file cannot be written.
    """
    wanted = None if modules is None else set(modules)
    with _held(data_dir) as path:
        try:
            known, problem = _read(path), ""
        except StateError as error:
            known, problem = (), str(error)
        gone = tuple(t for t in known if wanted is None or t.module_id in wanted)
        if gone or problem:
            _write(path, tuple(trip for trip in known if trip not in gone))
    return Acknowledged(tuple(trip for trip in gone if not trip.made_up), problem)


def _change(data_dir: Path, change: Callable[[tuple[Trip, ...]], tuple[Trip, ...]]) -> None:
    with _held(data_dir) as path:
        try:
            before = _read(path)
        except StateError as error:
            raise ObsError(f"{error}: {ACKNOWLEDGE}") from error
        after = change(before)
        if after != before:
            _write(path, after)


def _write(path: Path, trips: tuple[Trip, ...]) -> None:
    try:
        write_json(path, {"version": VERSION, "trips": [asdict(trip) for trip in trips]})
    except OSError as error:
        raise ObsError(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def _held(data_dir: Path) -> Iterator[Path]:
    """The file while no other program changes it."""
    lock = data_dir / LOCK_FILE
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise ObsError(f"{lock}: cannot be opened: {error.strerror}") from error
    try:
        deadline = time.monotonic() + LOCK_WAIT_S
        while not _locked(fd):
            if time.monotonic() > deadline:
                raise ObsError(f"{lock}: held by another program for {LOCK_WAIT_S:g} s")
            time.sleep(0.01)
        yield data_dir / TRIPS_FILE
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

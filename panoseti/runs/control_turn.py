"""Getting the turn at run control: a start is interrupted, another stop is waited for.

Whatever holds it, a stop goes on in the end: beside one that cannot be ended, if need be.
"""

from __future__ import annotations

import time
from signal import SIGCONT, SIGKILL, SIGTERM, Signals

from panoseti.console import Console
from panoseti.flight import FlightRecorder
from panoseti.runs.run_state import AtWork, ControlLock

START_PROGRAM = "start.py"
# A start that is interrupted undoes itself; every step of that is bounded.
START_UNDO_S = 60.0
KILL_WAIT_S = 5.0
OTHER_STOP_S = 120.0
POLL_S = 0.1


def take_turn(lock: ControlLock, what: str, console: Console, flight: FlightRecorder) -> list[str]:
    """Take the lock as `what`, or go on without it after a while; what is worth telling."""
    return _Turn(lock, console, flight).take(what)


class _Turn:
    """Waiting for it."""

    def __init__(self, lock: ControlLock, console: Console, flight: FlightRecorder) -> None:
        self._lock = lock
        self._console = console
        self._flight = flight
        self._notes: list[str] = []

    def take(self, what: str) -> list[str]:
        """As `take_turn`."""
        at_work, give_up_s, killed = None, 0.0, False
        while True:
            try:
                if self._lock.take(what):
                    return self._notes
            except OSError as error:
                return [*self._notes, f"no lock: {error}; going on without"]
            before, at_work = at_work, self._lock.held_by()
            if at_work != before:
                killed = False
                give_up_s = time.monotonic() + self._tell(at_work)
            elif time.monotonic() > give_up_s:
                # Once only: one that hangs in its disk does not even end then.
                if killed or not _starts(at_work) or not self._signal(at_work, SIGKILL):
                    return [*self._notes, f"{at_work} does not end: going on beside it"]
                self._notes.append(f"{at_work} did not end: killed")
                killed = True
                give_up_s = time.monotonic() + KILL_WAIT_S
            time.sleep(POLL_S)

    def _tell(self, at_work: AtWork) -> float:
        """Say who is waited for, and tell a start to end; how long to wait."""
        if not _starts(at_work):
            self._console.note(f"{at_work} is at work; waiting for it")
            return OTHER_STOP_S
        self._console.note(f"{at_work} is starting a run: it is told to end")
        if self._signal(at_work, SIGTERM):
            self._signal(at_work, SIGCONT)  # it may have been suspended
        return START_UNDO_S

    def _signal(self, at_work: AtWork, number: Signals) -> bool:
        """Whether it was sent."""
        try:
            sent = self._lock.signal(at_work, number)
        except PermissionError:
            self._notes.append(f"{at_work} belongs to somebody else and cannot be told to end")
            return False
        if sent:
            self._flight.note("signal", pid=at_work.pid, to=at_work.text, signal=number.name)
        return sent


def _starts(at_work: AtWork) -> bool:
    return at_work.text.startswith(START_PROGRAM)

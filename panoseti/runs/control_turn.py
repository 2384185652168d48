"""Getting the turn at run control: a start is interrupted, another stop is waited for.

Whatever holds it, a stop goes on in the end: beside one that cannot be ended, if need be.  A stop
that was suspended (Ctrl-Z) is continued.
"""

from __future__ import annotations

import time
from signal import SIGCONT, SIGKILL, SIGTERM, Signals

import psutil

from panoseti.console import Console
from panoseti.flight import FlightRecorder
from panoseti.runs.run_state import AtWork, ControlLock

START_PROGRAM = "start.py"
# A start that is interrupted undoes itself; every step of that is bounded.
START_UNDO_S = 60.0
KILL_WAIT_S = 5.0
OTHER_STOP_S = 120.0
# A stop that is continued, and suspended again at once: its terminal does that to it.
SUSPENDED_S = 3.0
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
        self._suspended_s: float | None = None

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
            elif not _starts(at_work) and self._stays_suspended(at_work):
                return [*self._notes, f"{at_work} is suspended: going on beside it"]
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

    def _stays_suspended(self, at_work: AtWork) -> bool:
        """Whether a stop is suspended, and was continued in vain."""
        if at_work.pid is None or not is_suspended(at_work.pid):
            self._suspended_s = None
            return False
        if self._suspended_s is None:
            self._suspended_s = time.monotonic()
            self._signal(at_work, SIGCONT)
        return time.monotonic() - self._suspended_s > SUSPENDED_S

    def _signal(self, at_work: AtWork, number: Signals) -> bool:
        """Whether it was sent."""
        try:
            sent = self._lock.signal(at_work, number)
        except PermissionError:
            what = "continued" if number is SIGCONT else "told to end"
            self._notes.append(f"{at_work} belongs to somebody else and cannot be {what}")
            return False
        if sent:
            self._flight.note("signal", pid=at_work.pid, to=at_work.text, signal=number.name)
        return sent


def is_suspended(pid: int) -> bool:
    """Whether a process was stopped by a signal, or by a debugger."""
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.NoSuchProcess:
        return False


def _starts(at_work: AtWork) -> bool:
    return at_work.text.startswith(START_PROGRAM)

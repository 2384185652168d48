"""Runs a script and sends it a signal at one point of its work, which is always the same one.

    FAULT_POINTS=/tmp/points .venv/bin/python tests/fault_point.py SIGKILL 17 "" start.py --json

A point is whatever is recorded: the run's record (run.json) is on the disk with an act's intent or
its result, or the flight recorder has a line, so that a new step is a new point.  The number counts
from 1, from the first point in that phase of the record (start, undo, stop, collect; "" = from the
beginning).  Packets to boards are not counted, there are hundreds, unless FAULT_SENDS is set.
Every point that is counted is written to the file in FAULT_POINTS; the last one is that of the
signal.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from panoseti.flight import FlightRecorder  # noqa: E402
from panoseti.runs.run_record import RunRecord  # noqa: E402

# What is noted before a step on another computer begins; the signal comes while it is under way.
BEGINNINGS = ("ssh", "rsync")
UNDER_WAY_S = 0.05
NOT_COUNTED = ("send", "intent")  # the intent is a point as soon as it is in run.json


class Points:
    """Counts points; sends the signal at one of them."""

    def __init__(self, number: signal.Signals, at: int, first_phase: str) -> None:
        self._number = number
        self._at = at
        self._first_phase = first_phase
        self._phase = ""
        self._counting = not first_phase
        self._count = 0
        self._lock = threading.RLock()

    def recorded(self, document: dict[str, Any]) -> None:
        """run.json is on the disk."""
        with self._lock:
            steps = document["steps"]
            last = steps[-1] if steps else {"phase": "", "what": "nothing", "subject": ""}
            self._phase = last["phase"]
            self._counting = self._counting or self._phase == self._first_phase
            under_way = sum(step["result_unix"] is None for step in steps)
            what = f"{last['what']} {last['subject']}".strip()
            self._reached(f"run.json: {len(steps)} steps, {under_way} under way, last {what}")

    def noted(self, what: str, fields: dict[str, Any]) -> None:
        """The flight recorder has one more line."""
        if what in NOT_COUNTED and not (what == "send" and "FAULT_SENDS" in os.environ):
            return
        step = fields.get("step") or fields.get("act") or ""
        self._reached(f"{what} {step}".strip(), UNDER_WAY_S if what in BEGINNINGS else 0.0)

    def _reached(self, name: str, pause_s: float = 0.0) -> None:
        with self._lock:
            if not self._counting:
                return
            self._count += 1
            with open(os.environ["FAULT_POINTS"], "a", encoding="utf-8") as file:
                file.write(f"{self._phase}: {name}\n")
            if self._count != self._at:
                return
            if pause_s:
                timer = threading.Timer(pause_s, self._send)
                timer.daemon = True
                timer.start()
            else:
                self._send()

    def _send(self) -> None:
        os.kill(os.getpid(), self._number)


def after(method: Callable[..., None], then: Callable[..., None]) -> Callable[..., None]:
    """The method, and what is to be done after it with the same arguments."""

    def both(self: Any, *args: Any, **fields: Any) -> None:
        method(self, *args, **fields)
        then(self, *args, **fields)

    return both


def main(argv: list[str]) -> None:
    """Run the script."""
    name, at, first_phase, *sys.argv = argv
    number = signal.Signals[name]
    if signal.getsignal(number) is signal.SIG_IGN:
        sys.exit(f"{name} is ignored here, as under nohup: it would be a test of nothing")
    points = Points(number, int(at), first_phase)
    note, store = FlightRecorder.note, RunRecord._store
    FlightRecorder.note = after(  # type: ignore[method-assign]
        note, lambda self, what, **fields: points.noted(what, fields)
    )
    RunRecord._store = after(  # type: ignore[method-assign]
        store, lambda self: points.recorded(self._document)
    )
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])

"""`start.py --nsecs`: waiting in the foreground, then stopping the own run and no other."""

from __future__ import annotations

import math
import time
from pathlib import Path

from panoseti import run_state
from panoseti.console import Console
from panoseti.errors import ObsError
from panoseti.flight import FlightRecorder
from panoseti.load_configs import Site
from panoseti.run_start import Started
from panoseti.run_state import Holder, StateError
from panoseti.run_stop import StopOptions, StopReport, stop

POLL_S = 0.25
LINE_EVERY_S = 60


def record_until_end(
    site: Site, started: Started, console: Console, flight: FlightRecorder
) -> StopReport:
    """Wait for the planned end of a run, then stop it; Ctrl-C and its like stop it at once.

    ObsError when somebody else has ended it before.
    """
    options = StopOptions(only=started.holder)
    if started.planned_end_unix is None:
        raise ValueError("the run has no planned end")
    try:
        _wait(site.head_data_dir, started.holder, started.planned_end_unix, console)
    except KeyboardInterrupt:
        console.note("interrupted: stopping the run now")
        stop(site, options, console, flight)
        raise
    return stop(site, options, console, flight)


def _wait(data_dir: Path, holder: Holder, end_unix: float, console: Console) -> None:
    total = max(1, math.ceil(end_unix - time.time()))
    shown = 0
    with console.progress(f"recording until {run_state.utc_text(end_unix)}", total) as progress:
        while True:
            left_s = end_unix - time.time()
            if left_s <= 0:
                return
            _check_still_ours(data_dir, holder)
            while total - math.ceil(left_s) > shown:
                shown += 1
                told = shown % LINE_EVERY_S == 0
                progress.advance(f"{total - shown} s left" if told else "")
            time.sleep(min(POLL_S, left_s))


def _check_still_ours(data_dir: Path, holder: Holder) -> None:
    try:
        now = run_state.read_holder(data_dir)
    except StateError:
        return  # unusable: what is to be stopped is told by stop
    if now is None or now.token != holder.token:
        raise ObsError(
            f"{holder.run} was ended by somebody else before its time"
            + (f"; now {now} is in progress" if now else "")
        )

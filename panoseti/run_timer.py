"""`start.py --nsecs`: waiting in the foreground, then stopping the own run and no other.

With --stop_session the session is shut down after it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from panoseti import run_state
from panoseti.console import Console
from panoseti.errors import ObsError
from panoseti.flight import FlightRecorder, owner
from panoseti.load_configs import Site
from panoseti.run_start import Started, start
from panoseti.run_state import Holder, StateError
from panoseti.run_stop import StopOptions, StopReport, stop
from panoseti.start_checks import StartOptions

POLL_S = 0.25
LINE_EVERY_S = 60


def start_and_record(
    site: Site,
    options: StartOptions,
    console: Console,
    flight: FlightRecorder,
    tell: Callable[[Started], None],
) -> tuple[Started, StopReport | None]:
    """Start a run and, where it has a planned end, wait for that and stop it.

    tell: called with the run once it records.  Ctrl-C and its like stop a run that has a planned
    end at once.  ObsError when somebody else has ended it before.
    """
    try:
        started = start(site, options, console, flight)
        tell(started)
        if started.planned_end_unix is None:
            return started, None
        _wait(site.head_data_dir, started.holder, started.planned_end_unix, console)
    except KeyboardInterrupt:
        _interrupted(site, options, console, flight)
        raise
    return started, stop(site, StopOptions(only=started.holder), console, flight)


def _interrupted(
    site: Site, options: StartOptions, console: Console, flight: FlightRecorder
) -> None:
    """A start that was interrupted has undone itself, unless it had just succeeded."""
    try:
        holder = run_state.read_holder(site.head_data_dir)
    except StateError:
        return
    if holder is None or holder.owner != owner():
        return
    if options.duration_s is None:
        console.note(f"{holder.run} records all the same; stop.py ends it")
        return
    console.note("interrupted: stopping the run now")
    stop(site, StopOptions(only=holder), console, flight)


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


class _Kept(Console):
    """A console that keeps the JSON document instead of printing it."""

    document: Any = None

    def result(self, document: Any) -> None:
        """Keep it."""
        self.document = document


def shut_down(site: Site, console: Console, flight: FlightRecorder) -> tuple[int, Any]:
    """What config.py --shutdown does: its exit code, and its JSON document where one is wanted."""
    # All of the bring-up, which nothing else of a start needs.
    from panoseti.config_tasks import Request, run

    kept = _Kept(console.json_output, console.verbose)
    request = Request(["shutdown"], (), [], False, "start.py --stop_session")
    return run(site, request, kept, flight), kept.document

"""`start.py --nsecs`: waiting in the foreground, then stopping the own run and no other.

With --stop_session the session is shut down after it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daq.daq_facts import utc_text
from panoseti.bringup import session
from panoseti.configs.load_configs import Site
from panoseti.console import Console
from panoseti.errors import ObsError, RefusedError
from panoseti.flight import FlightRecorder, owner
from panoseti.runs import activities, run_state
from panoseti.runs.run_start import Started, start
from panoseti.runs.run_state import ControlLock, Holder, StateError
from panoseti.runs.run_stop import StopOptions, StopReport, stop
from panoseti.runs.start_checks import StartOptions

POLL_S = 0.25
LINE_EVERY_S = 60
LOOK_AFTER_WATCHER_S = 5.0
WATCHERS_AT_MOST = 3


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
        watcher = _WatcherKeeper(site, started.holder, console, flight)
        _wait(started.holder, started.planned_end_unix, watcher, console)
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


def watch_again(site: Site, flight: FlightRecorder) -> tuple[Holder, bool]:
    """Start the watcher of the run in progress unless it works; the run, and whether it was begun.

    RefusedError when no run is in progress, or one is being started or stopped; ObsError when it
    does not come up.
    """
    with ControlLock(site.head_data_dir) as lock:
        if not lock.take("the start of a watcher"):
            raise RefusedError(f"{lock.held_by()} is at work at this moment: wait for it")
        holder = run_state.read_holder(site.head_data_dir)
        if holder is None:
            raise RefusedError("no run is in progress: there is nothing to watch")
        words = ["--run", holder.run]
        return holder, session.start(site, activities.RUN_WATCHER, flight, words)


class _WatcherKeeper:
    """Starts the watcher again that has died, for a start.py that goes on."""

    def __init__(
        self, site: Site, holder: Holder, console: Console, flight: FlightRecorder
    ) -> None:
        self.data_dir = site.head_data_dir
        self._site = site
        self._run = holder.run
        self._console = console
        self._flight = flight
        self._next_s = time.monotonic() + LOOK_AFTER_WATCHER_S
        self._left = WATCHERS_AT_MOST

    def look(self) -> None:
        """Now and then."""
        if time.monotonic() < self._next_s or not self._left:
            return
        found = session.state(activities.RUN_WATCHER, self.data_dir)
        if not found.works:
            try:
                if watch_again(self._site, self._flight)[1]:
                    self._left -= 1
                    text = f"the watcher of the run {found.problem}: it was started again"
                    self._console.warn(text)
            except RefusedError:
                pass  # somebody stops the run at this moment
            except ObsError as error:
                self._left -= 1
                self._console.warn(f"{error}; nobody watches {self._run}")
        self._next_s = time.monotonic() + LOOK_AFTER_WATCHER_S


def _wait(holder: Holder, end_unix: float, watcher: _WatcherKeeper, console: Console) -> None:
    length_s = end_unix - time.time()
    end_s = time.monotonic() + length_s  # whatever becomes of the clock meanwhile
    total = max(1, math.ceil(length_s))
    shown = 0
    with console.progress(f"recording until {utc_text(end_unix)}", total) as progress:
        while True:
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return
            _check_still_ours(watcher.data_dir, holder)
            watcher.look()
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
    from panoseti.bringup.config_request import Request
    from panoseti.bringup.config_run import run

    kept = _Kept(console.json_output, console.verbose)
    request = Request(["shutdown"], (), [], False, "start.py --stop_session")
    return run(site, request, kept, flight), kept.document

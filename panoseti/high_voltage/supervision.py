"""Is my partner alive?  The HV updater asks it of the temperature guard, and the other way round.

A partner is alive when its process is there and its heartbeat has been *seen to change* within
HUNG_INTERVALS of its own intervals (at least HUNG_S).  The change is timed by our own monotonic
clock, so that nobody who sets the clock makes a dead program live or a living one dead.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from panoseti.errors import ObsError
from panoseti.launch import ENDED, Heartbeat, read_heartbeat, why_unwritable

HUNG_INTERVALS, HUNG_S = 10.0, 5.0


@dataclass(frozen=True)
class Life:
    """alive: None = it has not been watched long enough to know; why: "" while it is alive.

    crashed: it is dead and did not say that it would end; pid: of its last heartbeat.
    """

    alive: bool | None
    why: str = ""
    crashed: bool = False
    pid: int = 0
    beat: Heartbeat | None = None


def hung_limit_s(interval_s: float) -> float:
    """How long a program with such an interval between its heartbeats may be silent."""
    return max(HUNG_S, HUNG_INTERVALS * interval_s)


class Partner:
    """Watches the heartbeat of daemon `name` for a data directory; look about once a second."""

    def __init__(self, name: str, data_dir: Path) -> None:
        self.name = name
        self._data_dir = data_dir
        self._sign: tuple[int, float] | None = None
        self._since_s = 0.0
        self._changes = 0

    def look(self, now_s: float) -> Life:
        """How it is at this time of a monotonic clock."""
        try:
            beat = read_heartbeat(self._data_dir, self.name)
        except ObsError as error:
            return Life(False, str(error), crashed=True)
        if beat is None:
            return Life(False, f"{self.name} has never run")
        return self.judge(beat, process_runs(beat.pid), now_s)

    def judge(self, beat: Heartbeat, runs: bool, now_s: float) -> Life:
        """The same from a heartbeat and whether its process is there."""
        sign = beat.pid, beat.updated_unix
        if self._sign is None or sign != self._sign:
            # Another process is another life; what its predecessor did proves nothing.
            same = self._sign is not None and self._sign[0] == beat.pid
            self._changes = self._changes + 1 if same else 0
            self._sign, self._since_s = sign, now_s
        if beat.state in ENDED:
            words = f"{self.name} (pid {beat.pid}) has {beat.state}"
            if beat.state == "failed":
                words += f": {beat.details.get('error', 'it did not say why')}"
            return Life(False, words, beat.state == "failed", beat.pid, beat)
        if not runs:
            return Life(False, f"{self.name} (pid {beat.pid}) has died", True, beat.pid, beat)
        silent_s = now_s - self._since_s
        if silent_s > hung_limit_s(beat.interval_s):
            words = f"{self.name} (pid {beat.pid}) hangs: no heartbeat for {silent_s:.0f} s"
            if disk := why_unwritable(self._data_dir):
                words = f"{self.name} (pid {beat.pid}): no heartbeat for {silent_s:.0f} s: {disk}"
            return Life(False, words, True, beat.pid, beat)
        if not self._changes:
            words = f"{self.name} (pid {beat.pid}) has not been seen at work yet"
            return Life(None, words, False, beat.pid, beat)
        return Life(True, "", False, beat.pid, beat)


def process_runs(pid: int) -> bool:
    """Whether there is such a process, and it is not a dead one that nobody has buried."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True

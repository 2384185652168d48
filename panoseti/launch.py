"""A daemon seen from outside: starting it, its heartbeat, its last words.

Files, all in `<head node data directory>/log/`: see `panoseti.daemon`, which writes them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from panoseti.errors import ObsError

HEARTBEAT_VERSION = 1
ENDED = ("ended", "failed")
# A heartbeat of many boards needs more than this.
DISK_FULL_BYTES = 64 << 10


@dataclass(frozen=True)
class Heartbeat:
    """The last sign of life of a daemon.

    pid: its process; started_unix, updated_unix: Unix times, s; interval_s: it beats about as
    often as this; state: "starting", then "ok" while it does all of its work or words of its
    own while not, "ended" after a clean end, "failed" after another; details: counters, lists.
    """

    name: str
    pid: int
    started_unix: float
    updated_unix: float
    interval_s: float
    state: str
    details: dict[str, Any] = field(default_factory=dict)

    def age_s(self, now_unix: float) -> float:
        """Seconds since this sign of life."""
        return max(0.0, now_unix - self.updated_unix)

    def is_fresh(self, now_unix: float) -> bool:
        """Whether the daemon works: not ended, and not silent for three of its intervals.

        Five seconds more are granted for boards that do not answer and for a busy machine.
        """
        limit_s = 3 * self.interval_s + 5
        return self.state not in ENDED and self.age_s(now_unix) <= limit_s


def log_dir(data_dir: Path) -> Path:
    """Where daemons keep logs and heartbeats."""
    return data_dir / "log"


def heartbeat_path(data_dir: Path, name: str) -> Path:
    """The heartbeat file of daemon `name`."""
    return log_dir(data_dir) / f"{name}.heartbeat.json"


def why_unwritable(data_dir: Path) -> str:
    """Why nobody can write a heartbeat there: disk full or read-only; "" = no such reason."""
    folder = log_dir(data_dir)
    try:
        disk = os.statvfs(folder)
    except FileNotFoundError:
        return ""  # there never was a daemon
    except OSError as error:
        return f"{folder}: {error.strerror}"
    free = disk.f_bavail if os.geteuid() else disk.f_bfree
    if disk.f_flag & os.ST_RDONLY:
        return f"the disk of {folder} is read-only, so that no heartbeat can be written"
    if free * disk.f_frsize < DISK_FULL_BYTES or (disk.f_files and not disk.f_ffree):
        return f"the disk of {folder} is full, so that no heartbeat can be written: make room"
    return ""


def read_heartbeat(data_dir: Path, name: str) -> Heartbeat | None:
    """The last heartbeat of daemon `name`; None when it never ran here.

    Raises ObsError when the file cannot be read or is not a heartbeat.
    """
    path = heartbeat_path(data_dir, name)
    try:
        data = json.loads(path.read_bytes())
        if data["version"] != HEARTBEAT_VERSION:
            raise ValueError(f"version {data['version']}")
        return Heartbeat(
            name=str(data["name"]),
            pid=int(data["pid"]),
            started_unix=float(data["started_unix"]),
            updated_unix=float(data["updated_unix"]),
            interval_s=float(data["interval_s"]),
            state=str(data["state"]),
            details=dict(data["details"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ObsError(f"{path}: not a heartbeat ({error}); restart {name}") from error


def wait_alive(
    data_dir: Path,
    name: str,
    pid: int,
    timeout_s: float,
    alive: Callable[[], bool] | None = None,
    before: Heartbeat | None = None,
) -> Heartbeat:
    """Wait until process `pid` works as daemon `name`: its first heartbeat after "starting".

    alive: tells whether the process still runs (for a child: `lambda: child.poll() is None`);
    without it only the time-out ends a vain wait.  before: the heartbeat that was there when it
    was started: after a power cut the pid may be that of the one before.  Raises ObsError with its
    last words when the process has ended, or has not come up within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        ended = alive is not None and not alive()
        try:
            beat = read_heartbeat(data_dir, name)
        except ObsError:
            beat = None  # an old, unreadable one: the daemon is about to replace it
        if beat is not None and before is not None and beat.started_unix == before.started_unix:
            beat = None
        if beat is not None and beat.pid == pid:
            ended = ended or beat.state in ENDED
            if not ended and beat.state != "starting":
                return beat
        if ended or time.monotonic() > deadline:
            what = "ended at once" if ended else f"does not work after {timeout_s:g} s"
            # One that failed says so in its heartbeat, before it prints it.
            said = "" if beat is None or beat.pid != pid else str(beat.details.get("error", ""))
            words = said or _last_line(last_words_path(data_dir, name))
            raise ObsError(
                f"{name} (pid {pid}) {what}: {words or 'it said nothing'}"
                f" (more in {log_dir(data_dir) / name}.log)"
            )
        time.sleep(0.05)


def last_words_path(data_dir: Path, name: str) -> Path:
    """What the daemon launched last wrote to stdout and stderr."""
    return log_dir(data_dir) / f"{name}.out"


def launch(
    name: str, config_dir: Path, data_dir: Path, extra: Sequence[str] = (), timeout_s: float = 20.0
) -> int:
    """Start daemon `name` in a session of its own and wait until it works; its pid.

    extra: further words of its command line.  Raises ObsError with its last words when it does
    not come up; it is then ended.
    """
    script = Path(__file__).resolve().parent.parent / "daemons" / f"{name}.py"
    command = [sys.executable, str(script), "--config_dir", str(config_dir.resolve())]
    command += ["--data_dir", str(data_dir.resolve()), *extra]
    words = last_words_path(data_dir, name)
    try:
        before = read_heartbeat(data_dir, name)
    except ObsError:
        before = None
    try:
        words.parent.mkdir(parents=True, exist_ok=True)
        with words.open("wb") as out:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise ObsError(f"{name}: cannot be started: {error}") from error
    _children.append(child)
    try:
        wait_alive(data_dir, name, child.pid, timeout_s, lambda: child.poll() is None, before)
    except BaseException:
        _end(child)
        raise
    return child.pid


# Kept, so that a child that outlives the launcher on purpose is not reported as forgotten.
_children: list[subprocess.Popen[bytes]] = []


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(10)


def _last_line(path: Path) -> str:
    """The last line of a text file that is not blank; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line.strip()), "")

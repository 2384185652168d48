"""What records on the head node at this moment: HK recorders and pipelines, found by psutil."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from panoseti.flight import FlightRecorder

HK_RECORDER = "store_redis_data"
RUN_WATCHER = "run_watcher"
PIPELINE = "hashpipe"
CAPTURE_HK = "capture_hk"
_PYTHON = re.compile(r"python[0-9.]*")
_OPTIONS_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")
TERM_WAIT_S = 5.0
KILL_WAIT_S = 3.0


@dataclass(frozen=True)
class Activity:
    """One recording process: what it is, pid, command line."""

    what: str
    pid: int
    command: str
    process: psutil.Process

    def __str__(self) -> str:
        return f"{self.what} (pid {self.pid})"


def _option(words: Sequence[str], name: str) -> str | None:
    """The value of a `--name value` or `--name=value` option of a command line."""
    for index, word in enumerate(words):
        if word == name and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def _same_folder(text: str | Path, folder: Path) -> bool:
    try:
        return Path(text).resolve() == folder.resolve()
    except OSError:
        return str(text) == str(folder)


def _given_folder(process: psutil.Process, name: str) -> Path | None:
    """The folder in an option of its command line, seen from where it was started."""
    text = _option(process.info["cmdline"], name)
    if text is None:
        return None
    try:
        return Path(process.cwd()) / text
    except (psutil.Error, OSError):
        return Path(text)


@dataclass(frozen=True)
class Elsewhere:
    """A daemon of this observatory that works for another data directory."""

    activity: Activity
    data_dir: Path

    def __str__(self) -> str:
        return f"{self.activity} works for {self.data_dir}"


def daemons_elsewhere(
    scripts: Sequence[str],
    config_dir: Path,
    data_dir: Path,
    hk_holders: Callable[[], Collection[int]] = tuple,
) -> list[Elsewhere]:
    """Daemons that work for another data directory than this one, and were started for this command
    directory, or belong to the session whose capture_hk holds the HK port.

    hk_holders: the processes that hold the port.
    """
    all_of_them = [
        Elsewhere(Activity(script, process.pid, " ".join(words), process), folder)
        for script in dict.fromkeys((*scripts, CAPTURE_HK))
        for process in daemon_processes(script)
        if (words := process.info["cmdline"])
        and (folder := _given_folder(process, "--data_dir")) is not None
        and not _same_folder(folder, data_dir)
    ]
    if not all_of_them:
        return []
    holders = hk_holders()
    beside = [one.data_dir for one in all_of_them if one.activity.pid in holders]
    return [
        one
        for one in all_of_them
        if one.activity.what in scripts
        and (
            _works_by(one.activity.process, config_dir)
            or any(_same_folder(one.data_dir, folder) for folder in beside)
        )
    ]


def _works_by(process: psutil.Process, config_dir: Path) -> bool:
    """Whether it was started for a command directory: the one it was started in if not told."""
    try:
        folder = _given_folder(process, "--config_dir") or Path(process.cwd())
    except (psutil.Error, OSError):
        return False
    return _same_folder(folder, config_dir)


def daemon_processes(script: str) -> list[psutil.Process]:
    """Processes whose command line runs `daemons/<script>.py`."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        if script_of(words) == f"{script}.py":
            found.append(process)
    return found


def script_of(words: Sequence[str]) -> str:
    """Name of the script that a command line runs; "" when it runs none (an editor shows one)."""
    if not words or not _PYTHON.fullmatch(Path(words[0]).name):
        return ""
    left = iter(words[1:])
    for word in left:
        if word in ("-c", "-m"):
            return ""
        if not word.startswith("-"):
            return Path(word).name
        if word in _OPTIONS_WITH_VALUE:
            next(left, None)
    return ""


def daemons(script: str, data_dir: Path, what: str = "") -> list[Activity]:
    """Daemons of this data directory, and those that do not say which is theirs."""
    found = []
    for process in daemon_processes(script):
        words = process.info["cmdline"]
        folder = _given_folder(process, "--data_dir")
        if folder is None or _same_folder(folder, data_dir):
            found.append(Activity(what or script, process.pid, " ".join(words), process))
    return found


def hk_recorders(data_dir: Path) -> list[Activity]:
    """HK recorders of this data directory, and those that do not say which is theirs."""
    return daemons(HK_RECORDER, data_dir, "HK recorder")


def watchers(data_dir: Path) -> list[Activity]:
    """Watchers of the run of this data directory, and those that do not say which is theirs."""
    return daemons(RUN_WATCHER, data_dir, "run watcher")


def pipelines() -> list[Activity]:
    """Pipelines on this computer; their name alone counts, as it does on the DAQ nodes."""
    found = []
    for process in psutil.process_iter(["name", "cmdline", "status"]):
        if process.info["name"] == PIPELINE and process.info["status"] != psutil.STATUS_ZOMBIE:
            words = " ".join(process.info["cmdline"] or [])
            found.append(Activity(PIPELINE, process.pid, words, process))
    return found


def data_dir_of_daemons(config_dir: Path, scripts: Sequence[str]) -> Path | None:
    """The data directory that a running daemon of this command directory works for."""
    for script in scripts:
        for process in daemon_processes(script):
            words = process.info["cmdline"]
            configs, data = _option(words, "--config_dir"), _option(words, "--data_dir")
            if configs is not None and data is not None and _same_folder(configs, config_dir):
                return Path(data)
    return None


def end(
    activities: Sequence[Activity], flight: FlightRecorder, term_wait_s: float = TERM_WAIT_S
) -> list[tuple[Activity, str]]:
    """End processes: SIGTERM, and SIGKILL for those that do not go; how each one went.

    psutil compares pid and start time before every signal.
    """
    processes = [activity.process for activity in activities]
    for activity in activities:
        _signal(activity, "SIGTERM", flight)
    _, alive = _wait(processes, term_wait_s)
    for activity in activities:
        if activity.process in alive:
            _signal(activity, "SIGKILL", flight)
    _, left = _wait(alive, KILL_WAIT_S)
    return [
        (
            activity,
            "still runs"
            if activity.process in left
            else "killed"
            if activity.process in alive
            else "ended",
        )
        for activity in activities
    ]


def _signal(activity: Activity, name: str, flight: FlightRecorder) -> None:
    flight.note("signal", pid=activity.pid, program=activity.what, signal=name)
    try:
        activity.process.terminate() if name == "SIGTERM" else activity.process.kill()
    except psutil.NoSuchProcess:
        pass
    except psutil.AccessDenied:
        flight.note("signal_denied", pid=activity.pid, program=activity.what)


def _wait(
    processes: Sequence[psutil.Process], timeout_s: float
) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """Those that ended and those that did not; a zombie of somebody else's has ended."""
    deadline = time.monotonic() + timeout_s
    while True:
        alive = [process for process in processes if _runs(process)]
        if not alive or time.monotonic() > deadline:
            return [process for process in processes if process not in alive], alive
        psutil.wait_procs(alive, timeout=0.05)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False

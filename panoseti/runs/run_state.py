"""State of run control on the head node: `run_name`, run directories, markers, links, locks.

`run_name` exists if and only if a run is in progress.  Its first line is the run's name, the
second a JSON object that says who holds the observatory:

    obs_Lick.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd
    {"version": 1, "owner": "obs@head[4711]", "token": "6f1e...", "since_unix": 1721882046.1, ...}

A file that says anything else is refused with its path (StateError), never guessed: what is
deleted later is found by that name.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from daq.daq_facts import RUN_NAME, check_run_name, check_time, utc_text
from panoseti.errors import RefusedError
from panoseti.flight import owner
from panoseti.launch import log_dir
from panoseti.runs.run_owner import new_token
from panoseti.state_files import (
    StateError,
    create_state,
    fsync_folder,
    point_link,
    read_bytes,
    write_state,
)

RUN_NAME_FILE = "run_name"
VERSION = 1
HK_FILE = "hk.pff"
RUN_LINK, IMAGE_LINK, PH_LINK, HK_LINK = "run", "img", "ph", "hk"
CONTROL_LOCK = "run_control.lock"
NAME_S = 1.0  # from taking the lock to having written who took it, at the most


@dataclass(frozen=True)
class Holder:
    """Who records: the content of `run_name`.

    owner: user@host[pid] of the start, "" when the file does not say; token: proves to DAQ nodes
    and to the start itself that a run is its own; since_unix: Unix time of the start.
    """

    run: str
    owner: str = ""
    token: str = ""
    since_unix: float | None = None
    command_dir: str = ""

    def __str__(self) -> str:
        who = self.owner or "somebody unknown"
        since = "" if self.since_unix is None else f" since {utc_text(self.since_unix)}"
        return f"{self.run} of {who}{since}"


def new_holder(run: str, command_dir: Path, data_dir: Path) -> Holder:
    """A holder for a run that this process begins now, on the head node of `data_dir`."""
    return Holder(run, owner(), new_token(data_dir), time.time(), str(command_dir))


def run_name_path(data_dir: Path) -> Path:
    """Where the name of the run in progress stands."""
    return data_dir / RUN_NAME_FILE


def claim(data_dir: Path, holder: Holder) -> None:
    """Take the observatory for a run; RefusedError naming who has it when it is taken."""
    said = {
        "version": VERSION,
        "owner": holder.owner,
        "token": holder.token,
        "since_unix": holder.since_unix,
        "command_dir": holder.command_dir,
    }
    content = f"{check_run_name(holder.run)}\n{json.dumps(said)}\n".encode()
    try:
        create_state(run_name_path(data_dir), content)
    except FileExistsError:
        raise RefusedError(in_progress_text(read_holder(data_dir))) from None


def read_holder(data_dir: Path) -> Holder | None:
    """Who records; None when no run is in progress, StateError when `run_name` is unusable."""
    path = run_name_path(data_dir)
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return None
    if not content.strip():
        raise StateError(_unusable(path, "empty"))
    try:
        first, _, rest = content.decode("utf-8").partition("\n")
        run = check_run_name(first)
    except ValueError as error:
        raise StateError(_unusable(path, str(error))) from error
    if not rest.strip():
        return Holder(run)
    try:
        said = json.loads(rest)
        if said["version"] != VERSION:
            raise ValueError(f"version {said['version']!r}")
        since = said["since_unix"]
        return Holder(
            run=run,
            owner=str(said["owner"]),
            token=str(said["token"]),
            since_unix=None if since is None else check_time(since),
            command_dir=str(said["command_dir"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StateError(_unusable(path, f"its second line is unknown ({error})")) from error


def _unusable(path: Path, why: str) -> str:
    return f"{path}: {why}; whether a run is in progress cannot be told: look, then run stop.py"


def in_progress_text(holder: Holder | None) -> str:
    """What a start says that finds a run in progress."""
    what = "a run that has just ended" if holder is None else str(holder)
    return (
        f"a run is in progress: {what}; somebody else may be using the observatory: check"
        " (status.py) before you stop it (stop.py)"
    )


def release(data_dir: Path, run: str) -> bool:
    """Remove `run_name` if it names this run; whether it did.  StateError when it is unusable."""
    holder = read_holder(data_dir)
    if holder is None or holder.run != run:
        return False
    run_name_path(data_dir).unlink(missing_ok=True)
    fsync_folder(data_dir)
    return True


def set_aside(path: Path, data_dir: Path) -> Path:
    """Move an unusable state file into the log folder, under a name that says when."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    target = log_dir(data_dir) / f"{path.name}.unusable-{stamp}-{secrets.token_hex(2)}"
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
    return target


# --- run directories --------------------------------------------------------------------------


def run_dir(data_dir: Path, run: str) -> Path:
    """The run's directory; ValueError when that is no name of a run."""
    return data_dir / check_run_name(run)


def runs(data_dir: Path) -> list[str]:
    """Names of the run directories, oldest first."""
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(data_dir) as entries:
        for entry in entries:
            match = RUN_NAME.fullmatch(entry.name)
            if match and entry.is_dir(follow_symlinks=False):
                found.append((match["start"], entry.name))
    return [name for _, name in sorted(found)]


class Marker(StrEnum):
    """Milestones in the life of a run directory, in their order."""

    RECORDING_ENDED = "recording_ended"
    COLLECT_COMPLETE = "collect_complete"
    RUN_COMPLETE = "run_complete"


def write_marker(directory: Path, marker: Marker) -> None:
    """Set a marker, unless it is there; it holds the local time, without zone and newline.

    StateError when what is there cannot be read.
    """
    if read_marker(directory, marker) is None:
        write_state(directory / marker, time.strftime("%Y-%m-%dT%H:%M:%S").encode())


def read_marker(directory: Path, marker: Marker) -> str | None:
    """The time in a marker; None when it is not set, StateError when it cannot be read."""
    try:
        return (directory / marker).read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{directory / marker}: cannot be read: {error.strerror}") from error


def is_marked(directory: Path, marker: Marker) -> bool:
    """Whether a marker is set; one that cannot be read is not."""
    try:
        return read_marker(directory, marker) is not None
    except StateError:
        return False


def link_run(data_dir: Path, run: str) -> None:
    """Let the links show this run; those to its first files come when there are such files."""
    point_link(data_dir / RUN_LINK, run)
    point_link(data_dir / HK_LINK, f"{run}/{HK_FILE}")
    for name in (IMAGE_LINK, PH_LINK):
        if (data_dir / name).is_symlink():
            (data_dir / name).unlink()


def link_first_files(data_dir: Path, run: str, image: str | None, ph: str | None) -> None:
    """Let `img` and `ph` show the first files of a run; does nothing when `run` shows another."""
    link = data_dir / RUN_LINK
    if not link.is_symlink() or os.readlink(link) != run:
        return
    for name, file in ((IMAGE_LINK, image), (PH_LINK, ph)):
        if file is not None:
            point_link(data_dir / name, f"{run}/{file}")


def unlink_run(data_dir: Path, run: str) -> None:
    """Remove the links that show this run (of a start that is undone)."""
    for name in (RUN_LINK, IMAGE_LINK, PH_LINK, HK_LINK):
        link = data_dir / name
        if link.is_symlink() and os.readlink(link).split("/")[0] == run:
            link.unlink()


# --- who is at work ---------------------------------------------------------------------------


@dataclass(frozen=True)
class AtWork:
    """A process that holds a lock: pid (None = cannot be told), what it says (what it is, of whom,
    since when), and when it was started (clock ticks since boot, None = cannot be told).
    """

    pid: int | None
    text: str
    start_ticks: int | None = None

    def __str__(self) -> str:
        return f"{self.text} (pid {self.pid})" if self.pid else self.text


class ControlLock:
    """Held by a start while it starts and by a stop while it stops; ends with its process.

    `take` once, then `release`, or use it as a context manager after taking it.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = log_dir(data_dir) / CONTROL_LOCK
        self._fd: int | None = None

    def take(self, what: str) -> bool:
        """Try to take it, as `what` ("start.py"); OSError when there can be no such file."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        pid = os.getpid()
        said = f"{pid} {what} of {owner()} since {utc_text(time.time())}\n{start_ticks(pid)}\n"
        with contextlib.suppress(OSError):  # a full disk only costs the words for others
            os.ftruncate(fd, 0)
            os.pwrite(fd, said.encode(), 0)
        return True

    def held_by(self) -> AtWork:
        """Who holds it (asked after `take` failed).

        One who has taken it at this very moment is given the time to write its name, over that of
        one who was killed.
        """
        give_up_s = time.monotonic() + NAME_S
        while True:
            said, holder = self._said(), self._holder_pid()
            if said is not None and holder in (None, said.pid):
                return said
            if time.monotonic() > give_up_s:
                return AtWork(holder, "another start.py or stop.py")
            time.sleep(0.01)

    def _said(self) -> AtWork | None:
        """What stands in the file; None when that is not all of it."""
        try:
            first, ticks, _ = self._path.read_text(errors="replace").split("\n")
            pid, text = first.split(maxsplit=1)
            return AtWork(int(pid), text.strip(), int(ticks))
        except (OSError, ValueError):
            return None

    def _holder_pid(self) -> int | None:
        try:
            return _flock_pid(self._path)
        except OSError:
            return None

    def signal(self, at_work: AtWork, number: int) -> bool:
        """Send a signal to who holds the lock, if that is the very process; whether it was sent.

        PermissionError when it may not be sent.
        """
        if at_work.pid is None:
            return False
        try:
            process = os.pidfd_open(at_work.pid)
        except ProcessLookupError:
            return False
        try:
            # From here on the number cannot become another process's.
            same = at_work.start_ticks == start_ticks(at_work.pid)
            if not same or self._holder_pid() not in (None, at_work.pid):
                return False
            signal.pidfd_send_signal(process, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(process)

    def release(self) -> None:
        """Give it back."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)  # the next holder is not to be taken for this one
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> ControlLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@contextlib.contextmanager
def collect_lock(directory: Path) -> Iterator[bool]:
    """Whether this process may collect the run in `directory`: nobody else does so now."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def collector_pid(directory: Path) -> int | None:
    """Pid of the process that collects a run at this moment, None when nobody does."""
    return _flock_pid(directory)


def control_pid(data_dir: Path) -> int | None:
    """Pid of the start or stop that is at work at this moment, None when none is."""
    try:
        return _flock_pid(log_dir(data_dir) / CONTROL_LOCK)
    except FileNotFoundError:
        return None


def start_ticks(pid: int) -> int:
    """When a process was started; ProcessLookupError when it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None
    return int(stat.rpartition(b")")[2].split()[19])


def _flock_pid(path: Path) -> int | None:
    """Who holds the lock on a file or folder, which is not touched."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        major, minor = _device_of_mount(fd)
        place = f"{major:02x}:{minor:02x}:{os.fstat(fd).st_ino}"
    finally:
        os.close(fd)
    with open("/proc/locks", encoding="ascii", errors="replace") as file:
        for line in file:
            words = line.split()
            if "FLOCK" in words and "->" not in words and place in words:
                return int(words[words.index(place) - 1])
    return None


def _device_of_mount(fd: int) -> tuple[int, int]:
    """Major and minor number of the device that /proc/locks names for an open file.

    It is the file system's own; overlayfs and btrfs have others in the status of their files.
    """
    fields = Path(f"/proc/self/fdinfo/{fd}").read_text().split()
    mount = fields[fields.index("mnt_id:") + 1]
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[0] == mount:
            major, _, minor = words[2].partition(":")
            return int(major), int(minor)
    device = os.fstat(fd).st_dev  # a file system that is not mounted any more
    return os.major(device), os.minor(device)

"""What the helpers on a DAQ node share: errors, the JSON document, state files, the lock.

Python >= 3.8, standard library alone.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import socket
import stat
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, NoReturn, Optional, Sequence

from daq_facts import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_USAGE,
    LOCK_FILE,
    OVER_FILE,
    RUN_FILE,
    VERSION,
    check_host_word,
    check_run_name,
    check_time,
    helpers_digest,
    utc_text,
)

Document = Dict[str, Any]
STATE_MAX_BYTES = 65536
# How a start calls itself to those who wait for it; the name of its run follows.
A_START = "a start of "
# A stop of an older run must not make a start that hangs forget that its own is over.
RUNS_OVER = 20


class DaqError(Exception):
    """What was asked for did not happen; the message is one line for the operator.

    details: further entries of the JSON document.
    """

    exit_code = EXIT_FAILED

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details


class UsageError(DaqError):
    """An argument is wrong."""

    exit_code = EXIT_USAGE


class RefusedError(DaqError):
    """The state of the node forbids it."""

    exit_code = EXIT_REFUSED


class StateError(DaqError):
    """A state file is empty, truncated or not one of ours; it is never guessed at."""

    exit_code = EXIT_REFUSED


class Parser(argparse.ArgumentParser):
    """A parser whose complaints become the JSON document, too."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing and leaving."""
        raise UsageError(message)


def call(main: Callable[[Sequence[str]], Document], argv: Sequence[str]) -> int:
    """Run a helper: its result, or its failure, as one JSON document on stdout; the exit code."""
    document: Document = {"version": VERSION, "helpers": helpers_digest(Path(__file__).parent)}
    try:
        document.update({"ok": True, "error": None}, **main(argv))
        code = EXIT_OK
    except DaqError as error:
        document.update(error.details, ok=False, error=str(error))
        code = error.exit_code
    except OSError as error:
        document.update(ok=False, error=describe(error))
        code = EXIT_FAILED
    try:
        json.dump(document, sys.stdout)
        sys.stdout.write("\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the head node is gone; what was done stays done
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def describe(error: OSError) -> str:
    """An operating system error in one line, with the path it is about."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def open_data_dir(text: str) -> Path:
    """The data directory of this node, which becomes the working directory."""
    path = Path(text)
    if not path.is_absolute():
        raise UsageError(f"--data_dir {text}: give an absolute path")
    try:
        os.chdir(path)
    except OSError as error:
        raise DaqError(
            f"data directory {text}: {error.strerror}; make it on this node or correct data_dir"
            " in daq_config.json"
        )
    return path


def run_argument(text: str) -> str:
    """For argparse: the name of a run."""
    try:
        return check_run_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error))


def sync_directory(path: Path) -> None:
    """Make names that were added to or removed from a directory last."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot
            raise
    finally:
        os.close(fd)


def write_complete(path: Path, data: bytes, mode: int = 0o644) -> Path:
    """Write and fsync a hidden temporary file beside `path`; returns its path."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
    except BaseException:
        os.unlink(temporary)
        raise
    return temporary


def write_state(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a state file: complete under its name, or not at all."""
    temporary = write_complete(path, data, mode)
    try:
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    sync_directory(path.parent)


def create_state(path: Path, data: bytes) -> None:
    """As write_state, but FileExistsError when there is a file of this name."""
    temporary = write_complete(path, data)
    try:
        os.link(temporary, path)
    finally:
        os.unlink(temporary)
    sync_directory(path.parent)


def remove_state(path: Path) -> bool:
    """Remove a state file; whether there was one."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    sync_directory(path.parent)
    return True


def read_state(path: Path) -> Optional[Document]:
    """A JSON state file of ours; None when there is none, StateError when it is anything else."""
    try:
        with path.open("rb") as file:
            data = file.read(STATE_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    try:
        content = json.loads(data.decode("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not an object")
        if content.get("version") != VERSION:
            raise ValueError(f"version {content.get('version')!r}, not {VERSION}")
    except (ValueError, RecursionError) as error:
        what = "is empty" if not data else f"is not a state file of ours ({error})"
        raise StateError(f"{path.absolute()} {what}; stop.py puts it right")
    return content


class RunState(NamedTuple):
    """current_run_daq: the run this node records, and whose it is.

    owner: token of the head node; started_by: who typed the command; daq_ip: the node's own
    address as the configs have it (part of file names).
    """

    run: str
    owner: str
    started_by: str
    daq_ip: str
    started_unix: float

    def whose(self) -> str:
        """Who started it, on which computer, and since when, for people."""
        return f"{self.started_by or self.owner} since {utc_text(self.started_unix)}"


def run_state_bytes(state: RunState) -> bytes:
    """The content of current_run_daq."""
    return (json.dumps({"version": VERSION, **state._asdict()}, indent=1) + "\n").encode()


def read_run_state(folder: Path) -> Optional[RunState]:
    """current_run_daq of a data directory; None when there is none, StateError when unreadable."""
    path = folder / RUN_FILE
    content = read_state(path)
    if content is None:
        return None
    try:
        return RunState(
            run=check_run_name(str(content["run"])),
            owner=str(content["owner"]),
            started_by=str(content["started_by"]),
            daq_ip=check_host_word(str(content["daq_ip"])),
            started_unix=check_time(content["started_unix"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path.absolute()} is not a state file of ours ({error})")


def mark_over(run: str) -> None:
    """Remember that a run is over: what its start, killed meanwhile, asks for late is refused."""
    runs = [older for older in _runs_over() if older != run][1 - RUNS_OVER :]
    content = {"version": VERSION, "runs": [*runs, run]}
    write_state(Path(OVER_FILE), (json.dumps(content) + "\n").encode())


def _runs_over() -> List[str]:
    """The runs that ended last; none where that cannot be read: it only keeps late-comers out."""
    try:
        content = read_state(Path(OVER_FILE)) or {}
    except StateError:
        return []
    found = content.get("runs")
    return [str(run) for run in found] if isinstance(found, list) else []


def is_over(run: str) -> bool:
    """Whether a stop has said that nothing is begun for this run any more."""
    return run in _runs_over()


def refuse_if_over(run: str) -> None:
    """RefusedError when the run is over on this node."""
    if is_over(run):
        raise RefusedError(f"run {run} is over on this node; nothing is begun for it any more")


class Lock:
    """Held by start_daq and stop_daq while they work: one of them at a time per data directory.

    timeout_s: how long to wait for it; meanwhile `busy` is called.  strict: RefusedError when
    another keeps it; otherwise (stop must get through) the work goes on without it.  about: what
    others are told who come in the meantime.  holder: that of another who kept it, "" = unknown.
    """

    def __init__(
        self,
        about: str,
        timeout_s: float = 0,
        strict: bool = True,
        busy: Callable[[], Any] = lambda: None,
    ) -> None:
        self._about = about
        self._timeout_s = timeout_s
        self._strict = strict
        self._busy = busy
        self._fd = -1
        self.held = False
        self.holder = ""

    def __enter__(self) -> Lock:
        self._fd = os.open(LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline = time.monotonic() + self._timeout_s
        try:
            while not self._take():
                if time.monotonic() >= deadline:
                    self.holder = os.pread(self._fd, 500, 0).decode("utf-8", "replace").strip()
                    if self._strict:
                        raise RefusedError(
                            f"{self.holder or 'another helper'} is at work here; somebody else may"
                            " be using the observatory: check (status.py)"
                        )
                    return self
                self._busy()
                time.sleep(0.05)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{self._about} (pid {os.getpid()})\n".encode(), 0)
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.held:
            os.ftruncate(self._fd, 0)  # the next holder is not taken for this one
        os.close(self._fd)

    def _take(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.held = True
        return True


def last_lines(path: Path, count: int = 20, most_bytes: int = 8192) -> List[str]:
    """The last lines of a text file that are not blank; none when it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most_bytes))
            text = file.read(most_bytes).decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


def is_directory(path: Path) -> bool:
    """Whether it is a directory itself, not a link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def host_name() -> str:
    """What this node calls itself."""
    return socket.gethostname()

"""Processes called hashpipe on this node: finding them, and signalling the right one.

A process id alone proves nothing: after a reboot, or when numbers are used again, it is somebody
else's.  An Identity (pid, start time, boot, name) is; signals go to nothing less.

Python >= 3.8, standard library and pgrep alone.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

from daq_facts import PID_FILE, VERSION, check_host_word, check_run_name, status_name
from daq_node import DaqError, Document, StateError, read_run_state, read_state

PROCESS_NAME = "hashpipe"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
LOG_PREFIX = "hp_log_"
STATUS_MAX_BYTES = 16 << 20


class Identity(NamedTuple):
    """One process: its pid, start (clock ticks since boot), boot it belongs to, and name."""

    pid: int
    start_ticks: int
    boot_id: str
    name: str


class Pipeline(NamedTuple):
    """A hashpipe process that runs, as far as this user may look at it.

    user: whose it is; folder: its working directory, the data directory it records into; run:
    name of its run; status: path of its status file; None where it cannot be told.
    """

    identity: Identity
    user: str
    folder: Optional[Path]
    run: Optional[str]
    status: Optional[Path]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.identity.pid

    def records_into(self, folder: Path) -> bool:
        """Whether it works in that data directory."""
        try:
            return self.folder is not None and os.path.samefile(self.folder, folder)
        except OSError:
            return False

    def owner(self) -> Optional[str]:
        """Token of the head node whose run it records; None when nobody has a claim on it."""
        try:
            state = read_run_state(self.folder) if self.folder is not None else None
        except (StateError, OSError):
            return None
        return state.owner if state is not None and state.run == self.run else None

    def whose(self) -> str:
        """Who started it, on which computer, and since when, for people; "" where it is unknown."""
        try:
            state = read_run_state(self.folder) if self.folder is not None else None
        except (StateError, OSError):
            return ""
        return state.whose() if state is not None and state.run == self.run else ""

    def document(self) -> Document:
        """For the JSON document."""
        folder = None if self.folder is None else str(self.folder)
        whose = {"owner": self.owner(), "whose": self.whose()}
        return {"pid": self.pid, "user": self.user, "data_dir": folder, "run": self.run, **whose}

    def __str__(self) -> str:
        text = f"hashpipe (pid {self.pid}, user {self.user}"
        text += f", run {self.run}" if self.run else ""
        return text + (f", in {self.folder})" if self.folder else ")")


def boot_id() -> str:
    """Random name of this boot of the machine."""
    return BOOT_ID.read_text().strip()


def identify(pid: int) -> Optional[Identity]:
    """Who has this pid now; None when nobody has, or one that is dead and only not collected."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        name, _, rest = text.partition("(")[2].rpartition(")")
        fields = rest.split()
        if fields[0] in "ZXx":
            return None
        return Identity(pid, int(fields[19]), boot_id(), name)
    except (OSError, IndexError, ValueError):
        return None


def find_hashpipes() -> List[Identity]:
    """Every process called hashpipe that is visible here and alive."""
    try:
        found = subprocess.run(
            ["pgrep", "-x", PROCESS_NAME],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=10,
        )
    except FileNotFoundError:
        raise DaqError("pgrep is missing on this node: install procps")
    except subprocess.TimeoutExpired:
        raise DaqError("pgrep -x hashpipe does not answer")
    if found.returncode > 1:
        words = found.stderr.decode("utf-8", "replace").strip()
        raise DaqError(f"pgrep -x hashpipe: exit code {found.returncode}: {words}")
    identities = (identify(int(word)) for word in found.stdout.split())
    return [who for who in identities if who is not None and who.name == PROCESS_NAME]


def find_pipelines() -> List[Pipeline]:
    """find_hashpipes(), each with what can be told about it."""
    return [pipeline_of(identity) for identity in find_hashpipes()]


def pipeline_of(identity: Identity) -> Pipeline:
    """What /proc tells about a hashpipe process."""
    words = _command_line(identity.pid)
    options = _options(words)
    run: Optional[str] = options.get("RUNDIR", "")
    try:
        run = check_run_name(run or "")
    except ValueError:
        run = None
    folder: Optional[Path] = None
    try:
        folder = Path(os.readlink(f"/proc/{identity.pid}/cwd"))
    except OSError:
        folder = _plugin_folder(words)  # a launcher with privileges does not show it
    status = None
    log = os.path.basename(options.get("LOGFILE", ""))
    if folder is not None and run is not None and log.startswith(LOG_PREFIX):
        try:
            status = folder / run / status_name(check_host_word(log[len(LOG_PREFIX) :]))
        except ValueError:
            pass
    return Pipeline(identity, _user(identity.pid), folder, run, status)


def _command_line(pid: int) -> List[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return []


def _options(words: List[str]) -> Dict[str, str]:
    """The -o KEY=VALUE words of a command line."""
    after = (words[k + 1].partition("=") for k in range(len(words) - 1) if words[k] == "-o")
    return {key: value for key, _, value in after}


def _plugin_folder(words: List[str]) -> Optional[Path]:
    """Where the plugin of a command line lies, which start_daq.py takes from the data directory."""
    for k in range(len(words) - 1):
        if words[k] == "-p" and os.path.isabs(words[k + 1]):
            return Path(words[k + 1]).parent
    return None


def _user(pid: int) -> str:
    """Who started it (its real user id)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
        uid = int(next(line for line in lines if line.startswith("Uid:")).split()[1])
    except (OSError, StopIteration, ValueError, IndexError):
        return "unknown"
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def is_alive(identity: Identity) -> bool:
    """Whether this very process still runs."""
    return identify(identity.pid) == identity


def send_signal(identity: Identity, number: int) -> bool:
    """Signal this very process; False when it has ended.  DaqError when it is not ours to signal.

    The process is held by a descriptor between check and signal where the system has such, so
    that not even a pid used again in between is hit.
    """
    holder = -1
    try:
        if hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal"):
            try:
                holder = os.pidfd_open(identity.pid)
            except ProcessLookupError:
                return False
            except OSError:
                pass  # a kernel without it
        if not is_alive(identity):
            return False
        if holder >= 0:
            signal.pidfd_send_signal(holder, number)
        else:
            os.kill(identity.pid, number)
        return True
    except ProcessLookupError:
        return False
    except PermissionError:
        raise DaqError(
            f"hashpipe (pid {identity.pid}) belongs to user {_user(identity.pid)}:"
            " end it as that user, or as root"
        )
    finally:
        if holder >= 0:
            os.close(holder)


def pid_file_bytes(identity: Identity, run: str) -> bytes:
    """The content of daq_pid."""
    content = {"version": VERSION, **identity._asdict(), "run": run}
    return (json.dumps(content, indent=1) + "\n").encode()


def read_pid_file(folder: Path) -> Optional[Identity]:
    """The process that daq_pid of a data directory names; None when there is no such file."""
    path = folder / PID_FILE
    content = read_state(path)
    if content is None:
        return None
    try:
        return Identity(
            pid=int(content["pid"]),
            start_ticks=int(content["start_ticks"]),
            boot_id=str(content["boot_id"]),
            name=str(content["name"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path.absolute()} is not a state file of ours ({error})")


def read_status(path: Optional[Path], pid: Optional[int] = None) -> Optional[Document]:
    """The pipeline's own status; None when there is none yet, or none of the process `pid`."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(STATUS_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or (pid is not None and content.get("pid") != pid):
        return None
    return content

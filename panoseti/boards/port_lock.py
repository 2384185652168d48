"""Taking turns at a UDP port: a lock whose urgent users are served first; who holds a port.

The lock is the kernel's (flock): it ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from panoseti.errors import ObsError, RefusedError

POLL_S = 0.01
_UDP_TABLE = Path("/proc/net/udp")


class PortBusyError(RefusedError):
    """The turn did not come in time."""


@contextmanager
def turn(path: Path, urgent: bool, patience_s: float) -> Iterator[None]:
    """Hold the lock at `path` for the time of a `with`.

    Two files: an urgent user keeps a shared lock on `<path>.urgent` from when it begins to wait,
    and while one does nobody else tries for the turn itself, so that whoever has it now is
    followed by the urgent one.  PortBusyError names the holder after `patience_s`.
    """
    deadline = time.monotonic() + patience_s
    gate, lock = _open(path.with_name(path.name + ".urgent")), _open(path)
    try:
        while not _try_turn(gate, lock, urgent):
            if time.monotonic() > deadline:
                raise PortBusyError(
                    f"{path}: the command port is in use by {_holder(lock)} for more than"
                    f" {patience_s:g} s; wait for it, or end it"
                )
            time.sleep(POLL_S)
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            pass  # a full disk only costs the name in messages of others
        yield
    finally:
        os.close(lock)
        os.close(gate)


def _try_turn(gate: int, lock: int, urgent: bool) -> bool:
    if not _locked(gate, fcntl.LOCK_SH if urgent else fcntl.LOCK_EX):
        return False
    got = _locked(lock, fcntl.LOCK_EX)
    if not urgent:
        fcntl.flock(gate, fcntl.LOCK_UN)
    return got


def _locked(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise ObsError(
            f"{path}: cannot be opened: {error.strerror}; correct head_node_data_dir in"
            " daq_config.json or the directory's owner"
        ) from error


def _holder(lock: int) -> str:
    text = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
    return process_label(int(text)) if text.isdecimal() else "another process"


def process_label(pid: int) -> str:
    """A process as people know it: "pid 4711 (start.py --nsecs 60)"."""
    try:
        words = psutil.Process(pid).cmdline()
    except psutil.Error:
        words = []
    if words and Path(words[0]).name.startswith("python") and len(words) > 1:
        words = words[1:]
    words[:1] = [Path(word).name for word in words[:1]]
    text = " ".join(" ".join(words).split())  # one line, whatever the arguments hold
    return f"pid {pid} ({text[:80]})" if text else f"pid {pid}"


def udp_holders(ip: str, port: int) -> list[int]:
    """The processes that have it bound, as far as that may be seen."""
    try:
        found = [
            entry.pid
            for entry in psutil.net_connections("udp4")
            if entry.laddr and entry.laddr.port == port and entry.laddr.ip in (ip, "0.0.0.0")
        ]
    except psutil.Error:
        found = []
    return [pid for pid in found if pid is not None]


def who_holds_udp(ip: str, port: int) -> str:
    """Who has a UDP port of this address (or of all addresses) bound, in words."""
    if pids := udp_holders(ip, port):
        return process_label(pids[0])
    uids = [uid for where, uid in _bound() if where in ((ip, port), ("0.0.0.0", port))]
    return f"a process of user id {uids[0]}" if uids else "another process"


def _bound() -> Iterator[tuple[tuple[str, int], int]]:
    """((address, port), user id) of each bound UDP socket; the table is in host byte order."""
    try:
        lines = _UDP_TABLE.read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        words = line.split()
        address, _, port = words[1].partition(":")
        numbers = int(address, 16).to_bytes(4, sys.byteorder)
        yield (".".join(map(str, numbers)), int(port, 16)), int(words[7])

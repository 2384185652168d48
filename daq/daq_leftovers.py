"""Shared memory that dead pipelines have left on this node, and its removal.

Under an installed HASHPIPE the rings, the status buffer and its lock outlive the process; under our
own launcher there is never anything.  Removed is only what lies under the keys of our instance, is
this user's, was made by a process that is gone, and is attached to by nobody.

Python >= 3.8, standard library alone.
"""

from __future__ import annotations

import ctypes
import os
from typing import Dict, List, NamedTuple, Optional

from daq_node import describe
from daq_process import identify

INSTANCE = 0
RINGS = (1, 2)
# Of HASHPIPE: parts of a key beside the instance, and the size of a status buffer.
RING_PROJECT, STATUS_PROJECT = 0x80, 0x40
STATUS_BYTES = 2880 * 64
IPC_RMID, SHM_RDONLY = 0, 0o10000
SEGMENTS = "/proc/sysvipc/shm"
LOCKS = "/dev/shm/sem."


class _RingHeader(ctypes.Structure):
    """How a ring begins."""

    _fields_ = [
        ("data_type", ctypes.c_char * 64),
        ("header_size", ctypes.c_size_t),
        ("block_size", ctypes.c_size_t),
        ("n_block", ctypes.c_int),
        ("shmid", ctypes.c_int),
        ("semid", ctypes.c_int),
    ]


class Segment(NamedTuple):
    """A segment of shared memory, as the kernel lists it."""

    id: int
    size: int
    creator: int
    attached: int
    uid: int

    @property
    def is_dead(self) -> bool:
        """Whether it is ours, and nobody uses it or may yet."""
        return self.uid == os.geteuid() and not self.attached and identify(self.creator) is None


def clear() -> List[str]:
    """Remove what dead pipelines have left; in words.  Only while no pipeline is alive here."""
    try:
        return _clear(ctypes.CDLL(None, use_errno=True))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        text = describe(error) if isinstance(error, OSError) else str(error)
        return [f"shared memory of dead pipelines was not looked for: {text}"]


def _clear(libc: ctypes.CDLL) -> List[str]:
    libc.shmat.restype = ctypes.c_void_p
    libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
    libc.shmdt.argtypes = (ctypes.c_void_p,)
    segments = _segments()
    removed = []
    for ring in RINGS:
        found = segments.get(_key(RING_PROJECT, "HASHPIPE_DATABUF_KEY") + ring - 1)
        header = _ring_header(libc, found) if found is not None and found.is_dead else None
        if found is not None and header is not None and _remove(libc, found):
            libc.semctl(header.semid, 0, IPC_RMID)
            removed.append(f"ring {ring} ({found.size} bytes)")
    status = segments.get(_key(STATUS_PROJECT, "HASHPIPE_STATUS_KEY"))
    is_status = status is not None and status.size == STATUS_BYTES and status.is_dead
    if status is not None and is_status and _remove(libc, status):
        removed.append("status buffer")
        _remove_lock()
    if not removed:
        return []
    return [f"removed shared memory that a dead pipeline had left: {', '.join(removed)}"]


def _segments() -> Dict[int, Segment]:
    """All that the kernel lists, by key; none where it lists nothing."""
    try:
        with open(SEGMENTS) as file:
            lines = [line.split() for line in file]
    except FileNotFoundError:
        return {}
    names = ("key", "shmid", "size", "cpid", "nattch", "uid")
    rows = ([int(row[lines[0].index(name)]) for name in names] for row in lines[1:])
    return {key & 0xFFFFFFFF: Segment(*rest) for key, *rest in rows}


def _key_file() -> str:
    """What HASHPIPE makes its keys from."""
    return os.environ.get("HASHPIPE_KEYFILE") or os.environ.get("HOME") or "/tmp"


def _key(project: int, variable: str) -> int:
    """As ftok() of the C library, or as a variable says."""
    if variable in os.environ:
        return int(os.environ[variable], 0) & 0xFFFFFFFF
    found = os.stat(_key_file())
    project |= INSTANCE
    return (project << 24) | (found.st_dev & 0xFF) << 16 | (found.st_ino & 0xFFFF)


def _ring_header(libc: ctypes.CDLL, segment: Segment) -> Optional[_RingHeader]:
    """The beginning of a ring; None when it is something else that has the same key."""
    if segment.size < ctypes.sizeof(_RingHeader):
        return None
    memory = libc.shmat(segment.id, None, SHM_RDONLY)
    if memory in (None, ctypes.c_void_p(-1).value):
        return None
    header = _RingHeader.from_buffer_copy(ctypes.string_at(memory, ctypes.sizeof(_RingHeader)))
    libc.shmdt(memory)
    whole = header.header_size + header.block_size * header.n_block
    return header if header.shmid == segment.id and whole <= segment.size else None


def _remove(libc: ctypes.CDLL, segment: Segment) -> bool:
    """Once more looked at: somebody may have come."""
    now = [found for found in _segments().values() if found.id == segment.id]
    return now == [segment] and not libc.shmctl(segment.id, IPC_RMID, None)


def _remove_lock() -> None:
    """The status buffer's; a process may have died with it."""
    name = os.environ.get("HASHPIPE_STATUS_SEMNAME")
    if name is None:
        name = f"{_key_file()}_hashpipe_status_{INSTANCE}"
    path = LOCKS + name[1:].replace("/", "_")
    try:
        if os.stat(path).st_uid == os.geteuid():
            os.unlink(path)
    except FileNotFoundError:
        pass

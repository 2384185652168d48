"""What is done to the files of a run on this DAQ node: list, hash, move, delete; one at a time.

A path is <run>/<name> or module_<id>/<run>/<name>; it is taken apart and checked, and directories
are opened step by step, so that no link and no ".." leads elsewhere.

Python >= 3.8, standard library alone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

import daq_facts
from daq_node import (
    DaqError,
    Document,
    RefusedError,
    StateError,
    UsageError,
    read_run_state,
)
from daq_process import find_hashpipes, find_pipelines

CHUNK = 4 << 20
CONFIG_COPY = "daq_config.json"  # in a run directory on a node: who the head node is
HEAD_RUN_FILE = "run.json"  # in a run directory that is the head node's
NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Place(NamedTuple):
    """Where a file of a run is: in a module's directory, or (module None) in the run directory."""

    module: Optional[int]
    run: str
    name: str

    @property
    def path(self) -> str:
        """Relative to the data directory."""
        return f"{folder_path(self.module, self.run)}/{self.name}"


def folder_path(module: Optional[int], run: str) -> str:
    """A directory of a run, relative to the data directory."""
    if module is None:
        return daq_facts.check_run_name(run)
    return daq_facts.module_run_dir(module, run)


def parse_path(text: object, run: str) -> Place:
    """A path of a file of this run taken apart; UsageError for any other."""
    try:
        module, name = daq_facts.split_path(text, run)
    except ValueError as error:
        raise UsageError(str(error))
    return Place(module, run, name)


@contextlib.contextmanager
def open_folder(module: Optional[int], run: str) -> Iterator[int]:
    """A directory of a run as a descriptor; the module's may be a link, the run's may not."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    above = os.open("." if module is None else daq_facts.module_dir(module), flags)
    try:
        fd = os.open(daq_facts.check_run_name(run), flags | os.O_NOFOLLOW, dir_fd=above)
    finally:
        os.close(above)
    try:
        yield fd
    finally:
        os.close(fd)


def described(place: Place, status: os.stat_result) -> Document:
    """A file in the JSON document."""
    return {
        "path": place.path,
        "bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "inode": status.st_ino,
        "device": status.st_dev,
    }


def module_ids() -> List[int]:
    """Module directories that exist here."""
    found = (daq_facts.MODULE_DIR.fullmatch(name) for name in os.listdir("."))
    return sorted(int(match["id"]) for match in found if match and int(match["id"]) < 256)


def is_head_run_dir(run: str) -> bool:
    """Whether <run>/ is (also) the head node's run directory."""
    return os.path.lexists(os.path.join(daq_facts.check_run_name(run), HEAD_RUN_FILE))


def refuse_while_recording(run: str) -> None:
    """RefusedError when the run is, or may be, the one that is recording."""
    try:
        state = read_run_state(Path())
        if state is not None and state.run == run:
            raise RefusedError(f"run {run} is in progress on this node: stop.py")
    except StateError as error:
        if find_hashpipes():
            raise RefusedError(f"{error}, and a hashpipe runs: it may record {run}")
    for pipeline in find_pipelines():
        unknown = pipeline.run is None and (
            pipeline.folder is None or pipeline.records_into(Path())
        )
        if pipeline.run == run or unknown:
            raise RefusedError(f"{pipeline} is recording: stop.py")


def head_told(run: str) -> Optional[Document]:
    """The head node of a run, by the copy of its configs; None where no such copy says it."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with open_folder(None, run) as folder:
            fd = os.open(CONFIG_COPY, flags, dir_fd=folder)
        with os.fdopen(fd, "rb") as file:
            said = json.loads(file.read(CHUNK))
        address, data_dir = said["head_node_ip_addr"], said["head_node_data_dir"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return {"address": str(address), "data_dir": str(data_dir)}


def list_runs() -> List[Document]:
    """Runs that have files on this node, oldest name first; not the head node's own copies."""
    found: Dict[str, Document] = {}
    places: List[Optional[int]] = [None, *module_ids()]
    for module in places:
        folder = "." if module is None else daq_facts.module_dir(module)
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for run in names:
            if not daq_facts.RUN_NAME.fullmatch(run) or (module is None and is_head_run_dir(run)):
                continue
            entry = found.setdefault(run, {"run": run, "files": 0, "bytes": 0})
            files, _ = list_folder(module, run)
            entry["files"] += len(files)
            entry["bytes"] += sum(file["bytes"] for file in files)
    return [{**found[run], "head": head_told(run)} for run in sorted(found)]


def list_folder(module: Optional[int], run: str) -> Tuple[List[Document], List[str]]:
    """Files in one directory of a run, and what else is in it; both empty when it is not there."""
    files: List[Document] = []
    others: List[str] = []
    try:
        with open_folder(module, run) as folder:
            for name in sorted(os.listdir(folder)):
                try:
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                except FileNotFoundError:
                    continue  # gone since: the names after it are there all the same
                if daq_facts.FILE_NAME.fullmatch(name) and stat.S_ISREG(status.st_mode):
                    files.append(described(Place(module, run, name), status))
                else:
                    others.append(f"{folder_path(module, run)}/{name}")
    except (FileNotFoundError, NotADirectoryError):
        pass
    return files, others


def list_run(run: str) -> Document:
    """All files of a run: those of its modules, and those of <run>/ unless it is the head's."""
    files: List[Document] = []
    others: List[str] = []
    shared = is_head_run_dir(run)
    places: List[Optional[int]] = [*module_ids()]
    for module in places if shared else [*places, None]:
        more, strange = list_folder(module, run)
        files += more
        others += strange
    return {"run": run, "files": files, "others": others, "head_run_dir": shared}


def be_modest() -> None:
    """Leave processor and disk to others: to a recording altogether, else by niceness."""
    os.nice(19)
    if find_hashpipes():
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def digest_of(fd: int, length: Optional[int] = None) -> str:
    """SHA-256 of an open file from where it stands, or of so many bytes of it."""
    digest = hashlib.sha256()
    left = length
    while True:
        data = os.read(fd, CHUNK if left is None else min(CHUNK, left))
        if not data:
            return digest.hexdigest()
        digest.update(data)
        left = None if left is None else left - len(data)


def hash_file(place: Place) -> Document:
    """Size, time, inode and SHA-256 of a file; DaqError when it changes meanwhile."""
    with open_folder(place.module, place.run) as folder:
        fd = os.open(place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                raise DaqError("is not a file")
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            sha256 = digest_of(fd)
            after = os.fstat(fd)
        finally:
            os.close(fd)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise DaqError("was written to while it was read; try again")
    return {**described(place, after), "sha256": sha256}


def delete_file(place: Place, expected: Document) -> Document:
    """Delete a file that is what the head node verified; one that is gone already is fine."""
    try:
        with open_folder(place.module, place.run) as folder:
            status = os.stat(place.name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                raise DaqError("is not a file; kept")
            found = described(place, status)
            for key in ("bytes", "mtime_ns", "inode"):
                if found[key] != expected[key]:
                    raise DaqError(f"has changed ({key} {found[key]}, not {expected[key]}); kept")
            os.unlink(place.name, dir_fd=folder)
    except FileNotFoundError:
        return {"path": place.path, "deleted": False}
    return {"path": place.path, "deleted": True}


def remove_emptied(run: str, run_dir: bool) -> Document:
    """Remove the run's directories that are empty; those that are not are told with their names."""
    removed, left = [], []
    places: List[Optional[int]] = [*module_ids()]
    for module in [*places, None] if run_dir and not is_head_run_dir(run) else places:
        path = folder_path(module, run)
        try:
            os.rmdir(path)
            removed.append(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                left.append(f"{path}: {error.strerror}")
                continue
            names = sorted(os.listdir(path))
            left.append(f"{path}: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}")
    return {"removed": removed, "left": left}


def move_file(place: Place) -> Document:
    """Move a file into <run>/ without ever replacing one there, but for the beginning of this very
    file; again and again if need be.  What has its name in <run>/ is on the disk.
    """
    if place.module is None:
        raise UsageError(f"{place.path} is in the run directory already")
    target = Place(None, place.run, place.name)
    with open_folder(place.module, place.run) as old, open_folder(None, place.run) as new:
        name = place.name
        try:
            status = os.stat(name, dir_fd=old, follow_symlinks=False)
        except FileNotFoundError:
            arrived = os.stat(name, dir_fd=new, follow_symlinks=False)
            return {**described(target, arrived), "from": place.path, "how": "moved before"}
        if not stat.S_ISREG(status.st_mode):
            raise DaqError("is not a file; kept")
        if os.fstat(old).st_dev == os.fstat(new).st_dev:
            how, sha256 = _rename(name, old, new), None
        else:
            how, sha256 = "copied", _copy(name, old, new, status)
        arrived = os.stat(name, dir_fd=new, follow_symlinks=False)
    return {**described(target, arrived), "from": place.path, "how": how, "sha256": sha256}


def _rename(name: str, old: int, new: int) -> str:
    """By link and unlink, since a rename would replace a file of the same name."""
    _sync(name, old)
    try:
        os.link(name, name, src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)
    except FileExistsError:
        one = os.stat(name, dir_fd=old, follow_symlinks=False)
        two = os.stat(name, dir_fd=new, follow_symlinks=False)
        if not os.path.samestat(one, two):
            raise DaqError("is another file than that of the same name in the run directory; kept")
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        if name in os.listdir(new):
            raise DaqError("exists in the run directory; kept")
        os.rename(name, name, src_dir_fd=old, dst_dir_fd=new)
        return "renamed"
    os.unlink(name, dir_fd=old)
    return "renamed"


def _sync(name: str, folder: int) -> None:
    """Wait until all of a file is on the disk."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _copy(name: str, old: int, new: int, status: os.stat_result) -> str:
    """To another file system: copy, compare hashes of what was read and what arrived, unlink.

    The file may be there already: of a move that was cut short just before its end, or failed then
    (a disk that has become read-only), after which the head node cut a torn one to whole frames.
    """
    part = f".{name}.part"
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=old)
    try:
        if name in os.listdir(new):
            length = os.stat(name, dir_fd=new, follow_symlinks=False).st_size
            arrived = _digest_at(name, new)
            if arrived != digest_of(source, length) or length > status.st_size:
                raise DaqError("differs from that of the same name in the run directory; kept")
            if length == status.st_size:
                os.fsync(new)
                os.unlink(name, dir_fd=old)
                return arrived
            os.lseek(source, 0, os.SEEK_SET)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        copy = os.open(part, flags, stat.S_IMODE(status.st_mode), dir_fd=new)
        try:
            sent = _copy_bytes(source, copy)
            os.fsync(copy)
            os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
            os.posix_fadvise(copy, 0, 0, os.POSIX_FADV_DONTNEED)  # read what the disk has
            os.lseek(copy, 0, os.SEEK_SET)
            if digest_of(copy) != sent:
                raise DaqError("did not arrive whole in the run directory; kept")
            after = os.fstat(source)
            if (after.st_size, after.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
                raise DaqError("was written to while it was copied; kept")
            os.rename(part, name, src_dir_fd=new, dst_dir_fd=new)
        except BaseException:
            os.unlink(part, dir_fd=new)
            raise
        finally:
            os.close(copy)
        os.fsync(new)
        os.unlink(name, dir_fd=old)
        return sent
    finally:
        os.close(source)


def _copy_bytes(source: int, copy: int) -> str:
    digest = hashlib.sha256()
    while True:
        data = os.read(source, CHUNK)
        if not data:
            return digest.hexdigest()
        digest.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(copy, view) :]


def _digest_at(name: str, folder: int) -> str:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        return digest_of(fd)
    finally:
        os.close(fd)

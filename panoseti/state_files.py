"""Small files that outlive a process: written whole or not at all, and read with suspicion.

Every write goes to a temporary name in the same folder, is fsynced, and only then gets its name;
the folder is fsynced after it, so that a power cut leaves the old file or the new one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from panoseti.errors import RefusedError

# A state file beyond this is none; reading it would only waste memory.
MAX_BYTES = 64 << 20
FILES_AT_ONCE = 16


class StateError(RefusedError):
    """A state file is empty, truncated, garbage or of another version; names its path."""


def fsync_folder(folder: Path) -> None:
    """Bring the entries of a folder to the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_file(path: Path) -> None:
    """Bring the content of a file to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _write_temporary(path: Path, content: bytes) -> Path:
    temporary = _temporary(path)
    temporary.unlink(missing_ok=True)  # of a process of the same number that was killed
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def write_state(path: Path, content: bytes) -> None:
    """Write or replace a file in one step that survives a power cut; OSError when it fails."""
    _replace(path, content)
    fsync_folder(path.parent)


def _replace(path: Path, content: bytes) -> None:
    temporary = _write_temporary(path, content)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_states(files: Mapping[Path, bytes]) -> None:
    """As write_state, for many files side by side: waiting for the disk is most of the time."""
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        for _ in pool.map(_replace, files, files.values()):
            pass
    for folder in {path.parent for path in files}:
        fsync_folder(folder)


def create_state(path: Path, content: bytes) -> None:
    """Make a new file in one step; FileExistsError when the name is taken, whoever was first."""
    temporary = _write_temporary(path, content)
    try:
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def write_json(path: Path, document: Any) -> None:
    """As write_state, for a JSON document."""
    write_state(path, (json.dumps(document, indent=1) + "\n").encode())


def read_bytes(path: Path) -> bytes:
    """The content of a state file; FileNotFoundError as usual, StateError when unreadable."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise StateError(f"{path}: larger than {MAX_BYTES >> 20} MB: not a state file")
    return content


def read_json(path: Path, version: int) -> dict[str, Any]:
    """A JSON object whose "version" is the given one; StateError naming the path otherwise.

    FileNotFoundError when there is no such file.
    """
    content = read_bytes(path)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        what = "empty" if not content.strip() else f"not JSON ({error})"
        raise StateError(f"{path}: {what}; it is not used") from error
    if not isinstance(document, dict) or document.get("version") != version:
        found = document.get("version") if isinstance(document, dict) else type(document).__name__
        raise StateError(f"{path}: version {found!r} where {version} is known; it is not used")
    return document


def point_link(link: Path, target: str) -> None:
    """Make `link` a symbolic link to `target`, replacing an older link in one step.

    Raises OSError; FileExistsError when something that is no link has the name.
    """
    if not link.is_symlink() and link.exists():
        raise FileExistsError(17, "is no link; move it away", str(link))
    temporary = _temporary(link)
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    try:
        temporary.replace(link)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

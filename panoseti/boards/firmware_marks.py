"""firmware_load.json: the boards whose flash memory is being written, kept until it was verified.

    {"version": 1, "boards": {"<UID>": {"ip": "192.168.3.250",
     "file": "/site/quabo_0208_28b4667a.bin", "sha256": "...", "address": 16842752,
     "bytes": 2097152, "begun_unix": 1764032193.1}}}

A board is entered before the first byte goes to it and leaves when all of it was read back as it
should be; the file goes with the last board.  So whatever ends a load (Ctrl-C, a crash, a power
cut), the boards that it left with half an image are known.  They are known by UID: the flash
memory goes where the board goes.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from panoseti.boards.firmware_images import GOLDEN_END, Area
from panoseti.errors import ObsError
from panoseti.state_files import StateError, fsync_folder, read_json, write_json

MARKS_FILE = "firmware_load.json"
VERSION = 1


@dataclass(frozen=True)
class Mark:
    """A load that was begun: board, image, where it goes, Unix time of the beginning."""

    ip: str
    file: str
    sha256: str
    address: int
    bytes: int
    begun_unix: float

    @property
    def area(self) -> Area:
        """The part of the flash memory it goes to."""
        return Area.GOLDEN if self.address < GOLDEN_END else Area.SILVER


def read_marks(data_dir: Path) -> dict[str, Mark]:
    """The unfinished loads by UID; StateError naming the path when the file is unusable."""
    path = data_dir / MARKS_FILE
    remedy = "move it away and load the firmware of all boards anew: config.py --loads"
    try:
        raw = read_json(path, VERSION)
    except FileNotFoundError:
        return {}
    except StateError as error:
        raise StateError(f"{error}; {remedy}") from error
    try:
        return {str(uid): _mark(mark) for uid, mark in raw["boards"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError(f"{path}: not a list of unfinished loads ({error}); {remedy}") from error


def _mark(raw: Mapping[str, Any]) -> Mark:
    return Mark(
        ip=str(raw["ip"]),
        file=str(raw["file"]),
        sha256=str(raw["sha256"]),
        address=int(raw["address"]),
        bytes=int(raw["bytes"]),
        begun_unix=float(raw["begun_unix"]),
    )


class Marks:
    """The file while boards are loaded, many at once; ObsError when it cannot be written."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / MARKS_FILE
        self._lock = threading.Lock()
        self._marks = read_marks(data_dir)

    def set(self, uid: str, mark: Mark) -> None:
        """A load begins."""
        with self._lock:
            self._marks[uid] = mark
            self._save()

    def clear(self, uid: str) -> None:
        """All of it was read back as it should be."""
        with self._lock:
            if self._marks.pop(uid, None) is not None:
                self._save()

    def _save(self) -> None:
        boards = {uid: asdict(mark) for uid, mark in self._marks.items()}
        try:
            if boards:
                write_json(self._path, {"version": VERSION, "boards": boards})
            else:
                self._path.unlink(missing_ok=True)
                fsync_folder(self._path.parent)
        except OSError as error:
            raise ObsError(f"{self._path}: cannot be written: {error.strerror}") from error

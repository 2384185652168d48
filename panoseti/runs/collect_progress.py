"""How far a collection is: counted while it goes on, and told to whoever looks (status.py).

It is told in a small file in the run directory, rewritten every second or two, removed in the end;
worth nothing once the process is gone.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from panoseti.runs.disk_room import duration_text, size_text

PROGRESS_FILE = ".collecting.json"


class Meter:
    """How far the collection is, and whether it is given up; safe to use from several threads."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._lock = threading.Lock()
        self._incoming: set[Path] = set()
        self._total = self._done = 0

    def expect(self, size_bytes: int) -> None:
        """So many bytes more are to come."""
        with self._lock:
            self._total += size_bytes

    def done(self, size_bytes: int) -> None:
        """So many bytes more are in the run directory."""
        with self._lock:
            self._done += size_bytes

    @contextmanager
    def incoming(self, folder: Path) -> Iterator[None]:
        """What lies in the folder counts as come."""
        with self._lock:
            self._incoming.add(folder)
        try:
            yield
        finally:
            with self._lock:
                self._incoming.discard(folder)

    def read(self) -> tuple[int, int]:
        """Bytes that have come, and bytes in all."""
        with self._lock:
            folders, done, total = list(self._incoming), self._done, self._total
        on_the_way = sum(map(_bytes_below, folders))
        return min(done + on_the_way, total), total


def _bytes_below(folder: Path) -> int:
    """Size of all files below a folder; they may vanish meanwhile."""
    size = 0
    for here, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size += os.stat(os.path.join(here, name)).st_size
    return size


@dataclass(frozen=True)
class Progress:
    """Bytes that have come, bytes in all, and how long that took."""

    come_bytes: int
    total_bytes: int
    seconds: float

    @property
    def fraction(self) -> float:
        """Part of it that has come."""
        return self.come_bytes / self.total_bytes if self.total_bytes else 0.0

    @property
    def rate_bytes_s(self) -> float:
        """Mean rate."""
        return self.come_bytes / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        rate = self.rate_bytes_s
        text = f"{size_text(self.come_bytes)} of {size_text(self.total_bytes)}, {size_text(rate)}/s"
        left_bytes = self.total_bytes - self.come_bytes
        return f"{text}, {duration_text(left_bytes / rate)} left" if rate > 0 else text


def write_progress(run_dir: Path, progress: Progress) -> None:
    """Tell; a disk that is full keeps nothing from being collected."""
    path = run_dir / PROGRESS_FILE
    temporary = path.with_suffix(".tmp")
    with suppress(OSError):
        temporary.write_text(json.dumps(asdict(progress)))
        temporary.replace(path)


def remove_progress(run_dir: Path) -> None:
    """At the end."""
    for path in (run_dir / PROGRESS_FILE, (run_dir / PROGRESS_FILE).with_suffix(".tmp")):
        with suppress(OSError):
            path.unlink()


def read_progress(run_dir: Path) -> Progress | None:
    """What was told last; None when there is nothing."""
    try:
        found = json.loads((run_dir / PROGRESS_FILE).read_bytes())
        return Progress(
            int(found["come_bytes"]), int(found["total_bytes"]), float(found["seconds"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None

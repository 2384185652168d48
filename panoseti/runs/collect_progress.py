"""How far a collection is: a small file in the run directory, for whoever looks (status.py).

Rewritten every second or two, removed in the end; worth nothing once the process is gone.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from panoseti.runs.disk_room import duration_text, size_text

PROGRESS_FILE = ".collecting.json"


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

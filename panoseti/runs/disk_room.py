"""How long there is room to record, volume by volume.  Pure.

A volume takes the data of the modules whose directories lie on it; the head node's takes the
housekeeping and what is collected from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from panoseti.errors import RefusedError

HOUR_S = 3600.0


@dataclass(frozen=True)
class Volume:
    """where: for people ("10.0.0.5:/data, module 1"); rate_bytes_s: what a run writes to it."""

    where: str
    free_bytes: int
    rate_bytes_s: float

    @property
    def time_left_s(self) -> float:
        """How long it lasts."""
        return self.free_bytes / self.rate_bytes_s if self.rate_bytes_s > 0 else float("inf")

    def __str__(self) -> str:
        return (
            f"{self.where}: {duration_text(self.time_left_s)} of recording left"
            f" ({size_text(self.free_bytes)} free, {size_text(self.rate_bytes_s)}/s)"
        )


def why_too_small(volumes: Iterable[Volume], refuse_below_s: float, planned_s: float | None) -> str:
    """Why a run would not fit on them, "" = it does.

    planned_s: its length where that is known, which must fit.
    """
    needed_s = max(refuse_below_s, planned_s or 0.0)
    small = [volume for volume in volumes if volume.time_left_s < needed_s]
    if not small:
        return ""
    why = "the run needs" if planned_s and planned_s >= refuse_below_s else "the minimum is"
    return (
        f"{'; '.join(map(str, small))}; {why} {duration_text(needed_s)}:"
        " remove old runs, or use another disk"
    )


def refuse_or_warn(
    volumes: Sequence[Volume], refuse_below_s: float, warn_below_s: float, planned_s: float | None
) -> list[str]:
    """Warnings of volumes that will not last long; RefusedError for one that is too small."""
    if why := why_too_small(volumes, refuse_below_s, planned_s):
        raise RefusedError(why)
    return [str(volume) for volume in volumes if volume.time_left_s < warn_below_s]


def duration_text(seconds: float) -> str:
    """Seconds as people say them: "45 s", "12 min", "3.5 h"."""
    if seconds == float("inf"):
        return "any time"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * HOUR_S else f"{seconds / HOUR_S:.1f} h"


def size_text(size_bytes: float) -> str:
    """Bytes as people say them, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size_bytes < 1000 or unit == "TB":
            return f"{size_bytes:.{4 if unit == 'TB' else 3}g} {unit}"
        size_bytes /= 1000
    raise AssertionError  # the last unit always returns

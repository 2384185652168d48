"""PH baselines of many boards: their summary, and quabo_ph_baseline.json."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from panoseti.bringup.ledger import Ledger, Step
from panoseti.configs.board_files import PH_BASELINE, ph_baseline_text, read_ph_baseline
from panoseti.configs.site import PhBaseline
from panoseti.errors import ObsError
from panoseti.state_files import write_state

KEPT = Path("calibration") / "ph_baselines"
"""Where earlier sets are kept, below the head node's data directory."""


@dataclass(frozen=True)
class Summary:
    """A board's 256 values in ADC counts; stddev is that of the values (not of their mean)."""

    mean: float
    median: float
    stddev: float
    min: int
    max: int


def summary(values: Iterable[int]) -> Summary:
    """What an operator looks at first."""
    counts = list(values)
    return Summary(
        mean=statistics.fmean(counts),
        median=statistics.median(counts),
        stddev=statistics.pstdev(counts),
        min=min(counts),
        max=max(counts),
    )


def merged(
    earlier: PhBaseline | None,
    new: Mapping[str, tuple[int, ...]],
    present: Mapping[str, str],
    ledger: Ledger,
    now_unix: float,
) -> PhBaseline:
    """The baselines of all boards that are present, after some of them were measured now.

    present: UID by address.  The date is that of the oldest board's, since whoever reads the file
    asks whether it is still good.
    """
    coefs: dict[str, tuple[int, ...]] = {}
    dates = [now_unix]
    for ip, uid in present.items():
        if uid in new:
            coefs[uid] = new[uid]
        elif earlier is not None and uid in earlier.coefs:
            coefs[uid] = earlier.coefs[uid]
            done_unix = ledger.done_unix(ip, Step.PH_BASELINE)
            dates.append(earlier.date_unix if done_unix is None else done_unix)
    return PhBaseline(min(dates), coefs)


def earlier_baselines(data_dir: Path) -> PhBaseline | None:
    """The file as it is; None when there is none.  ConfigError when it is broken."""
    path = data_dir / PH_BASELINE
    return read_ph_baseline(path) if path.exists() else None


def write_baselines(data_dir: Path, baseline: PhBaseline) -> None:
    """Replace the file; the one before is kept under `KEPT`, named after when it was written."""
    path = data_dir / PH_BASELINE
    try:
        if path.exists():
            changed = path.stat().st_mtime
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(changed))
            written = f"{stamp}.{int(changed % 1 * 1000):03d}Z"
            kept = data_dir / KEPT / f"{path.stem}_{written}.json"
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_state(kept, path.read_bytes())
        write_state(path, ph_baseline_text(baseline.date_unix, baseline.coefs).encode())
    except OSError as error:
        raise ObsError(f"{path}: cannot be written: {error.strerror}") from error

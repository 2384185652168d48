"""The data files of a run looked through from one end to the other, within a bounded time.

Every file must be a whole number of frames.  As long as time allows, every frame is looked at
(form, order, boards of one moment, clocks); of more, some from all over each file, always the first
and the last.  Files of one product must follow each other in time, and no frame may lie outside
the run.  Files are looked at where they lie, not read into memory.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from panoseti.runs import pff
from panoseti.runs.names import DataFile, parse_data_file

BUDGET_S = 60.0
# Measured: one processor looks at some 70 000 a second; of slow disks it is learnt on the way.
FRAMES_PER_S = 20_000
# The clock is looked at between pieces of so many frames.
PIECE_FRAMES = 2000
BLOCK_FRAMES = 16
# Clocks of boards and computers agree within a second; a run begins and ends within seconds.
TIME_SLACK_S = 5.0
NS_PER_S = 1_000_000_000


@dataclass
class ProductCheck:
    """What was found in the files of one product of one module.

    frames, size_bytes, files: all; looked_at: frames that were looked at; partial: those of them
    with a board missing; first_unix_ns, last_unix_ns: None = no good frame.
    """

    module: int
    product: str
    files: int = 0
    frames: int = 0
    size_bytes: int = 0
    looked_at: int = 0
    partial: int = 0
    first_unix_ns: int | None = None
    last_unix_ns: int | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def checked_all(self) -> bool:
        """Whether every frame was looked at."""
        return self.looked_at == self.frames


def data_files(directory: Path) -> list[tuple[Path, DataFile]]:
    """The data files of a run directory that are not empty, by module, product and number."""
    found = []
    for path in directory.iterdir():
        file = parse_data_file(path.name)
        if file is not None and path.is_file() and path.stat().st_size:
            found.append((path, file))
    return sorted(found, key=lambda pair: (pair[1].module, pair[1].product, pair[1].seqno))


class _Pace:
    """What share of the frames that are left can be looked at in the time that is left."""

    def __init__(self, frames: int, budget_s: float) -> None:
        self._left = frames
        self._budget_s = budget_s
        self._begin_s = time.monotonic()
        self._looked_at = 0

    @property
    def over(self) -> bool:
        """Whether the time has been used up."""
        return time.monotonic() - self._begin_s >= self._budget_s

    def share(self) -> float:
        """Of the files that were not passed yet."""
        used_s = time.monotonic() - self._begin_s
        rate = self._looked_at / used_s if self._looked_at > FRAMES_PER_S else FRAMES_PER_S
        possible = max(0.0, self._budget_s - used_s) * rate
        return min(1.0, possible / self._left) if self._left else 1.0

    def passed(self, frames: int, looked_at: int) -> None:
        """A file is done."""
        self._left -= frames
        self._looked_at += looked_at


def check_files(
    directory: Path,
    begin_unix: float | None,
    end_unix: float | None,
    budget_s: float = BUDGET_S,
) -> list[ProductCheck]:
    """Look through all data files of a run, by module and product.

    begin_unix, end_unix: of the run, None where that is not known; budget_s: how long it may take,
    about.
    """
    groups: dict[tuple[int, str], list[Path]] = {}
    total = 0
    for path, file in data_files(directory):
        groups.setdefault((file.module, file.product), []).append(path)
        total += path.stat().st_size // pff.PRODUCTS[file.product].frame_bytes
    pace = _Pace(total, budget_s)
    limits = _ns(begin_unix, -TIME_SLACK_S), _ns(end_unix, TIME_SLACK_S)
    return [
        _check_product(module, product, paths, pace, limits)
        for (module, product), paths in sorted(groups.items())
    ]


def _ns(unix: float | None, slack_s: float) -> int | None:
    return None if unix is None else int((unix + slack_s) * NS_PER_S)


def _check_product(
    module: int,
    product: str,
    paths: Sequence[Path],
    pace: _Pace,
    limits: tuple[int | None, int | None],
) -> ProductCheck:
    found = ProductCheck(module, product, files=len(paths))
    for path in paths:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _check_file(found, path.name, data, pace)
    earliest, latest = limits
    first, last = found.first_unix_ns, found.last_unix_ns
    what = f"module {module}: {product} frames"
    if first is not None and earliest is not None and first < earliest:
        early_s = (earliest - first) / NS_PER_S + TIME_SLACK_S
        found.problems.append(f"{what} of {early_s:.0f} s before the run began")
    if last is not None and latest is not None and last > latest:
        late_s = (last - latest) / NS_PER_S + TIME_SLACK_S
        found.problems.append(f"{what} of {late_s:.0f} s after the run ended")
    return found


def _check_file(found: ProductCheck, name: str, data: mmap.mmap, pace: _Pace) -> None:
    frames, torn = divmod(len(data), pff.PRODUCTS[found.product].frame_bytes)
    found.size_bytes += len(data)
    found.frames += frames
    if torn:
        found.problems.append(f"{name}: {torn} bytes after the last whole frame")
    check = pff.check_frames(found.product, data, 0, 0)
    for begin, end in _blocks(frames, pace.share()):
        last = end == frames
        if not pace.over or begin == 0 or last:
            check = check.then(pff.check_frames(found.product, data, begin, end))
    pace.passed(frames, check.frames)
    found.looked_at += check.frames
    found.partial += check.partial_frames
    found.problems += [f"{name}: {problem}" for problem in check.problems]
    if check.first_unix_ns is None:
        return
    if found.last_unix_ns is not None and check.first_unix_ns < found.last_unix_ns:
        found.problems.append(f"{name}: begins earlier than the file before it ends")
    if found.first_unix_ns is None:
        found.first_unix_ns = check.first_unix_ns
    found.last_unix_ns = check.last_unix_ns


def _blocks(frames: int, share: float) -> Iterator[tuple[int, int]]:
    """Which frames of a file are looked at: from, to; always the first and the last."""
    wanted = max(2, int(frames * share))
    if wanted >= frames:
        for begin in range(0, frames, PIECE_FRAMES):
            yield begin, min(begin + PIECE_FRAMES, frames)
        return
    blocks = max(2, wanted // BLOCK_FRAMES)
    size = max(1, wanted // blocks)
    for number in range(blocks):
        begin = (frames - size) * number // (blocks - 1)
        yield begin, begin + size

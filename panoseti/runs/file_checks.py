"""The data files of a run looked through from one end to the other, within a bounded time.

Every file must be a whole number of frames.  As long as time allows, every frame is looked at
(form, order, boards of one moment, clocks); of more, some from all over each file, always the first
and the last.  Files of one product must follow each other in time, and no frame may lie outside
the run.  Files are looked at where they lie, not read into memory.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from panoseti.runs import pff
from panoseti.runs.frame_crew import Crew, Piece, crew, processors
from panoseti.runs.names import DataFile, parse_data_file

BUDGET_S = 60.0
# Measured: a processor looks at some 70 000 a second; of slow disks it is learnt on the way.
FRAMES_PER_S = 20_000
# The clock is looked at between pieces of so many frames.
PIECE_FRAMES = 2000
# Of fewer frames one processor has seen all before others had begun.
CREW_FRAMES = 200_000
CREW_BEGINS_S = 1.0
# What a process is given to look at, and how much of it lies ready for each.
CREW_PIECE_FRAMES = 20_000
AHEAD = 2
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

    def __init__(self, frames: int, budget_s: float, processors: int) -> None:
        self._frames = self._left = frames
        self._budget_s = budget_s
        self._processors = processors
        self._begin_s = time.monotonic()
        self._looked_at = 0

    @property
    def until_s(self) -> float:
        """When the time has been used up, on the monotonic clock."""
        return self._begin_s + self._budget_s

    @property
    def fraction(self) -> float:
        """How much was passed."""
        return 1.0 - self._left / self._frames if self._frames else 1.0

    def share(self) -> float:
        """Of the files that were not begun yet."""
        used_s = time.monotonic() - self._begin_s
        known = self._looked_at > FRAMES_PER_S * self._processors
        rate = self._looked_at / used_s if known else FRAMES_PER_S * self._processors
        possible = max(0.0, self._budget_s - used_s) * rate
        return min(1.0, possible / self._left) if self._left else 1.0

    def passed(self, frames: int, looked_at: int) -> None:
        """So many frames are done, and so many of them were looked at."""
        self._left -= frames
        self._looked_at += looked_at


@dataclass
class _File:
    """One file: its frames, and bytes after the last whole one; check: of what was looked at."""

    path: Path
    size_bytes: int
    frames: int
    torn: int
    check: pff.FileCheck


def check_files(
    directory: Path,
    begin_unix: float | None,
    end_unix: float | None,
    budget_s: float = BUDGET_S,
    progress: Callable[[float], object] | None = None,
) -> list[ProductCheck]:
    """Look through all data files of a run, by module and product.

    begin_unix, end_unix: of the run, None where that is not known; budget_s: how long it may take,
    about; progress: is told now and then what fraction was passed.
    """
    groups: dict[tuple[int, str], list[_File]] = {}
    for path, file in data_files(directory):
        size = path.stat().st_size
        frames, torn = divmod(size, pff.PRODUCTS[file.product].frame_bytes)
        none = pff.check_frames(file.product, b"", 0, 0)
        one = _File(path.absolute(), size, frames, torn, none)
        groups.setdefault((file.module, file.product), []).append(one)
    total = sum(file.frames for files in groups.values() for file in files)
    many = total > CREW_FRAMES and budget_s > CREW_BEGINS_S
    with crew(processors() if many else 1) as looking:
        pace = _Pace(total, budget_s, looking.size)
        _look(looking, [file for _, files in sorted(groups.items()) for file in files], pace,
              progress or (lambda fraction: None))  # fmt: skip
    limits = _ns(begin_unix, -TIME_SLACK_S), _ns(end_unix, TIME_SLACK_S)
    return [
        _judged(module, product, files, limits)
        for (module, product), files in sorted(groups.items())
    ]


def _ns(unix: float | None, slack_s: float) -> int | None:
    return None if unix is None else int((unix + slack_s) * NS_PER_S)


def _look(
    looking: Crew, files: Sequence[_File], pace: _Pace, progress: Callable[[float], object]
) -> None:
    """Look at the frames of all files, piece by piece, some pieces at a time."""
    begun: deque[tuple[_File, int, Future[pff.FileCheck]]] = deque()

    def take_first() -> None:
        file, frames, future = begun.popleft()
        found = future.result()
        file.check = file.check.then(found)
        pace.passed(frames, found.frames)
        progress(pace.fraction)

    for file in files:
        product = file.check.product
        share, passed = pace.share(), 0
        for blocks in _pieces(file.frames, share):
            piece = Piece(str(file.path), product, file.frames, blocks, pace.until_s)
            end = blocks[-1][1]
            begun.append((file, end - passed, looking.look(piece)))
            passed = end
            while len(begun) > AHEAD * looking.size:
                take_first()
    while begun:
        take_first()


def _judged(
    module: int,
    product: str,
    files: Sequence[_File],
    limits: tuple[int | None, int | None],
) -> ProductCheck:
    found = ProductCheck(module, product, files=len(files))
    for file in files:
        _add(found, file)
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


def _add(found: ProductCheck, file: _File) -> None:
    name, check = file.path.name, file.check
    found.size_bytes += file.size_bytes
    found.frames += file.frames
    if file.torn:
        found.problems.append(f"{name}: {file.torn} bytes after the last whole frame")
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


def _pieces(frames: int, share: float) -> Iterator[list[tuple[int, int]]]:
    """The blocks of a file that are looked at, some at a time."""
    piece: list[tuple[int, int]] = []
    size = 0
    for begin, end in _blocks(frames, share):
        piece.append((begin, end))
        size += end - begin
        if size >= CREW_PIECE_FRAMES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


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

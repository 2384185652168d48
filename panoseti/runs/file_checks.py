"""The data files of a run looked through from one end to the other, with bounded effort.

Every file must be a whole number of frames.  As long as there are not too many, every frame is
looked at (form, order, boards of one moment, clocks); of more, some from all over each file.  Files
of one product must follow each other in time, and no frame may lie outside the run.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from panoseti.runs import pff
from panoseti.runs.names import DataFile, parse_data_file

# Looking at one frame takes about a tenth of a millisecond.
FRAMES_CHECKED = 10_000
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


def check_files(
    directory: Path,
    begin_unix: float | None,
    end_unix: float | None,
    frames_checked: int = FRAMES_CHECKED,
) -> list[ProductCheck]:
    """Look through all data files of a run, by module and product.

    begin_unix, end_unix: of the run, None where that is not known; frames_checked: about how many
    frames are looked at in all.
    """
    groups: dict[tuple[int, str], list[Path]] = {}
    total = 0
    for path, file in data_files(directory):
        groups.setdefault((file.module, file.product), []).append(path)
        total += path.stat().st_size // pff.PRODUCTS[file.product].frame_bytes
    share = min(1.0, frames_checked / total) if total else 1.0
    limits = _ns(begin_unix, -TIME_SLACK_S), _ns(end_unix, TIME_SLACK_S)
    return [
        _check_product(module, product, paths, share, limits)
        for (module, product), paths in sorted(groups.items())
    ]


def _ns(unix: float | None, slack_s: float) -> int | None:
    return None if unix is None else int((unix + slack_s) * NS_PER_S)


def _check_product(
    module: int,
    product: str,
    paths: Sequence[Path],
    share: float,
    limits: tuple[int | None, int | None],
) -> ProductCheck:
    found = ProductCheck(module, product, files=len(paths))
    for path in paths:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _check_file(found, path.name, data, share)
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


def _check_file(found: ProductCheck, name: str, data: mmap.mmap, share: float) -> None:
    frame_bytes = pff.PRODUCTS[found.product].frame_bytes
    frames, torn = divmod(len(data), frame_bytes)
    found.size_bytes += len(data)
    found.frames += frames
    if torn:
        found.problems.append(f"{name}: {torn} bytes after the last whole frame")
    for begin, end in _blocks(frames, share):
        block = data[begin * frame_bytes : end * frame_bytes]
        check = pff.check_file(found.product, block)
        found.looked_at += check.frames
        found.partial += check.partial_frames
        at = f" (from frame {begin} on)" if begin else ""
        found.problems += [f"{name}: {problem}{at}" for problem in check.problems]
        if check.first_unix_ns is None or check.last_unix_ns is None:
            continue
        if found.last_unix_ns is not None and check.first_unix_ns < found.last_unix_ns:
            found.problems.append(f"{name}: frame {begin} is earlier than what comes before it")
        if found.first_unix_ns is None:
            found.first_unix_ns = check.first_unix_ns
        found.last_unix_ns = check.last_unix_ns


def _blocks(frames: int, share: float) -> Iterator[tuple[int, int]]:
    """Which frames of a file are looked at: from, to; always the first and the last."""
    wanted = max(2, round(frames * share))
    if wanted >= frames:
        if frames:
            yield 0, frames
        return
    blocks = max(2, wanted // BLOCK_FRAMES)
    size = max(1, wanted // blocks)
    for number in range(blocks):
        begin = (frames - size) * number // (blocks - 1)
        yield begin, begin + size

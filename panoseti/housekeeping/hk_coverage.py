"""How much of a run the housekeeping of each board covers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from panoseti.runs.names import HK_FILE

# More than this is not read: the beginning and the end of the file must do.
READ_BYTES = 1_000_000_000
_LINE = re.compile(rb'\{"([^"]+)": \{"Computer_UTC": "([0-9.]+)"')


@dataclass(frozen=True)
class Coverage:
    """Housekeeping of one board: records; longest time without any, s; fraction of the run that
    is covered (a record covers the time until it is too old).
    """

    records: int
    longest_gap_s: float
    covered: float


def coverage(
    run_dir: Path,
    keys: Mapping[str, str],
    begin_unix: float | None,
    end_unix: float | None,
    max_age_s: float,
    read_bytes: int = READ_BYTES,
) -> tuple[dict[str, Coverage], bool]:
    """The coverage of each of `keys` (key in the file -> name), and whether all was read.

    begin_unix, end_unix: of the run; None = not known: then only gaps between records count.
    """
    gaps = {key.encode(): _Gaps(begin_unix, max_age_s) for key in keys}
    path = run_dir / HK_FILE
    whole = True
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            whole = size <= read_bytes
            for line in _lines(file, size, read_bytes):
                match = _LINE.match(line)
                if match and match[1] in gaps:
                    gaps[match[1]].add(float(match[2]))
    except FileNotFoundError:
        pass
    return {name: gaps[key.encode()].result(end_unix) for key, name in keys.items()}, whole


def _lines(file: BinaryIO, size: int, read_bytes: int) -> Iterator[bytes]:
    if size <= read_bytes:
        yield from file
        return
    while file.tell() < read_bytes // 2:
        yield file.readline()
    file.seek(size - read_bytes // 2)
    file.readline()
    yield from file


class _Gaps:
    """The times without housekeeping of one board."""

    def __init__(self, begin_unix: float | None, max_age_s: float) -> None:
        self._begin_unix = begin_unix
        self._max_age_s = max_age_s
        self._last: float | None = begin_unix
        self._first: float | None = begin_unix
        self._records = 0
        self._longest_s = self._uncovered_s = 0.0

    def add(self, unix: float) -> None:
        self._records += 1
        if self._last is None:
            self._first = self._last = unix
        elif unix > self._last:
            self._gap(unix)

    def _gap(self, unix: float) -> None:
        if self._last is None:
            return
        gap_s = unix - self._last
        self._longest_s = max(self._longest_s, gap_s)
        self._uncovered_s += max(0.0, gap_s - self._max_age_s)
        self._last = unix

    def result(self, end_unix: float | None) -> Coverage:
        if end_unix is not None and self._last is not None and end_unix > self._last:
            self._gap(end_unix)
        if self._last is None or self._first is None:
            return Coverage(0, 0.0, 0.0)
        span_s = self._last - self._first
        covered = 1 - self._uncovered_s / span_s if span_s > 0 else float(self._records > 0)
        return Coverage(self._records, round(self._longest_s, 1), round(max(0.0, covered), 4))

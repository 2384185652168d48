"""Frames of data files looked at by several processes, one for each processor.

A process (this module, run as a program) is told pieces of files, one JSON document a line, and
answers each with what it found.  It works at idle priority, for the next run may be recording here;
it ends when nobody talks to it any more, however that came about.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import queue
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from panoseti.runs import pff

ROOT = Path(__file__).resolve().parents[2]
MODULE = "panoseti.runs.frame_crew"


@dataclass(frozen=True)
class Piece:
    """Some frames of a file: blocks, from and to before which number each.

    until_s: on the monotonic clock (which all processes share); after that only the first and last
    frames of the file, which has so many, are looked at.
    """

    path: str
    product: str
    frames: int
    blocks: Sequence[Sequence[int]]
    until_s: float = math.inf

    def look(self) -> pff.FileCheck:
        """Look at the frames."""
        with (
            open(self.path, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            found = pff.check_frames(self.product, data, 0, 0)
            for begin, end in self.blocks:
                if begin == 0 or end == self.frames or time.monotonic() < self.until_s:
                    found = found.then(pff.check_frames(self.product, data, begin, end))
        return found


class Crew:
    """The processes; without any, frames are looked at in this one."""

    def __init__(self) -> None:
        self._all: list[subprocess.Popen[bytes]] = []
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None
        self._ended = False

    @property
    def size(self) -> int:
        """How many pieces are looked at at a time."""
        return max(1, len(self._all))

    def begin(self, processes: int) -> None:
        """Start so many processes, or as many as there may be."""
        with suppress(OSError):  # no memory, or too many processes: fewer will do
            for _ in range(processes):
                child = subprocess.Popen(
                    [sys.executable, "-m", MODULE], cwd=ROOT, stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                    process_group=0,  # an interrupt at the terminal is ours to pass on
                )  # fmt: skip
                self._all.append(child)
                self._idle.put(child)
        if self._all:
            self._threads = ThreadPoolExecutor(self.size, "frames")

    def look(self, piece: Piece) -> Future[pff.FileCheck]:
        """Have a piece looked at."""
        if self._threads is not None:
            with suppress(RuntimeError):  # no more threads may begin
                return self._threads.submit(self._ask, piece)
        done: Future[pff.FileCheck] = Future()
        done.set_result(piece.look())
        return done

    def _ask(self, piece: Piece) -> pff.FileCheck:
        child = self._idle.get()
        try:
            if child.stdin is None or child.stdout is None:
                raise OSError("no pipes")
            child.stdin.write(json.dumps(asdict(piece)).encode() + b"\n")
            child.stdin.flush()
            return pff.FileCheck(**json.loads(child.stdout.readline()))
        except (OSError, ValueError):  # it has died, of the file or for want of memory
            if self._ended:
                raise
            return piece.look()
        finally:
            self._idle.put(child)

    def end(self) -> None:
        """End all processes, whatever they do."""
        self._ended = True
        for child in self._all:
            child.kill()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        for child in self._all:
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with suppress(OSError):  # what was not sent is not needed any more
                        pipe.close()


@contextmanager
def crew(processes: int) -> Iterator[Crew]:
    """So many processes (1: this one), gone at the end."""
    found = Crew()
    try:
        if processes > 1:
            found.begin(processes)
        yield found
    finally:
        found.end()


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def main() -> None:
    """Look at the pieces that are named on stdin."""
    os.nice(19)
    with suppress(OSError, AttributeError):  # nice will do
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    for line in sys.stdin.buffer:
        found = Piece(**json.loads(line)).look()
        print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    main()

"""Acts that must come to their end whatever signal comes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def uninterrupted(told: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP are held off; `told` is called for each, to ask for patience."""

    def patience(number: int, frame: object) -> None:
        told()

    try:
        before = {number: signal.signal(number, patience) for number in NUMBERS}
    except ValueError:  # not the main thread: signals do not come here
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Asking the same thing again and again in a thread of its own, so that nobody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from panoseti.errors import ObsError

T = TypeVar("T")
# A question that took long is not followed by the next at once.
MIN_PAUSE_S = 0.2


@dataclass(frozen=True)
class Polled(Generic[T]):
    """value: of the last answer, None = none yet; answered_s: when it came (or the asking began),
    monotonic; problem: why the last question was not answered, "" = it was.
    """

    value: T | None
    answered_s: float
    problem: str


class Poller(Generic[T]):
    """Asks every `interval_s` until it is closed; `ask` raises ObsError when there is no answer.

    Its thread does not keep a program from ending.
    """

    def __init__(self, name: str, ask: Callable[[], T], interval_s: float) -> None:
        self._ask = ask
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._last: Polled[T] = Polled(None, time.monotonic(), "")
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def last(self) -> Polled[T]:
        """What came last."""
        with self._lock:
            return self._last

    def close(self) -> None:
        """No more questions; one under way is not waited for."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            begin_s = time.monotonic()
            try:
                new = Polled(self._ask(), time.monotonic(), "")
            except ObsError as error:
                new = Polled(self._last.value, self._last.answered_s, str(error))
            with self._lock:
                self._last = new
            rest_s = begin_s + self._interval_s - time.monotonic()
            self._closed.wait(max(MIN_PAUSE_S, rest_s))

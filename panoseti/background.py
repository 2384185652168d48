"""Work that may hang, kept away from work that must not: one thread for each piece, looked after.

work = Background()
work.begin("outlet 3", lambda: switch.switch(3, on=False))
work.result("outlet 3")     # None while it is at work, then Done, once
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from panoseti.errors import ObsError


@dataclass(frozen=True)
class Done:
    """How it went; problem: "" = well."""

    problem: str = ""


class Background:
    """Pieces of work by name; a name is at work once at a time.

    The threads do not keep a program from ending.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: dict[str, Done] = {}
        self._busy: set[str] = set()

    def begin(self, name: str, work: Callable[[], None]) -> bool:
        """Begin it unless it is at work; whether it was begun.  An older result is forgotten."""
        with self._lock:
            if name in self._busy:
                return False
            self._busy.add(name)
            self._done.pop(name, None)
        threading.Thread(target=self._run, args=(name, work), name=name, daemon=True).start()
        return True

    def busy(self, name: str) -> bool:
        """Whether it is at work."""
        with self._lock:
            return name in self._busy

    def result(self, name: str) -> Done | None:
        """How it went, told once; None while it is at work or was never begun."""
        with self._lock:
            return self._done.pop(name, None)

    def _run(self, name: str, work: Callable[[], None]) -> None:
        done = Done("it ended by a bug")
        try:
            work()
            done = Done()
        except ObsError as error:
            done = Done(str(error))
        finally:
            with self._lock:
                self._busy.discard(name)
                self._done[name] = done

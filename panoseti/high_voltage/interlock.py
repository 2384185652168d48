"""Whether high voltage may be up at all: a living guard, and a trip that was seen to arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from panoseti.high_voltage.hv_trips import Trip
from panoseti.high_voltage.rehearsal import Rehearsal
from panoseti.high_voltage.supervision import Life

OPEN_ALARM = "interlock"


class Interlock:
    """The HV updater asks it at every look.

    guard: how the temperature guard is; hold: the alarm that stands while HV is kept down
    (kind, subject, text).
    """

    def __init__(
        self,
        guard: Callable[[float], Life],
        rehearsal: Rehearsal,
        hold: Callable[[str, str, str], None],
    ) -> None:
        self._guard = guard
        self._rehearsal = rehearsal
        self._hold = hold

    def why_off(self, trips: Iterable[Trip], now_unix: float, now_s: float) -> str:
        """Why no board may have HV; "" = they may."""
        life = self._guard(now_s)
        if not life.alive:
            self._rehearsal.abandon()
            # That a guard has only just been found is no alarm yet.
            self._hold(OPEN_ALARM, "", "" if life.alive is None else f"HV is off: {life.why}")
            return life.why
        reason, failed = self._rehearsal.step(life.pid, trips, now_unix, now_s)
        self._hold(OPEN_ALARM, "", f"HV is off: {reason}" if failed else "")
        return reason

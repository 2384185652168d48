"""Off until HVMON says so: when to tell a board again, and whether it has obeyed.  Pure.

An echo says that the board has heard; only its housekeeping says that the voltage has gone.  A
board is off when PACKETS packets that came after the order show all four detectors below
OFF_BELOW_V, and it is told again and again until then.
"""

from __future__ import annotations

from panoseti.housekeeping.hk_trust import HvSeen

OFF_BELOW_V = 1.0
PACKETS = 2
# Without an answer again soon; with one, when the next packet has had time to come.
RETRY_S, REPEAT_S = 1.0, 3.0
SLACK_S = 0.05
# A board that shows a voltage so long after "off", or nothing at all, costs its module the power.
STUCK_S, PATIENCE_S = 15.0, 300.0


def shows_off(seen: HvSeen) -> bool:
    """Whether no detector has a voltage."""
    return max(seen.volts) < OFF_BELOW_V


class OffWatch:
    """One board that must be off.  Times `now_s` are of a monotonic clock.

    confirmed: HVMON has said so; obeyed: at least one packet since the order has; problem: why
    the last order was not confirmed by the board.
    """

    def __init__(self) -> None:
        self.confirmed = False
        self.obeyed = False
        self.problem: str | None = "not told yet"
        self._since_s: float | None = None
        self._told_s: float | None = None
        self._told_unix = 0.0
        self._seen: HvSeen | None = None
        self._low = 0

    def see(self, seen: HvSeen | None) -> None:
        """Take in what the latest housekeeping shows (None: there is none).

        What was confirmed stays so without housekeeping: a board does not switch on by itself.
        """
        news = seen is not None and (self._seen is None or seen.utc_s != self._seen.utc_s)
        self._seen = seen
        if seen is None or not news or self._told_s is None:
            return
        if not shows_off(seen):
            if self.confirmed:
                self._since_s = None  # it has come back: a new story
            self.confirmed, self._low = False, 0
        elif seen.utc_s > self._told_unix:
            self._low += 1
            self.obeyed = True
            self.confirmed = self._low >= PACKETS

    def due(self, now_s: float) -> bool:
        """Whether the board is to be told (again) now."""
        if self.confirmed:
            return False
        pause_s = REPEAT_S if self.problem is None else RETRY_S
        return self._told_s is None or now_s - self._told_s >= pause_s - SLACK_S

    def told(self, problem: str | None, now_s: float, now_unix: float) -> None:
        """The board was told; `problem`: None when it has echoed that."""
        first = self._told_s is None
        self._told_s, self.problem = now_s, problem
        if first or now_unix < self._told_unix:  # the clock was set back
            self._told_unix = now_unix
        if self._since_s is None:
            self._since_s = now_s

    def waiting_s(self, now_s: float) -> float:
        """For how long the order has remained unproven."""
        return 0.0 if self.confirmed or self._since_s is None else now_s - self._since_s

    def shown_v(self) -> float | None:
        """The highest voltage the latest housekeeping shows; None without any."""
        return None if self._seen is None else max(self._seen.volts)

    def overdue(self, now_s: float, stuck_s: float, patience_s: float) -> str | None:
        """Why the power must be cut: HVMON shows voltage for stuck_s, or nothing for patience_s."""
        waiting_s, shown_v = self.waiting_s(now_s), self.shown_v()
        if shown_v is not None and shown_v >= OFF_BELOW_V and waiting_s >= stuck_s:
            return f"HVMON shows {shown_v:.1f} V {waiting_s:.0f} s after HV off"
        if shown_v is None and waiting_s >= patience_s:
            heard = "echoed" if self.problem is None else f"not confirmed ({self.problem})"
            return f"HV off {heard}, but no HVMON has shown it for {waiting_s:.0f} s"
        return None

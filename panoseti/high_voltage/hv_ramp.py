"""High voltage of one board: up in steps that HVMON has to follow, down at once.  Pure.

The way up begins with "off", proven by HVMON, whatever the board was doing.  Each step is a part
of the set point; the next one follows when a packet that came after it shows the voltage that was
asked for, by at least one detector: a dead one does not keep the others dark.  A board whose four
voltages vanish (it rebooted) begins anew; the second time on its way up, and where none of them
follows, after a pause.  One whose set point jumps goes up to the new one from the beginning, too.
A voltage above what was asked for is a broken board: off for good.

`BoardHv.plan` says what to send now, `told` how that went.  Times `now_s` are of a monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from panoseti.configs.settings import set_point_v
from panoseti.high_voltage.hv_off import OFF_BELOW_V, RETRY_S, SLACK_S, OffWatch, shows_off
from panoseti.housekeeping.hk_trust import ENOUGH, HvSeen

Codes = tuple[int, int, int, int]
HV_OFF: Codes = (0, 0, 0, 0)
RAMP = (0.25, 0.5, 0.75, 1.0)
# HVMON of boards in the field is up to 1.5 V above the set point.
TOLERANCE_V = 5.0
# A set point that follows the temperature never moves as far at once: 10 K, the most that passes as
# steady, are 0.54 V.
JUMP_V = 1.0
# So much above what is asked for is none of that: somebody else has set it.
ASTRAY_V = 2.0
# Packets that may show too little before a step is taken for what it is.
PATIENT_PACKETS = 3
PAUSE_S = 60.0


class Stage(StrEnum):
    """HV of a board: what it was told, and what HVMON has shown of it."""

    UNKNOWN = "unknown"
    FALLING = "falling"
    OFF = "off"
    RISING = "rising"
    ON = "on"


@dataclass(frozen=True)
class Off:
    """The board must have no HV; latch: until an operator has acknowledged."""

    reason: str
    latch: bool = False


@dataclass(frozen=True)
class Hold:
    """What is on stays as it is; nothing goes up."""

    reason: str


@dataclass(frozen=True)
class Target:
    """The board may have these codes."""

    codes: Codes


Want = Off | Hold | Target


class Shown(StrEnum):
    """HVMON compared with the codes."""

    GOOD = "good"
    LOW = "low"  # some are too low
    WEAK = "weak"  # all are
    GONE = "gone"
    HIGH = "high"


def compare(volts: Sequence[float], codes: Codes) -> Shown:
    """How the four voltages fit the codes that are set."""
    wanted = [set_point_v(code) for code in codes]
    if any(volt > want + TOLERANCE_V for volt, want in zip(volts, wanted, strict=True)):
        return Shown.HIGH
    if max(volts) < OFF_BELOW_V < max(wanted):
        return Shown.GONE
    pairs = [(volt, want) for volt, want in zip(volts, wanted, strict=True) if want]
    low = [volt < want - TOLERANCE_V for volt, want in pairs]
    if any(low):
        return Shown.WEAK if all(low) else Shown.LOW
    return Shown.GOOD


def step_codes(codes: Codes, step: int) -> Codes:
    """The codes of a step on the way to the set point; the last one is the set point."""
    first, second, third, fourth = (int(code * RAMP[step]) for code in codes)
    return first, second, third, fourth


def difference(volts: Sequence[float], codes: Codes) -> str:
    """The voltages beside those asked for, for people."""
    shown = " ".join(f"{volt:.1f}" for volt in volts)
    wanted = " ".join(f"{set_point_v(code):.1f}" for code in codes)
    return f"HVMON shows {shown} V instead of {wanted} V"


class BoardHv:
    """The state of one board.

    stage, codes (told last), reason (why it is not on), problem (what went wrong last),
    latched (why it is off for good), hk_unix: arrival of the packet that showed it on last;
    coming: it may have HV, and is on its way to it; paused: it did not rise, and is tried again
    after PAUSE_S; lost_at: its voltages vanished though nobody took them (arrival of the last
    packet that showed any, of the first that showed none), until whoever asks sets it to None;
    nominal_v: bias at 25 degC that the set point was worked out from, which whoever asks sets.
    """

    def __init__(self, follow_s: float = 5.0) -> None:
        self.stage = Stage.UNKNOWN
        self.codes: Codes = HV_OFF
        self.reason = ""
        self.problem = ""
        self.latched = ""
        self.hk_unix = 0.0
        self.coming = False
        self.nominal_v: tuple[float, ...] | None = None
        self._follow_s = follow_s
        self._off = OffWatch()
        self._step = 0
        self._told_s = 0.0
        self._told_unix = 0.0
        self._unconfirmed = ""
        self._judged_utc = 0.0
        self._low = self._weak = self._gone = self._high = 0
        self._astray, self._told_again, self._astray_text = 0, False, ""
        self._there_utc = self._gone_utc = 0.0
        self.lost_at: tuple[float, float] | None = None
        self.paused = False
        self._paused_until_s = 0.0
        self._gone_before = False  # on the way up, since it was on last
        self._cause = ""  # why it fell by itself

    @property
    def off_proven(self) -> bool:
        """Whether HVMON has shown that it is off."""
        return self._off.confirmed

    @property
    def off_unheard(self) -> bool:
        """Whether it must be off and has not even echoed that."""
        return not self._off.confirmed and self._off.problem is not None

    def stuck(self, now_s: float, stuck_s: float) -> str | None:
        """Why the power must be cut: HVMON shows a voltage for stuck_s, whatever it is told."""
        if self.stage in (Stage.RISING, Stage.ON):
            return None
        return self._off.overdue(now_s, stuck_s, math.inf)

    @property
    def supply_fault(self) -> str:
        """What its supply does though it may have HV, "" = nothing wrong: it does not rise, or is
        on and not where it was told to be, twice.
        """
        return self.reason if self.paused else self._astray_text

    def shown_v(self) -> float | None:
        """The highest voltage that housekeeping shows while it must be off; None: not known."""
        return self._off.shown_v()

    def plan(self, want: Want, seen: HvSeen | None, now_s: float, now_unix: float) -> Codes | None:
        """The codes to send now, None = nothing is due.  seen: what HVMON shows, if known."""
        # Where the clock was set back, packets from now on came after the order, whatever it says.
        self._told_unix = min(self._told_unix, now_unix)
        codes = self._plan(want, seen, now_s)
        self.coming = not (isinstance(want, Off) or self.paused or self.stage is Stage.ON)
        return codes

    def _plan(self, want: Want, seen: HvSeen | None, now_s: float) -> Codes | None:
        if isinstance(want, Off):
            self.reason, self._cause = want.reason, ""
            if want.latch:
                self.latched = want.reason
            return self._down(seen, now_s)
        if self.stage in (Stage.UNKNOWN, Stage.FALLING, Stage.OFF):
            codes = self._down(seen, now_s)
            if self.stage is not Stage.OFF:
                cause = f"{self._cause}; " if self._cause else ""
                self.reason = f"{cause}not before HVMON has shown it off"
                return codes
            if isinstance(want, Hold):
                self.reason = want.reason
                return None
            self.paused = now_s < self._paused_until_s
            if self.paused:
                self.reason = self._cause
                return None
            return self._begin(want.codes, seen)
        return self._keep(want, seen, now_s)

    def told(self, codes: Codes, problem: str | None, now_s: float, now_unix: float) -> None:
        """The board was told these codes; problem: None when it has confirmed them."""
        self.codes = codes
        if codes == HV_OFF:
            self._off.told(problem, now_s, now_unix)
            self.problem = problem or ""
            return
        self._told_s, self._told_unix, self._unconfirmed = now_s, now_unix, problem or ""
        self.problem = self._unconfirmed

    # --- down ---

    def _down(self, seen: HvSeen | None, now_s: float) -> Codes | None:
        if self.stage in (Stage.RISING, Stage.ON):
            self.stage, self._off = Stage.FALLING, OffWatch()
            self._is_there()
        self._off.see(seen)
        if self._off.confirmed:
            self.stage = Stage.OFF
            return None
        if self.stage is Stage.OFF:
            self.stage = Stage.FALLING
        return HV_OFF if self._off.due(now_s) else None

    def _fall(self, reason: str, seen: HvSeen | None, now_s: float) -> Codes | None:
        self.reason = self._cause = reason
        return self._down(seen, now_s)

    # --- up ---

    def _begin(self, target: Codes, seen: HvSeen | None) -> Codes:
        self.stage, self._step, self.reason = Stage.RISING, 0, "on its way up"
        self._low = self._weak = self._gone = self._high = 0
        self._there_utc = 0.0
        self._judged_utc = seen.utc_s if seen else 0.0
        return step_codes(target, 0)

    def _keep(self, want: Hold | Target, seen: HvSeen | None, now_s: float) -> Codes | None:
        """One look at a board that has HV."""
        shown = self._news(seen)
        if shown is not None and seen is not None:
            if (fault := self._fault(shown, seen)) is not None:
                if shown is Shown.HIGH:
                    self.latched = fault
                if self._gone >= ENOUGH and not seen.booted and self._there_utc:
                    self.lost_at = (self._there_utc, self._gone_utc)
                if self._gives_up(shown, seen):
                    self.paused, self._paused_until_s = True, now_s + PAUSE_S
                return self._fall(fault, seen, now_s)
            if self.stage is Stage.ON:
                self._look_for_strays(shown, seen)
                if self._reached(shown):
                    self.hk_unix = seen.utc_s
        if isinstance(want, Hold):
            return None
        if (jump_v := self._jump_v(want.codes)) > JUMP_V:
            return self._fall(f"its set point has changed by {jump_v:.1f} V", seen, now_s)
        if self.stage is Stage.RISING and shown is not None and self._reached(shown):
            self._step += 1
            self._low = self._weak = 0
            if self._step < len(RAMP):
                return step_codes(want.codes, self._step)
            self.stage, self.reason, self._cause = Stage.ON, "", ""
            self._gone_before = False
            self.hk_unix = seen.utc_s if seen else 0.0
        wanted = want.codes if self.stage is Stage.ON else step_codes(want.codes, self._step)
        pause_s = RETRY_S if self._unconfirmed else self._follow_s
        astray = self._astray >= PATIENT_PACKETS and not self._told_again
        if wanted == self.codes and not self._unconfirmed and not astray:
            return None
        if now_s - self._told_s < pause_s - SLACK_S:
            return None
        self._told_again = self._told_again or astray
        return wanted

    def _look_for_strays(self, shown: Shown, seen: HvSeen) -> None:
        """Whether a board that is on is where it was told to be; it is told again, once."""
        over = any(
            volt > set_point_v(code) + ASTRAY_V
            for volt, code in zip(seen.volts, self.codes, strict=True)
        )
        if not over and shown not in (Shown.LOW, Shown.WEAK):
            return self._is_there()
        self._astray += 1
        if self._astray >= 2 * PATIENT_PACKETS and self._told_again and not self._astray_text:
            self._astray_text = f"{difference(seen.volts, self.codes)}, also when told again"

    def _is_there(self) -> None:
        self._astray, self._told_again, self._astray_text = 0, False, ""

    def _jump_v(self, target: Codes) -> float:
        """How far the set point has moved from the one that the board was told, V."""
        wanted = target if self.stage is Stage.ON else step_codes(target, self._step)
        pairs = zip(wanted, self.codes, strict=True)
        return max(abs(set_point_v(new) - set_point_v(old)) for new, old in pairs)

    def _news(self, seen: HvSeen | None) -> Shown | None:
        """How a packet that came after the last order, and was not judged yet, fits the order."""
        if seen is None or seen.utc_s == self._judged_utc:
            return None
        if seen.utc_s <= self._told_unix and not seen.booted:
            return None
        self._judged_utc = seen.utc_s
        shown = compare(seen.volts, self.codes)
        self._low = self._low + 1 if shown is Shown.LOW else 0
        self._weak = self._weak + 1 if shown in (Shown.WEAK, Shown.GONE) else 0
        self._gone = self._gone + 1 if shown is Shown.GONE else 0
        if shown is not Shown.GONE:
            self._there_utc = seen.utc_s
        elif self._gone == 1:
            self._gone_utc = seen.utc_s
        self._high = self._high + 1 if shown is Shown.HIGH else 0
        if not self._unconfirmed:
            self.problem = ""
        if shown is not Shown.GOOD:
            self.problem = difference(seen.volts, self.codes)
        return shown

    def _fault(self, shown: Shown, seen: HvSeen) -> str | None:
        if seen.booted and shows_off(seen):
            return "the board rebooted"
        if shown is Shown.HIGH and self._high >= ENOUGH:
            return difference(seen.volts, self.codes)
        if self._gone >= (ENOUGH if self.stage is Stage.ON else PATIENT_PACKETS):
            return f"{difference(seen.volts, self.codes)}: it rebooted, or lost its supply"
        if self.stage is Stage.RISING and self._weak >= PATIENT_PACKETS:
            return f"{difference(seen.volts, self.codes)}: no detector follows"
        return None

    def _gives_up(self, shown: Shown, seen: HvSeen) -> bool:
        """Whether a board that fell on its way up is left alone for a while.

        Not when it rebooted, which costs nobody a minute.  Its boot packet may have gone astray:
        a board without any voltage is taken for rebooted once, then for one with a broken supply.
        """
        if self.stage is not Stage.RISING or shown not in (Shown.GONE, Shown.WEAK) or seen.booted:
            return False
        before, self._gone_before = self._gone_before, self._gone_before or shown is Shown.GONE
        return before or shown is Shown.WEAK

    def _reached(self, shown: Shown) -> bool:
        """Whether what was asked for is there.  One dead detector does not keep the others dark."""
        return shown is Shown.GOOD or (shown is Shown.LOW and self._low >= PATIENT_PACKETS)

"""The third witness: HV off when neither hv_updater nor temperature_guard is alive.

Each of these two switches off when the other one dies.  capture_hk, which hears the boards itself,
watches both: HV that nobody keeps is switched off again and again until HVMON shows it.  While one
of the two lives, or may yet show itself alive, nothing is done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from panoseti.boards.packets import HkPacket, hvmon_v
from panoseti.high_voltage.hv import Tells
from panoseti.high_voltage.hv_off import PATIENCE_S, STUCK_S, OffWatch, shows_off
from panoseti.high_voltage.supervision import Life
from panoseti.housekeeping.hk_trust import HvSeen

logger = logging.getLogger(__name__)

UNKEPT_ALARM, UNPROVEN_ALARM = "hv_unkept", "hv_off_unconfirmed"


@dataclass(frozen=True)
class WitnessActions:
    """What the witness does to the world.

    updater, guard: how these two are; hv_off: sends zeros and returns the problem of each board,
    None where the board confirmed.
    """

    updater: Callable[[float], Life]
    guard: Callable[[float], Life]
    hv_off: Callable[[Iterable[str]], Mapping[str, str | None]]
    alarms: Tells


class Witness:
    """`heard` for every HK packet, `look` about once a second."""

    def __init__(self, actions: WitnessActions) -> None:
        self._actions = actions
        self._heard: dict[str, HvSeen] = {}
        self._off: dict[str, OffWatch] = {}
        self._somebody_kept = False

    @property
    def off(self) -> list[str]:
        """Boards that it keeps switched off."""
        return sorted(self._off)

    def heard(self, ip: str, utc_s: float, packet: HkPacket) -> None:
        """A packet of a board has come at a Unix time."""
        self._heard[ip] = HvSeen(utc_s, hvmon_v(packet), packet.boot)

    def look(self, now_unix: float, now_s: float) -> None:
        """See whether somebody keeps the HV; switch it off where nobody does."""
        lives = self._actions.updater(now_s), self._actions.guard(now_s)
        if any(life.alive is not False for life in lives):
            self._somebody_kept = self._somebody_kept or any(life.alive for life in lives)
            self._off = {}
            self._tell("", now_s)
            return
        # Who dies while he keeps HV may have raised it since the last packet.
        died = self._somebody_kept and any(life.crashed for life in lives)
        for ip, seen in self._heard.items():
            if ip not in self._off and (died or not shows_off(seen)):
                self._off[ip] = OffWatch()
            if ip in self._off:
                self._off[ip].see(seen)
        self._send(now_unix, now_s)
        why = " and ".join(life.why for life in lives)
        text = f"nobody keeps the high voltage: {why}; capture_hk switches it off; then: config.py"
        self._tell(text if self._off else "", now_s)

    def _send(self, now_unix: float, now_s: float) -> None:
        due = [ip for ip, off in self._off.items() if off.due(now_s)]
        problems = self._actions.hv_off(due) if due else {}
        for ip in due:
            self._off[ip].told(problems.get(ip, "not sent"), now_s, now_unix)

    def _tell(self, unkept: str, now_s: float) -> None:
        alarms = self._actions.alarms
        alarms.hold(UNKEPT_ALARM, "", unkept)
        late = {
            ip: f"{ip}: {overdue}; cut the power of its module"
            for ip, off in self._off.items()
            if (overdue := off.overdue(now_s, STUCK_S, PATIENCE_S)) is not None
        }
        alarms.hold_only(UNPROVEN_ALARM, late)

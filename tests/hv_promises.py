"""How soon after which cause no board has high voltage any more; the same as docs/safety.md says.

interval    of hv_updater and temperature_guard: 1 s
HK          period of housekeeping packets: 3 s
max age     hk_max_age_s: 15 s
"""

from __future__ import annotations

from collections.abc import Callable

from panoseti.high_voltage.supervision import hung_limit_s
from tests.hv_night import Pace

# For a machine that does many other things at the same time.
SLACK_S = 5.0


def reaction_s(pace: Pace) -> float:
    """A round to notice it in, sends to silent boards of the round before, and the way down."""
    return pace.interval_s + 3.0


def _packets(count: int) -> Callable[[Pace], float]:
    return lambda pace: count * pace.hk_period_s + reaction_s(pace)


def _after(extra_s: float = 0.0) -> Callable[[Pace], float]:
    return lambda pace: extra_s + reaction_s(pace)


def _too_old(pace: Pace) -> float:
    return pace.max_age_s + reaction_s(pace)


def _hung(pace: Pace) -> float:
    return hung_limit_s(pace.interval_s) + reaction_s(pace)


FULL_DISK = "the head node's data disk is full"
PROMISED: dict[str, Callable[[Pace], float]] = {
    "a temperature creeps over its limit": _packets(1),
    "a temperature jumps over its limit": _packets(2),
    "a temperature is impossible": _packets(2),
    "a temperature jumps to and fro with every packet": _packets(3),
    "HVMON is too high": _packets(2),
    "HK of a board stops": _too_old,
    "capture_hk is killed or hangs": _too_old,
    "Redis is killed": _after(2),
    "Redis hangs": _after(4),
    "temperature_guard is killed or ends": _after(),
    "temperature_guard hangs": _hung,
    "hv_updater is killed or ends": _after(),
    "hv_updater hangs": _hung,
    "updater and guard are killed together": _after(),
    "updater and guard hang together": _hung,
    "hv_trips.json cannot be read": _after(),
    FULL_DISK: _hung,
    "a board does not obey (HVMON shows it): power cut": lambda pace: (
        pace.stuck_s + pace.hk_period_s + 2 + reaction_s(pace)
    ),
    "a board shows nothing at all: power cut": lambda pace: (
        pace.max_age_s + pace.patience_s + 2 + reaction_s(pace)
    ),
}

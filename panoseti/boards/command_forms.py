"""Shutter, fan, focus stage and LED flasher: the form of the command that a firmware understands.

Pure.  Up to 11.1 command 0x05 drives shutter and fan, and its target is a number of steps to go.
From 11.2 on the shutter has a command of its own, from 11.8 on there are two flashers to choose
from.  From 20.0 on *every* command 0x05 moves the focus stage to its target: a fan command must
repeat the present position, and 0 would have the stage look for its zero.
"""

from __future__ import annotations

from panoseti.boards.board_plans import Pause, Reply, Send, Step
from panoseti.boards.commands import FOCUS_STEPS_MAX, Flasher, Focus, Shutter

NEW_SHUTTER_SINCE = 112
FLASHER_SINCE = 118
FOCUS_POSITION_SINCE = 200
"""Firmware by number: 208 = 20.8."""

FAN_SPEED_MAX = 15
FOCUS_POSITIONS = range(1, FOCUS_STEPS_MAX + 1)
OLD_SHUTTER_S = 1.0
# A stage that travels all the way takes about 10 s, and its board hears nothing meanwhile.
FOCUS_S = 15.0
FLASHERS = {"old": 0, "new": 1}


def firmware_number(version: str) -> int | None:
    """208 for "0208" (20.8); None for what is no version."""
    return int(version) if version.isascii() and version.isdecimal() and int(version) else None


def firmware_text(number: int | None) -> str:
    """208 as people write it: 20.8."""
    return "unknown firmware" if number is None else f"firmware {number // 10}.{number % 10}"


def shutter(number: int | None, opened: bool, open_value: int, fan_speed: int = 0) -> list[Step]:
    """Open or close a shutter; where the firmware is not known the command that moves it alone.

    open_value: what the new command sends to open; fan_speed: which the old command sets as well.
    """
    if number is not None and number < NEW_SHUTTER_SINCE:
        power_on, power_off = Focus.old_shutter(opened, fan_speed)
        return [
            Send(power_on, Reply.ECHO),
            Pause(OLD_SHUTTER_S, "the shutter moves"),
            Send(power_off, Reply.ECHO),
        ]
    return [Send(Shutter(open_value if opened else 1 - open_value))]


def fan(number: int, speed: int, position: int) -> list[Step]:
    """Fan speed 0..15; position: where the focus stage is, and stays."""
    if number < FOCUS_POSITION_SINCE:
        return [Send(Focus.old_fan(speed), Reply.ECHO)]
    return focus(position, speed)


def focus(position: int, fan_speed: int) -> list[Step]:
    """Have the focus stage go to 1..50000 (0 = look for its zero); the fan keeps its speed."""
    return [Send(Focus(position, fan_speed=fan_speed), Reply.ECHO, timeout_s=FOCUS_S)]


def flasher(which: str) -> list[Step]:
    """Which LED flasher is driven: "old" or "new" (as after power-on)."""
    return [Send(Flasher(FLASHERS[which]))]

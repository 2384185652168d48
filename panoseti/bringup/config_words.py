"""The tasks of config.py on its command line: what each is for, and which have a value.  Pure."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from panoseti.boards.command_forms import FAN_SPEED_MAX, FLASHERS
from panoseti.boards.commands import FOCUS_STEPS_MAX

TASKS = {
    "show": "table of the boards: place, versions, housekeeping, first step that is missing",
    "ping": "which boards answer",
    "get_uids": "read the boards' UIDs; boards that do not answer are left out from then on",
    "loads": "load the silver firmware of obs_config.json into the boards' flash, and compare",
    "load_golden": "load the golden firmware (booted at power-on; a bad one leaves the board dead),"
    " and compare",
    "firmware_versions": "firmware of all boards, odd ones marked",
    "reboot": "boot the silver firmware, quabo 0 of all modules first; shows the versions",
    "hk_dest": "have the boards send housekeeping to this head node",
    "redis_daemons": "start capture_hk and temperature_guard",
    "stop_redis_daemons": "end hv_updater (HV goes off), temperature_guard and capture_hk",
    "ack_hv": "take away trips of the high voltage, after you have looked",
    "power": "ask the power switches which outlets are on",
    "power_on": "switch the power of modules on and wait until their boards answer",
    "power_off": "take modules out of the session: HV off, confirmed by HVMON, then their power",
    "hv_on": "start hv_updater: it keeps the high voltage of all boards at its set point",
    "hv_off": "end hv_updater and switch the high voltage of all boards off",
    "mask_config": "load the trigger masks",
    "maroc_config": "load the MAROC settings (thresholds, gains), and compare",
    "calibrate_ph": "measure the PH baselines with closed shutters",
    "show_ph_baselines": "summary of the PH baselines measured last",
    "measure_thresholds": "scan in the dark, propose calibration files and pixels to mask",
    "shutter_open": "open the shutters",
    "shutter_close": "close the shutters",
    "fan": "fan speed, 0 = off .. 15; from firmware 20 on the focus stage is told to stay",
    "focus": "move the focus stage (quabo 0) to a step, 1..50000; 0 = have it look for its zero",
    "flasher": "which LED flasher is driven, old or new (new after power-on)",
    "init_daq_nodes": "put helpers and pipeline on the DAQ nodes",
    "disk_space": "free space, and how many hours of recording fit",
    "shutdown": "end the session: HV off first, shutters, daemons, power off where a power switch"
    " is configured",
}


def _whole(high: int) -> Callable[[str], int]:
    """A whole number from 0 to `high`."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and int(text) <= high):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {high}")
        return int(text)

    return number


VALUES: Mapping[str, Mapping[str, Any]] = {
    "fan": {"metavar": "SPEED", "type": _whole(FAN_SPEED_MAX)},
    "focus": {"metavar": "STEP", "type": _whole(FOCUS_STEPS_MAX)},
    "flasher": {"choices": tuple(FLASHERS)},
}
"""How the tasks that have a value are given to argparse."""

"""Boards that keep their high voltage whatever they are told: the whole way to the power cut.

Simulated boards, real Redis and daemons, as in test_hv_daemons.py; outlets feed the modules.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from panoseti.boards.board_link import open_link
from panoseti.configs.board_files import QUABO_INFO
from panoseti.high_voltage.alarms import read_alarms
from panoseti.high_voltage.hv_service import send_codes
from panoseti.high_voltage.hv_trips import read_trips
from simulator.sites import uid_of
from tests.helpers import wait_for
from tests.hv_night import OUTLET, HvNight, Pace, feed_modules, hv_night, two_outlets

STUCK_S = 2.0
PACE = Pace(stuck_s=STUCK_S)


def forget_detectors(night: HvNight, ip: str) -> None:
    """The board data base does not know this board any longer."""
    path = night.config_dir / "quabos" / QUABO_INFO
    info = json.loads(path.read_text())
    uid = uid_of(night.site.obs.quabo(ip).boardloc)
    path.write_text(json.dumps([board for board in info if board["uid"] != uid]))


def wait_cut(night: HvNight, ip: str, outlet: int) -> None:
    """Wait until the power of a board's module is cut, because the board did not obey."""
    wait_for(lambda: night.volts()[ip] < 1, "the power to be cut", 15)
    assert outlet not in night.switch.outlets_on
    reasons = [trip.reason for trip in read_trips(night.data_dir) if not trip.board]
    assert any(reason.startswith(f"{ip}: HVMON shows 5") for reason in reasons)


@pytest.mark.long
def test_the_reason_passes_or_is_the_updaters_alone(tmp_path: Path) -> None:
    with hv_night(tmp_path, PACE) as night:
        two_outlets(night)
        feed_modules(night)
        night.hv_on(updater_words=("--stuck_s", str(STUCK_S)))
        passing, unknown = night.ips[1], night.ips[5]
        night.control.fault(passing, "hv_stuck")
        night.control.set(passing, temp1_c=300.0)
        night.daemons["temperature_guard"].wait_for(
            lambda beat: passing in beat.details["off"], "HV off of a board with impossible HK"
        )
        night.control.set(passing, temp1_c=25.0)
        wait_cut(night, passing, OUTLET)
        assert OUTLET + 1 in night.switch.outlets_on and night.volts()[unknown] > 50
        night.control.fault(unknown, "hv_stuck")
        forget_detectors(night, unknown)
        wait_cut(night, unknown, OUTLET + 1)
        trip = next(t for t in read_trips(night.data_dir) if t.reason.startswith(unknown))
        assert trip.by == "hv_updater"
        told = [(a.source, a.kind) for a in read_alarms(night.data_dir) if unknown in a.text]
        assert ("hv_updater", "hv_trip") in told


@pytest.mark.long
def test_boards_that_are_left_out_are_not_forgotten(tmp_path: Path) -> None:
    with hv_night(tmp_path, PACE) as night:
        two_outlets(night)
        feed_modules(night)
        hot, stuck, by_hand = night.ips[1], night.ips[6], night.ips[4]
        night.write_uids(absent=(by_hand,))
        night.hv_on(updater_words=("--stuck_s", "1000"), off=[by_hand])
        link = lambda priority: open_link(night.site, None, priority)  # noqa: E731
        send_codes(link, night.site.obs.echo_by_ip, {by_hand: (20000,) * 4})
        wait_for(lambda: night.volts()[by_hand] > 5, "HV that was set by hand")
        wait_for(lambda: night.volts()[by_hand] < 1, "HV off of a board that is not listed")
        night.switch.redirect_to = "http://127.0.0.1:9"
        night.control.set(hot, temp2_c=85.5)
        guard = night.daemons["temperature_guard"]
        guard.wait_for(lambda beat: bool(beat.details["power_pending"]), "the trouble")
        night.control.fault(stuck, "hv_stuck")
        night.write_uids(absent=(*night.ips[:4], stuck, by_hand))
        night.switch.redirect_to = ""
        wait_for(lambda: OUTLET not in night.switch.outlets_on, "the module's power to be cut")
        wait_cut(night, stuck, OUTLET + 1)

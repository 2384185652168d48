"""The temperature guard: verdicts and the order of what it does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from panoseti.addresses import redis_key
from panoseti.errors import ObsError
from panoseti.safety import (
    TRIPS_FILE,
    Guard,
    GuardActions,
    GuardedModule,
    Reading,
    Trip,
    limit_fault,
    read_trips,
    write_trips,
)
from panoseti.store import Record

NOW = 1_720_000_000.0
BOARDS = (("127.0.3.248", 1016), ("127.0.3.249", 1017))
OTHERS = (("127.0.0.4", 4),)


@pytest.mark.parametrize(
    ("detector_c", "fpga_c", "fault"),
    [
        (25, 60, None),
        (-20, 85, None),
        (60, 85, None),
        (60.25, 60, "detector temperature 60.25 degC is outside -20..60 degC"),
        (-20.25, 60, "detector temperature -20.25 degC is outside -20..60 degC"),
        (25, 85.01, "FPGA temperature 85.01 degC is above 85 degC"),
        (25, 230.0, "FPGA temperature 230.00 degC is above 85 degC"),
    ],
)
def test_limits(detector_c: float, fpga_c: float, fault: str | None) -> None:
    assert limit_fault(Reading(detector_c, fpga_c, 1.0)) == fault


def test_trips_are_read_as_written(tmp_path: Path) -> None:
    assert read_trips(tmp_path) == {}
    trips = [Trip(254, 'too "hot"', NOW), Trip(1, "cold", NOW + 0.5)]
    write_trips(tmp_path, trips)
    assert read_trips(tmp_path) == {254: trips[0], 1: trips[1]}
    write_trips(tmp_path, [])
    assert read_trips(tmp_path) == {}
    assert [path.name for path in tmp_path.iterdir()] == [TRIPS_FILE]


@pytest.mark.parametrize(
    "text", ["", '{"version": 1, "trips": [', "[]", '{"version": 9, "trips": []}', '{"version": 1}']
)
def test_trips_that_cannot_be_read_are_not_taken_for_none(tmp_path: Path, text: str) -> None:
    (tmp_path / TRIPS_FILE).write_text(text)
    with pytest.raises(ObsError, match=f"{TRIPS_FILE}: cannot be read .* no board may have HV"):
        read_trips(tmp_path)


class World:
    """Two modules, the first with a power switch; `did` tells what was done, in order."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.temps: dict[int, tuple[float, float]] = {1016: (25, 50), 1017: (25, 50), 4: (25, 50)}
        self.hk_time = NOW
        self.redis_error = ""
        self.mute: set[str] = set()
        self.switch_error = ""
        self.disk_full = False
        self.saved: list[Trip] = []

    def guard(self, stop_run: bool = True, outlet: bool = True) -> Guard:
        off: Callable[[], None] | None = self.outlet_off if outlet else None
        modules = [
            GuardedModule(254, "north", BOARDS, off),
            GuardedModule(1, "south", OTHERS, None),
        ]
        actions = GuardActions(
            self.records, self.hv_off, self.stop_run if stop_run else None, self.save
        )
        return Guard(modules, actions, max_age_s=15, patience_s=300)

    def records(self, keys: Iterable[str]) -> dict[str, Record]:
        if self.redis_error:
            raise ObsError(self.redis_error)
        known = {
            redis_key(boardloc): {
                "Computer_UTC": str(self.hk_time),
                "BOARDLOC": str(boardloc),
                "TEMP1": str(temp1),
                "TEMP2": str(temp2),
            }
            for boardloc, (temp1, temp2) in self.temps.items()
        }
        return {key: known[key] for key in keys if key in known}

    def hv_off(self, ips: Iterable[str]) -> Mapping[str, str | None]:
        targets = sorted(ips)
        self.did.append("hv_off " + " ".join(targets))
        return {ip: "no echo" if ip in self.mute else None for ip in targets}

    def stop_run(self, reason: str) -> None:
        self.did.append(f"stop_run {reason}")

    def save(self, trips: Iterable[Trip]) -> None:
        if self.disk_full:
            raise OSError(28, "No space left on device")
        self.saved = list(trips)
        self.did.append(f"save {[trip.module_id for trip in self.saved]}")

    def outlet_off(self) -> None:
        if self.switch_error:
            raise ObsError(self.switch_error)
        self.did.append("outlet_off")

    def deeds(self) -> list[str]:
        """What was done since the last look."""
        did, self.did = self.did, []
        return did


@pytest.fixture
def world() -> World:
    return World()


def calm(world: World, **choices: bool) -> Guard:
    """A guard that has found everything in order, and so withdrawn what an earlier one said."""
    guard = world.guard(**choices)
    assert guard.round(NOW) is False
    assert world.deeds() == ["save []"]
    return guard


HOT = "module 254: 127.0.3.249: FPGA temperature 85.50 degC is above 85 degC"


def test_nothing_is_done_while_all_is_well(world: World) -> None:
    guard = calm(world)
    assert guard.round(NOW + 10) is False
    assert world.deeds() == [] and not guard.trips and not guard.blind


@pytest.mark.parametrize("temps", [(25, 85.5), (60.25, 50), (-20.25, 50), (235.75, 50)])
def test_one_board_over_a_limit_switches_its_module_off(
    world: World, temps: tuple[float, float]
) -> None:
    guard = calm(world)
    world.temps[1017] = temps
    guard.round(NOW + 10)
    assert [deed.split(" module")[0] for deed in world.deeds()] == [
        "save [254]",
        "hv_off 127.0.3.248 127.0.3.249",
        "stop_run",
        "outlet_off",
    ]


def test_the_trip_lasts_and_is_acted_on_once(world: World) -> None:
    guard = calm(world)
    world.temps[1017] = (25, 85.5)
    guard.round(NOW + 10)
    assert f"stop_run {HOT}" in world.deeds()
    world.temps[1017] = (25, 50)
    world.hk_time = NOW + 20
    guard.round(NOW + 20)
    assert world.deeds() == [], "the power is off: nothing left to say"
    assert [trip.since_unix for trip in guard.trips.values()] == [NOW + 10]


def test_without_a_power_switch_off_is_repeated_for_ever(world: World) -> None:
    guard = calm(world, outlet=False, stop_run=False)
    world.temps[1016] = (70, 50)
    guard.round(NOW + 10)
    world.deeds()
    world.hk_time = NOW + 20
    guard.round(NOW + 20)
    assert world.deeds() == ["hv_off 127.0.3.248 127.0.3.249"]


def test_a_failing_switch_and_a_mute_board_are_retried_soon(world: World) -> None:
    guard = calm(world)
    world.temps[1016] = (70, 50)
    world.switch_error = "power switch wps: no answer"
    world.mute.add("127.0.3.249")
    assert guard.round(NOW + 10) is True
    assert guard.power_pending == {254: "power switch wps: no answer"}
    assert guard.unconfirmed == {"127.0.3.249": NOW + 10}
    world.deeds()
    world.switch_error = ""
    guard.round(NOW + 12)
    assert world.deeds() == ["hv_off 127.0.3.248 127.0.3.249", "outlet_off"]
    assert guard.power_pending == {}
    world.hk_time = NOW + 22
    assert guard.round(NOW + 22) is False
    assert guard.unconfirmed == {} and world.deeds() == []


def test_a_full_disk_does_not_keep_the_hv_on(world: World) -> None:
    guard = calm(world)
    world.temps[1016] = (70, 50)
    world.disk_full = True
    assert guard.round(NOW + 10) is True
    assert [deed.split()[0] for deed in world.deeds()] == ["hv_off", "stop_run", "outlet_off"]
    world.disk_full = False
    guard.round(NOW + 12)
    assert world.deeds() == ["save [254]"]


@pytest.mark.parametrize("how", ["stale", "impossible", "absent"])
def test_a_blind_board_has_its_hv_off_but_keeps_its_power(world: World, how: str) -> None:
    guard = calm(world)
    if how == "absent":
        del world.temps[1017]
    else:
        world.temps[1017] = (25, 50) if how == "stale" else (300, 50)
    begin = NOW
    if how == "stale":
        world.temps = {1016: (25, 50), 1017: (25, 50), 4: (25, 50)}
        begin = NOW + 15.5
    guard.round(begin)
    expected = "127.0.0.4 127.0.3.248 127.0.3.249" if how == "stale" else "127.0.3.249"
    assert world.deeds() == [f"hv_off {expected}"]
    guard.round(begin + 1000)
    assert not guard.trips, "off was confirmed: that is enough"
    world.hk_time = begin + 1010
    world.temps[1017] = (25, 50)
    world.deeds()
    assert guard.round(begin + 1010) is False
    assert world.deeds() == [] and guard.blind == {}


def test_redis_gone_makes_every_board_blind(world: World) -> None:
    guard = calm(world)
    world.redis_error = "redis is gone"
    guard.round(NOW + 10)
    assert world.deeds() == ["hv_off 127.0.0.4 127.0.3.248 127.0.3.249"]
    assert set(guard.blind.values()) == {"redis is gone"}


def test_a_board_neither_seen_nor_confirmed_off_costs_its_module_the_power(world: World) -> None:
    guard = calm(world)
    del world.temps[1017]
    world.mute.add("127.0.3.249")
    guard.round(NOW + 10)
    guard.round(NOW + 309)
    assert not guard.trips
    world.deeds()
    world.hk_time = NOW + 310
    guard.round(NOW + 310)
    reason = "127.0.3.249: no HK record, and HV off unconfirmed for 300 s"
    assert [trip.reason for trip in guard.trips.values()] == [reason]
    assert world.deeds() == [
        "save [254]",
        "hv_off 127.0.3.248 127.0.3.249",
        f"stop_run module 254: {reason}",
        "outlet_off",
    ]


def test_the_wait_begins_anew_after_a_confirmation(world: World) -> None:
    guard = calm(world)
    del world.temps[1017]
    world.mute.add("127.0.3.249")
    guard.round(NOW + 10)
    world.mute.clear()
    guard.round(NOW + 200)
    world.mute.add("127.0.3.249")
    guard.round(NOW + 210)
    guard.round(NOW + 500)
    assert not guard.trips


def test_what_the_guard_saves_is_what_the_updater_reads(tmp_path: Path, world: World) -> None:
    guard = calm(world)
    guard_actions = GuardActions(
        world.records, world.hv_off, None, lambda trips: write_trips(tmp_path, trips)
    )
    writing = Guard(guard.modules, guard_actions, max_age_s=15, patience_s=300)
    writing.round(NOW)
    assert json.loads((tmp_path / TRIPS_FILE).read_text())["trips"] == []
    world.temps[1016] = (70, 50)
    writing.round(NOW)
    assert list(read_trips(tmp_path)) == [254]

"""The temperature guard: what it does, in which order, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest

from panoseti.boards.addresses import redis_key
from panoseti.errors import ObsError
from panoseti.high_voltage.hv_trips import REHEARSED_MODULE, Trip
from panoseti.high_voltage.rehearsal import REHEARSAL_KEY, made_up_record
from panoseti.high_voltage.safety import Guard, GuardActions, GuardedModule
from panoseti.high_voltage.supervision import Life
from panoseti.housekeeping.store import Record
from tests.alarm_recorder import AlarmRecorder
from tests.hk_records import NOW, hk

A, B, C = "127.0.3.248", "127.0.3.249", "127.0.0.4"
LOCS = {A: 1016, B: 1017, C: 4}
ALIVE = Life(True)
DEAD = Life(False, "hv_updater (pid 7) has died", crashed=True)
ENDED = Life(False, "hv_updater (pid 7) has ended")
OUTLET = "outlet 3 of wps"
HOT = {"TEMP1": 70.0}


class World:
    """Two modules, the first with a power outlet; `did` tells what was done, in order.

    Boards obey and send HK every second round.
    """

    def __init__(self) -> None:
        self.did: list[str] = []
        self.fields: dict[str, dict[str, float]] = {ip: {} for ip in LOCS}
        self.volts = dict.fromkeys(LOCS, 54.0)
        self.last: dict[str, Record] = {}
        self.life = ALIVE
        self.trips: tuple[Trip, ...] = ()
        self.store_error = self.trips_error = self.save_error = ""
        self.power: list[str | None] = [None, ""]
        self.mute: set[str] = set()
        self.stuck: set[str] = set()
        self.no_hk: set[str] = set()
        self.fed = {A, B}
        self.now = 0.0
        self.alarms = AlarmRecorder()
        self.rehearsal: Record = {}

    def guard(self, stop_run: bool = True, outlet: str = OUTLET) -> Guard:
        modules = (
            GuardedModule(254, "north", ((A, 1016), (B, 1017)), outlet),
            GuardedModule(1, "south", ((C, 4),)),
        )
        actions = GuardActions(
            self.records,
            self.read_trips,
            self.save,
            lambda now_s: self.life,
            self.hv_off,
            self.stop_run if stop_run else None,
            self.power_off,
            self.alarms,
        )
        return Guard(actions, 15, 15, 300, modules)

    def records(self, keys: Iterable[str]) -> dict[str, Record]:
        if self.store_error:
            raise ObsError(self.store_error)
        if self.now % 2 == 1:
            for ip, boardloc in LOCS.items():
                if ip not in self.no_hk:
                    self.last[ip] = hk(NOW + self.now, boardloc, self.volts[ip], **self.fields[ip])
        known = {redis_key(LOCS[ip]): record for ip, record in self.last.items()}
        if self.rehearsal:
            known[REHEARSAL_KEY] = self.rehearsal
        return {key: known[key] for key in keys if key in known}

    def read_trips(self) -> tuple[Trip, ...]:
        if self.trips_error:
            raise ObsError(self.trips_error)
        return self.trips

    def save(self, trips: Iterable[Trip]) -> None:
        if self.save_error:
            raise ObsError(self.save_error)
        self.trips += tuple(trips)
        self.did.append(f"save {[trip.module_id for trip in self.trips]}")

    def hv_off(self, ips: Iterable[str]) -> Mapping[str, str | None]:
        targets = sorted(ips)
        self.did.append("hv_off " + " ".join(targets))
        for ip in targets:
            if ip not in self.mute | self.stuck:
                self.volts[ip] = 0.0
        return {ip: "no echo" if ip in self.mute else None for ip in targets}

    def stop_run(self, reason: str) -> None:
        self.did.append(f"stop_run {reason}")

    def power_off(self, outlet: str, trip_unix: float) -> str | None:
        answer = self.power.pop(0)
        self.did.append(f"power_off {outlet}: {answer}")
        if answer == "":
            self.no_hk |= self.fed
            self.volts |= dict.fromkeys(self.fed, 0.0)
        return answer

    def seconds(self, guard: Guard, count: int) -> list[str]:
        """What was done in so many rounds, a second apart."""
        self.did = []
        for _ in range(count):
            self.now += 1
            guard.look(NOW + self.now, self.now)
            guard.act(NOW + self.now, self.now)
        return self.did


@pytest.fixture
def world() -> World:
    return World()


def calm(world: World, **choices: bool) -> Guard:
    """A guard that has found everything in order."""
    guard = world.guard(**choices)  # type: ignore[arg-type]
    assert world.seconds(guard, 8) == []
    assert guard.state().calm and world.alarms.standing == {}
    return guard


def words(did: list[str]) -> list[str]:
    """The first word of each deed."""
    return [deed.split()[0] for deed in did]


@pytest.mark.parametrize("field", [HOT, {"TEMP1": -30.0}, {"TEMP2": 90.0}])
def test_one_board_over_a_limit_trips_its_module(world: World, field: dict[str, float]) -> None:
    guard = calm(world)
    world.fields[B] = field
    did = world.seconds(guard, 5)
    assert did[0] == f"hv_off {A} {B}", "the whole module, and before everything else"
    assert words(did) == ["hv_off", "power_off", "stop_run", "save", "power_off"]
    assert "module 254: 127.0.3.249: " in did[2] and did[3] == "save [254]"
    assert world.volts == {A: 0, B: 0, C: 54}
    assert [kind for kind, _ in world.alarms.told] == ["hv_trip", "power_off"]
    assert guard.state().trips.keys() == {"module 254"} and not guard.state().calm
    assert world.seconds(guard, 400) == [], "the power is off: nothing left to say"


def test_a_trip_outlives_the_guard_and_ends_when_it_is_acknowledged(world: World) -> None:
    guard = calm(world)
    world.fields[B] = HOT
    world.seconds(guard, 5)
    world.fields[B], world.power = {}, [""]
    again = world.guard()
    assert words(world.seconds(again, 1)) == ["hv_off", "power_off"], "no second stop, no new trip"
    world.trips = ()
    world.seconds(again, 3)
    assert again.state().trips == {}
    assert world.seconds(again, 400) == [], "acknowledged, but still dark: not its fault"
    world.no_hk.clear()
    world.seconds(again, 10)
    assert again.state().calm and again.powered_off == {}


def test_power_that_comes_back_while_tripped_is_cut_again_but_not_all_the_time(
    world: World,
) -> None:
    guard = calm(world)
    world.fields[B] = HOT
    world.seconds(guard, 5)
    world.no_hk.clear()
    world.power = ["", ""]
    did = world.seconds(guard, 50)
    assert did[0].startswith("hv_off") and "power_off" not in words(did)
    assert "but boards of north are heard" in guard.state().power_pending[254]
    assert guard.state().powered_off == []
    assert f"power_off {OUTLET}: " in world.seconds(guard, 15)
    assert [kind for kind, _ in world.alarms.told] == ["hv_trip", "power_off"]
    world.seconds(guard, 5)
    assert guard.state().powered_off == ["outlet 3 of wps"] and not guard.power_pending


def test_without_a_power_switch_off_is_repeated_until_hvmon_shows_it(world: World) -> None:
    guard = calm(world, outlet="", stop_run=False)  # type: ignore[arg-type]
    world.fields[A] = HOT
    world.stuck = {B}
    did = world.seconds(guard, 10)
    assert did[0] == f"hv_off {A} {B}" and did.count(f"hv_off {B}") >= 1
    world.stuck = set()
    world.seconds(guard, 8)
    assert world.seconds(guard, 30) == [] and guard.state().unproven == []


def test_a_failing_outlet_and_a_mute_board_are_tried_again(world: World) -> None:
    guard = calm(world)
    world.fields[A] = HOT
    world.mute = {B}
    world.power = [None, "power switch wps: no answer", "power switch wps: no answer", ""]
    world.seconds(guard, 5)
    assert guard.state().power_pending == {254: "power switch wps: no answer"}
    assert "power_outlet" in world.alarms.kinds()
    world.seconds(guard, 2)
    assert guard.state().power_pending == {} and "power_outlet" not in world.alarms.kinds()


def test_a_full_disk_keeps_nothing_on(world: World) -> None:
    guard = calm(world)
    world.fields[A], world.save_error = HOT, "disk is full"
    assert words(world.seconds(guard, 5))[:3] == ["hv_off", "power_off", "stop_run"]
    assert world.alarms.kinds() == {"trips_unsaved"}
    assert guard.trips and world.trips == ()
    world.save_error = ""
    assert "save [254]" in world.seconds(guard, 1)


@pytest.mark.parametrize("how", ["silent", "impossible", "jumping"])
def test_a_blind_board_has_its_hv_off_and_keeps_its_power(world: World, how: str) -> None:
    guard = calm(world)
    if how == "silent":
        world.no_hk = {B}
    rounds = 18 if how == "silent" else 6
    did = []
    for index in range(rounds):
        if how == "impossible":
            world.fields[B] = {"TEMP1": 300.0}
        elif how == "jumping":
            world.fields[B] = {"TEMP1": 25.0 + 15 * (index // 2 % 2 == 0)}
        did += world.seconds(guard, 1)
    assert did[0] == f"hv_off {B}" and world.volts == {A: 54, B: 0, C: 54}
    assert guard.state().blind.keys() <= {B} and not guard.trips
    if how != "jumping":
        assert ("housekeeping", "module 254") in world.alarms.standing
    world.fields[B], world.no_hk = {}, set()
    world.seconds(guard, 10)
    assert guard.state().calm and world.alarms.standing == {}


def test_redis_gone_makes_every_board_blind_in_one_round(world: World) -> None:
    guard = calm(world)
    world.store_error = "redis is gone"
    assert world.seconds(guard, 1) == [f"hv_off {C} {A} {B}"]
    assert set(guard.state().blind.values()) == {"redis is gone"}
    assert world.alarms.standing == {("store", ""): "HV is off: redis is gone"}


@pytest.mark.parametrize(("life", "alarm"), [(DEAD, True), (ENDED, False)])
def test_no_updater_is_hv_off_until_it_is_back(world: World, life: Life, alarm: bool) -> None:
    guard = calm(world)
    world.life = life
    assert world.seconds(guard, 1) == [f"hv_off {C} {A} {B}"]
    world.seconds(guard, 8)
    assert world.seconds(guard, 30) == [] and set(world.volts.values()) == {0}
    assert ("hv_updater" in world.alarms.kinds()) is alarm
    assert guard.state().calm is not alarm
    world.life = ALIVE
    world.seconds(guard, 2)
    assert guard.state().off == {} and guard.state().calm


def test_hv_that_nobody_keeps_is_switched_off(world: World) -> None:
    """Somebody sets HV by hand while no updater runs."""
    guard = calm(world)
    world.life = ENDED
    world.seconds(guard, 10)
    world.volts[A] = 30.0
    assert f"hv_off {A}" in world.seconds(guard, 3) and world.volts[A] == 0


def test_an_updater_not_yet_known_is_waited_for(world: World) -> None:
    guard = calm(world)
    world.life = Life(None, "not seen yet")
    assert world.seconds(guard, 5) == []


def test_a_board_that_does_not_obey_costs_its_module_the_power(world: World) -> None:
    guard = calm(world)
    world.life, world.stuck = DEAD, {B}
    assert "power_off" not in words(world.seconds(guard, 15))
    did = world.seconds(guard, 3)
    assert words(did)[-4:] == ["power_off", "stop_run", "save", "power_off"]
    assert "127.0.3.249: HVMON shows 54.0 V 1" in guard.state().trips["module 254"]


def test_a_board_that_does_not_obey_is_not_forgotten_when_the_reason_passes(world: World) -> None:
    guard = calm(world)
    world.life, world.stuck = DEAD, {B}
    world.seconds(guard, 9)
    world.life = ALIVE
    did = world.seconds(guard, 9)
    assert did.count(f"hv_off {B}") >= 2 and guard.state().unproven == []
    assert "127.0.3.249: HVMON shows 54.0 V 1" in guard.state().trips["module 254"]
    assert "power_off" in words(did) and "stop_run" in words(did)


def test_a_board_that_obeyed_is_left_to_the_updater_when_the_reason_passes(world: World) -> None:
    guard = calm(world)
    world.life = DEAD
    world.seconds(guard, 2)
    world.life = ALIVE
    world.seconds(guard, 2)
    assert guard.state().off == {}
    world.volts[A] = 13.0
    assert world.seconds(guard, 30) == [] and not guard.trips


def test_a_module_that_the_updater_tripped_loses_run_and_power(world: World) -> None:
    guard = calm(world)
    trip = Trip(254, f"{B}: HVMON shows 54.0 V 15 s after HV off", NOW, by="hv_updater")
    world.trips = (trip,)
    did = world.seconds(guard, 4)
    assert words(did) == ["hv_off", "power_off", "stop_run", "power_off"]
    assert did[0] == f"hv_off {A} {B}" and "hv_trip" not in world.alarms.kinds()
    again = world.guard()
    world.power = [""]
    assert words(world.seconds(again, 1)) == ["hv_off", "power_off"], "an old trip stops no run"


# --- boards that are not (any longer) among those that are present ---


def leave_out(guard: Guard, *ips: str) -> None:
    """A new scan has not found these boards."""
    guard.modules = tuple(replace(module, absent=frozenset(ips)) for module in guard.modules)


def test_a_board_that_is_left_out_is_watched_while_it_may_have_hv(world: World) -> None:
    guard = calm(world)
    leave_out(guard, B)
    assert f"hv_off {B}" in world.seconds(guard, 3) and world.volts == {A: 54, B: 0, C: 54}
    world.seconds(guard, 10)
    world.no_hk = {B}
    assert world.seconds(guard, 400) == [] and guard.state().calm, "seen off, and forgotten"
    world.no_hk, world.volts[B] = set(), 30.0
    assert f"hv_off {B}" in world.seconds(guard, 3) and world.volts[B] == 0


def test_to_leave_a_board_out_does_not_end_what_it_has_begun(world: World) -> None:
    guard = calm(world)
    world.no_hk = world.mute = {B}
    world.seconds(guard, 20)
    leave_out(guard, A, B)
    world.seconds(guard, 280)
    assert guard.state().unproven == [B] and "hv_off_unconfirmed" in world.alarms.kinds()
    did = world.seconds(guard, 20)
    assert "power_off" in words(did) and "no HVMON has shown it" in guard.trips[254, ""].reason


def test_power_is_cut_though_the_boards_of_the_module_are_left_out(world: World) -> None:
    guard = calm(world)
    world.fields[A], world.power = HOT, [*["no answer"] * 10, ""]
    world.seconds(guard, 4)
    leave_out(guard, A, B)
    world.seconds(guard, 12)
    assert guard.powered_off.keys() == {OUTLET} and not guard.power_pending


def test_a_board_that_never_was_there_is_no_concern(world: World) -> None:
    world.no_hk, world.mute = {B}, {B}
    guard = world.guard()
    leave_out(guard, B)
    assert world.seconds(guard, 8) == []
    world.fields[A] = HOT
    assert f"hv_off {A}" in world.seconds(guard, 5)
    assert B not in guard.state().off and "hv_off_unconfirmed" not in world.alarms.kinds()


@pytest.mark.parametrize("field", [{"TEMP1": 75.0}, {"TEMP2": 95.0}])
def test_a_board_that_is_left_out_and_hot_trips_its_module(
    world: World, field: dict[str, float]
) -> None:
    """With no HV at all: it burns all the same, and the outlet is all that helps."""
    world.volts = dict.fromkeys(LOCS, 0.0)
    guard = world.guard()
    leave_out(guard, A, B, C)
    world.seconds(guard, 8)
    assert guard.state().calm
    world.fields[B] = field
    did = world.seconds(guard, 8)
    assert "power_off" in words(did) and "stop_run" in words(did)
    assert guard.trips[254, ""].reason.startswith(f"{B}: ") and guard.trips.keys() == {(254, "")}
    # The wrong outlet, or somebody switches it on again.
    world.no_hk, world.power = set(), [""]
    assert f"power_off {OUTLET}: " in world.seconds(guard, 65)


@pytest.mark.parametrize("echo", [True, False])
def test_a_board_of_which_nothing_is_seen_costs_its_module_the_power(
    world: World, echo: bool
) -> None:
    guard = calm(world)
    world.no_hk = {B}
    world.mute = set() if echo else {B}
    assert "power_off" not in words(world.seconds(guard, 310))
    assert echo or ("hv_off_unconfirmed", "module 254") in world.alarms.standing
    world.seconds(guard, 10)
    reason = guard.state().trips["module 254"]
    assert reason.startswith("127.0.3.249: HV off ") and "no HVMON has shown it for" in reason


def test_a_board_seen_off_may_fall_silent_for_ever(world: World) -> None:
    guard = calm(world)
    world.life = ENDED
    world.seconds(guard, 10)
    world.no_hk, world.mute = set(LOCS), set(LOCS)
    assert world.seconds(guard, 1000) == [] and not guard.trips


def test_trips_that_cannot_be_read_mean_off_everywhere(world: World) -> None:
    guard = calm(world)
    world.trips_error = "hv_trips.json: not JSON"
    assert world.seconds(guard, 1) == [f"hv_off {C} {A} {B}"]
    assert guard.state().problem == "hv_trips.json: not JSON" and not guard.trips
    world.trips_error = ""
    world.seconds(guard, 2)
    assert guard.state().calm


def test_a_board_that_the_updater_latched_is_kept_off(world: World) -> None:
    guard = calm(world)
    world.trips = (Trip(254, "HVMON shows 60 V instead of 54 V", NOW, A, "hv_updater"),)
    assert world.seconds(guard, 1) == [f"hv_off {A}"]
    world.seconds(guard, 40)
    assert world.volts[B] == 54 and guard.state().trips.keys() == {A}


def test_two_modules_on_one_outlet_go_dark_together(world: World) -> None:
    guard = world.guard()
    guard.modules = tuple(
        GuardedModule(m.module_id, m.label, m.boards, OUTLET) for m in guard.modules
    )
    world.fed = set(LOCS)
    world.seconds(guard, 8)
    world.fields[B] = HOT
    world.seconds(guard, 405)
    assert guard.state().trips.keys() == {"module 254"}, "the other one is dark, not at fault"


def test_a_rehearsed_trip_is_saved_and_touches_nothing(world: World) -> None:
    guard = calm(world)
    did = []
    for _ in range(3):
        made_up = made_up_record(NOW + world.now + 1)
        world.rehearsal = {name: str(value) for name, value in made_up.items()}
        did += world.seconds(guard, 1)
    assert did == [f"save [{REHEARSED_MODULE}]"]
    assert world.trips[0].made_up and "85.00 degC" in world.trips[0].reason
    assert guard.state().calm and world.alarms.told == []
    world.rehearsal, world.trips = {}, ()
    assert world.seconds(guard, 5) == []

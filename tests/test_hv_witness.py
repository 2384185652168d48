"""The third witness: what capture_hk does when nobody keeps the high voltage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from panoseti.boards.packets import HVMON_V_PER_COUNT, HkPacket, parse_hk
from panoseti.high_voltage.hv_off import REPEAT_S, RETRY_S
from panoseti.high_voltage.hv_witness import UNKEPT_ALARM, UNPROVEN_ALARM, Witness, WitnessActions
from panoseti.high_voltage.safety import STUCK_S
from panoseti.high_voltage.supervision import Life
from tests.alarm_recorder import AlarmRecorder
from tests.helpers import golden
from tests.hk_records import NOW

A, B = "127.0.3.248", "127.0.3.249"
ALIVE = Life(True)
NEW = Life(None, "has not been seen at work yet")
DIED = Life(False, "it (pid 7) has died", crashed=True)
HANGS = Life(False, "it (pid 7) hangs: no heartbeat for 10 s", crashed=True)
ENDED = Life(False, "it (pid 7) has ended")
NEVER = Life(False, "it has never run")
PACKET = bytes.fromhex(golden("hk_packets")["cases"][0]["packet_hex"])


def packet(volts: float) -> HkPacket:
    data = bytearray(PACKET)
    for chip in range(4):
        data[4 + 2 * chip : 6 + 2 * chip] = round(volts / HVMON_V_PER_COUNT).to_bytes(2, "little")
    return parse_hk(bytes(data))


class World:
    """Two boards, which obey and send HK every third second."""

    def __init__(self) -> None:
        self.volts = {A: 54.0, B: 54.0}
        self.mute: set[str] = set()
        self.stuck: set[str] = set()
        self.updater = self.guard = ALIVE
        self.told: list[tuple[float, str]] = []
        self.alarms = AlarmRecorder()
        self.now = 0.0
        self.witness = Witness(
            WitnessActions(
                lambda now_s: self.updater, lambda now_s: self.guard, self.hv_off, self.alarms
            )
        )

    def hv_off(self, ips: Iterable[str]) -> Mapping[str, str | None]:
        problems: dict[str, str | None] = {}
        for ip in ips:
            self.told.append((self.now, ip))
            problems[ip] = "no echo" if ip in self.mute else None
            if ip not in self.mute | self.stuck:
                self.volts[ip] = 0.0
        return problems

    def seconds(self, count: int) -> list[str]:
        """The boards told in so many rounds, a second apart."""
        self.told = []
        for _ in range(count):
            self.now += 1
            if self.now % 3 == 1:
                for ip, volts in self.volts.items():
                    self.witness.heard(ip, NOW + self.now, packet(volts))
            self.witness.look(NOW + self.now, self.now)
        return [ip for _, ip in self.told]


@pytest.fixture
def world() -> World:
    made = World()
    assert made.seconds(8) == []
    return made


@pytest.mark.parametrize("guard", [DIED, HANGS, ENDED, NEVER])
@pytest.mark.parametrize("updater", [DIED, HANGS])
def test_hv_that_nobody_keeps_is_off_in_one_round(world: World, updater: Life, guard: Life) -> None:
    world.updater, world.guard = updater, guard
    assert sorted(world.seconds(1)) == [A, B] and world.witness.off == [A, B]
    assert world.alarms.kinds() == {UNKEPT_ALARM}
    text = world.alarms.standing[UNKEPT_ALARM, ""]
    assert updater.why in text and guard.why in text and text.endswith("then: config.py")
    world.seconds(9)
    assert world.seconds(100) == [], "HVMON has shown it"
    assert world.alarms.kinds() == {UNKEPT_ALARM}, "the two are still dead"
    world.guard = NEW
    world.seconds(1)
    assert world.alarms.standing == {} and world.witness.off == []


@pytest.mark.parametrize("dead", [DIED, HANGS, ENDED, NEVER])
@pytest.mark.parametrize("other", [ALIVE, NEW])
def test_while_one_lives_nothing_is_done(world: World, dead: Life, other: Life) -> None:
    world.updater, world.guard = dead, other
    assert world.seconds(60) == []
    world.updater, world.guard = other, dead
    assert world.seconds(60) == [] and world.alarms.standing == {}


def test_who_died_may_have_raised_it_since_the_last_packet(world: World) -> None:
    world.volts = {A: 0.0, B: 0.0}
    world.seconds(3)
    world.updater = world.guard = DIED
    assert sorted(world.seconds(1)) == [A, B]


def test_a_clean_end_and_yesterdays_deaths_are_no_alarm() -> None:
    world = World()
    world.volts = {A: 0.0, B: 0.0}
    world.updater, world.guard = DIED, DIED
    assert world.seconds(30) == [] and world.alarms.standing == {}
    world.updater = world.guard = ALIVE
    world.seconds(3)
    world.updater = world.guard = ENDED
    assert world.seconds(30) == [] and world.alarms.standing == {}
    world.volts[B] = 30.0
    assert set(world.seconds(3)) == {B}, "set by hand, and nobody keeps it"
    assert world.alarms.kinds() == {UNKEPT_ALARM}


def test_a_board_that_does_not_echo_is_told_every_second(world: World) -> None:
    world.mute = {A}
    world.updater = world.guard = DIED
    world.seconds(10)
    assert [when for when, ip in world.told if ip == A] == [world.now - 9 + n for n in range(10)]
    assert RETRY_S == 1.0
    world.mute = set()
    world.seconds(10)
    assert world.volts[A] == 0.0 and world.seconds(30) == []


def test_a_board_that_does_not_obey_is_an_alarm(world: World) -> None:
    world.stuck = {B}
    world.updater = world.guard = DIED
    world.seconds(int(STUCK_S))
    assert world.alarms.kinds() == {UNKEPT_ALARM}
    told = world.seconds(9)
    assert told == [B] * round(9 / REPEAT_S)
    text = world.alarms.standing[UNPROVEN_ALARM, B]
    assert text.startswith(f"{B}: HVMON shows 54.0 V 1") and "cut the power" in text
    world.guard = ALIVE
    world.seconds(1)
    assert world.alarms.standing == {}, "the guard sees to it, and cuts the power"

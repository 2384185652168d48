"""The HV updater: what a record leads to, and that "off" wins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoseti.addresses import redis_key
from panoseti.errors import ObsError
from panoseti.hv import HV_OFF, Codes, HvActions, HvBoard, HvUpdater, State, judge
from panoseti.safety import Trip
from panoseti.store import Record
from tests.helpers import golden

NOMINAL = (54.114, 54.08, 54.213, 54.095)
AT_25: Codes = (48185, 48155, 48272, 48169)
AT_40: Codes = (48904, 48874, 48991, 48888)
BOARD = HvBoard("127.0.3.248", 1016, 254, NOMINAL)
NOW = 1_720_000_000.0
MAX_AGE_S = 15.0


def hk(age_s: float = 1.0, **fields: object) -> Record:
    values = {"Computer_UTC": NOW - age_s, "BOARDLOC": 1016, "TEMP1": 25.0, "TEMP2": 40.0}
    return {name: str(value) for name, value in {**values, **fields}.items()}


def without(name: str) -> Record:
    record = hk()
    del record[name]
    return record


@pytest.mark.parametrize("case", golden("hv")["updater"], ids=lambda c: f"{c['temp_C']}")
def test_golden_codes(case: dict[str, object]) -> None:
    board = HvBoard("127.0.3.248", 1016, 254, tuple(case["nominal_V"]))  # type: ignore[arg-type]
    want = judge(board, hk(TEMP1=case["temp_C"]), NOW, MAX_AGE_S)
    assert want.codes == tuple(case["dac"])  # type: ignore[arg-type]


# record -> codes, a piece of the reason, off for good
JUDGED: dict[str, tuple[Record, Codes, str, bool]] = {
    "25 degC": (hk(), AT_25, "", False),
    "40.25 degC": (hk(TEMP1=40.25), AT_40, "", False),
    "just fresh": (hk(age_s=15.0), AT_25, "", False),
    "too old": (hk(age_s=15.1), HV_OFF, "15.1 s old (limit 15 s)", False),
    "a little ahead": (hk(age_s=-1.0), AT_25, "", False),
    "from the future": (hk(age_s=-60.0), HV_OFF, "60.0 s in the future", False),
    "absent": ({}, HV_OFF, "no HK record", False),
    "no time": (without("Computer_UTC"), HV_OFF, "Computer_UTC is 'absent'", False),
    "no TEMP1": (without("TEMP1"), HV_OFF, "TEMP1 is 'absent'", False),
    "no TEMP2": (without("TEMP2"), HV_OFF, "TEMP2 is 'absent'", False),
    "empty TEMP1": (hk(TEMP1=""), HV_OFF, "TEMP1 is ''", False),
    "text": (hk(TEMP1="warm"), HV_OFF, "TEMP1 is 'warm'", False),
    "nan": (hk(TEMP1="nan"), HV_OFF, "TEMP1 is nan", False),
    "time nan": (hk(Computer_UTC="nan"), HV_OFF, "Computer_UTC is nan", False),
    "inf": (hk(TEMP1="-inf"), HV_OFF, "TEMP1 is -inf", False),
    "other board": (hk(BOARDLOC=1017), HV_OFF, "BOARDLOC is 1017, not 1016", False),
    "lower limit": (hk(TEMP1=-20.0), (46063, 46034, 46150, 46047), "", False),
    "upper limit": (hk(TEMP1=60.0), (49835, 49806, 49922, 49819), "", False),
    "too cold": (hk(TEMP1=-20.25), HV_OFF, "-20.25 degC is outside -20..60", True),
    "too hot": (hk(TEMP1=60.25), HV_OFF, "60.25 degC is outside -20..60", True),
    "very hot": (hk(TEMP1=127.75), HV_OFF, "127.75 degC is outside", True),
    "sign dropped, -0.25": (hk(TEMP1=255.75), (46995, 46965, 47081, 46978), "", False),
    "sign dropped, -20.25": (hk(TEMP1=235.75), HV_OFF, "-20.25 degC is outside", True),
    "sign dropped, -128": (hk(TEMP1=128.0), HV_OFF, "impossible HK: TEMP1 is 128.0", False),
    "below the sensor's range": (hk(TEMP1=-55.25), HV_OFF, "impossible", False),
    "beyond 10 bits": (hk(TEMP1=256.0), HV_OFF, "impossible HK: TEMP1 is 256.0", False),
    "largest int16": (hk(TEMP1=8191.75), HV_OFF, "impossible", False),
    "FPGA sensor dead": (hk(TEMP2=-273.15), HV_OFF, "TEMP2 is -273.15", False),
}


@pytest.mark.parametrize("name", JUDGED)
def test_judged(name: str) -> None:
    record, codes, reason, latch = JUDGED[name]
    want = judge(BOARD, record, NOW, MAX_AGE_S)
    assert (want.codes, want.latch) == (codes, latch)
    assert reason in want.reason
    assert bool(want.reason) is (codes == HV_OFF)


def test_latched_and_tripped_boards_and_boards_without_data_are_off() -> None:
    assert judge(BOARD, hk(), NOW, MAX_AGE_S, latched="was too hot").reason == "was too hot"
    trip = Trip(254, "FPGA at 90 degC", NOW)
    assert judge(BOARD, hk(), NOW, MAX_AGE_S, trip=trip).codes == HV_OFF
    unknown = HvBoard("127.0.3.248", 1016, 254, None, "UID 77 is not in quabo_info.json")
    want = judge(unknown, hk(), NOW, MAX_AGE_S)
    assert (want.codes, want.reason) == (HV_OFF, "UID 77 is not in quabo_info.json")


@given(
    st.dictionaries(
        st.sampled_from(["Computer_UTC", "BOARDLOC", "TEMP1", "TEMP2", "other"]),
        st.one_of(st.text(), st.floats().map(str), st.integers().map(str)),
    )
)
def test_no_record_whatever_gets_hv_that_is_not_fresh_and_within_limits(record: Record) -> None:
    want = judge(BOARD, record, NOW, MAX_AGE_S)
    if want.codes != HV_OFF:
        assert NOW - float(record["Computer_UTC"]) <= MAX_AGE_S
        assert -20 <= float(record["TEMP1"]) <= 60 or 236 <= float(record["TEMP1"]) < 256
        assert float(record["BOARDLOC"]) == 1016


class Boards:
    """Boards, record store and guard as the updater sees them."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.store_error = ""
        self.trips_error = ""
        self.trips: dict[int, Trip] = {}
        self.mute: set[str] = set()
        self.sent: list[dict[str, Codes]] = []

    def updater(self, *boards: HvBoard) -> HvUpdater:
        updater = HvUpdater(HvActions(self.fetch, self.read_trips, self.send), MAX_AGE_S)
        updater.set_boards(boards or (BOARD,))
        return updater

    def fetch(self, keys: Iterable[str]) -> dict[str, Record]:
        if self.store_error:
            raise ObsError(self.store_error)
        return {key: self.records[key] for key in keys if key in self.records}

    def read_trips(self) -> dict[int, Trip]:
        if self.trips_error:
            raise ObsError(self.trips_error)
        return self.trips

    def send(self, codes: Mapping[str, Codes]) -> Mapping[str, str | None]:
        self.sent.append(dict(codes))
        return {ip: "no echo" if ip in self.mute else None for ip in codes}

    def sends(self) -> list[dict[str, Codes]]:
        """What was sent since the last look."""
        sent, self.sent = self.sent, []
        return sent


@pytest.fixture
def world() -> Boards:
    boards = Boards()
    boards.records = {redis_key(1016): hk()}
    return boards


def on_then(world: Boards, *boards: HvBoard) -> HvUpdater:
    """An updater that has just put its boards on HV."""
    updater = world.updater(*boards)
    assert updater.round(NOW) is False
    assert world.sends() == [{board.ip: AT_25 for board in boards or (BOARD,)}]
    return updater


def test_hv_is_sent_every_round_so_that_a_board_that_rebooted_gets_it_back(world: Boards) -> None:
    updater = on_then(world)
    world.records[redis_key(1016)] = hk(TEMP1=40.25)
    updater.round(NOW)
    updater.round(NOW)
    assert world.sends() == [{BOARD.ip: AT_40}, {BOARD.ip: AT_40}]
    assert updater.states[BOARD.ip].state is State.ON


def test_hk_that_stops_coming_means_off_and_fresh_hk_means_on(world: Boards) -> None:
    updater = on_then(world)
    assert updater.round(NOW + 14.5) is True or world.sends() == [{BOARD.ip: HV_OFF}]
    world.sends()
    updater.round(NOW + 20)
    assert updater.states[BOARD.ip].state is State.OFF
    assert "20" not in updater.states[BOARD.ip].problem
    world.records[redis_key(1016)] = hk(age_s=-30)
    updater.round(NOW + 30)
    assert world.sends()[-1] == {BOARD.ip: AT_25}


@pytest.mark.parametrize("what", ["store_error", "trips_error"])
def test_redis_gone_or_trips_unreadable_is_off(world: Boards, what: str) -> None:
    updater = on_then(world)
    setattr(world, what, "gone")
    assert updater.round(NOW) is False
    assert world.sends() == [{BOARD.ip: HV_OFF}]
    assert updater.states[BOARD.ip].reason == "gone"
    setattr(world, what, "")
    updater.round(NOW)
    assert world.sends() == [{BOARD.ip: AT_25}]


def test_off_is_repeated_until_confirmed_and_then_left(world: Boards) -> None:
    updater = on_then(world)
    world.records.clear()
    world.mute.add(BOARD.ip)
    for _ in range(3):
        assert updater.round(NOW) is True
        assert updater.states[BOARD.ip].state is State.UNKNOWN
    world.mute.clear()
    assert updater.round(NOW) is False
    assert world.sends() == [{BOARD.ip: HV_OFF}] * 4
    assert updater.round(NOW) is False
    assert world.sends() == []


def test_off_is_sent_to_a_board_never_seen_before(world: Boards) -> None:
    world.records.clear()
    updater = world.updater()
    updater.round(NOW)
    assert world.sends() == [{BOARD.ip: HV_OFF}]


def test_an_unconfirmed_on_counts_as_on_when_it_must_be_off(world: Boards) -> None:
    world.mute.add(BOARD.ip)
    updater = world.updater()
    assert updater.round(NOW) is False
    world.mute.clear()
    world.records.clear()
    world.sends()
    updater.round(NOW)
    assert world.sends() == [{BOARD.ip: HV_OFF}]


def test_too_hot_once_is_off_for_the_life_of_the_updater(world: Boards) -> None:
    updater = on_then(world)
    world.records[redis_key(1016)] = hk(TEMP1=61.0)
    updater.round(NOW)
    world.records[redis_key(1016)] = hk()
    for _ in range(3):
        updater.round(NOW)
    assert world.sends() == [{BOARD.ip: HV_OFF}]
    assert "61.00 degC" in updater.states[BOARD.ip].reason
    on_then(world)


def test_the_latch_outlives_a_time_without_redis(world: Boards) -> None:
    updater = on_then(world)
    world.records[redis_key(1016)] = hk(TEMP1=61.0)
    updater.round(NOW)
    world.store_error = "gone"
    updater.round(NOW)
    world.store_error = ""
    world.records[redis_key(1016)] = hk()
    world.sends()
    updater.round(NOW)
    assert world.sends() == []


def test_off_goes_out_before_on_and_one_board_does_not_touch_the_others(world: Boards) -> None:
    other = HvBoard("127.0.3.249", 1017, 254, NOMINAL)
    world.records[redis_key(1017)] = hk(BOARDLOC=1017)
    updater = on_then(world, BOARD, other)
    del world.records[redis_key(1016)]
    updater.round(NOW)
    assert world.sends() == [{BOARD.ip: HV_OFF}, {other.ip: AT_25}]


def test_a_trip_switches_its_module_alone_off(world: Boards) -> None:
    other = HvBoard("127.0.0.4", 4, 1, NOMINAL)
    world.records[redis_key(4)] = hk(BOARDLOC=4)
    updater = on_then(world, BOARD, other)
    world.trips[254] = Trip(254, "FPGA at 90 degC", NOW)
    updater.round(NOW)
    assert world.sends() == [{BOARD.ip: HV_OFF}, {other.ip: AT_25}]
    assert updater.states[BOARD.ip].reason == "temperature guard: FPGA at 90 degC"


def test_a_board_that_is_no_longer_present_is_switched_off_then_forgotten(world: Boards) -> None:
    updater = on_then(world)
    updater.set_boards([])
    world.mute.add(BOARD.ip)
    assert updater.round(NOW) is True
    world.mute.clear()
    assert updater.round(NOW) is False
    assert world.sends() == [{BOARD.ip: HV_OFF}] * 2
    updater.round(NOW)
    assert updater.states == {} and world.sends() == []


def test_at_the_end_every_board_is_told_even_one_believed_off(world: Boards) -> None:
    other = HvBoard("127.0.3.249", 1017, 254, NOMINAL)
    updater = world.updater(BOARD, other)
    updater.round(NOW)
    world.sends()
    world.mute.add(other.ip)
    assert updater.all_off() == [other.ip]
    assert world.sends() == [{BOARD.ip: HV_OFF, other.ip: HV_OFF}]


def test_the_log_tells_changes_not_rounds(world: Boards, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "panoseti.hv")
    updater = on_then(world)
    for seconds in (1, 2, 20, 21, 22):
        updater.round(NOW + seconds)
    world.mute.add(BOARD.ip)
    world.records[redis_key(1016)] = hk(age_s=-30)
    for seconds in (30, 31, 32):
        updater.round(NOW + seconds)
    assert [record.message for record in caplog.records] == [
        "127.0.3.248: HV codes 48185 48155 48272 48169",
        "127.0.3.248: HV on confirmed",
        "127.0.3.248: HV off: HK is 21.0 s old (limit 15 s)",
        "127.0.3.248: HV off confirmed",
        "127.0.3.248: HV codes 48185 48155 48272 48169",
        "127.0.3.248: HV on not confirmed: no echo",
    ]

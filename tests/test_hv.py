"""The HV updater: what a verdict leads to, and what it does for many boards at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest

from panoseti.boards.addresses import redis_key
from panoseti.configs.settings import set_point_v
from panoseti.errors import ObsError
from panoseti.high_voltage import hv
from panoseti.high_voltage.hv import HvActions, HvBoard, HvUpdater, judge, update_loop
from panoseti.high_voltage.hv_asked import NOT_ASKED
from panoseti.high_voltage.hv_ramp import (
    HV_OFF,
    Codes,
    Hold,
    Off,
    Stage,
    Target,
    step_codes,
)
from panoseti.high_voltage.hv_trips import Trip
from panoseti.housekeeping.hk_trust import Blind, Doubt, OverLimit, Reading, Safe
from panoseti.housekeeping.store import Record
from tests.alarm_recorder import AlarmRecorder
from tests.helpers import golden
from tests.hk_records import NOW, hk

NOMINAL = (54.114, 54.08, 54.213, 54.095)
AT_25: Codes = (48185, 48155, 48272, 48169)
BOARD = HvBoard("127.0.3.248", 1016, 254, NOMINAL)
OTHER = HvBoard("127.0.0.4", 4, 1, NOMINAL)
MAX_AGE_S = 15.0


def safe(detector_c: float = 25.0) -> Safe:
    return Safe(Reading(NOW, detector_c, 40.0, (0.0,) * 4))


@pytest.mark.parametrize("case", golden("hv")["updater"], ids=lambda c: f"{c['temp_C']}")
def test_golden_codes(case: dict[str, object]) -> None:
    board = HvBoard("127.0.3.248", 1016, 254, tuple(case["nominal_V"]))  # type: ignore[arg-type]
    degrees = float(case["temp_C"])  # type: ignore[arg-type]
    if case["acceptable_temp"]:
        assert judge(board, safe(degrees)) == Target(tuple(case["dac"]))  # type: ignore[arg-type]


def test_verdicts() -> None:
    trip = Trip(254, "FPGA at 90 degC", NOW, by="temperature_guard")
    assert judge(BOARD, safe()) == Target(AT_25)
    assert judge(BOARD, Doubt("?")) == Hold("?")
    assert judge(BOARD, Blind("old")) == Off("old")
    assert judge(BOARD, OverLimit("hot")) == Off("hot", latch=True)
    assert judge(BOARD, safe(), latched="was hot") == Off("was hot", latch=True)
    assert judge(BOARD, safe(), closed="guard has died") == Off("guard has died")
    assert judge(BOARD, Doubt("?"), closed="guard has died") == Off("guard has died")
    assert judge(BOARD, safe(), trip=trip) == Off(
        "temperature_guard: FPGA at 90 degC; then: config.py --ack_hv"
    )
    unknown = HvBoard("127.0.3.248", 1016, 254, None, "UID 77 is not in quabo_info.json")
    assert judge(unknown, safe()) == Off("UID 77 is not in quabo_info.json")
    assert judge(unknown, Doubt("?")) == Off("UID 77 is not in quabo_info.json")
    beyond = HvBoard("127.0.3.248", 1016, 254, (75.0,) * 4)
    assert "outside 0..65535" in judge(beyond, safe()).reason  # type: ignore[union-attr]


class Site:
    """Boards that obey, record store, trips and interlock as the updater meets them."""

    def __init__(self, *boards: HvBoard) -> None:
        self.alarms = AlarmRecorder()
        self.temps = {board.boardloc: 25.0 for board in boards}
        self.codes: dict[str, Codes] = {board.ip: HV_OFF for board in boards}
        self.locs = {board.boardloc: board.ip for board in boards}
        self.trips: list[Trip] = []
        self.store_error = self.trips_error = self.latch_error = self.closed = ""
        self.note_error = self.asked_error = ""
        self.asked = {board.ip for board in boards}
        self.mute: set[str] = set()
        self.stuck: set[str] = set()
        self.no_hk: set[int] = set()
        self.last: dict[int, Record] = {}
        self.batches: list[dict[str, Codes]] = []
        self.now = self.delay_s = 0.0
        self.booted: list[tuple[int, float, float]] = []
        actions = HvActions(
            self.records, self.read_trips, self.latch, self.interlock, self.send, self.alarms,
            self.note_boot, self.asked_for,
        )  # fmt: skip
        self.updater = HvUpdater(actions, MAX_AGE_S, clock=lambda: self.now + self.delay_s)
        self.updater.set_boards(boards)

    def records(self, keys: Iterable[str]) -> dict[str, Record]:
        if self.store_error:
            raise ObsError(self.store_error)
        for boardloc, ip in self.locs.items():
            if boardloc not in self.no_hk and self.now % 3 == 0:
                self.last[boardloc] = hk(
                    NOW + self.now - 0.1,
                    boardloc,
                    TEMP1=self.temps[boardloc],
                    **{f"HVMON{i}": -set_point_v(c) for i, c in enumerate(self.codes[ip])},
                )
        known = {redis_key(boardloc): record for boardloc, record in self.last.items()}
        return {key: known[key] for key in keys if key in known}

    def asked_for(self) -> set[str]:
        if self.asked_error:
            raise ObsError(self.asked_error)
        return self.asked

    def read_trips(self) -> tuple[Trip, ...]:
        if self.trips_error:
            raise ObsError(self.trips_error)
        return tuple(self.trips)

    def latch(self, trips: Iterable[Trip]) -> None:
        if self.latch_error:
            raise ObsError(self.latch_error)
        self.trips += trips

    def interlock(self, trips: tuple[Trip, ...], now_unix: float, now_s: float) -> str:
        return self.closed

    def send(self, codes: Mapping[str, Codes]) -> Mapping[str, str | None]:
        self.batches.append(dict(codes))
        deaf = self.mute | self.stuck
        self.codes.update({ip: four for ip, four in codes.items() if ip not in deaf})
        return {ip: "no echo" if ip in self.mute else None for ip in codes}

    def note_boot(self, boardloc: int, there_utc: float, gone_utc: float) -> None:
        if self.note_error:
            raise ObsError(self.note_error)
        self.booted.append((boardloc, there_utc, gone_utc))

    def seconds(self, count: int) -> list[dict[str, Codes]]:
        """The batches of so many rounds, a second apart."""
        self.batches = []
        for _ in range(count):
            self.now += 1
            self.updater.look(NOW + self.now, self.now)
            self.updater.act(NOW + self.now, self.now)
        return self.batches

    def stage(self, board: HvBoard = BOARD) -> Stage:
        return self.updater.boards[board.ip].stage

    def reason(self, board: HvBoard = BOARD) -> str:
        return self.updater.boards[board.ip].reason

    def on(self) -> Site:
        self.seconds(40)
        assert set(self.codes.values()) == {AT_25}
        return self


@pytest.fixture
def site() -> Site:
    return Site(BOARD, OTHER)


def test_all_boards_go_up_together_in_steps(site: Site) -> None:
    batches = site.seconds(40)
    assert batches[0] == {BOARD.ip: HV_OFF, OTHER.ip: HV_OFF}
    up = [batch for batch in batches if set(batch.values()) != {HV_OFF}]
    assert up == [dict.fromkeys((BOARD.ip, OTHER.ip), step_codes(AT_25, i)) for i in range(4)]
    assert site.stage() is Stage.ON and site.reason() == ""


def test_boards_that_nobody_asked_hv_for_have_none(site: Site) -> None:
    """Somebody may be at work on them; asked for later, and no more, the updater running."""
    site.asked = {BOARD.ip}
    site.seconds(40)
    assert site.codes == {BOARD.ip: AT_25, OTHER.ip: HV_OFF}
    assert site.updater.unasked == {OTHER.ip}
    assert site.reason(OTHER) == NOT_ASKED
    site.asked = {BOARD.ip, OTHER.ip}
    site.on()
    site.asked = {OTHER.ip}
    assert site.seconds(1) == [{BOARD.ip: HV_OFF}]
    site.asked = set()
    assert {OTHER.ip: HV_OFF} in site.seconds(1)


def test_what_was_asked_for_and_cannot_be_read_is_off_and_told(site: Site) -> None:
    site.on()
    site.asked_error = "hv_asked.json is empty"
    assert site.seconds(1) == [{BOARD.ip: HV_OFF, OTHER.ip: HV_OFF}]
    assert site.reason() == "hv_asked.json is empty"
    assert site.alarms.standing[("hv_asked", "")] == "hv_asked.json is empty"
    site.asked_error = ""
    site.on()
    assert site.alarms.kinds() == set()


@pytest.mark.parametrize("what", ["store_error", "trips_error", "closed"])
def test_redis_gone_trips_unreadable_or_interlock_open_is_off_in_one_round(
    site: Site, what: str
) -> None:
    site.on()
    setattr(site, what, "gone")
    assert site.seconds(1) == [{BOARD.ip: HV_OFF, OTHER.ip: HV_OFF}]
    assert site.reason() == "gone"
    setattr(site, what, "")
    site.on()


def test_off_goes_out_before_on_and_one_board_does_not_touch_the_others(site: Site) -> None:
    site.on()
    site.temps = {1016: 61.0, 4: 26.0}
    batches = site.seconds(6)
    assert {BOARD.ip: HV_OFF} in batches
    first_off = batches.index({BOARD.ip: HV_OFF})
    assert all(OTHER.ip not in b or HV_OFF not in b.values() for b in batches)
    assert any(OTHER.ip in batch for batch in batches[first_off - 1 :])
    assert site.stage(OTHER) is Stage.ON


def test_too_hot_is_off_until_acknowledged_and_on_disk(site: Site) -> None:
    site.on()
    site.temps[1016] = 62.0
    site.seconds(8)
    assert [(trip.key, trip.by) for trip in site.trips] == [((254, BOARD.ip), "hv_updater")]
    assert site.trips[0].reason.startswith("detector temperature 62.00 degC is outside")
    assert [kind for kind, _ in site.alarms.told] == ["hv_latched"]
    site.temps[1016] = 25.0
    site.seconds(60)
    assert site.stage() is Stage.OFF and "config.py --ack_hv" in site.reason()
    site.trips.clear()
    site.on()
    assert len(site.alarms.told) == 1


def test_a_latch_that_cannot_be_saved_holds_all_the_same(site: Site) -> None:
    site.on()
    site.latch_error = "disk is full"
    site.temps[1016] = 62.0
    site.seconds(8)
    site.temps[1016] = 25.0
    site.seconds(60)
    assert site.stage() is Stage.OFF and site.trips == []
    site.latch_error = ""
    site.seconds(2)
    assert [trip.key for trip in site.trips] == [(254, BOARD.ip)]
    site.store_error = "gone"
    site.seconds(2)
    site.store_error = ""
    site.seconds(60)
    assert site.stage() is Stage.OFF and site.stage(OTHER) is Stage.ON


@pytest.mark.parametrize("board", ["", BOARD.ip])
def test_a_trip_switches_its_module_or_board_alone_off(site: Site, board: str) -> None:
    site.on()
    site.trips.append(Trip(254, "FPGA at 90 degC", NOW, board, "temperature_guard"))
    assert site.seconds(1) == [{BOARD.ip: HV_OFF}]
    assert site.reason().startswith("temperature_guard: FPGA at 90 degC")
    assert site.stage(OTHER) is Stage.ON


def test_a_program_that_was_stopped_in_between_sends_nothing_but_off(site: Site) -> None:
    site.on()
    site.temps = {1016: 26.0, 4: 70.0}
    site.delay_s = 60.0
    batches = site.seconds(7)
    assert batches and all(set(batch.values()) == {HV_OFF} for batch in batches)
    assert site.updater.boards[BOARD.ip].problem == "looked at too long ago: not sent"
    site.delay_s = 0.0
    site.seconds(6)
    assert site.codes[BOARD.ip] > AT_25


def test_a_board_that_is_no_longer_present_is_switched_off_then_forgotten(site: Site) -> None:
    site.on()
    site.mute.add(BOARD.ip)
    site.updater.set_boards([OTHER])
    assert site.seconds(5) == [{BOARD.ip: HV_OFF}] * 5
    site.mute.clear()
    site.seconds(10)
    assert set(site.updater.boards) == {OTHER.ip} and site.stage(OTHER) is Stage.ON


def test_a_board_whose_voltages_vanish_is_noted_as_booted_once(site: Site) -> None:
    """Settings are lost with them, which only the bring-up can mend; Redis may be away."""
    site.on()
    site.codes[BOARD.ip] = HV_OFF
    site.seconds(20)
    ((boardloc, there_utc, gone_utc),) = site.booted
    assert (boardloc, gone_utc - there_utc) == (BOARD.boardloc, 3)
    site.on()
    site.codes[BOARD.ip], site.note_error = HV_OFF, "Redis is away"
    site.seconds(20)
    assert len(site.booted) == 1
    site.note_error = ""
    site.seconds(1)
    assert len(site.booted) == 2


def test_at_the_end_everything_is_off_and_proven(site: Site) -> None:
    site.on()
    site.updater.ending = True
    assert site.seconds(1) == [{BOARD.ip: HV_OFF, OTHER.ip: HV_OFF}]
    assert set(site.updater.left_on()) == {BOARD.ip, OTHER.ip}
    site.seconds(8)
    assert site.updater.left_on() == {} and site.updater.unproven() == []


def test_at_the_end_what_is_not_proven_is_told_apart(site: Site) -> None:
    site.on()
    site.no_hk = {1016, 4}
    site.last.clear()
    site.mute.add(BOARD.ip)
    site.updater.ending = True
    site.seconds(3)
    assert site.updater.left_on() == {BOARD.ip: "no echo"}
    assert site.updater.unproven() == [OTHER.ip]


def test_the_log_tells_changes_not_rounds(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "panoseti.high_voltage.hv")
    site.on()
    site.closed = "temperature_guard has died"
    site.mute.add(BOARD.ip)
    site.seconds(10)
    site.mute.clear()
    site.seconds(10)
    mine = [r.message for r in caplog.records if BOARD.ip in r.message]
    assert mine == [
        "127.0.3.248: HV off, HVMON shows it: 2 of 3 HK packets seen",
        "127.0.3.248: HV rising: on its way up",
        "127.0.3.248: HV on, HVMON shows it (codes 48185 48155 48272 48169)",
        "127.0.3.248: HV off not confirmed: no echo",
        "127.0.3.248: HV falling: temperature_guard has died",
        "127.0.3.248: HV off, HVMON shows it: temperature_guard has died",
    ]


class OneEvening:
    """A daemon, and the time, as the loop sees them; asked to end after 40 s with HV on."""

    name, interval_s = "hv_updater", 1.0

    def __init__(self, site: Site) -> None:
        self.stop = self
        self.site = site
        self.beats: list[str] = []

    def is_set(self) -> bool:
        return self.site.now >= 40

    def wait(self, timeout_s: float) -> bool:
        self.site.now += 1
        return self.is_set()

    def beat(self, state: str, **details: object) -> None:
        self.beats.append(state)

    def time(self) -> float:
        return NOW + self.site.now

    def monotonic(self) -> float:
        return self.site.now

    def sleep(self, seconds: float) -> None:
        self.wait(1.0)


@pytest.mark.parametrize("bug", [False, True])
def test_the_end_is_off_and_proven_whether_asked_for_or_not(
    monkeypatch: pytest.MonkeyPatch, bug: bool
) -> None:
    site = Site(BOARD)
    evening = OneEvening(site)
    monkeypatch.setattr(hv, "time", evening)

    def boards() -> tuple[HvBoard, ...]:
        if site.now >= 39:
            assert site.codes[BOARD.ip] == AT_25, "HV is on before the end"
            if bug:
                raise KeyError("a bug")
        return (BOARD,)

    if bug:
        with pytest.raises(KeyError, match="a bug"):
            update_loop(evening, site.updater, boards)  # type: ignore[arg-type]
    else:
        update_loop(evening, site.updater, boards)  # type: ignore[arg-type]
    assert site.codes[BOARD.ip] == HV_OFF and site.stage() is Stage.OFF
    assert site.reason() == "hv_updater ends" and evening.beats[-1] == "ending"


def test_an_end_that_cannot_be_proven_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(BOARD).on()
    evening = OneEvening(site)
    monkeypatch.setattr(hv, "time", evening)
    site.mute.add(BOARD.ip)
    with pytest.raises(ObsError, match="HV off is not proven: 127.0.3.248: HVMON shows 54"):
        update_loop(evening, site.updater, lambda: (BOARD,))  # type: ignore[arg-type]
    assert site.now < 60


@pytest.mark.parametrize("why", ["rehearsal has failed", "no nominal voltage", "left out"])
def test_a_board_that_does_not_obey_trips_its_module(why: str) -> None:
    """The guard has no reason of its own to have it off."""
    site = Site(BOARD).on()
    site.stuck = {BOARD.ip}
    if why == "no nominal voltage":
        site.updater.set_boards([replace(BOARD, nominal_v=None, remedy="no detector_info.json")])
    elif why == "left out":
        site.updater.set_boards([])
    else:
        site.closed = why
    site.seconds(15)
    assert site.trips == []
    site.latch_error = "disk is full"
    site.seconds(3)
    site.latch_error = ""
    site.seconds(20)
    (trip,) = site.trips
    assert (trip.module_id, trip.board, trip.by) == (BOARD.module_id, "", "hv_updater")
    assert trip.reason.startswith(f"{BOARD.ip}: HVMON shows 5")
    assert [kind for kind, _ in site.alarms.told] == ["hv_trip"]


def test_a_board_that_shows_nothing_is_left_to_the_guard() -> None:
    """It knows whether the power is cut, so that nothing can come."""
    site = Site(BOARD).on()
    site.no_hk, site.mute = {BOARD.boardloc}, {BOARD.ip}
    site.seconds(400)
    assert site.trips == []


def test_it_says_which_voltages_a_set_point_was_worked_out_from() -> None:
    """Not those of the files before the board was told."""
    site = Site(BOARD)
    hv = site.updater.boards[BOARD.ip]
    site.seconds(12)
    assert (hv.stage, hv.nominal_v) == (Stage.RISING, None)
    site.seconds(18)
    assert (hv.stage, hv.nominal_v) == (Stage.ON, BOARD.nominal_v)
    assert BOARD.nominal_v is not None
    first, second, third, fourth = BOARD.nominal_v
    other = replace(BOARD, nominal_v=(first - 0.3, second, third, fourth))
    site.updater.set_boards([other])
    site.temps[BOARD.boardloc] = 45.0  # one odd packet: what is on stays as it is
    while site.now % 3:
        site.seconds(1)
    assert (hv.stage, hv.nominal_v) == (Stage.ON, BOARD.nominal_v)
    site.temps[BOARD.boardloc] = 25.0
    site.seconds(6)
    assert (hv.stage, hv.nominal_v) == (Stage.ON, other.nominal_v)

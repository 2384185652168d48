"""What housekeeping leads to: fresh, possible, steady, within limits, or not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoseti.housekeeping.hk_trust import (
    ENOUGH,
    FIELDS,
    WINDOW,
    Blind,
    BoardTrust,
    Doubt,
    HvSeen,
    Odd,
    OverLimit,
    Reading,
    Safe,
    Verdict,
    limit_fault,
    read_hk,
)
from panoseti.housekeeping.store import Record
from tests.hk_records import BOARDLOC, NOW, hk, without

MAX_AGE_S = 15.0
PERIOD_S = 3.0


def read(record: Record, now: float = NOW) -> Reading | Odd | Blind:
    return read_hk(record, BOARDLOC, now, MAX_AGE_S)


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
    assert limit_fault(Reading(NOW, detector_c, fpga_c, (0, 0, 0, 0))) == fault


def test_nothing_but_the_fields_that_are_fetched_is_looked_at() -> None:
    for record in (hk(volts=54.5, StartUp=1), hk(TEMP1="nan"), hk(HVMON0="x"), {}):
        fetched = {name: value for name, value in record.items() if name in FIELDS}
        assert read(fetched) == read(record | {"AGG_STATUS_MSG": "ok"} if record else {})


def test_a_good_record_is_read() -> None:
    assert read(hk(volts=54.5, TEMP1=40.25, TEMP2=61.5, StartUp=1), NOW + 14.9) == Reading(
        NOW, 40.25, 61.5, (54.5, 54.5, 54.5, 54.5), True
    )


# record -> degC
READ: dict[str, tuple[Record, float]] = {
    "sign dropped, -0.25": (hk(TEMP1=255.75), -0.25),
    "sign dropped, -20.25": (hk(TEMP1=235.75), -20.25),
    "lowest": (hk(TEMP1=-55.0), -55.0),
    "highest": (hk(TEMP1=127.75), 127.75),
}


@pytest.mark.parametrize("name", READ)
def test_detector_temperatures(name: str) -> None:
    record, degrees = READ[name]
    seen = read(record)
    assert isinstance(seen, Reading) and seen.detector_c == degrees


# record, a piece of the reason; with these nothing is known of the board
BLIND: dict[str, tuple[Record, str]] = {
    "absent": ({}, "no HK record"),
    "no time": (without("Computer_UTC"), "Computer_UTC is 'absent'"),
    "time nan": (hk(Computer_UTC="nan"), "Computer_UTC is nan"),
    "too old": (hk(NOW - 15.1), "15.1 s old (limit 15 s)"),
    "from the future": (hk(NOW + 60), "60.0 s in the future"),
}
# a record whose voltages are good / are not
ODD: dict[str, tuple[Record, str]] = {
    "no TEMP1": (without("TEMP1"), "TEMP1 is 'absent'"),
    "no TEMP2": (without("TEMP2"), "TEMP2 is 'absent'"),
    "empty TEMP1": (hk(TEMP1=""), "TEMP1 is ''"),
    "text": (hk(TEMP1="warm"), "TEMP1 is 'warm'"),
    "nan": (hk(TEMP1="nan"), "TEMP1 is nan"),
    "inf": (hk(TEMP1="-inf"), "TEMP1 is -inf"),
    "other board": (hk(BOARDLOC=1017), "BOARDLOC is 1017, not 1016"),
    "sign dropped, -128": (hk(TEMP1=128.0), "TEMP1 is 128.0"),
    "below the sensor's range": (hk(TEMP1=-55.25), "TEMP1 is -55.25"),
    "beyond 10 bits": (hk(TEMP1=256.0), "TEMP1 is 256.0"),
    "largest int16": (hk(TEMP1=8191.75), "TEMP1 is 8191.75"),
    "FPGA sensor dead": (hk(TEMP2=-273.15), "TEMP2 is -273.15"),
}
ODD_VOLTS: dict[str, tuple[Record, str]] = {
    "no HVMON2": (without("HVMON2"), "HVMON2 is 'absent'"),
    "HVMON nan": (hk(HVMON0="nan"), "HVMON0 is nan"),
    "HVMON beyond 16 bits": (hk(HVMON3=-80.1), "HVMON3 is -80.1 V"),
}


@pytest.mark.parametrize("name", BLIND)
def test_blind(name: str) -> None:
    record, reason = BLIND[name]
    seen = read(record)
    assert isinstance(seen, Blind) and reason in seen.reason


@pytest.mark.parametrize("name", ODD | ODD_VOLTS)
def test_odd(name: str) -> None:
    record, reason = (ODD | ODD_VOLTS)[name]
    seen = read(record)
    assert isinstance(seen, Odd) and reason in seen.reason
    assert (seen.hv_v is None) is (name in ODD_VOLTS)


# --- one packet after the other ---


class Board:
    """A board's packets, PERIOD_S apart, and the verdict after each."""

    def __init__(self) -> None:
        self.trust = BoardTrust(BOARDLOC, MAX_AGE_S)
        self.now = 0.0

    def packet(self, detector_c: object = 25.0, fpga_c: object = 40.0) -> Verdict:
        self.now += PERIOD_S
        return self.look(hk(NOW + self.now, TEMP1=detector_c, TEMP2=fpga_c))

    def look(self, record: Record) -> Verdict:
        return self.trust.take(record, NOW + self.now, self.now)

    def packets(self, *detector_c: object) -> list[str]:
        return [type(self.packet(value)).__name__ for value in detector_c]


@pytest.fixture
def board() -> Board:
    return Board()


WORDS = {"S": "Safe", "D": "Doubt", "B": "Blind", "O": "OverLimit"}
# TEMP1 of packet after packet, and the verdicts: Safe, Doubt, Blind, OverLimit
STORIES: list[tuple[str, list[object], str]] = [
    ("three that agree come first", [25, 25, 25], "DDS"),
    ("a drift is no jump", [25, 30, 35, 44, 53, 59], "DDSSSS"),
    ("a limit reached step by step", [40, 48, 56, 60.25], "DDSO"),
    ("too cold, step by step", [-5, -14, -19, -20.25], "DDSO"),
    ("one odd packet", [25, 25, 25, 300, 25], "DDSDS"),
    ("two odd packets of three", [25, 25, 25, 300, 25, 300, 25, 25], "DDSDSBSS"),
    ("two odd packets in a row", [25, 25, 25, "nan", "nan", 25, 25, 25], "DDSDBBSS"),
    ("one that jumps", [25, 25, 25, 40, 25], "DDSDS"),
    ("a new level is not believed at once", [25, 25, 25, 40, 40, 40], "DDSDBS"),
    ("to and fro", [25, 25, 25, 40, 25, 40, 25], "DDSDSBS"),
    ("one spoilt packet beyond the limit", [25, 25, 25, 90, 25, 25], "DDSDSS"),
    ("a jump beyond the limit, twice", [25, 25, 25, 90, 90], "DDSDO"),
    ("beyond the limit from the start", [70, 70], "DO"),
    ("once beyond it from the start", [70, 25, 25, 25], "DDBS"),
    ("from the start never the same", [20, 40, 20, 40], "DDBB"),
    ("from the start impossible", [300, 300, 25, 25, 25], "DBBBS"),
]


@pytest.mark.parametrize(("story", "values", "verdicts"), STORIES, ids=[s[0] for s in STORIES])
def test_stories(board: Board, story: str, values: list[object], verdicts: str) -> None:
    assert board.packets(*values) == [WORDS[letter] for letter in verdicts]


def test_the_fpga_is_judged_alike(board: Board) -> None:
    board.packets(25, 25, 25)
    assert isinstance(board.packet(25, 55), Doubt)
    assert board.packet(25, 55) == Blind(
        "TEMP2 jumped from 40.00 to 55.00 degC (2 of the last 3 HK packets are bad)"
    )
    assert isinstance(board.packet(25, 55), Safe)
    for fpga_c in (64, 73, 82):
        assert isinstance(board.packet(25, fpga_c), Safe)
    assert board.packet(25, 85.5) == OverLimit("FPGA temperature 85.50 degC is above 85 degC")


def test_the_same_packet_counts_once(board: Board) -> None:
    for _ in range(5):
        assert isinstance(board.look(hk(NOW)), Doubt)
    board.packets(25, 25)
    bad = hk(NOW + board.now + 1, TEMP1=300)
    for _ in range(5):
        assert isinstance(board.look(bad), Doubt)


def test_a_gap_is_blind_and_trust_begins_anew(board: Board) -> None:
    board.packets(25, 25, 25)
    board.now += MAX_AGE_S + 0.1
    old = hk(NOW + 3 * PERIOD_S)
    assert isinstance(board.look(old), Blind) and board.trust.hv is None
    assert board.packets(25, 25, 25) == ["Doubt", "Doubt", "Safe"]
    assert board.trust.lost("redis is gone") == Blind("redis is gone")
    assert board.packets(25, 25, 25) == ["Doubt", "Doubt", "Safe"]


def test_a_clock_that_is_set_back_does_not_keep_old_housekeeping_fresh(board: Board) -> None:
    board.packets(25, 25, 25)
    record, clock = hk(NOW + board.now), NOW + board.now
    for second in range(15):
        assert isinstance(board.trust.take(record, clock, board.now + second), Safe)
    for second in range(16, 19):
        verdict = board.trust.take(record, clock, board.now + second)
        assert isinstance(verdict, Blind) and "no new HK for" in verdict.reason


def test_the_voltages_are_known_although_the_temperature_is_not(board: Board) -> None:
    board.look(hk(NOW, volts=54, TEMP1="nan"))
    assert board.trust.hv == HvSeen(NOW, (54.0,) * 4)
    board.now += 1
    board.look(hk(NOW + 1, HVMON2="nan"))
    assert board.trust.hv is None


ANYTHING = st.one_of(st.text(), st.floats().map(str), st.integers().map(str))


@given(st.dictionaries(st.sampled_from([*FIELDS, "other"]), ANYTHING), st.booleans())
def test_no_record_whatever_is_trusted_that_is_not_fresh_and_within_limits(
    spoilt: Record, first: bool
) -> None:
    board = Board()
    board.packets(25, 25, 25)
    board.now += PERIOD_S
    record = spoilt if first else hk(NOW + board.now) | spoilt
    verdict = board.look(record)
    if isinstance(verdict, Safe):
        assert NOW + board.now - float(record["Computer_UTC"]) <= MAX_AGE_S
        assert abs(float(record["TEMP1"]) - 25) <= 10
        assert abs(float(record["TEMP2"]) - 40) <= 10
        assert float(record["BOARDLOC"]) == BOARDLOC


TEMPERATURES = st.one_of(
    st.floats(-60, 130), st.sampled_from([25.0, 26.0, 60.0, 60.25, 90.0, 300.0, float("nan")])
)


@given(st.lists(TEMPERATURES, max_size=12))
def test_whatever_comes_the_rules_hold(values: list[float]) -> None:
    """Too many packets beyond a limit trip; safe is only what was seen to be steady."""
    board = Board()
    for index, value in enumerate(values):
        verdict = board.packet(value)
        last = values[max(0, index + 1 - WINDOW) : index + 1]
        beyond = [v for v in last if -55 <= v < 128 and not -20 <= v <= 60]
        impossible = [v for v in last if not -55 <= v < 256]
        if len(beyond) >= ENOUGH:
            assert isinstance(verdict, OverLimit)
        elif len(impossible) >= ENOUGH:
            assert not isinstance(verdict, Safe | Doubt)
        if isinstance(verdict, Safe):
            assert index + 1 >= WINDOW and -20 <= value <= 60


@given(st.lists(st.floats(20, 30), min_size=3, max_size=10), st.data())
def test_one_spoilt_packet_switches_nothing_off(good: list[float], data: st.DataObject) -> None:
    board = Board()
    board.packets(*good)
    spoilt = data.draw(TEMPERATURES)
    assert isinstance(board.packet(spoilt), Safe | Doubt)
    assert isinstance(board.packet(good[-1]), Safe)

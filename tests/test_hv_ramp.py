"""One board's high voltage: up in steps that HVMON follows, off until HVMON shows it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoseti.configs.settings import HV_V_PER_CODE, set_point_v
from panoseti.high_voltage.hv_off import OffWatch
from panoseti.high_voltage.hv_ramp import (
    HV_OFF,
    PAUSE_S,
    RAMP,
    BoardHv,
    Codes,
    Hold,
    Off,
    Shown,
    Stage,
    Target,
    Want,
    compare,
    step_codes,
)
from panoseti.housekeeping.hk_trust import HvSeen
from tests.hk_records import NOW

CODES: Codes = (48185, 48155, 48272, 48169)
WARM: Codes = (48285, 48255, 48372, 48269)
ON = Target(CODES)
PERIOD_S = 3.0
NO_ECHO = "no echo"


def seen(utc_s: float, volts: float, booted: bool = False) -> HvSeen:
    return HvSeen(utc_s, (volts,) * 4, booted)


# --- off until HVMON says so ---


def test_told_until_two_packets_show_it() -> None:
    off = OffWatch()
    assert off.due(0) and not off.confirmed
    off.told(None, 0, NOW)
    assert not off.due(2.9) and off.due(3)
    off.see(seen(NOW - 0.5, 0))
    assert off.waiting_s(1) == 1, "that packet is older than the order"
    off.see(seen(NOW + 1, 30))
    off.see(seen(NOW + 4, 0.5))
    off.see(seen(NOW + 4, 0.5))
    assert not off.confirmed, "the same packet twice is one"
    off.see(seen(NOW + 7, 0.99))
    assert off.confirmed and not off.due(100) and off.waiting_s(100) == 0


def test_told_again_soon_without_an_echo() -> None:
    off = OffWatch()
    off.told(NO_ECHO, 0, NOW)
    assert not off.due(0.9) and off.due(1)
    off.told(None, 1, NOW + 1)
    assert not off.due(3.9) and off.due(4)


def test_one_detector_with_voltage_is_not_off() -> None:
    off = OffWatch()
    off.told(None, 0, NOW)
    for second in (1, 2, 3, 4):
        off.see(HvSeen(NOW + second, (0.0, 0.0, 1.0, 0.0)))
    assert not off.confirmed and off.shown_v() == 1


def test_what_comes_back_is_told_again_and_waited_for_anew() -> None:
    off = OffWatch()
    off.told(None, 0, NOW)
    off.see(seen(NOW + 1, 0))
    off.see(seen(NOW + 2, 0))
    assert off.confirmed
    off.see(None)
    assert off.confirmed, "a board that is off does not switch on because we hear nothing"
    off.see(seen(NOW + 100, 54))
    assert not off.confirmed and off.due(100)
    off.told(None, 100, NOW + 100)
    assert off.waiting_s(101) == 1 and off.overdue(101, 15, 300) is None
    assert off.overdue(115, 15, 300) == "HVMON shows 54.0 V 15 s after HV off"


@pytest.mark.parametrize(
    ("problem", "shown", "when_s", "words"),
    [
        (None, 54.0, 14.9, None),
        (None, 54.0, 15.0, "HVMON shows 54.0 V 15 s after HV off"),
        (NO_ECHO, 0.2, 1000.0, None),
        (None, None, 299.0, None),
        (None, None, 300.0, "HV off echoed, but no HVMON has shown it for 300 s"),
        (NO_ECHO, None, 300.0, "HV off not confirmed (no echo), but no HVMON has shown"),
    ],
)
def test_when_the_power_must_be_cut(
    problem: str | None, shown: float | None, when_s: float, words: str | None
) -> None:
    off = OffWatch()
    off.told(problem, 0, NOW)
    off.see(None if shown is None else seen(NOW + 1, shown))
    found = off.overdue(when_s, 15, 300)
    assert (found is None) if words is None else (found is not None and words in found)


# --- a board that obeys, and ways not to ---


class Board:
    """A board that obeys, looked at every second; HK every 3 s."""

    def __init__(self) -> None:
        self.hv = BoardHv(follow_s=5)
        self.now = 0.0
        self.unix = NOW  # what the clock says at 0
        self.codes: Codes = HV_OFF
        self.seen: HvSeen | None = None
        self.sent: list[Codes] = []
        self.stuck = self.mute = self.silent = self.booted = False
        self.volts: list[float] | None = None

    def second(self, want: Want) -> Codes | None:
        self.now += 1
        if self.now % PERIOD_S == 0 and not self.silent:
            volts = self.volts or [set_point_v(code) for code in self.codes]
            one, two, three, four = volts
            self.seen = HvSeen(self.unix + self.now - 0.1, (one, two, three, four), self.booted)
            self.booted = False
        codes = self.hv.plan(want, self.seen, self.now, self.unix + self.now)
        if codes is not None:
            self.sent.append(codes)
            if not self.stuck:
                self.codes = codes
            self.hv.told(codes, NO_ECHO if self.mute else None, self.now, self.unix + self.now)
        return codes

    def until(self, stage: Stage, want: Want = ON, limit_s: int = 60) -> float:
        begin = self.now
        while self.hv.stage is not stage:
            assert self.now - begin < limit_s, (self.hv.stage, self.hv.reason, self.hv.problem)
            self.second(want)
        return self.now - begin

    def wait(self, seconds: int, want: Want = ON) -> list[Codes]:
        """What is sent in so many seconds."""
        self.sent = []
        for _ in range(seconds):
            self.second(want)
        return self.sent


@pytest.fixture
def board() -> Board:
    return Board()


def on(board: Board) -> Board:
    board.until(Stage.ON)
    board.sent = []
    return board


def test_off_first_then_up_in_steps_that_are_seen(board: Board) -> None:
    took_s = board.until(Stage.ON)
    steps = [step_codes(CODES, step) for step in range(len(RAMP))]
    assert [c for c in board.sent if c != HV_OFF] == steps and steps[-1] == CODES
    assert board.sent[0] == HV_OFF and took_s <= 2 * PERIOD_S + 4 * (PERIOD_S + 1) + 1
    assert board.hv.reason == board.hv.problem == ""
    assert board.hv.hk_unix == board.seen.utc_s  # type: ignore[union-attr]
    assert board.wait(20) == [], "nothing to say while nothing changes"


def test_coming_means_that_time_alone_is_needed(board: Board) -> None:
    while board.hv.stage is not Stage.ON:
        board.second(ON)
        assert board.hv.coming is (board.hv.stage is not Stage.ON)
    board.second(Off("no guard"))
    assert not board.hv.coming
    board.wait(12, Hold("2 of 3 HK packets seen"))
    assert board.hv.stage is Stage.OFF and board.hv.coming, "the third packet is on its way"


def test_on_is_what_a_packet_shows(board: Board) -> None:
    """One packet without voltage switches nothing off, but it confirms nothing either."""
    on(board)
    board.wait(6)
    before = board.hv.hk_unix
    board.volts = [0.0] * 4
    board.wait(3)
    assert board.hv.stage is Stage.ON and board.hv.hk_unix == before
    board.volts = None
    board.wait(3)
    assert board.hv.stage is Stage.ON and board.hv.hk_unix > before


def test_a_step_waits_for_housekeeping(board: Board) -> None:
    board.until(Stage.RISING)
    board.silent = True
    board.wait(30)
    assert board.hv.stage is Stage.RISING and board.sent == []
    board.silent = False
    board.until(Stage.ON)


def test_doubt_holds_a_step_and_keeps_what_is_on(board: Board) -> None:
    assert set(board.wait(20, Hold("?"))) == {HV_OFF} and board.hv.stage is Stage.OFF
    board.until(Stage.RISING)
    assert board.wait(20, Hold("?")) == [] and board.hv.stage is Stage.RISING
    on(board)
    assert board.wait(20, Hold("?")) == [] and board.hv.stage is Stage.ON


@pytest.mark.parametrize("when", [Stage.RISING, Stage.ON])
def test_off_is_at_once_and_whole(board: Board, when: Stage) -> None:
    board.until(when)
    assert board.second(Off("hot")) == HV_OFF
    assert (board.hv.stage, board.hv.reason) == (Stage.FALLING, "hot")
    board.until(Stage.OFF, Off("hot"), 8)
    assert board.wait(20, Off("hot")) == []


def test_off_that_is_not_echoed_or_not_obeyed_is_repeated(board: Board) -> None:
    on(board)
    board.stuck = board.mute = True
    assert board.wait(10, Off("hot")) == [HV_OFF] * 10
    board.mute = False
    assert 3 <= len(board.wait(10, Off("hot"))) <= 4
    assert board.hv.stage is Stage.FALLING and not board.hv.off_proven
    board.stuck = False
    board.until(Stage.OFF, Off("hot"), 10)


def test_after_off_it_must_be_seen_off_before_it_rises(board: Board) -> None:
    on(board)
    board.stuck = True
    board.second(Off("hot"))
    board.wait(20)
    assert board.hv.stage is Stage.FALLING and "not before HVMON has shown" in board.hv.reason
    board.stuck = False
    board.until(Stage.ON)


@pytest.mark.parametrize("volts", [1.0, 7.0])
def test_it_does_not_rise_further_while_no_detector_follows(board: Board, volts: float) -> None:
    board.until(Stage.RISING)
    board.volts = [volts] * 4
    sent = board.wait(12)
    assert set(sent) <= {HV_OFF} and board.hv.paused, "never the second step"
    assert f"HVMON shows {volts} {volts}" in board.hv.reason
    assert "no detector follows" in board.hv.reason
    board.volts = None
    board.wait(int(PAUSE_S))
    board.until(Stage.ON)


def test_a_board_that_stays_at_a_step_goes_no_further(board: Board) -> None:
    board.until(Stage.RISING)
    board.volts = [set_point_v(code) for code in step_codes(CODES, 0)]
    sent = board.wait(14)
    assert step_codes(CODES, 1) in sent and step_codes(CODES, 2) not in sent
    assert board.hv.paused


def test_the_set_point_follows_at_its_pace(board: Board) -> None:
    on(board)
    board.wait(6)
    assert board.wait(1, Target(WARM)) == [WARM]
    assert board.wait(4) == [] and board.wait(1) == [CODES]
    assert board.hv.stage is Stage.ON


@pytest.mark.parametrize("volts", [1.2, 16.0, -1.2, -16.0])
@pytest.mark.parametrize("when", [Stage.RISING, Stage.ON])
def test_a_set_point_that_jumps_is_reached_in_steps(
    board: Board, when: Stage, volts: float
) -> None:
    """As when somebody corrects detector_info.json: not by any amount in one command."""
    new = other_set_point(volts)
    board.until(when)
    if when is Stage.RISING:
        board.wait(9)  # in the middle of it
    board.sent = []
    assert board.second(Target(new)) == HV_OFF
    assert board.hv.reason.startswith("its set point has changed by ")
    board.until(Stage.ON, Target(new))
    assert [c for c in board.sent if c != HV_OFF] == [step_codes(new, step) for step in range(4)]


def test_ten_kelvin_are_no_jump(board: Board) -> None:
    new = other_set_point(0.54)
    on(board)
    assert board.wait(6, Target(new)) == [new] and board.hv.stage is Stage.ON


def other_set_point(volts: float) -> Codes:
    """The codes of set points so much higher."""
    one, two, three, four = (code + round(volts / HV_V_PER_CODE) for code in CODES)
    return one, two, three, four


def test_a_board_that_reboots_gets_its_voltage_back_in_steps(board: Board) -> None:
    on(board)
    board.codes, board.booted = HV_OFF, True
    board.wait(3)
    assert board.hv.stage is Stage.FALLING and "the board rebooted" in board.hv.reason
    board.until(Stage.ON)
    assert {step_codes(CODES, 0), CODES} < {*board.sent, CODES}
    assert board.hv.lost_at is None, "it has said so itself"


def test_a_reboot_nobody_saw_is_seen_by_hvmon(board: Board) -> None:
    on(board)
    board.codes = HV_OFF
    board.until(Stage.FALLING, limit_s=8)
    assert "HVMON shows 0.0 0.0 0.0 0.0 V instead of 54.1" in board.hv.reason
    assert board.hv.lost_at is not None
    there_utc, gone_utc = board.hv.lost_at
    assert gone_utc - there_utc == PERIOD_S, "between two packets"
    board.until(Stage.ON)


@pytest.mark.parametrize("step", [0, 1])
def test_a_reboot_on_the_way_up_that_nobody_saw_costs_no_pause(board: Board, step: int) -> None:
    """Once: a supply that collapses again and again is none that rebooted."""
    for paused in (False, True):
        board.until(Stage.RISING)
        if step:
            assert board.wait(3) == [step_codes(CODES, step)]
        board.codes = HV_OFF
        board.until(Stage.FALLING, limit_s=12)
        assert "it rebooted, or lost its supply" in board.hv.reason
        assert board.hv.paused is paused and board.hv.coming is not paused
    board.until(Stage.ON, limit_s=int(PAUSE_S) + 60)


def test_a_supply_that_does_not_rise_is_given_up_for_a_while(board: Board) -> None:
    board.volts = [0.0] * 4
    board.until(Stage.RISING)
    board.until(Stage.FALLING, limit_s=12)
    assert not board.hv.paused, "it may have rebooted"
    board.until(Stage.RISING)
    board.until(Stage.FALLING, limit_s=12)
    assert board.hv.paused and "instead of" in board.hv.reason
    assert board.hv.lost_at is None, "a voltage that never was has not vanished"
    board.wait(int(PAUSE_S) - 10)
    assert board.hv.stage is Stage.OFF and "instead of" in board.hv.reason
    board.volts = None
    board.until(Stage.ON, limit_s=60)
    assert not board.hv.paused


def test_one_dead_detector_is_told_of_and_keeps_no_other_dark(board: Board) -> None:
    board.volts = [0.0] * 4
    board.until(Stage.RISING)
    for _ in range(60):
        board.volts = [0.0, *(set_point_v(code) for code in board.codes[1:])]
        board.second(ON)
    assert board.hv.stage is Stage.ON and "HVMON shows 0.0 5" in board.hv.problem
    assert board.hv.hk_unix > 0


def test_more_voltage_than_asked_for_is_off_for_good(board: Board) -> None:
    on(board)
    board.volts = [54.0, 54.0, 60.5, 54.0]
    board.wait(3)
    assert board.hv.stage is Stage.ON, "one packet may be spoilt"
    board.until(Stage.FALLING, limit_s=4)
    assert "HVMON shows 54.0 54.0 60.5 54.0 V instead of" in board.hv.latched


@pytest.mark.parametrize(("volts", "reason"), [(60.5, "HVMON shows 60.5"), (0.0, "it rebooted")])
def test_a_clock_that_was_set_back_hides_nothing(board: Board, volts: float, reason: str) -> None:
    on(board)
    board.unix -= 3600
    board.wait(3)
    board.volts = [volts] * 4
    board.until(Stage.FALLING, limit_s=9)
    assert reason in board.hv.reason
    board.unix -= 3600
    board.volts = [0.0] * 4
    board.until(Stage.OFF, Off("hot"), 15)


STRAYS = [(56.3,) * 4, (54.1, 56.3, 54.1, 54.1), (40.0,) * 4, (54.1, 54.1, 54.1, 40.0)]


@pytest.mark.parametrize("volts", STRAYS)
def test_what_somebody_else_has_set_is_set_back(board: Board, volts: tuple[float, ...]) -> None:
    on(board)
    board.wait(6)
    board.volts, board.sent = list(volts), []
    while not board.sent:
        board.second(ON)
        assert board.hv.stage is Stage.ON
    assert board.sent == [CODES] and not board.hv.supply_fault
    board.volts = None
    assert board.wait(30) == [] and not board.hv.supply_fault


@pytest.mark.parametrize("volts", STRAYS)
def test_what_cannot_be_set_back_is_told(board: Board, volts: tuple[float, ...]) -> None:
    """Once it was told again; what is on stays on."""
    on(board)
    board.wait(6)
    board.volts = list(volts)
    assert board.wait(12) == [CODES] and not board.hv.supply_fault
    assert board.wait(60) == [], "once is enough"
    assert board.hv.stage is Stage.ON and "also when told again" in board.hv.supply_fault
    board.volts = None
    board.wait(3)
    assert not board.hv.supply_fault
    board.volts = list(volts)
    assert board.wait(30) == [CODES], "a new story"
    assert board.second(Off("hot")) == HV_OFF and not board.hv.supply_fault


@pytest.mark.parametrize("volts", [55.6, 49.6])
def test_what_boards_in_the_field_show_is_no_stray(board: Board, volts: float) -> None:
    on(board)
    board.volts = [volts] * 4
    assert board.wait(60) == [] and not board.hv.supply_fault


@pytest.mark.parametrize(
    ("volts", "shown"),
    [
        ((54.1,) * 4, Shown.GOOD),
        ((55.7,) * 4, Shown.GOOD),
        ((49.3,) * 4, Shown.GOOD),
        ((54, 54, 54, 48.9), Shown.LOW),
        ((48, 48, 48, 48.9), Shown.WEAK),
        ((0, 0, 0, 1.0), Shown.WEAK),
        ((0, 0, 0, 0.99), Shown.GONE),
        ((54, 59.5, 54, 0), Shown.HIGH),
    ],
)
def test_compared_with_the_set_point(volts: tuple[float, ...], shown: Shown) -> None:
    assert compare(volts, CODES) is shown


def test_set_points() -> None:
    assert set_point_v(0) == set_point_v(1) == 0
    assert math.isclose(set_point_v(48185), 54.113, abs_tol=2e-3)


WANTS = st.sampled_from([ON, Target(WARM), Hold("?"), Off("cold")])
EVENTS = st.sampled_from(["", "", "", "mute", "stuck", "silent", "reboot", "heal"])


@given(st.lists(st.tuples(WANTS, EVENTS, st.integers(1, 8)), max_size=15))
def test_whatever_happens_it_never_skips_a_step_and_off_wins(
    story: list[tuple[Want, str, int]],
) -> None:
    board = Board()
    last: Codes = HV_OFF
    steps = {target.codes: [step_codes(target.codes, s) for s in range(4)]
             for target in (ON, Target(WARM))}  # fmt: skip
    for want, event, seconds in story:
        if event == "reboot":
            board.codes, board.booted = HV_OFF, True
        elif event == "heal":
            board.mute = board.stuck = board.silent = False
        elif event:
            setattr(board, event, True)
        for _ in range(seconds):
            codes = board.second(want)
            if isinstance(want, Off):
                assert codes in (None, HV_OFF)
                assert board.hv.stage in (Stage.FALLING, Stage.OFF, Stage.UNKNOWN)
            if codes is not None and codes != HV_OFF:
                level = max(i for i in range(4) if codes in (steps[CODES][i], steps[WARM][i]))
                before = max(
                    (i for i in range(4) if last in (steps[CODES][i], steps[WARM][i])), default=-1
                )
                assert level <= before + 1, "a step was skipped"
            last = last if codes is None else codes

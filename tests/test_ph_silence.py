"""When a board that sends pulse heights alone is called silent, and that a quiet one never is."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence

import pytest

from panoseti.boards.addresses import boardloc
from panoseti.configs.site import Quabo
from panoseti.nodes.node_types import Pipeline, QuaboCounts
from panoseti.nodes.ph_silence import Habit, PhSilence, habit_of, is_unexplained

BEGIN = 1_700_000_000.0
IPS = ("192.168.0.4", "192.168.0.5", "192.168.0.6", "192.168.0.7")
BOARDS = tuple(Quabo(ip, boardloc(ip) % 4, boardloc(ip), boardloc(ip) // 4) for ip in IPS)
Times = Sequence[float]
HOUR_S, LOOK_S = 3600.0, 2.0


@pytest.mark.parametrize(
    ("active_s", "longest_gap_s", "silent_after_s", "what"),
    [
        (3600, 0.01, (4, 4.1), "a busy board, like one with images"),
        (60, 0.5, (4, 6), "one that has begun a minute ago"),
        (20, 1.0, (6, 9), "and less"),
        (3600, 5.0, (10, 12), "one event in a second"),
        (3600, 40, (120, 160), "one in eight seconds"),
        (3600, 600, (12_000, 25_000), "one in two minutes"),
        (0, 0, None, "a single event"),
        (1000, 900, None, "two or three events"),
        (5, 0.01, (35, 60), "a burst as the run began is no rate"),
    ],
)
def test_a_pause_is_too_long_by_what_came_before(
    active_s: float, longest_gap_s: float, silent_after_s: tuple[float, float] | None, what: str
) -> None:
    low, high = silent_after_s or (1e5, 1e5)
    assert not is_unexplained(low, active_s, longest_gap_s), what
    assert is_unexplained(high, active_s, longest_gap_s) is (silent_after_s is not None), what


@pytest.mark.parametrize("gap_s", [float("nan"), -1e9, -1.0, 0.0])
def test_odd_numbers_are_no_silence(gap_s: float) -> None:
    assert not is_unexplained(gap_s, 100, 1)
    assert not is_unexplained(100, gap_s, 1)
    assert not is_unexplained(100, float("nan"), float("nan"))


def account(now_s: float, events: Mapping[str, Times], begin_s: float = 0.0) -> Pipeline:
    """What a pipeline that began then says of boards that sent at these times."""
    quabos = []
    for board in BOARDS:
        times = events.get(board.ip, ())
        times = times[bisect_right(times, begin_s) : bisect_right(times, now_s)]
        if times:
            gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
            quabos.append(
                QuaboCounts(
                    board.module_id,
                    board.index,
                    1,
                    len(times),
                    len(times),
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    BEGIN + times[-1],
                    now_s - times[0],
                    now_s - times[-1],
                    max(gaps, default=0.0),
                )  # fmt: skip
            )
    return Pipeline(
        pid=int(begin_s) + 1, state="running", run="r", start_time_unix=BEGIN + begin_s,
        updated_unix=BEGIN + now_s, socket_open=True, totals={}, quabos=tuple(quabos),
        bad_sources=(), products=(), errors=(),
    )  # fmt: skip


def looks(
    watch: PhSilence, events: Mapping[str, Times], until_s: float, from_s: float = 0.0
) -> dict[str, float]:
    """When each board was first called silent, looking every two seconds."""
    told: dict[str, float] = {}
    for look in range(1, int((until_s - from_s) / LOOK_S) + 1):
        now_s = from_s + look * LOOK_S
        for ip in watch.look(account(now_s, events), BOARDS):
            told.setdefault(ip, now_s)
    return told


def poisson(rate_hz: float, until_s: float, seed: int) -> list[float]:
    chance, at_s, times = random.Random(seed), 0.0, []
    while (at_s := at_s + chance.expovariate(rate_hz)) < until_s:
        times.append(at_s)
    return times


@pytest.mark.parametrize("rate_hz", [0.002, 0.02, 0.2, 1.0, 4.0])
def test_random_events_of_any_rate_are_never_a_silence(rate_hz: float) -> None:
    """Each pause of it, as it is judged just before it ends."""
    until_s = min(100 * HOUR_S, 5000 / rate_hz)
    for seed in range(3):
        times = poisson(rate_hz, until_s, seed)
        longest_s = 0.0
        for before, after in zip(times, times[1:], strict=False):
            assert not is_unexplained(after - before, before - times[0], longest_s), (seed, before)
            longest_s = max(longest_s, after - before)


def test_a_board_that_stops_is_told_and_one_that_is_rare_is_not() -> None:
    busy, rare = [k / 10 for k in range(600)], [3.0, 31.0, 44.0]
    told = looks(PhSilence(False), {IPS[0]: busy, IPS[1]: rare}, 600)
    assert list(told) == [IPS[0]]
    assert 60 + 4 < told[IPS[0]] <= 60 + 8
    since = PhSilence(False).look(account(70, {IPS[0]: busy}), BOARDS)
    assert since == {IPS[0]: pytest.approx(BEGIN + 59.9)}


def test_a_burst_is_no_rate() -> None:
    events = {IPS[0]: [k / 1000 for k in range(3000)] + [90.0, 200.0, 290.0]}
    assert looks(PhSilence(False), events, 500) == {}


def test_a_board_that_is_left_out_of_the_events_of_its_module() -> None:
    """They are rare, and come to all; one of all misses them from some time on."""
    every = poisson(0.2, 600, seed=5)
    gone_s, back_s = 200.0, 400.0
    events = dict.fromkeys(IPS[:3], every)
    events[IPS[3]] = [at for at in every if at < gone_s or at > back_s]
    told = looks(PhSilence(True), events, 600)
    tenth = every[bisect_right(every, gone_s) + 9]
    assert told == {IPS[3]: pytest.approx(tenth, abs=LOOK_S)}
    assert looks(PhSilence(False), events, 350) == {}, "each has triggers of its own"
    # Back again, and gone again.
    watch = PhSilence(True)
    events[IPS[3]] = [at for at in every if at < gone_s or back_s < at < 500]
    looks(watch, events, 480)
    assert watch.look(account(490, events), BOARDS) == {}
    assert list(looks(watch, events, 600, from_s=490)) == [IPS[3]]


def test_a_board_that_never_took_part_is_not_called_silent() -> None:
    """Its firmware may not know of the others' triggers."""
    every = poisson(1.0, 300, seed=6)
    events = {**dict.fromkeys(IPS[:2], every), IPS[2]: every[::7], IPS[3]: every[:3]}
    assert looks(PhSilence(True), events, 300) == {}


def test_what_boards_did_before_a_restart_of_the_pipeline_counts() -> None:
    busy = [k / 10 for k in range(3000)]
    watch = PhSilence(False)
    events = {IPS[0]: busy[:1000], IPS[1]: busy}
    looks(watch, events, 100)
    assert watch.look(account(103, events, begin_s=100), BOARDS) == {}
    assert watch.look(account(108, events, begin_s=100), BOARDS) == {IPS[0]: BEGIN + 100}


def test_an_account_of_an_older_pipeline_calls_nobody_silent() -> None:
    assert habit_of({"last_packet_unix": 5.0}) == Habit(0.0, 0.0, 5.0)
    assert not is_unexplained(1e9, 0.0, 0.0)

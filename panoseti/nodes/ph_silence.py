"""When a board that sends pulse heights alone has fallen silent.  Pure.

Images come all the time, pulse heights when something triggers: a pause is no silence.  A board is
silent when it sends nothing though

- it never paused anything like as long before (`is_unexplained`), or
- the boards that are read out together with it (any_trigger) go on sending: each trigger of one
  board of a module is an event of all four.

Either way nothing is said of a board that has not yet shown what it does: one whose events are
rare is never silent, and of one that never sent anything the start and the verdict tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import lgamma, log
from typing import Any

from daq.daq_facts import check_time
from panoseti.configs.site import Quabo
from panoseti.nodes.node_types import Pipeline, QuaboCounts

IMAGE_MODE_BIT = 2
# A board is not called silent sooner, however often it triggers (nor one that sends images).
BOARD_SILENT_S = 4.0
# What is less likely has a cause.  Steady triggers, at whatever rate, give a false alarm in less
# than one of 50 000 runs: most of a board's pauses are judged by far longer ones.
CHANCE = 1e-6
# What happens within so short a time is one burst, and says nothing of the time after it.
BURST_S = 1.0
# So many events in a row that a board has no part in are not lost on the way.
MISSED_EVENTS = 10

Key = tuple[int, int]
"""Module and index of a board."""


def is_unexplained(gap_s: float, active_s: float, longest_gap_s: float) -> bool:
    """Whether a pause is too long for a board that sent for `active_s` with pauses of up to
    `longest_gap_s`.

    In pieces as long as its longest pause (at least BURST_S) there was something in each one so
    far, and nothing in those of this pause.  Were that chance, the empty ones would be anywhere
    among all: that they all come last has one chance in (pieces over empty ones).
    """
    if gap_s <= BOARD_SILENT_S:
        return False
    piece_s = max(longest_gap_s, BURST_S)
    full, empty = max(active_s, 0.0) / piece_s, gap_s / piece_s
    ways = lgamma(full + empty + 1) - lgamma(full + 1) - lgamma(empty + 1)
    return ways > -log(CHANCE)


@dataclass(frozen=True)
class Habit:
    """What a board has done so far: for how long it sent, its longest pause, and when its last
    packet came (Unix time).
    """

    active_s: float = 0.0
    longest_gap_s: float = 0.0
    last_unix: float = 0.0

    def __add__(self, other: Habit) -> Habit:
        """With what it did under another pipeline."""
        return Habit(
            self.active_s + other.active_s,
            max(self.longest_gap_s, other.longest_gap_s),
            max(self.last_unix, other.last_unix),
        )


def habit_of(entry: Mapping[str, Any]) -> Habit:
    """From an entry of a pipeline's account; ValueError or TypeError where it is none."""
    names = ("first_packet_age_s", "last_packet_age_s", "longest_gap_s")
    first_s, last_s, longest_s = (float(entry.get(name) or 0.0) for name in names)
    last_unix = check_time(entry.get("last_packet_unix") or 0.0)
    return Habit(max(0.0, first_s - last_s), longest_s, last_unix)


@dataclass
class _Company:
    """How many packets the boards of a module had sent: as the events began that a board took part
    in, and when its own last one came; left_out: others have sent many since.
    """

    begin: Counter[Key]
    then: Counter[Key]
    left_out: bool = False


class PhSilence:
    """Judges the accounts of the pipelines of one node, one after the other."""

    def __init__(self, any_trigger: bool) -> None:
        self._any_trigger = any_trigger
        self._pipeline: object = None
        self._before: dict[Key, Habit] = {}
        self._counts: dict[Key, QuaboCounts] = {}
        self._company: dict[Key, _Company] = {}

    def look(self, pipeline: Pipeline, boards: Iterable[Quabo]) -> dict[str, float]:
        """The boards that have fallen silent, and since when (Unix time)."""
        me = pipeline.pid, pipeline.start_time_unix
        if me != self._pipeline:
            self._begin_anew(me)
        self._counts = {
            (count.module, count.quabo): count
            for count in pipeline.quabos
            if count.received and not count.mode & IMAGE_MODE_BIT
        }
        silent = {}
        for board in boards:
            key = board.module_id, board.index
            habit = self._before.get(key, Habit())
            if (count := self._counts.get(key)) is not None:
                habit += habit_of(asdict(count))
                gap_s, since = count.last_packet_age_s, count.last_packet_unix
            else:
                since = pipeline.start_time_unix
                gap_s = pipeline.updated_unix - since
            alone = self._any_trigger and self._is_left_out(key, gap_s)
            if alone or is_unexplained(gap_s, habit.active_s, habit.longest_gap_s):
                silent[board.ip] = since
        return silent

    def _begin_anew(self, pipeline: object) -> None:
        """Another pipeline counts from 0; what boards did before, they did."""
        for key, count in self._counts.items():
            self._before[key] = self._before.get(key, Habit()) + habit_of(asdict(count))
        self._pipeline = pipeline
        self._company = {}

    def _is_left_out(self, key: Key, gap_s: float) -> bool:
        """Whether a board that took part in the events of its module does so no more."""
        now = Counter({of: one.received for of, one in self._counts.items() if of[0] == key[0]})
        company = self._company.setdefault(key, _Company(now, now))
        if now[key] != company.then[key]:
            if company.left_out:  # it is back: what it missed counts no more
                company.begin = now
            company.then = now
        took_part = company.then - company.begin
        comes_along = took_part[key] >= max(MISSED_EVENTS, _most(took_part, key) / 2)
        missed = _most(now - company.then, key)
        company.left_out = gap_s > BOARD_SILENT_S and comes_along and missed >= MISSED_EVENTS
        return company.left_out


def _most(events: Counter[Key], key: Key) -> int:
    """Of the other boards."""
    return max((count for of, count in events.items() if of != key), default=0)

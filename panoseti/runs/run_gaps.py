"""When a pipeline did not work within a run, and when a board sent no data.

The watcher saw it as it happened; the accounts of the pipelines tell it too, where a watcher was
dead, or could not reach the node any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from panoseti.configs.load_configs import Site
from panoseti.nodes.ph_silence import Habit, is_unexplained
from panoseti.runs.run_account import Account
from panoseti.runs.watch_facts import Kind
from panoseti.runs.watch_log import Entry, Span, spans, united

OUTAGES = (Kind.PIPELINE, Kind.HUNG)
# An account is written once a second, and a pipeline ends within some.
LATE_S = 10.0
Spans = Mapping[str, Sequence[Span]]


def outages(entries: Sequence[Entry], account: Account, end_unix: float) -> Spans:
    """When a pipeline did not work, by node; end_unix: when the run was told to end."""
    early = {
        node: Span(last_unix, end_unix, lasting=True)
        for node, last_unix in account.last_unix.items()
        if end_unix - last_unix > LATE_S
    }
    return _with(spans(entries, OUTAGES, False, end_unix), early)


def silences(
    entries: Sequence[Entry],
    account: Account,
    site: Site | None,
    expected: Sequence[str],
    end_unix: float,
) -> Spans:
    """When an expected board sent no images, or of pulse heights alone for longer than can be
    explained, by address.

    What it did not send to a pipeline that did not work is not its silence.
    """
    seen = spans(entries, (Kind.BOARD,), True, end_unix)
    if site is None or site.data_or_none is None:
        return seen
    early = {}
    for quabo in site.obs.quabos:
        key = quabo.module_id, quabo.index
        sums, habit = account.quabos.get(key), account.pulse_heights.get(key, Habit())
        node_unix = account.last_unix.get(site.node_of(quabo.module_id).ip_addr)
        if quabo.ip not in expected or sums is None or not node_unix:
            continue
        images = site.data.image is not None
        last_unix = sums.last_image_unix if images else habit.last_unix
        until_unix = min(node_unix, end_unix)
        gap_s = until_unix - last_unix
        if not last_unix or gap_s <= LATE_S:
            continue
        if images or is_unexplained(gap_s, habit.active_s, habit.longest_gap_s):
            early[quabo.ip] = Span(last_unix, until_unix, lasting=True)
    return _with(seen, early)


def _with(seen: Spans, told: Mapping[str, Span]) -> Spans:
    names = dict.fromkeys([*seen, *told])
    return {
        name: united([*seen.get(name, ()), *([told[name]] if name in told else ())])
        for name in names
    }

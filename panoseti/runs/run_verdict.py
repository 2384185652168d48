"""What a run was in the end: good, lossy, partial or failed, and why.  Pure.

failed: nothing was recorded (unless that was to be expected), or the start failed.  partial:
something that belongs to it is not there, or was not until the end: boards, nodes, files.  lossy:
all of it is there, with gaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from panoseti.boards.addresses import boardloc
from panoseti.runs.disk_room import duration_text
from panoseti.runs.run_account import QuaboSums
from panoseti.runs.run_part import left_out
from panoseti.runs.run_record import LOST, Verdict
from panoseti.runs.run_summary import RunSummary
from panoseti.runs.watch_log import Span
from panoseti.words import joined

# A board that is silent for more than this part of a run is missing, not only lossy.
LONG_SILENCE = 0.1
# Shorter runs may end before the first housekeeping of every board.
HK_RUN_S = 60.0
HK_RECORDED = "start the HK recorder"


def judge(
    document: Mapping[str, Any], summary: RunSummary, missing: Sequence[str]
) -> tuple[Verdict, list[str]]:
    """The verdict on a run and its reasons.

    document: run.json; missing: data that are known to be elsewhere (a node that was not
    collected), or acts of its end that failed.
    """
    expected: list[str] = document["expected"]["quabos"]
    recorded = sum(row.recorded for row in summary.rows)
    if LOST in document:
        missing = [*missing, _lost(document)]
    quiet = summary.quiet and LOST not in document
    if (expected or LOST in document) and not recorded and not quiet:
        return Verdict.FAILED, [*missing, "no frame was recorded"]
    begun = any(step.get("phase") == "start" for step in document["steps"])
    if begun and document.get("recording_unix") is None:
        return Verdict.FAILED, [*missing, "the start failed, or was broken off"]
    run_s = _seconds(document)
    without = left_out(document).items()
    partial = [*missing, *(f"started without {name}: {why}" for name, why in without)]
    # Without the account of any pipeline it is not known which boards took part.
    known = quiet or bool(summary.quabos)
    nothing_of = [ip for ip in expected if known and not _sums(summary, ip).recorded]
    if nothing_of:
        partial.append(f"no data of {joined(nothing_of, ', ')}")
    if quiet:
        partial.append("nothing triggered, as ph_may_be_quiet in run_policy foresees")
    lossy = _losses(expected, summary)
    for name, group in summary.outages.items():
        text = f"{name}: its pipeline did not work for {_how_long(group)}"
        (partial if _is_long(group, run_s) else lossy).append(text + _restarts(summary, name))
    for node, count in summary.restarts.items():
        if node not in summary.outages:
            lossy.append(f"{node}: its pipeline was restarted {count} times")
    silent = {ip: group for ip, group in summary.silent.items() if ip not in nothing_of}
    for ip, group in silent.items():
        text = f"{ip}: silent for {_how_long(group)}"
        (partial if _is_long(group, run_s) else lossy).append(text)
    lossy += _housekeeping(document, expected, summary, run_s)
    if expected and not known:
        lossy.append("no pipeline left an account of its packets")
    partial += summary.missing
    lossy += [problem for problem in summary.problems if problem not in summary.missing]
    if partial:
        return Verdict.PARTIAL, [*partial, *lossy]
    return (Verdict.LOSSY, lossy) if lossy else (Verdict.GOOD, [])


def _lost(document: Mapping[str, Any]) -> str:
    """That nobody knows whether all is there that belongs to the run."""
    text = f"the record was lost ({document[LOST]})"
    return text if document["expected"]["quabos"] else f"{text}, and with it what was expected"


def _seconds(document: Mapping[str, Any]) -> float:
    """How long it recorded; 0 where that is not known."""
    begin, end = document.get("recording_unix"), document.get("ended_unix")
    return 0.0 if begin is None or end is None else max(0.0, end - begin)


def _sums(summary: RunSummary, ip: str) -> QuaboSums:
    return summary.quabos.get(divmod(boardloc(ip), 4), QuaboSums())


def _losses(expected: Iterable[str], summary: RunSummary) -> list[str]:
    lossy = [
        f"module {row.module}: {row.lost} of {row.expected} {row.product} frames lost"
        for row in summary.rows
        if row.lost and row.expected is not None
    ]
    names = {divmod(boardloc(ip), 4): ip for ip in expected}
    lost = [
        f"{sums.lost} of {names.get(key, f'module {key[0]} quabo {key[1]}')}"
        for key, sums in sorted(summary.quabos.items())
        if sums.lost
    ]
    if lost:
        total = sum(sums.lost for sums in summary.quabos.values())
        lossy.append(f"{total} packets lost on the way: {joined(lost, ', ')}")
    lossy += [f"{node}: {n} packets dropped by the kernel" for node, n in summary.drops.items()]
    if summary.unwritten:
        lossy.append(f"{summary.unwritten} packets not written")
    return lossy


def _is_long(group: Sequence[Span], run_s: float) -> bool:
    """Whether it lasted until the end, or for a large part of the run."""
    part = sum(span.seconds for span in group) / run_s if run_s else 0.0
    return group[-1].lasting or part > LONG_SILENCE


def _how_long(group: Sequence[Span]) -> str:
    text = duration_text(sum(span.seconds for span in group))
    if len(group) > 1:
        text += f" ({len(group)} times)"
    return text + (", until the end" if group[-1].lasting else "")


def _restarts(summary: RunSummary, node: str) -> str:
    count = summary.restarts.get(node, 0)
    return f", restarted {count} times" if count > 1 else ", restarted" if count else ""


def _housekeeping(
    document: Mapping[str, Any], expected: Sequence[str], summary: RunSummary, run_s: float
) -> list[str]:
    """Boards whose housekeeping has gaps."""
    recorded = any(step.get("what") == HK_RECORDED for step in document["steps"])
    if not recorded or run_s < HK_RUN_S:
        return []
    gaps = {
        ip: one.longest_gap_s
        for ip, one in summary.hk.items()
        if ip in expected and one.covered < 1
    }
    if not gaps:
        return []
    whose = "all boards" if len(gaps) == len(expected) else joined(list(gaps), ", ")
    return [f"no housekeeping of {whose} for up to {duration_text(max(gaps.values()))}"]

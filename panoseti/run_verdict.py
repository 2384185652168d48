"""What a run was in the end: good, lossy, partial or failed, and why.  Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from panoseti.addresses import boardloc
from panoseti.run_record import Verdict
from panoseti.run_summary import RunSummary
from panoseti.words import joined


def judge(
    document: Mapping[str, Any], summary: RunSummary, missing: Sequence[str]
) -> tuple[Verdict, list[str]]:
    """The verdict on a run and its reasons.

    document: run.json; missing: data that are known to be elsewhere (a node that was not
    collected), or acts of its end that failed.
    """
    expected: list[str] = document["expected"]["quabos"]
    recorded = sum(row.recorded for row in summary.rows)
    if expected and not recorded:
        return Verdict.FAILED, [*missing, "no frame was recorded"]
    begun = any(step.get("phase") == "start" for step in document["steps"])
    if begun and document.get("recording_unix") is None:
        return Verdict.FAILED, [*missing, "the start failed, or was broken off"]
    partial = list(missing)
    # Without the account of any pipeline it is not known which boards took part.
    silent = [ip for ip in expected if summary.quabos and not _packets(summary, ip)]
    if silent:
        partial.append(f"no data of {joined(silent, ', ')}")
    lossy = [
        f"module {row.module}: {row.lost} of {row.expected} {row.product} frames lost"
        for row in summary.rows
        if row.lost and row.expected is not None
    ]
    lost_packets = sum(sums.lost for sums in summary.quabos.values())
    for count, what in (
        (lost_packets, "packets lost on the way"),
        (summary.kernel_drops, "packets dropped by the kernel"),
        (summary.unwritten, "packets not written"),
    ):
        if count:
            lossy.append(f"{count} {what}")
    if expected and not summary.quabos:
        lossy.append("no pipeline left an account of its packets")
    lossy += summary.problems
    if partial:
        return Verdict.PARTIAL, [*partial, *lossy]
    return (Verdict.LOSSY, lossy) if lossy else (Verdict.GOOD, [])


def _packets(summary: RunSummary, ip: str) -> int:
    sums = summary.quabos.get(divmod(boardloc(ip), 4))
    return sums.recorded if sums else 0

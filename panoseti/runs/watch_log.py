"""`watcher.jsonl` of a run: what its watcher found and did, one JSON object a line.

    {"version": 1, "unix": 1721882046.1, "what": "raised", "kind": "board_silent",
     "subject": "192.168.3.249", "text": "no image data of ...", "boards": ["192.168.3.249"],
     "since_unix": 1721882041.9}

what: "begin" and "end" of the watch; "raised" and "cleared" for what was wrong for some time;
"act" for what the watcher did.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from panoseti.high_voltage.alarms import append_line

WATCH_LOG = "watcher.jsonl"
VERSION = 1


class What(StrEnum):
    """What an entry tells."""

    BEGIN = "begin"
    RAISED = "raised"
    CLEARED = "cleared"
    ACT = "act"
    END = "end"


@dataclass(frozen=True)
class Entry:
    """One line.  boards: that were silent; since_unix: since when it was so."""

    unix: float
    what: What
    kind: str
    subject: str
    text: str
    boards: tuple[str, ...] = ()
    since_unix: float | None = None


def write_entry(run_dir: Path, entry: Entry) -> None:
    """Append an entry; OSError when that fails."""
    line = json.dumps({"version": VERSION, **asdict(entry)}) + "\n"
    append_line(run_dir / WATCH_LOG, line.encode())


def read_entries(run_dir: Path) -> list[Entry]:
    """The entries in their order; lines that are none (torn by a power cut) are left out."""
    try:
        lines = (run_dir / WATCH_LOG).read_bytes().split(b"\n")
    except OSError:
        return []
    return [entry for entry in map(_entry, lines) if entry is not None]


def _entry(line: bytes) -> Entry | None:
    try:
        d = json.loads(line)
        since = d["since_unix"]
        return Entry(
            unix=float(d["unix"]),
            what=What(d["what"]),
            kind=str(d["kind"]),
            subject=str(d["subject"]),
            text=str(d["text"]),
            boards=tuple(str(ip) for ip in d["boards"]),
            since_unix=None if since is None else float(since),
        )
    except (ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class Span:
    """A time during which something was wrong, Unix times; lasting: until the end of the run."""

    begin_unix: float
    end_unix: float
    lasting: bool = False

    @property
    def seconds(self) -> float:
        """How long."""
        return max(0.0, self.end_unix - self.begin_unix)


def spans(
    entries: Iterable[Entry], kinds: Sequence[str], by_board: bool, end_unix: float
) -> dict[str, list[Span]]:
    """When something of some kinds was wrong, by subject or by board; what overlaps is one.

    end_unix: when the run ended, for what was never cleared.
    """
    standing: dict[tuple[str, str], Entry] = {}
    found: dict[str, list[Span]] = {}

    def close(entry: Entry, until: float, lasting: bool) -> None:
        span = Span(entry.since_unix or entry.unix, until, lasting)
        for name in entry.boards if by_board else (entry.subject,):
            found.setdefault(name, []).append(span)

    for entry in entries:
        key = entry.kind, entry.subject
        if entry.kind not in kinds:
            continue
        if entry.what is What.RAISED:
            standing[key] = entry
        elif entry.what is What.CLEARED and key in standing:
            close(standing.pop(key), entry.unix, lasting=False)
    for entry in standing.values():
        close(entry, end_unix, lasting=True)
    return {name: united(group) for name, group in found.items()}


def united(group: Iterable[Span]) -> list[Span]:
    """In order, those that overlap as one."""
    found: list[Span] = []
    for span in sorted(group, key=lambda one: one.begin_unix):
        if found and span.begin_unix <= found[-1].end_unix:
            last = found[-1]
            longer = span if span.end_unix >= last.end_unix else last
            found[-1] = Span(last.begin_unix, longer.end_unix, longer.lasting or span.lasting)
        else:
            found.append(span)
    return found


def acts(entries: Iterable[Entry], kind: str) -> list[Entry]:
    """What the watcher did, of one kind."""
    return [entry for entry in entries if entry.what is What.ACT and entry.kind == kind]

"""`run.json` of a run: who, where, when, versions, every act with its intent and result, verdict.

The intent of an act is on the disk before the act begins, so that whoever comes after a power
cut knows what may be half done.  Several threads may record acts at once.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from daq.daq_facts import check_time
from panoseti.configs.json_formats import is_address
from panoseti.errors import ObsError
from panoseti.flight import FlightRecorder, owner
from panoseti.runs.run_state import Holder
from panoseti.state_files import StateError, read_json, write_json

RUN_JSON = "run.json"
VERSION = 1
LOST = "record_lost"
"""In a record that had to be made anew: what became of the run's own."""


class Verdict(StrEnum):
    """What a run was in the end."""

    GOOD = "good"
    LOSSY = "lossy"
    PARTIAL = "partial"
    FAILED = "failed"


@dataclass(frozen=True)
class Expected:
    """What a run is to record: boards by address, modules of each node by its name in the
    config; absent: boards of the config that take no part and are not missed;
    missing: what start.py --partial left out, and why.
    """

    quabos: tuple[str, ...]
    nodes: dict[str, tuple[int, ...]]
    absent: tuple[str, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)


class Act:
    """One act under way; `text` can be set to say how it went."""

    def __init__(self) -> None:
        self.text = ""


class RunRecord:
    """The record of one run.

    tolerant: a disk that is full or fails does not keep an act from being carried out (stop);
    `problem` then says why the record is behind.
    """

    def __init__(
        self,
        directory: Path,
        document: dict[str, Any],
        tolerant: bool = False,
        flight: FlightRecorder | None = None,
    ) -> None:
        self.path = directory / RUN_JSON
        self.problem = ""
        self._document = document
        self._tolerant = tolerant
        self._flight = flight or FlightRecorder(None, "")
        self._lock = threading.Lock()

    @property
    def document(self) -> dict[str, Any]:
        """A copy of what is recorded."""
        with self._lock:
            return copy.deepcopy(self._document)

    def tolerate(self) -> None:
        """From now on acts are carried out even where they cannot be recorded."""
        self._tolerant = True

    def refresh(self) -> None:
        """Take over what another process has recorded meanwhile; the caller keeps others out.

        What stands here remains where the file cannot be used or is behind it.
        """
        with self._lock:
            if self.problem:
                return
            try:
                self._document = read_record(self.path.parent).document
            except (FileNotFoundError, StateError):
                return

    def set(self, **fields: Any) -> None:
        """Record fields at the top level."""
        with self._lock:
            self._document.update(fields)
            self._store()

    @contextmanager
    def act(self, phase: str, what: str, subject: str = "") -> Iterator[Act]:
        """Record intent before and result after the body; a failure is recorded and goes on up.

        phase: start, undo, stop or collect; what: the act; subject: node, board or file.
        """
        entry: dict[str, Any] = {
            "phase": phase,
            "what": what,
            "subject": subject,
            "by": owner(),
            "intent_unix": time.time(),
            "result_unix": None,
            "ok": None,
            "text": "",
        }
        with self._lock:
            self._document["steps"].append(entry)
            self._store()
        self._flight.note("intent", phase=phase, act=what, subject=subject)
        act = Act()
        try:
            yield act
        except BaseException as error:
            self._result(entry, False, str(error) or type(error).__name__)
            raise
        self._result(entry, True, act.text)

    def _result(self, entry: dict[str, Any], ok: bool, text: str) -> None:
        self._flight.note(
            "result", phase=entry["phase"], act=entry["what"], subject=entry["subject"], ok=ok,
            text=text,
        )  # fmt: skip
        with self._lock:
            entry.update(result_unix=time.time(), ok=ok, text=text)
            self._store()

    def _store(self) -> None:
        try:
            write_json(self.path, self._document)
        except OSError as error:
            self.problem = f"{self.path}: {error.strerror or error}"
            if not self._tolerant:
                raise ObsError(f"{self.problem}; nothing is begun that cannot be recorded") from (
                    error
                )


def new_document(
    holder: Holder, argv: Sequence[str], software: dict[str, Any], expected: Expected
) -> dict[str, Any]:
    """What run.json says when a run begins."""
    return {
        "version": VERSION,
        "run": holder.run,
        "owner": holder.owner,
        "token": holder.token,
        "command_dir": holder.command_dir,
        "argv": list(argv),
        "software": software,
        "started_unix": holder.since_unix,
        "recording_unix": None,
        "planned_end_unix": None,
        "ended_unix": None,
        "expected": asdict(expected),
        "steps": [],
        "collect_asked": None,
        "collection": None,
        "verdict": None,
    }


def read_record(
    directory: Path, tolerant: bool = False, flight: FlightRecorder | None = None
) -> RunRecord:
    """The record of a run directory; FileNotFoundError, StateError when it is unusable."""
    path = directory / RUN_JSON
    document = read_json(path, VERSION)
    fault = _fault(document)
    if fault:
        raise StateError(f"{path}: {fault}; it is not used")
    if document.get("run") != directory.name:
        raise StateError(f"{path}: is of another run, {document.get('run')!r}; it is not used")
    return RunRecord(directory, document, tolerant, flight)


def _fault(document: dict[str, Any]) -> str:
    """What a document lacks to be a record; empty when nothing.

    All that is used of it has its type from here on: a stop must not trip over it halfway.
    """
    if not (_are(document.get("steps"), _STEP) and all(map(_is_step, document["steps"]))):
        return "has no list of steps"
    if not _is_expected(document.get("expected")):
        return "does not say what was expected"
    for name in ("recording_unix", "planned_end_unix", "ended_unix"):
        if name not in document or not _is_time_or_none(document[name]):
            return f"has no {name}"
    if not _is_time_or_none(document.get("started_unix")):
        return "has no started_unix"
    if document.get("collection", ()) is not None and not (
        _are(document.get("collection"), {"nodes"})
        and all(map(_is_attempt, document["collection"]))
    ):
        return "has no list of collections"
    return ""


def _is_step(step: dict[str, Any]) -> bool:
    return (
        _all_are(str, [step["phase"], step["what"], step["subject"]])
        and step["intent_unix"] is not None
        and _is_time_or_none(step["intent_unix"])
        and _is_time_or_none(step["result_unix"])
        and isinstance(step["ok"], bool | None)
    )


def _is_expected(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _all_are(str, value.get("quabos"))
        and all(map(is_address, value["quabos"]))
        and isinstance(value.get("nodes"), dict)
        and all(_all_are(int, modules) for modules in value["nodes"].values())
        and isinstance(value.get("missing", {}), dict)
    )


def _is_attempt(attempt: dict[str, Any]) -> bool:
    """Whether it says what became of a collection at each node: pairs of a file and a reason."""
    return (
        isinstance(attempt.get("problems", []), list)
        and _are(attempt["nodes"], {"node", "failed"})
        and all(
            isinstance(node["node"], str)
            and isinstance(node["failed"], list)
            and all(_all_are(str, pair) and len(pair) == 2 for pair in node["failed"])
            for node in attempt["nodes"]
        )
    )


def _is_time_or_none(value: Any) -> bool:
    if value is None:
        return True
    try:
        check_time(value)
    except ValueError:
        return False
    return isinstance(value, int | float)


_STEP = {"phase", "what", "subject", "intent_unix", "result_unix", "ok"}


def _are(value: Any, names: set[str]) -> bool:
    """Whether it is a list of objects that have all these names."""
    return isinstance(value, list) and all(
        isinstance(one, dict) and names <= one.keys() for one in value
    )


def _all_are(kind: type, value: Any) -> bool:
    """Whether it is a list of such values."""
    return isinstance(value, list) and all(isinstance(one, kind) for one in value)


def unfinished(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Acts whose intent is recorded but no result: a process was killed within them."""
    return [step for step in document["steps"] if step.get("result_unix") is None]


def collection_broken_off(document: dict[str, Any]) -> bool:
    """Whether a collection was asked for that never came to an end, not even to a bad one."""
    return bool(document.get("collect_asked"))


def cleanup_asked(document: dict[str, Any]) -> bool:
    """Whether the collection that was asked for is to delete the copies on the nodes, too."""
    asked = document.get("collect_asked")
    return not isinstance(asked, dict) or bool(asked.get("cleanup", True))

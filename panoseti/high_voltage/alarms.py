"""Alarms: what somebody must be told, whoever noticed it.

Each alarm is one JSON line in `<head data>/log/alarms.jsonl`, one of the flight recorder, and is
given to the command `alarm_hook` of obs_config.json (if there is one) as JSON on its stdin.  To
raise one costs nothing: it is put into a queue, and two threads write and call, so that neither a
full disk nor a hook that hangs holds up what keeps the boards safe.

    with Alarms(data_dir, "temperature_guard", hook=site.obs.alarm_hook) as alarms:
        alarms.tell("run_stopped", "too hot")                     # it happened
        alarms.hold("blind", "192.168.3.248", "HK is 16 s old")   # it is so, until ...
        alarms.hold("blind", "192.168.3.248", "")                 # ... it is not any more

A line: {"version": 1, "time_unix", "utc", "source", "kind", "subject", "state", "text", "facts"};
state is "event", or "raised" and later "cleared".
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from daq.daq_facts import utc_text
from panoseti.configs.json_formats import MASK, is_secret, masked_text
from panoseti.flight import FlightRecorder
from panoseti.launch import log_dir

logger = logging.getLogger(__name__)

ALARMS_FILE = "alarms.jsonl"
HOOK_OUTPUT = "alarm_hook.out"
VERSION = 1
HOOK_TIMEOUT_S = 10.0
# What waits; beyond that an alarm is only logged.
WAITING = 1000
TEXT_CHARACTERS = 2000
CLOSE_S = 3.0
# So much of the end of the file is looked at for alarms that still stand.
TAIL_BYTES = 4 << 20


class AlarmState(StrEnum):
    """Whether it happened, has begun, or has ended."""

    EVENT = "event"
    RAISED = "raised"
    CLEARED = "cleared"


@dataclass(frozen=True)
class Alarm:
    """source: the program; kind: one word; subject: board, module, ... that it is about."""

    time_unix: float
    source: str
    kind: str
    subject: str
    state: AlarmState
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """What a "cleared" has in common with its "raised"."""
        return self.source, self.kind, self.subject

    def line(self) -> bytes:
        """As it stands in the file and goes to the hook; passwords masked, always one line."""
        document = {"version": VERSION, "utc": utc_text(self.time_unix), **asdict(self)}
        return json.dumps(_masked(document), default=str).encode() + b"\n"


def _masked(value: Any) -> Any:
    """A JSON value without secrets."""
    if isinstance(value, str):
        return masked_text(value)
    if isinstance(value, Mapping):
        return {k: MASK if is_secret(k) else _masked(member) for k, member in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(member) for member in value]
    return value


class Alarms:
    """The alarms of one program; a context manager, for the threads that write and call.

    source: name of the program; hook: command and arguments, () = none.  What the program of this
    name held when it ended last is cleared: it looks again.  A clean end clears what it holds.
    """

    def __init__(
        self,
        data_dir: Path,
        source: str,
        hook: Sequence[str] = (),
        hook_timeout_s: float = HOOK_TIMEOUT_S,
    ) -> None:
        self._path = log_dir(data_dir) / ALARMS_FILE
        self._source = source
        self._flight = FlightRecorder(data_dir, source)
        self._hook = tuple(hook)
        self._hook_timeout_s = hook_timeout_s
        self._held: dict[tuple[str, str], str] = {}
        self._writer = _Worker("alarm log", self._write)
        self._caller = _Worker("alarm hook", self._call)
        self._failed = False

    def __enter__(self) -> Alarms:
        for old in standing_alarms(self._path.parent.parent):
            if old.source == self._source:
                self._put(old.kind, old.subject, AlarmState.CLEARED, "the program was restarted")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            for held, subject in list(self._held):
                self.hold(held, subject, "")
        self.close()

    def close(self, wait_s: float = CLOSE_S) -> None:
        """Wait a little for what is still to be written and called."""
        deadline = time.monotonic() + wait_s
        self._writer.close(deadline)
        self._caller.close(deadline)

    def tell(self, kind: str, text: str, subject: str = "", **facts: Any) -> None:
        """Something happened."""
        self._put(kind, subject, AlarmState.EVENT, text, facts)

    def hold(self, kind: str, subject: str, text: str, **facts: Any) -> None:
        """Something is so ("" = no longer); said when it begins and when it ends, not between."""
        key = kind, subject
        if bool(text) == (key in self._held):
            return
        if text:
            self._held[key] = text
            self._put(kind, subject, AlarmState.RAISED, text, facts)
        else:
            self._put(kind, subject, AlarmState.CLEARED, self._held.pop(key), facts)

    def hold_only(self, kind: str, texts: Mapping[str, str]) -> None:
        """All of a kind at once: held are the subjects of `texts`, and no others."""
        for known, subject in list(self._held):
            if known == kind and not texts.get(subject):
                self.hold(kind, subject, "")
        for subject, text in texts.items():
            self.hold(kind, subject, text)

    def _put(
        self,
        kind: str,
        subject: str,
        state: AlarmState,
        text: str,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        cut = text[:TEXT_CHARACTERS]
        alarm = Alarm(time.time(), self._source, kind, subject, state, cut, dict(facts or {}))
        level = logging.INFO if state is AlarmState.CLEARED else logging.CRITICAL
        about = f" {subject}:" if subject and subject not in cut else ""
        ended = " has ended:" if state is AlarmState.CLEARED else ":"
        logger.log(level, "ALARM %s%s%s %s", kind, ended, about, masked_text(cut))
        self._writer.put(alarm)
        if self._hook:
            self._caller.put(alarm)

    # --- in the threads ---

    def _write(self, alarm: Alarm) -> None:
        try:
            append_line(self._path, alarm.line())
        except OSError as error:
            if not self._failed:
                logger.error("cannot write %s: %s", self._path, error.strerror)
            self._failed = True
        else:
            self._failed = False
        self._flight.note(
            "alarm", kind=alarm.kind, subject=alarm.subject, state=alarm.state, text=alarm.text
        )

    def _call(self, alarm: Alarm) -> None:
        problem = call_hook(
            self._hook, alarm.line(), self._path.parent / HOOK_OUTPUT, self._hook_timeout_s
        )
        if problem:
            logger.error("alarm_hook %s: %s", self._hook[0], problem)


class _Worker:
    """One thread that does one thing after the other; started with the first."""

    def __init__(self, name: str, work: Callable[[Alarm], None]) -> None:
        self._name = name
        self._work = work
        self._queue: queue.Queue[Alarm | None] = queue.Queue(WAITING)
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def put(self, alarm: Alarm) -> None:
        if self._thread is None:
            self._queue, self._closed = queue.Queue(WAITING), threading.Event()
            arguments = self._queue, self._closed
            self._thread = threading.Thread(
                target=self._run, args=arguments, name=self._name, daemon=True
            )
            self._thread.start()
        try:
            self._queue.put_nowait(alarm)
        except queue.Full:
            logger.error("%s: too many wait; one is left out", self._name)

    def close(self, deadline: float) -> None:
        """Let it end what waits until a time of the monotonic clock; the rest is left out."""
        if self._thread is None:
            return
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        self._closed.set()
        self._thread = None

    def _run(self, waiting: queue.Queue[Alarm | None], closed: threading.Event) -> None:
        while (alarm := waiting.get()) is not None and not closed.is_set():
            self._work(alarm)


def append_line(path: Path, line: bytes) -> None:
    """Append a line by one write, so that several programs may; OSError when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if os.write(fd, line) != len(line):
            raise OSError(28, "written in part: is the disk full?")
    finally:
        os.close(fd)


def call_hook(hook: Sequence[str], line: bytes, output: Path, timeout_s: float) -> str:
    """Call a command with `line` on its stdin; what went wrong, "" = nothing.

    It and its children are killed when it takes too long.
    """
    try:
        with _opened(output) as out:
            process = subprocess.Popen(
                list(hook), stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=True
            )
    except OSError as error:
        return f"cannot be started: {error.strerror}"
    with process:
        try:
            process.communicate(line, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return f"killed after {timeout_s:g} s"
    return f"exit code {process.returncode} (more in {output})" if process.returncode else ""


def _opened(output: Path) -> IO[bytes]:
    """Where the hook's words go; nowhere when the disk is full: the call matters more."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        return output.open("ab")
    except OSError:
        return open(os.devnull, "wb")


def read_alarms(data_dir: Path, last: int | None = None) -> list[Alarm]:
    """The alarms of the end of the file, oldest first; lines that are none are left out."""
    path = log_dir(data_dir) / ALARMS_FILE
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    found = [alarm for alarm in map(_alarm, lines) if alarm is not None]
    return found if last is None else found[max(0, len(found) - last) :]


def standing_alarms(data_dir: Path) -> list[Alarm]:
    """Those that were raised and not cleared, oldest first."""
    standing: dict[tuple[str, str, str], Alarm] = {}
    for alarm in read_alarms(data_dir):
        if alarm.state is AlarmState.RAISED:
            standing[alarm.key] = alarm
        elif alarm.state is AlarmState.CLEARED:
            standing.pop(alarm.key, None)
    return list(standing.values())


def _alarm(line: bytes) -> Alarm | None:
    try:
        d = json.loads(line)
        return Alarm(
            float(d["time_unix"]),
            str(d["source"]),
            str(d["kind"]),
            str(d["subject"]),
            AlarmState(d["state"]),
            str(d["text"]),
            dict(d["facts"]),
        )
    except (ValueError, KeyError, TypeError):
        return None

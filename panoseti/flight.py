"""The flight recorder: one line for every operator command, packet to a board, ssh step and
change of state, in `<head node data directory>/log/flight_<UTC day>.log`.

    2026-11-25T00:36:33.120Z obs@head[4711] start.py send board="127.0.3.248" command="SetHv"

Time, owner (user@host[pid]), program, what happened, and fields as name=JSON value.  Lines are
appended whole by one write, so that several programs may write at once.  A disk that is full is
told once on stderr and never keeps a command from being carried out.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoseti.configs.json_formats import masked_text
from panoseti.launch import log_dir

_FILE = re.compile(r"flight_\d{4}-\d{2}-\d{2}\.log")
_LINE = re.compile(
    r"(?P<time>\S+Z) (?P<owner>\S+) (?P<program>\S+) (?P<what>\S+)(?: (?P<rest>.*))?"
)


def user_name() -> str:
    """Who runs this; the number of the user where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def owner() -> str:
    """Who does this, from where: user@host[pid]."""
    return f"{user_name()}@{socket.gethostname()}[{os.getpid()}]"


class FlightRecorder:
    """Appends to the recorder of a data directory; without one (None) it does nothing.

    program: name of the script or daemon that acts.
    """

    def __init__(self, data_dir: Path | None, program: str) -> None:
        self._folder = None if data_dir is None else log_dir(data_dir)
        self.program = program
        self._owner = owner()
        self._failed = False

    def note(self, what: str, **fields: Any) -> None:
        """Record one event; `what` is one word, fields are anything JSON can hold."""
        if self._folder is None:
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        values = "".join(f" {name}={_text(value)}" for name, value in fields.items())
        line = f"{stamp}.{int(now % 1 * 1000):03d}Z {self._owner} {self.program} {what}{values}\n"
        try:
            self._append(self._folder / f"flight_{stamp[:10]}.log", line.encode())
        except OSError as error:
            if not self._failed:
                _say(
                    f"{self.program}: flight recorder {self._folder}: {error.strerror};"
                    " commands are carried out unrecorded"
                )
            self._failed = True

    def command(self, argv: Sequence[str]) -> None:
        """Record the operator's command line."""
        self.note("command", argv=list(argv), cwd=os.getcwd())

    @staticmethod
    def _append(path: Path, line: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            fd = os.open(path, flags, 0o644)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, flags, 0o644)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)


def _say(text: str) -> None:
    """On stderr, which for a daemon is a file on the same full disk."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _text(value: Any) -> str:
    """A field's value on one line, passwords masked."""
    return masked_text(json.dumps(value, default=str, ensure_ascii=True))


@dataclass(frozen=True)
class FlightLine:
    """One recorded event; text is the line as it stands."""

    time: str
    owner: str
    program: str
    what: str
    text: str


def read_flight(data_dir: Path, last: int | None = None) -> list[FlightLine]:
    """The recorded events, oldest first; `last`: only so many from the end.

    Lines that are none (a torn one after a power cut) are left out.
    """
    found: list[FlightLine] = []
    for path in reversed(_files(data_dir)):
        day = list(_lines(path))
        found = day + found
        if last is not None and len(found) >= last:
            return found[-last:] if last else []
    return found


def _files(data_dir: Path) -> list[Path]:
    try:
        return sorted(p for p in log_dir(data_dir).iterdir() if _FILE.fullmatch(p.name))
    except FileNotFoundError:
        return []


def _lines(path: Path) -> Iterator[FlightLine]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            if match := _LINE.fullmatch(text.rstrip("\n")):
                yield FlightLine(
                    match["time"], match["owner"], match["program"], match["what"], match[0]
                )

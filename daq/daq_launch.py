"""One attempt to launch the pipeline: waiting until it records, and taking everything back.

Python >= 3.8, standard library and pgrep alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from types import FrameType
from typing import Callable, List, Optional

from daq_facts import PIPELINE_THREADS
from daq_node import DaqError, Document, describe
from daq_process import Identity, find_hashpipes, is_alive, read_status

POLL_S = 0.05
# A pipeline that does not come up is told to end, then made to.
END_SIGNALS = ((signal.SIGINT, 5.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0))


class Attempt:
    """A start that can be undone: what it has made, in order."""

    def __init__(self) -> None:
        self._undo: List[Callable[[], object]] = []

    def on_failure(self, act: Callable[[], object]) -> None:
        """Undo acts are carried out in reverse order."""
        self._undo.append(act)

    def undo(self) -> List[str]:
        """Take everything back that can be; what could not."""
        left = []
        for act in reversed(self._undo):
            try:
                act()
            except (OSError, DaqError) as error:
                left.append(describe(error) if isinstance(error, OSError) else str(error))
        return left


class Interruption:
    """A signal that tells a start to end: noted at once, heeded only where it waits.

    So it never comes between an act and the note how to undo it.
    """

    def __init__(self) -> None:
        self._number = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        self._number = number

    def check(self) -> None:
        """Raise DaqError when the start was told to end."""
        if self._number:
            name = signal.Signals(self._number).name
            raise DaqError(f"start_daq.py was ended by {name}")


class Launch:
    """The script that starts the pipeline, in a session of its own."""

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption
        self._child: Optional[subprocess.Popen[bytes]] = None

    @property
    def begun(self) -> bool:
        """Whether anything was launched."""
        return self._child is not None

    def begin(self, script: str, output: Path) -> None:
        """Launch it; what it prints is added to a file."""
        with output.open("ab") as out:
            self._child = subprocess.Popen(
                ["/bin/sh", script],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def pause(self) -> None:
        """A moment's wait; DaqError when the start was told to end."""
        self._interruption.check()
        time.sleep(POLL_S)

    @property
    def _pid(self) -> int:
        if self._child is None:
            raise RuntimeError("nothing was launched")
        return self._child.pid

    def ended(self) -> Optional[str]:
        """How it has ended; None while it runs.  Its pid stays taken: it is not collected."""
        found = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        if found.si_code == os.CLD_EXITED:
            return f"ended with exit code {found.si_status}"
        return f"was ended by signal {found.si_status} ({signal.strsignal(found.si_status)})"

    def wait_found(self, deadline: float) -> Identity:
        """The process called hashpipe in the session; DaqError when there is none in time."""
        while True:
            for identity in find_hashpipes():
                try:
                    if os.getsid(identity.pid) == self._pid:
                        return identity
                except ProcessLookupError:
                    continue
            ended = self.ended()
            if ended:
                raise DaqError(f"hashpipe {ended} at once")
            if time.monotonic() > deadline:
                raise DaqError("no process called hashpipe appeared")
            self.pause()

    def wait_recording(self, identity: Identity, status_path: Path, deadline: float) -> None:
        """Wait until this very process says that it records; DaqError when it does not."""
        while True:
            status = read_status(status_path, identity.pid)
            missing = "it has written no status" if status is None else missing_to_record(status)
            if not missing and is_alive(identity):
                return
            ended = self.ended()
            if ended or not is_alive(identity):
                raise DaqError(f"hashpipe {ended or 'ended'} before it recorded")
            if time.monotonic() > deadline:
                raise DaqError(f"hashpipe does not record in time: {missing}")
            self.pause()

    def end(self) -> None:
        """End the pipeline and all that was launched with it."""
        if self._child is None:
            return
        for number, patience_s in END_SIGNALS:
            if self.ended():
                break
            self._signal(number)
            self._signal(signal.SIGCONT)
            deadline = time.monotonic() + patience_s
            while not self.ended() and time.monotonic() < deadline:
                time.sleep(POLL_S)
        if not self.ended():
            raise DaqError(f"hashpipe (pid {self._pid}) does not end at SIGKILL: its disk hangs?")
        self._signal(signal.SIGKILL)  # whatever else was launched with it
        self._child.wait()

    def _signal(self, number: int) -> None:
        """To the whole group, which is ours as long as our child is not collected."""
        try:
            os.killpg(self._pid, number)
        except (ProcessLookupError, PermissionError):
            pass


def missing_to_record(status: Document) -> str:
    """What a pipeline lacks to recording, by its status; empty when nothing."""
    threads = status.get("threads")
    states = threads if isinstance(threads, dict) else {}
    idle = [name for name in PIPELINE_THREADS if states.get(name) != "running"]
    if idle:
        return f"{', '.join(idle)} not running"
    if status.get("socket_open") is not True:
        return "its socket is not open"
    return "" if status.get("state") == "running" else f"its state is {status.get('state')}"

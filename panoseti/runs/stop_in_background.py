"""stop.py, started by a program that goes on (and is ended by it, maybe), or ends before it."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from panoseti.flight import FlightRecorder
from panoseti.launch import log_dir

logger = logging.getLogger(__name__)

STOP_SCRIPT = Path(__file__).resolve().parents[2] / "stop.py"
AGAIN_S = 60.0
# Its last line says why it failed.
TAIL_BYTES = 4096


def output_path(data_dir: Path, who: str) -> Path:
    """What a stop.py says that `who` has started."""
    return log_dir(data_dir) / f"{who}.stop.out"


class StopInBackground:
    """Stops the run `run` and no other, or (None) whatever run is in progress.

    A run that an operator ends at the same moment is left as the operator wants it.  Asked again
    while it is at work it does nothing; when it has failed, it is tried again after a minute.

    failure: of the last stop.py that has ended, in words; "" = it has not failed.
    """

    def __init__(
        self, config_dir: Path, data_dir: Path, run: str | None, who: str, flight: FlightRecorder
    ) -> None:
        self._config_dir = config_dir
        self._words = ["--data_dir", str(data_dir)]
        if run is not None:
            self._words += ["--run", run, "--if_in_progress"]
        self._output = output_path(data_dir, who)
        self._flight = flight
        self._child: subprocess.Popen[bytes] | None = None
        self._not_before_s = 0.0
        self.failure = ""

    def __call__(self, reason: str) -> bool:
        """Stop it because of `reason`; whether that was begun now."""
        self.look()
        if self._child is not None or time.monotonic() < self._not_before_s:
            return False
        logger.critical("stopping the run: %s", reason)
        self._flight.note("stop_in_background", reason=reason, words=self._words)
        try:
            with self._output.open("ab") as out:
                self._child = subprocess.Popen(
                    [sys.executable, str(STOP_SCRIPT), *self._words],
                    cwd=self._config_dir,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            self.failure = f"stop.py cannot be started: {error}"
            logger.error("%s", self.failure)
            self._not_before_s = time.monotonic() + AGAIN_S
            return False
        return True

    def look(self) -> None:
        """Notice, and log, that stop.py has ended."""
        code = None if self._child is None else self._child.poll()
        if code is None:
            return
        self._child, self.failure = None, ""
        if code:
            self._not_before_s = time.monotonic() + AGAIN_S
            self.failure = (
                f"stop.py: exit {code}: {self._last_line()} (all it said: {self._output})"
            )
        logger.log(logging.ERROR if code else logging.INFO, "stop.py: exit %d (%s)", code,
                   self._output)  # fmt: skip

    def _last_line(self) -> str:
        try:
            with self._output.open("rb") as out:
                out.seek(max(0, self._output.stat().st_size - TAIL_BYTES))
                lines = out.read().decode(errors="replace").split("\n")
        except OSError as error:
            return f"what it said cannot be read: {error.strerror}"
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def collect_in_background(config_dir: Path, data_dir: Path, run: str, more: Sequence[str]) -> int:
    """Let another stop.py collect a run, whatever becomes of this shell; its pid.

    more: words of its command line.  What it says goes to `collect_output`.  OSError when it cannot
    be started.
    """
    words = ["--run", run, "--data_dir", str(data_dir), *more]
    with collect_output(data_dir, run).open("ab") as out:
        child = subprocess.Popen(
            [sys.executable, str(STOP_SCRIPT), *words],
            cwd=config_dir,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    child.returncode = 0  # it outlives this program on purpose: nobody is to be told of it
    return child.pid


def collect_output(data_dir: Path, run: str) -> Path:
    """What a collection in the background says."""
    return log_dir(data_dir) / f"collect_{run}.out"

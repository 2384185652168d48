"""stop.py for one run, started by a program that goes on (and is ended by it, maybe)."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

from panoseti.flight import FlightRecorder
from panoseti.launch import log_dir

logger = logging.getLogger(__name__)

STOP_SCRIPT = Path(__file__).resolve().parent.parent / "stop.py"
AGAIN_S = 60.0


class StopInBackground:
    """Stops the run `run` and no other; what stop.py says goes to `<log>/<who>.stop.out`.

    Asked again while it is at work it does nothing; when it has failed, it is tried again after a
    minute.
    """

    def __init__(
        self, config_dir: Path, data_dir: Path, run: str, who: str, flight: FlightRecorder
    ) -> None:
        self._config_dir = config_dir
        self._words = ["--run", run, "--data_dir", str(data_dir)]
        self._output = log_dir(data_dir) / f"{who}.stop.out"
        self._flight = flight
        self._child: subprocess.Popen[bytes] | None = None
        self._not_before_s = 0.0

    def __call__(self, reason: str) -> bool:
        """Stop it because of `reason`; whether that was begun now."""
        if self._at_work() or time.monotonic() < self._not_before_s:
            return False
        self._not_before_s = time.monotonic() + AGAIN_S
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
            logger.error("stop.py cannot be started: %s", error)
            return False
        return True

    def _at_work(self) -> bool:
        code = None if self._child is None else self._child.poll()
        if self._child is None or code is None:
            return self._child is not None
        self._child = None
        logger.log(logging.ERROR if code else logging.INFO, "stop.py: exit %d (%s)", code,
                   self._output)  # fmt: skip
        return False

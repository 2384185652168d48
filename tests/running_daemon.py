"""A background program of the head node under test: started by its script, surely ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from panoseti.launch import Heartbeat, log_dir, read_heartbeat, wait_alive
from tests.helpers import REPO, wait_for


@dataclass
class RunningDaemon:
    """The process of daemons/<name>.py."""

    name: str
    data_dir: Path
    process: subprocess.Popen[bytes]

    def beat(self) -> Heartbeat:
        """Its last heartbeat."""
        beat = read_heartbeat(self.data_dir, self.name)
        assert beat is not None and beat.pid == self.process.pid
        return beat

    def wait_for(
        self, condition: Callable[[Heartbeat], bool], what: str, timeout_s: float = 20
    ) -> Heartbeat:
        """The first heartbeat that fulfils a condition."""

        def look() -> Heartbeat | None:
            assert self.process.poll() is None, f"{self.name} ended: {self.log()}"
            beat = self.beat()
            return beat if condition(beat) else None

        found = wait_for(look, f"{self.name}: {what}", timeout_s)
        assert found is not None
        return found

    def log(self) -> str:
        """Its log file and what it wrote to stderr."""
        texts = [log_dir(self.data_dir) / f"{self.name}{end}" for end in (".log", ".out")]
        return "".join(path.read_text() for path in texts if path.exists())

    def stop(self) -> int:
        """End it cleanly; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait(10)


@contextmanager
def running_daemon(
    name: str, config_dir: Path, data_dir: Path, *extra: str, interval_s: float = 0.2
) -> Iterator[RunningDaemon]:
    """Run daemons/<name>.py, ready when its first heartbeat is there."""
    log_dir(data_dir).mkdir(parents=True, exist_ok=True)
    with (log_dir(data_dir) / f"{name}.out").open("wb") as errors:
        process = subprocess.Popen(
            [
                sys.executable, str(REPO / "daemons" / f"{name}.py"), "--config_dir",
                str(config_dir), "--data_dir", str(data_dir), "--interval_s", str(interval_s),
                *extra,
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
        )  # fmt: skip
    daemon = RunningDaemon(name, data_dir, process)
    try:
        wait_alive(data_dir, name, process.pid, 20, lambda: process.poll() is None)
        yield daemon
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
    assert "Traceback" not in daemon.log(), daemon.log()

"""A private redis-server for tests: free port of 127.0.0.1, nothing kept, ended with the test."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from panoseti.errors import ObsError
from panoseti.store import Store
from tests.helpers import free_port, wait_for


class PrivateRedis:
    """A redis-server that can be killed, frozen and started again on the same port."""

    def __init__(self, directory: Path) -> None:
        self.host = "127.0.0.1"
        self.port = free_port()
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        assert self._process is None
        command = ["redis-server", "--bind", self.host, "--port", str(self.port)]
        command += ["--save", "", "--appendonly", "no", "--dir", str(self._directory)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        with Store(self.host, self.port) as store:
            wait_for(lambda: _answers(store), "redis-server to answer")

    def kill(self) -> None:
        """End it without warning; its records are gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It accepts connections but answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


def _answers(store: Store) -> bool:
    try:
        store.ping()
    except ObsError:
        return False
    return True


@contextmanager
def private_redis(directory: Path) -> Iterator[PrivateRedis]:
    """A running PrivateRedis."""
    server = PrivateRedis(directory)
    try:
        server.start()
        yield server
    finally:
        server.kill()

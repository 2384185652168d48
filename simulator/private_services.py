"""Private services: real programs, on ports and files of their own.  Redis and the boards are here,
ssh is in private_sshd.py.

They listen on one loopback address (or one of a test host), and end with the context, whatever
happened in it; when this program is killed, they end too.  Every wait is for a condition, and
notices the death of what it waits for.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from panoseti.errors import ObsError
from panoseti.runs.activities import Activity
from simulator import leftovers

LOOPBACK = "127.0.0.1"
READY_S = 20.0
END_S = 5.0
PORT_TRIES = 5
SYSTEM_PATHS = "/usr/sbin:/sbin:/usr/local/sbin"


class ServiceError(ObsError):
    """A private service is missing or does not come up; the message names it and its log."""


class _PortTakenError(ServiceError):
    """Somebody holds the port."""


def program(name: str, package: str) -> str:
    """Absolute path of an installed program; ServiceError names the package that brings it."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_PATHS}")
    if found is None:
        raise ServiceError(f"{name} is not installed: make setup (Debian package {package})")
    return os.path.abspath(found)


def user_name() -> str:
    """Who runs this, from the account itself; ServiceError for an account without a name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise ServiceError(
            f"user {os.geteuid()} has no name in /etc/passwd; sshd needs one"
        ) from None


def free_port(address: str = LOOPBACK) -> int:
    """A TCP port of an address that nobody holds at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll until the condition holds; whether it did within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class Service:
    """A server program in the foreground, its words in a log file.

    `prefix` goes before its command line (such as nsenter into a test host).  It ends when the
    *thread* that started it ends, so that no way of dying leaves it behind.
    """

    end_s = END_S  # how long its own end may take

    def __init__(self, name: str, log: Path, prefix: Sequence[str] = ()) -> None:
        self.name = name
        self.log = log
        self._prefix = list(prefix)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def words(self) -> str:
        """What it has said so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def launch(self, command: Sequence[str], ready: str, cwd: Path | None = None) -> None:
        """Start it and wait until its log matches the pattern `ready`; raises ServiceError."""
        if self.alive():
            raise RuntimeError(f"{self.name} runs already")
        setpriv = shutil.which("setpriv", path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin")
        die_with_us = [setpriv, "--pdeathsig", "TERM"] if setpriv and not self._prefix else []
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                [*self._prefix, *die_with_us, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                start_new_session=True,  # Ctrl-C is for who started it, who then ends it
            )
        try:
            wait_until(lambda: self._says(ready) or not self.alive(), READY_S)
            if not self._says(ready) or not self.alive():
                self._complain()
        except BaseException:
            self.end()
            raise

    def _says(self, pattern: str) -> bool:
        return re.search(pattern, self.words(), re.MULTILINE) is not None

    def _complain(self) -> None:
        words = self.words()
        last = words.strip().splitlines()[-1:] or ["it said nothing"]
        how = "is not ready" if self.alive() else "ended at once"
        kind = _PortTakenError if "Address already in use" in words else ServiceError
        raise kind(f"{self.name} {how}: {last[0]} (log: {self.log})")

    def end(self) -> None:
        """End it, then the processes it made for its clients; fine when it has ended already."""
        process, self._process = self._process, None
        if process is None:
            return
        children: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(self.end_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(END_S)
        left = [child for child in children if self.is_mine(child)]
        leftovers.end([Activity(self.name, child.pid, "", child) for child in left], END_S)

    def is_mine(self, child: psutil.Process) -> bool:
        """Whether a descendant is to end with the server."""
        return True

    def kill(self) -> None:
        """End it without warning, as a crash does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(END_S)


def launch_on_port(address: str, port: int, launch: Callable[[int], None]) -> int:
    """Launch on the port wanted, or (0) on a free one; returns which it is."""
    if port:
        try:
            launch(port)
        except _PortTakenError as error:
            raise ServiceError(f"port {port} of {address} is taken: {error}") from error
        return port
    for trial in range(PORT_TRIES):
        chosen = free_port(address)
        try:
            launch(chosen)
            return chosen
        except _PortTakenError:
            if trial == PORT_TRIES - 1:
                raise
    raise AssertionError("unreachable")


# --- Redis ---


class PrivateRedis(Service):
    """A redis-server that keeps nothing on disk; can be killed, frozen and started again."""

    def __init__(
        self, folder: Path, address: str = LOOPBACK, port: int = 0, prefix: Sequence[str] = ()
    ) -> None:
        super().__init__("redis-server", folder / "redis.log", prefix)
        self.host = address
        self.port = port
        self._folder = folder

    def start(self) -> None:
        """Start it, empty, and wait until it answers; again on the same port after `kill`."""
        self.port = launch_on_port(self.host, self.port, self._launch)

    def _launch(self, port: int) -> None:
        command = [program("redis-server", "redis-server"), "--bind", self.host]
        command += ["--port", str(port), "--save", "", "--appendonly", "no"]
        command += ["--daemonize", "no", "--dir", str(self._folder)]
        self.launch(command, "Ready to accept connections")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It accepts connections but answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)


@contextmanager
def private_redis(
    folder: Path, address: str = LOOPBACK, port: int = 0, prefix: Sequence[str] = ()
) -> Iterator[PrivateRedis]:
    """A running redis-server on a free port, or on `port`; raises ServiceError."""
    server = PrivateRedis(folder, address, port, prefix)
    try:
        server.start()
        yield server
    finally:
        server.end()


# --- the boards ---


class SimulatorService(Service):
    """`python -m simulator` for a command directory; its requests go to `state_dir`."""

    end_s = 20.0

    def __init__(self, config_dir: Path, state_dir: Path, prefix: Sequence[str] = ()) -> None:
        super().__init__("simulator", state_dir / "simulator.log", prefix)
        self.state_dir = state_dir
        self._config_dir = config_dir

    def start(self, *options: str) -> None:
        """Start it and wait until every board has its addresses; raises ServiceError."""
        command = [sys.executable, "-m", "simulator", "--config_dir", str(self._config_dir)]
        command += ["--state_dir", str(self.state_dir), *options]
        self.launch(command, "^ready$", cwd=leftovers.REPO)


@contextmanager
def simulated_boards(
    config_dir: Path, state_dir: Path, *options: str
) -> Iterator[SimulatorService]:
    """The simulated boards of a command directory; `options` as of `python -m simulator`."""
    service = SimulatorService(config_dir.resolve(), state_dir.resolve())
    try:
        service.start(*options)
        yield service
    finally:
        service.end()

"""What all background programs of the head node share: one instance, log, signals, heartbeat.

    with Daemon("capture_hk", data_dir, interval_s) as daemon:
        while not daemon.stop.wait(interval_s):
            ...
            daemon.beat("ok", records=17)

Files of a daemon called NAME, all in `<head node data directory>/log/`:

- `NAME.log`: what it did, one line each, UTC; rotated at 20 MB, five old ones are kept.
- `NAME.heartbeat.json`: rewritten at every beat (renamed into place, never half written).
- `NAME.out`: what it wrote to stdout and stderr, if `launch` started it.
- `NAME.lock`: held (flock) while the daemon lives; it keeps a second one from starting.

SIGTERM and SIGINT end the daemon cleanly, with exit code 0.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from panoseti.errors import EXIT_OK, ObsError, RefusedError
from panoseti.launch import HEARTBEAT_VERSION, heartbeat_path, log_dir

WORKS_WITH = "works_with"
"""In the details of a heartbeat: what of the configs the daemon uses."""
LOG_BYTES = 20_000_000
OLD_LOGS = 5

logger = logging.getLogger(__name__)


class StopFlag:
    """Set by SIGTERM and SIGINT; can be waited for, alone or in select() beside a socket.

    A pipe, not a threading.Event: an Event that is set by a signal handler while the same
    thread is entering wait() can block for ever.  The interpreter itself writes to the pipe when
    the signal comes (`signal.set_wakeup_fd`): a handler in Python runs only between two
    instructions, which after "is it set?" may be as late as the end of the sleep.
    """

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._set = False

    def fileno(self) -> int:
        """File descriptor that becomes readable when the flag is set."""
        return self._read_fd

    @property
    def wakeup_fd(self) -> int:
        """For signal.set_wakeup_fd(): a byte written there ends every wait."""
        return self._write_fd

    def set(self) -> None:
        """Ask the daemon to end; safe in a signal handler."""
        self._set = True
        try:
            os.write(self._write_fd, b"s")
        except BlockingIOError:
            pass  # the pipe is full, hence readable already

    def is_set(self) -> bool:
        """Whether the daemon was asked to end."""
        return self._set

    def wait(self, timeout_s: float) -> bool:
        """Sleep until the flag is set or `timeout_s` has passed; whether it is set."""
        if not self._set:
            select.select([self._read_fd], [], [], max(0.0, timeout_s))
        return self._set

    def close(self) -> None:
        """Give the pipe back."""
        os.close(self._read_fd)
        os.close(self._write_fd)


class Daemon:
    """The running daemon: context manager over lock, log, signal handlers and heartbeat.

    works_with: gives what of the configs it uses, which each heartbeat says.
    Raises RefusedError on entering when another daemon of this name works for the same data
    directory, ObsError when the data directory cannot be written.
    """

    def __init__(
        self,
        name: str,
        data_dir: Path,
        interval_s: float,
        verbose: bool = False,
        works_with: Callable[[], object] | None = None,
    ) -> None:
        self.name = name
        self.data_dir = data_dir
        self.interval_s = interval_s
        self.stop = StopFlag()
        self._verbose = verbose
        self._works_with = works_with
        self._started_unix = time.time()
        self._lock_fd: int | None = None
        self._handlers: list[logging.Handler] = []
        self._old_signals: dict[int, Any] = {}
        self._old_wakeup_fd = -1
        self._beat_failed = False

    def __enter__(self) -> Daemon:
        try:
            log_dir(self.data_dir).mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._open_log()
        except OSError as error:
            self._release()
            raise ObsError(
                f"{self.name}: cannot write to {log_dir(self.data_dir)}: {error.strerror};"
                " correct head_node_data_dir in daq_config.json or the directory's owner"
            ) from error
        except ObsError:
            self._release()
            raise
        for number in (signal.SIGTERM, signal.SIGINT):
            self._old_signals[number] = signal.signal(number, self._on_signal)
        self._old_wakeup_fd = signal.set_wakeup_fd(self.stop.wakeup_fd, warn_on_full_buffer=False)
        logger.info("%s: started, pid %d", self.name, os.getpid())
        self.beat("starting")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, ObsError):
            logger.error("%s: %s", self.name, error)
            self.beat("failed", error=str(error))
        elif error is not None:
            logger.error("%s: ended by a bug", self.name, exc_info=error)
            self.beat("failed", error=repr(error))
        else:
            logger.info("%s: ended", self.name)
            self.beat("ended")
        for number, handler in self._old_signals.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_wakeup_fd)
        self._release()

    def beat(self, state: str, **details: Any) -> None:
        """Write the heartbeat; a full disk is logged once and survived."""
        path = heartbeat_path(self.data_dir, self.name)
        temporary = path.with_suffix(".tmp")
        if self._works_with is not None:
            details = {**details, WORKS_WITH: self._works_with()}
        document = {
            "version": HEARTBEAT_VERSION,
            "name": self.name,
            "pid": os.getpid(),
            "started_unix": self._started_unix,
            "updated_unix": time.time(),
            "interval_s": self.interval_s,
            "state": state,
            "details": details,
        }
        try:
            temporary.write_text(json.dumps(document) + "\n")
            temporary.replace(path)
        except OSError as error:
            if not self._beat_failed:
                logger.error("cannot write %s: %s", path, error.strerror)
            self._beat_failed = True
        else:
            self._beat_failed = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stop.set()

    def _take_lock(self) -> None:
        path = log_dir(self.data_dir) / f"{self.name}.lock"
        self._lock_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._lock_fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise RefusedError(
                f"{self.name}: already running for {self.data_dir} (pid {holder});"
                " end that one first: config.py --stop_redis_daemons"
            ) from error
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, f"{os.getpid()}\n".encode(), 0)

    def _open_log(self) -> None:
        path = log_dir(self.data_dir) / f"{self.name}.log"
        to_file = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=OLD_LOGS)
        self._handlers = [to_file]
        if self._verbose:
            self._handlers.append(logging.StreamHandler(sys.stderr))
        form = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
        form.converter = time.gmtime
        library = logging.getLogger("panoseti")
        library.setLevel(logging.INFO)
        for handler in self._handlers:
            handler.setFormatter(form)
            library.addHandler(handler)

    def _release(self) -> None:
        for handler in self._handlers:
            logging.getLogger("panoseti").removeHandler(handler)
            handler.close()
        self._handlers = []
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None
        self.stop.close()


class BoundedLog:
    """Lets one line per kind of event through per `period_s`, and counts what it held back."""

    def __init__(self, period_s: float = 60.0, kinds_at_most: int = 256) -> None:
        self._period_s = period_s
        self._kinds_at_most = kinds_at_most
        self._state: dict[str, tuple[float, int]] = {}

    def warning(self, kind: str, message: str) -> None:
        """Log `message` unless one of the same kind was logged within the period."""
        now = time.monotonic()
        if kind not in self._state and len(self._state) >= self._kinds_at_most:
            kind = "others"
        last, held = self._state.get(kind, (-self._period_s, 0))
        if now - last < self._period_s:
            self._state[kind] = (last, held + 1)
            return
        more = f" (and {held} more like it since the last such line)" if held else ""
        logger.warning("%s%s", message, more)
        self._state[kind] = (now, 0)


def arguments(
    name: str, description: str, interval_s: float, examples: str
) -> argparse.ArgumentParser:
    """The command line common to all daemons; each adds its own options to it.

    The launcher gives --data_dir too, so that the process is found by script name and data
    directory in its command line.
    """
    parser = argparse.ArgumentParser(
        prog=f"{name}.py",
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config_dir", type=Path, default=Path("."), help="holds the configs (default: here)"
    )
    parser.add_argument(
        "--data_dir", type=Path, help="head node data directory (default: from daq_config.json)"
    )
    parser.add_argument(
        "--interval_s",
        type=_positive,
        default=interval_s,
        help="seconds between two rounds (default: %(default)g)",
    )
    parser.add_argument("--verbose", action="store_true", help="log to stderr as well")
    return parser


def call(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str]) -> int:
    """Run a daemon's main; an expected failure becomes one line on stderr and its exit code."""
    try:
        return main(argv) or EXIT_OK
    except ObsError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return error.exit_code


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value

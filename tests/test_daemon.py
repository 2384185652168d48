"""What all daemons share: one instance, signals, heartbeat, log, launching."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import operator
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from panoseti import launch
from panoseti.daemon import BoundedLog, Daemon, StopFlag
from panoseti.errors import ObsError, RefusedError
from tests.helpers import REPO

NAME = "dummy"
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a daemon whose round is the given statements; `stop` is its flag."""
    children: list[subprocess.Popen[str]] = []

    def begin(statements: str = "beat('ok', rounds=1)") -> subprocess.Popen[str]:
        script = f"""
import sys
from pathlib import Path
from panoseti.daemon import Daemon, call
from panoseti.errors import ObsError

def main(argv):
    with Daemon("{NAME}", Path(argv[0]), 0.05) as daemon:
        beat, stop = daemon.beat, daemon.stop
        while True:
{textwrap.indent(textwrap.dedent(statements), " " * 12)}
            if stop.wait(30):
                return 0

sys.exit(call(main, sys.argv[1:]))
"""
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)],
            cwd=REPO,
            stderr=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        return child

    yield begin
    for child in children:
        child.kill()
        child.communicate()


def came_up(child: subprocess.Popen[str], data_dir: Path) -> launch.Heartbeat:
    return launch.wait_alive(data_dir, NAME, child.pid, 20, lambda: child.poll() is None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_and_cleanly(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    child = start()
    beat = came_up(child, tmp_path)
    assert (beat.state, beat.details) == ("ok", {"rounds": 1})
    begin = time.monotonic()
    child.send_signal(number)
    assert child.wait(10) == 0
    assert time.monotonic() - begin < 5, "it slept on"
    last = launch.read_heartbeat(tmp_path, NAME)
    assert last is not None and last.state == "ended" and last.pid == child.pid
    log = (tmp_path / "log" / f"{NAME}.log").read_text()
    assert f"started, pid {child.pid}" in log and log.endswith(f"{NAME}: ended\n")


def test_a_signal_just_before_the_sleep_ends_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python runs a handler between its own instructions: here there is none before select()."""
    asleep = select.select

    def signalled(*args: Any) -> Any:
        # os.kill() itself looks for handlers to run, that of the C library does not.
        kill = functools.partial(ctypes.CDLL(None).kill, os.getpid(), int(signal.SIGTERM))
        return list(map(operator.call, (kill, functools.partial(asleep, *args))))[1]

    with Daemon(NAME, tmp_path, 1) as daemon:
        monkeypatch.setattr(select, "select", signalled)
        begin = time.monotonic()
        assert daemon.stop.wait(20)
        assert time.monotonic() - begin < 5, "it slept on"
        monkeypatch.undo()


def test_a_second_one_for_the_same_data_is_refused_with_the_pid_of_the_first(
    start: Start, tmp_path: Path
) -> None:
    first = start()
    came_up(first, tmp_path)
    second = start()
    _, said = second.communicate(timeout=20)
    assert second.returncode == 3
    assert f"already running for {tmp_path} (pid {first.pid})" in said
    assert first.poll() is None
    beat = launch.read_heartbeat(tmp_path, NAME)
    assert beat is not None and beat.pid == first.pid


def test_a_killed_one_leaves_nothing_in_the_way(start: Start, tmp_path: Path) -> None:
    first = start()
    came_up(first, tmp_path)
    first.kill()
    first.wait(10)
    second = start()
    assert came_up(second, tmp_path).pid == second.pid


def test_an_expected_failure_is_one_line_everywhere(start: Start, tmp_path: Path) -> None:
    child = start("raise ObsError('the cable is out; plug it in')")
    _, said = child.communicate(timeout=20)
    assert child.returncode == 1
    assert said == "-c: the cable is out; plug it in\n"
    beat = launch.read_heartbeat(tmp_path, NAME)
    assert beat is not None and beat.state == "failed"
    assert beat.details == {"error": "the cable is out; plug it in"}
    with pytest.raises(ObsError, match="ended at once"):
        came_up(child, tmp_path)


def test_a_bug_keeps_its_traceback_in_the_log(start: Start, tmp_path: Path) -> None:
    child = start("1 / 0")
    child.communicate(timeout=20)
    assert child.returncode == 1
    log = (tmp_path / "log" / f"{NAME}.log").read_text()
    assert "ended by a bug" in log and "ZeroDivisionError" in log and "Traceback" in log
    beat = launch.read_heartbeat(tmp_path, NAME)
    assert beat is not None and beat.state == "failed"


def test_a_data_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(ObsError, match=rf"dummy: cannot write to {in_the_way}/log: Not a dir"):
        with Daemon(NAME, in_the_way, 1.0):
            pass


def test_the_lock_is_given_back_and_a_second_in_the_same_process_is_refused(
    tmp_path: Path,
) -> None:
    for _ in range(2):
        with Daemon(NAME, tmp_path, 1.0):
            with pytest.raises(RefusedError, match=f"pid {os.getpid()}"):
                with Daemon(NAME, tmp_path, 1.0):
                    pass


def test_signal_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Daemon(NAME, tmp_path, 1.0) as daemon:
        os.kill(os.getpid(), signal.SIGTERM)
        assert daemon.stop.wait(5)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_lost_heartbeat_is_survived_and_logged_once(tmp_path: Path) -> None:
    with Daemon(NAME, tmp_path, 1.0) as daemon:
        blocker = launch.heartbeat_path(tmp_path, NAME).with_suffix(".tmp")
        blocker.mkdir()
        daemon.beat("ok")
        daemon.beat("ok")
        blocker.rmdir()
        daemon.beat("ok", again=True)
        beat = launch.read_heartbeat(tmp_path, NAME)
    assert beat is not None and beat.details == {"again": True}
    log = (tmp_path / "log" / f"{NAME}.log").read_text()
    assert log.count("cannot write") == 1


@pytest.mark.parametrize(
    ("state", "age_s", "fresh"),
    [
        ("ok", 0, True),
        ("ok", 20, True),
        ("ok", 20.1, False),
        ("boards off", 1, True),
        ("starting", 1, True),
        ("ended", 1, False),
        ("failed", 1, False),
    ],
)
def test_freshness(state: str, age_s: float, fresh: bool) -> None:
    beat = launch.Heartbeat(NAME, 1, 900.0, 1000.0, 5.0, state)
    assert beat.is_fresh(1000.0 + age_s) is fresh


@pytest.mark.parametrize("text", ["", "{", '{"version": 2}', "[]", '{"version": 1, "pid": 4}'])
def test_a_heartbeat_file_that_is_none(tmp_path: Path, text: str) -> None:
    path = launch.heartbeat_path(tmp_path, NAME)
    assert launch.read_heartbeat(tmp_path, NAME) is None
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ObsError, match=f"{path}: not a heartbeat .* restart {NAME}"):
        launch.read_heartbeat(tmp_path, NAME)


def test_waiting_in_vain_for_a_sign_of_life(tmp_path: Path) -> None:
    with pytest.raises(ObsError, match=r"dummy \(pid 1\) does not work after 0.1 s"):
        launch.wait_alive(tmp_path, NAME, 1, 0.1)


def test_the_heartbeat_of_one_before_that_had_the_same_pid_is_none(
    start: Start, tmp_path: Path
) -> None:
    """After a power cut the same numbers are given again."""
    child = start()
    before = came_up(child, tmp_path)
    with pytest.raises(ObsError, match="does not work after"):
        launch.wait_alive(tmp_path, NAME, child.pid, 0.1, before=before)
    later = dataclasses.replace(before, started_unix=before.started_unix - 60)
    assert launch.wait_alive(tmp_path, NAME, child.pid, 5, before=later).pid == child.pid


def test_waiting_works_alone_and_with_the_flag_set() -> None:
    flag = StopFlag()
    try:
        assert not flag.wait(0.01)
        flag.set()
        flag.set()
        assert flag.is_set() and flag.wait(60)
    finally:
        flag.close()


def test_a_flood_of_one_kind_is_one_line_and_a_count(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("panoseti.daemon.time.monotonic", lambda: now[0])
    log = BoundedLog(period_s=60, kinds_at_most=3)
    for _ in range(1000):
        log.warning("a", "bad a")
    log.warning("b", "bad b")
    now[0] += 61
    log.warning("a", "bad a")
    assert [r.message for r in caplog.records] == [
        "bad a",
        "bad b",
        "bad a (and 999 more like it since the last such line)",
    ]
    for number in range(1000):
        log.warning(f"kind {number}", "new kind")
    assert len(caplog.records) == 3 + 2, "many kinds share one line once there are too many"

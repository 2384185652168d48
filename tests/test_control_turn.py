"""Who is signalled, and how long is waited: starts and stops at work, and programs on the head."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

import pytest

from panoseti.configs.site import DaqNode, ObsConfig
from panoseti.console import Console
from panoseti.flight import FlightRecorder
from panoseti.nodes import daq_nodes
from panoseti.nodes.daq_nodes import NodeShells
from panoseti.nodes.remote import Shell
from panoseti.runs import activities, control_turn, end_recording, run_finish, run_state
from panoseti.runs.collect_progress import Progress, write_progress
from panoseti.runs.control_turn import take_turn
from panoseti.runs.run_finish import only_collector
from panoseti.runs.run_state import ControlLock, collect_lock
from tests.helpers import REPO, wait_for

QUIET = FlightRecorder(None, "test")
HOLDER = """\
import signal, sys
from pathlib import Path
from panoseti.runs.run_finish import only_collector
from panoseti.runs.run_state import ControlLock, collect_lock
lock = ControlLock(Path(sys.argv[1]))
assert lock.take(sys.argv[2])
if sys.argv[3] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[3] == "short":
    signal.signal(signal.SIGCONT, lambda *_: sys.exit(0))
print("held", flush=True)
signal.pause()
"""


@contextmanager
def holder(folder: Path, what: str, kind: str = "") -> Iterator[subprocess.Popen[str]]:
    """Another process that has the turn."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), what, kind],
        cwd=REPO, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for long."""
    for name in ("START_UNDO_S", "KILL_WAIT_S", "OTHER_STOP_S"):
        monkeypatch.setattr(control_turn, name, 0.3)


def lock_file(folder: Path) -> Path:
    """Where it says who holds the lock."""
    return folder / "log" / run_state.CONTROL_LOCK


def test_a_start_is_told_to_end_also_when_it_is_suspended(tmp_path: Path) -> None:
    with holder(tmp_path, "start.py") as start, ControlLock(tmp_path) as lock:
        start.send_signal(SIGSTOP)
        assert take_turn(lock, "stop.py", Console(), QUIET) == []
        assert start.wait(20) == -SIGTERM


@pytest.mark.usefixtures("impatient")
def test_a_start_that_does_not_end_is_killed(tmp_path: Path) -> None:
    with holder(tmp_path, "start.py", "deaf") as start, ControlLock(tmp_path) as lock:
        (note,) = take_turn(lock, "stop.py", Console(), QUIET)
        assert note.endswith("did not end: killed") and f"[{start.pid}]" in note
        assert start.wait(20) == -SIGKILL


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("error", [None, PermissionError(1, "no")])
def test_a_start_that_cannot_be_ended_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError | None
) -> None:
    """As one that hangs in its disk, or belongs to another user."""
    sent = []

    def send(lock: ControlLock, at_work: run_state.AtWork, number: int) -> bool:
        sent.append(number)
        if error is not None:
            raise error
        return True

    monkeypatch.setattr(ControlLock, "signal", send)
    with holder(tmp_path, "start.py") as start, ControlLock(tmp_path) as lock:
        notes = take_turn(lock, "stop.py", Console(), QUIET)
        assert notes[-1].endswith("does not end: going on beside it"), notes
        assert any("cannot be told to end" in note for note in notes) is (error is not None)
        assert sent == ([SIGTERM, SIGKILL] if error else [SIGTERM, SIGCONT, SIGKILL])
        assert start.poll() is None


@pytest.mark.usefixtures("impatient")
def test_another_stop_is_never_signalled(tmp_path: Path) -> None:
    with holder(tmp_path, "stop.py") as stop, ControlLock(tmp_path) as lock:
        (note,) = take_turn(lock, "stop.py", Console(), QUIET)
        assert note.endswith("going on beside it") and f"[{stop.pid}]" in note
        assert stop.poll() is None


def test_a_stop_that_was_suspended_is_continued_and_waited_for(tmp_path: Path) -> None:
    """Boards and pipelines are not to go on for minutes because somebody typed Ctrl-Z."""
    with holder(tmp_path, "stop.py", "short") as stop, ControlLock(tmp_path) as lock:
        stop.send_signal(SIGSTOP)
        wait_for(lambda: control_turn.is_suspended(stop.pid), "it to be suspended")
        assert take_turn(lock, "stop.py", Console(), QUIET) == []
        assert stop.wait(20) == 0


def test_a_stop_that_stays_suspended_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its terminal suspends it again, or it is somebody else's."""
    monkeypatch.setattr(control_turn, "SUSPENDED_S", 0.3)
    sent = []
    monkeypatch.setattr(ControlLock, "signal", lambda lock, who, number: sent.append(number))
    with holder(tmp_path, "stop.py") as stop, ControlLock(tmp_path) as lock:
        stop.send_signal(SIGSTOP)
        wait_for(lambda: control_turn.is_suspended(stop.pid), "it to be suspended")
        (note,) = take_turn(lock, "stop.py", Console(), QUIET)
        assert note.endswith("is suspended: going on beside it") and sent == [SIGCONT]


@pytest.mark.usefixtures("impatient")
def test_what_the_lock_says_is_checked_before_a_signal(tmp_path: Path) -> None:
    """The words of a start that was killed; its pid is another program's now."""
    with (
        subprocess.Popen(["sleep", "1000"]) as innocent,
        holder(tmp_path, "start.py") as start,
        ControlLock(tmp_path) as lock,
    ):
        try:
            said = lock.held_by()
            ticks = run_state.start_ticks(innocent.pid)
            # Somebody else holds it; or the pid was given to another program.
            for pid, at in ((innocent.pid, ticks), (start.pid, ticks - 1), (innocent.pid, 1)):
                lock_file(tmp_path).write_text(f"{pid} start.py of obs@head[{pid}]\n{at}\n")
                assert not lock.signal(run_state.AtWork(pid, "start.py", at), SIGTERM)
            assert take_turn(lock, "stop.py", Console(), QUIET)
            assert innocent.poll() is None and start.poll() is None
            assert lock.signal(said, SIGTERM) and start.wait(20) == -SIGTERM
        finally:
            innocent.kill()


# --- the only one that collects ---


def test_another_collector_is_waited_for_as_long_as_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_finish, "COLLECTOR_S", 0.0)
    monkeypatch.setattr(run_finish, "POLL_S", 0.01)
    before = run_finish.signs_of_life(tmp_path)
    write_progress(tmp_path, Progress(3_000_000, 12_000_000, 3.0))
    assert run_finish.signs_of_life(tmp_path) != before
    looks = itertools.count()
    monkeypatch.setattr(run_finish, "signs_of_life", lambda folder: (min(next(looks), 20),))
    with collect_lock(tmp_path) as free, only_collector(tmp_path, Console()) as problem:
        assert free and "no sign of life" in problem and str(os.getpid()) in problem
    assert next(looks) > 20 and "3 MB of 12 MB" in capsys.readouterr().err
    with only_collector(tmp_path, Console()) as problem, collect_lock(tmp_path) as free:
        assert problem == "" and not free


# --- nodes that hang ---


def test_boards_do_not_send_on_because_a_node_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose run it records is not waited for until all its time-outs are over."""
    quick, hung = (DaqNode(f"127.0.0.{n}", "obs", "/data", (n,)) for n in (1, 2))
    released = threading.Event()

    def status(shell: Shell) -> str:
        if shell.node == hung:
            assert released.wait(60)
        return "its status"

    monkeypatch.setattr(end_recording, "ANSWER_S", 2.0)
    monkeypatch.setattr(daq_nodes, "status", status)
    with NodeShells((quick, hung), ObsConfig("Test", "", (), ())) as shells:
        try:
            assert end_recording.quick_statuses(shells) == {quick: "its status"}
        finally:
            released.set()


# --- programs on the head node ---


@pytest.mark.parametrize(
    ("words", "is_it"),
    [
        (["python3", "{script}"], True),
        (["/opt/python/bin/python3.11", "-B", "-W", "error", "{script}", "--data_dir", "x"], True),
        (["vim", "{script}"], False),
        (["tail", "-f", "{script}"], False),
        (["python3", "tool.py", "{script}"], False),
        (["python3", "-m", "pdb", "{script}"], False),
        (["bash", "{script}"], False),
    ],
)
def test_a_daemon_is_what_python_runs(tmp_path: Path, words: list[str], is_it: bool) -> None:
    """Else `vim daemons/store_redis_data.py` is taken for a recorder, and ended."""
    filled = [word.format(script=tmp_path / "store_redis_data.py") for word in words]
    assert (activities.script_of(filled) == "store_redis_data.py") is is_it


def test_who_looks_at_a_daemons_script_is_left_alone(tmp_path: Path) -> None:
    script = tmp_path / "store_redis_data.py"
    script.write_text("import signal\nsignal.pause()\n")
    command = [sys.executable, str(script), "--data_dir", str(tmp_path)]
    with (
        subprocess.Popen(["tail", "-f", str(script)], stdout=subprocess.DEVNULL) as reader,
        subprocess.Popen(command) as recorder,
    ):
        try:
            found = wait_for(lambda: activities.hk_recorders(tmp_path), "the recorder")
            assert [one.pid for one in found] == [recorder.pid]
            assert [how for _, how in activities.end(found, QUIET)] == ["ended"]
            assert reader.poll() is None
        finally:
            reader.kill()
            recorder.kill()

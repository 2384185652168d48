"""Frames looked at by several processes: the same is found, and nothing of them stays."""

from __future__ import annotations

import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from panoseti.configs.load_configs import frozen_copies, load_site
from panoseti.console import Console
from panoseti.flight import FlightRecorder
from panoseti.runs import file_checks, run_stop
from panoseti.runs.file_checks import check_files
from panoseti.runs.frame_crew import Crew, Piece, crew
from panoseti.runs.run_record import read_record
from panoseti.runs.run_state import Marker
from panoseti.runs.run_stop import StopOptions
from tests.helpers import REPO, wait_for
from tests.node_dir import is_alive
from tests.site_files import DAQ, write_site
from tests.test_run_summary import account, frame, write_file, write_record

FRAMES = 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files with all that may be wrong, some of it where a piece ends."""
    good = [frame(number) for number in range(FRAMES)]
    folder = tmp_path / "obs_Test.start_2024-07-25T04:34:06Z.runtype_test.pffd"
    folder.mkdir()
    write_file(folder, 1, good[:17])
    write_file(folder, 1, [*good[18:21], *good[10:12], *good[21:]], seqno=1)
    write_file(folder, 1, [*good[:5], b"\0" * len(good[0]), *good[5:7]], seqno=2)
    write_file(folder, 254, [frame(n, "ph256", (n % 4,)) for n in range(30)], "ph256")
    with write_file(folder, 254, [frame(3, boards=(1, 2))]).open("ab") as file:
        file.write(b"torn")
    return folder


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_checks, "CREW_FRAMES", 0)
    monkeypatch.setattr(file_checks, "CREW_BEGINS_S", -1.0)
    monkeypatch.setattr(file_checks, "CREW_PIECE_FRAMES", 3)
    monkeypatch.setattr(file_checks, "PIECE_FRAMES", 1)
    monkeypatch.setattr(file_checks, "processors", lambda: 3)


def children() -> list[int]:
    tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


@pytest.mark.parametrize("budget_s", [math.inf, 0.0])
def test_many_find_what_one_finds(
    folder: Path, budget_s: float, request: pytest.FixtureRequest
) -> None:
    alone = check_files(folder, 1e9, 2e9, budget_s)
    request.getfixturevalue("small_pieces")
    before, seen, at_work = children(), [], set()

    def progress(fraction: float) -> None:
        seen.append(fraction)
        at_work.update(set(children()) - set(before))

    assert check_files(folder, 1e9, 2e9, budget_s, progress) == alone
    assert seen == sorted(seen) and seen[-1] == 1.0
    assert len(at_work) == 3 and children() == before
    if budget_s:
        problems = "\n".join(problem for check in alone for problem in check.problems)
        for words in ("1 frames earlier", "1 of 8 frames damaged", "begins earlier", "4 bytes"):
            assert words in problems


def piece_of(folder: Path) -> Piece:
    path = write_file(folder, 1, [frame(number) for number in range(10)], seqno=9)
    return Piece(str(path), "img16", 10, [(0, 4), (6, 10)])


def pids(looking: Crew) -> list[int]:
    return [child.pid for child in looking._all]


def test_a_piece_whose_process_dies_is_looked_at_here(tmp_path: Path) -> None:
    piece = piece_of(tmp_path)
    with crew(2) as looking:
        assert looking.look(piece).result() == piece.look()
        for pid in pids(looking):
            os.kill(pid, signal.SIGKILL)
        assert [looking.look(piece).result() for _ in range(4)] == [piece.look()] * 4
    (tmp_path / Path(piece.path).name).unlink()
    with crew(2) as looking, pytest.raises(FileNotFoundError):
        looking.look(piece).result()


def test_an_interrupt_ends_them_at_once(tmp_path: Path) -> None:
    """While they have hours of work before them."""
    path = write_file(tmp_path, 1, [frame(number) for number in range(1000)])
    endless = Piece(str(path), "img16", 1000, [(0, 1000)] * 10_000)
    with pytest.raises(KeyboardInterrupt), crew(2) as looking:
        for _ in range(5):
            looking.look(endless)
        wait_for(lambda: all(_has_worked(pid) for pid in pids(looking)), "work")
        begin_s = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - begin_s < 10
    assert not any(map(is_alive, pids(looking)))


def _has_worked(pid: int) -> bool:
    """For some tenths of a second."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11]) > 30


ALONE = """
import sys, time
from panoseti.runs.frame_crew import Piece, crew
with crew(2) as looking:
    piece = Piece(sys.argv[1], "img16", 10, [(0, 10)])
    assert looking.look(piece).result() == piece.look()
    print(*[child.pid for child in looking._all], flush=True)
    time.sleep(100)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another program with such processes."""
    command = [sys.executable, "-c", ALONE, piece_of(tmp_path).path]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as child:
        yield child
        child.kill()


def test_they_end_with_a_program_that_is_killed(other: subprocess.Popen[str]) -> None:
    assert other.stdout is not None
    workers = [int(word) for word in other.stdout.readline().split()]
    assert len(workers) == 2 and all(map(is_alive, workers))
    other.kill()
    wait_for(lambda: not any(map(is_alive, workers)), "their end")


def test_where_no_process_can_be_started_it_is_done_here(tmp_path: Path) -> None:
    piece = piece_of(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    room = highest + 3  # for what looking here itself needs, a file and its map
    resource.setrlimit(resource.RLIMIT_NOFILE, (room, limits[1]))
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        pass
    try:
        with crew(4) as looking:
            assert not pids(looking) and looking.size == 1
            os.close(taken.pop())
            os.close(taken.pop())
            assert looking.look(piece).result() == piece.look()
    finally:
        for number in taken:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_every_frame_of_a_complete_run_is_looked_at_when_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any node: none of these can be reached."""
    for path in folder.glob("*.pff"):
        path.unlink()
    write_file(folder, 1, [frame(number) for number in range(FRAMES)])
    monkeypatch.setattr(file_checks, "FRAMES_PER_S", 0.01)
    daq = {**DAQ, "head_node_data_dir": str(tmp_path)}
    site = load_site(write_site(tmp_path / "configs", daq=daq))
    for name, text in frozen_copies(site).items():
        (folder / name).write_text(text)
    (folder / "hp_status_192.168.1.101.json").write_text(account({(1, "img16"): FRAMES}))
    trouble = ["quabo 192.168.0.4: no answer to acquisition"]
    judged = {"word": "partial", "reasons": trouble, "checked": "2 of 40", "trouble": trouble}
    start = {"phase": "start", "what": "record", "subject": "", "intent_unix": 1.0,
             "result_unix": 1.0, "ok": True}  # fmt: skip
    write_record(folder, verdict=judged, steps=[start], recording_unix=1.0)
    for marker in Marker:
        (folder / marker).touch()
    options = StopOptions(run=folder.name, check_all=True)
    report = run_stop.stop(site, options, Console(), FlightRecorder(None, ""))
    assert report.ok and report.lines == []
    verdict = read_record(folder).document["verdict"]
    assert verdict["checked"] == f"all {FRAMES} frames checked"
    assert verdict["word"] == "partial" and verdict["reasons"][0] == trouble[0]
    assert all((folder / marker).exists() for marker in Marker)

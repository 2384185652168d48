"""The flight recorder."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path

import pytest

from panoseti.flight import FlightRecorder, read_flight


def test_what_was_noted_is_read_back(tmp_path: Path) -> None:
    flight = FlightRecorder(tmp_path, "config.py")
    flight.command(["--hv_off", "two words\n"])
    flight.note("send", board="127.0.0.4", bytes="02", url="http://me:secret@10.0.0.1")
    lines = read_flight(tmp_path)
    assert [(line.program, line.what) for line in lines] == [
        ("config.py", "command"), ("config.py", "send"),
    ]  # fmt: skip
    assert f"[{os.getpid()}]" in lines[0].owner
    assert r'"two words\n"' in lines[0].text
    assert 'board="127.0.0.4"' in lines[1].text
    assert "secret" not in lines[1].text
    assert read_flight(tmp_path, last=1) == lines[1:]
    assert read_flight(tmp_path, last=0) == []


def test_many_writers_tear_no_line(tmp_path: Path) -> None:
    def write(number: int) -> None:
        flight = FlightRecorder(tmp_path, f"p{number}")
        for count in range(50):
            flight.note("send", text="x" * 1000, count=count)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(read_flight(tmp_path)) == 400


def test_a_torn_line_is_left_out_and_days_are_in_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.mkdir()
    (log / "flight_2026-01-02.log").write_text("2026-01-02T00:00:00.000Z a@b[1] p two\n2026-01")
    (log / "flight_2026-01-01.log").write_text("2026-01-01T00:00:00.000Z a@b[1] p one x=1\n")
    assert [line.what for line in read_flight(tmp_path)] == ["one", "two"]
    assert [line.what for line in read_flight(tmp_path, last=1)] == ["two"]
    assert read_flight(tmp_path / "nowhere") == []


def test_a_recorder_that_cannot_write_says_so_once_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").write_text("a file where the folder should be")
    flight = FlightRecorder(tmp_path, "stop.py")
    flight.note("stop")
    flight.note("stop")
    assert capsys.readouterr().err.count("flight recorder") == 1
    FlightRecorder(None, "qc.py").note("send")


def test_not_even_a_stderr_that_cannot_be_written_is_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a daemon is a file on the disk that is full."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "log").write_text("a file where the folder should be")
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        flight = FlightRecorder(tmp_path, "temperature_guard")
        flight.note("send")
        monkeypatch.undo()
        flight.note("send")
        with contextlib.suppress(OSError):
            full.close()

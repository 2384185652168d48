"""The whole night: power-on to collected recording by the scripts, checked against what was sent.

The simulated boards know what every pixel of every packet must be, and count what they send.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from panoseti import console
from panoseti.runs.names import parse_data_file
from simulator import leftovers, sky
from simulator.faults import Spoil, packet_fate
from simulator.night import Night, draw_picture, first_frame_unix, report
from simulator.private_observatory import PrivateObservatory, private_observatory
from tests.helpers import REPO, wait_for
from tests.pipeline import check_sums
from tests.recording_truth import (
    Recording,
    check_analysis_reads,
    check_every_packet,
    check_housekeeping,
    check_images_follow,
    check_pixels,
    check_run_is_complete,
    check_statuses,
    recorded_numbers,
)

MODULES = (1, 254)
RECORD_S = 3.0
SPOIL = Spoil(
    loss=0.01,
    duplicate=0.01,
    reorder=0.01,
    malformed=0.01,
    depth=5,
    kinds=("length", "acq_mode", "unknown_module", "source_mismatch"),
    seed=7,
)


class WatchedNight(Night):
    """A night that looks at the boards around each run."""

    def boards(self) -> dict[str, Any]:
        with self.observatory.client() as client:
            boards: dict[str, Any] = client.state()["boards"]
            return boards

    def type(self, name: str, *words: str) -> None:
        if name == "stop.py":
            self.during = self.boards()
        super().type(name, *words)

    def recording(self) -> Recording:
        before = self.boards()
        run_dir = self.record(RECORD_S)
        return Recording(run_dir, before, self.during, self.boards(), self.started_unix)


@dataclass
class Done:
    """What the night left."""

    observatory: PrivateObservatory
    clean: Recording
    spoiled: Recording
    at_the_end: dict[str, Any]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    folder = tmp_path_factory.mktemp("a night")
    with private_observatory(folder, MODULES_DATA, MODULES) as observatory:
        steps = WatchedNight(observatory, console.Console())
        steps.bring_up()
        clean = steps.recording()
        with observatory.client() as client:
            client.science("all", **vars(SPOIL))
        spoiled = steps.recording()
        steps.shut_down()
        done = Done(observatory, clean, spoiled, steps.boards())
        left = [one for one in leftovers.workers(folder) if one.what.endswith(".py")]
        assert not left, "daemons of the session have ended"
    assert not leftovers.workers(folder)
    yield done


MODULES_DATA = {
    "run_type": "night",
    "gain": 60,
    "image": {"integration_time_usec": 1000, "pe_threshold": 2, "quabo_sample_size": 16},
    "pulse_height": {"pe_threshold": 12.5},
    "max_file_size_mb": 4,
}


@pytest.mark.parametrize("module", MODULES)
def test_every_frame_and_pixel_is_the_one_that_was_sent(night: Done, module: int) -> None:
    recording = night.clean
    for ip, board in recording.during.items():
        assert board["streams"] == night.spoiled.during[ip]["streams"], "tables changed meanwhile"
    check_pixels(recording, module, "img16")
    check_pixels(recording, module, "ph256")
    images = recording.read(module, "img16")
    levels = recording.during[next(iter(recording.during))]["streams"]["image"]["levels"]
    assert max(levels) > 100, "the sky is there"
    check_images_follow(recording, module)
    assert len(images) > RECORD_S * 1000 * 0.8
    assert len(recording.files(module, "img16")) >= 2, "rotated at 4 MB"


@pytest.mark.parametrize("module", MODULES)
def test_recorded_is_what_was_sent_to_the_packet(night: Done, module: int) -> None:
    check_statuses(night.clean)
    check_every_packet(night.clean, module)


def test_the_run_is_complete_and_says_so(night: Done, capsys: pytest.CaptureFixture[str]) -> None:
    recording = night.clean
    check_run_is_complete(recording.run_dir)
    data_dir = night.observatory.data_dir
    assert not (data_dir / "run_name").exists()
    assert not list(data_dir.glob("module_*/*")), "nothing is left in the node's directories"
    first = first_frame_unix(recording.run_dir)
    assert first is not None and 0 < first - recording.started_unix < 30
    problems = report(recording.run_dir, recording.started_unix, console.Console())
    assert problems == []
    draw_picture(recording.run_dir, console.Console())
    assert (recording.run_dir / "picture.png").stat().st_size > 10_000
    assert "img16" in capsys.readouterr().out


def test_housekeeping_of_every_board_was_recorded(night: Done) -> None:
    check_housekeeping(night.clean.run_dir, MODULES, RECORD_S)


def test_analysis_software_reads_the_run(night: Done, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    check_analysis_reads(night.clean, MODULES, caplog)


def lost_between(fates: Sequence[str], visible: Sequence[int]) -> int:
    """Losses that packet numbers can show: after the first and before the last that arrived."""
    return sum(1 for fate in fates[visible[0] : visible[-1]] if fate == "lost")


@pytest.mark.parametrize(("stream", "which"), [("image", sky.IMAGE), ("ph", sky.PH)])
def test_spoiled_packets_are_counted_exactly(night: Done, stream: str, which: int) -> None:
    recording = night.spoiled
    status = recording.status()
    check_sums(status)
    assert status["totals"]["kernel_drops"] == 0
    entries = recording.entries(stream)
    trouble: Counter[str] = Counter()
    for boardloc, account in recording.account(stream).items():
        fates = [packet_fate(SPOIL, boardloc, which, n)
                 for n in range(account["first"], account["end"])]  # fmt: skip
        trouble.update(fates)
        entry = entries[boardloc]
        arrived = [n for n, fate in enumerate(fates) if fate != "lost"]
        counted = Counter(fates)
        assert account["dropped"] == counted["lost"]
        assert entry["recorded"] == len(arrived)
        assert entry["lost"] == lost_between(fates, arrived)
        assert entry["duplicate"] == counted["duplicated"] == account["duplicated"]
        assert entry["late"] == entry["unwritten"] == 0
        assert entry["reordered"] == account["out_of_order"]
        product = "img16" if stream == "image" else "ph256"
        start = (account["next_number"] - account["produced"]) & 0xFFFF
        recorded = recorded_numbers(recording.read(boardloc >> 2, product), boardloc)
        assert sorted(recorded) == sorted((start + n) & 0xFFFF for n in arrived)
    if stream == "image":
        assert min(trouble.values()) > 50, trouble


def test_malformed_packets_are_refused_and_counted_by_kind(night: Done) -> None:
    recording = night.spoiled
    sent: Counter[str] = Counter()
    for stream in ("image", "ph"):
        for account in recording.account(stream).values():
            sent.update(account["malformed"])
    refused: Counter[str] = Counter()
    for entry in recording.status()["rejected"]:
        refused[entry["kind"]] += entry["count"]
    assert set(sent) == set(SPOIL.kinds) and min(sent.values()) > 10
    assert refused == sent
    log = next(recording.run_dir.glob("hp_log_*")).read_text()
    assert "source_mismatch" in log or "BOARDLOC" in log
    modules = {file.module for p in recording.run_dir.glob("*.pff")
               if (file := parse_data_file(p.name))}  # fmt: skip
    assert modules == set(MODULES), "no file for a module that is not ours"


@pytest.mark.parametrize("module", MODULES)
def test_spoiled_frames_are_right_where_they_are(night: Done, module: int) -> None:
    check_pixels(night.spoiled, module, "img16")
    check_pixels(night.spoiled, module, "ph256")
    partial = [f for f in night.spoiled.read(module, "img16")[20:-20] if len(f.boards) < 4]
    assert partial, "1 % lost must show"
    status = night.spoiled.status()
    counted = [p for p in status["products"] if (p["module"], p["product"]) == (module, "img16")]
    all_partial = sum(1 for f in night.spoiled.read(module, "img16") if len(f.boards) < 4)
    assert counted[0]["partial"] == all_partial


def test_after_the_night_the_high_voltage_is_off(night: Done) -> None:
    assert len(night.at_the_end) == 4 * len(MODULES)
    for ip, board in night.at_the_end.items():
        assert board["hv"]["codes"] == [0, 0, 0, 0], ip
        assert board["streams"] == {"image": None, "ph": None}, "the boards were told to stop"


# --- make run ---


def make_run(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "simulator.night", *words],
        cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_ctrl_c_while_recording_leaves_nobody_behind(tmp_path: Path) -> None:
    folder = tmp_path / "night"
    with make_run("--folder", str(folder), "--seconds", "60") as process:
        try:
            wait_for(
                lambda: (
                    any(one.what == "hashpipe" for one in leftovers.workers(folder))
                    or process.poll() is not None
                ),
                "the recording to begin",
                timeout_s=60,
            )
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 130, output + errors
        assert errors.count("interrupted (SIGINT)") >= 1
        assert leftovers.workers(folder) == []


@pytest.fixture
def strange_pipeline(tmp_path: Path) -> Iterator[int]:
    """A hashpipe of somebody else."""
    program = shutil.copy(shutil.which("sleep") or "/bin/sleep", tmp_path / "hashpipe")
    with subprocess.Popen([program, "60"]) as process:
        wait_for(lambda: psutil.Process(process.pid).name() == "hashpipe", "it to run")
        yield process.pid
        process.kill()


def test_refuses_to_begin_beside_somebody_elses_recording(
    tmp_path: Path, strange_pipeline: int
) -> None:
    with make_run("--folder", str(tmp_path / "night")) as process:
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 3
    assert f"hashpipe (pid {strange_pipeline})" in errors and errors.count("\n") == 1
    assert psutil.pid_exists(strange_pipeline)


def test_a_folder_in_use_and_missing_programs_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").write_text("x")
    with make_run("--folder", str(tmp_path)) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1 and "is not empty" in errors
    environment = {**os.environ, "PATH": "/nowhere"}
    code = (
        "from simulator import night, private_services\n"
        "private_services.SYSTEM_PATHS = '/nowhere'\n"
        "from panoseti import console\n"
        "raise SystemExit(console.call(night.main, []))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    for package in ("redis-server", "openssh-server", "rsync", "procps"):
        assert f"Debian package {package}" in done.stderr
    assert done.stderr.count("\n") == 1

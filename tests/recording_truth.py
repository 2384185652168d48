"""A recording checked against the simulated boards: they know each pixel and count what they send.

`before`, `during` and `after` of a Recording are the boards' states (SimulatorClient.state) around
the run; their tables must not change in between.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pypff
import pypff.io
import pytest

from panoseti.runs.names import parse_data_file
from panoseti.runs.run_account import PH_MODE
from panoseti.runs.run_state import runs
from tests import recorded_frames
from tests.helpers import pypff_warnings
from tests.pipeline import check_sums
from tests.recorded_frames import Frame, read_frames

PRODUCTS = {"image": "img16", "ph": "ph256"}
TROUBLES = ("lost", "duplicate", "late", "unwritten", "reordered", "resets")
MARKERS = {"recording_ended", "collect_complete", "run_complete"}
CONFIGS = {"obs_config.json", "daq_config.json", "data_config.json"}
# Boards begin and end one after another: the first and last frames lack some of them.
EDGE_FRAMES = 300
NEVER_SENT: dict[str, Any] = {"produced": 0, "sent": 0, "malformed": {}, "next_number": 0}


@dataclass
class Recording:
    """A run: its directory, and the boards as they were before, while, and after it recorded."""

    run_dir: Path
    before: dict[str, Any]
    during: dict[str, Any]
    after: dict[str, Any]
    started_unix: float = 0.0
    frames: dict[tuple[int, str], list[Frame]] = field(default_factory=dict)

    def files(self, module: int, product: str) -> list[Path]:
        """Data files that are not empty."""
        return [
            path
            for path in sorted(self.run_dir.glob("*.pff"))
            if (file := parse_data_file(path.name)) is not None
            and (file.module, file.product) == (module, product)
            and path.stat().st_size
        ]

    def read(self, module: int, product: str) -> list[Frame]:
        """All frames of a product of a module; read once."""
        key = (module, product)
        if key not in self.frames:
            paths = self.files(*key)
            self.frames[key] = [f for p in paths for f in read_frames(p.read_bytes(), product)]
        return self.frames[key]

    def statuses(self) -> list[dict[str, Any]]:
        """The accounts that the pipelines left."""
        return [json.loads(p.read_text()) for p in sorted(self.run_dir.glob("hp_status_*.json"))]

    def status(self) -> dict[str, Any]:
        """The account of the only pipeline."""
        (status,) = self.statuses()
        return status

    def entries(self, stream: str) -> dict[int, dict[str, Any]]:
        """The pipelines' account of each board's (by BOARDLOC) images or pulse heights."""
        return {
            4 * entry["module"] + entry["quabo"]: entry
            for status in self.statuses()
            for entry in status["quabos"]
            if (entry["mode"] != PH_MODE) == (stream == "image")
        }

    def account(self, stream: str) -> dict[int, dict[str, Any]]:
        """What each board (by BOARDLOC) did in this run: differences of its counters.

        first, end: counts of its packets of this run since the packet source began.
        """
        result = {}
        for ip, board in self.after.items():
            old = self.before[ip]["science"][stream] or {}
            new = board["science"][stream] or NEVER_SENT
            counts = {
                name: value - old.get(name, 0)
                for name, value in new.items()
                if isinstance(value, int)
            }
            counts["malformed"] = Counter(new["malformed"])
            counts["malformed"].subtract(old.get("malformed", {}))
            counts["first"], counts["end"] = old.get("produced", 0), new["produced"]
            counts["next_number"] = new["next_number"]
            result[board["boardloc"]] = counts
        return result

    def tables(self) -> dict[int, dict[str, Sequence[int]]]:
        """What each board's (by BOARDLOC) pixels were made of."""
        found: dict[int, dict[str, Sequence[int]]] = {}
        for board in self.during.values():
            image, ph = board["streams"]["image"], board["streams"]["ph"]
            found[board["boardloc"]] = {**(image or {}), **(ph or {})}
        return found


def boardlocs(module: int) -> range:
    """The four boards of a module."""
    return range(4 * module, 4 * module + 4)


def image_time_ms(frame: Frame) -> int:
    """Which millisecond of the circle of 1024 s a frame is of; its boards lie within 100 ns."""
    (time_ms,) = {
        (board["pkt_tai"] * 10**9 + board["pkt_nsec"]) // 10**6 for board in frame.boards.values()
    }
    return time_ms


def check_pixels(recording: Recording, module: int, product: str) -> None:
    """Every pixel of every frame is the one that was sent, at its right place."""
    frames = recording.read(module, product)
    assert frames
    recorded_frames.check_pixels(frames, product, module, recording.tables())


def check_images_follow(recording: Recording, module: int) -> None:
    """A frame each integration time (in ms), in order; whole from first to last whole one."""
    images = recording.read(module, "img16")
    times = [image_time_ms(frame) for frame in images]
    steps = {later - earlier for earlier, later in zip(times, times[1:], strict=False)}
    (period_us,) = {board["streams"]["image"]["period_us"] for board in recording.during.values()}
    assert steps == {period_us // 1000}, "frames in order, none missing"
    whole = [at for at, frame in enumerate(images) if len(frame.boards) == 4]
    assert whole == list(range(whole[0], whole[-1] + 1)), "a board is missing in the middle"
    assert len(images) - len(whole) < EDGE_FRAMES


def check_every_packet(recording: Recording, module: int) -> None:
    """What was sent is what was recorded, packet by packet, and what the pipeline says of it."""
    for stream, product in PRODUCTS.items():
        entries, account = recording.entries(stream), recording.account(stream)
        for boardloc in boardlocs(module):
            sent = account[boardloc]["sent"]
            assert sent == account[boardloc]["produced"]
            if not sent:  # nothing triggered within a short run, or a start did not come so far
                assert not recorded_numbers(recording.read(module, product), boardloc)
                continue
            entry = entries[boardloc]
            assert (entry["received"], entry["recorded"]) == (sent, sent)
            for trouble in TROUBLES:
                assert entry[trouble] == 0, (boardloc, stream, trouble)
            last = account[boardloc]["next_number"]
            numbers = recorded_numbers(recording.read(module, product), boardloc)
            assert numbers == [(last - sent + n) & 0xFFFF for n in range(sent)]


def check_all_sent_is_there(
    head_data: Path,
    before: dict[str, Any],
    during: dict[str, Any],
    after: dict[str, Any],
    modules: Iterable[int],
) -> None:
    """Every packet that was sent is in the files of the only run; without a run, none was."""
    found = runs(head_data)
    if not found:
        for ip, board in after.items():
            assert sent_by(board) == sent_by(before[ip]), f"{ip} sent, and there is no run"
        return
    (run,) = found
    recording = Recording(head_data / run, before, during, after)
    for module in modules:
        check_every_packet(recording, module)
        boards = [during[ip] for ip in after if after[ip]["boardloc"] // 4 == module]
        if all(board["streams"]["image"] for board in boards):
            check_pixels(recording, module, "img16")


def sent_by(board: dict[str, Any]) -> int:
    """Science packets that a board has sent."""
    return sum(stream["sent"] for stream in board["science"].values() if stream)


def recorded_numbers(frames: Iterable[Frame], boardloc: int) -> list[int]:
    """Packet numbers of one board in the frames of its module, in their order."""
    quabo = boardloc & 3
    return [frame.numbers[quabo] for frame in frames if quabo in frame.boards]


def check_statuses(recording: Recording) -> None:
    """Every pipeline's account adds up."""
    for status in recording.statuses():
        check_sums(status)


def check_run_is_complete(run_dir: Path) -> None:
    """All markers, configs and the record are there, and nothing half-done."""
    names = {path.name for path in run_dir.iterdir()}
    missing = (MARKERS | CONFIGS | {"run.json", "hk.pff"}) - names
    assert not missing, missing
    assert ".incoming" not in names


def check_housekeeping(run_dir: Path, modules: Iterable[int], at_least: float) -> None:
    """Records of every board, and HV on all the time."""
    text = (run_dir / "hk.pff").read_text()
    records = [json.loads(line) for line in text.split("\n\n")[:-1]]
    counts = Counter(key for record in records for key in record)
    keys = [f"QUABO_{boardloc}" for module in modules for boardloc in boardlocs(module)]
    assert set(keys) <= set(counts)
    assert min(counts[key] for key in keys) >= at_least
    volts = [float(record[key]["HVMON0"]) for record in records for key in record if key in keys]
    assert max(volts) < -50, "HV was on all the time"


def check_analysis_reads(
    recording: Recording, modules: Iterable[int], caplog: pytest.LogCaptureFixture
) -> None:
    """pypff opens the run without a warning, every config included, and sees the same frames."""
    run = pypff.PanosetiRun(recording.run_dir)
    assert {"daq_config", "data_config", "obs_config"} <= set(run.configs)
    products = list(run.list_products())
    for module in modules:
        for product, width in (("img16", 32), ("ph256", 16)):
            frames = recording.read(module, product)
            (name,) = [p for p in products if product in p and p.endswith(f"module_{module}")]
            with run.get_product(name) as sequence:
                assert len(sequence) == len(frames)
                for at in {0, len(frames) // 2, len(frames) - 1}:
                    _, pixels = sequence.get_frame_validated(at)
                    assert (np.asarray(pixels).reshape(width, width) == frames[at].pixels).all()
            shown = [
                row
                for path in recording.files(module, product)
                for row in pypff.io.datapff(str(path)).readpff()[0]
            ]
            assert all(
                (row == frame.pixels.ravel()).all()
                for row, frame in zip(shown, frames, strict=True)
            )
    assert pypff_warnings(caplog) == []

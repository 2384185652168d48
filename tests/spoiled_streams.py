"""Streams that lose, repeat, reorder and damage packets on purpose, recorded and checked exactly.

The fate of every packet is known beforehand (simulator.faults.packet_fate), so every count of the
pipeline and every frame is too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator import sky
from simulator.faults import MALFORMED_KINDS, Spoil, packet_fate
from tests.pipeline import Recorder, Source, packet_source, recording, skip_if_dropped
from tests.recorded_frames import Frame, board_time_ns, check_pixels

TAI_NS = 1024 * 10**9  # board times count modulo this

ALL_FAULTS = Spoil(
    loss=0.01, duplicate=0.01, reorder=0.01, malformed=0.01, depth=9, kinds=MALFORMED_KINDS, seed=5
)


@dataclass(frozen=True)
class Acquisition:
    """What all boards send, and the product that the pipeline makes of it."""

    mode: int
    product: str

    @property
    def stream(self) -> int:
        """Of the two streams of a board, each with packet numbers of its own."""
        return sky.PH if self.product.startswith("ph") else sky.IMAGE

    @property
    def top(self) -> int:
        """Where the levels of its pixels end."""
        return 255 if self.product == "img8" else 60000

    def command(self, recorder: Recorder, source: Source, stream: Stream, boardloc: int) -> str:
        """Makes the packet source send.  One board triggers pulse heights for all four."""
        to = f"{source.address[boardloc]} dest={recorder.destination} acq={self.mode}"
        period = f"period_ns={stream.period_ns}"
        if self.stream == sky.IMAGE:
            return f"image {to} {period} frames={stream.frames}"
        trigger = f" {period}" if boardloc == stream.boardlocs[-1] else ""
        return f"ph {to} external=1 frames={stream.frames}{trigger}"


IMG16 = Acquisition(2, "img16")
IMG8 = Acquisition(6, "img8")
PH256 = Acquisition(1, "ph256")
PH1024 = Acquisition(1, "ph1024")


@dataclass(frozen=True)
class Stream:
    """Packets of one module: every board sends so many, spoiled all alike."""

    module: int
    spoil: Spoil
    frames: int
    period_ns: int = 1_000_000

    @property
    def boardlocs(self) -> range:
        """Its boards."""
        return range(4 * self.module, 4 * self.module + 4)


def check_whole(
    frames: list[Frame],
    module: int,
    period_ns: int,
    sent: dict[int, set[int]],
    stream: int = sky.IMAGE,
) -> int:
    """Frames are exactly what boards that keep step sent: `sent` numbers by BOARDLOC.

    Board b sends packet n at first[b] + n * period; frames are in the order of time and hold all
    that was sent in one period.  Returns how many frames lack a board.
    """
    first: dict[int, int] = {}
    base_ns = min(board_time_ns(board) for board in frames[0].boards.values())
    for frame in frames:
        for quabo, board in frame.boards.items():
            if board["pkt_nsec"] == 999_999_999:
                continue  # the pulse per second was late: not the true time
            stamp = sky.stamp_offset_ns(4 * module + quabo, stream, board["pkt_num"])
            since_ns = (board_time_ns(board) - base_ns + TAI_NS // 2) % TAI_NS - TAI_NS // 2
            begin_ns = since_ns - board["pkt_num"] * period_ns - stamp
            assert first.setdefault(quabo, begin_ns) == begin_ns
    wanted: dict[int, dict[int, int]] = defaultdict(dict)
    for boardloc, numbers in sent.items():
        quabo = boardloc & 3
        for number in numbers:
            wanted[first[quabo] + number * period_ns][quabo] = number
    assert [frame.numbers for frame in frames] == [
        dict(sorted(wanted[when].items())) for when in sorted(wanted)
    ]
    return sum(len(frame.boards) < 4 for frame in frames)


def spoil_check(
    folder: Path,
    streams: list[Stream],
    sanitizer: str,
    capture: str,
    acquisition: Acquisition = IMG16,
) -> None:
    """The frames that can be are there, everything else is counted."""
    options: dict[str, object] = {
        "CAPTURE": capture,
        "GROUPPHFRAMES": int(acquisition.product == "ph1024"),
    }
    if capture == "packet":
        options["BINDHOST"] = "lo"
    modules = [stream.module for stream in streams]
    with (
        recording(folder, modules, options, sanitizer=sanitizer) as recorder,
        packet_source() as source,
    ):
        for stream in streams:
            source.add_module(recorder, stream.module, top=acquisition.top)
        for stream in streams:
            for boardloc in stream.boardlocs:
                source.tell(f"spoil {source.address[boardloc]} {stream.spoil.words()}")
                source.tell(acquisition.command(recorder, source, stream, boardloc))
        accounts = _sent(streams, source, acquisition)
        status = recorder.stop()
        skip_if_dropped(status)
        partial = sum(
            _check_stream(stream, status, accounts, recorder, source, acquisition)
            for stream in streams
        )
    assert sum(entry["partial"] for entry in status["products"]) == partial
    _check_rejected(status, accounts, source)


def _sent(
    streams: list[Stream], source: Source, acquisition: Acquisition
) -> dict[int, dict[str, Any]]:
    """Accounts by BOARDLOC of what was sent, all of it."""
    if acquisition.stream == sky.IMAGE:
        return {b: a["image"] for b, a in source.done(4 * len(streams)).items()}
    # The others of a module have sent theirs when the one that triggers them has.
    accounts = {b: a["ph"] for b, a in source.done(len(streams)).items()}
    for boardloc in source.address.keys() - accounts.keys():
        accounts[boardloc] = source.stop(boardloc)["ph"]
    return accounts


def _check_stream(
    stream: Stream,
    status: dict[str, Any],
    accounts: dict[int, dict[str, Any]],
    recorder: Recorder,
    source: Source,
    acquisition: Acquisition,
) -> int:
    """Counts and frames of one module; how many frames lack a board."""
    entries = {4 * entry["module"] + entry["quabo"]: entry for entry in status["quabos"]}
    sent: dict[int, set[int]] = {}
    for boardloc in stream.boardlocs:
        fates = [
            packet_fate(stream.spoil, boardloc, acquisition.stream, n) for n in range(stream.frames)
        ]
        sent[boardloc] = {n for n, fate in enumerate(fates) if fate != "lost"}
        inner = range(min(sent[boardloc]) + 1, max(sent[boardloc]))
        entry = entries[boardloc]
        assert entry["lost"] == sum(fates[n] == "lost" for n in inner)
        assert entry["duplicate"] == fates.count("duplicated")
        assert entry["reordered"] == accounts[boardloc]["out_of_order"]
        assert entry["late"] == entry["resets"] == 0
        assert entry["recorded"] == len(sent[boardloc])
    found = recorder.frames(stream.module, acquisition.product)
    check_pixels(found[::7], acquisition.product, stream.module, source.tables)
    if acquisition.product == "ph256":
        _check_single_boards(found, sent)
        return 0
    return check_whole(found, stream.module, stream.period_ns, sent, acquisition.stream)


def _check_single_boards(frames: list[Frame], sent: dict[int, set[int]]) -> None:
    """Frames of one board each, in the order of arrival: every packet that was sent, once."""
    seen: dict[int, list[int]] = defaultdict(list)
    for frame in frames:
        ((quabo, number),) = frame.numbers.items()
        seen[quabo].append(number)
    assert {quabo: sorted(numbers) for quabo, numbers in seen.items()} == {
        boardloc & 3: sorted(numbers) for boardloc, numbers in sent.items()
    }


def _check_rejected(
    status: dict[str, Any], accounts: dict[int, dict[str, Any]], source: Source
) -> None:
    """Malformed packets are counted by kind and by who sent them."""
    sent = sum((Counter(account["malformed"]) for account in accounts.values()), Counter[str]())
    counted = Counter[str]()
    for entry in status["rejected"]:
        counted[entry["kind"]] += entry["count"]
        boardloc = next(b for b, address in source.address.items() if address == entry["source"])
        assert entry["count"] == accounts[boardloc]["malformed"][entry["kind"]]
    assert counted == {kind: n for kind, n in sent.items() if n}

"""The C packet source: every pixel as sky.py says, every fault counted exactly."""

from __future__ import annotations

import json
import random
import signal
import socket
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from simulator import sky
from simulator.faults import Spoil, packet_fate
from tests.helpers import REPO, wait_for
from tests.simulated import head_address, module_base, private_prefix, table, udp_socket

FOLDER = REPO / "simulator" / "packet_source"
HEADER = struct.Struct("<BBHHIIH")


class Source:
    """A packet source with four boards of one module, and a socket that receives them all."""

    def __init__(self, process: subprocess.Popen[str], module: int = 254) -> None:
        self.process = process
        prefix = private_prefix()
        base = module_base(prefix, module)
        last = int(base.rsplit(".", 1)[1])
        self.boards = [f"{base.rsplit('.', 1)[0]}.{last + quabo}" for quabo in range(4)]
        self.boardlocs = [4 * module + quabo for quabo in range(4)]
        self.socket = udp_socket(head_address(prefix))
        self.destination = "{}:{}".format(*self.socket.getsockname())
        for ip, boardloc in zip(self.boards, self.boardlocs, strict=True):
            self.tell(f"board {ip} boardloc={boardloc}")

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answers(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """The next `count` answers, which must be this event."""
        assert self.process.stdout is not None
        found: list[dict[str, Any]] = []
        while len(found) < count:
            line = self.process.stdout.readline()
            assert line, "the packet source ended"
            answer = json.loads(line)
            assert answer["event"] == event, answer
            found.append(answer)
        return found

    def receive(self, count: int) -> list[tuple[bytes, tuple[str, int]]]:
        return [self.socket.recvfrom(2048) for _ in range(count)]

    def drain(self, quiet_s: float = 0.2) -> list[bytes]:
        """Everything that has arrived, until nothing comes any more."""
        self.socket.settimeout(quiet_s)
        found = []
        try:
            while True:
                found.append(self.socket.recvfrom(2048)[0])
        except TimeoutError:
            return found


@contextmanager
def running_source(*options: str) -> Iterator[Source]:
    process = subprocess.Popen(
        [str(FOLDER / "packet_source"), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    source = None
    try:
        source = Source(process)
        yield source
        if process.poll() is None:
            source.tell("quit")
        assert process.wait(timeout=10) == 0
    finally:
        if source is not None:
            source.socket.close()
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    subprocess.run(["make", "-s", "-C", str(FOLDER)], check=True)


@pytest.fixture
def source() -> Iterator[Source]:
    with running_source() as running:
        yield running


@pytest.mark.parametrize(("acq", "top", "code"), [(2, 65535, "H"), (7, 255, "B")])
def test_image_pixels_are_those_of_sky(source: Source, acq: int, top: int, code: str) -> None:
    levels = {}
    for ip, boardloc in zip(source.boards, source.boardlocs, strict=True):
        generator = random.Random(boardloc)
        levels[boardloc] = [generator.randrange(0, top - 15) for _ in range(256)]
        levels[boardloc][3:6] = [0, top, 1]
        source.tell(f"levels {ip} {table(levels[boardloc], 'H')}")
        source.tell(f"image {ip} dest={source.destination} acq={acq} period_ns=1000000 frames=30")
    seen: Counter[int] = Counter()
    for data, sender in source.receive(120):
        mode, version, number, boardloc, _tai, _ns, _ = HEADER.unpack_from(data)
        assert (mode, version) == (acq, 0)
        assert sender == (source.boards[boardloc & 3], 49153)
        pixels = list(struct.unpack_from(f"<256{code}", data, 16))
        assert len(data) == 16 + struct.calcsize(f"256{code}")
        assert pixels == sky.image_pixels(levels[boardloc], boardloc, number, top)
        seen[boardloc] += 1
    assert seen == dict.fromkeys(source.boardlocs, 30)
    for answer in source.answers("done", 4):
        assert answer["image"]["sent"] == answer["image"]["produced"] == 30


def test_ph_pixels_are_those_of_sky_and_signed(source: Source) -> None:
    generator = random.Random(5)
    pattern = [generator.randrange(0, 900) for _ in range(256)]
    offset = [generator.randrange(-300, 300) for _ in range(256)]
    pattern[0:2], offset[0:2] = [32767, 0], [32767, -32768]
    ip, boardloc = source.boards[2], source.boardlocs[2]
    source.tell(f"pattern {ip} {table(pattern, 'h')}")
    source.tell(f"offset {ip} {table(offset, 'h')}")
    source.tell(f"ph {ip} dest={source.destination} acq=1 poisson_hz=500 seed=3")
    lowest = 0
    for number, (data, _) in enumerate(source.receive(40)):
        assert HEADER.unpack_from(data)[:4] == (1, 1, number, boardloc)
        pixels = list(struct.unpack_from("<256h", data, 16))
        assert pixels == sky.ph_pixels(pattern, offset, boardloc, number)
        lowest = min(lowest, *pixels)
    assert lowest == -32768
    assert pixels[0] == 32767


def test_frames_stand_on_absolute_time_and_boards_within_the_window(source: Source) -> None:
    for ip in source.boards:
        source.tell(f"image {ip} dest={source.destination} acq=2 period_ns=5000000 frames=20")
    stamps: dict[int, list[int]] = {}
    for data, _ in source.receive(80):
        _, _, number, boardloc, tai, nanosec, _ = HEADER.unpack_from(data)
        now = time.time()
        second = round((now + 37 - (tai & 0x3FF)) / 1024) * 1024 + (tai & 0x3FF) - 37
        offset = sky.stamp_offset_ns(boardloc, sky.IMAGE, number)
        assert (nanosec - offset) % 5_000_000 == 0
        assert abs(second + nanosec / 1e9 - now) < 0.5
        stamps.setdefault(second * 10**9 + nanosec - offset, []).append(offset)
    whole = [offsets for offsets in stamps.values() if len(offsets) == 4]
    assert len(whole) >= 18  # boards are told one after the other: the first frames may be less
    assert all(max(offsets) - min(offsets) <= 100 for offsets in whole)
    assert all(offset % 4 == 0 for offsets in whole for offset in offsets)


def test_packet_numbers_wrap_and_reset(source: Source) -> None:
    ip = source.boards[0]
    nowhere = source.destination.rsplit(":", 1)[0] + ":9"
    source.tell(f"image {ip} dest={nowhere} acq=6 period_ns=1000 frames=65530 flood=1")
    assert source.answers("done")[0]["image"]["next_number"] == 65530
    source.tell(f"image {ip} dest={source.destination} acq=6 period_ns=1000000 frames=12")
    numbers = [struct.unpack_from("<H", data, 2)[0] for data, _ in source.receive(12)]
    assert numbers == [*range(65530, 65536), *range(6)]
    source.tell(f"reset {ip}")
    source.tell(f"image {ip} dest={source.destination} acq=6 period_ns=1000000 frames=1")
    assert struct.unpack_from("<H", source.receive(1)[0][0], 2)[0] == 0


def test_faults_are_exact_and_predictable(source: Source) -> None:
    spoil = Spoil(
        loss=0.02,
        duplicate=0.03,
        reorder=0.02,
        malformed=0.03,
        depth=5,
        seed=11,
        kinds=("length", "acq_mode", "unknown_module", "source_mismatch"),
    )
    frames = 2000
    for ip in source.boards:
        source.tell(f"spoil {ip} {spoil.words()}")
        source.tell(f"image {ip} dest={source.destination} acq=2 period_ns=200000 frames={frames}")
    good: dict[int, list[int]] = {loc: [] for loc in source.boardlocs}
    lengths = modes = foreign = 0
    packets: list[bytes] = []
    accounts: list[dict[str, Any]] = []
    while len(packets) < 4 * frames * 0.95:
        packets.append(source.socket.recvfrom(2048)[0])
    packets += source.drain()
    accounts = source.answers("done", 4)
    own = set()
    for data in packets:
        if len(data) != 528:
            lengths += 1
            continue
        mode, _, number, boardloc, _, nanosec, _ = HEADER.unpack_from(data)
        if mode != 2:
            modes += 1
        elif boardloc not in good:
            foreign += 1
        else:
            good[boardloc].append(number)
            own.add((boardloc, number, nanosec))
    mismatched = 0
    for account in accounts:
        image, boardloc = account["image"], account["boardloc"]
        fates = Counter(packet_fate(spoil, boardloc, sky.IMAGE, n) for n in range(frames))
        assert image["produced"] == frames
        assert image["dropped"] == fates["lost"]
        assert image["duplicated"] == fates["duplicated"]
        assert image["reordered"] == fates["reordered"]
        assert sum(image["malformed"].values()) == fates["followed_by_malformed"]
        assert image["sent"] == frames - fates["lost"]
        mismatched += image["malformed"]["source_mismatch"]
        kept = {n for n in range(frames) if packet_fate(spoil, boardloc, sky.IMAGE, n) != "lost"}
        assert kept <= set(good[boardloc])
        assert 0 < image["out_of_order"] <= image["reordered"]
    assert lengths == sum(account["image"]["malformed"]["length"] for account in accounts)
    assert modes == sum(account["image"]["malformed"]["acq_mode"] for account in accounts)
    assert foreign == sum(account["image"]["malformed"]["unknown_module"] for account in accounts)
    copies = sum(account["image"]["duplicated"] for account in accounts)
    sent = sum(account["image"]["sent"] for account in accounts)
    assert sum(len(numbers) for numbers in good.values()) == sent + copies + mismatched


def test_reordered_packets_come_after_the_number_that_overtakes(source: Source) -> None:
    ip, boardloc = source.boards[1], source.boardlocs[1]
    spoil = Spoil(reorder=0.05, depth=8, seed=2)
    source.tell(f"spoil {ip} {spoil.words()}")
    source.tell(f"image {ip} dest={source.destination} acq=2 period_ns=100000 frames=500")
    numbers = [struct.unpack_from("<H", data, 2)[0] for data, _ in source.receive(500)]
    assert sorted(numbers) == list(range(500))
    late = [n for n in range(500) if packet_fate(spoil, boardloc, sky.IMAGE, n) == "reordered"]
    assert late
    for number in late:
        before = numbers[: numbers.index(number)]
        wanted = set(range(number + 1, min(500, number + 9))) - set(late)
        assert wanted <= set(before)
    passed = 0
    highest = -1
    for number in numbers:
        passed += number < highest
        highest = max(highest, number)
    assert source.answers("done")[0]["image"]["out_of_order"] == passed


def test_any_trigger_reads_out_the_whole_module_at_once(source: Source) -> None:
    for quabo, ip in enumerate(source.boards):
        rate = 300 if quabo == 1 else 0
        source.tell(f"ph {ip} dest={source.destination} acq=1 poisson_hz={rate} external=1")
    events: dict[int, list[int]] = {}
    for data, _ in source.receive(160):
        _, _, number, boardloc, _, nanosec, _ = HEADER.unpack_from(data)
        base = nanosec - sky.stamp_offset_ns(boardloc, sky.PH, number)
        events.setdefault(base, []).append(nanosec)
    assert len(events) == 40
    assert all(len(stamps) == 4 for stamps in events.values())
    assert all(max(stamps) - min(stamps) <= 25 for stamps in events.values())


def test_without_any_trigger_boards_read_out_alone(source: Source) -> None:
    for ip in source.boards:
        source.tell(f"ph {ip} dest={source.destination} acq=1 poisson_hz=200")
    times = set()
    for data, _ in source.receive(80):
        _, _, number, boardloc, tai, nanosec, _ = HEADER.unpack_from(data)
        times.add((tai, nanosec - sky.stamp_offset_ns(boardloc, sky.PH, number)))
    assert len(times) == 80


def test_periodic_events_keep_their_period(source: Source) -> None:
    source.tell(f"ph {source.boards[0]} dest={source.destination} acq=1 period_ns=10000000")
    stamps = []
    for number, (data, _) in enumerate(source.receive(10)):
        nanosec = HEADER.unpack_from(data)[5]
        stamps.append(nanosec - sky.stamp_offset_ns(source.boardlocs[0], sky.PH, number))
    assert all(stamp % 10_000_000 == 0 for stamp in stamps)
    assert [(b - a) % 10**9 for a, b in zip(stamps, stamps[1:], strict=False)] == [10_000_000] * 9


def test_counts_stay_exact_when_it_was_held_up(source: Source) -> None:
    ip = source.boards[0]
    source.tell(f"image {ip} dest={source.destination} acq=6 period_ns=1000000 frames=600")
    first = source.receive(5)
    source.process.send_signal(signal.SIGSTOP)
    time.sleep(0.3)  # the hold-up itself
    source.process.send_signal(signal.SIGCONT)
    numbers = [struct.unpack_from("<H", data, 2)[0] for data, _ in first + source.receive(595)]
    assert numbers == list(range(600))
    assert source.answers("done")[0]["image"]["sent"] == 600


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("image 127.9.9.9 dest=127.0.0.1:1 acq=2 period_ns=1000000", "no such board"),
        ("image {board} dest=10.1.2.3:60001 acq=2 period_ns=1000000", "dest"),
        ("image {board} dest=8.8.8.8:60001 acq=2 period_ns=1000000", "dest"),
        ("image {board} dest=127.0.0.1:70000 acq=2 period_ns=1000000", "dest"),
        ("image {board} dest=127.0.0.1:6 acq=5 period_ns=1000000", "acq"),
        ("image {board} dest=127.0.0.1:6 acq=2 period_ns=abc", "period_ns"),
        ("levels {board} 00ff", "1024"),
        ("spoil {board} loss=0.7 duplicate=0.7", "sum"),
        ("spoil {board} depth=65", "depth"),
        ("stop {board} everything", "image, ph or all"),
        ("dance {board}", "unknown command"),
        ("board 10.0.0.4 boardloc=4", "address"),
        ("board 127.200.0.4 boardloc=5", "boardloc"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(source: Source, line: str, named: str) -> None:
    source.tell(line.format(board=source.boards[0]))
    assert named in source.answers("error")[0]["what"]
    source.tell("counters")
    for answer in source.answers("counters", 4):
        assert answer["image"]["produced"] == answer["ph"]["produced"] == 0


@pytest.mark.parametrize("how", ["end of stdin", "SIGTERM", "SIGINT"])
def test_it_ends_with_a_last_report(source: Source, how: str) -> None:
    source.tell(f"image {source.boards[0]} dest={source.destination} acq=2 period_ns=1000000")
    received = len(source.receive(20))
    if how == "end of stdin":
        assert source.process.stdin is not None
        source.process.stdin.close()
    else:
        source.process.send_signal(getattr(signal, how))
    final = source.answers("final", 4)[0]
    received += len(source.drain())
    assert final["image"]["sent"] == received
    wait_for(lambda: source.process.poll() is not None, "the packet source to end")


def test_port_in_use_is_one_line() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("0.0.0.0", 0))
        port = str(holder.getsockname()[1])
        done = subprocess.run(
            [str(FOLDER / "packet_source"), "--port", port],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=10,
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"port {port}" in done.stderr
    assert "in use" in done.stderr

"""The recording pipeline as it runs: real datagrams in, files and accounts out."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pypff.io
import pytest

from tests.helpers import golden, wait_for
from tests.pipeline import (
    HASHPIPE,
    RUN,
    Recorder,
    boards,
    build,
    check_sums,
    packet,
    packet_source,
    preload,
    recording,
    skip_if_dropped,
)
from tests.recorded_frames import DTYPE, check_pixels
from tests.spoiled_streams import ALL_FAULTS, check_whole

GROUPED = {"GROUPPHFRAMES": 1}


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    build()


# ---- unit tests in C ----


@pytest.mark.parametrize("sanitizer", ["", "address", "thread"])
def test_units(sanitizer: str) -> None:
    done = subprocess.run(
        ["make", "-s", "-j2", "-C", str(HASHPIPE), f"SAN={sanitizer}", "test"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = set(re.findall(r"^ok +(\w+)$", done.stdout, re.MULTILINE))
    # The fuzz targets go through their corpus and the same mutations of it every time.
    fuzzed = {f"fuzz_{what}" for what in ("config", "frames", "options", "packets")}
    wanted = {path.stem for path in (HASHPIPE / "tests").glob("test_*.c")} | fuzzed
    if sanitizer == "thread":
        wanted -= {"test_clock", "test_framer"} | fuzzed  # they have one thread
    assert passed == wanted


# ---- golden frames through the whole pipeline ----


def without_clock(header: str) -> str:
    """A header with the computer's clock (10 and 6 places) blanked out."""
    for key, width in (("tv_sec", 10), ("tv_usec", 6)):
        parts = header.split(f'"{key}": ')
        header = f'"{key}": '.join([parts[0], *("#" * width + part[width:] for part in parts[1:])])
    return header


@pytest.mark.parametrize("case", golden("frames")["cases"], ids=lambda case: case["name"])
def test_golden_frames(tmp_path: Path, case: dict[str, Any]) -> None:
    begin = int(time.time())
    options = {"GROUPPHFRAMES": case["group_ph_frames"]}
    with recording(tmp_path, (case["module"],), options) as recorder, boards(recorder) as senders:
        for sent in case["packets"]:
            payload = bytes.fromhex(sent["hex"])
            senders.send(payload, int.from_bytes(payload[4:6], "little"))
        recorder.stop()
        frames = recorder.frames(case["module"], case["product"])
    wanted = {without_clock(frame["header"]): frame["pixels"] for frame in case["frames"]}
    assert {without_clock(frame.header) for frame in frames} == wanted.keys()
    assert len(frames) == len(case["frames"])
    for frame in frames:
        pixels = frame.pixels.view(DTYPE[case["product"]].replace("i", "u")).ravel().tolist()
        assert pixels == wanted[without_clock(frame.header)]
        for board in frame.boards.values():
            assert begin <= board["tv_sec"] <= time.time()
            assert 0 <= board["tv_usec"] <= 999999


@pytest.mark.parametrize("case", golden("grouping")["cases"], ids=lambda case: case["name"])
def test_golden_grouping(tmp_path: Path, case: dict[str, Any]) -> None:
    options = {"GROUPPHFRAMES": case["group_ph_frames"]}
    with recording(tmp_path, (1, 254), options) as recorder, boards(recorder) as senders:
        for mode, boardloc, number, tai, nsec, fill, _, _ in case["packets"]:
            senders.send(packet(mode, boardloc, number, tai, nsec, fill), boardloc)
        status = recorder.stop()
        headers: dict[tuple[int, str], list[str]] = {
            (module, product): [
                without_clock(frame.header) for frame in recorder.frames(module, product)
            ]
            for module in (1, 254)
            for product in DTYPE
        }
    assert status["totals"]["recorded"] == len(case["packets"])
    for frame in case["frames"]:
        header = without_clock(frame["header"])
        assert headers[frame["module"], frame["product"]].count(header) == 1


# ---- every product, pixel by pixel ----


@pytest.mark.parametrize(
    ("mode", "product", "capture"),
    [(2, "img16", "udp"), (3, "img16", "packet"), (6, "img8", "packet"), (7, "img8", "udp")],
)
def test_images(tmp_path: Path, mode: int, product: str, capture: str) -> None:
    if capture == "packet" and os.geteuid():
        pytest.skip("packet capture needs root")
    modules, frames, period_ns = (0, 63, 255), 300, 500_000
    options = {"CAPTURE": capture} | ({"BINDHOST": "lo"} if capture == "packet" else {})
    with recording(tmp_path, modules, options) as recorder, packet_source() as source:
        for module in modules:
            source.add_module(recorder, module, top=255 if product == "img8" else 60000)
        for boardloc, address in source.address.items():
            source.tell(
                f"image {address} dest={recorder.destination} acq={mode} period_ns={period_ns}"
                f" frames={frames if boardloc != 253 else frames - 100}"
            )
        source.done(12)
        status = recorder.stop()
        skip_if_dropped(status)
        assert status["capture"] == capture
        assert status["totals"]["recorded"] == 12 * frames - 100
        for module in modules:
            found = recorder.frames(module, product)
            sent = {
                4 * module + quabo: set(
                    range(frames - 100 if (module, quabo) == (63, 1) else frames)
                )
                for quabo in range(4)
            }
            partial = check_whole(found, module, period_ns, sent)
            check_pixels(found, product, module, source.tables)
            entry = next(
                entry
                for entry in status["products"]
                if (entry["module"], entry["product"]) == (module, product)
            )
            assert entry["frames"] == len(found)
            assert entry["partial"] == partial
            assert entry["bytes"] == sum(p.stat().st_size for p in recorder.files(module, product))
            if module == 63:
                assert partial >= 100


@pytest.mark.parametrize("grouped", [False, True])
def test_pulse_heights(tmp_path: Path, grouped: bool) -> None:
    product = "ph1024" if grouped else "ph256"
    options = GROUPED if grouped else {}
    with recording(tmp_path, (254,), options) as recorder, packet_source() as source:
        source.add_module(recorder, 254)
        for boardloc, address in source.address.items():
            rate = 400 if boardloc & 3 == 1 else 0
            source.tell(
                f"ph {address} dest={recorder.destination} acq=1 poisson_hz={rate}"
                f" external={int(grouped)} seed=4"
            )
        wait_for(lambda: recorder.status()["totals"]["received"] > 150, "events")
        sent = {boardloc: source.stop(boardloc)["ph"]["sent"] for boardloc in source.address}
        status = recorder.stop()
        skip_if_dropped(status)
        found = recorder.frames(254, product)
        check_pixels(found, product, 254, source.tables)
        assert status["totals"]["recorded"] == sum(sent.values())
        assert [frame.numbers[1] for frame in found if 1 in frame.boards] == list(range(sent[1017]))
        if grouped:
            # One event is one frame. The boards begin and end one after another, so the first and
            # the last events may miss a board; a board that takes part misses none until it ends.
            assert len(found) == sent[1017]
            for quabo in range(4):
                at = [n for n, frame in enumerate(found) if quabo in frame.boards]
                assert at == list(range(at[0], at[0] + sent[1016 + quabo]))
                assert [found[n].numbers[quabo] for n in at] == list(range(len(at)))
            assert any(len(frame.boards) == 4 for frame in found)
        else:
            assert [list(frame.boards) for frame in found] == [[1]] * sent[1017]
        # What analysis software reads is the same, sign included.
        path = next(path for path in recorder.files(254, product) if path.stat().st_size)
        data, metadata = pypff.io.datapff(str(path)).readpff(metadata=True)
        assert data.shape == (len(found), 1024 if grouped else 256)
        assert data.min() < 0
        for row, frame in zip(data, found, strict=True):
            assert (row == frame.pixels.ravel()).all()
        numbers = metadata["quabo_1"]["pkt_num"] if grouped else metadata["pkt_num"]
        assert numbers.tolist() == [frame.numbers.get(1, 0) for frame in found]


def test_images_and_pulse_heights_at_once_and_pypff(tmp_path: Path) -> None:
    with recording(tmp_path, (1, 254)) as recorder, packet_source() as source:
        for module in (1, 254):
            source.add_module(recorder, module)
        for address in source.address.values():
            source.tell(f"ph {address} dest={recorder.destination} acq=1 poisson_hz=300")
            source.tell(f"image {address} dest={recorder.destination} acq=3 period_ns=1000000")
        wait_for(lambda: recorder.status()["totals"]["received"] > 3000, "packets")
        accounts = {boardloc: source.stop(boardloc) for boardloc in source.address}
        status = recorder.stop()
        skip_if_dropped(status)
        for module in (1, 254):
            sent = {b: a for b, a in accounts.items() if b >> 2 == module}
            images, pulses = recorder.frames(module, "img16"), recorder.frames(module, "ph256")
            check_whole(
                images,
                module,
                1_000_000,
                {b: set(range(a["image"]["sent"])) for b, a in sent.items()},
            )
            check_pixels(images, "img16", module, source.tables)
            check_pixels(pulses, "ph256", module, source.tables)
            seen = Counter(next(iter(frame.boards)) for frame in pulses)
            assert seen == {b & 3: a["ph"]["sent"] for b, a in sent.items()}
            (path,) = recorder.files(module, "img16")
            data, metadata = pypff.io.datapff(str(path)).readpff(metadata=True)
            assert data.shape == (len(images), 1024)
            assert (data[-1] == images[-1].pixels.ravel()).all()
            assert metadata["quabo_3"]["pkt_num"].tolist() == [
                frame.numbers.get(3, 0) for frame in images
            ]
    for stream in status["quabos"]:
        assert stream["lost"] == stream["duplicate"] == stream["late"] == stream["resets"] == 0


# ---- files ----


def test_rotation(tmp_path: Path) -> None:
    with recording(tmp_path, (254,), {"MAXFILESIZE": 1}) as recorder, packet_source() as source:
        source.add_module(recorder, 254)
        for address in source.address.values():
            source.tell(
                f"image {address} dest={recorder.destination} acq=2 period_ns=200000 frames=1000"
            )
        source.done(4)
        status = recorder.stop()
        skip_if_dropped(status)
        sizes = [path.stat().st_size for path in recorder.files(254, "img16")]
        frames = recorder.frames(254, "img16")
        assert sizes[:2] == [1000760, 1000760]
        assert len(sizes) == 3
        assert sum(sizes) == 2540 * len(frames)
        check_whole(frames, 254, 200_000, {b: set(range(1000)) for b in source.address})
        for product in ("img8", "ph256", "ph1024"):
            assert [path.stat().st_size for path in recorder.files(254, product)] == [0]


def test_frames_reach_the_disk_soon(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder, boards(recorder) as senders:
        (path,) = recorder.files(254, "ph256")
        delays = []
        for number in range(30):
            senders.send(packet(1, 1016, number, 5, number * 1000), 1016)
            begin = time.monotonic()
            while path.stat().st_size < 636 * (number + 1):
                assert time.monotonic() - begin < 5
                time.sleep(0.001)
            delays.append(time.monotonic() - begin)
        recorder.stop()
    assert sorted(delays)[15] <= 0.05


def test_gaps_and_age(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder, boards(recorder) as senders:
        for number, pause_s in enumerate((0.02, 0.4, 0.02)):
            senders.send(packet(1, 1016, number, 5, number * 1000), 1016)
            time.sleep(pause_s)  # the gap that is measured
        senders.send(packet(1, 1016, 3, 5, 3000), 1016)
        senders.send(packet(1, 1017, 0, 5, 3000), 1017)
        first, second = recorder.stop()["quabos"]
    assert 0.4 <= first["longest_gap_s"] < 0.4 + 2
    assert second["longest_gap_s"] == 0  # one packet has no gap
    assert 0 <= first["last_packet_age_s"] < 5
    assert first["first_packet_age_s"] >= first["last_packet_age_s"] + 0.44
    assert second["first_packet_age_s"] == second["last_packet_age_s"]


def thread_cpu_s(recorder: Recorder, name: str) -> tuple[float, float]:
    """CPU seconds of a thread, and the seconds that it could run but had to wait for a CPU."""
    for task in Path(f"/proc/{recorder.process.pid}/task").iterdir():
        if (task / "comm").read_text().strip() == name:
            ran_ns, waited_ns, _ = map(int, (task / "schedstat").read_text().split())
            return ran_ns * 1e-9, waited_ns * 1e-9
    raise AssertionError(f"no thread {name}")


@pytest.mark.parametrize("capture", ["udp", "packet"])
def test_busy_poll(tmp_path: Path, capture: str) -> None:
    """The net thread never sleeps, whatever else the computer does: it runs or waits for a CPU."""
    if capture == "packet" and os.geteuid():
        pytest.skip("packet capture needs root")
    options = {"BUSYPOLL": 1, "CAPTURE": capture}
    with recording(tmp_path, options=options) as recorder, boards(recorder) as senders:
        begin, before = time.monotonic(), thread_cpu_s(recorder, "net_thread")
        status = recorder.status()["updated_unix"]
        wait_for(lambda: recorder.status()["updated_unix"] > status + 0.4, "a report")
        took_s, after = time.monotonic() - begin, thread_cpu_s(recorder, "net_thread")
        assert sum(after) - sum(before) > 0.9 * took_s
        for number in range(500):
            senders.send(packet(1, 1016, number, 5, number * 1000), 1016)
        status = recorder.stop()
    assert status["totals"]["recorded"] == 500


def test_incomplete_frame_reaches_the_disk_by_itself(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder, boards(recorder) as senders:
        (path,) = recorder.files(254, "img16")
        begin = time.monotonic()
        senders.send(packet(2, 1016, 0, 5, 0), 1016)
        wait_for(lambda: path.stat().st_size == 2540, "a frame of one board")
        assert time.monotonic() - begin < 2
        recorder.stop()


# ---- what anybody may send ----


def test_foreign_and_malformed_packets(tmp_path: Path) -> None:
    with recording(tmp_path, (7, 254)) as recorder, boards(recorder) as senders:
        good = packet(1, 1016, 0, 5, 0, 77)
        senders.send(good, 1016)
        for _ in range(2000):
            senders.send(good[:-1], 1016)  # a byte short
            senders.send(good, 1017)  # forged: not the board it says it is
            senders.send(packet(1, 400, 0), 400)  # a module that is not ours
        senders.send(b"", 1018)
        senders.send(bytes(9000), 1018)
        senders.send(packet(4, 1018, 0), 1018)
        senders.send(packet(6, 1018, 0) + bytes(256), 1018)  # 8 bits in the length of 16
        senders.send(packet(1, 1016 + 1024, 0), 1016)
        senders.send_from(good, recorder.host)
        status = recorder.stop()
        skip_if_dropped(status)
        frames = recorder.frames(254, "ph256")
        everything = sum(
            path.stat().st_size for path in tmp_path.glob(f"module_*/{RUN}/*") if path.is_file()
        )
    assert [frame.numbers for frame in frames] == [{0: 0}]
    assert everything == 636
    counts = {(e["kind"], e["source"]): (e["count"], e["boardloc"]) for e in status["rejected"]}
    assert counts == {
        ("length", recorder.board(1016)): (2000, 1016),
        ("source_mismatch", recorder.board(1017)): (2000, 1016),
        ("unknown_module", recorder.board(400)): (2000, 400),
        ("length", recorder.board(1018)): (3, -1),
        ("acq_mode", recorder.board(1018)): (1, 1018),
        ("unknown_module", recorder.board(1016)): (1, 2040),
        ("source_mismatch", recorder.host): (1, 1016),
    }
    assert recorder.log.count("bad packet from") == len(counts)
    assert f"bad packet from {recorder.board(1017)} (source_mismatch)" in recorder.log


def test_log_stays_small_whoever_sends(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder, boards(recorder) as senders:
        begin = time.monotonic()
        for k in range(3000):
            senders.send_from(packet(1 + k % 3, 1016, k), f"127.77.{k % 7}.{k % 240 + 1}")
        status = recorder.stop()
        took_s = time.monotonic() - begin
    assert len(status["rejected"]) <= 64 + 5
    assert status["totals"]["recorded"] == 0
    assert recorder.log.count("bad packet from") <= 40 + 4 * (took_s + 1)
    assert "more messages not shown" in recorder.log


# ---- beginning and end ----


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("capture", ["udp", "packet"])
def test_nothing_received_is_lost_at_the_end(tmp_path: Path, capture: str, number: int) -> None:
    """A full backlog: the pipeline is held up while packets come, then told to stop."""
    options: dict[str, object] = {"RCVMB": 64, "CAPTURE": capture}
    if capture == "packet":
        if os.geteuid():
            pytest.skip("packet capture needs root")
        options["BINDHOST"] = "lo"
    # The packet ring gives a part of itself to every 20 ms, however little comes.
    sent = 2000 if capture == "packet" else 20000 if not os.geteuid() else 80
    with recording(tmp_path, (254,), options) as recorder, boards(recorder) as senders:
        recorder.process.send_signal(signal.SIGSTOP)
        wait_for(
            lambda: Path(f"/proc/{recorder.process.pid}/stat").read_text().split()[2] == "T",
            "it to be held up",
        )
        for k in range(sent):
            boardloc = 1016 + k % 4
            senders.send(packet(2, boardloc, k // 4, 5, k // 4 * 10_000, k % 256), boardloc)
        recorder.process.send_signal(number)
        recorder.process.send_signal(signal.SIGCONT)
        assert recorder.process.wait(timeout=60) == 0
        status = recorder.stop(number)
        frames = recorder.frames(254, "img16")
    assert status["totals"]["kernel_drops"] == 0
    assert status["totals"]["recorded"] == sent
    assert [frame.numbers for frame in frames] == [
        dict.fromkeys(range(4), number) for number in range(sent // 4)
    ]


DEAD_NETWORK = """
#define _GNU_SOURCE
#include <errno.h>
#include <sys/socket.h>
int recvmmsg(int fd, struct mmsghdr *messages, unsigned n, int flags, struct timespec *timeout)
{
	errno = ENETDOWN;
	return -1;
}
"""


@pytest.mark.long
def test_dead_network_ends_the_run(tmp_path: Path) -> None:
    library = preload(tmp_path, DEAD_NETWORK)
    with recording(tmp_path, environment={"LD_PRELOAD": library}) as recorder:
        assert recorder.process.wait(timeout=30) == 1
        assert recorder.status()["state"] == "failed"
        assert "again and again: Network is down" in recorder.output
        assert len(recorder.log.splitlines()) < 10


def test_balance_while_it_runs(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder, packet_source() as source:
        source.add_module(recorder, 254)
        for address in source.address.values():
            source.tell(f"spoil {address} {ALL_FAULTS.words()}")
            source.tell(f"image {address} dest={recorder.destination} acq=2 period_ns=100000")
        seen: list[dict[str, Any]] = []

        def look() -> int:
            status = recorder.status()
            if not seen or status["totals"]["received"] != seen[-1]["totals"]["received"]:
                seen.append(status)
            return len(seen)

        wait_for(lambda: look() > 3, "some more reports")
        for boardloc in source.address:
            source.stop(boardloc)
        recorder.stop()
    for status in seen:
        check_sums(status)
        assert status["totals"]["in_flight"] < 100_000


def test_it_is_ready_at_once_and_idle_when_nothing_comes(tmp_path: Path) -> None:
    build()
    begin = time.monotonic()
    with recording(tmp_path) as recorder:
        assert time.monotonic() - begin < 2.0
        listed = subprocess.run(["pgrep", "-x", "hashpipe"], capture_output=True, text=True)
        assert str(recorder.process.pid) in listed.stdout.split()
        threads = Path(f"/proc/{recorder.process.pid}/task")
        names = {(task / "comm").read_text().strip() for task in threads.iterdir()}
        assert {"hashpipe", "net_thread", "compute_thread", "output_thread"} <= names

        def cpu_s() -> float:
            fields = Path(f"/proc/{recorder.process.pid}/stat").read_text().split()
            return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")

        before = cpu_s()
        status = recorder.status()["updated_unix"]
        wait_for(lambda: recorder.status()["updated_unix"] > status + 1.9, "two reports")
        assert cpu_s() - before <= 0.03
        begin = time.monotonic()
        recorder.stop()
        assert time.monotonic() - begin < 2.0


# ---- refusals ----


def refused(folder: Path, named: str, **how: Any) -> str:
    """The pipeline ends with exit code 1 and a message of one line that says why."""
    with recording(folder, ready=False, **how) as recorder:
        assert recorder.process.wait(timeout=20) == 1
        lines = recorder.output.splitlines()
    assert named in lines[0], lines
    assert all(line.startswith("hashpipe: ") for line in lines)
    assert len(lines) <= 2  # the launcher adds which thread it was
    return recorder.output


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"RUNDIR": "absent"}, "RUNDIR=absent: no such directory"),
        ({"RUNDIR": "../elsewhere"}, "RUNDIR=../elsewhere"),
        ({"RUNDIR": "x" * 70}, "longer than 66 characters"),
        ({"CONFIG": "absent.config"}, "CONFIG: absent.config: No such file or directory"),
        ({"MAXFILESIZE": "many"}, "MAXFILESIZE=many"),
        ({"GROUPPHFRAMES": 3}, "GROUPPHFRAMES=3"),
        ({"BINDPORT": 0}, "BINDPORT=0"),
        ({"BINDHOST": "192.0.2.77"}, "no interface here has this address"),
        ({"BINDHOST": "eth77"}, "neither an interface of this computer nor an IPv4 address"),
        ({"NETBLKS": 2}, "NETBLKS=2"),
        ({"LOGFILE": "no/such/log"}, "LOGFILE: cannot open no/such/log"),
        ({"CAPTURE": "telepathy"}, "CAPTURE=telepathy"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, object], named: str) -> None:
    refused(tmp_path, named, options=options)


def test_bad_module_config(tmp_path: Path) -> None:
    output = refused(tmp_path, 'line 2: "999" is not a module id', modules=(1, 999))
    assert "CONFIG: ./module.config" in output
    status = json.loads((tmp_path / RUN / "hp_status_127.0.0.1.json").read_text())
    assert status["state"] == "failed"
    assert "999" in status["errors"][0]


def test_two_at_once(tmp_path: Path) -> None:
    with recording(tmp_path / "one") as recorder, boards(recorder) as senders:
        options = {"BINDHOST": recorder.host, "BINDPORT": recorder.port}
        refused(tmp_path / "two", "Address already in use; see `ss -ulpn`", options=options)
        refused(tmp_path / "one", "another hashpipe records into it", output="second")
        senders.send(packet(1, 1016, 0), 1016)
        status = recorder.stop()
        assert status["totals"]["recorded"] == 1


# ---- the launcher ----


def launch(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(HASHPIPE / "hashpipe"), *words], capture_output=True, text=True, cwd=HASHPIPE
    )


def test_launcher_lists_and_refuses() -> None:
    listed = launch("-p", "./hashpipe", "-l")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert listed.stdout.split() == ["compute_thread", "net_thread", "output_thread"]
    assert launch("--help").stdout.startswith("usage: hashpipe ")
    assert launch("-V").stdout.startswith("hashpipe")
    for words, named in [
        ((), "no thread given"),
        (("net_thread",), "there is no thread net_thread"),
        (("-p", "./absent"), "cannot load the plugin: ./absent.so"),
        (("-p", "./hashpipe.so", "-c", "1024", "net_thread"), "-c 1024: give a number 0 to 1023"),
        (("-p", "./hashpipe.so", "-I", "x"), "-I x"),
        (("--nonsense",), "hashpipe --help"),
        (("-o", "=x"), "cannot set option =x"),
    ]:
        done = launch(*words)
        assert done.returncode == 1, words
        assert named in done.stderr, (words, done.stderr)

"""Disks that fill, vanish or stand still, and a pipeline that is killed: what was received is
recorded or counted, every file stays a whole number of frames, other modules go on.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from panoseti.runs.collect import cut_torn_files
from tests.helpers import wait_for
from tests.pipeline import (
    RUN,
    Boards,
    Recorder,
    boards,
    build,
    packet,
    packet_source,
    preload,
    recording,
    skip_if_dropped,
)
from tests.recorded_frames import check_pixels, read_frames

IMG16_BYTES, PH256_BYTES = 2540, 636
MEMORY_LIMIT_KB = 400_000
FEW = {"NETBLKS": 4, "OUTBLKS": 4}


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    build()


def send_frames(senders: Boards, numbers: range) -> None:
    """Images of all four boards of module 254."""
    for number in numbers:
        for boardloc in range(1016, 1020):
            data = packet(2, boardloc, number, 5, number * 10_000, number % 60000)
            senders.send(data, boardloc)


def check_frames(recorder: Recorder, numbers: range) -> None:
    """Just these, whole, with their pixels."""
    frames = recorder.frames(254, "img16")
    assert [frame.numbers for frame in frames] == [dict.fromkeys(range(4), n) for n in numbers]
    assert all((frame.pixels == frame.numbers[0] % 60000).all() for frame in frames)


# ---- full ----


def in_namespace_with_small_disk(place: str, size: str) -> list[str]:
    """A wrapper: `place` is a tmpfs that only this pipeline sees."""
    if os.geteuid():
        pytest.skip("a tmpfs of its own needs root")
    script = f'mkdir -p {place} && mount -t tmpfs -o size={size} tmpfs {place} && exec "$@"'
    return ["unshare", "-m", "sh", "-c", script, "sh"]


def inside(recorder: Recorder) -> Recorder:
    """The same, its files seen as the pipeline sees them."""
    seen = Path(f"/proc/{recorder.process.pid}/root{recorder.folder}")
    return Recorder(recorder.process, seen, recorder.host, recorder.prefix, recorder.port)


def test_full_disk(tmp_path: Path) -> None:
    """A tmpfs that fills and is freed: recording goes on in a new file."""
    wrapper = in_namespace_with_small_disk("module_254", "1m")
    with (
        recording(tmp_path, (7, 254), wrapper=wrapper) as recorder,
        packet_source() as source,
    ):
        within = inside(recorder)
        ballast = within.folder / "module_254" / "ballast"
        ballast.write_bytes(bytes(600_000))
        for module in (7, 254):
            source.add_module(recorder, module)
        for address in source.address.values():
            source.tell(f"image {address} dest={recorder.destination} acq=2 period_ns=2000000")
        entry: dict[str, Any] = {}

        def look() -> dict[str, Any]:
            status = recorder.status()
            entry.update(
                next(e for e in status["products"] if (e["module"], e["product"]) == (254, "img16"))
            )
            return status

        wait_for(lambda: look()["totals"]["unwritten"] > 0, "the disk to be full")
        assert entry["write_errors"] > 0
        assert "No space left on device" in look()["errors"][0]
        full = within.files(254, "img16")[0].read_bytes()
        assert full and len(full) % IMG16_BYTES == 0
        ballast.unlink()
        wait_for(lambda: look() and entry["seqno"] > 0, "recording to go on in a new file")
        for boardloc in source.address:
            source.stop(boardloc)
        wait_for(lambda: look()["totals"]["in_flight"] == 0, "all to be written")
        frames = within.frames(254, "img16")  # whole, or this fails
        assert len(frames) == entry["frames"]
        assert within.files(254, "img16")[0].read_bytes() == full
        assert [f.numbers for f in frames] == sorted(
            (f.numbers for f in frames), key=lambda numbers: min(numbers.values())
        )
        check_pixels(frames, "img16", 254, source.tables)
        status = recorder.stop()
        skip_if_dropped(status)
        others = recorder.frames(7, "img16")
        for quabo in range(4):
            numbers = [f.numbers[quabo] for f in others if quabo in f.boards]
            assert numbers == list(range(len(numbers))) and numbers
        other = [s for s in status["quabos"] if s["module"] == 7]
        assert sum(s["recorded"] for s in other) == sum(s["received"] for s in other) > 0
        lost = [s for s in status["quabos"] if s["module"] == 254]
        assert sum(s["unwritten"] for s in lost) == status["totals"]["unwritten"] > 0
    assert "writing works again" in recorder.log


def test_run_directory_full(tmp_path: Path) -> None:
    """Log and status find no room: data are recorded all the same, and the status goes on."""
    wrapper = in_namespace_with_small_disk(RUN, "64k")
    with recording(tmp_path, wrapper=wrapper, ready=False) as recorder, boards(recorder) as senders:
        within = inside(recorder)
        wait_for(within.is_recording, "it to record")
        fill(within.status_path.with_name("ballast"))
        send_frames(senders, range(50))
        (path,) = within.files(254, "img16")
        wait_for(lambda: path.stat().st_size == 50 * IMG16_BYTES, "the frames")
        wait_for(lambda: within.status()["totals"]["recorded"] == 200, "the account")
        assert recorder.end() == 0


# ---- gone ----


def fill(path: Path) -> None:
    """No byte is left on the disk of this file."""
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))


def wait_for_received(recorder: Recorder, packets: int) -> None:
    wait_for(lambda: recorder.status()["totals"]["received"] == packets, "a new status")


def test_everything_on_one_full_disk(tmp_path: Path) -> None:
    """Data, log and status: the status goes on, tells of it, and the last one is there."""
    if os.geteuid():
        pytest.skip("a tmpfs of its own needs root")
    script = (
        "mkdir disk && mount -t tmpfs -o size=400k tmpfs disk && cp -r module.config obs_* disk"
        ' && cd disk && exec "$@"'
    )
    wrapper = ["unshare", "-m", "sh", "-c", script, "sh"]
    with recording(tmp_path, wrapper=wrapper, ready=False) as recorder, boards(recorder) as senders:
        inner = inside(recorder).folder / "disk"
        within = Recorder(recorder.process, inner, recorder.host, recorder.prefix, recorder.port)
        wait_for(within.is_recording, "it to record")
        wait_for(lambda: within.status_path.with_suffix(".json.tmp").exists(), "the reserve")
        fill(within.status_path.with_name("ballast"))
        send_frames(senders, range(50))
        wait_for(lambda: within.status()["totals"]["unwritten"] > 0, "the status to tell of it")
        assert "No space left on device" in within.status()["errors"][0]
        for number in range(50, 53):  # it goes on telling
            send_frames(senders, range(number, number + 1))
            wait_for_received(within, 4 * number + 4)
        disk = os.open(inner, os.O_DIRECTORY)  # stays when the pipeline is gone
        try:
            assert recorder.end() == 0
            left = Path(f"/proc/self/fd/{disk}") / RUN
            status = json.loads((left / within.status_path.name).read_text())
            names = {path.name for path in left.iterdir()}
        finally:
            os.close(disk)
    assert recorder.output == ""
    assert status["state"] == "ended"
    totals = status["totals"]
    assert totals["received"] == totals["recorded"] + totals["unwritten"] == 212
    assert sum(product["write_errors"] for product in status["products"]) > 0
    assert names == {"hp_stdout", "ballast", "hp_log_127.0.0.1", within.status_path.name}


def take_away(folder: Path) -> Callable[[], None]:
    """The directory itself is removed; how to bring it back (the pipeline does)."""
    shutil.rmtree(folder / "module_254")
    return lambda: None


def unmount(folder: Path) -> Callable[[], None]:
    """The directory is a link to another disk, which is gone; how to bring that back."""
    (folder / "disk").rename(folder / "off")
    return lambda: (folder / "disk").mkdir()


@pytest.mark.parametrize("away", [take_away, unmount])
def test_directory_that_vanishes(
    tmp_path: Path, away: Callable[[Path], Callable[[], None]]
) -> None:
    if away is unmount:
        (tmp_path / "disk").mkdir()
        (tmp_path / "module_254").symlink_to("disk")
    with recording(tmp_path, (7, 254)) as recorder, boards(recorder) as senders:
        numbers = count()

        def send(n: int) -> None:
            for _ in range(n):
                number = next(numbers)
                for boardloc in (28, 1016):
                    data = packet(1, boardloc, number, 5, number * 1000, number)
                    senders.send(data, boardloc)

        def send_until_it_is_back() -> bool:
            send(1)
            return (tmp_path / "module_254" / RUN).exists()

        send(10)
        first = recorder.files(254, "ph256")[0]
        wait_for(lambda: first.stat().st_size == 10 * PH256_BYTES, "the first frames")
        bring_back = away(tmp_path)
        # A file that was renamed with its disk can still be written to.
        held = 10 if away is unmount else 0
        send(10)
        if away is take_away:
            wait_for(lambda: "cannot write" in recorder.log, "the loss to be noticed")
        else:
            wait_for(lambda: recorder.status()["totals"]["recorded"] == 40, "the file held open")
            shutil.rmtree(tmp_path / "off")
            send(10)
            wait_for(lambda: "cannot write" in recorder.log, "the loss to be noticed")
        bring_back()
        wait_for(send_until_it_is_back, "recording to go on")
        send(10)
        status = recorder.stop()
        sent = next(numbers)
        # The other module goes on as if nothing had been.
        assert [f.numbers for f in recorder.frames(7, "ph256")] == [{0: n} for n in range(sent)]
        quabos = {entry["module"]: entry for entry in status["quabos"]}
        assert (quabos[7]["recorded"], quabos[7]["unwritten"]) == (sent, 0)
        assert quabos[254]["unwritten"] >= 10
        assert quabos[254]["recorded"] + quabos[254]["unwritten"] == sent
        # A new file, which begins where writing works again.
        found = recorder.frames(254, "ph256")
        assert len(found) == quabos[254]["recorded"] - 10 - held
        assert [f.numbers for f in found] == [{0: n} for n in range(sent - len(found), sent)]
        assert "writing works again" in recorder.log


def test_run_directory_vanishes(tmp_path: Path) -> None:
    """No log, no status: data are recorded all the same, and the account is told at the end."""
    with (
        recording(tmp_path) as recorder,
        boards(recorder) as senders,
        (tmp_path / RUN / recorder.output_name).open() as printed,
    ):
        send_frames(senders, range(20))
        shutil.rmtree(tmp_path / RUN)
        send_frames(senders, range(20, 40))
        assert recorder.end() == 0
        check_frames(recorder, range(40))
        line, account = printed.read().split("\n", 1)
    assert line.endswith("No such file or directory; the account is this:")
    status = json.loads(account)
    assert (status["state"], status["totals"]["recorded"]) == ("ended", 160)


FAILING_CLOSE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
int close(int fd)
{
	int (*real)(int) = dlsym(RTLD_NEXT, "close");
	char link[32], path[4096] = "";
	struct stat status;
	int fails;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	fails = readlink(link, path, sizeof(path) - 1) > 0 && strstr(path, ".dp_img16.") &&
		!fstat(fd, &status) && status.st_size > 0;
	if (real(fd) || !fails)
		return 0;
	errno = EDQUOT;
	return -1;
}
"""


def test_failing_close(tmp_path: Path) -> None:
    """Quotas and NFS may tell at the end of a file that it is not there as it was written."""
    environment = {"LD_PRELOAD": preload(tmp_path, FAILING_CLOSE)}
    with recording(tmp_path, environment=environment) as recorder, boards(recorder) as senders:
        send_frames(senders, range(10))
        senders.send(packet(1, 1016, 0), 1016)
        status = recorder.stop()
    errors = {product["product"]: product["write_errors"] for product in status["products"]}
    assert errors == {"img16": 1, "img8": 0, "ph256": 0, "ph1024": 0}
    assert re.search(r"closing start_.* of module 254: Disk quota exceeded", status["errors"][0])


# ---- slow ----

SLOW_DISK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/uio.h>
#include <unistd.h>
ssize_t writev(int fd, const struct iovec *iov, int n)
{
	ssize_t (*real)(int, const struct iovec *, int) = dlsym(RTLD_NEXT, "writev");

	usleep(20000);
	return real(fd, iov, n < 32 ? n : 32);
}
"""


def test_slow_disk_and_its_backlog(tmp_path: Path) -> None:
    """The rings are full when the signal comes: everything is still written."""
    library = preload(tmp_path, SLOW_DISK)
    options = FEW | {"RCVMB": 64}
    frames = 4000 if not os.geteuid() else 1000
    with (
        recording(tmp_path, options=options, environment={"LD_PRELOAD": library}) as recorder,
        boards(recorder) as senders,
    ):
        send_frames(senders, range(frames))
        status = recorder.stop()
        skip_if_dropped(status)
        check_frames(recorder, range(frames))
    assert status["totals"]["recorded"] == 4 * frames


_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_ptrace.restype = ctypes.c_long
_SEIZE, _INTERRUPT, _DETACH, _WALL = 0x4206, 0x4207, 17, 0x40000000


@contextmanager
def stopped_writer(recorder: Recorder) -> Iterator[None]:
    """The output thread alone stands still, as before a disk that does not answer."""
    tasks = Path(f"/proc/{recorder.process.pid}/task")
    names = {task.joinpath("comm").read_text().strip(): int(task.name) for task in tasks.iterdir()}
    thread = names["output_thread"]
    if _ptrace(_SEIZE, thread, None, None):
        pytest.skip(f"no right to stop a thread: {os.strerror(ctypes.get_errno())}")
    try:
        assert not _ptrace(_INTERRUPT, thread, None, None)
        os.waitpid(thread, _WALL)
        yield
    finally:
        if _ptrace(_DETACH, thread, None, None):
            os.waitpid(thread, _WALL)  # it is dead: let go of it


def fill_rings(recorder: Recorder, senders: Boards, numbers: Iterator[int]) -> None:
    """Send until even the kernel has no more room, as the status shows."""

    def look() -> bool:
        for _ in range(500):
            number = next(numbers)
            send_frames(senders, range(number, number + 1))
        totals = recorder.status()["totals"]
        return bool(totals["kernel_drops"]) and totals["in_flight"] > 1000

    wait_for(look, "all rings to be full")


@pytest.mark.parametrize("number", [0, signal.SIGINT, signal.SIGTERM])
def test_stopped_writer(tmp_path: Path, number: int) -> None:
    """All rings full: drops are the kernel's and counted; what was received gets to the disk.

    number: of the signal that comes while the writer stands still; 0: recording goes on.
    """
    numbers = count()
    with (
        recording(tmp_path, options=FEW | {"RCVMB": 1}) as recorder,
        boards(recorder) as senders,
    ):
        send_frames(senders, range(next(numbers), 100))
        for _ in range(99):
            next(numbers)
        (path,) = recorder.files(254, "img16")
        wait_for(lambda: path.stat().st_size == 100 * IMG16_BYTES, "the first frames")
        with stopped_writer(recorder):
            fill_rings(recorder, senders, numbers)
            assert path.stat().st_size == 100 * IMG16_BYTES
            text = Path(f"/proc/{recorder.process.pid}/status").read_text()
            peak = re.search(r"VmHWM:\s+(\d+) kB", text)
            assert peak and int(peak[1]) < MEMORY_LIMIT_KB
            if number:
                recorder.process.send_signal(number)
        if not number:
            wait_for(lambda: recorder.status()["totals"]["in_flight"] == 0, "all to be written")
            after = next(numbers)
            send_frames(senders, range(after, after + 50))
            for _ in range(49):
                next(numbers)
        if number:
            assert recorder.process.wait(timeout=60) == 0
        status = recorder.stop(number or signal.SIGINT)
        totals, sent = status["totals"], 4 * next(numbers)
        assert totals["received"] + totals["kernel_drops"] == sent
        assert totals["recorded"] == totals["received"]
        frames = recorder.frames(254, "img16")
        assert sum(len(frame.boards) for frame in frames) == totals["recorded"]
        assert all(
            (f.pixels[:16, :16] == f.numbers[0] % 60000).all() for f in frames if 0 in f.boards
        )
        if not number:
            assert totals["lost"] == totals["kernel_drops"]
            assert frames[-1].numbers == dict.fromkeys(range(4), sent // 4 - 1)


def test_stopped_writer_while_little_comes(tmp_path: Path) -> None:
    """Blocks fill up while the writer stands still: the rings hold packets, not moments."""
    with (
        recording(tmp_path, options=FEW | {"RCVMB": 1}) as recorder,
        packet_source() as source,
    ):
        source.add_module(recorder, 254)
        with stopped_writer(recorder):
            for address in source.address.values():
                source.tell(
                    f"image {address} dest={recorder.destination} acq=2 period_ns=2000000"
                    " frames=1500"
                )
            source.done(4)
            wait_for(lambda: recorder.status()["totals"]["received"] == 6000, "all packets")
            assert recorder.status()["totals"]["kernel_drops"] == 0
        status = recorder.stop()
        assert status["totals"]["recorded"] == 6000
        frames = recorder.frames(254, "img16")
        assert [f.numbers for f in frames] == [dict.fromkeys(range(4), n) for n in range(1500)]


# ---- killed ----

KILLED_WHILE_WRITING = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>
/* Once the file KILL is there: a frame and a half, and the process is gone. */
ssize_t writev(int fd, const struct iovec *iov, int n)
{
	ssize_t (*real)(int, const struct iovec *, int) = dlsym(RTLD_NEXT, "writev");
	struct iovec part[2];

	if (access(getenv("KILL"), F_OK) || n < 2)
		return real(fd, iov, n);
	part[0] = iov[0];
	part[1] = iov[1];
	part[1].iov_len /= 2;
	real(fd, part, 2);
	kill(getpid(), SIGKILL);
	pause();
	return -1;
}
"""


def shared_things() -> tuple[str, str, str, tuple[str, ...]]:
    """What can outlive a process besides files: shared memory, semaphores, message queues."""
    kinds = [Path("/proc/sysvipc", kind).read_text() for kind in ("shm", "sem", "msg")]
    return kinds[0], kinds[1], kinds[2], tuple(sorted(os.listdir("/dev/shm")))


def test_killed_with_a_full_backlog(tmp_path: Path) -> None:
    """SIGKILL in the middle of a write: the file is repaired to whole frames by what collection
    does; the same run can be recorded on at once, in a new file; nothing is in the way.
    """
    trigger, before = tmp_path / "now", shared_things()
    environment = {"LD_PRELOAD": preload(tmp_path, KILLED_WHILE_WRITING), "KILL": str(trigger)}
    numbers = count()
    with (
        recording(tmp_path, options=FEW | {"RCVMB": 1}, environment=environment) as recorder,
        boards(recorder) as senders,
    ):
        with stopped_writer(recorder):
            fill_rings(recorder, senders, numbers)
            trigger.touch()
        assert recorder.process.wait(timeout=30) == -signal.SIGKILL
        (torn,) = recorder.files(254, "img16")
        whole, rest = divmod(torn.stat().st_size, IMG16_BYTES)
        assert whole and rest == IMG16_BYTES // 2
    assert shared_things() == before
    with recording(tmp_path) as again, boards(again) as senders:
        send_frames(senders, range(20))
        status = again.stop()
        assert status["totals"]["recorded"] == 80
        assert [path.stat().st_size for path in again.files(254, "img16")] == [
            whole * IMG16_BYTES + rest,
            20 * IMG16_BYTES,
        ]
        cuts = cut_torn_files(torn.parent)
        assert [(cut.name, cut.size_bytes) for cut in cuts] == [(torn.name, rest)]
        found = [frame.numbers[0] for frame in again.frames(254, "img16")]
        assert found == [*range(whole), *range(20)]


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """As it comes, under load; every pixel of what is there is right."""
    with recording(tmp_path) as recorder, packet_source() as source:
        source.add_module(recorder, 254)
        for address in source.address.values():
            source.tell(f"image {address} dest={recorder.destination} acq=2 period_ns=100000")
        (path,) = recorder.files(254, "img16")
        wait_for(lambda: path.stat().st_size > 500_000, "frames in the file")
        recorder.end(signal.SIGKILL)
        data = path.read_bytes()
        frames = list(read_frames(data[: len(data) // IMG16_BYTES * IMG16_BYTES], "img16"))
        check_pixels(frames[::9], "img16", 254, source.tables)

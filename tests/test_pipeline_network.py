"""The pipeline and its network: interfaces that go, backlogs at the end, only bad packets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import wait_for
from tests.pipeline import Recorder, boards, build, packet, preload, recording

# A network of its own for the pipeline, whose process stays the one that was started.
OWN_NETWORK = (
    "unshare", "-n", "sh", "-c",
    "ip link set lo up; ip link add v0 type veth peer name v1; ip link set v0 up; exec \"$@\"", "_",
)  # fmt: skip
_SEND = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.bind((sys.argv[1], 0))
for payload in sys.argv[3:]:
    sender.sendto(bytes.fromhex(payload), ("127.0.0.1", int(sys.argv[2])))
"""


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    build()
    if os.geteuid():
        pytest.skip("a network namespace and packet capture need root")


@contextmanager
def capturing(folder: Path, interface: str) -> Iterator[Recorder]:
    """A pipeline that captures at an interface of a network of its own."""
    options = {"BINDHOST": interface, "CAPTURE": "packet"}
    with recording(folder, options=options, wrapper=OWN_NETWORK) as recorder:
        yield recorder


def within(recorder: Recorder, *words: str) -> None:
    """Run a command in the pipeline's network."""
    command = ["nsenter", "-t", str(recorder.process.pid), "-n", *words]
    subprocess.run(command, check=True)


def send(recorder: Recorder, *payloads: bytes) -> None:
    """As board 1016, from within that network."""
    words = [sys.executable, "-c", _SEND, recorder.board(1016), str(recorder.port)]
    within(recorder, *words, *(payload.hex() for payload in payloads))


def cpu_s(recorder: Recorder) -> float:
    """CPU time of the whole process."""
    fields = Path(f"/proc/{recorder.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_interface_goes_down_and_comes_back(tmp_path: Path) -> None:
    with capturing(tmp_path, "lo") as recorder:
        send(recorder, packet(1, 1016, 0, 5, 0))
        within(recorder, "ip", "link", "set", "lo", "down")
        wait_for(lambda: "receiving on lo: Network is down" in recorder.log, "the line in the log")
        used, begun = cpu_s(recorder), recorder.status()["updated_unix"]
        wait_for(lambda: recorder.status()["updated_unix"] > begun + 0.9, "another report")
        assert cpu_s(recorder) - used <= 0.1
        within(recorder, "ip", "link", "set", "lo", "up")
        send(recorder, *(packet(1, 1016, number, 5, number * 1000) for number in (1, 2)))
        wait_for(lambda: "packets come again" in recorder.log, "the line in the log")
        status = recorder.stop()
        frames = recorder.frames(254, "ph256")
    assert [frame.numbers for frame in frames] == [{0: 0}, {0: 1}, {0: 2}]
    assert recorder.log.count("Network is down") == 1
    assert recorder.log.count("packets come again") == 1
    assert ["Network is down" in error for error in status["errors"]] == [True]


def test_interface_is_deleted(tmp_path: Path) -> None:
    with capturing(tmp_path, "v0") as recorder:
        begun = time.monotonic()
        within(recorder, "ip", "link", "del", "v0")
        assert recorder.process.wait(timeout=20) == 1
        assert time.monotonic() - begun < 15
        assert recorder.status()["state"] == "failed"
    assert "receiving on v0: the interface is gone" in recorder.output


# ---- the end, with a backlog ----

# While the file HOLD is there nothing is received.  A signal handler that asks for the time on the
# main thread takes it away, and is then interrupted for longer than the net thread sleeps.  While
# the file BACK is there, the clock is set back.
SLOW_SIGNAL = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now)
{
	if (clock == CLOCK_REALTIME && gettid() == getpid() && !unlink(getenv("HOLD")))
		usleep(600000);
	int result = (int)syscall(SYS_clock_gettime, clock, now);
	if (clock == CLOCK_REALTIME && !access(getenv("BACK"), F_OK))
		now->tv_sec -= 3600;
	return result;
}
int recvmmsg(int fd, struct mmsghdr *messages, unsigned n, int flags, struct timespec *timeout)
{
	int (*real)(int, struct mmsghdr *, unsigned, int, struct timespec *) =
		dlsym(RTLD_NEXT, "recvmmsg");
	if (access(getenv("HOLD"), F_OK))
		return real(fd, messages, n, flags, timeout);
	errno = EAGAIN;
	return -1;
}
"""
BACKLOG = 20_000


@contextmanager
def with_slow_signal(folder: Path) -> Iterator[Recorder]:
    """A pipeline by UDP whose time and receiving depend on the files `hold` and `back`."""
    environment = {
        "LD_PRELOAD": preload(folder, SLOW_SIGNAL),
        "HOLD": str(folder / "hold"),
        "BACK": str(folder / "back"),
    }
    with recording(folder, options={"RCVMB": 64}, environment=environment) as recorder:
        yield recorder


def send_backlog(recorder: Recorder) -> None:
    """Events of one board, all different."""
    with boards(recorder) as senders:
        for number in range(BACKLOG):
            senders.send(packet(1, 1016, number, 5, number * 1000), 1016)


def test_signal_handler_is_interrupted(tmp_path: Path) -> None:
    """Whenever the net thread looks: a signal that was caught has a time."""
    with with_slow_signal(tmp_path) as recorder:
        (tmp_path / "hold").touch()
        send_backlog(recorder)
        status = recorder.stop(signal.SIGTERM)
    assert not (tmp_path / "hold").exists()
    assert status["totals"]["recorded"] == BACKLOG


def test_clock_is_set_back_under_a_backlog(tmp_path: Path) -> None:
    """What came before the step is by its stamp later than the signal; it is recorded."""
    with with_slow_signal(tmp_path) as recorder:
        recorder.process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{recorder.process.pid}/stat")
        wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it to be held up")
        send_backlog(recorder)
        (tmp_path / "back").touch()
        recorder.process.send_signal(signal.SIGTERM)
        recorder.process.send_signal(signal.SIGCONT)
        assert recorder.process.wait(timeout=60) == 0
        totals = recorder.status()["totals"]
    assert totals["recorded"] == BACKLOG


# ---- frames in the making ----


@pytest.mark.parametrize("capture", ["udp", "packet"])
def test_frame_times_out_while_only_bad_packets_come(tmp_path: Path, capture: str) -> None:
    options = {"CAPTURE": capture} | ({"BINDHOST": "lo"} if capture == "packet" else {})
    with recording(tmp_path, options=options) as recorder, boards(recorder) as senders:
        (path,) = recorder.files(254, "img16")
        senders.send(packet(2, 1016, 0, 5, 0), 1016)

        def is_written() -> bool:
            senders.send(bytes(7), 1017)  # far more often than the net thread is idle
            return path.stat().st_size == 2540

        wait_for(is_written, "a frame of one board", 5)
        totals = recorder.stop()["totals"]
    assert (totals["recorded"], totals["received"] - totals["rejected"]) == (1, 1)


# ---- the receive buffer ----


def test_small_receive_buffer_is_told_once(tmp_path: Path) -> None:
    """Without CAP_NET_ADMIN the system's limit counts; the log says how it is lifted."""
    limit = int(Path("/proc/sys/net/core/rmem_max").read_text())
    wanted_mb = 2000
    if limit >= wanted_mb << 20:
        pytest.skip("net.core.rmem_max is no limit here")
    wrapper = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    with recording(tmp_path, options={"RCVMB": wanted_mb}, wrapper=wrapper) as recorder:
        recorder.stop()
    lines = [line for line in recorder.log.splitlines() if "receive buffer" in line]
    assert len(lines) == 1
    assert f"as root, sysctl -w net.core.rmem_max={wanted_mb << 20}" in lines[0]

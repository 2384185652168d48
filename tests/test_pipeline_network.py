"""The pipeline and its interface: down and up again, deleted; the rest is recorded all the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import wait_for
from tests.pipeline import Recorder, build, packet, recording

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

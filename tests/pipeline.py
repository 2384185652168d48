"""The real pipeline and the real packet source for tests: run, told, ended, and read back.

    with recording(tmp_path, modules=(254,)) as recorder, packet_source() as source:
        source.add_module(recorder, 254)
        ...
        account = recorder.stop()

Every recorder listens on a private loopback address.  A datagram sent over loopback is in the
receiver's socket when the send returns, and the pipeline takes all that was received before it was
told to stop: so tests stop it right after sending, and nothing may be missing.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import REPO, wait_for
from tests.recorded_frames import Frame, read_frames
from tests.simulated import head_address, module_base, private_prefix, table

HASHPIPE = REPO / "hashpipe"
SOURCE = REPO / "simulator" / "packet_source"
RUN = "obs_test.start_2026-01-02T03:04:05Z.runtype_sci.pffd"
ADDRESS_TAG = "127.0.0.1"
NUMBERS = ("pkt_num", "pkt_tai", "pkt_nsec", "tv_sec", "tv_usec")
NAME = re.compile(
    r"start_\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\.dp_(?P<product>[a-z0-9]+)\.bpp_(?P<bpp>\d)"
    r"\.module_(?P<module>\d+)\.seqno_(?P<seqno>\d+)\.pff"
)


def build(sanitizer: str = "") -> Path:
    """Folder of hashpipe and hashpipe.so, made when they are not up to date."""
    words = [f"SAN={sanitizer}"] if sanitizer else []
    subprocess.run(["make", "-s", "-j2", "-C", str(HASHPIPE), *words], check=True)
    return HASHPIPE / "build" / sanitizer if sanitizer else HASHPIPE


@dataclass
class Recorder:
    """A pipeline that runs, or has ended, in `folder`."""

    process: subprocess.Popen[bytes]
    folder: Path
    host: str
    prefix: str
    port: int
    output_name: str = "hp_stdout"

    @property
    def status_path(self) -> Path:
        return self.folder / RUN / f"hp_status_{ADDRESS_TAG}.json"

    @property
    def log(self) -> str:
        path = self.folder / RUN / f"hp_log_{ADDRESS_TAG}"
        return path.read_text() if path.exists() else ""

    @property
    def output(self) -> str:
        """What it printed."""
        return (self.folder / RUN / self.output_name).read_text()

    @property
    def destination(self) -> str:
        return f"{self.host}:{self.port}"

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.status_path.read_text())
        return status

    def is_recording(self) -> bool:
        """A status that a killed one left does not count."""
        if not self.status_path.exists():
            return False
        status = self.status()
        return (status["state"], status["pid"]) == ("running", self.process.pid)

    def end(self, number: int = signal.SIGINT) -> int:
        """Signal it and wait for its end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def stop(self, number: int = signal.SIGINT) -> dict[str, Any]:
        """End it in order; its last status, whose balance is whole."""
        code = self.end(number)
        assert code == 0, f"hashpipe: exit {code}: {self.output}{self.log}"
        assert self.output == ""
        status = self.status()
        assert status["state"] == "ended"
        totals = status["totals"]
        disposed = ("recorded", "rejected", "duplicate", "late", "unwritten")
        assert totals["received"] == sum(totals[key] for key in disposed)
        assert totals["in_flight"] == 0
        check_sums(status)
        return status

    def board(self, boardloc: int) -> str:
        """Address of a board under this recorder's prefix."""
        base = module_base(self.prefix, boardloc >> 2)
        first, _, last = base.rpartition(".")
        return f"{first}.{int(last) + (boardloc & 3)}"

    def files(self, module: int, product: str) -> list[Path]:
        """Data files of a product by number."""
        found = {}
        for path in (self.folder / f"module_{module}" / RUN).iterdir():
            name = NAME.fullmatch(path.name)
            assert name, path.name
            if name["product"] == product:
                found[int(name["seqno"])] = path
        return [found[seqno] for seqno in sorted(found)]

    def frames(self, module: int, product: str) -> list[Frame]:
        """All frames of a product, in the order of the files."""
        return [
            frame
            for path in self.files(module, product)
            for frame in read_frames(path.read_bytes(), product)
        ]


def check_sums(status: Mapping[str, Any]) -> None:
    """Every balance is whole, and what the status says of the parts adds up to the whole."""
    totals = status["totals"]
    parts = ("recorded", "duplicate", "late", "unwritten", "in_flight")
    for stream in status["quabos"]:
        assert stream["received"] == sum(stream[key] for key in parts)
        assert min(stream[key] for key in (*parts, "lost")) >= 0
    for key in (*parts, "lost"):
        assert sum(stream[key] for stream in status["quabos"]) == totals[key]
    assert sum(entry["count"] for entry in status["rejected"]) == totals["rejected"]
    accepted = sum(stream["received"] for stream in status["quabos"])
    assert accepted + totals["rejected"] == totals["received"]


@contextmanager
def recording(
    folder: Path,
    modules: Sequence[int] = (254,),
    options: Mapping[str, object] | None = None,
    sanitizer: str = "",
    wrapper: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    ready: bool = True,
    output: str = "hp_stdout",
    programs: Path | None = None,
) -> Iterator[Recorder]:
    """Run the pipeline in `folder` until the end of the block; killed if it has not ended by then.

    `options` go on top of the usual ones; `wrapper` comes before the program (it must exec it).
    With ready=False it may end at once.  `programs`: where else hashpipe and hashpipe.so are.
    """
    programs = programs or build(sanitizer)
    prefix = private_prefix()
    host = head_address(prefix)
    port = free_udp_port(host)
    (folder / RUN).mkdir(parents=True, exist_ok=True)
    (folder / "module.config").write_text("".join(f"{module}\n" for module in modules))
    words = {
        "BINDHOST": host,
        "BINDPORT": port,
        "RUNDIR": RUN,
        "CONFIG": "./module.config",
        "MAXFILESIZE": 0,
        "GROUPPHFRAMES": 0,
        "OBS": "test",
        "LOGFILE": f"hp_log_{ADDRESS_TAG}",
    } | dict(options or {})
    arguments = [word for key, value in words.items() for word in ("-o", f"{key}={value}")]
    with (folder / RUN / output).open("wb") as sink:
        process = subprocess.Popen(
            [*wrapper, str(programs / "hashpipe"), "-p", str(programs / "hashpipe.so"), "-I", "0",
             *arguments, "net_thread", "compute_thread", "output_thread"],
            cwd=folder, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL,
            env=os.environ | dict(environment or {}),
        )  # fmt: skip
    recorder = Recorder(process, folder, host, prefix, int(str(words["BINDPORT"])), output)
    try:
        if ready:
            wait_for(
                lambda: recorder.is_recording() or process.poll() is not None,
                "the pipeline to record",
            )
            assert process.poll() is None, recorder.output
        yield recorder
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def preload(folder: Path, code: str) -> str:
    """A library that takes the place of functions of libc."""
    source, library = folder / "preload.c", folder / "preload.so"
    source.write_text(code)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return str(library)


def free_udp_port(host: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


class Boards:
    """Sends any bytes from the addresses of boards."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._sockets: dict[str, socket.socket] = {}

    def send(self, payload: bytes, boardloc: int) -> None:
        """As the board of this number."""
        self.send_from(payload, self.recorder.board(boardloc))

    def send_from(self, payload: bytes, address: str) -> None:
        sender = self._sockets.get(address)
        if sender is None:
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._sockets[address] = sender
            sender.bind((address, 0))
        sender.sendto(payload, (self.recorder.host, self.recorder.port))

    def close(self) -> None:
        for sender in self._sockets.values():
            sender.close()


@contextmanager
def boards(recorder: Recorder) -> Iterator[Boards]:
    senders = Boards(recorder)
    try:
        yield senders
    finally:
        senders.close()


def packet(
    mode: int, boardloc: int, number: int, tai: int = 0, nsec: int = 0, fill: int = 0
) -> bytes:
    """A science packet whose pixels are all the same."""
    pixels = struct.pack("<B", fill) if mode >= 6 else struct.pack("<H", fill)
    head = struct.pack("<BBHHIIH", mode, 0, number & 0xFFFF, boardloc, tai, nsec, 0)
    return head + pixels * 256


class Source:
    """The packet source of the simulator; boards are known by their BOARDLOC."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.address: dict[int, str] = {}
        self.tables: dict[int, dict[str, list[int]]] = {}

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def add_module(self, recorder: Recorder, module: int, seed: int = 1, top: int = 60000) -> None:
        """Its four boards, with random pixel tables."""
        random = np.random.default_rng(seed * 1000 + module)
        for boardloc in range(4 * module, 4 * module + 4):
            address = recorder.board(boardloc)
            self.address[boardloc] = address
            self.tell(f"board {address} boardloc={boardloc}")
            levels = random.integers(0, top - 15, 256).tolist()
            levels[:2] = [0, 65535 if top > 255 else 255]
            tables = {
                "levels": levels,
                "pattern": random.integers(0, 900, 256).tolist(),
                "offset": random.integers(-3000, 3000, 256).tolist(),
            }
            for name, values in tables.items():
                self.tell(f"{name} {address} {table(values, 'H' if name == 'levels' else 'h')}")
            self.tables[boardloc] = tables

    def done(self, count: int) -> dict[int, dict[str, Any]]:
        """Accounts by BOARDLOC of `count` boards whose streams have ended by themselves."""
        assert self.process.stdout is not None
        found: dict[int, dict[str, Any]] = {}
        while len(found) < count:
            answer = json.loads(self.process.stdout.readline())
            assert answer["event"] in ("done", "stopped"), answer
            found[answer["boardloc"]] = answer
        return found

    def stop(self, boardloc: int, what: str = "all") -> dict[str, Any]:
        self.tell(f"stop {self.address[boardloc]} {what}")
        return self.done(1)[boardloc]


@contextmanager
def packet_source(*options: str) -> Iterator[Source]:
    subprocess.run(["make", "-s", "-C", str(SOURCE)], check=True)
    process = subprocess.Popen(
        [str(SOURCE / "packet_source"), *options],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield Source(process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def skip_if_dropped(status: Mapping[str, Any]) -> None:
    """Drops of the kernel are no fault of the pipeline where its receive buffer is kept small."""
    drops = status["totals"]["kernel_drops"]
    if drops and os.geteuid():
        pytest.skip(f"the kernel dropped {drops} packets: net.core.rmem_max is small here")
    assert drops == 0

"""The programs that are measured with, and the processes of the pipeline that is measured."""

from __future__ import annotations

import json
import mmap
import os
import re
import signal
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.bench.place import MORTAL, Place

REPO = Path(__file__).resolve().parents[2]
HASHPIPE = REPO / "hashpipe"
PROGRAMS = HASHPIPE / "build" / "release" / "bench"
RUN = "obs_bench.start_2026-01-02T03:04:05Z.runtype_bench.pffd"
RECEIVE_MB = 64
_STATUS = "hp_status_bench.json"
_FILE = re.compile(r"start_.*\.dp_(\w+)\.bpp_\d\.module_(\d+)\.seqno_(\d+)\.pff")
_THREADS = {"net_thread": "net", "compute_thread": "compute", "output_thread": "output"}


@dataclass(frozen=True)
class Product:
    """Facts of a data product that the measurement needs."""

    name: str
    frame_bytes: int
    boards: int  # packets in a frame
    group: int  # GROUPPHFRAMES


PRODUCTS = {
    product.name: product
    for product in (
        Product("img16", 2540, 4, 0),
        Product("img8", 1516, 4, 0),
        Product("ph256", 636, 1, 0),
        Product("ph1024", 2540, 4, 1),
    )
}


class BenchError(Exception):
    """A measurement that cannot be made or whose recording is wrong."""


class StalledError(BenchError):
    """The machine was so busy that packets of one frame came too far apart to be one."""


def build() -> None:
    """Bring the pipeline and the programs up to date."""
    subprocess.run(["make", "-s", "-C", str(HASHPIPE), "bench"], check=True)


def kept(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a program printed at its end."""
    out, err = process.communicate(timeout=60)
    if process.returncode:
        raise BenchError(f"{process.args!r}: exit {process.returncode}: {err.strip()}")
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    return answer


@contextmanager
def started(words: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A program until the end of the block; killed if it still runs then."""
    process = subprocess.Popen(
        [*MORTAL, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


class Sender:
    """The sender while it runs."""

    def __init__(self, process: subprocess.Popen[str], counter: Path) -> None:
        self._process = process
        with counter.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)

    @property
    def sent(self) -> int:
        """Packets so far."""
        (sent,) = struct.unpack("Q", self._map[:8])
        return int(sent)

    def end(self) -> dict[str, Any]:
        """Stop sending; what was sent."""
        self._process.send_signal(signal.SIGTERM)
        return kept(self._process)


@contextmanager
def sending(
    place: Place, folder: Path, product: Product, modules: int, rate: int, period_ns: int
) -> Iterator[Sender]:
    """Packets from here to the end of the block; rate 0 is flat out."""
    counter = folder / "sent"
    counter.write_bytes(bytes(8))
    words = [product.name, modules, period_ns, rate, 0, counter, *place.sender_words()]
    with started([*place.send, str(PROGRAMS / "send"), *map(str, words)]) as process:
        sender = Sender(process, counter)
        deadline = time.monotonic() + 10
        while not sender.sent:
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"the sender does not send: {process.communicate()[1]}")
            time.sleep(0.001)
        yield sender


class Pipeline:
    """The pipeline while it records in `folder`."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.folder = folder

    def status(self) -> dict[str, Any]:
        """The status file."""
        status: dict[str, Any] = json.loads((self.folder / RUN / _STATUS).read_text())
        return status

    def wait_until_it_records(self) -> None:
        """Return once packets are let in."""
        deadline = time.monotonic() + 10
        path = self.folder / RUN / _STATUS
        while not (path.exists() and self.status()["state"] == "running"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"the pipeline does not record: {self._output()}")
            time.sleep(0.002)

    def cpu_s(self) -> dict[str, float]:
        """CPU time so far by thread, in seconds; `other` is the log, the status, the launcher."""
        spent = dict.fromkeys((*_THREADS.values(), "other"), 0.0)
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            name = (task / "comm").read_text().strip()
            ran_ns = int((task / "schedstat").read_text().split()[0])
            spent[_THREADS.get(name, "other")] += ran_ns * 1e-9
        return spent

    def peak_bytes(self) -> int:
        """Most memory so far: of the process, mapped rings of the kernel included."""
        return self._memory("VmHWM")

    def now_bytes(self) -> int:
        """The same at the moment."""
        return self._memory("VmRSS")

    def _memory(self, field: str) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(rf"{field}:\s+(\d+) kB", text)
        return int(match[1]) * 1024 if match else 0

    def files(self, product: str) -> dict[int, list[Path]]:
        """Data files by module id, in the order of their numbers."""
        found: dict[int, list[tuple[int, Path]]] = {}
        for path in self.folder.glob(f"module_*/{RUN}/*.pff"):
            match = _FILE.fullmatch(path.name)
            if match and match[1] == product:
                found.setdefault(int(match[2]), []).append((int(match[3]), path))
        return {module: [path for _, path in sorted(files)] for module, files in found.items()}

    def end(self, number: int = signal.SIGINT) -> dict[str, Any]:
        """End it in order; its last status."""
        self.process.send_signal(number)
        code = self.process.wait(timeout=120)
        status = self.status()
        if code or status["state"] != "ended":
            raise BenchError(f"the pipeline ended with {code}: {self._output()}")
        return status

    def _output(self) -> str:
        return (self.folder / RUN / "hp_stdout").read_text().strip()


@contextmanager
def recording(
    place: Place, folder: Path, product: Product, modules: int, capture: str, **extra: object
) -> Iterator[Pipeline]:
    """The pipeline under our own launcher; killed at the end of the block if it still runs."""
    (folder / RUN).mkdir(parents=True)
    (folder / "module.config").write_text("".join(f"{m + 1}\n" for m in range(modules)))
    options = {
        "BINDHOST": place.bindhost(capture),
        "BINDPORT": place.port,
        "CAPTURE": capture,
        "RUNDIR": RUN,
        "CONFIG": "./module.config",
        "MAXFILESIZE": 0,
        "GROUPPHFRAMES": product.group,
        "OBS": "bench",
        "LOGFILE": "hp_log_bench",
        "RCVMB": RECEIVE_MB,
        **extra,
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    with (folder / RUN / "hp_stdout").open("wb") as sink:
        process = subprocess.Popen(
            [*MORTAL, *place.receive, str(HASHPIPE / "hashpipe"),
             "-p", str(HASHPIPE / "hashpipe.so"), "-I", "0", *words,
             "net_thread", "compute_thread", "output_thread"],
            cwd=folder, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL,
            env=os.environ | {"HASHPIPE_KEYFILE": str(folder)},
        )  # fmt: skip
    try:
        yield Pipeline(process, folder)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def check(pipeline: Pipeline, product: Product, modules: int, period_ns: int) -> dict[str, int]:
    """Every frame and pixel of a recording against what was sent; sums over modules."""
    sums = dict.fromkeys(("frames", "partial", "packets", "missing"), 0)
    for module, files in sorted(pipeline.files(product.name).items()):
        done = subprocess.run(
            [str(PROGRAMS / "check"), product.name, str(module - 1), str(period_ns),
             *map(str, files)],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise BenchError(f"the recording is wrong: {done.stderr.strip()}")
        answer = json.loads(done.stdout)
        for key in sums:
            sums[key] += answer[key]
    if len(pipeline.files(product.name)) != modules:
        raise BenchError("files of modules are missing")
    return sums

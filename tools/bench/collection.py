"""The rate of a collection, beside rsync alone and a plain copy of the same files, in one run.

    python -m tools.bench --collection --dir /some/disk

A private ssh server is the DAQ node; both data directories lie on the same disk of this computer.
A collection reads every byte four times (rsync and the hash on the node, the hash here) and makes
it last before the original goes: that is what its rate pays for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from panoseti.configs.site import DaqNode, ObsConfig
from panoseti.flight import FlightRecorder
from panoseti.nodes import node_init
from panoseti.nodes.remote import Shell
from panoseti.nodes.rsync_fetch import OPTIONS
from panoseti.nodes.ssh_argv import rsync_argv
from panoseti.runs import collect, names
from panoseti.runs.collect import Collection
from simulator.private_sshd import OperatorKeys, private_sshd
from tools.bench.programs import BenchError

RUN = "obs_Bench.start_2024-07-25T04:34:06Z.runtype_collection.pffd"
MODULES = (1, 2, 3, 254)
FIRST_UNIX = 1721882050
CHUNK = 1 << 20
COPY, RSYNC, COLLECT = "copy", "rsync", "collect"
WORDS = {
    COPY: "plain copy to the same disk, fsync",
    RSYNC: "rsync over ssh alone, fsync",
    COLLECT: "collection: rsync, SHA-256 at both ends, fsync, deleted on the node",
}


@dataclass
class Rates:
    """MB/s of each way, one for each round, and what was moved."""

    megabytes: int
    files: int
    of: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WORDS})

    def ratio(self, other: str) -> list[float]:
        """The collection's rate against another way's, round by round."""
        return [mine / its for mine, its in zip(self.of[COLLECT], self.of[other], strict=True)]


def measure(
    parent: Path, megabytes: int, rounds: int, files: int, tell: Callable[[str], None]
) -> Rates:
    """The rates of all ways, in rounds; nothing of it is left in `parent`."""
    rates = Rates(megabytes, files)
    with (
        tempfile.TemporaryDirectory(prefix="panoseti-bench-", dir=parent) as name,
        private_sshd(Path(name, "sshd"), OperatorKeys.make(Path(name, "keys"))) as sshd,
    ):
        node_dir = Path(name, "node")
        node_dir.mkdir()
        keys = sshd.keys
        obs = ObsConfig(
            "Bench", "", (), (), ssh_key=str(keys.key), ssh_known_hosts=str(keys.known_hosts)
        )
        node = DaqNode(sshd.address, sshd.user, str(node_dir), MODULES, ssh_port=sshd.port)
        with Shell(node, obs) as shell:
            node_init.init_node(shell)
            for number in range(1, rounds + 1):
                for way in WORDS:
                    seconds = _timed(way, Path(name, way), shell, obs, megabytes, files)
                    rates.of[way].append(megabytes / seconds)
                said = ", ".join(f"{way} {rates.of[way][-1]:.0f}" for way in WORDS)
                tell(f"round {number} of {rounds}: {said} MB/s")
    return rates


def _timed(way: str, head: Path, shell: Shell, obs: ObsConfig, megabytes: int, files: int) -> float:
    """Seconds that one way takes for fresh files, none of them in memory."""
    node_dir = Path(shell.node.data_dir)
    paths = _record(node_dir, megabytes, files)
    run_dir = head / RUN
    run_dir.mkdir(parents=True)
    begin = time.monotonic()
    if way == COLLECT:
        (run_dir / "run.json").touch()
        (result,) = collect.collect(Collection(run_dir, obs, FlightRecorder(None, "")), [shell])
        if not result.ok or result.files != files:
            raise BenchError(f"the collection went wrong: {result}")
    elif way == RSYNC:
        _rsync(shell, obs, paths, run_dir)
    else:
        for path in paths:
            shutil.copyfile(node_dir / path, run_dir / Path(path).name)
            _make_last(run_dir / Path(path).name)
    seconds = time.monotonic() - begin
    shutil.rmtree(head)
    for module in MODULES:
        shutil.rmtree(node_dir / f"module_{module}" / RUN, ignore_errors=True)
    return seconds


def _record(node_dir: Path, megabytes: int, files: int) -> list[str]:
    """Files as pipelines leave them, of bytes that cannot be compressed."""
    paths = []
    size = megabytes * 1_000_000 // files
    for number in range(files):
        module = MODULES[number % len(MODULES)]
        folder = node_dir / f"module_{module}" / RUN
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / names.data_file_name(FIRST_UNIX + number, "img16", module, number)
        with path.open("wb") as file:
            for begin in range(0, size, CHUNK):
                file.write(os.urandom(min(CHUNK, size - begin)))
        _make_last(path)
        paths.append(str(path.relative_to(node_dir)))
    return paths


def _make_last(path: Path) -> None:
    """On the disk, and out of memory."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _rsync(shell: Shell, obs: ObsConfig, paths: Sequence[str], target: Path) -> None:
    """In as many streams at once as a collection has."""
    streams = [
        subprocess.Popen(
            rsync_argv(shell.node, obs, [f"./{path}" for path in part], target, OPTIONS)
        )
        for part in (
            paths[k :: collect.STREAMS_PER_VOLUME] for k in range(collect.STREAMS_PER_VOLUME)
        )
        if part
    ]
    codes = [stream.wait() for stream in streams]
    if any(codes):
        raise BenchError(f"rsync: exit codes {codes}")
    for path in paths:
        _make_last(target / path)


def text(rates: Rates) -> str:
    """The table."""
    lines = [f"{rates.megabytes} MB in {rates.files} files, {len(rates.of[COPY])} rounds, medians"]
    for way, words in WORDS.items():
        low, high = min(rates.of[way]), max(rates.of[way])
        lines.append(f"{words:70} {median(rates.of[way]):6.0f} MB/s ({low:.0f}-{high:.0f})")
    for way in (COPY, RSYNC):
        lines.append(f"collection against {WORDS[way]:51} {median(rates.ratio(way)):6.2f}")
    return "\n".join(lines)

"""Collection of a run: every file of its DAQ nodes into the run directory, verified, then deleted.

For each node, all at once:

- node and head node share the data directory (a marker that the head node makes in its directory
  is seen on the node): the node moves each file of its modules into `<run>/`;
- else: rsync to `<run>/.incoming/<node>/...`, SHA-256 on the node and here compared, fsync, rename
  into `<run>/`; only then the file is deleted on the node, if it still is what was hashed there.

What is there already is compared and not fetched again, so that a collection can be broken off
anywhere and begun again.  Torn data files (of a
pipeline that was killed) are cut to whole frames here, last.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from panoseti.configs.site import ObsConfig
from panoseti.errors import ObsError, RemoteError
from panoseti.flight import FlightRecorder
from panoseti.nodes import daq_nodes
from panoseti.nodes.node_types import NodeFile, RunFiles
from panoseti.nodes.remote import Shell
from panoseti.nodes.rsync_fetch import Fetcher
from panoseti.runs.collect_batch import Batch, files_timeout_s
from panoseti.runs.collect_progress import Meter
from panoseti.runs.names import parse_data_file
from panoseti.runs.pff import PRODUCTS
from panoseti.state_files import fsync_file, fsync_folder

INCOMING = ".incoming"
# While one batch is hashed another one is on its way.
STREAMS_PER_VOLUME = 2
# What is fetched, verified and deleted in one go: the node gets its space back step by step.
BATCH_BYTES = 500_000_000
BATCH_FILES = 200


@dataclass
class NodeResult:
    """What became of a node's files.

    how: "moved" or "fetched"; failed: file (or "") and why; left: what stays on the node though
    nothing failed, in words; undeleted: files that are here, too, but could not be deleted there;
    strange: what stays there since it is no file of a run (a folder, a link), by path.
    """

    node: str
    how: str = ""
    files: int = 0
    size_bytes: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    undeleted: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every file of the node is in the run directory."""
        return not self.failed


@dataclass(frozen=True)
class Collection:
    """What a collection is about.

    run_dir: where the files go; delete: whether verified files are deleted on the nodes; meter:
    how far it is.
    """

    run_dir: Path
    obs: ObsConfig
    flight: FlightRecorder
    delete: bool = True
    meter: Meter = field(default_factory=Meter)

    @property
    def run(self) -> str:
        """Name of the run."""
        return self.run_dir.name


def collect(collection: Collection, shells: Iterable[Shell]) -> list[NodeResult]:
    """Collect a run from its nodes, all at once; what became of each.

    The caller holds `collect_lock`.
    """
    all_shells = list(shells)
    with ThreadPoolExecutor(len(all_shells) or 1, "collect") as pool:
        done = [pool.submit(_Node(collection, shell).run) for shell in all_shells]
        try:
            results = [future.result() for future in done]
        except BaseException:
            collection.meter.cancelled.set()  # the pool waits for its threads
            raise
    _remove_emptied(collection.run_dir / INCOMING)
    return results


class _Node:
    """The collection from one node."""

    def __init__(self, collection: Collection, shell: Shell) -> None:
        self._collection = collection
        self._shell = shell
        self._run_dir = collection.run_dir
        self._meter = collection.meter
        self._result = NodeResult(shell.node.ip_addr)
        self._lock = threading.Lock()
        # Directories that were not empty at the last deletion; None = nothing was deleted.
        self._not_emptied: tuple[str, ...] | None = None

    def run(self) -> NodeResult:
        """All of it; whatever goes wrong is in the result."""
        begin_s = time.monotonic()
        try:
            listing = daq_nodes.list_files(self._shell, self._collection.run)
            shared = daq_nodes.shares_data_dir(self._shell, self._run_dir.parent)
            self._check(listing, shared)
            self._result.left += listing.others
            self._meter.expect(sum(file.bytes for file in listing.files))
            if shared:
                self._move(listing)
            else:
                self._fetch(listing)
            if self._collection.delete and self._result.left and self._result.ok:
                self._look_again()
        except (ObsError, OSError) as error:
            self._result.failed.append(("", str(error)))
        self._result.seconds = time.monotonic() - begin_s
        return self._result

    def _look_again(self) -> None:
        """Folders were not emptied: what came there after it was listed is still to be collected.

        A name that begins with a dot is what a write that was cut short has left.
        """
        listing = daq_nodes.list_files(self._shell, self._collection.run)
        for file in listing.files:
            if not any(text.startswith(f"{file.path}: ") for text in self._result.undeleted):
                self._fail(file.path, "came there while the others were collected")
        names = {path: path.rpartition("/")[2] for path in listing.others}
        self._result.strange = [path for path, name in names.items() if not name.startswith(".")]

    def _check(self, listing: RunFiles, shared: bool) -> None:
        """That it is told from both sides alike whether `<run>/` there is the one here."""
        if listing.head_run_dir != shared and (listing.files or listing.head_run_dir):
            raise RemoteError(
                f"{self._shell.node.ip_addr}: its {self._collection.run}/ is"
                f" {'a' if listing.head_run_dir else 'no'} head node's run directory, but its data"
                f" directory is {'' if shared else 'not '}the one here; nothing is touched:"
                " correct data_dir in daq_config.json"
            )

    def _fail(self, path: str, why: str) -> None:
        with self._lock:
            self._result.failed.append((path, why))

    # --- the same directory ---

    def _move(self, listing: RunFiles) -> None:
        """Files of the modules go from `module_N/<run>/` to `<run>/` where they are."""
        self._result.how = "moved"
        files = [file for file in listing.files if file.in_module_dir]
        left: tuple[str, ...] = ()
        for batch in _batches(files):
            size = sum(file.bytes for file in batch)
            paths = [file.path for file in batch]
            patience_s = files_timeout_s(size)
            moved = daq_nodes.move_files(self._shell, self._collection.run, paths, patience_s)
            self._result.failed += [(problem.path, problem.error) for problem in moved.problems]
            for file in moved.files:
                if (self._run_dir / file.name).is_file():
                    self._result.files += 1
                    self._result.size_bytes += file.bytes
                else:
                    self._fail(file.path, "was moved, but is not seen here")
            self._meter.done(size)
            left = moved.left
        if not files:  # directories that an earlier collection left
            left = daq_nodes.move_files(
                self._shell, self._collection.run, [], files_timeout_s(0)
            ).left
        self._result.left += left
        fsync_folder(self._run_dir)

    # --- another computer's files ---

    def _fetch(self, listing: RunFiles) -> None:
        self._result.how = "fetched"
        wanted: dict[str, NodeFile] = {}
        for file in listing.files:
            if file.name in wanted:
                self._fail(file.path, "another folder has a file of that name")
            else:
                wanted[file.name] = file
        target = self._run_dir / INCOMING / self._shell.node.ip_addr
        volumes: dict[int, list[NodeFile]] = {}
        for file in wanted.values():
            volumes.setdefault(file.device, []).append(file)
        with (
            self._meter.incoming(target),
            ThreadPoolExecutor(max(1, len(volumes)), "volume") as pool,
        ):
            done = [pool.submit(self._fetch_volume, files, target) for files in volumes.values()]
        for volume in done:
            volume.result()
        if self._collection.delete and not self._result.failed and self._not_emptied != ():
            emptied = daq_nodes.delete_files(self._shell, self._collection.run, [], run_dir=True)
            self._result.left += emptied.left

    def _fetch_volume(self, files: list[NodeFile], target: Path) -> None:
        """The files of one disk of the node, beside those of its other disks."""
        with ThreadPoolExecutor(STREAMS_PER_VOLUME, "stream") as pool:
            streams = [pool.submit(self._stream, batch, target) for batch in _batches(files)]
        for stream in streams:
            error = stream.exception()
            if isinstance(error, ObsError | OSError):
                self._fail("", str(error))
            elif error is not None:
                raise error

    def _stream(self, files: list[NodeFile], target: Path) -> None:
        """One batch: fetched, verified, in its place, then deleted on the node."""
        if self._meter.cancelled.is_set():
            raise RemoteError(f"{self._shell.node.ip_addr}: collection was broken off")
        verified, failed = _batch(self._collection, self._shell, files, target).fetch()
        kept: list[str] = []
        if self._collection.delete and verified:
            gone = daq_nodes.delete_files(self._shell, self._collection.run, verified, run_dir=True)
            self._not_emptied = gone.left
            kept = [f"{problem.path}: {problem.error}" for problem in gone.problems]
        with self._lock:
            self._result.files += len(verified)
            self._result.size_bytes += sum(file.bytes for file in verified)
            self._result.failed += failed
            self._result.undeleted += kept


def fetch_ahead(collection: Collection, shell: Shell, names: Container[str]) -> None:
    """Bring files of these names from `<run>/` on a node before all the others: configs, which say
    what else there is to collect.  Nothing is deleted; what fails is collected with the rest.
    """
    target = collection.run_dir / INCOMING / shell.node.ip_addr
    listing = daq_nodes.list_files(shell, collection.run)
    files = [file for file in listing.files if not file.in_module_dir and file.name in names]
    _batch(collection, shell, files, target).fetch()
    _remove_emptied(collection.run_dir / INCOMING)


def _batch(collection: Collection, shell: Shell, files: list[NodeFile], target: Path) -> Batch:
    meter = collection.meter
    fetcher = Fetcher(shell.node, collection.obs, collection.flight, meter.cancelled)
    return Batch(shell, fetcher, files, target, collection.run_dir, meter)


def _batches(files: Sequence[NodeFile]) -> Iterator[list[NodeFile]]:
    batch: list[NodeFile] = []
    size = 0
    for file in files:
        if batch and (size + file.bytes > BATCH_BYTES or len(batch) >= BATCH_FILES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.bytes
    if batch:
        yield batch


def _remove_emptied(folder: Path) -> None:
    """Remove empty folders, from the bottom; what did not find its place stays."""
    for here, _, _ in os.walk(folder, topdown=False):
        try:
            os.rmdir(here)
        except OSError:
            continue


# --- torn files ---


@dataclass(frozen=True)
class Cut:
    """A data file whose end was no whole frame: the bytes that were cut off."""

    name: str
    size_bytes: int

    def __str__(self) -> str:
        return f"{self.name}: cut to whole frames ({self.size_bytes} bytes of a torn frame)"


def cut_torn_files(run_dir: Path, note: Callable[[Cut], None] = lambda cut: None) -> list[Cut]:
    """Cut every data file of a run directory to whole frames; note is called before each cut."""
    cuts = []
    for path in sorted(run_dir.iterdir()):
        file = parse_data_file(path.name)
        if file is None or not path.is_file():
            continue
        torn = path.stat().st_size % PRODUCTS[file.product].frame_bytes
        if torn:
            cut = Cut(path.name, torn)
            note(cut)
            os.truncate(path, path.stat().st_size - torn)
            fsync_file(path)
            cuts.append(cut)
    return cuts

"""What the helpers on a DAQ node report, as typed objects (node_documents.py makes them)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from daq.daq_facts import utc_text

Document = Mapping[str, Any]


@dataclass(frozen=True)
class QuaboCounts:
    """Packets of one quabo in one acquisition mode, since the pipeline began.

    lost: gaps in the packet numbers; unwritten: recorded nowhere because of a write error;
    last_packet_unix: when the last one came, Unix time; first_packet_age_s, last_packet_age_s: how
    long before this account the first and the last one came, longest_gap_s: the longest time
    between two, all on a clock that is never set (0 where a pipeline does not tell).
    """

    module: int
    quabo: int
    mode: int
    received: int
    recorded: int
    lost: int
    duplicate: int
    late: int
    unwritten: int
    reordered: int
    resets: int
    last_packet_unix: float
    first_packet_age_s: float = 0.0
    last_packet_age_s: float = 0.0
    longest_gap_s: float = 0.0


@dataclass(frozen=True)
class BadSource:
    """Packets that were not recorded: kind (what was wrong), source address, BOARDLOC, count."""

    kind: str
    source: str
    boardloc: int
    count: int


@dataclass(frozen=True)
class ProductCounts:
    """Frames of one product of one module; partial: with boards missing."""

    module: int
    product: str
    frames: int
    partial: int
    bytes: int
    files: int
    seqno: int
    write_errors: int
    frames_unwritten: int


@dataclass(frozen=True)
class Pipeline:
    """The pipeline's own status, its accounts since it began.

    state: "starting", "running", "draining", "ended" or "failed"; updated_unix: when it wrote
    this; totals: received, recorded, rejected, duplicate, late, unwritten, in_flight, lost,
    kernel_drops, bytes; threads: what each does ("starting", "running", "ended").
    """

    pid: int
    state: str
    run: str
    start_time_unix: float
    updated_unix: float
    socket_open: bool
    totals: Mapping[str, int]
    quabos: tuple[QuaboCounts, ...]
    bad_sources: tuple[BadSource, ...]
    products: tuple[ProductCounts, ...]
    errors: tuple[str, ...]
    threads: Mapping[str, str] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Frames written, of all products."""
        return sum(product.frames for product in self.products)

    @property
    def partial(self) -> int:
        """Frames written with boards missing."""
        return sum(product.partial for product in self.products)


@dataclass(frozen=True)
class GrowingFile:
    """A data file of the run that is not empty; bytes_per_s None when nothing records."""

    module: int
    name: str
    product: str
    seqno: int
    bytes: int
    bytes_per_s: float | None


@dataclass(frozen=True)
class Volume:
    """A file system data go to.

    modules: ids with a directory (or link) of their own there; default: the others go there.
    """

    path: str
    modules: tuple[int, ...]
    default: bool
    free_bytes: int
    total_bytes: int
    read_only: bool


@dataclass(frozen=True)
class Process:
    """A process called hashpipe: its pid, user, working directory and run where known; owner
    (token) and whose (who started it, for people) from the state file there.
    """

    pid: int
    user: str
    data_dir: str | None
    run: str | None
    owner: str | None = None
    whose: str = ""

    def __str__(self) -> str:
        return f"hashpipe (pid {self.pid}, user {self.user}, run {self.run or 'unknown'})"


@dataclass(frozen=True)
class NodeStatus:
    """What a DAQ node does.

    running: a pipeline records into its data directory; run, owner (token), started_by: from the
    node's own state file; helpers: digest of the helpers there; time_unix: its clock when it
    answered; clock_offset_s: how far that clock certainly is ahead of ours (0 when it agrees
    within the time the question took); problems: what does not fit together, one line each;
    unusable: modules whose directory or link cannot be used there, and why.
    """

    host: str
    boot_id: str
    running: bool
    run: str | None
    owner: str | None
    started_by: str | None
    started_unix: float | None
    pid: int | None
    processes: tuple[Process, ...]
    pipeline: Pipeline | None
    files: tuple[GrowingFile, ...]
    volumes: tuple[Volume, ...]
    problems: tuple[str, ...]
    helpers: str
    time_unix: float
    clock_offset_s: float
    document: Document = field(repr=False)
    unusable: Mapping[int, str] = field(default_factory=dict)

    @property
    def whose(self) -> str:
        """Who started its run, on which computer, and since when; "" where that is unknown."""
        if not self.started_by or self.started_unix is None:
            return self.started_by or ""
        return f"{self.started_by} since {utc_text(self.started_unix)}"


@dataclass(frozen=True)
class Started:
    """A recording that has begun: its pipeline's pid; how long it took; run whose stale state
    it replaced.
    """

    run: str
    pid: int
    ready_s: float
    replaced_run: str | None


@dataclass(frozen=True)
class Ended:
    """A pipeline that was stopped: the signals it took, and how long (None: it did not end)."""

    process: Process
    signals: tuple[str, ...]
    seconds: float | None
    problem: str | None


@dataclass(frozen=True)
class Stopped:
    """What a stop found and did.

    run, owner, started_by: None when the node knew of no run; final: the last status of the
    pipeline that recorded here; notes: stale or unreadable state that was removed.
    """

    run: str | None
    owner: str | None
    started_by: str | None
    was_running: bool
    ended: tuple[Ended, ...]
    final: Pipeline | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class NodeFile:
    """A file of a run on a node.  path: relative to its data directory; sha256: None before it
    was hashed; device: number of the file system it lies on.
    """

    path: str
    bytes: int
    mtime_ns: int
    inode: int
    sha256: str | None = None
    device: int = 0

    @property
    def name(self) -> str:
        """The name without directories."""
        return self.path.rpartition("/")[2]

    @property
    def in_module_dir(self) -> bool:
        """Whether it is a file of a module, not one of <run>/."""
        return self.path.count("/") == 2


@dataclass(frozen=True)
class RunFiles:
    """The files of a run on a node.

    others: what is in its directories besides (never touched); head_run_dir: <run>/ there is the
    head node's run directory, whose files are not listed.
    """

    run: str
    files: tuple[NodeFile, ...]
    others: tuple[str, ...]
    head_run_dir: bool


@dataclass(frozen=True)
class FileProblem:
    """A file for which something failed."""

    path: str
    error: str


@dataclass(frozen=True)
class FilesDone:
    """Files that were hashed, moved or deleted, and those where it failed.

    removed: emptied directories that were removed; left: directories that still hold something.
    """

    files: tuple[NodeFile, ...]
    problems: tuple[FileProblem, ...]
    removed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeRun:
    """A run that has files on a node; head_address, head_data_dir: its head node and the data
    directory there, by the copy of its configs, "" where no such copy tells it.
    """

    run: str
    files: int
    bytes: int
    head_address: str = ""
    head_data_dir: str = ""

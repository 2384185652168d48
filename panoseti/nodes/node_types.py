"""What the helpers on a DAQ node report, as typed objects.  Pure: JSON documents in, objects out.

A document that is not what it should be raises ValueError with the field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from daq.daq_facts import check_run_name, check_time, split_path, utc_text

Document = Mapping[str, Any]
T = TypeVar("T")


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


def parsed(build: Callable[[Document], T], document: Document) -> T:
    """build(document); ValueError instead of KeyError, TypeError and OverflowError."""
    try:
        return build(document)
    except KeyError as error:
        raise ValueError(f"no {error}") from error
    except (TypeError, AttributeError, OverflowError) as error:  # json reads Infinity as a number
        raise ValueError(str(error)) from error


def quabo_counts(entry: Document) -> QuaboCounts:
    """One entry of a status's "quabos"."""
    names = ("module", "quabo", "mode", "received", "recorded", "lost", "duplicate", "late",
             "unwritten", "reordered", "resets")  # fmt: skip
    counts = {name: int(entry[name]) for name in names}
    return QuaboCounts(
        **counts,
        last_packet_unix=float(entry["last_packet_unix"]),
        first_packet_age_s=float(entry.get("first_packet_age_s", 0.0)),
        last_packet_age_s=float(entry.get("last_packet_age_s", 0.0)),
        longest_gap_s=float(entry.get("longest_gap_s", 0.0)),
    )


def _bad_source(entry: Document) -> BadSource:
    return BadSource(
        kind=str(entry["kind"]),
        source=str(entry["source"]),
        boardloc=int(entry["boardloc"]),
        count=int(entry["count"]),
    )


def _product(entry: Document) -> ProductCounts:
    names = ("module", "frames", "partial", "bytes", "files", "seqno", "write_errors",
             "frames_unwritten")  # fmt: skip
    return ProductCounts(
        product=str(entry["product"]), **{name: int(entry[name]) for name in names}
    )


def pipeline(document: Document | None) -> Pipeline | None:
    """The pipeline's status; None for none."""
    if document is None:
        return None
    return Pipeline(
        pid=int(document["pid"]),
        state=str(document["state"]),
        run=str(document["run"]),
        start_time_unix=float(document["start_time_unix"]),
        updated_unix=float(document["updated_unix"]),
        socket_open=document["socket_open"] is True,
        totals={str(name): int(count) for name, count in document["totals"].items()},
        quabos=tuple(quabo_counts(entry) for entry in document["quabos"]),
        bad_sources=tuple(_bad_source(entry) for entry in document["rejected"]),
        products=tuple(_product(entry) for entry in document["products"]),
        errors=tuple(str(error) for error in document["errors"]),
        threads={str(name): str(does) for name, does in document.get("threads", {}).items()},
    )


def _process(entry: Document) -> Process:
    return Process(
        pid=int(entry["pid"]),
        user=str(entry["user"]),
        data_dir=entry["data_dir"],
        run=entry["run"],
        owner=entry.get("owner"),
        whose=str(entry.get("whose", "")),
    )


def _growing_file(entry: Document) -> GrowingFile:
    return GrowingFile(
        module=int(entry["module"]),
        name=str(entry["name"]),
        product=str(entry["product"]),
        seqno=int(entry["seqno"]),
        bytes=int(entry["bytes"]),
        bytes_per_s=None if entry["bytes_per_s"] is None else float(entry["bytes_per_s"]),
    )


def _volume(entry: Document) -> Volume:
    return Volume(
        path=str(entry["path"]),
        modules=tuple(int(module) for module in entry["modules"]),
        default=bool(entry["default"]),
        free_bytes=int(entry["free_bytes"]),
        total_bytes=int(entry["total_bytes"]),
        read_only=bool(entry["read_only"]),
    )


def node_status(document: Document, asked_unix: float, answered_unix: float) -> NodeStatus:
    """status_daq's document; our clock when it was asked for and when it had come."""
    time_unix, started_unix = float(document["time_unix"]), document["started_unix"]
    early, late = time_unix - asked_unix, time_unix - answered_unix
    return NodeStatus(
        host=str(document["host"]),
        boot_id=str(document["boot_id"]),
        running=bool(document["running"]),
        run=document["run"],
        owner=document["owner"],
        started_by=document["started_by"],
        started_unix=None if started_unix is None else check_time(started_unix),
        pid=document["pid"],
        processes=tuple(_process(entry) for entry in document["processes"]),
        pipeline=pipeline(document["pipeline"]),
        files=tuple(_growing_file(entry) for entry in document["files"]),
        volumes=tuple(_volume(entry) for entry in document["volumes"]),
        problems=tuple(str(problem) for problem in document["problems"]),
        helpers=str(document["helpers"]),
        time_unix=time_unix,
        clock_offset_s=max(late, 0.0) if late > 0 else min(early, 0.0),
        document=document,
        unusable={int(module): str(why) for module, why in document.get("unusable", {}).items()},
    )


def started(document: Document) -> Started:
    """start_daq's document."""
    return Started(
        run=str(document["run"]),
        pid=int(document["pid"]),
        ready_s=float(document["ready_s"]),
        replaced_run=document["replaced_run"],
    )


def stopped(document: Document) -> Stopped:
    """stop_daq's document."""
    return Stopped(
        run=document["run"],
        owner=document["owner"],
        started_by=document["started_by"],
        was_running=bool(document["was_running"]),
        ended=tuple(
            Ended(_process(entry), tuple(entry["signals"]), entry["seconds"], entry["problem"])
            for entry in document["ended"]
        ),
        final=pipeline(document["final"]),
        notes=tuple(str(note) for note in document["notes"]),
    )


def node_file(entry: Document, run: str) -> NodeFile:
    """One file as run_files tells it; ValueError where it is none of the run: its path leads to a
    place here, too.
    """
    split_path(entry["path"], run)
    return NodeFile(
        path=str(entry["path"]),
        bytes=int(entry["bytes"]),
        mtime_ns=int(entry["mtime_ns"]),
        inode=int(entry["inode"]),
        sha256=entry.get("sha256"),
        device=int(entry.get("device", 0)),
    )


def run_files(document: Document, run: str) -> RunFiles:
    """The document of run_files list for a run."""
    return RunFiles(
        run=run,
        files=tuple(node_file(entry, run) for entry in document["files"]),
        others=tuple(str(path) for path in document["others"]),
        head_run_dir=bool(document["head_run_dir"]),
    )


def files_done(document: Document, run: str) -> FilesDone:
    """The document of run_files hash or move for files of a run."""
    entries = document["files"]
    return FilesDone(
        files=tuple(node_file(entry, run) for entry in entries if "error" not in entry),
        problems=file_problems(document),
        removed=tuple(document.get("removed", ())),
        left=tuple(document.get("left", ())),
    )


def file_problems(document: Document) -> tuple[FileProblem, ...]:
    """The files of a run_files document where something failed."""
    return tuple(
        FileProblem(str(entry["path"]), str(entry["error"]))
        for entry in document["files"]
        if "error" in entry
    )


def node_runs(document: Document) -> tuple[NodeRun, ...]:
    """The document of run_files runs."""
    return tuple(_node_run(entry) for entry in document["runs"])


def _node_run(entry: Document) -> NodeRun:
    head = entry.get("head") or {}
    return NodeRun(
        run=check_run_name(entry["run"]),  # a path here is made of it
        files=int(entry["files"]),
        bytes=int(entry["bytes"]),
        head_address=str(head.get("address", "")),
        head_data_dir=str(head.get("data_dir", "")),
    )

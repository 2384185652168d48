"""The JSON documents of the helpers on a DAQ node, read into the objects of node_types.py.

Pure.  A document that is not what it should be raises ValueError with the field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from daq.daq_facts import check_run_name, check_time, split_path
from panoseti.nodes.node_types import (
    BadSource,
    Document,
    Ended,
    FileProblem,
    FilesDone,
    GrowingFile,
    NodeFile,
    NodeRun,
    NodeStatus,
    Pipeline,
    Process,
    ProductCounts,
    QuaboCounts,
    RunFiles,
    Started,
    Stopped,
    Volume,
)

T = TypeVar("T")


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

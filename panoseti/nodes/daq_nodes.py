"""What is done on DAQ nodes: the helpers put there, recordings started and stopped, files handled.

Every function works on one node through its Shell and raises RemoteError (RefusedError when the
node's state forbids it), naming the node, the step and the reason.  NodeShells does one thing on
many nodes at once and keeps every node's failure.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from daq.daq_facts import (
    EXIT_FAILED,
    EXIT_REFUSED,
    LAUNCHER,
    check_run_name,
    helpers_digest,
)
from panoseti.configs.site import DaqNode, ObsConfig, PipelineTuning
from panoseti.errors import ObsError, RefusedError, RemoteError
from panoseti.flight import FlightRecorder
from panoseti.nodes import node_documents
from panoseti.nodes.node_types import (
    Document,
    FilesDone,
    NodeFile,
    NodeRun,
    NodeStatus,
    RunFiles,
    Started,
    Stopped,
)
from panoseti.nodes.remote import Result, Shell

logger = logging.getLogger(__name__)

REPO = Path(__file__).resolve().parents[2]
INIT_REMEDY = "config.py --init_daq_nodes"
# Time for ssh, a slow disk and the start of Python, on top of what a helper is given.
MARGIN_S = 30.0
STOP_DEADLINE_S = 15.0
DRAIN_S = 300.0
T = TypeVar("T")
EMPTY: Mapping[str, bytes] = MappingProxyType({})


@dataclass(frozen=True)
class Order:
    """What a node is to record.

    owner: token of the run; started_by: who, as shown to others; modules: ids in use there.
    """

    run: str
    owner: str
    started_by: str
    modules: tuple[int, ...]
    obs_name: str
    max_file_size_mb: int = 0
    group_ph_frames: bool = False


class NoHelperError(RemoteError):
    """A node has no such helper: it was never brought up, or its data directory is not mounted."""


def current_helpers() -> str:
    """Digest of this head node's set of helpers, to compare with NodeStatus.helpers."""
    return helpers_digest(REPO / "daq")


def _path(node: DaqNode, name: str) -> str:
    return os.path.join(node.data_dir, name)


# --- helpers ---


def _helper(
    shell: Shell,
    script: str,
    words: Iterable[str],
    timeout_s: float,
    step: str,
    data: bytes = b"",
    partly: bool = False,
) -> Document:
    """Run a helper on the node; its document.

    partly: a document that tells what failed for which file is a result, too.
    """
    node = shell.node
    argv = ["python3", "-B", _path(node, script), *words]
    result = shell.run(argv, timeout_s, data, step)
    document = _document(shell, script, result, step)
    if document.get("ok") is True and result.code == 0:
        return document
    if partly and result.code == EXIT_FAILED and "files" in document:
        return document
    text = f"{node.ip_addr}: could not {step}: {document.get('error')}"
    raise RefusedError(text) if result.code == EXIT_REFUSED else RemoteError(text)


def _document(shell: Shell, script: str, result: Result, step: str) -> dict[str, Any]:
    """The one JSON document a helper prints, whatever its exit code."""
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(result.out)
        if isinstance(document, dict) and "ok" in document:
            return document
    if result.code == 127:
        raise shell.error(step, "python3 is missing there", "install Python 3.8 or newer")
    if result.err.startswith("only_daq.py: refused: "):
        why = result.last_words
        raise shell.error(step, why, "correct its line in authorized_keys there (docs/ssh.md)")
    if "can't open file" in result.err:
        why = f"{_path(shell.node, script)} is not there"
        raise NoHelperError(str(shell.error(step, why, INIT_REMEDY)))
    why = f"{script} failed (exit code {result.code}: {result.last_words})"
    raise shell.error(step, why, f"if its helpers are old: {INIT_REMEDY}")


def _parse(shell: Shell, build: Callable[[Document], T], document: Document, step: str) -> T:
    try:
        return node_documents.parsed(build, document)
    except ValueError as error:
        why = f"its answer is not understood ({error})"
        raise shell.error(
            step, why, f"its helpers are of another version: {INIT_REMEDY}"
        ) from error


def _tuning_words(tuning: PipelineTuning) -> list[str]:
    """Options of start_daq.py, called as the fields, for what the pipeline is told."""
    words = []
    for name, standard in asdict(PipelineTuning()).items():
        value = getattr(tuning, name)
        if value != standard:
            parts = value if isinstance(value, tuple) else (value,)
            words += [f"--{name}", ",".join("1" if part is True else str(part) for part in parts)]
    return words


def start_recording(
    shell: Shell, order: Order, copies: Mapping[str, bytes] = EMPTY, again: bool = False
) -> Started:
    """Start recording; returns when the pipeline runs and has its socket open.

    copies: small text files, such as the configs, for <run>/ on the node.  again: the run was
    begun there, so that its folders must be there.
    """
    node = shell.node
    words = [
        *("--data_dir", node.data_dir, "--run", check_run_name(order.run)),
        *("--owner", order.owner, "--started_by", order.started_by),
        *("--daq_ip", node.ip_addr, "--obs", order.obs_name),
        *("--module_ids", ",".join(map(str, order.modules))),
        *("--bindhost", node.bindhost),
        *("--max_file_size_mb", str(order.max_file_size_mb)),
        *("--group_ph_frames", str(int(order.group_ph_frames))),
        *("--deadline_s", f"{node.ready_deadline_s:g}"),
        *("--helpers", current_helpers()),
        *_tuning_words(node.tuning),
    ]
    if node.hashpipe_dir is not None:
        words += ["--hashpipe_dir", node.hashpipe_dir]
    if again:
        words.append("--again")
    data = b""
    if copies:
        words.append("--copies")
        data = json.dumps({name: text.decode() for name, text in copies.items()}).encode()
    step, timeout_s = "start recording", node.ready_deadline_s + MARGIN_S
    document = _helper(shell, "start_daq.py", words, timeout_s, step, data)
    return _parse(shell, node_documents.started, document, step)


def stop_recording(
    shell: Shell,
    run: str | None = None,
    owner: str | None = None,
    force: bool = False,
    deadline_s: float = STOP_DEADLINE_S,
    drain_s: float = DRAIN_S,
    over: str | None = None,
) -> Stopped:
    """Stop whatever records on the node and remove its state files; safe to repeat.

    over: a run that is over now: what its start, if it was killed, asks for late is refused;
    run: only this run; owner: token, refuse (RefusedError) what belongs to another head node;
    force: neither counts.  Returns when nothing of it runs any more; RemoteError when something
    still does.  A node without helpers on which no hashpipe runs has nothing to stop, unless a run
    is named: then something is wrong.
    """
    words = ["--data_dir", shell.node.data_dir]
    words += ["--deadline_s", f"{deadline_s:g}", "--drain_s", f"{drain_s:g}"]
    words += ["--run", check_run_name(run)] if run is not None else []
    words += ["--over", check_run_name(over)] if over is not None else []
    words += ["--owner", owner] if owner is not None else []
    words += ["--force"] if force else []
    step = "stop recording"
    timeout_s = 2 * deadline_s + drain_s + 2 * MARGIN_S
    try:
        document = _helper(shell, "stop_daq.py", words, timeout_s, step)
    except NoHelperError:
        if run is None and over is None and _no_hashpipe_runs(shell):
            return _nothing_to_stop(shell)
        raise
    return _parse(shell, node_documents.stopped, document, step)


def _no_hashpipe_runs(shell: Shell) -> bool:
    found = shell.run(["pgrep", "-x", LAUNCHER], MARGIN_S, step="look for pipelines")
    return (found.code, found.out, found.err) == (1, "", "")  # what pgrep says when there is none


def _nothing_to_stop(shell: Shell) -> Stopped:
    note = (
        f"no helpers in {shell.node.data_dir}, and no {LAUNCHER} runs there: nothing was ever"
        f" begun there, or its disk is not mounted; {INIT_REMEDY} brings them"
    )
    return Stopped(None, None, None, False, (), None, (note,))


def status(
    shell: Shell, run: str | None = None, growth_s: float = 0.0, timeout_s: float = MARGIN_S
) -> NodeStatus:
    """What the node does.  run: tell its files instead of the current run's; growth_s: how long
    files are watched for growth (0: bytes_per_s means nothing); timeout_s: on top of that.
    """
    words = ["--data_dir", shell.node.data_dir, "--growth_s", f"{growth_s:g}"]
    words += ["--run", check_run_name(run)] if run is not None else []
    step = "read its status"
    asked_unix = time.time()
    document = _helper(shell, "status_daq.py", words, growth_s + timeout_s, step)
    answered_unix = time.time()
    return _parse(
        shell,
        lambda found: node_documents.node_status(found, asked_unix, answered_unix),
        document,
        step,
    )


# --- files ---


def list_runs(shell: Shell) -> tuple[NodeRun, ...]:
    """Runs that have files on the node (not the head node's own copies)."""
    step = "list its runs"
    words = ["runs", "--data_dir", shell.node.data_dir]
    document = _helper(shell, "run_files.py", words, 2 * MARGIN_S, step)
    return _parse(shell, node_documents.node_runs, document, step)


def list_files(shell: Shell, run: str) -> RunFiles:
    """The files of a run on the node."""
    step = f"list the files of {run}"
    document = _helper(shell, "run_files.py", _verb(shell, "list", run), 2 * MARGIN_S, step)
    return _parse(shell, lambda found: node_documents.run_files(found, run), document, step)


def hash_files(shell: Shell, run: str, paths: Sequence[str], timeout_s: float) -> FilesDone:
    """SHA-256 of files on the node, taken at low priority."""
    step = "hash its files"
    document = _helper(
        shell, "run_files.py", _verb(shell, "hash", run), timeout_s, step,
        _entries(list(paths)), partly=True,
    )  # fmt: skip
    return _parse(shell, lambda found: node_documents.files_done(found, run), document, step)


def move_files(shell: Shell, run: str, paths: Sequence[str], timeout_s: float) -> FilesDone:
    """Move files of modules into <run>/ (the head node's run directory, too); emptied module
    directories of the run are removed.  Files of the result have their new paths.
    """
    step = "move files into the run directory"
    document = _helper(
        shell, "run_files.py", _verb(shell, "move", run), timeout_s, step,
        _entries(list(paths)), partly=True,
    )  # fmt: skip
    return _parse(shell, lambda found: node_documents.files_done(found, run), document, step)


def delete_files(
    shell: Shell, run: str, files: Sequence[NodeFile], run_dir: bool, timeout_s: float = 300.0
) -> FilesDone:
    """Delete files on the node that are still exactly what `files` say, and emptied directories.

    run_dir: <run>/, too (never the head node's).  files of the result: those that are gone.
    """
    step = "delete collected files"
    entries = [
        {"path": f.path, "bytes": f.bytes, "mtime_ns": f.mtime_ns, "inode": f.inode} for f in files
    ]
    words = _verb(shell, "delete", run) + (["--run_dir"] if run_dir else [])
    document = _helper(
        shell, "run_files.py", words, timeout_s, step, _entries(entries), partly=True
    )

    def build(found: Document) -> FilesDone:
        problems = node_documents.file_problems(found)
        kept = {problem.path for problem in problems}
        gone = tuple(file for file in files if file.path not in kept)
        return FilesDone(gone, problems, tuple(found["removed"]), tuple(found["left"]))

    return _parse(shell, build, document, step)


def shares_data_dir(shell: Shell, head_data_dir: Path) -> bool:
    """Whether the node's data directory is the head node's very own.

    Asked on the node: device and inode must be the same, and a marker made here be visible there
    (two machines may well have equal numbers).
    """
    step = "compare its data directory with the head node's"
    name = f".same_{secrets.token_hex(16)}"
    marker = head_data_dir / name
    try:
        try:
            here = os.stat(head_data_dir)
            says = _make_marker(marker)
        except OSError as error:
            raise ObsError(f"{head_data_dir}: {error.strerror}") from error
        words = ["place", "--data_dir", shell.node.data_dir, "--marker", name]
        document = _helper(shell, "run_files.py", words, MARGIN_S, step)
    finally:
        marker.unlink(missing_ok=True)
    there = (document.get("device"), document.get("inode"))
    return document.get("marker") == says and there == (here.st_dev, here.st_ino)


def _make_marker(marker: Path) -> str:
    """Make a marker; what it says: nothing on a full disk, where its name, that nobody else could
    choose, must do: files that are only moved need no room.
    """
    secret = secrets.token_hex(16)
    marker.touch(exist_ok=False)
    try:
        marker.write_text(secret)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        marker.write_text("")
        return ""
    return secret


def _verb(shell: Shell, verb: str, run: str) -> list[str]:
    return [verb, "--data_dir", shell.node.data_dir, "--run", check_run_name(run)]


def _entries(files: list[Any]) -> bytes:
    return json.dumps({"files": files}).encode()


# --- many nodes ---


@dataclass(frozen=True)
class NodeOutcome(Generic[T]):
    """What came of an action on one node: its result, or the problem that kept it from one."""

    node: DaqNode
    result: T | None
    problem: ObsError | None

    @property
    def ok(self) -> bool:
        """Whether it was done."""
        return self.problem is None

    @property
    def value(self) -> T:
        """The result; raises the problem when there is none."""
        if self.problem is not None:
            raise self.problem
        return self.result  # type: ignore[return-value]


class NodeShells:
    """The shells of several nodes, each used again and again.  Context manager."""

    def __init__(
        self, nodes: Iterable[DaqNode], obs: ObsConfig, flight: FlightRecorder | None = None
    ) -> None:
        self._shells: dict[DaqNode, Shell] = {node: Shell(node, obs, flight) for node in nodes}

    def __enter__(self) -> NodeShells:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give all connections up; they are made again when they are needed."""
        for shell in self._shells.values():
            shell.close()

    def __getitem__(self, node: DaqNode) -> Shell:
        return self._shells[node]

    @property
    def nodes(self) -> tuple[DaqNode, ...]:
        """The nodes, in the order of the config."""
        return tuple(self._shells)

    def each(
        self,
        action: Callable[[Shell], T],
        nodes: Iterable[DaqNode] | None = None,
        done: Callable[[NodeOutcome[T]], None] | None = None,
    ) -> dict[DaqNode, NodeOutcome[T]]:
        """Do it on all nodes (or some) at once; every node's outcome, in their order.

        done: called in this thread for each node as its turn comes.
        """
        chosen = list(self._shells if nodes is None else nodes)
        if not chosen:
            return {}
        results = {}
        with ThreadPoolExecutor(len(chosen), "node") as pool:
            futures = {node: pool.submit(self._one, action, node) for node in chosen}
            try:
                for node, future in futures.items():
                    results[node] = future.result()
                    if done is not None:
                        done(results[node])
            except BaseException:
                for node in chosen:
                    self._shells[node].close()  # what still waits for a node ends
                raise
        return results

    def _one(self, action: Callable[[Shell], T], node: DaqNode) -> NodeOutcome[T]:
        try:
            return NodeOutcome(node, action(self._shells[node]), None)
        except ObsError as error:
            return NodeOutcome(node, None, error)
        except Exception as error:  # whatever it is, the other nodes have their outcomes
            logger.exception("%s: a fault of this program", node.ip_addr)
            text = f"{node.ip_addr}: a fault of this program: {type(error).__name__}: {error}"
            return NodeOutcome(node, None, RemoteError(" ".join(text.split())))


def problems(outcomes: Mapping[DaqNode, NodeOutcome[Any]]) -> list[str]:
    """The messages of all nodes where something failed."""
    return [str(outcome.problem) for outcome in outcomes.values() if outcome.problem is not None]

"""The end of a run on the head node: its files collected, whole, judged, and marked complete."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for_futures
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from daq.daq_facts import stdout_name
from panoseti.configs.load_configs import Site
from panoseti.configs.site import DaqNode
from panoseti.console import Console
from panoseti.errors import ObsError
from panoseti.flight import FlightRecorder, owner
from panoseti.nodes.daq_nodes import NodeShells
from panoseti.nodes.node_types import Pipeline
from panoseti.runs import collect as collection_of_runs
from panoseti.runs import pff, run_state
from panoseti.runs.collect import Collection, Cut, NodeResult, cut_torn_files
from panoseti.runs.collect_progress import (
    PROGRESS_FILE,
    Progress,
    read_progress,
    remove_progress,
    write_progress,
)
from panoseti.runs.disk_room import duration_text
from panoseti.runs.names import parse_data_file
from panoseti.runs.run_account import read_account
from panoseti.runs.run_part import RECORD
from panoseti.runs.run_record import LOST, RUN_JSON, RunRecord, Verdict
from panoseti.runs.run_state import Marker, StateError
from panoseti.runs.run_summary import RunSummary, data_files, first_file, summarize
from panoseti.runs.run_verdict import judge

SHOW_S, LINES_S, POLL_S = 0.5, 5.0, 0.1
# Of another collector: it writes how far it is twice a second, and then checks the files.
COLLECTOR_S, TELL_S = 300.0, 60.0
PERCENT = 100
# What a node has not yet brought to its disks when its power fails; with ample room.
POWER_CUT_S = 60.0


@dataclass
class Finished:
    """How a run ended.

    collected: whether collection was asked for; complete: whether all is done and marked so.
    """

    run_dir: Path
    collected: bool = False
    complete: bool = False
    nodes: list[NodeResult] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    summary: RunSummary | None = None
    verdict: Verdict | None = None
    reasons: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all that was asked for was done."""
        return not self.problems


def finish(
    site: Site,
    record: RunRecord,
    nodes: Sequence[DaqNode],
    collect: bool,
    cleanup: bool,
    trouble: Sequence[str],
    console: Console,
    flight: FlightRecorder,
    accounts: Mapping[str, Pipeline] | None = None,
    check_all: bool = False,
) -> Finished:
    """Collect a run that has ended, as far as asked for; what fails is in the result.

    trouble: what failed as the run was stopped (for the verdict); accounts: the last words of the
    pipeline of each node; check_all: look at every frame, however long that takes.  The caller is
    the `only_collector`.  May be repeated.
    """
    run_dir = record.path.parent
    done = Finished(run_dir)
    if collect:
        _collect(site, record, nodes, cleanup, done, console, flight)
    _judge(record, done, trouble, accounts or {}, console if check_all else None)
    if collect:
        _links(site, done)
        ended = _recording_ended(done)
        if not done.problems and cleanup and ended:
            _mark(done, Marker.RUN_COMPLETE, flight)
            done.complete = not done.problems
        record.set(collect_asked=None)  # it has come to its end, good or bad
    flight.note("finished", run=run_dir.name, verdict=done.verdict, problems=done.problems)
    return done


@contextmanager
def only_collector(run_dir: Path, console: Console) -> Iterator[str]:
    """Wait until nobody else collects this run, and keep others out; why that is in vain, or "".

    Another one is waited for as long as it shows signs of life.
    """
    life, since_s, told_s = signs_of_life(run_dir), time.monotonic(), -math.inf
    while True:
        with ExitStack() as held:
            try:
                free = held.enter_context(run_state.collect_lock(run_dir))
            except OSError as error:  # another one has found that it holds nothing, and removed it
                yield f"{run_dir}: {error.strerror}"
                return
            if free:
                yield ""
                return
        now_s, now, pid = (
            time.monotonic(),
            signs_of_life(run_dir),
            run_state.collector_pid(run_dir),
        )
        if now != life:
            life, since_s = now, now_s
        if now_s - since_s > COLLECTOR_S:
            yield (
                f"{run_dir.name} is being collected by pid {pid}, which has shown no sign of life"
                f" for {COLLECTOR_S:g} s: look what it does, end it"
            )
            return
        if now_s - told_s > TELL_S:
            progress = read_progress(run_dir)
            how_far = "" if progress is None else f" ({progress})"
            console.note(f"{run_dir.name} is being collected by pid {pid}{how_far}; waiting for it")
            told_s = now_s
        time.sleep(POLL_S)


def signs_of_life(run_dir: Path) -> tuple[object, ...]:
    """What changes while a run is being collected."""
    signs: list[object] = [run_state.collector_pid(run_dir)]
    for name in (PROGRESS_FILE, RUN_JSON):
        try:
            signs.append((run_dir / name).stat().st_mtime_ns)
        except OSError:
            signs.append(None)
    return tuple(signs)


def _collect(
    site: Site,
    record: RunRecord,
    nodes: Sequence[DaqNode],
    cleanup: bool,
    done: Finished,
    console: Console,
    flight: FlightRecorder,
) -> None:
    done.collected = True
    wanted = Collection(done.run_dir, site.obs, flight, cleanup)
    attempt: dict[str, Any] = {"unix": time.time(), "by": owner(), "cleanup": cleanup}
    unseen: list[str] = []
    try:
        with (
            record.act("collect", "collect the files") as act,
            NodeShells(nodes, site.obs, flight) as shells,
        ):
            done.nodes = _shown(wanted, shells, console)
            act.text = ", ".join(f"{one.node}: {one.files} files" for one in done.nodes)
        with record.act("collect", "cut torn files"):
            done.cuts = cut_torn_files(done.run_dir)
        unseen = _unseen(record, done)
    except (ObsError, OSError) as error:
        done.problems.append(str(error))
    for node in done.nodes:
        done.problems += [
            f"{node.node}: {path}: {why}" if path else f"{node.node}: {_bare(why, node.node)}"
            for path, why in node.failed
        ]
    done.problems += unseen
    attempt |= {
        "seconds": time.time() - attempt["unix"],
        "nodes": [asdict(node) for node in done.nodes],
        "cuts": [str(cut) for cut in done.cuts],
        "problems": list(done.problems),
    }
    record.set(collection=[*(record.document["collection"] or []), attempt])
    if not done.problems:
        _mark(done, Marker.COLLECT_COMPLETE, flight)
    done.problems += [
        f"{node.node}: is here, but could not be deleted there: {text}"
        for node in done.nodes
        for text in node.undeleted
    ]
    done.problems += [
        f"{node.node}: {path} is no file of a run and is still there: look what it is, move it away"
        for node in done.nodes
        for path in node.strange
    ]


def _unseen(record: RunRecord, done: Finished) -> list[str]:
    """What must be on a node and was not found there: a disk that is not mounted looks empty."""
    if run_state.is_marked(done.run_dir, Marker.RUN_COMPLETE):
        return []
    document = record.document
    names = {path.name for path in done.run_dir.iterdir()}
    here = {file.module for name in names if (file := parse_data_file(name)) is not None}
    failed = {node.node for node in done.nodes if node.failed}  # of these is told already
    asked = {node.node for node in done.nodes} - failed
    expected: dict[str, list[int]] = document["expected"]["nodes"]
    problems = [
        f"{node}: no data file of module {module} was found there: is the disk of module_{module}"
        " mounted?"
        if node in asked
        else f"{node}: no data file of module {module} is here, and the configs do not name that"
        " node: put it back into daq_config.json"
        for node, modules in expected.items()
        for module in modules
        if node not in failed and module not in here and _recorded(document, node, names)
    ]
    nodes = {module: node for node in asked for module in expected.get(node, ()) if module in here}
    problems += _unseen_frames(done.run_dir, nodes)
    last: dict[str, Any] = (document["collection"] or [{}])[-1]
    problems += [
        f"{node['node']}: {path}: was there before and is not now: is its disk mounted?"
        for node in last.get("nodes", ())
        for path, _ in node["failed"]
        if path and node["node"] in asked and Path(path).name not in names
    ]
    return problems


def _unseen_frames(run_dir: Path, nodes: Mapping[int, str]) -> list[str]:
    """Frames that were written and are not here, by module (and its node): another file has them.

    What a pipeline wrote in its last moments a power cut may have cost, and no disk has it: that is
    a matter of the verdict alone.
    """
    account = read_account(run_dir)
    here: Counter[tuple[int, str]] = Counter()
    for path, file in data_files(run_dir):
        frame_bytes = pff.PRODUCTS[file.product].frame_bytes
        here[file.module, file.product] += path.stat().st_size // frame_bytes
    problems = []
    for (module, product), counted in sorted(account.frames.items()):
        missing = counted - here[module, product]
        if module in nodes and missing > 0:
            missing_s = account.seconds.get(module, 0.0) * missing / counted
            if missing_s > POWER_CUT_S:
                problems.append(
                    f"{nodes[module]}: {missing} of {counted} {product} frames of module {module}"
                    f" were not found there ({duration_text(missing_s)} of them): is the disk of"
                    f" module_{module} mounted?"
                )
    return problems


def _recorded(document: dict[str, Any], node: str, names: Container[str]) -> bool:
    """Whether recording began on a node: then there is a file for each of its modules.

    names: of the files that are here; where the record was lost, a pipeline's words tell it.
    """
    if LOST in document:
        return stdout_name(node) in names
    return any(
        (step["phase"], step["what"], step["subject"], step["ok"]) == ("start", RECORD, node, True)
        for step in document["steps"]
    )


def _bare(text: str, node: str) -> str:
    return text.removeprefix(f"{node}: ")


def _shown(wanted: Collection, shells: NodeShells, console: Console) -> list[NodeResult]:
    """The collection, with its progress shown here, and to status.py."""
    every = [shells[node] for node in shells.nodes]
    with ThreadPoolExecutor(1, "collection") as pool:
        future = pool.submit(collection_of_runs.collect, wanted, every)
        try:
            with console.progress("collecting", PERCENT) as progress:
                begin_s, told_s, percent = time.monotonic(), 0.0, 0
                while not wait_for_futures([future], SHOW_S).done:
                    now_s = time.monotonic()
                    found = Progress(*wanted.meter.read(), now_s - begin_s)
                    write_progress(wanted.run_dir, found)
                    now_percent = int(PERCENT * found.fraction)
                    due = now_s - begin_s - told_s > LINES_S
                    for step in range(percent, now_percent):
                        progress.advance(str(found) if due and step == now_percent - 1 else "")
                    if due:
                        told_s = now_s - begin_s
                    percent = max(percent, now_percent)
        except BaseException:
            wanted.meter.cancelled.set()
            raise
        finally:
            remove_progress(wanted.run_dir)
        return future.result()


def _judge(
    record: RunRecord,
    done: Finished,
    trouble: Sequence[str],
    accounts: Mapping[str, Pipeline],
    console: Console | None,
) -> None:
    """The verdict, from what is here; of files that were left on the nodes by the accounts.

    console: every frame is looked at, and there it is shown how far that is.
    """
    collected = run_state.is_marked(done.run_dir, Marker.COLLECT_COMPLETE)
    left = None if done.collected or collected else accounts
    if left == {} and record.document.get("verdict") is not None:
        return  # stopped before, and judged then
    try:
        if console is None:
            done.summary = summarize(done.run_dir, left=left)
        else:
            with _check_shown(record, console) as progress:
                done.summary = summarize(done.run_dir, math.inf, left=left, progress=progress)
    except OSError as error:
        done.problems.append(f"{error.filename}: {error.strerror}")
        return
    missing = [*trouble, *done.problems]
    done.verdict, done.reasons = judge(record.document, done.summary, missing)
    record.set(
        summary=done.summary.document(),
        verdict={
            "word": str(done.verdict),
            "reasons": done.reasons,
            "checked": done.summary.checked,
            "trouble": [*trouble],
        },
    )


@contextmanager
def _check_shown(record: RunRecord, console: Console) -> Iterator[Callable[[float], None]]:
    """Shows what fraction of the frames was looked at, also to those who wait for this collector
    (`signs_of_life`).
    """
    percent, told_s = 0, time.monotonic()
    with console.progress("checking", PERCENT) as progress:

        def show(fraction: float) -> None:
            nonlocal percent, told_s
            while percent < int(PERCENT * fraction):
                percent += 1
                progress.advance("")
            if time.monotonic() - told_s > TELL_S:
                told_s = time.monotonic()
                record.set()

        yield show


def _links(site: Site, done: Finished) -> None:
    image, ph = (first_file(done.run_dir, names) for names in (pff.IMAGE_PRODUCTS, pff.PH_PRODUCTS))
    try:
        run_state.link_first_files(site.head_data_dir, done.run_dir.name, image, ph)
    except OSError as error:
        done.problems.append(f"{error.filename}: {error.strerror}")


def _recording_ended(done: Finished) -> bool:
    try:
        return run_state.read_marker(done.run_dir, Marker.RECORDING_ENDED) is not None
    except StateError as error:
        done.problems.append(str(error))
        return False


def _mark(done: Finished, marker: Marker, flight: FlightRecorder) -> None:
    try:
        run_state.write_marker(done.run_dir, marker)
        flight.note(marker.value, run=done.run_dir.name)
    except OSError as error:
        done.problems.append(f"{done.run_dir / marker}: {error.strerror}")
    except StateError as error:
        done.problems.append(str(error))

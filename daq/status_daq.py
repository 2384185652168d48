#!/usr/bin/env python3
"""Tell what this DAQ node does; prints one JSON document.

Nothing is changed, and nothing but the data directory itself has to be in order: what is wrong
is told in the document ("problems").

Python >= 3.8, standard library and pgrep alone.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import daq_facts
from daq_node import (
    DaqError,
    Document,
    Parser,
    RunState,
    StateError,
    call,
    describe,
    host_name,
    open_data_dir,
    read_run_state,
    run_argument,
)
from daq_process import (
    Pipeline,
    boot_id,
    find_pipelines,
    is_alive,
    read_pid_file,
    read_status,
)

EXAMPLE = """example:
  python3 status_daq.py --data_dir /data/panoseti
"""
TOTALS = {"packets": "received", "drops": "kernel_drops", "lost": "lost", "rejected": "rejected"}


def main(argv: Sequence[str]) -> Document:
    """The JSON document."""
    args = _parser().parse_args(argv)
    folder = open_data_dir(args.data_dir)
    problems: List[str] = []
    pipelines = _pipelines(problems)
    here = [found for found in pipelines if found.records_into(folder)]
    state = _state(problems, here)
    run = args.run or (here[0].run if here and here[0].run else state.run if state else None)
    before, begin = _sizes(run), time.monotonic()
    status = _pipeline_status(state, here)
    document: Document = {
        "host": host_name(),
        "boot_id": boot_id(),
        "data_dir": args.data_dir,
        "running": bool(here),
        "run": run,
        "owner": state.owner if state else None,
        "started_by": state.started_by if state else None,
        "started_unix": state.started_unix if state else None,
        "pid": here[0].pid if here else None,
        "processes": [found.document() for found in pipelines],
        **_accounts(status),
        "pipeline": status,
    }
    document["volumes"], document["unusable"] = volumes(problems)
    if here and args.growth_s > 0:
        time.sleep(max(0.0, begin + args.growth_s - time.monotonic()))
    document["files"] = _files(before, _sizes(run), time.monotonic() - begin if here else 0.0)
    document["problems"] = problems
    document["time_unix"] = time.time()
    return document


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data_dir", required=True, help="data directory of this node")
    add("--run", type=run_argument, help="tell the files of this run (default: the current one)")
    add("--growth_s", type=float, default=1.0,
        help="watch files that long for growth, 0 = do not (default: %(default)g)")  # fmt: skip
    return parser


def _pipelines(problems: List[str]) -> List[Pipeline]:
    try:
        return find_pipelines()
    except DaqError as error:
        problems.append(str(error))
        return []


def _state(problems: List[str], here: Sequence[Pipeline]) -> Optional[RunState]:
    """current_run_daq; what does not fit together becomes a problem."""
    state = identity = None
    try:
        state = read_run_state(Path())
        identity = read_pid_file(Path())
    except StateError as error:
        problems.append(str(error))
    except OSError as error:
        problems.append(describe(error))
    if state is not None and not here:
        gone = identity is not None and not is_alive(identity)
        rebooted = identity is not None and identity.boot_id != boot_id()
        why = "this node was rebooted" if rebooted else "its pipeline has died"
        problems.append(
            f"run {state.run} is not over, but {why if gone else 'nothing records'}: stop.py"
        )
    if here and state is None:
        problems.append(f"{here[0]} records, but no current_run_daq says for whom: stop.py")
    if here and state is not None and here[0].run != state.run:
        problems.append(f"{here[0]} does not record {state.run}, as current_run_daq says: stop.py")
    if len(here) > 1:
        problems.append(f"{len(here)} pipelines record into this directory: stop.py")
    return state


def _pipeline_status(state: Optional[RunState], here: Sequence[Pipeline]) -> Optional[Document]:
    """What the pipeline says of itself: the living one, or the last of the current run."""
    if here:
        return read_status(here[0].status, here[0].pid)
    if state is None:
        return None
    return read_status(Path(state.run) / daq_facts.status_name(state.daq_ip))


def _accounts(status: Optional[Document]) -> Document:
    """The numbers that are asked for most, from the pipeline's status."""
    totals = _mapping(status, "totals")
    products = [entry for entry in _list(status, "products") if isinstance(entry, dict)]
    result: Dict[str, Any] = {name: totals.get(key) for name, key in TOTALS.items()}
    result["frames"] = sum(int(entry.get("frames", 0)) for entry in products) if status else None
    result["partial"] = sum(int(entry.get("partial", 0)) for entry in products) if status else None
    result["quabos"] = _list(status, "quabos")
    result["bad_sources"] = _list(status, "rejected")
    result["errors"] = _list(status, "errors")
    return result


def _mapping(status: Optional[Document], key: str) -> Document:
    value = status.get(key) if status else None
    return value if isinstance(value, dict) else {}


def _list(status: Optional[Document], key: str) -> List[Any]:
    value = status.get(key) if status else None
    return value if isinstance(value, list) else []


def _sizes(run: Optional[str]) -> Dict[Tuple[int, str], int]:
    """Bytes of each data file of a run, by module and name."""
    sizes: Dict[Tuple[int, str], int] = {}
    if run is None:
        return sizes
    for module in _module_dirs():
        try:
            entries = list(os.scandir(daq_facts.module_run_dir(module, run)))
        except OSError:
            continue
        for entry in entries:
            if daq_facts.DATA_FILE.fullmatch(entry.name):
                try:
                    sizes[module, entry.name] = entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:
                    continue
    return sizes


def _files(
    before: Dict[Tuple[int, str], int], after: Dict[Tuple[int, str], int], seconds: float
) -> List[Document]:
    """Size and growth of each file that is not empty; growth None when nothing records."""
    result = []
    for (module, name), size in sorted(after.items()):
        found = daq_facts.DATA_FILE.fullmatch(name)
        if found is None or not size:
            continue
        growth = round((size - before.get((module, name), 0)) / seconds, 1) if seconds else None
        product, seqno = found["product"], int(found["seqno"])
        result.append({"module": module, "name": name, "product": product, "seqno": seqno,
                       "bytes": size, "bytes_per_s": growth})  # fmt: skip
    return result


def _module_dirs() -> List[int]:
    """Ids of the module directories (or links to such) that exist here, ascending."""
    found = (daq_facts.MODULE_DIR.fullmatch(name) for name in os.listdir("."))
    return sorted(int(match["id"]) for match in found if match and int(match["id"]) < 256)


def volumes(problems: List[str]) -> Tuple[List[Document], Dict[str, str]]:
    """The file systems data are recorded to: the data directory's, and those of module links.

    modules: ids with a directory of their own there; default: modules without one go there too.
    Second: modules whose directory, or link to one, cannot be used, and why.
    """
    by_device: Dict[int, Document] = {}
    unusable: Dict[str, str] = {}
    places: List[Tuple[Optional[int], str]] = [(None, ".")]
    places += [(module, daq_facts.module_dir(module)) for module in _module_dirs()]
    for module, place in places:
        try:
            status = os.stat(place)
            space = os.statvfs(place)
        except OSError as error:
            link = f" (a link to {os.readlink(place)})" if os.path.islink(place) else ""
            unusable[str(module)] = f"{os.path.abspath(place)}{link}: {error.strerror}"
            continue
        if not stat.S_ISDIR(status.st_mode):
            unusable[str(module)] = f"{os.path.abspath(place)} is not a directory"
            continue
        volume = by_device.setdefault(
            status.st_dev,
            {
                "path": os.path.realpath(place),
                "modules": [],
                "default": False,
                "free_bytes": space.f_bavail * space.f_frsize,
                "total_bytes": space.f_blocks * space.f_frsize,
                "read_only": bool(space.f_flag & os.ST_RDONLY),
            },
        )
        if module is None:
            volume["default"] = True
        else:
            volume["modules"].append(module)
    problems += unusable.values()
    unusable.pop("None", None)  # the data directory itself
    return list(by_device.values()), unusable


if __name__ == "__main__":
    sys.exit(call(main, sys.argv[1:]))

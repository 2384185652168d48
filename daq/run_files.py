#!/usr/bin/env python3
"""The files of runs on this DAQ node: list, hash, move, delete; prints one JSON document.

  runs     runs that have files here, and their head node where that is known
  list     files of a run: path, size, time of change, inode
  hash     SHA-256 of files named on stdin, at low priority
  delete   files named on stdin, if they are still what was listed; then emptied directories
  move     files named on stdin into <run>/, which is the head node's run directory, too
  place    device and inode of the data directory, and the content of a marker file in it

stdin of hash and move: {"files": [path, ...]}; of delete: {"files": [{"path", "bytes",
"mtime_ns", "inode"}, ...]} as list tells them.  A path is <run>/<name> or module_<id>/<run>/<name>
and is taken apart and checked; nothing else is ever touched, and nothing of a run that records.

Python >= 3.8, standard library and pgrep alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

from daq_files import (
    Place,
    be_modest,
    delete_file,
    hash_file,
    is_head_run_dir,
    list_run,
    list_runs,
    move_file,
    parse_path,
    refuse_while_recording,
    remove_emptied,
)
from daq_node import (
    DaqError,
    Document,
    Parser,
    RefusedError,
    UsageError,
    call,
    describe,
    open_data_dir,
    run_argument,
)

EXAMPLE = """example:
  python3 run_files.py list --data_dir /data/panoseti \\
      --run obs_Lick.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd
"""
INPUT_MAX_BYTES = 64 << 20
MARKER = re.compile(r"\.same_[0-9a-f]{32}")


def read_entries() -> List[Any]:
    """The "files" of the JSON document on stdin."""
    data = sys.stdin.buffer.read(INPUT_MAX_BYTES + 1)
    if len(data) > INPUT_MAX_BYTES:
        raise UsageError(f"stdin has more than {INPUT_MAX_BYTES} bytes")
    try:
        entries = json.loads(data)["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f'stdin is not {{"files": [...]}}: {error}')
    if not isinstance(entries, list):
        raise UsageError('stdin: "files" is not a list')
    return entries


def read_expected(run: str) -> Dict[Place, Document]:
    """The files to delete with what the head node saw of them."""
    expected = {}
    for entry in read_entries():
        numbers = isinstance(entry, dict) and all(
            type(entry.get(key)) is int for key in ("bytes", "mtime_ns", "inode")
        )
        if not numbers:
            raise UsageError(f"{entry!r}: path, bytes, mtime_ns and inode are needed")
        expected[parse_path(entry.get("path"), run)] = entry
    if any(place.module is None for place in expected) and is_head_run_dir(run):
        raise RefusedError(f"{run}/ is the head node's run directory; nothing in it is deleted")
    return expected


def each(places: Sequence[Place], act: Callable[[Place], Document]) -> Document:
    """Act on all files; those where it fails are told with their error and do not stop the rest."""
    files: List[Document] = []
    for place in places:
        try:
            files.append(act(place))
        except (DaqError, OSError) as error:
            text = describe(error) if isinstance(error, OSError) else str(error)
            files.append({"path": place.path, "error": text})
    return {"files": files}


def checked(document: Document) -> Document:
    """The document of each(); DaqError when something in it failed."""
    bad = [file for file in document["files"] if "error" in file]
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise DaqError(f"{bad[0]['path']}: {bad[0]['error']}{more}", **document)
    return document


def main(argv: Sequence[str]) -> Document:
    """Carry out one verb; the JSON document."""
    args = _parser().parse_args(argv)
    open_data_dir(args.data_dir)
    if args.verb == "place":
        return _place(args.marker)
    if args.verb == "runs":
        return {"runs": list_runs()}
    run: str = args.run
    if args.verb == "list":
        return list_run(run)
    if args.verb == "delete":
        expected = read_expected(run)
        refuse_while_recording(run)
        document = each(list(expected), lambda place: delete_file(place, expected[place]))
        return checked({**document, **remove_emptied(run, args.run_dir)})
    places = [parse_path(text, run) for text in read_entries()]
    if args.verb == "hash":
        be_modest()
        return checked(each(places, hash_file))
    refuse_while_recording(run)
    be_modest()  # another run may record, and what goes to another disk is copied and hashed
    document = each(places, move_file)
    return checked({**document, **remove_emptied(run, run_dir=False)})


def _place(marker: Optional[str]) -> Document:
    """Device and inode of the data directory, and what a marker file in it says."""
    status = os.stat(".")
    text: Optional[str] = None
    if marker is not None:
        if not MARKER.fullmatch(marker):
            raise UsageError(f"--marker {marker!r} is not one")
        try:
            text = Path(marker).read_text(errors="replace")[:200]
        except FileNotFoundError:
            pass
    return {"device": status.st_dev, "inode": status.st_ino, "marker": text}


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in ("runs", "place", "list", "hash", "delete", "move"):
        verb = verbs.add_parser(name)
        verb.add_argument("--data_dir", required=True, help="data directory of this node")
        if name == "place":
            verb.add_argument("--marker", help="name of a marker file")
        elif name != "runs":
            verb.add_argument("--run", required=True, type=run_argument, help="name of the run")
        if name == "delete":
            verb.add_argument("--run_dir", action="store_true", help="remove <run>/ if empty")
    return parser


if __name__ == "__main__":
    sys.exit(call(main, sys.argv[1:]))

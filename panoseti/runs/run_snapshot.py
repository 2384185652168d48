"""`run_watch.json` of the head node's data directory: what the watcher of a run saw last.

It is rewritten every 2 seconds (renamed into place, not fsynced: it is worth nothing after a power
cut), so that others need not ask the nodes again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoseti.nodes.node_documents import node_status, parsed
from panoseti.nodes.node_types import NodeStatus

SNAPSHOT = "run_watch.json"
VERSION = 1
# Older ones are not used.
FRESH_S = 6.0


@dataclass(frozen=True)
class SeenNode:
    """A node as the watcher saw it last; problem: why it cannot be asked, "" = it answers."""

    status: NodeStatus | None
    problem: str


@dataclass(frozen=True)
class Snapshot:
    """state: "waiting" before the run records, then "ok" or "alarm"; findings: what is wrong, in
    words; volumes: how long each disk lasts, in words.
    """

    run: str
    time_unix: float
    state: str
    findings: tuple[str, ...]
    volumes: tuple[str, ...]
    nodes: Mapping[str, SeenNode]


def snapshot_path(data_dir: Path) -> Path:
    """Where it is."""
    return data_dir / SNAPSHOT


def write_snapshot(data_dir: Path, document: Mapping[str, Any]) -> None:
    """Put a new one in place; OSError when that fails."""
    path = snapshot_path(data_dir)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps({"version": VERSION, **document}))
    temporary.replace(path)


def node_document(
    status: NodeStatus | None, asked_unix: float, answered_unix: float, problem: str
) -> dict[str, Any]:
    """A node in the document."""
    return {
        "asked_unix": asked_unix,
        "answered_unix": answered_unix,
        "problem": problem,
        "status": None if status is None else status.document,
    }


def read_snapshot(data_dir: Path, run: str, now_unix: float) -> Snapshot | None:
    """The snapshot of a run; None when there is none that is fresh and can be used."""
    try:
        document = json.loads(snapshot_path(data_dir).read_bytes())
        if document["version"] != VERSION or document["run"] != run:
            return None
        if not 0 <= now_unix - document["time_unix"] + 1 <= FRESH_S + 1:
            return None
        return Snapshot(
            run,
            float(document["time_unix"]),
            str(document["state"]),
            tuple(str(text) for text in document["findings"]),
            tuple(str(text) for text in document["volumes"]),
            {str(ip): _seen(entry) for ip, entry in document["nodes"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _seen(entry: Mapping[str, Any]) -> SeenNode:
    status = None
    if entry["status"] is not None:
        asked, answered = float(entry["asked_unix"]), float(entry["answered_unix"])
        status = parsed(lambda found: node_status(found, asked, answered), entry["status"])
    return SeenNode(status, str(entry["problem"]))

"""Whose a run is: the token that a start gives to the DAQ nodes, and the head node it belongs to.

A token is "<head node>-<random>".  A head node is a computer and its data directory, where
`run_name` says that a run is in progress; names of computers alone may be the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from daq.daq_facts import RUN_FILE, VERSION, check_time, head_of, utc_text
from panoseti.nodes.node_types import NodeStatus
from panoseti.runs.activities import Activity
from panoseti.state_files import StateError, read_json

MACHINE_ID = Path("/etc/machine-id")


def head_token(data_dir: Path) -> str:
    """What all tokens of the head node begin with that works in `data_dir`."""
    try:
        machine = MACHINE_ID.read_text().strip()
    except OSError:
        machine = ""
    words = "\0".join((machine, os.uname().nodename, str(data_dir.resolve())))
    return f"{hashlib.sha256(words.encode()).hexdigest()[:12]}-"


def new_token(data_dir: Path) -> str:
    """For a run that begins."""
    return head_token(data_dir) + secrets.token_hex(8)


def others_run(where: str, status: NodeStatus, token: str) -> str | None:
    """What the node `where` is doing for another head node than that of `token`; None = nothing.

    Its own state file says whose it is, also when its pipeline has died or it was rebooted: that
    run may go on there.
    """
    if _is_others(status.owner, token):
        text = f"{where}: records {status.run} of {status.whose}, another head node"
        return (
            text
            if status.running
            else text.replace(": records", ": belongs to", 1) + (", though nothing records there")
        )
    for process in status.processes:
        if _is_others(process.owner, token):
            return f"{where}: {process} of {process.whose}, another head node"
    return None


def others_pipeline(pipeline: Activity, token: str) -> str | None:
    """What a pipeline on this computer does for another head node than that of `token`; None =
    nothing, as far as is known.
    """
    state = _claim_on(pipeline.process)
    if not _is_others(state.get("owner"), token):
        return None
    whose = str(state.get("started_by") or "somebody unknown")
    with contextlib.suppress(ValueError):
        whose += f" since {utc_text(check_time(state.get('started_unix')))}"
    return f"{pipeline} records {state.get('run')} of {whose}, another head node"


def _claim_on(pipeline: psutil.Process) -> Mapping[str, Any]:
    """The state file of a DAQ node that tells of the run of a pipeline; empty = nobody's claim.

    It lies where the pipeline works; a launcher with privileges does not show where that is, but
    its plugin lies there, too.
    """
    try:
        words = pipeline.cmdline()
    except psutil.Error:
        return {}
    plugins = [Path(words[k + 1]).parent for k in range(len(words) - 1) if words[k] == "-p"]
    for folder in (Path(f"/proc/{pipeline.pid}/cwd"), *plugins):
        try:
            state = read_json(folder / RUN_FILE, VERSION)
        except (OSError, StateError):
            continue
        return state if f"RUNDIR={state.get('run')}" in words else {}
    return {}


def _is_others(owner: object, token: str) -> bool:
    return bool(owner) and head_of(str(owner)) != head_of(token)

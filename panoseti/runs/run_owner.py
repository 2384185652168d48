"""Whose a run is: the token that a start gives to the DAQ nodes, and the head node it belongs to.

A token is "<head node>-<random>".  A head node is a computer and its data directory, where
`run_name` says that a run is in progress; names of computers alone may be the same.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from daq.daq_facts import head_of
from panoseti.nodes.node_types import NodeStatus

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


def _is_others(owner: str | None, token: str) -> bool:
    return bool(owner) and head_of(str(owner)) != head_of(token)

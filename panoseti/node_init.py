"""A DAQ node made ready: the helpers and the pipeline in its data directory, tried there.

Raises RemoteError naming the node, the step, the reason and the remedy.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daq.daq_facts import HELPERS, LAUNCHER, PIPELINE_THREADS, PLUGIN
from panoseti.errors import ObsError
from panoseti.remote import Shell
from panoseti.site import DaqNode

REPO = Path(__file__).resolve().parent.parent
LOOK_S, COPY_S = 30.0, 120.0

# Runs on the node before anything of ours is there: versions, and digests of the files named.
_LOOK = """
import hashlib, json, os, shutil, sys
folder, names = sys.argv[1], sys.argv[2:]
made = not os.path.isdir(folder)
if made:
    os.mkdir(folder)
digests = {}
for name in names:
    try:
        with open(os.path.join(folder, name), "rb") as file:
            digests[name] = hashlib.sha256(file.read()).hexdigest()
    except FileNotFoundError:
        digests[name] = ""
print(json.dumps({"python": list(sys.version_info[:3]), "pgrep": shutil.which("pgrep"),
                  "writable": os.access(folder, os.W_OK), "made": made, "digests": digests}))
"""

# Takes {name: [mode, content in base64]} on stdin; each file appears whole under its name.
_COPY = """
import base64, hashlib, json, os, sys
folder, digests = sys.argv[1], {}
for name, (mode, text) in json.load(sys.stdin).items():
    path, part = os.path.join(folder, name), os.path.join(folder, "." + name + ".part")
    with open(part, "wb") as file:
        file.write(base64.b64decode(text))
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    with open(part, "rb") as file:
        digests[name] = hashlib.sha256(file.read()).hexdigest()
    os.rename(part, path)
print(json.dumps(digests))
"""


@dataclass(frozen=True)
class Prepared:
    """What init_node did: files that were copied, those that were right already."""

    copied: tuple[str, ...]
    kept: tuple[str, ...]
    made_data_dir: bool


def node_files(node: DaqNode) -> dict[str, tuple[Path, int]]:
    """Files a node needs in its data directory: name -> (here, mode).

    With a launcher of an installed HASHPIPE our own is not needed.
    """
    files = {name: (REPO / "daq" / name, 0o644) for name in HELPERS}
    files[PLUGIN] = (REPO / "hashpipe" / PLUGIN, 0o644)
    if node.hashpipe_dir is None:
        files[LAUNCHER] = (REPO / "hashpipe" / LAUNCHER, 0o755)
    return files


def init_node(shell: Shell) -> Prepared:
    """Bring helpers and pipeline on the node up to date, verified; only what differs is copied."""
    node = shell.node
    contents = {}
    for name, (path, mode) in node_files(node).items():
        try:
            contents[name] = (path.read_bytes(), mode)
        except OSError as error:
            raise ObsError(f"{path}: {error.strerror}; make build") from error
    wanted = {name: hashlib.sha256(data).hexdigest() for name, (data, _) in contents.items()}
    step = "look at its data directory"
    found = _look(shell, sorted(wanted), step)
    if tuple(found["python"]) < (3, 8):
        version = ".".join(map(str, found["python"]))
        raise shell.error(step, f"python3 there is {version}", "install Python 3.8 or newer")
    if not found["pgrep"]:
        raise shell.error(step, "pgrep is missing there", "install procps")
    if not found["writable"]:
        why = f"{node.data_dir} cannot be written by user {node.username}"
        raise shell.error(step, why, "correct its owner, or username in daq_config.json")
    differing = [name for name in sorted(wanted) if found["digests"][name] != wanted[name]]
    if differing:
        _copy(shell, {name: contents[name] for name in differing}, wanted)
    _try_pipeline(shell)
    kept = tuple(name for name in sorted(wanted) if name not in differing)
    return Prepared(tuple(differing), kept, bool(found["made"]))


def _look(shell: Shell, names: Sequence[str], step: str) -> dict[str, Any]:
    words = ["python3", "-c", _LOOK, shell.node.data_dir, *names]
    result = shell.run(words, LOOK_S, step=step)
    if result.code == 127:
        raise shell.error(step, "python3 is missing there", "install Python 3.8 or newer")
    try:
        if result.code:
            raise ValueError(result.last_words)
        found: dict[str, Any] = json.loads(result.out)
        return found
    except ValueError as error:
        raise shell.error(step, str(error), "correct data_dir in daq_config.json") from error


def _copy(
    shell: Shell, contents: Mapping[str, tuple[bytes, int]], wanted: Mapping[str, str]
) -> None:
    """Copy files into the data directory of the node; RemoteError unless all arrive whole."""
    step = "copy the helpers"
    texts = {
        name: (mode, base64.b64encode(data).decode()) for name, (data, mode) in contents.items()
    }
    words = ["python3", "-c", _COPY, shell.node.data_dir]
    result = shell.run(words, COPY_S, json.dumps(texts).encode(), step)
    try:
        arrived = json.loads(result.out) if result.code == 0 else {}
    except ValueError:
        arrived = {}
    wrong = [name for name in contents if arrived.get(name) != wanted[name]]
    if wrong:
        why = f"{', '.join(wrong)} did not arrive whole ({result.last_words})"
        raise shell.error(step, why, f"is there room in {shell.node.data_dir}?")


def _try_pipeline(shell: Shell) -> None:
    """The launcher must be able to load the plugin on that machine."""
    launcher = _launcher(shell.node)
    step = "try the pipeline"
    words = [launcher, "-p", _path(shell.node, PLUGIN), "-l"]
    result = shell.run(words, LOOK_S, step=step)
    listed = (result.out + result.err).split()
    if result.code or not all(name in listed for name in PIPELINE_THREADS):
        why = f"{launcher} cannot load {PLUGIN} there ({result.last_words})"
        raise shell.error(step, why, "make build on a machine of the same kind and release")


def _launcher(node: DaqNode) -> str:
    if node.hashpipe_dir is None:
        return _path(node, LAUNCHER)
    return os.path.join(node.hashpipe_dir, "bin", LAUNCHER)


def _path(node: DaqNode, name: str) -> str:
    return os.path.join(node.data_dir, name)

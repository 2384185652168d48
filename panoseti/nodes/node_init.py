"""A DAQ node made ready: the helpers and the pipeline in its data directory, tried there.

A key that may only record (daq/only_daq.py) copies nothing: whoever may replace programs may run
any.  Then what is there is only compared, and the message says what to copy by hand.

A launcher that is copied anew loses its file capability (setcap), which it needs to capture at an
interface; it gets it back where the user may do that, else the operator is told.

Raises RemoteError naming the node, the step, the reason and the remedy.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daq.daq_facts import HELPERS, LAUNCHER, PIPELINE_THREADS, PLUGIN
from panoseti.configs.site import DaqNode
from panoseti.errors import ObsError, RemoteError
from panoseti.nodes.capabilities import CAP_NET_RAW, has_capability, setcap_words
from panoseti.nodes.remote import Result, Shell
from panoseti.words import joined

REPO = Path(__file__).resolve().parents[2]
LOOK_S, COPY_S = 30.0, 120.0
RESTRICTED = "only_daq.py"

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
try:
    capabilities = os.getxattr(os.path.join(folder, "hashpipe"), "security.capability").hex()
except OSError:
    capabilities = ""
print(json.dumps({"python": list(sys.version_info[:3]), "pgrep": shutil.which("pgrep"),
                  "writable": os.access(folder, os.W_OK), "made": made, "digests": digests,
                  "root": os.geteuid() == 0, "capabilities": capabilities}))
"""

# Takes {name: [mode, content in base64]} on stdin; each file appears whole under its name, with
# the capabilities of the one before where the user may give them.
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
    try:
        os.setxattr(part, "security.capability", os.getxattr(path, "security.capability"))
    except OSError:
        pass  # there were none, or they are told to be gone
    os.rename(part, path)
print(json.dumps(digests))
"""


@dataclass(frozen=True)
class Prepared:
    """What init_node did: files that were copied, those that were right already.

    warnings: what the operator has to do on the node before it can record.
    """

    copied: tuple[str, ...]
    kept: tuple[str, ...]
    made_data_dir: bool
    warnings: tuple[str, ...] = ()


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
    found, restricted = _look(shell, sorted(wanted), step)
    if tuple(found["python"]) < (3, 8):
        version = ".".join(map(str, found["python"]))
        raise shell.error(step, f"python3 there is {version}", "install Python 3.8 or newer")
    if not found["pgrep"]:
        raise shell.error(step, "pgrep is missing there", "install procps")
    if not found["writable"]:
        why = f"{node.data_dir} cannot be written by user {node.username}"
        raise shell.error(step, why, "correct its owner, or username in daq_config.json")
    differing = [name for name in sorted(wanted) if found["digests"].get(name) != wanted[name]]
    warnings: tuple[str, ...] = ()
    if differing and restricted:
        raise _by_hand(shell, differing)
    if differing:
        _copy(shell, {name: contents[name] for name in differing}, wanted)
    _try_pipeline(shell)
    if node.hashpipe_dir is None:
        now = _look(shell, sorted(wanted), step)[0] if LAUNCHER in differing else found
        warnings = _capability_warnings(node, found, now)
    kept = tuple(name for name in sorted(wanted) if name not in differing)
    return Prepared(tuple(differing), kept, bool(found["made"]), warnings)


def _look(shell: Shell, names: Sequence[str], step: str) -> tuple[dict[str, Any], bool]:
    """What is on the node, and whether the key may do no more than record there."""
    own = shell.run([RESTRICTED, "software"], LOOK_S, step=step)
    if own.code == 0:  # an unrestricted key finds no such program
        return _found(shell, own, step), True
    words = ["python3", "-c", _LOOK, shell.node.data_dir, *names]
    return _found(shell, shell.run(words, LOOK_S, step=step), step), False


def _found(shell: Shell, result: Result, step: str) -> dict[str, Any]:
    if result.code == 127:
        raise shell.error(step, "python3 is missing there", "install Python 3.8 or newer")
    try:
        if result.code:
            raise ValueError(result.last_words)
        found: dict[str, Any] = json.loads(result.out)
        return found
    except ValueError as error:
        raise shell.error(step, str(error), "correct data_dir in daq_config.json") from error


def _by_hand(shell: Shell, names: Sequence[str]) -> RemoteError:
    """The key may not copy these; the error says who can, and how."""
    node, files = shell.node, node_files(shell.node)
    there = f"{node.username}@{node.ip_addr}:{node.data_dir}/"
    words = ["rsync", "-pts", *(str(files[name][0]) for name in names), there]
    if node.ssh_port != 22:
        words[2:2] = ["-e", f"ssh -p {node.ssh_port}"]
    why = f"its key may only record ({RESTRICTED}), and {joined(names, ', ')} there differ"
    return shell.error("copy the helpers", why, f"with another key: {shlex.join(words)}")


def _capability_warnings(
    node: DaqNode, before: Mapping[str, Any], now: Mapping[str, Any]
) -> tuple[str, ...]:
    """Of a launcher that has lost its capabilities, or lacks the one for its interface."""
    launcher = _launcher(node)
    had = str(before["capabilities"])
    if had and now["capabilities"] != had:
        why = f"{launcher} is copied anew and has lost its file capability"
        words = setcap_words(had)
    elif (
        not now["root"]
        and node.tuning.capture != "udp"
        and (node.binds_interface or node.tuning.capture == "packet")
        and not has_capability(str(now["capabilities"]), CAP_NET_RAW)
    ):
        why = f"{launcher} may not capture packets at {node.bindhost}"
        words = "cap_net_raw+ep"
    else:
        return ()
    command = shlex.join(["sudo", "setcap", words, launcher])
    return (f"{node.ip_addr}: {why}; type on that node: {command}",)


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
